//! Recordings that are damaged, changed or cut short: never taken for good ones.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use scribe_log::{Body, EVENTS_FILE, Event, HEADER_FILE, Header, Position, Recording, State, Writer};
use scribe_tests::bench::{Bench, KICKS, Recorded};
use scribe_tests::engines;
use scribe_tests::guests::{self, END_OF_INPUT};
use scribe_vmm::host::clock;
use scribe_vmm::session::SessionError;
use scribe_vmm::session::choice::Wish;
use scribe_vmm::session::divergence::Divergence;
use scribe_vmm::session::divergence::verdict::Verdict;
use scribe_vmm::session::replay::Outcome;
use scribe_vmm::session::start::{Connections, StartError};

/// A recording of `count` bytes of input to the echo guest.
fn echo(bench: &Bench, count: usize, digest_every: u64) -> Recorded {
    let mut guest = bench.guest(guests::echo);
    guest.digest_every = digest_every;
    let input = bench.file("input", &[&vec![b'e'; count][..], &[END_OF_INPUT]].concat());
    let connections = Connections { input: Some(File::open(input).unwrap()), ..Connections::none() };
    bench.record("a", &guest, connections)
}

fn no_flipped_byte_goes_unnoticed() {
    let bench = Bench::new();
    let recorded = echo(&bench, 20, 64);
    bench.replay_equal("a", &recorded, 2);
    for file in [HEADER_FILE, EVENTS_FILE] {
        let path = bench.path("a").join(file);
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            std::fs::write(&path, &bad).unwrap();
            match bench.replay("a", None) {
                Err(
                    StartError::Open(_)
                    | StartError::Session(SessionError::Read(_) | SessionError::Diverged(_)),
                ) => {}
                other => panic!("{file}, byte {at}: {other:?}"),
            }
        }
        for length in [0, 1, good.len() / 2, good.len() - 1] {
            std::fs::write(&path, &good[..length]).unwrap();
            assert!(bench.replay("a", None).is_err(), "{file}, first {length} bytes");
        }
        std::fs::write(&path, &good).unwrap();
    }
    bench.replay_equal("a", &recorded, 1);
}

/// Writes recording `a` again as `name`, with other events.
fn rewrite(bench: &Bench, name: &str, change: impl Fn(&mut Vec<Event>)) {
    let mut events = bench.events("a");
    change(&mut events);
    let header = Header::read(&bench.path("a").join(HEADER_FILE)).unwrap();
    let mut writer = Writer::create(&bench.path(name), &header, false).unwrap();
    let end = events.pop().unwrap();
    events.iter().for_each(|event| writer.append(event).unwrap());
    writer.close(&end).unwrap();
}

fn divergence(bench: &Bench, name: &str) -> Divergence {
    match bench.replay(name, Some(KICKS)) {
        Err(StartError::Session(SessionError::Diverged(divergence))) => *divergence,
        other => panic!("{name}: {other:?}"),
    }
}

fn a_changed_input_is_found_in_its_interval() {
    let bench = Bench::new();
    let recorded = echo(&bench, 700, 0);
    rewrite(&bench, "same", |_| {});
    assert!(bench.bytes("same") == bench.bytes("a"), "nothing was changed");
    bench.replay_equal("same", &recorded, 1);

    rewrite(&bench, "changed", |events| change_input(events));
    let found = divergence(&bench, "changed");
    let total = recorded.report.exits;
    assert!(total > 2100, "{total} exits");
    // Without digests of the whole state it is seen once it arrives.
    assert_eq!(found.agreed, Position::exit(total / 1024 * 1024));
    assert_eq!(found.found_at, Position::exit(total));
    assert!(found.what.contains("rolling digest"), "{}", found.what);
    assert_ne!(found.expected, found.found);
    assert!(found.exits.len() > 5 && !found.events.is_empty());
    let text = found.to_string();
    assert!(text.contains(&format!("between {} and {}", found.agreed, found.found_at)), "{text}");
    assert!(found.differences.is_empty(), "the same made-up host: {:?}", found.differences);
    assert_eq!(found.verdict, Some(Verdict::Recording { from: Position::START }), "{text}");
    assert!(found.causes[0].cause.starts_with("the recording was changed"), "{text}");
    let engine = if engines::current().wish() == Wish::Kvm { "kvm" } else { "soft" };
    let back = format!("{} --engine {engine} --to {}", bench.path("changed").display(), found.agreed);
    assert_eq!(found.commands[0].command, format!("scribe-vmm replay {back}"));
    assert!(found.guest.is_some_and(|guest| guest.registers.rip != 0), "{text}");
}

/// Another byte in the last input, three before its end.
fn change_input(events: &mut [Event]) {
    let inputs = events.iter_mut().filter_map(|event| match &mut event.body {
        Body::ConsoleInput { bytes } => Some(bytes),
        _ => None,
    });
    let bytes = inputs.last().unwrap();
    let at = bytes.len() - 3;
    bytes[at] ^= 1;
}

fn a_changed_input_that_has_not_arrived_is_found_in_the_devices() {
    let bench = Bench::new();
    echo(&bench, 100, 64);
    rewrite(&bench, "changed", |events| change_input(events));
    let found = divergence(&bench, "changed");
    assert_eq!((found.agreed, found.found_at), (Position::START, Position::exit(64)));
    assert!(matches!(found.verdict, Some(Verdict::Recording { .. })), "{found}");
    assert!(found.what.contains("devices"), "{}", found.what);
}

