//! `scribe-vmm chaos`: the same command under many seeds, until one makes it fail.

mod outcome;
mod report;

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::Context;
use clap::Args;
use scribe_log::header::{Engine as EngineName, Host};

use self::outcome::{Outcome, Tail, Verdict};
use self::report::Report;
use super::exit::{self, Failure};
use super::guest::{self, GuestArgs, LiveArgs, RecorderArgs};
use super::parse;
use crate::host::signals;
use crate::session::choice::{SyncPoints, Wish};
use crate::session::config::{self, GuestConfig};
use crate::session::console::Console;
use crate::session::files::DigestCache;
use crate::session::journal::Noting;
use crate::session::start::{self, Target};

/// Record a command once for each seed, interrupts and inputs late as the seed says, until it fails
///
/// A run fails if the command's status is not 0 or the guest crashes; one that a limit ends (--for, --guest-time,
/// --max-silence) is a timeout. Recordings of runs that pass are deleted. Exit codes: 0 all passed, 7 a run failed, 8 none
/// failed but some were timeouts, 1 an error.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  scribe-vmm chaos --seeds 1..20 --image demo.img -- race\n  \
                        scribe-vmm chaos --seeds 1..500 --all --jobs 8 --guest-time 30s --image demo.img -- ./test\n  \
                        scribe-vmm chaos --seeds 17 --keep --image demo.img -- race")]
pub(super) struct ChaosArgs {
    /// Seeds: the first and the last, or one
    #[arg(long, value_name = "A..B", value_parser = parse::seeds)]
    seeds: (u64, u64),
    /// Go on with the other seeds when one has made it fail
    #[arg(long)]
    all: bool,
    /// Keep the recordings of runs that pass, too
    #[arg(long)]
    keep: bool,
    /// Runs at the same time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    jobs: u8,
    /// Directory for the recordings, as seed-N [default: IMAGE-N below $SCRIBE_VMM_HOME or ~/.local/share/scribe-vmm]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Replace recordings that are already there
    #[arg(long)]
    overwrite: bool,
    /// Exits between two digests of RAM; 0: one at the end only
    #[arg(long, value_name = "N", default_value_t = 65_536)]
    digest_every: u64,
    #[command(flatten)]
    recorder: RecorderArgs,
    #[command(flatten)]
    guest: GuestArgs,
}

/// What all runs have in common.
struct Hunt<'a> {
    guest: GuestConfig,
    live: LiveArgs,
    store: scribe_log::Store,
    host: Host,
    /// for names in the store
    image: PathBuf,
    noting: Noting,
    args: Options<'a>,
}

/// Of the options, what a run needs.
struct Options<'a> {
    output: Option<&'a Path>,
    overwrite: bool,
    keep: bool,
}

/// Which seeds are still to come, and what has come of those before.
struct Progress {
    next: Option<u64>,
    last: u64,
    all: bool,
    running: usize,
    report: Report,
}

pub(super) fn run(mut args: ChaosArgs) -> Result<u8, Failure> {
    if args.guest.live.return_status {
        let text = "--return says how one guest ended; chaos has many, and its own exit codes";
        return Err(Failure::new(exit::USAGE, anyhow::Error::msg(text)));
    }
    args.guest.fix();
    let live = args.guest.live.clone();
    let connections = live.connect_apart()?; // refused before anything begins
    let pace = live.pace_apart();
    let mut prepared = args.guest.prepare_with(args.digest_every, connections, pace)?;
    // Told once, and the image's digest is known before several runs ask for it.
    let (header, _, choice) = config::describe(&prepared.guest, &prepared.cache, Host::default())
        .map_err(start::StartError::from)?;
    choice.tell();
    prepared.guest.engine = match header.engine {
        EngineName::Kvm => Wish::Kvm,
        EngineName::Soft => Wish::Soft,
    };
    if choice.sync_points == SyncPoints::Exit {
        say!(
            "without counted sync points interrupts can be late at exits only, not between two instructions"
        );
    }
    start::prepare_process()?;
    let (first, last) = args.seeds;
    let image = prepared.guest.image.clone().or_else(|| prepared.guest.kernel.clone()).unwrap_or_default();
    let hunt = Hunt {
        guest: prepared.guest,
        live,
        store: prepared.store,
        host: prepared.host,
        image,
        noting: args.recorder.noting(),
        args: Options { output: args.output.as_deref(), overwrite: args.overwrite, keep: args.keep },
    };
    let report = Report::new((last - first).saturating_add(1));
    let progress = Mutex::new(Progress { next: Some(first), last, all: args.all, running: 0, report });
    std::thread::scope(|scope| {
        for _ in 0..args.jobs {
            scope.spawn(|| work(&hunt, &progress));
        }
    });
    let report = progress.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).report;
    report.finish(&hunt.store)
}

/// Runs seed after seed until there are no more.
fn work(hunt: &Hunt<'_>, progress: &Mutex<Progress>) {
    loop {
        let seed = begin(&mut lock(progress)); // unlocked again while it runs
        let Some(seed) = seed else { return };
        let result = hunt.run(seed);
        end(&mut lock(progress), seed, result);
    }
}

fn lock(progress: &Mutex<Progress>) -> std::sync::MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn begin(progress: &mut Progress) -> Option<u64> {
    let seed = progress.next?;
    progress.next = seed.checked_add(1).filter(|next| *next <= progress.last);
    progress.running += 1;
    Some(seed)
}

fn end(progress: &mut Progress, seed: u64, result: Result<Outcome, Failure>) {
    progress.running -= 1;
    let interrupted = matches!(&result, Ok(outcome) if outcome.verdict == Verdict::Interrupted);
    let failed = matches!(&result, Ok(outcome) if outcome.verdict == Verdict::Failed);
    if interrupted || result.is_err() || (failed && !progress.all) {
        progress.next = None;
    }
    if interrupted && progress.running > 0 {
        signals::pass_on();
    }
    progress.report.add(seed, result);
}

impl Hunt<'_> {
    /// One run.
    fn run(&self, seed: u64) -> Result<Outcome, Failure> {
        let guest = GuestConfig { chaos: Some(seed), ..self.guest.clone() };
        let connections = self.live.connect_apart()?;
        let (directory, overwrite) = match self.args.output {
            Some(output) => (output.join(format!("seed-{seed}")), self.args.overwrite),
            None => (self.store.reserve(&self.image)?, true),
        };
        let target = Target { directory: &directory, overwrite, store: None, noting: self.noting };
        let tail = Tail::default();
        let mut console = Console::to(Box::new(tail.clone()));
        let cache = DigestCache::new(self.store.home());
        let host = self.host.clone();
        let report = match start::record(&guest, &cache, host, connections, &target, &mut console) {
            Ok(report) => report,
            Err(error) => {
                // Made for a recording that never began; only an empty directory goes.
                let _ = std::fs::remove_dir(&directory);
                return Err(error.into());
            }
        };
        drop(console);
        let verdict = Verdict::of(&report.cause);
        let kept = verdict != Verdict::Passed || self.args.keep;
        if !kept {
            let what = || format!("{}: cannot be removed", guest::show(&directory));
            scribe_log::remove_recording(&directory).with_context(what)?;
        }
        Ok(Outcome::new(verdict, &report, kept.then_some(directory), tail.take()))
    }
}
