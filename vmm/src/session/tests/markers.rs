//! Markers: what each level notes, that a replay tells the same again, and that it compares them.

use std::cell::RefCell;
use std::rc::Rc;

use scribe_log::header::Level;
use scribe_log::{Body, ExitAnswer};

use super::toy::{self, Op, Toy};
use super::*;
use crate::inspect::check::{self, Checker};
use crate::inspect::markers::Markers;
use crate::machine::observe::Moment;

const CLOCK_PAGE: u16 = 0x5c0 + 0x10;

/// Echoes, and has a clock page, so that RAM changes.
fn echo() -> Machine {
    let mut program = toy::echo_program();
    program.insert(0, Op::Out32(CLOCK_PAGE, 7));
    for op in &mut program {
        if let Op::Jump(to) = op {
            *to += 1;
        }
    }
    machine(&program, &toy::echo_handler())
}

/// Makes exits for ever and takes timer interrupts, without a clock of the host's.
fn busy() -> Machine {
    let mut program: Vec<Op> = [
        (0x20, 0x11),
        (0x21, 0x20),
        (0x21, 0x04),
        (0x21, 0x01),
        (0x21, 0xfe),
        (0x43, 0x34),
        (0x40, 0),
        (0x40, 1),
    ]
    .map(|(port, value)| Op::Out(port, value))
    .to_vec();
    program.extend([Op::Out32(CLOCK_PAGE, 7), Op::Sti]);
    let again = program.len();
    program.extend([Op::Count, Op::Out(0x3f8, b'x'), Op::Out(0x3f8, b'\n'), Op::Jump(again)]);
    machine(&program, &[Op::Out(0x20, 0x20), Op::Return])
}

fn header_of(level: Level) -> Header {
    Header { level, ..header() }
}

fn record_at(
    level: Level,
    mut machine: Machine,
    limit: Option<u64>,
    outside: impl FnOnce(Sender<HostEvent>) -> JoinHandle<()>,
) -> Recorded {
    let directory = tempfile::tempdir().unwrap();
    let writer = Writer::create(directory.path(), &header_of(level), true).unwrap();
    let (host, sender) = HostLoop::by_hand();
    let _alive = sender.clone();
    let thread = outside(sender);
    let mut recorder = Recorder::new(writer, 1500, 0);
    recorder.watch(&mut machine, level).unwrap();
    let mut policy = Live::new(recorder, host, nothing_more(true, limit), 0);
    let cause = drive(&mut machine, &mut policy, &mut Console::quiet()).unwrap();
    drop(policy.into_journal());
    thread.join().unwrap();
    Recorded { directory, cause }
}

/// Replays on `machine`, comparing markers.
fn replay(recorded: &Recorded, mut machine: Machine) -> Result<Outcome, SessionError> {
    let recording = Recording::open(recorded.directory.path()).unwrap();
    let (host, _sender) = HostLoop::by_hand();
    let checker = Checker::attach(&mut machine, recording.header()).unwrap();
    let mut policy =
        Replay::new(recording.events(), recording.state(), host, &machine).check_markers(checker);
    drive(&mut machine, &mut policy, &mut Console::quiet())?;
    Ok(policy.outcome().unwrap().clone())
}

/// What a replay on `machine` tells at `level`.
fn expanded(recorded: &Recorded, mut machine: Machine, level: Level) -> Vec<Event> {
    let events = Rc::new(RefCell::new(Vec::new()));
    let sink = Rc::clone(&events);
    let markers = Markers::new(level, move |_: Moment, event| sink.borrow_mut().push(event));
    check::attach(&mut machine, Box::new(markers)).unwrap();
    assert!(matches!(replay(recorded, machine).unwrap(), Outcome::Complete(_)));
    events.take()
}

/// The same recording with changed events.
fn forged(recorded: &Recorded, level: Level, change: impl Fn(&mut Event)) -> Recorded {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(directory.path(), &header_of(level), true).unwrap();
    for mut event in recorded.events() {
        change(&mut event);
        match event.body {
            Body::End(_) => {
                writer.close(&event).unwrap();
                break;
            }
            _ => writer.append(&event).unwrap(),
        }
    }
    Recorded { directory, cause: recorded.cause.clone() }
}

