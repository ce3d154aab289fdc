//! What a machine that leaves its recording tells the guest: only a guest that asked, as the first input of the branch,
//! and the same again in a replay.

use scribe_devices::guest_interface::{CLOCK_PAGE_BYTES, ClockPage};

use super::toy::Op;
use super::*;
use crate::machine::memory::PAGE_SIZE;
use crate::session::drive::Phase;

const CLOCK_PAGE: u16 = 0x5c0 + 0x10;
const FRAME: u32 = 7;
const SEED: [u8; 32] = [0x5e; 32];
const WALL_CLOCK: u64 = 1_767_225_600;

/// RAM of a guest that asks for notices, once its clock page is there.
fn asking_ram() -> GuestRam {
    let ram = GuestRam::new(2 << 20).unwrap();
    ram.write(u64::from(FRAME) * PAGE_SIZE + 8, b"NOTICES1").unwrap();
    ram
}

fn over(ram: &GuestRam, program: &[Op], handler: &[Op]) -> Machine {
    let devices = Devices::new(Default::default(), Vec::new(), 0, None).unwrap();
    Machine::new(Box::new(Toy::new(program, handler)), ram.clone(), devices, WITHOUT_COUNTER, false).unwrap()
}

/// Sets its clock page, sleeps until its timer comes, and switches off.
fn sleeper(ram: &GuestRam) -> Machine {
    let mut program = [
        (0x20, 0x11),
        (0x21, 0x20),
        (0x21, 0x04),
        (0x21, 0x01),
        (0x21, 0xfe),
        (0x43, 0x30),
        (0x40, 0),
        (0x40, 1),
    ]
    .map(|(port, value)| Op::Out(port, value))
    .to_vec();
    program.extend([Op::Out32(CLOCK_PAGE, FRAME), Op::Sti, Op::Halt, Op::Out32(0x5c0 + 0x18, 1)]);
    over(ram, &program, &[Op::Out(0x20, 0x20), Op::Return])
}

/// Exits of [`sleeper`] up to its sleep.
const ASLEEP: u64 = 10;

fn step(machine: &mut Machine, exits: u64) {
    for _ in 0..exits {
        machine.step(None, None).unwrap();
        machine.settle().unwrap();
    }
}

fn page(ram: &GuestRam) -> ClockPage {
    let mut bytes = [0; CLOCK_PAGE_BYTES];
    ram.read(u64::from(FRAME) * PAGE_SIZE, &mut bytes).unwrap();
    ClockPage::new(bytes)
}

#[test]
fn a_guest_that_has_not_asked_is_not_told() {
    let silent = GuestRam::new(2 << 20).unwrap();
    for (ram, exits) in [(&silent, ASLEEP), (&asking_ram(), 1)] {
        let mut machine = sleeper(ram);
        step(&mut machine, exits);
        let before = machine.full_digest().unwrap();
        let error = machine.takes_notices().unwrap_err();
        assert!(error.to_string().starts_with("the guest's kernel cannot be given fresh entropy"), "{error}");
        assert!(machine.notify_branch(Some(&SEED), Some(WALL_CLOCK)).is_err());
        assert_eq!(machine.full_digest().unwrap(), before);
    }
}

#[test]
fn a_guest_that_has_asked_finds_seed_and_time() {
    let ram = asking_ram();
    let mut machine = sleeper(&ram);
    step(&mut machine, ASLEEP);
    machine.takes_notices().unwrap();
    let before = machine.full_digest().unwrap();
    let mut expected = page(&ram);

    machine.notify_branch(Some(&SEED), None).unwrap();
    expected.reseed(&SEED);
    assert_eq!(page(&ram), expected);
    let reseeded = machine.full_digest().unwrap();
    assert_ne!(reseeded.ram, before.ram, "the page is digested anew");
    assert_eq!(reseeded.devices, before.devices);

    machine.notify_branch(None, Some(WALL_CLOCK)).unwrap();
    expected.clock_has_moved();
    assert_eq!(page(&ram), expected);
    assert_ne!(machine.full_digest().unwrap().devices, before.devices);
}

