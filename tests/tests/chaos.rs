//! Chaos: interrupts and inputs that come late as a seed says. The seed alone makes the run, replays and snapshots know it,
//! and a race that is never lost without it is.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::fs::File;

use iced_x86::code_asm::*;
use scribe_log::header::{Chaos, Level};
use scribe_log::{Body, BookmarkOrigin, EndCause, Position};
use scribe_tests::bench::{Bench, Recorded};
use scribe_tests::each_engine;
use scribe_tests::guests;
use scribe_tests::lab::{self, Lab, MEMORY, figure, text};
use scribe_tests::places::{Seen, Theatre, Way};
use scribe_tests::tiny::{self, Emitted};
use scribe_vmm::session::config::GuestConfig;
use scribe_vmm::session::journal::Noting;
use scribe_vmm::session::replay::{Outcome, Target};
use scribe_vmm::session::start::Connections;

const FROM_THE_START: Way = Way { snapshots: false, perturb: None };
const FROM_SNAPSHOTS: Way = Way { snapshots: true, perturb: None };

/// The guest that echoes, under chaos.
fn shaken(bench: &Bench, seed: u64) -> GuestConfig {
    GuestConfig { chaos: Some(seed), ..bench.guest(guests::echo) }
}

/// Console input that ends the echo.
fn input(bench: &Bench) -> Connections {
    let mut bytes = b"the quick brown fox jumps over the lazy dog ".repeat(20);
    bytes.push(guests::END_OF_INPUT);
    Connections { input: Some(File::open(bench.file("input", &bytes)).unwrap()), ..Connections::none() }
}

fn record(bench: &Bench, name: &str, seed: u64) -> Recorded {
    let noting = Noting { level: Level::Devices, snapshot_every: Some(7_000_000), ..Noting::default() };
    bench.record_noting(name, &shaken(bench, seed), input(bench), noting)
}

/// Where interrupts were taken.
fn interrupts(bench: &Bench, name: &str) -> Vec<Position> {
    let events = bench.events(name).into_iter();
    events.filter(|event| matches!(event.body, Body::Interrupt { .. })).map(|event| event.position).collect()
}

fn a_seed_is_a_run() {
    let bench = Bench::new();
    let mut runs = BTreeSet::new();
    for seed in 1..6 {
        let (a, b) = (format!("a{seed}"), format!("b{seed}"));
        let recorded = record(&bench, &a, seed);
        assert!(matches!(recorded.report.cause, EndCause::PowerOff { .. }), "{:?}", recorded.report.cause);
        record(&bench, &b, seed);
        assert!(bench.bytes(&a) == bench.bytes(&b), "seed {seed}: two runs, two recordings");
        let header = bench.theatre(&a).recording().header().clone();
        assert_eq!(header.chaos, Some(Chaos { version: 1, seed }));
        runs.insert(interrupts(&bench, &a));
        bench.replay_equal(&a, &recorded, 4);
    }
    assert!(runs.len() >= 4, "{}", runs.len());
}

/// Computes, with ten instructions between two branches, until it has had 40 ticks of 200 us.
fn computing(a: &mut CodeAssembler) -> Emitted {
    let (mut handler, mut again) = (a.create_label(), a.create_label());
    tiny::gate(a, tiny::PIC_VECTORS, handler)?;
    tiny::load_idt(a)?;
    tiny::pic(a, &[0])?;
    tiny::pit_periodic(a, 238)?;
    a.sti()?;
    a.set_label(&mut again)?;
    for _ in 0..8 {
        a.inc(r8)?;
    }
    a.cmp(r9, 40)?;
    a.jb(again)?;
    tiny::power_off(a, 0)?;
    a.set_label(&mut handler)?;
    a.inc(r9)?;
    tiny::out8(a, 0x20, 0x20)?;
    a.iretq()
}

fn a_computing_guest_is_interrupted_anywhere() {
    let bench = Bench::new();
    let mut places = BTreeSet::new();
    let kernel = bench.guest(computing);
    for seed in 0..12 {
        let guest = GuestConfig { chaos: Some(seed), ..kernel.clone() };
        let name = format!("a{seed}");
        let recorded = bench.record_at(Level::Devices, &name, &guest, Connections::none());
        bench.replay_equal(&name, &recorded, 2);
        places.extend(interrupts(&bench, &name).iter().map(|at| at.steps));
    }
    assert!((0..6).all(|steps| places.contains(&steps)), "steps behind a branch: {places:?}");
}

fn without_a_seed_nothing_is_late_and_the_header_has_no_key() {
    let bench = Bench::new();
    let guest = bench.guest(guests::echo);
    bench.record_at(Level::Devices, "calm", &guest, input(&bench));
    let [header, _] = bench.bytes("calm");
    assert!(!String::from_utf8_lossy(&header).contains("chaos"));
    assert!(interrupts(&bench, "calm").iter().all(|at| at.steps == 0), "{:?}", interrupts(&bench, "calm"));
}

