//! Counted sync points, over a made-up engine that counts and is kicked at random: timers land on their branch, input and
//! stops come between two exits, and no kick is ever noticed.

use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

use scribe_log::header::TimeConstants;
use scribe_log::{Body, EndCause, Event, Position, StopReason};

use super::toy::{self, Op, Toy};
use super::{
    Console, HostLoop, Live, Outcome, Recorded, Recorder, Writer, drive, header, nothing_more, record,
};
use crate::host::events::HostEvent;
use crate::host::{clock, kick};
use crate::machine::Machine;
use crate::machine::bus::Devices;
use crate::machine::memory::GuestRam;
use crate::machine::platform::{NS_PER_BRANCH, NS_PER_EXIT};

const TIME: TimeConstants = TimeConstants { ns_per_branch: NS_PER_BRANCH, ns_per_exit: NS_PER_EXIT };
const UART: u16 = 0x3f8;

pub(super) fn counted(program: &[Op], handler: &[Op], seed: u64) -> Machine {
    let devices = Devices::new(Default::default(), Vec::new(), 0, None).unwrap();
    let ram = GuestRam::new(2 << 20).unwrap();
    let engine = Box::new(Toy::counting(program, handler, seed));
    Machine::new(engine, ram, devices, TIME, true).unwrap()
}

/// PIC, UART and PIT set up, the PIT with this count, both lines open.
fn prologue(count: u8) -> Vec<Op> {
    [
        (0x20, 0x11),
        (0x21, 0x20),
        (0x21, 0x04),
        (0x21, 0x01),
        (0x21, 0xee),
        (UART + 1, 1),
        (UART + 4, 0x08),
        (0x43, 0x34),
        (0x40, count),
        (0x40, 0),
    ]
    .map(|(port, value)| Op::Out(port, value))
    .to_vec()
}

/// Computes, without an exit of its own, until the handler has read a `q`.
pub(super) fn computing(seed: u64) -> Machine {
    let mut program = prologue(250);
    let again = program.len();
    program.extend([
        Op::Cli,
        Op::Count,
        Op::IfEqual(1), // never
        Op::Count,
        Op::Sti,
        Op::Fault(again + 6),
        Op::Count,
        Op::IfEqual(b'q'),
        Op::Jump(again + 10),
        Op::Jump(again),
        Op::Out32(0x5c0 + 0x14, 7),
        Op::Out32(0x5c0 + 0x18, 1),
    ]);
    counted(&program, &toy::echo_handler(), seed)
}

/// Sends `text`, and kicks for each byte, as the host's event loop does. The last byte again and again, until the guest has
/// ended: a timer's interrupt may have the handler read the port once more before the program has looked.
pub(super) fn type_and_kick(text: &'static [u8]) -> impl FnOnce(Sender<HostEvent>) -> JoinHandle<()> {
    kick::prepare().unwrap();
    let target = kick::Target::current();
    move |sender| {
        std::thread::spawn(move || {
            let last = text.last().into_iter().cycle();
            for byte in text.iter().chain(last) {
                clock::sleep_ns(1_000_000);
                if sender.send(HostEvent::Console(vec![*byte])).is_err() {
                    break;
                }
                target.kick();
            }
        })
    }
}

fn inputs(recorded: &Recorded) -> Vec<Position> {
    let events = recorded.events().into_iter();
    events.filter(|e| matches!(e.body, Body::ConsoleInput { .. })).map(|e| e.position).collect()
}

fn end(recorded: &Recorded) -> Event {
    recorded.events().pop().unwrap()
}

#[test]
fn input_comes_between_two_exits_and_is_replayed_there() {
    let recorded = record(computing(1), 64, None, type_and_kick(b"hello, worldq"));
    assert_eq!(recorded.cause, EndCause::PowerOff { status: 7 });
    assert!(inputs(&recorded).iter().any(|at| !at.is_exit()), "{:?}", inputs(&recorded));
    for seed in 2..7 {
        let replayed = recorded.replay(&mut computing(seed));
        assert!(matches!(replayed, Ok(Outcome::Complete(_))), "{replayed:?}");
    }
}

