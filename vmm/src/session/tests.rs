//! Sessions over a made-up engine: what is recorded at which place, and that replay comes to the same, without KVM.

mod captured;
mod chaos;
mod counted;
mod markers;
mod network;
mod notice;
mod noting;
mod overshoot;
mod passes;
mod pauses;
mod starts;
mod toy;

use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

use scribe_log::header::{BootFile, Engine, Header, Host, Level, Origin, Pace};
use scribe_log::{Body, EndCause, Event, Position, Recording, StopReason, Writer};

use super::SessionError;
use super::capture::{Captures, Wish};
use super::console::Console;
use super::drive::{Driver, Run};
use super::journal::{Journal, Recorder};
use super::live::Inputs;
use super::live::Live;
use super::marks::Marks;
use super::replay::{Outcome, Replay};
use crate::host::clock;
use crate::host::events::{HostEvent, HostLoop};
use crate::machine::Machine;
use crate::machine::bus::Devices;
use crate::machine::memory::GuestRam;
use crate::machine::time::WITHOUT_COUNTER;
use toy::{Op, Toy};

fn machine(program: &[Op], handler: &[Op]) -> Machine {
    let devices = Devices::new(Default::default(), Vec::new(), 0, None).unwrap();
    let ram = GuestRam::new(2 << 20).unwrap();
    Machine::new(Box::new(Toy::new(program, handler)), ram, devices, WITHOUT_COUNTER, false).unwrap()
}

pub(crate) fn header() -> Header {
    Header {
        program: "test".into(),
        platform: "scribe-pc-1".into(),
        engine: Engine::Kvm,
        cpu: "scribe-v1".into(),
        behaviour: None,
        digest_version: 1,
        counter: None,
        time: WITHOUT_COUNTER,
        memory: 2 << 20,
        vcpus: 1,
        image: None,
        kernel: BootFile { origin: Origin::Host, path: "toy".into(), blake3: [0; 32] },
        initrd: None,
        cmdline: String::new(),
        command: Vec::new(),
        seed: [0; 32],
        rtc: 0,
        pace: Pace::Max,
        digest_every: 0,
        host: Host::default(),
        level: Level::Inputs,
        chaos: None,
        parent: None,
        start: None,
        devices: Vec::new(),
    }
}

/// What a live machine takes besides what the host loop delivers: nothing.
fn nothing_more(open: bool, guest_limit: Option<u64>) -> Inputs {
    Inputs {
        file: None,
        open,
        pace: Pace::Max,
        guest_limit,
        marks: Marks::default(),
        captures: Captures::new(Wish::NEVER),
        network: Default::default(),
        entropy: Default::default(),
        holds: Default::default(),
    }
}

/// Drives a machine from power-on to its end.
fn drive(
    machine: &mut Machine,
    policy: &mut dyn super::Policy,
    console: &mut Console,
) -> Result<EndCause, SessionError> {
    match Driver::default().run(machine, policy, console)? {
        Run::Ended(cause) => Ok(cause),
        Run::Paused => panic!("nobody wanted a pause"),
    }
}

/// A recording in a directory of its own.
struct Recorded {
    directory: tempfile::TempDir,
    cause: EndCause,
}

impl Recorded {
    fn events(&self) -> Vec<Event> {
        Recording::open(self.directory.path()).unwrap().events().map(Result::unwrap).collect()
    }

    fn replay(&self, machine: &mut Machine) -> Result<Outcome, SessionError> {
        let recording = Recording::open(self.directory.path()).unwrap();
        let (host, _sender) = HostLoop::by_hand();
        let mut policy = Replay::new(recording.events(), recording.state(), host, machine);
        drive(machine, &mut policy, &mut Console::quiet())?;
        Ok(policy.outcome().unwrap().clone())
    }
}

