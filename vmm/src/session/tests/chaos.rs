//! Chaos, over a made-up engine that counts and is kicked at random: the seed alone says where timers land, and what is
//! recorded is replayed.

use std::collections::BTreeSet;
use std::io::Write;

use super::toy::{self, Op};
use super::*;
use crate::session::hold::Hold;
use counted::computing;

const UART: u16 = 0x3f8;

/// `machine` under chaos.
fn shaken(mut machine: Machine, seed: u64) -> Machine {
    machine.shake(seed);
    machine
}

/// Records `machine`, whose console input comes from a file with `text`, up to a limit on guest time.
fn record_file(mut machine: Machine, text: &[u8], limit: u64) -> Recorded {
    let directory = tempfile::tempdir().unwrap();
    let writer = Writer::create(directory.path(), &header(), true).unwrap();
    let (host, _sender) = HostLoop::by_hand();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let holds = [0, 1].map(|number| Hold::new(machine.chaos_seed(), machine.position(), number));
    let inputs = Inputs { file: Some(file), holds, ..nothing_more(false, Some(limit)) };
    let mut policy = Live::new(Recorder::new(writer, 16, 0), host, inputs, 0);
    let cause = drive(&mut machine, &mut policy, &mut Console::quiet()).unwrap();
    drop(policy);
    Recorded { directory, cause }
}

fn inputs(recorded: &Recorded) -> Vec<Position> {
    let events = recorded.events().into_iter();
    events.filter(|e| matches!(e.body, Body::ConsoleInput { .. })).map(|e| e.position).collect()
}

