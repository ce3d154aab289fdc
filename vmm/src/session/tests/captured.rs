//! Captured sync points, over a made-up engine that does not count: a guest that makes no exits gets time and input, and
//! replays come to the same without executing the way.

use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

use scribe_log::{Body, Capture, CapturePages, EndCause, Event, Position, Recording, StopReason};

use super::super::drive::{Driver, Run, Stand};
use super::super::journal::NoJournal;
use super::super::replay::Target;
use super::toy::{self, Op, Toy};
use super::{
    Captures, Console, HostLoop, Inputs, Live, Machine, Outcome, Recorded, Recorder, Replay, SessionError,
    Wish, Writer, drive, header, nothing_more,
};
use crate::host::clock;
use crate::host::events::HostEvent;
use crate::machine::bus::Devices;
use crate::machine::capture::CaptureError;
use crate::machine::memory::GuestRam;
use crate::machine::platform::Platform;
use crate::machine::time::WITHOUT_COUNTER;

const UART: u16 = 0x3f8;
const MILLISECOND: u64 = 1_000_000;

fn storing(program: &[Op], handler: &[Op], seed: u64) -> Machine {
    let devices = Devices::new(Platform::Pc1, Vec::new(), 0, None).unwrap();
    let ram = GuestRam::new(2 << 20).unwrap();
    let engine = Box::new(Toy::storing(program, handler, &ram, seed));
    Machine::new(engine, ram, devices, WITHOUT_COUNTER, false).unwrap()
}

/// PIC, UART and PIT set up, both lines open, the timer's period about 1.7 ms.
fn prologue() -> Vec<Op> {
    let setup = [
        (0x20, 0x11),
        (0x21, 0x20),
        (0x21, 0x04),
        (0x21, 0x01),
        (0x21, 0xee),
        (UART + 1, 1),
        (UART + 4, 0x08),
        (0x43, 0x34),
        (0x40, 0),
        (0x40, 8),
    ];
    let setup = setup.map(|(port, value)| Op::Out(port, value));
    [&setup[..], &[Op::Out32(0x5c0 + 0x10, 7)]].concat() // and a clock page
}

/// Computes and writes to RAM, without an exit of its own, until the handler has read a `q`. Interrupts are off for most of
/// the time, so they are taken on the way. The handler computes too before it makes an exit.
pub(super) fn computing(seed: u64) -> Machine {
    let mut program = prologue();
    let again = program.len();
    program.extend([Op::Cli, Op::Count, Op::Keep]);
    program.extend([Op::Count; 30]);
    program.extend([Op::Sti, Op::Count, Op::IfEqual(b'q')]);
    program.extend([Op::Jump(again + 38), Op::Jump(again)]);
    program.extend([Op::Out32(0x5c0 + 0x14, 7), Op::Out32(0x5c0 + 0x18, 1)]);
    let handler = [&[Op::Linger][..], &[Op::Count; 40], &[Op::Keep], &toy::echo_handler()].concat();
    storing(&program, &handler, seed)
}

fn captured_inputs(after: u64, limit: Option<u64>) -> Inputs {
    let captures = Captures::at_any_cost(Wish { after, always: true });
    Inputs { captures, ..nothing_more(true, limit) }
}

pub(super) fn record(
    mut machine: Machine,
    digest_every: u64,
    limit: Option<u64>,
    outside: impl FnOnce(Sender<HostEvent>) -> JoinHandle<()>,
) -> Recorded {
    let directory = tempfile::tempdir().unwrap();
    let writer = Writer::create(directory.path(), &header(), true).unwrap();
    let (host, sender) = HostLoop::by_hand();
    let _alive = sender.clone();
    let thread = outside(sender);
    let recorder = Recorder::new(writer, digest_every, 0);
    let mut policy = Live::new(recorder, host, captured_inputs(MILLISECOND, limit), 0);
    let cause = drive(&mut machine, &mut policy, &mut Console::quiet()).unwrap();
    assert!(policy.captures().is_some_and(|report| report.count > 0));
    drop(policy);
    thread.join().unwrap();
    Recorded { directory, cause }
}