/// Records `machine`; `outside` gets the means to send it events from a thread of its own.
fn record(
    mut machine: Machine,
    digest_every: u64,
    limit: Option<u64>,
    outside: impl FnOnce(Sender<HostEvent>) -> JoinHandle<()>,
) -> Recorded {
    let directory = tempfile::tempdir().unwrap();
    let writer = Writer::create(directory.path(), &header(), true).unwrap();
    let (host, sender) = HostLoop::by_hand();
    // As in life, the loop outlives the session.
    let _alive = sender.clone();
    let thread = outside(sender);
    let recorder = Recorder::new(writer, digest_every, 0);
    let mut policy = Live::new(recorder, host, nothing_more(true, limit), 0);
    let cause = drive(&mut machine, &mut policy, &mut Console::quiet()).unwrap();
    drop(policy.into_journal());
    thread.join().unwrap();
    Recorded { directory, cause }
}

/// Echoes console input until `q`, sleeping in between.
fn echo() -> Machine {
    machine(&toy::echo_program(), &toy::echo_handler())
}

fn type_slowly(text: &'static [u8]) -> impl FnOnce(Sender<HostEvent>) -> JoinHandle<()> {
    move |sender| {
        std::thread::spawn(move || {
            for (byte, pause) in text.iter().zip([1, 3, 0, 2].into_iter().cycle()) {
                clock::sleep_ns(pause * 1_000_000);
                sender.send(HostEvent::Console(vec![*byte])).unwrap();
            }
        })
    }
}

#[test]
fn typed_input_is_replayed_where_it_was_admitted() {
    for digest_every in [0, 5] {
        let recorded = record(echo(), digest_every, None, type_slowly(b"hello, worldq"));
        assert_eq!(recorded.cause, EndCause::PowerOff { status: 7 });
        let inputs =
            recorded.events().into_iter().filter(|e| matches!(e.body, Body::ConsoleInput { .. })).count();
        assert!(inputs >= 1);
        let full = recorded.events().iter().any(|e| matches!(e.body, Body::Checkpoint { full: Some(_), .. }));
        assert_eq!(full, digest_every != 0);
        for _ in 0..5 {
            assert!(matches!(recorded.replay(&mut echo()).unwrap(), Outcome::Complete(_)));
        }
    }
}

#[test]
fn a_stop_while_the_guest_sleeps_is_replayed_at_the_same_time() {
    let recorded = record(echo(), 0, None, |sender| {
        std::thread::spawn(move || {
            sender.send(HostEvent::Console(b"ab".to_vec())).unwrap();
            clock::sleep_ns(5_000_000);
            sender.send(HostEvent::Stop(StopReason::User)).unwrap();
        })
    });
    assert_eq!(recorded.cause, EndCause::Stopped { reason: StopReason::User });
    assert!(matches!(recorded.replay(&mut echo()).unwrap(), Outcome::Complete(_)));
}

#[test]
fn the_limit_on_guest_time_ends_a_sleeping_guest_at_that_time() {
    let recorded = record(echo(), 0, Some(1_000_000), type_slowly(b""));
    assert_eq!(recorded.cause, EndCause::Stopped { reason: StopReason::GuestTime });
    let Outcome::Complete(end) = recorded.replay(&mut echo()).unwrap() else { panic!("not complete") };
    assert_eq!(end.guest_time, 1_000_000);
}

#[test]
fn other_input_is_a_located_divergence() {
    let recorded = record(echo(), 0, None, type_slowly(b"abcq"));
    let forged = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(forged.path(), &header(), true).unwrap();
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
    let forged = Recorded { directory: forged, cause: recorded.cause };
    match forged.replay(&mut echo()).unwrap_err() {
        SessionError::Diverged(divergence) => {
            assert!(divergence.agreed <= divergence.found_at);
            assert!(divergence.to_string().contains("rolling digest"), "{divergence}");
            assert!(!divergence.exits.is_empty());
        }
        other => panic!("{other}"),
    }
}

#[test]
fn another_guest_diverges() {
    let recorded = record(echo(), 0, None, type_slowly(b"q"));
    let mut program = toy::echo_program();
    program.insert(3, Op::Out(0x80, 1));
    assert!(matches!(
        recorded.replay(&mut machine(&program, &toy::echo_handler())),
        Err(SessionError::Diverged(_))
    ));
}

