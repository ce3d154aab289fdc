//! `doctor --selftest`: the demo recorded and replayed on this very host, as a report to send back.

use std::path::Path;

use anyhow::Context;
use scribe_log::EndCause;
use scribe_log::header::{Host, Pace};

use crate::engine::pmu;
use crate::engine::probe::{Check, Report, Status};
use crate::host::clock;
use crate::session::choice::Wish;
use crate::session::config::{GuestConfig, Moved};
use crate::session::console::Console;
use crate::session::files::DigestCache;
use crate::session::journal::Noting;
use crate::session::replay::{Outcome, describe};
use crate::session::start::{self, Connections, LiveReport, ReplayConfig, Target};

const REPLAYS: u32 = 10;
/// Half of the replays are kicked at intervals of so many microseconds.
const KICKS: (u64, u64) = (500, 10_000);
/// A host on which a replay differs cannot be trusted with any.
const FIX: &str = "Send this report to the project: it is either a bug or a processor that needs care.";

/// Records the demo in `image` twice and replays it; gives a check for each claim.
pub(super) fn run(image: &Path, report: &Report) -> anyhow::Result<Vec<Check>> {
    if report.fit_for_linux().is_err() {
        return Ok(vec![check(
            "selftest",
            Err("not run: this host's KVM cannot run Linux".into()),
            "A recording needs a working guest first.",
        )]);
    }
    let home = tempfile::tempdir_in(super::guest::scratch()).context("a folder for the self-test")?;
    let cache = DigestCache::new(home.path());
    let guest = GuestConfig {
        devices: Vec::new(),
        image: Some(image.to_owned()),
        kernel: None,
        initrd: None,
        append: None,
        platform: None,
        memory: 128 << 20,
        command: vec![b"/bin/demo".to_vec()],
        seed: [0x5c; 32],
        rtc: 1_767_225_600,
        pace: Pace::Max,
        digest_every: 65_536,
        engine: Wish::Kvm,
        cpu: None,
        sync_points: None,
        behaviour: None,
        counter: pmu::counter(),
        chaos: None,
    };
    let host = super::guest::facts(report.host.clone());
    let record = |name: &str| -> anyhow::Result<(LiveReport, f64)> {
        let begun = clock::monotonic_ns();
        let directory = home.path().join(name);
        let connections = Connections::none();
        let target =
            Target { directory: &directory, overwrite: false, store: None, noting: Noting::default() };
        let report =
            start::record(&guest, &cache, host.clone(), connections, &target, &mut Console::quiet())?;
        Ok((report, seconds_since(begun)))
    };
    const WHY: &str = "A guest boots, works with disk, signals and timers, and powers off.";
    let (first, seconds) = match record("a") {
        Ok(recorded) => recorded,
        Err(error) => return Ok(vec![check("record", Err(format!("{error:#}")), WHY)]),
    };
    let recorded = match &first.cause {
        EndCause::PowerOff { status: 0 } => {
            let bytes =
                first.recorded.as_ref().map_or(0, |summary| summary.sizes.header + summary.sizes.events);
            Ok(format!("the demo in {seconds:.1} s: {} exits, {bytes} bytes", first.exits))
        }
        other => Err(format!("the demo's guest {}", describe(other))),
    };
    record("b")?;
    let checks = vec![
        check("record", recorded, "A guest boots, works with disk, signals and timers, and powers off."),
        check(
            "same-twice",
            same(home.path())?,
            "The same image, seed and clock must give the same recording.",
        ),
        check(
            "replay",
            replays(home.path(), &cache, &host),
            "A replay must be the recording, bit for bit, each time.",
        ),
    ];
    Ok(checks)
}

fn check(name: &'static str, result: Result<String, String>, why: &'static str) -> Check {
    match result {
        Ok(found) => Check { name, status: Status::Ok, found, why, fix: String::new() },
        Err(found) => Check { name, status: Status::Fail, found, why, fix: FIX.into() },
    }
}

fn seconds_since(begun: u64) -> f64 {
    std::time::Duration::from_nanos(clock::monotonic_ns() - begun).as_secs_f64()
}

/// Compares the two recordings' files.
fn same(home: &Path) -> anyhow::Result<Result<String, String>> {
    for file in [scribe_log::HEADER_FILE, scribe_log::EVENTS_FILE] {
        let read = |name: &str| std::fs::read(home.join(name).join(file)).context("reading a recording back");
        if read("a")? != read("b")? {
            return Ok(Err(format!("two recordings differ in their file `{file}`")));
        }
    }
    Ok(Ok("two recordings are byte-identical".into()))
}

fn replays(home: &Path, cache: &DigestCache, host: &Host) -> Result<String, String> {
    let mut times = Vec::new();
    let mut last = String::new();
    for number in 1..=REPLAYS {
        let begun = clock::monotonic_ns();
        let perturb = (number % 2 == 0).then_some(KICKS);
        let config = ReplayConfig {
            snapshots: false,
            directory: &home.join("a"),
            moved: Moved::default(),
            engine: Wish::Kvm,
            behaviour: None,
            quiet: true,
            perturb,
            counter: pmu::counter(),
        };
        let scratch = super::guest::scratch();
        let report = start::replay(&config, cache, host, &scratch, &mut Console::quiet())
            .map_err(|error| format!("replay {number} of {REPLAYS}: {error}"))?;
        let Outcome::Complete(end) = &report.outcome else {
            return Err(format!("replay {number} of {REPLAYS} did not reach the end"));
        };
        times.push(seconds_since(begun));
        let ram = end.full.map_or(0, |full| full.ram);
        last = format!("{} exits, {} digests, RAM {ram:032x}", report.exits, report.checks);
    }
    times.sort_by(f64::total_cmp);
    Ok(format!(
        "{REPLAYS} of {REPLAYS} equal, half of them kicked; median {:.1} s; {last}",
        times[times.len() / 2]
    ))
}