fn a_changed_digest_is_found_where_it_is() {
    let bench = Bench::new();
    echo(&bench, 100, 64);
    let third = Position::exit(3 * 64);
    type Change = fn(&mut Body);
    let changes: [(&str, Change); 5] = [
        ("RAM", |body| full(body).ram ^= 1),
        ("the CPU's state", |body| full(body).cpu ^= 1),
        ("the devices' state", |body| full(body).devices ^= 1),
        ("guest time", |body| full(body).guest_time += 1),
        ("the rolling digest", |body| {
            let Body::Checkpoint { registers, .. } = body else { panic!() };
            *registers ^= 1;
        }),
    ];
    for (number, (what, change)) in changes.into_iter().enumerate() {
        let name = format!("digest-{number}");
        rewrite(&bench, &name, |events| {
            let event = events.iter_mut().find(|event| event.position == third && is_checkpoint(event));
            change(&mut event.unwrap().body);
        });
        let found = divergence(&bench, &name);
        assert!(found.what.starts_with(what), "{what}: {}", found.what);
        assert_eq!((found.agreed, found.found_at), (Position::exit(2 * 64), third), "{what}");
        assert!(matches!(found.verdict, Some(Verdict::Recording { .. })), "{found}");
    }
}

fn is_checkpoint(event: &Event) -> bool {
    matches!(event.body, Body::Checkpoint { full: Some(_), .. })
}

fn full(body: &mut Body) -> &mut scribe_log::FullDigest {
    match body {
        Body::Checkpoint { full: Some(full), .. } => full,
        other => panic!("{other:?}"),
    }
}

fn events_that_do_not_happen_are_a_divergence() {
    let bench = Bench::new();
    echo(&bench, 100, 64);
    let at =
        |events: &[Event]| events.iter().position(|event| event.position == Position::exit(128)).unwrap();
    rewrite(&bench, "bookmark", |events| {
        let index = at(events);
        events.insert(index, Event::new(Position::exit(128), Body::Bookmark { name: "not set".into() }));
    });
    assert_eq!(divergence(&bench, "bookmark").what, "a bookmark");
    rewrite(&bench, "early-end", |events| {
        let mut end = events.pop().unwrap();
        events.truncate(at(events) + 1);
        end.position = Position::exit(150);
        events.push(end);
    });
    let found = divergence(&bench, "early-end");
    assert!(found.found_at > Position::exit(150), "{found}");
    rewrite(&bench, "late-end", |events| {
        let end = events.last_mut().unwrap();
        end.position.exit += 1;
    });
    assert_eq!(divergence(&bench, "late-end").what, "the end of the guest");
    rewrite(&bench, "other-end", |events| match &mut events.last_mut().unwrap().body {
        Body::End(end) => end.cause = scribe_log::EndCause::PowerOff { status: 1 },
        other => panic!("{other:?}"),
    });
    assert_eq!(divergence(&bench, "other-end").what, "the end of the guest");
}

const CHILD: &str = "SCRIBE_TESTS_RECORDING";

/// Records a guest that never ends into the folder that the environment names.
#[test]
#[ignore = "started by a_killed_recorder_leaves_what_it_sealed"]
fn records_for_ever() {
    let Some(directory) = std::env::var_os(CHILD) else { return };
    engines::enter();
    let bench = Bench::new();
    let guest = scribe_tests::bench::config(PathBuf::from(&directory).join("kernel"));
    bench.record(PathBuf::from(directory).join("a").to_str().unwrap(), &guest, Connections::none());
}

fn a_killed_recorder_leaves_what_it_sealed() {
    let bench = Bench::new();
    bench.guest(|a| guests::ticks(a, u32::MAX));
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "records_for_ever", "--ignored", "--test-threads", "1"])
        .env(CHILD, bench.path(""))
        .envs([engines::environment()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let sealed = || Recording::open(&bench.path("a")).ok().filter(|recording| recording.sizes().events > 0);
    let running = loop {
        assert!(child.try_wait().unwrap().is_none(), "the recorder ended by itself");
        match sealed() {
            Some(recording) => break recording,
            None => clock::sleep_ns(5_000_000),
        }
    };
    assert_eq!(running.state(), State::Running);
    let early = bench.replay("a", None).unwrap();
    assert!(matches!(early.report.outcome, Outcome::SealedEnd(_)), "{:?}", early.report.outcome);
    child.kill().unwrap();
    child.wait().unwrap();
    let recording = Recording::open(&bench.path("a")).unwrap();
    assert_eq!(recording.state(), State::Crashed);
    let last = recording.last().unwrap().position;
    assert!(last > Position::START);
    for perturb in [None, Some(KICKS)] {
        let replayed = bench.replay("a", perturb).unwrap();
        assert_eq!(replayed.report.outcome, Outcome::SealedEnd(last));
        assert_eq!(replayed.report.exits, last.exit);
        assert!(replayed.report.checks >= 1);
    }
}

scribe_tests::each_engine!(
    no_flipped_byte_goes_unnoticed,
    a_changed_input_is_found_in_its_interval,
    a_changed_input_that_has_not_arrived_is_found_in_the_devices,
    a_changed_digest_is_found_where_it_is,
    events_that_do_not_happen_are_a_divergence,
    a_killed_recorder_leaves_what_it_sealed,
);

scribe_tests::each_engine!(
    counted:
    no_flipped_byte_goes_unnoticed,
    a_changed_input_is_found_in_its_interval,
    a_changed_input_that_has_not_arrived_is_found_in_the_devices,
    a_changed_digest_is_found_where_it_is,
    events_that_do_not_happen_are_a_divergence,
    a_killed_recorder_leaves_what_it_sealed,
);