fn rolling(recorded: &Recorded) -> u64 {
    match recorded.events().pop().unwrap().body {
        Body::End(end) => end.registers,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_seed_alone_says_where_timers_land() {
    let limit = 1_000_123;
    let run = |chaos, kicks| {
        record(shaken(computing(kicks), chaos), 16, Some(limit), |_| std::thread::spawn(|| {}))
    };
    let mut runs = BTreeSet::new();
    for chaos in 0..8 {
        let first = run(chaos, 11);
        for kicks in 12..15 {
            assert_eq!(run(chaos, kicks).events(), first.events(), "seed {chaos}");
            let replayed = first.replay(&mut shaken(computing(kicks), chaos));
            assert!(matches!(replayed, Ok(Outcome::Complete(_))), "seed {chaos}: {replayed:?}");
        }
        runs.insert(rolling(&first));
    }
    assert!(runs.len() > 5, "{runs:?}");
}

#[test]
fn another_seed_is_another_run() {
    let recorded = record(shaken(computing(1), 1), 16, Some(2_000_000), |_| std::thread::spawn(|| {}));
    for other in [2, 3] {
        let replayed = recorded.replay(&mut shaken(computing(1), other));
        assert!(matches!(replayed, Err(SessionError::Diverged(_))), "{replayed:?}");
    }
    assert!(matches!(recorded.replay(&mut computing(1)), Err(SessionError::Diverged(_))));
}

#[test]
fn held_input_of_a_file_comes_at_places_of_the_seed() {
    let text = [b'x'; 100];
    let limit = 5_000_000;
    let mut seen = BTreeSet::new();
    for chaos in 0..6 {
        let first = record_file(shaken(computing(1), chaos), &text, limit);
        let second = record_file(shaken(computing(2), chaos), &text, limit);
        assert_eq!(first.events(), second.events(), "seed {chaos}");
        let replayed = first.replay(&mut shaken(computing(3), chaos));
        assert!(matches!(replayed, Ok(Outcome::Complete(_))), "seed {chaos}: {replayed:?}");
        seen.insert(inputs(&first));
    }
    assert!(seen.len() > 4, "{seen:?}");
    assert!(seen.iter().flatten().any(|at| !at.is_exit()), "{seen:?}");
    let calm = record_file(computing(1), &text, limit);
    assert_eq!(inputs(&calm), [Position::START]);
}

/// Echoes as [`echo`] does, by a handler that takes all there is: when an interrupt is late, that can be several bytes, and
/// the line, which is an edge's, does not rise again before all are taken.
fn thorough_echo() -> Machine {
    let program = toy::echo_program();
    let again = program.len();
    let scratch = UART + 7;
    let handler = [
        [Op::In(UART), Op::OutAccumulator(UART), Op::OutAccumulator(scratch)].as_slice(),
        &[Op::In(UART + 5), Op::IfEqual(0x61), Op::Jump(again)],
        &[Op::In(scratch), Op::Out(0x20, 0x20), Op::Return],
    ]
    .concat();
    machine(&program, &handler)
}

#[test]
fn a_sleeping_guest_gets_what_is_held() {
    // Without a counter, and with no other reason to wake.
    for chaos in 0..6 {
        let guest = || shaken(thorough_echo(), chaos);
        let first = record_file(guest(), b"hello, worldq", 1_000_000_000);
        assert_eq!(first.cause, EndCause::PowerOff { status: 7 }, "seed {chaos}");
        assert_eq!(first.events(), record_file(guest(), b"hello, worldq", 1_000_000_000).events());
        let replayed = first.replay(&mut guest());
        assert!(matches!(replayed, Ok(Outcome::Complete(_))), "seed {chaos}: {replayed:?}");
    }
}

#[test]
fn typed_input_and_kicks_are_replayed_under_chaos() {
    crate::host::kick::prepare().unwrap();
    for chaos in 0..4 {
        let outside = counted::type_and_kick(b"hello, worldq");
        let recorded = record(shaken(computing(1), chaos), 64, None, outside);
        assert_eq!(recorded.cause, EndCause::PowerOff { status: 7 }, "seed {chaos}");
        for kicks in 2..5 {
            let replayed = recorded.replay(&mut shaken(computing(kicks), chaos));
            assert!(matches!(replayed, Ok(Outcome::Complete(_))), "seed {chaos}: {replayed:?}");
        }
    }
}

#[test]
fn typed_input_of_a_sleeping_guest_is_replayed_under_chaos() {
    for chaos in 0..3 {
        let recorded = record(shaken(thorough_echo(), chaos), 5, None, type_slowly(b"hello, worldq"));
        assert_eq!(recorded.cause, EndCause::PowerOff { status: 7 });
        assert!(matches!(recorded.replay(&mut shaken(thorough_echo(), chaos)), Ok(Outcome::Complete(_))));
    }
}

/// Never opens its window again: an interrupt that it has not taken stays.
#[test]
fn a_masked_interrupt_does_not_hang_the_machine() {
    let program = [
        [Op::Out(0x20, 0x11), Op::Out(0x21, 0x20), Op::Out(0x21, 0x04), Op::Out(0x21, 0x01)].as_slice(),
        &[Op::Out(0x21, 0xfe), Op::Out(0x43, 0x34), Op::Out(0x40, 250), Op::Out(0x40, 0)],
        &[Op::Count, Op::IfEqual(1), Op::Count, Op::Jump(8)],
    ]
    .concat();
    for chaos in 0..4 {
        let guest = |kicks| shaken(counted::counted(&program, &toy::echo_handler(), kicks), chaos);
        let recorded = record(guest(1), 0, Some(1_000_000), |_| std::thread::spawn(|| {}));
        assert_eq!(recorded.cause, EndCause::Stopped { reason: StopReason::GuestTime });
        assert!(matches!(recorded.replay(&mut guest(2)), Ok(Outcome::Complete(_))));
    }
}

#[test]
fn captured_sync_points_and_late_interrupts_go_together() {
    let guest = |kicks, chaos| shaken(captured::computing(kicks), chaos);
    for chaos in 0..4 {
        let recorded = captured::record(guest(1, chaos), 8, None, captured::types(b"hello, worldq"));
        assert_eq!(recorded.cause, EndCause::PowerOff { status: 7 }, "seed {chaos}");
        let captures = captured::captures(&recorded.events());
        assert!(captures.iter().any(|(_, capture)| capture.interrupts > 0), "none was taken on the way");
        for kicks in 2..5 {
            let replayed = recorded.replay(&mut guest(kicks, chaos));
            assert!(matches!(replayed, Ok(Outcome::Complete(_))), "seed {chaos}: {replayed:?}");
        }
    }
}
