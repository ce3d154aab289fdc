//! Pauses: whoever looks changes nothing, wherever that is.

use super::counted::counted;
use super::toy::Op;
use super::*;
use crate::session::drive::Phase;
use crate::session::replay::Target;

/// Replays `recorded` on `machine` with a pause at each of these targets.
fn replay_with_pauses(recorded: &Recorded, machine: &mut Machine, targets: &[Target]) -> Outcome {
    let recording = Recording::open(recorded.directory.path()).unwrap();
    let (host, _sender) = HostLoop::by_hand();
    let mut policy = Replay::new(recording.events(), recording.state(), host, machine);
    let (mut driver, mut console) = (Driver::default(), Console::quiet());
    for target in targets {
        policy.set_target(*target);
        assert_eq!(driver.run(machine, &mut policy, &mut console).unwrap(), Run::Paused, "{target:?}");
    }
    policy.set_target(Target::End);
    driver.run(machine, &mut policy, &mut console).unwrap();
    policy.outcome().unwrap().clone()
}

fn between(branches: u64, steps: u64) -> Target {
    Target::Position(Position { exit: 1, branches, steps })
}

#[test]
fn a_guest_that_crashes_behind_a_pause_ends_where_it_did() {
    let crashing = |seed| {
        let program = [Op::Out(0x80, 1), Op::Count, Op::IfEqual(1), Op::Count, Op::Count, Op::Crash];
        counted(&program, &[], seed)
    };
    let recorded = record(crashing(1), 0, None, type_slowly(b""));
    assert!(matches!(recorded.cause, EndCause::TripleFault { .. }));
    for seed in 2..5 {
        let targets = [between(0, 1), between(1, 0), between(1, 1)];
        let outcome = replay_with_pauses(&recorded, &mut crashing(seed), &targets);
        let Outcome::Complete(end) = outcome else { panic!("{outcome:?}") };
        assert_eq!(end.exits, 1);
    }
}

#[test]
fn a_pause_behind_a_sync_point_is_saved_with_it() {
    let program = [Op::Out(0x80, 1), Op::Count, Op::IfEqual(1), Op::Count, Op::Spin];
    let mut machine = counted(&program, &[], 1);
    let step = |machine: &mut Machine, branches| {
        let place = crate::engine::Progress { branches, steps: 0 };
        while machine.step(None, Some(place)).unwrap() != crate::machine::Step::Paused {}
    };
    machine.step(None, None).unwrap();
    let before = machine.save().unwrap();
    step(&mut machine, 1);
    let paused = machine.save().unwrap();
    assert_ne!(before, paused);
    let mut other = counted(&program, &[], 1);
    other.restore(paused.clone()).unwrap();
    assert_eq!(other.position(), machine.position());
    assert_eq!(other.save().unwrap()[0], paused[0]);
}

#[test]
fn a_sleeping_guest_that_is_where_it_is_wanted_sleeps_on() {
    let recorded = record(echo(), 0, Some(50_000_000), type_slowly(b"ab"));
    let mut machine = echo();
    let recording = Recording::open(recorded.directory.path()).unwrap();
    let (host, _sender) = HostLoop::by_hand();
    let mut policy = Replay::new(recording.events(), recording.state(), host, &machine);
    let (mut driver, mut console) = (Driver::default(), Console::quiet());
    policy.set_target(Target::Time(100_000));
    assert_eq!(driver.run(&mut machine, &mut policy, &mut console).unwrap(), Run::Paused);
    assert_eq!(driver.phase(), Phase::Idle);
    let (here, time) = (machine.position(), machine.guest_time());
    // As a branch does that begins here and is replayed to its start.
    for target in [Target::Position(here), Target::Time(time)] {
        policy.set_target(target);
        assert_eq!(driver.run(&mut machine, &mut policy, &mut console).unwrap(), Run::Paused);
        assert_eq!((driver.phase(), machine.position(), machine.guest_time()), (Phase::Idle, here, time));
    }
    policy.set_target(Target::End);
    driver.run(&mut machine, &mut policy, &mut console).unwrap();
    assert!(matches!(policy.outcome(), Some(Outcome::Complete(_))));
}