fn places_and_snapshots_know_what_is_late() {
    let bench = Bench::new();
    for seed in [3, 4, 5] {
        let name = format!("a{seed}");
        record(&bench, &name, seed);
        let theatre = bench.theatre(&name);
        let end = theatre.end();
        let mut targets: Vec<Target> =
            (1..12).map(|part| Target::Position(Position::exit(end.exits * part / 12))).collect();
        targets.dedup();
        let seen = theatre.see_all(&targets, FROM_THE_START);
        let snapshots = theatre.snapshots();
        assert!(snapshots.len() >= 2, "{snapshots:?}");
        for (number, (target, expected)) in targets.iter().zip(&seen).enumerate() {
            let perturb = (number % 2 == 1).then_some(scribe_tests::bench::KICKS);
            assert_eq!(theatre.see(*target, Way { perturb, ..FROM_SNAPSHOTS }), *expected, "{target:?}");
        }
        let times = (1..8).map(|part| Target::Time(end.guest_time * part / 8)).collect::<Vec<_>>();
        let seen = theatre.see_all(&times, FROM_THE_START);
        for (target, expected) in times.iter().zip(&seen) {
            assert_eq!(theatre.see(*target, FROM_SNAPSHOTS), *expected, "{target:?}");
        }
        let last = theatre.see(Target::End, FROM_SNAPSHOTS);
        assert_eq!(last, Seen::Ended(Outcome::Complete(end)));
    }
}

fn another_version_of_chaos_is_refused() {
    let bench = Bench::new();
    record(&bench, "a", 1);
    let path = bench.path("a").join("header");
    let mut header = bench.theatre("a").recording().header().clone();
    header.chaos = Some(Chaos { version: 2, seed: 1 });
    fs::write(path, header.encode().unwrap()).unwrap();
    let error = bench.replay("a", None).unwrap_err().to_string();
    assert!(error.contains("version 2 of chaos") || error.contains("link"), "{error}");
}

each_engine!(
    a_seed_is_a_run,
    without_a_seed_nothing_is_late_and_the_header_has_no_key,
    places_and_snapshots_know_what_is_late,
);
each_engine!(counted:
    a_seed_is_a_run,
    without_a_seed_nothing_is_late_and_the_header_has_no_key,
    places_and_snapshots_know_what_is_late,
    a_computing_guest_is_interrupted_anywhere,
    another_version_of_chaos_is_refused,
);

/// `chaos` on the demo image, with these options and this command.
fn hunt(lab: &Lab, options: &[&str], command: &[&str]) -> lab::Outcome {
    let image = lab::image();
    let fixed = ["chaos", "--image", text(&image), "--engine", "soft", MEMORY];
    lab.call(&[&fixed[..], options, &["--"], command].concat()).finish()
}

#[test]
#[cfg_attr(debug_assertions, ignore = "optimised only: scripts/test.sh")]
fn a_race_is_caught_and_replayed_to_the_failing_moment() {
    let Some(lab) = Lab::on_soft("a_race_is_caught_and_replayed_to_the_failing_moment") else { return };
    // A timer comes right behind a branch, and there is none between the read and the write.
    let image = lab::image();
    let fixed = ["--image", text(&image), "--engine", "soft", "--rtc", "2026-01-01", "--pace", "max", MEMORY];
    for seed in ["00", "01", "02", "ff"] {
        let calm = lab.call(&[&["run"], &fixed[..], &["--seed", seed, "--return", "--", "race"]].concat());
        calm.finish().ends_with(0).shows("none lost");
    }

    let found = hunt(&lab, &["--seeds", "1..20"], &["race"]).ends_with(7).shows("race: lost update");
    let console = found.console();
    let caught = console.lines().find(|line| line.contains("FAILED")).unwrap();
    let seed: u64 = caught.split([' ', ':']).nth(1).unwrap().parse().unwrap();
    assert_eq!(console.matches("FAILED").count(), 1, "it goes on behind the first: {console}");
    assert_eq!(console.matches(": passed, ").count(), usize::try_from(seed).unwrap() - 1, "{console}");
    let bug = lab.path("home/latest").canonicalize().unwrap(); // the hunt made it the latest
    assert!(console.contains("--to lost-update"), "{console}");
    let kept = fs::read_dir(lab.path("home")).unwrap().map(|entry| entry.unwrap().file_name());
    let kept: Vec<_> = kept.filter(|name| name.to_string_lossy().starts_with("demo-")).collect();
    assert_eq!(kept.len(), 1, "recordings of runs that passed are there: {kept:?}");

    // To the moment, from power-on and from a snapshot: the same state.
    let there = |options: &[&str]| {
        let to = ["replay", "--to", "lost-update", "--digest", "--quiet", text(&bug)];
        lab.call(&[&to[..], options].concat()).finish().ends_with(0).says("digest at ")
    };
    let first = there(&["--no-snapshots"]);
    for options in [&[][..], &[], &["--perturb", "500..10000"]] {
        assert_eq!(there(options).stderr, first.stderr);
    }
    lab.call(&["replay", text(&bug)]).finish().ends_with(0).shows("race: lost update");
    lab.call(&["info", text(&bug)]).finish().ends_with(0).shows(&format!("chaos      seed {seed}"));
    let mark = Theatre::at(
        bug.clone(),
        lab.path("."),
        lab.wish(),
        scribe_vmm::session::files::DigestCache::new(&lab.path("home")),
    );
    let bookmarks = mark.recording().bookmarks().unwrap();
    let at = bookmarks.find("lost-update").unwrap();
    assert_eq!(at.bookmark.origin, BookmarkOrigin::Guest);
    first.says(&format!("digest at {}", at.bookmark.position));

    // The same command finds the same, byte for byte; by `record` too.
    let one = seed.to_string();
    hunt(&lab, &["--seeds", &one, "-o", "again"], &["race"]).ends_with(7);
    let same = ["-o", "third", "--chaos", &one, "--seed", "00", "--", "race"];
    lab.call(&[&["record"], &fixed[..], &same].concat()).finish().ends_with(0).shows("lost update");
    for file in ["header", "events"] {
        let recorded = fs::read(bug.join(file)).unwrap();
        for again in [&format!("again/seed-{one}"), "third"] {
            assert!(fs::read(lab.path(again).join(file)).unwrap() == recorded, "{file} of {again}");
        }
    }
    // Without the folder in which it lies.
    let caught = caught.split("; ").next().unwrap();
    figure(
        "chaos",
        format!(
            "{caught}; replayed to its bookmark {} from power-on and from snapshots: equal",
            at.bookmark.position
        ),
    );
}