/// Types, the last byte again and again until the guest has ended.
pub(super) fn types(text: &'static [u8]) -> impl FnOnce(Sender<HostEvent>) -> JoinHandle<()> {
    move |sender| {
        std::thread::spawn(move || {
            let last = text.last().into_iter().cycle().take(2000);
            for byte in text.iter().chain(last) {
                clock::sleep_ns(5 * MILLISECOND);
                if sender.send(HostEvent::Console(vec![*byte])).is_err() {
                    break;
                }
            }
        })
    }
}

pub(super) fn captures(events: &[Event]) -> Vec<(Position, Capture)> {
    let capture = |event: &Event| match &event.body {
        Body::Capture(capture) => Some((event.position, capture.clone())),
        _ => None,
    };
    events.iter().filter_map(capture).collect()
}

#[test]
fn a_guest_that_makes_no_exits_gets_time_and_input() {
    let began = clock::monotonic_ns();
    let recorded = record(computing(1), 8, None, types(b"hello, worldq"));
    let took = clock::monotonic_ns() - began;
    assert_eq!(recorded.cause, EndCause::PowerOff { status: 7 });
    let events = recorded.events();
    let captures = captures(&events);
    let inputs: Vec<Position> =
        events.iter().filter(|e| matches!(e.body, Body::ConsoleInput { .. })).map(|e| e.position).collect();
    assert!(inputs.iter().any(|at| captures.iter().any(|(captured, _)| captured == at)), "{inputs:?}");
    assert!(captures.iter().any(|(_, capture)| capture.pages > 0));
    assert!(captures.iter().any(|(_, capture)| capture.interrupts > 0), "none was taken on the way");
    let computed: u64 = captures.iter().map(|(_, capture)| capture.nanoseconds).sum();
    assert!((2 * MILLISECOND..=took).contains(&computed), "{computed} of {took} ns");
    assert!(events.iter().any(|event| matches!(event.body, Body::Checkpoint { full: Some(_), .. })));
    for seed in 2..7 {
        let replayed = recorded.replay(&mut computing(seed));
        assert!(matches!(replayed, Ok(Outcome::Complete(_))), "{replayed:?}");
    }
}

#[test]
fn the_limit_on_guest_time_ends_a_guest_that_computes() {
    let limit = 20 * MILLISECOND;
    let recorded = record(computing(1), 0, Some(limit), |_| std::thread::spawn(|| {}));
    assert_eq!(recorded.cause, EndCause::Stopped { reason: StopReason::GuestTime });
    let Outcome::Complete(end) = recorded.replay(&mut computing(2)).unwrap() else { panic!("not complete") };
    assert!(end.guest_time >= limit && end.full.is_some(), "{end:?}");
}