#[test]
fn the_clock_shows_the_time_it_was_set_to() {
    // The year's last two digits, from 70 to 26, in BCD.
    let program = [
        Op::Out32(CLOCK_PAGE, FRAME),
        Op::Out(0x70, 9),
        Op::In(0x71),
        Op::OutAccumulator(0x80),
        Op::In(0x71),
        Op::OutAccumulator(0x80),
    ];
    let mut machine = over(&asking_ram(), &program, &[]);
    step(&mut machine, 4);
    assert_eq!(machine.registers().general[0], 0x70);
    machine.notify_branch(None, Some(WALL_CLOCK)).unwrap();
    step(&mut machine, 2);
    assert_eq!(machine.registers().general[0], 0x26);
}

/// Records [`sleeper`] as a branch that begins behind so many exits, in this phase; with `seed`, if that is not the one it
/// was told.
fn recorded(begin: u64, phase: Phase, logged: [u8; 32]) -> (Recorded, Position) {
    let directory = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::new(Writer::create(directory.path(), &header(), true).unwrap(), 0, begin);
    let (host, sender) = HostLoop::by_hand();
    sender.send(HostEvent::ConsoleClosed).unwrap();
    let mut machine = begun(begin, phase);
    let at = machine.position();
    let body = Body::Branch { seed: Some(logged), wall_clock: Some(WALL_CLOCK) };
    recorder.input(&machine, body).unwrap();
    machine.notify_branch(Some(&SEED), Some(WALL_CLOCK)).unwrap();
    let mut policy = Live::new(recorder, host, nothing_more(false, None), machine.guest_time());
    let run = Driver::at(phase).run(&mut machine, &mut policy, &mut Console::quiet()).unwrap();
    drop(policy.into_journal());
    let Run::Ended(cause) = run else { panic!("nobody wanted a pause") };
    (Recorded { directory, cause }, at)
}

/// [`sleeper`], where its parent recording was left.
fn begun(begin: u64, phase: Phase) -> Machine {
    let mut machine = sleeper(&asking_ram());
    step(&mut machine, begin - 1);
    machine.step(None, None).unwrap();
    if phase == Phase::Idle {
        machine.settle().unwrap();
        assert!(machine.is_halted());
    }
    machine
}

fn replay(recorded: &Recorded, mut machine: Machine, phase: Phase) -> Result<Outcome, SessionError> {
    let recording = Recording::open(recorded.directory.path()).unwrap();
    let (host, _sender) = HostLoop::by_hand();
    let mut policy = Replay::new(recording.events(), recording.state(), host, &machine);
    Driver::at(phase).run(&mut machine, &mut policy, &mut Console::quiet())?;
    Ok(policy.outcome().unwrap().clone())
}

#[test]
fn a_branch_replays_from_where_it_began() {
    for (begin, phase) in [(ASLEEP - 1, Phase::Arrived), (ASLEEP, Phase::Arrived), (ASLEEP, Phase::Idle)] {
        let (recorded, at) = recorded(begin, phase, SEED);
        assert_eq!(recorded.cause, EndCause::PowerOff { status: 0 });
        let first = &recorded.events()[0];
        assert_eq!((first.body.name(), first.position), ("branch", at));
        let outcome = replay(&recorded, begun(begin, phase), phase).unwrap();
        assert!(matches!(outcome, Outcome::Complete(_)), "{phase:?}");
    }
}

#[test]
fn another_seed_is_another_guest() {
    for phase in [Phase::Arrived, Phase::Idle] {
        let (recorded, _) = recorded(ASLEEP, phase, [0x5f; 32]);
        match replay(&recorded, begun(ASLEEP, phase), phase) {
            Err(SessionError::Diverged(divergence)) => assert_eq!(&*divergence.what, "RAM"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_guest_that_does_not_ask_in_a_replay_is_another_guest() {
    let (recorded, _) = recorded(ASLEEP, Phase::Arrived, SEED);
    let mut silent = sleeper(&GuestRam::new(2 << 20).unwrap());
    step(&mut silent, ASLEEP - 1);
    silent.step(None, None).unwrap();
    match replay(&recorded, silent, Phase::Arrived) {
        Err(SessionError::Diverged(divergence)) => {
            assert_eq!(&*divergence.what, "the guest's wish for notices")
        }
        other => panic!("{other:?}"),
    }
}