#[test]
fn a_killed_recording_replays_to_its_last_seal() {
    let directory = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::new(Writer::create(directory.path(), &header(), true).unwrap(), 0, 0);
    let mut live = echo();
    for exit in 1..=6 {
        live.step(None, None).unwrap();
        live.settle().unwrap();
        recorder.sync_point(&mut live, exit == 4).unwrap();
    }
    drop(recorder);
    let recorded = Recorded { directory, cause: EndCause::Reset };
    assert_eq!(recorded.replay(&mut echo()).unwrap(), Outcome::SealedEnd(Position::exit(4)));
}

#[test]
fn nothing_can_wake_a_guest_that_halts_with_interrupts_off() {
    let program = [Op::Cli, Op::Halt];
    let recorded = record(machine(&program, &[]), 0, None, type_slowly(b""));
    assert_eq!(recorded.cause, EndCause::HaltedForever);
    assert!(matches!(recorded.replay(&mut machine(&program, &[])).unwrap(), Outcome::Complete(_)));
}

#[test]
fn a_guest_that_makes_no_exits_is_stopped_where_it_last_was() {
    let program = [Op::Out(0x80, 1), Op::Spin];
    let directory = tempfile::tempdir().unwrap();
    let writer = Writer::create(directory.path(), &header(), true).unwrap();
    let (host, sender) = HostLoop::by_hand();
    sender.send(HostEvent::ConsoleClosed).unwrap();
    host.shared.force_stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut policy = Live::new(Recorder::new(writer, 0, 0), host, nothing_more(false, None), 0);
    let cause = drive(&mut machine(&program, &[]), &mut policy, &mut Console::quiet()).unwrap();
    assert_eq!(cause, EndCause::Stopped { reason: StopReason::Signal });
    drop(policy);
    let recorded = Recorded { directory, cause };
    let Outcome::Complete(end) = recorded.replay(&mut machine(&program, &[])).unwrap() else { panic!() };
    assert_eq!((end.exits, end.full), (1, None));
}

/// Sleeps until its timer comes, and then computes for ever in the handler.
fn spins_after_a_sleep() -> Machine {
    let program = [
        [Op::Out(0x20, 0x11), Op::Out(0x21, 0x20), Op::Out(0x21, 0x04), Op::Out(0x21, 0x01)].as_slice(),
        // IRQ 0 open, PIT channel 0 one-shot (mode 0), 0x100 ticks
        &[Op::Out(0x21, 0xfe), Op::Out(0x43, 0x30), Op::Out(0x40, 0), Op::Out(0x40, 1), Op::Sti, Op::Halt],
    ]
    .concat();
    machine(&program, &[Op::Spin])
}

#[test]
fn a_stop_in_the_middle_of_work_after_a_sleep_is_no_divergence() {
    let directory = tempfile::tempdir().unwrap();
    let writer = Writer::create(directory.path(), &header(), true).unwrap();
    let (host, _sender) = HostLoop::by_hand();
    host.shared.force_stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut policy = Live::new(Recorder::new(writer, 0, 0), host, nothing_more(false, None), 0);
    let cause = drive(&mut spins_after_a_sleep(), &mut policy, &mut Console::quiet()).unwrap();
    drop(policy);
    let recorded = Recorded { directory, cause };
    let Outcome::Complete(end) = recorded.replay(&mut spins_after_a_sleep()).unwrap() else { panic!() };
    assert!(end.guest_time > 200_000, "it slept: {}", end.guest_time);
}

#[test]
fn a_timer_whose_line_is_masked_wakes_nobody() {
    let program =
        [Op::Out(0x21, 0xff), Op::Out(0x43, 0x34), Op::Out(0x40, 0), Op::Out(0x40, 1), Op::Sti, Op::Halt];
    let recorded = record(machine(&program, &[]), 0, None, |sender| {
        sender.send(HostEvent::ConsoleClosed).unwrap();
        std::thread::spawn(|| {})
    });
    assert_eq!(recorded.cause, EndCause::HaltedForever);
    assert!(matches!(recorded.replay(&mut machine(&program, &[])).unwrap(), Outcome::Complete(_)));
}