#[test]
fn timers_need_no_log_and_no_kick_moves_them() {
    let limit = 3_000_123;
    let run = |seed| record(computing(seed), 16, Some(limit), |_| std::thread::spawn(|| {}));
    let first = run(11);
    assert_eq!(first.cause, EndCause::Stopped { reason: StopReason::GuestTime });
    let last = end(&first);
    let Body::End(ended) = &last.body else { panic!("{last}") };
    // A period is 250 ticks of the PIT, and the handler makes three exits.
    assert!(ended.exits > 10 + 3 * 12, "{last}");
    assert!(last.position.branches > 0, "{last}");
    assert!((limit..limit + NS_PER_BRANCH).contains(&ended.guest_time), "{last}");
    for seed in 12..17 {
        assert_eq!(run(seed).events(), first.events());
        assert!(matches!(first.replay(&mut computing(seed)), Ok(Outcome::Complete(_))));
    }
}

/// Makes no exit at all once it has begun.
fn spinning(seed: u64) -> Machine {
    counted(&[Op::Out(0x80, 1), Op::Count, Op::Spin], &[], seed)
}

#[test]
fn a_guest_without_exits_is_stopped_where_it_is() {
    kick::prepare().unwrap();
    let target = kick::Target::current();
    let recorded = record(spinning(1), 0, None, move |sender| {
        std::thread::spawn(move || {
            clock::sleep_ns(3_000_000);
            sender.send(HostEvent::Stop(StopReason::User)).unwrap();
            target.kick();
        })
    });
    assert_eq!(recorded.cause, EndCause::Stopped { reason: StopReason::User });
    let last = end(&recorded);
    assert!(last.position.exit == 1 && last.position.branches > 0, "{last}");
    assert!(matches!(last.body, Body::End(ref end) if end.full.is_some()), "{last}");
    for seed in 2..5 {
        assert!(matches!(recorded.replay(&mut spinning(seed)), Ok(Outcome::Complete(_))));
    }
}

#[test]
fn a_guest_that_faults_for_ever_is_stopped_too() {
    let faulting = |seed| counted(&[Op::Out(0x80, 1), Op::Count, Op::Fault(2)], &[], seed);
    let recorded = record(faulting(1), 0, None, |sender| {
        sender.send(HostEvent::Stop(StopReason::HostTime)).unwrap();
        std::thread::spawn(|| {})
    });
    assert_eq!(end(&recorded).position, Position::START, "before it began");
    let directory = tempfile::tempdir().unwrap();
    let writer = Writer::create(directory.path(), &header(), true).unwrap();
    let (host, _sender) = HostLoop::by_hand();
    host.shared.force_stop.store(true, Ordering::Relaxed);
    let mut policy = Live::new(Recorder::new(writer, 0, 0), host, nothing_more(false, None), 0);
    let cause = drive(&mut faulting(2), &mut policy, &mut Console::quiet()).unwrap();
    assert_eq!(cause, EndCause::Stopped { reason: StopReason::Signal });
    drop(policy);
    let recorded = Recorded { directory, cause };
    assert_eq!(end(&recorded).position, Position::exit(1));
    assert!(matches!(recorded.replay(&mut faulting(3)), Ok(Outcome::Complete(_))));
}

#[test]
fn a_place_that_the_replay_does_not_come_to_is_a_divergence() {
    // The first of them may come before the guest has begun.
    let recorded = record(computing(1), 0, None, type_and_kick(b"aaaaaaaaq"));
    assert!(inputs(&recorded).iter().any(|at| !at.is_exit()), "{:?}", inputs(&recorded));
    let program = [prologue(250), vec![Op::Count; 8], vec![Op::Out32(0x5c0 + 0x18, 1)]].concat();
    let mut other = counted(&program, &toy::echo_handler(), 1);
    assert!(matches!(recorded.replay(&mut other), Err(super::SessionError::Diverged(_))));
}

#[test]
fn an_engine_that_does_not_count_has_no_counted_sync_points() {
    let devices = Devices::new(Default::default(), Vec::new(), 0, None).unwrap();
    let engine = Box::new(Toy::new(&[Op::Halt], &[]));
    assert!(Machine::new(engine, GuestRam::new(2 << 20).unwrap(), devices, TIME, true).is_err());
}