#[test]
fn without_captures_it_is_deaf() {
    let (host, sender) = HostLoop::by_hand();
    sender.send(HostEvent::Console(b"q".to_vec())).unwrap();
    let stop = host.shared.clone();
    let thread = std::thread::spawn(move || {
        clock::sleep_ns(30 * MILLISECOND);
        stop.force_stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let mut machine = storing(&[Op::Out(0x80, 1), Op::Count, Op::Jump(1)], &[], 1);
    let mut policy = Live::new(NoJournal, host, nothing_more(true, None), 0);
    let cause = drive(&mut machine, &mut policy, &mut Console::quiet()).unwrap();
    thread.join().unwrap();
    assert_eq!(cause, EndCause::Stopped { reason: StopReason::Signal });
    assert_eq!(machine.exits(), 1);
}

#[test]
fn a_guest_that_waits_for_nothing_is_not_captured() {
    let (host, sender) = HostLoop::by_hand();
    let thread = std::thread::spawn(move || {
        clock::sleep_ns(20 * MILLISECOND);
        sender.send(HostEvent::Stop(StopReason::User)).unwrap();
        sender
    });
    let mut machine = storing(&[Op::Out(0x80, 1), Op::Count, Op::Jump(1)], &[], 1);
    let mut policy = Live::new(NoJournal, host, captured_inputs(MILLISECOND, None), 0);
    let cause = drive(&mut machine, &mut policy, &mut Console::quiet()).unwrap();
    drop(thread.join().unwrap());
    assert_eq!(cause, EndCause::Stopped { reason: StopReason::User });
    assert_eq!((machine.exits(), policy.captures().unwrap().count), (2, 1), "one, to stop at");
    assert!(machine.guest_time() >= 19 * MILLISECOND, "{}", machine.guest_time());
}

/// A machine in the state of `machine`, and its contents.
fn copy(machine: &Machine) -> Machine {
    let mut other = computing(99);
    let mut bytes = vec![0; 2 << 20];
    machine.ram().read(0, &mut bytes).unwrap();
    other.ram().write(0, &bytes).unwrap();
    other.restore(machine.save().unwrap()).unwrap();
    other
}

/// Replays up to `position`, and gives the machine as it is there.
fn replayed_to(recorded: &Recorded, position: Position) -> Machine {
    let recording = Recording::open(recorded.directory.path()).unwrap();
    let mut machine = computing(5);
    let mut policy = Replay::new(recording.events(), recording.state(), HostLoop::by_hand().0, &machine);
    policy.set_target(Target::Position(position));
    let run = Driver::default().run(&mut machine, &mut policy, &mut Console::quiet()).unwrap();
    assert_eq!((run, machine.position()), (Run::Paused, position));
    machine
}

#[test]
fn a_snapshot_between_captures_knows_what_they_build_on() {
    let recorded = record(computing(1), 4, None, types(b"hello, worldq"));
    let recording = Recording::open(recorded.directory.path()).unwrap();
    let captures = captures(&recorded.events());
    assert!(captures.len() > 4);
    for (position, _) in captures.iter().step_by(captures.len() / 4) {
        let mut machine = copy(&replayed_to(&recorded, *position));
        assert_eq!(machine.position(), *position);
        let events = recording.events_from(*position).unwrap();
        let stand = Stand::arrived(machine.guest_time());
        let replay = Replay::new(events, recording.state(), HostLoop::by_hand().0, &machine);
        let mut policy = replay.resume(&machine, stand).unwrap();
        let cause = drive(&mut machine, &mut policy, &mut Console::quiet()).unwrap();
        assert_eq!(cause, EndCause::PowerOff { status: 7 });
        assert!(matches!(policy.outcome(), Some(Outcome::Complete(_))));
    }
}

#[test]
fn a_saved_state_of_captures_that_is_wrong_is_refused() {
    let recorded = record(computing(1), 0, None, types(b"abcq"));
    let (position, _) = captures(&recorded.events()).pop().unwrap();
    let machine = replayed_to(&recorded, position);
    let parts = machine.save().unwrap();
    let index = parts.iter().position(|part| part.kind == "captures").unwrap();
    for length in 0..parts[index].bytes.len() {
        let mut parts = parts.clone();
        parts[index].bytes.truncate(length);
        assert!(computing(1).restore(parts).is_err(), "{length}");
    }
}

#[test]
fn the_machine_goes_live_behind_a_capture() {
    let recorded = record(computing(1), 0, None, types(b"hello, worldq"));
    let (position, _) = captures(&recorded.events())[1];
    let mut machine = replayed_to(&recorded, position);
    let (host, sender) = HostLoop::by_hand();
    let thread = types(b"q")(sender);
    let now = machine.guest_time();
    let mut policy = Live::new(NoJournal, host, captured_inputs(MILLISECOND, None), now);
    let cause = drive(&mut machine, &mut policy, &mut Console::quiet()).unwrap();
    drop(policy);
    thread.join().unwrap();
    assert_eq!(cause, EndCause::PowerOff { status: 7 });
}

#[test]
fn a_killed_recording_has_whole_captures() {
    let directory = tempfile::tempdir().unwrap();
    let writer = Writer::create(directory.path(), &header(), true).unwrap();
    let (host, sender) = HostLoop::by_hand();
    let seals = host.shared.clone();
    let thread = std::thread::spawn(move || {
        for _ in 0..20 {
            clock::sleep_ns(3 * MILLISECOND);
            seals.seal_due.store(true, std::sync::atomic::Ordering::Relaxed);
        }
        drop(sender); // nothing more comes, and the timers go on
    });
    let mut machine = computing(1);
    let limit = Some(80 * MILLISECOND);
    let mut policy =
        Live::new(Killed(Recorder::new(writer, 4, 0)), host, captured_inputs(MILLISECOND, limit), 0);
    drive(&mut machine, &mut policy, &mut Console::quiet()).unwrap();
    drop(policy);
    thread.join().unwrap();
    let recorded = Recorded { directory, cause: EndCause::Reset };
    assert!(!captures(&recorded.events()).is_empty());
    let outcome = recorded.replay(&mut computing(3)).unwrap();
    let Outcome::SealedEnd(position) = outcome else { panic!("{outcome:?}") };
    assert!(position.exit > 0);
}

/// A recorder that is killed before it can close its recording.
struct Killed(Recorder);

impl super::Journal for Killed {
    fn sync_point(&mut self, machine: &mut Machine, seal: bool) -> Result<(), SessionError> {
        self.0.sync_point(machine, seal)
    }

    fn input(&mut self, machine: &Machine, body: Body) -> Result<(), SessionError> {
        self.0.input(machine, body)
    }

    fn capture(
        &mut self,
        machine: &mut Machine,
        nanoseconds: u64,
    ) -> Result<Option<super::super::capture::Taken>, SessionError> {
        self.0.capture(machine, nanoseconds)
    }

    fn seal(&mut self, machine: &Machine) -> Result<(), SessionError> {
        self.0.seal(machine)
    }

    fn records(&self) -> bool {
        true
    }

    fn bookmark(&mut self, mark: scribe_log::Bookmark) -> Result<(), SessionError> {
        self.0.bookmark(mark)
    }

    fn snapshot(&mut self, machine: &Machine) -> Result<(), SessionError> {
        self.0.snapshot(machine)
    }

    fn end(
        &mut self,
        _machine: &mut Machine,
        _cause: &EndCause,
        _place: super::super::Place,
    ) -> Result<(), SessionError> {
        Ok(())
    }
}

/// What a replay of `events` says.
fn replay_of(events: Vec<Event>) -> SessionError {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(directory.path(), &header(), true).unwrap();
    for event in events {
        if matches!(event.body, Body::End(_)) {
            writer.close(&event).unwrap();
            break;
        }
        writer.append(&event).unwrap();
    }
    let recorded = Recorded { directory, cause: EndCause::Reset };
    recorded.replay(&mut computing(3)).unwrap_err()
}

#[test]
fn what_does_not_fit_is_refused() {
    let recorded = record(computing(1), 0, None, types(b"abcq"));
    let events = recorded.events();
    let changed = |change: &dyn Fn(&mut Body) -> bool| {
        let mut events = events.clone();
        assert!(events.iter_mut().rev().any(|event| change(&mut event.body)));
        replay_of(events)
    };
    let with_capture = |change: &dyn Fn(&mut Capture)| {
        changed(&|body| match body {
            Body::Capture(capture) => {
                change(capture);
                true
            }
            _ => false,
        })
    };
    let with_pages = |change: &dyn Fn(&mut CapturePages)| {
        changed(&|body| match body {
            Body::CapturePages(pages) => {
                change(pages);
                true
            }
            _ => false,
        })
    };
    let cause = |error: SessionError| match error {
        SessionError::Capture { source, .. } => source,
        other => panic!("{other}"),
    };
    let source = cause(with_capture(&|capture| capture.pages += 1));
    assert!(matches!(source, CaptureError::Torn(_)), "{source}");
    let source = cause(with_capture(&|capture| capture.bytes -= 1));
    assert!(matches!(source, CaptureError::Torn(_)), "{source}");
    let source = cause(with_capture(&|capture| capture.version += 1));
    assert!(matches!(source, CaptureError::Version { .. }), "{source}");
    let source = cause(with_capture(&|capture| capture.state.push(0)));
    assert!(matches!(source, CaptureError::State(_)), "{source}");
    let source = cause(with_capture(&|capture| capture.state.truncate(100)));
    assert!(matches!(source, CaptureError::State(_)), "{source}");
    let source = cause(with_capture(&|capture| capture.interrupts += 30));
    assert!(matches!(source, CaptureError::Interrupts { .. }), "{source}");
    let source = cause(with_pages(&|pages| *pages.frames.last_mut().unwrap() = 1 << 60));
    assert!(matches!(source, CaptureError::Outside(_)), "{source}");
    // Another time, or other contents, are a replay that differs.
    let different = |error| assert!(matches!(error, SessionError::Diverged(_)), "{error}");
    different(with_capture(&|capture| capture.nanoseconds += 1));
    let mut without = events.clone();
    let last = without.iter().rposition(|event| matches!(event.body, Body::Capture(_))).unwrap();
    without.remove(last);
    let source = replay_of(without);
    assert!(matches!(source, SessionError::Capture { source: CaptureError::Torn(_), .. }), "{source}");
}