fn divergence(recorded: &Recorded, machine: Machine) -> crate::session::divergence::Divergence {
    match replay(recorded, machine).unwrap_err() {
        SessionError::Diverged(divergence) => *divergence,
        other => panic!("{other}"),
    }
}

const LIMIT: Option<u64> = Some(10_000_000);

fn nobody(_: Sender<HostEvent>) -> JoinHandle<()> {
    std::thread::spawn(|| {})
}

#[test]
fn each_level_replays_and_is_what_a_replay_of_any_level_tells() {
    let recordings = Level::ALL.map(|level| record_at(level, busy(), LIMIT, nobody));
    let count =
        |level: usize, name| recordings[level].events().iter().filter(|e| e.body.name() == name).count();
    assert_eq!(["state", "interrupt", "console-output", "exit"].map(|name| count(0, name)), [0; 4]);
    assert!(count(1, "state") >= 5 && count(1, "checkpoint") >= 4 && count(1, "exit") == 0);
    assert!(count(2, "interrupt") > 10 && count(2, "console-output") > 1000);
    assert!(count(3, "exit") > 4000);
    for recorded in &recordings {
        for (level, other) in Level::ALL.into_iter().zip(&recordings) {
            assert!(expanded(recorded, busy(), level) == other.events(), "{level:?}");
        }
    }
}

#[test]
fn what_was_typed_is_among_the_markers_in_its_place() {
    for level in Level::ALL {
        let recorded = record_at(level, echo(), None, type_slowly(b"hello, worldq"));
        assert!(expanded(&recorded, echo(), level) == recorded.events(), "{level:?}");
        let all = expanded(&recorded, echo(), Level::Exits);
        let echoed: Vec<u8> = all
            .iter()
            .filter_map(|event| match &event.body {
                Body::ConsoleOutput { bytes } => Some(bytes.clone()),
                _ => None,
            })
            .flatten()
            .collect();
        assert_eq!(echoed, b"hello, worldq");
    }
}

#[test]
fn states_hold_what_changed() {
    let recorded = record_at(Level::State, busy(), LIMIT, nobody);
    let events = recorded.events();
    let states: Vec<_> = events
        .iter()
        .filter_map(|event| match &event.body {
            Body::State { registers, pages } => Some((registers, pages)),
            _ => None,
        })
        .collect();
    for (registers, pages) in &states {
        assert!(registers.iter().any(|register| register.name == "rip" && register.value != 0));
        assert_eq!(pages.iter().map(|(frame, _)| *frame).collect::<Vec<_>>(), [7], "the clock page");
    }
    assert!(states.windows(2).all(|pair| pair[0].1 != pair[1].1));
}

