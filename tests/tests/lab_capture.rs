//! Whole machines: a guest that computes is not deaf where nothing counts, and what it was told is replayed.
#![allow(clippy::unwrap_used, reason = "tests, also outside of test functions")]

use scribe_log::{Body, Capture, EndCause, Event, Position};
use scribe_tests::lab::{KICKS, Lab, MEMORY, Outcome, count, figure};
use scribe_vmm::host::clock;

/// On either engine: the soft one counts, unless it is told not to.
const EXITS: [&str; 2] = ["--sync-points", "exit"];
/// The limit is only there to end a test that would otherwise wait for ever.
const LIMIT: [&str; 2] = ["--for", "150s"];

fn captures(events: &[Event]) -> Vec<(Position, Capture)> {
    let capture = |event: &Event| match &event.body {
        Body::Capture(capture) => Some((event.position, capture.clone())),
        _ => None,
    };
    events.iter().filter_map(capture).collect()
}

/// Replays recording `name` again and again, every other time under host kicks.
fn replays(lab: &Lab, name: &str, recorded: &Outcome) {
    let times = count("SCRIBE_TEST_CAPTURE_REPLAYS", 3);
    for time in 0..times {
        let options: &[&str] = if time % 2 == 1 { &KICKS } else { &[] };
        lab.replays(name, recorded, options);
    }
    figure(&format!("{name}: replays"), format!("{times} of {times} equal, every other one with host kicks"));
}

/// What the captures of recording `name` cost, and how much they put into the log.
fn tell(lab: &Lab, name: &str, recorded: &Outcome) -> Vec<(Position, Capture)> {
    let events = lab.events(name);
    let captures = captures(&events);
    let said = recorded.stderr.lines().find_map(|line| line.split_once(" captured sync point")).unwrap();
    let said = said.1.trim_start_matches(['s', ',', ' ']);
    figure(&format!("{name}: captured sync points"), format!("{}, {said}", captures.len()));
    let sizes = lab.recording(name).sizes();
    let computed: u64 = captures.iter().map(|(_, capture)| capture.nanoseconds).sum();
    let log = sizes.events * 1_000_000_000 / computed.max(1);
    let pages: u64 = captures.iter().map(|(_, capture)| capture.pages).sum();
    figure(
        &format!("{name}: log"),
        format!(
            "{} bytes, {log} for each second computed; {} pages a capture",
            sizes.events,
            pages / captures.len().max(1) as u64
        ),
    );
    assert!(!recorded.stderr.contains("it computes, and without"), "it was called deaf: {recorded}");
    captures
}

#[test]
fn the_console_answers_while_a_program_spins() {
    let Some(lab) = Lab::anywhere("the_console_answers_while_a_program_spins") else { return };
    let guest = [&[MEMORY, "--pace", "real"], &EXITS[..], &LIMIT].concat();
    let mut call = lab.recorder("user", &guest).typed().start();
    call.types(b"stty -echo; while :; do :; done &\necho rea''dy\n");
    call.waits_for("ready");
    let mut slowest = 0;
    for number in 1..=5 {
        clock::sleep_ns(300_000_000);
        let began = clock::monotonic_ns();
        call.types(format!("echo answer $(({number} * 111))\n").as_bytes());
        call.waits_for(&format!("answer {}", number * 111));
        slowest = slowest.max(clock::monotonic_ns() - began);
    }
    call.types(b"kill $!; exit 3\n");
    let recorded = call.finish().ends_with(0).says("powered off with status 3");
    assert_eq!(lab.end("user").cause, EndCause::PowerOff { status: 3 });
    figure("user: slowest of 5 answers", format!("{} ms", slowest / 1_000_000));

    let captures = tell(&lab, "user", &recorded);
    let events = lab.events("user");
    let inputs = events.iter().filter(|event| matches!(event.body, Body::ConsoleInput { .. }));
    let at_captures: Vec<Position> = inputs
        .map(|event| event.position)
        .filter(|position| captures.iter().any(|(at, _)| at == position))
        .collect();
    assert!(at_captures.len() >= 5, "inputs at {at_captures:?} only");
    let interrupted = captures.iter().filter(|(_, capture)| capture.interrupts > 0).count();
    figure(
        "user: inputs at captured sync points",
        format!("{}; interrupts on the way to {interrupted}", at_captures.len()),
    );
    replays(&lab, "user", &recorded);

    // Any of them is a place like others.
    let (place, _) = captures[captures.len() / 2];
    let place = place.to_string();
    lab.replay("user", &["--to", &place, "--quiet"]).ends_with(0);
    lab.call(&["snapshot", "add", "user", "--at", &place]).finish().ends_with(0);
    lab.call(&["verify", "user"]).finish().ends_with(0);
    // Where nothing had been typed for a while, and the program spins.
    let quiet = captures.partition_point(|(at, _)| *at < at_captures[3]) - 1;
    let from = captures[quiet].0.to_string();
    let live = ["live", "user", "--from", &from, "-o", "branch", "--pace", "real", "--for", "150s"];
    let mut branch = lab.call(&live).typed().start();
    branch.types(b"echo liv''ing; kill $!; exit 4\n");
    branch.waits_for("living");
    branch.finish().ends_with(0);
    assert_eq!(lab.end("branch").cause, EndCause::PowerOff { status: 4 });
    lab.replay("branch", &[]).ends_with(0).says("digests equal");

    let shown = lab.call(&["log", "user", "--kind", "capture"]).finish().ends_with(0);
    assert_eq!(shown.console().lines().count(), captures.len(), "{shown}");
    shown.shows("guest computed ");
}

/// For each line of its boot the kernel spins until jiffies has come so many ms far, or for 0.1 million turns a ms.
const SPINS: [&str; 2] = ["--append", "boot_delay=10 loglevel=7"];

#[test]
fn what_spins_in_the_kernel_until_the_next_tick_goes_on() {
    let Some(lab) = Lab::anywhere("what_spins_in_the_kernel_until_the_next_tick_goes_on") else { return };
    let guest = [&[MEMORY, "--capture-after", "10ms"], &EXITS[..], &SPINS, &LIMIT].concat();
    let recorded = lab.record("kernel", &[&guest[..], &["--", "echo", "ticked"]].concat());
    let recorded = recorded.shows("ticked");
    assert_eq!(lab.end("kernel").cause, EndCause::PowerOff { status: 0 });
    let captures = tell(&lab, "kernel", &recorded);
    assert!(captures.len() >= 5, "{} captures", captures.len());
    replays(&lab, "kernel", &recorded);
}
