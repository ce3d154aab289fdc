//! Further replays of an interval in which a replay has diverged.

use scribe_log::Position;

use super::toy::{self, Op};
use super::*;
use crate::session::divergence::Divergence;
use crate::session::divergence::passes::{Fresh, pass};
use crate::session::divergence::verdict::{End, Pass, Seen, Verdict, judge};

/// A replay of `recorded` on `machine` from its beginning.
fn fresh(recorded: &Recorded, machine: Machine) -> (Fresh, Sender<HostEvent>) {
    let recording = Recording::open(recorded.directory.path()).unwrap();
    let (host, sender) = HostLoop::by_hand();
    let policy = Replay::new(recording.events(), recording.state(), host, &machine);
    (Fresh { machine, driver: Driver::default(), policy, from_snapshot: false }, sender)
}

/// The divergence that a replay on this machine comes to.
fn diverges(recorded: &Recorded, mut machine: Machine) -> (Divergence, Pass) {
    let found = match recorded.replay(&mut machine).unwrap_err() {
        SessionError::Diverged(divergence) => *divergence,
        other => panic!("{other}"),
    };
    let end = End::Differs(Box::new(Seen::new(&mut machine, &found)));
    (found, Pass { from: Position::START, from_snapshot: false, end, trail: Vec::new() })
}

fn further(recorded: &Recorded, divergence: &Divergence, machines: [Machine; 2]) -> Vec<Pass> {
    machines.map(|machine| pass(fresh(recorded, machine).0, divergence).unwrap().0.unwrap()).into()
}

/// Changes what was typed: `b` to `B`.
fn tampered(recorded: &Recorded) -> Recorded {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(directory.path(), &header(), true).unwrap();
    for mut event in recorded.events() {
        if let Body::ConsoleInput { bytes } = &mut event.body {
            bytes.iter_mut().filter(|byte| **byte == b'b').for_each(|byte| *byte = b'B');
        }
        if matches!(event.body, Body::End(_)) {
            writer.close(&event).unwrap();
            break;
        }
        writer.append(&event).unwrap();
    }
    Recorded { directory, cause: recorded.cause.clone() }
}

#[test]
fn a_recording_that_was_tampered_with_is_the_recordings_fault() {
    let recorded = tampered(&record(echo(), 0, None, type_slowly(b"abcq")));
    let (divergence, first) = diverges(&recorded, echo());
    let further = further(&recorded, &divergence, [echo(), echo()]);
    assert_eq!(judge(&first, &further), Verdict::Recording { from: Position::START });
    let End::Differs(seen) = &further[0].end else { panic!("{further:?}") };
    assert_eq!(seen.found_at, divergence.found_at);
    assert!(!further[0].trail.is_empty() && further[0].trail == further[1].trail);
}

/// The echo guest on a processor that writes `noise` out, after as many exits as it takes to set up.
fn noisy(noise: u8) -> Machine {
    let mut program = toy::echo_program();
    program.insert(6, Op::Out(0x80, noise));
    for op in &mut program {
        if let Op::Jump(to) = op {
            *to += 1;
        }
    }
    machine(&program, &toy::echo_handler())
}

#[test]
fn an_engine_that_is_not_the_same_twice_is_unstable() {
    let recorded = record(noisy(0), 0, None, type_slowly(b"abcq"));
    let (divergence, first) = diverges(&recorded, noisy(1));
    let Verdict::Unstable { passes, first_at, .. } =
        judge(&first, &further(&recorded, &divergence, [noisy(2), noisy(3)]))
    else {
        panic!()
    };
    assert_eq!(first_at, Some(Position::exit(7)));
    assert_eq!(passes.len(), 3);
    // Now and then it goes well.
    let verdict = judge(&first, &further(&recorded, &divergence, [noisy(1), noisy(0)]));
    let Verdict::Unstable { passes, first_at, .. } = verdict else { panic!("{verdict:?}") };
    assert_eq!((first_at, passes[2].as_str()), (Some(Position::exit(7)), "no difference"));
    let verdict = judge(&first, &further(&recorded, &divergence, [noisy(1), noisy(1)]));
    assert!(matches!(verdict, Verdict::Recording { .. }), "{verdict:?}");
}

#[test]
fn a_further_replay_ends_behind_the_interval() {
    let recorded = record(echo(), 0, None, type_slowly(b"abcq"));
    let (mut divergence, _) = diverges(&recorded, noisy(0));
    divergence.found_at = Position::exit(10);
    let (pass, policy) = pass(fresh(&recorded, echo()).0, &divergence).unwrap();
    assert_eq!(pass.unwrap().end, End::Passed);
    assert_eq!(policy.outcome(), None, "it did not go on to the end");
}

#[test]
fn a_further_replay_can_be_stopped() {
    let recorded = record(echo(), 0, None, type_slowly(b"abcq"));
    let (divergence, _) = diverges(&recorded, noisy(0));
    let (fresh, sender) = fresh(&recorded, echo());
    sender.send(HostEvent::Stop(StopReason::Signal)).unwrap();
    assert_eq!(pass(fresh, &divergence).unwrap().0, None);
}