#[test]
#[cfg_attr(debug_assertions, ignore = "optimised only: scripts/test.sh")]
fn chaos_tells_failures_timeouts_and_successes_apart() {
    let Some(lab) = Lab::on_soft("chaos_tells_failures_timeouts_and_successes_apart") else { return };
    let all = hunt(&lab, &["--seeds", "1..4", "--all", "--jobs", "2", "--keep", "-o", "kept"], &["true"])
        .ends_with(0);
    all.shows("4 runs: 4 passed\n");
    for seed in 1..=4 {
        lab.call(&["verify", &format!("kept/seed-{seed}")]).finish().ends_with(0);
    }
    let limit = ["--seeds", "1..3", "--guest-time", "500ms"];
    let late = hunt(&lab, &limit, &["sleep", "10"])
        .ends_with(8)
        .shows("3 runs: 0 passed, 3 timed out (seeds 1, 2, 3)");
    assert_eq!(late.console().matches(": timeout, ").count(), 3);
    let failed =
        hunt(&lab, &["--seeds", "5..9", "--all"], &["sh", "-c", "echo it broke; exit 9"]).ends_with(7);
    let failed = failed.shows("5 runs: 0 passed, 5 failed (seeds 5, 6, 7, 8, 9)").shows("  | it broke");
    assert!(failed.console().contains("powered off with status 9"), "{}", failed.console());
    hunt(&lab, &["--seeds", "1"], &["/bin/panic"]).ends_with(7).shows("FAILED, panicked");
    hunt(&lab, &["--seeds", "1..2", "-o", "kept"], &["true"]).ends_with(1).says("seed 1");
    hunt(&lab, &["--seeds", "2..1"], &["true"]).ends_with(2);
    hunt(&lab, &["--seeds", "1", "--return"], &["true"]).ends_with(2);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "optimised only: scripts/test.sh")]
fn a_shaken_machine_goes_live_and_another_seed_takes_over() {
    let Some(lab) = Lab::on_soft("a_shaken_machine_goes_live_and_another_seed_takes_over") else { return };
    let demo = ["--chaos", "12", "--snapshot-every", "200ms", MEMORY, "--pace", "max", "--", "/bin/demo"];
    let recorded = lab.record("demo", &demo).shows("demo: ok");
    lab.replays_equal("demo", &recorded);
    let end = lab.end("demo");
    let middle = format!("{}ns", end.guest_time / 2);
    let branch = |name: &str, options: &[&str]| {
        let live = ["live", "demo", "--from", &middle, "--quiet", "--pace", "max", "-o", name];
        let left = lab.call(&[&live[..], options].concat()).finish().ends_with(0).shows("demo: ok");
        lab.replays_equal(name, &left);
        lab.recording(name).header().clone()
    };
    let same = branch("same", &[]);
    assert_eq!(same.chaos, Some(Chaos { version: 1, seed: 12 }));
    // Nothing came from outside, so it is what it was.
    assert_eq!(lab.end("same"), end);
    let other = branch("other", &["--chaos", "13"]);
    assert_eq!((other.chaos, other.time), (Some(Chaos { version: 1, seed: 13 }), same.time));
    assert_ne!(lab.end("other").registers, end.registers);
    lab.call(&["live", "other", "--from", "end", "--quiet"]).finish().ends_with(1);
}