#[test]
fn the_first_exit_that_differs_is_named() {
    let recorded = record_at(Level::Exits, busy(), LIMIT, nobody);
    let wrong = forged(&recorded, Level::Exits, |event| {
        if let (Body::Exit { value, .. }, 100) = (&mut event.body, event.position.exit) {
            *value ^= 1;
        }
    });
    let found = divergence(&wrong, busy());
    assert_eq!((&*found.what, found.found_at), ("an exit", Position::exit(100)));
    assert_eq!(found.last_exit, Some(Position::exit(99)));
    assert!(found.expected.contains(r#"exit:100: out8 0x3f8 THR <- 0x79: "y""#), "{found}");
    assert!(found.found.contains(r#"exit:100: out8 0x3f8 THR <- 0x78: "x""#), "{found}");
    let missing = forged(&recorded, Level::Exits, |event| {
        if event.position.exit == 200 && matches!(event.body, Body::Exit { .. }) {
            event.body = Body::Interrupt { vector: 0, irq: 0 };
        }
    });
    let found = divergence(&missing, busy());
    assert!(found.expected.contains("exit:201: "), "{found}");
    assert!(found.found.contains("exit:200: "), "{found}");
    let never = forged(&recorded, Level::Exits, |event| {
        if matches!(event.position.exit, 50 | 51) && matches!(event.body, Body::ConsoleOutput { .. }) {
            event.body = Body::Exit {
                what: scribe_log::ExitKind::PortRead,
                address: 0x1_0000_0000,
                size: 1,
                value: 0,
                answer: ExitAnswer::Value(1),
                branches: 1,
                steps: 1,
            };
        }
    });
    let found = divergence(&never, busy());
    assert_eq!(found.found, "no such exit");
}

#[test]
fn the_first_register_or_page_that_differs_is_named() {
    let recorded = record_at(Level::State, busy(), LIMIT, nobody);
    let wrong = forged(&recorded, Level::State, |event| {
        if let (Body::State { registers, .. }, true) = (&mut event.body, event.position.exit > 2000) {
            registers.iter_mut().filter(|r| r.name == "rcx").for_each(|r| r.value ^= 0x10);
        }
    });
    let found = divergence(&wrong, busy());
    assert_eq!(&*found.what, "register rcx");
    assert!(found.found_at.exit > 2000 && found.found_at.exit <= 2048, "{found}");
    let wrong = forged(&recorded, Level::State, |event| {
        if let Body::State { pages, .. } = &mut event.body {
            pages[0].1 ^= 1;
        }
    });
    assert_eq!(&*divergence(&wrong, busy()).what, "the page at guest physical address 0x7000");
    let less = forged(&recorded, Level::State, |event| {
        if let Body::State { pages, .. } = &mut event.body {
            pages.clear();
        }
    });
    assert_eq!(divergence(&less, busy()).expected, "it had not changed");
}

#[test]
fn a_counting_machine_notes_how_far_its_exits_are_apart() {
    let program = [Op::Out(0x80, 1), Op::IfEqual(1), Op::Count, Op::Out(0x80, 2), Op::Cli, Op::Halt];
    let make = || {
        let devices = Devices::new(Default::default(), Vec::new(), 0, None).unwrap();
        let ram = GuestRam::new(2 << 20).unwrap();
        let time = scribe_log::header::TimeConstants { ns_per_branch: 8, ns_per_exit: 2_000 };
        Machine::new(Box::new(Toy::counting(&program, &[], 3)), ram, devices, time, true).unwrap()
    };
    let recorded = record_at(Level::Exits, make(), None, nobody);
    let far: Vec<(u64, u64)> = recorded
        .events()
        .iter()
        .filter_map(|event| match event.body {
            Body::Exit { branches, steps, .. } => Some((branches, steps)),
            _ => None,
        })
        .collect();
    assert_eq!(far, [(0, 0), (1, 0), (0, 1)]);
    assert!(expanded(&recorded, make(), Level::Exits) == recorded.events());
}

#[test]
fn a_killed_recording_of_every_exit_replays_to_its_last_seal() {
    let directory = tempfile::tempdir().unwrap();
    let writer = Writer::create(directory.path(), &header_of(Level::Exits), true).unwrap();
    let mut recorder = Recorder::new(writer, 0, 0);
    let mut live = busy();
    recorder.watch(&mut live, Level::Exits).unwrap();
    for exit in 1..=60 {
        live.step(None, None).unwrap();
        recorder.sync_point(&mut live, exit % 20 == 10).unwrap();
        live.settle().unwrap();
    }
    drop(recorder);
    let recorded = Recorded { directory, cause: EndCause::Reset };
    assert_eq!(replay(&recorded, busy()).unwrap(), Outcome::SealedEnd(Position::exit(50)));
}

/// Notes the pages that it is told have changed.
struct Pages(Rc<RefCell<Vec<u64>>>);

impl crate::machine::observe::Observer for Pages {
    fn wants_state(&self) -> bool {
        true
    }

    fn state(&mut self, _: Moment, _: &crate::engine::cpu::CpuState, _: bool, pages: &[(u64, u64)]) {
        self.0.borrow_mut().extend(pages.iter().map(|(frame, _)| *frame));
    }
}

#[test]
fn who_watches_later_is_not_told_of_what_changed_before() {
    let mut machine = busy();
    let pages = Rc::new(RefCell::new(Vec::new()));
    let go = |machine: &mut Machine| {
        machine.step(None, None).unwrap();
        machine.settle().unwrap();
    };
    check::attach(&mut machine, Box::new(Pages(Rc::clone(&pages)))).unwrap();
    (0..12).for_each(|_| go(&mut machine));
    machine.full_digest().unwrap();
    machine.take_observer();
    check::attach(&mut machine, Box::new(Pages(Rc::clone(&pages)))).unwrap();
    machine.tell_state().unwrap();
    assert_eq!(*pages.borrow(), [0; 0]);
    go(&mut machine);
    machine.tell_state().unwrap();
    assert_eq!(*pages.borrow(), [7], "the clock page");
}
