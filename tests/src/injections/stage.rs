//! Machines whose serial port is given bytes at chosen places, so that their interrupt comes there and nowhere else.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

use iced_x86::code_asm::CodeAssembler;
use scribe_log::header::Header;
use scribe_log::{EndCause, FullDigest, Position};
use scribe_vmm::engine::cpu::Registers;
use scribe_vmm::engine::{Answer, Exit, Progress};
use scribe_vmm::host::kick::Target;
use scribe_vmm::host::perturb::Perturbation;
use scribe_vmm::machine::kernel::BootFiles;
use scribe_vmm::machine::observe::{Moment, Observer};
use scribe_vmm::machine::{Machine, Step};
use scribe_vmm::session::choice::Choice;
use scribe_vmm::session::config::{self, GuestConfig};
use scribe_vmm::session::files::DigestCache;

use super::guest::{self, BYTE_NS, Call};
use crate::bench::{Bench, made_up_host};
use crate::tiny::Emitted;

/// Where fresh machines of one guest come from.
pub struct Stage {
    bench: Bench,
    header: Header,
    files: BootFiles,
    choice: Choice,
}

/// How a machine comes to its places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gait {
    /// as fast as it can
    Straight,
    /// kicked at random intervals, and at random places
    Kicked,
    /// with a pause behind every instruction and every iteration of REP
    Stepped,
}

/// What the guest is between two instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boundary {
    /// where
    pub position: Position,
    /// with these registers
    pub registers: Registers,
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Result {
    /// where it ended
    pub position: Position,
    /// how
    pub cause: EndCause,
    /// of exits and registers on the way
    pub rolling: u64,
    /// of everything at the end
    pub full: FullDigest,
    /// what the guest's handler saw
    pub calls: Vec<Call>,
}

/// A run.
#[derive(Debug)]
pub struct Played {
    /// what it came to
    pub result: Result,
    /// places that it was stopped at, or had a byte at
    pub boundaries: Vec<Boundary>,
    /// exits on the way, the first is exit 1
    pub exits: Vec<Exit>,
    /// kicks that it came back for
    pub kicks: u64,
}

#[derive(Default, Clone)]
struct Exits(Rc<RefCell<Vec<Exit>>>);

impl Observer for Exits {
    fn exit(&mut self, _at: Moment, exit: &Exit, _answer: Answer) {
        self.0.borrow_mut().push(*exit);
    }
}

impl Stage {
    /// For the guest that `emit` assembles.
    ///
    /// # Panics
    /// There is no machine for it.
    pub fn new(emit: impl FnOnce(&mut CodeAssembler) -> Emitted) -> Self {
        let bench = Bench::new();
        let guest = bench.guest(emit);
        let (header, files, choice) = describe(&bench, &guest);
        Self { bench, header, files, choice }
    }

    /// A machine at power-on.
    ///
    /// # Panics
    /// The host has no room for it.
    pub fn machine(&self) -> Machine {
        config::assemble(&self.header, &self.files, &self.choice, &self.bench.path("")).unwrap()
    }

    /// Runs a machine that is given a byte at each of these places, ascending, and guest time with it, so that its
    /// interrupt is asked for there.
    ///
    /// # Panics
    /// The guest does not come to a place, or sleeps.
    #[track_caller]
    pub fn play(&self, places: &[Position], gait: Gait) -> Played {
        let mut machine = self.machine();
        let exits = Exits::default();
        machine.observe(Box::new(exits.clone()));
        let mut places = places.iter().peekable();
        let (mut boundaries, mut kicks) = (Vec::new(), 0);
        let perturbation = (gait == Gait::Kicked).then(|| Perturbation::start(Target::current(), 5, 60));
        let seed =
            places.clone().fold(1, |seed, place| seed * 31 + place.exit + place.branches * 7 + place.steps);
        let mut random = Random(seed | 1);
        let mut random_place = |here: Position| Position { steps: here.steps + random.below(40), ..here };
        let cause = 'ended: loop {
            let here = machine.position();
            if places.next_if_eq(&&here).is_some() {
                machine.console_input(b"x");
                machine.jump(machine.guest_time() + BYTE_NS);
            }
            machine.settle().unwrap();
            assert!(!machine.is_halted(), "it sleeps at {here}");
            let next = places.peek().copied();
            assert!(next.is_none_or(|next| *next > here), "it has come to {here} before {next:?}");
            loop {
                boundaries
                    .push(Boundary { position: machine.place().0, registers: machine.current_registers() });
                let until = next.filter(|next| next.exit == here.exit).map(|place| progress(*place));
                let ahead = machine.place_ahead().and_then(|ahead| match gait {
                    Gait::Straight => None,
                    Gait::Kicked => Some(progress(random_place(ahead))),
                    Gait::Stepped => Some(progress(ahead)),
                });
                match machine.step(until, ahead).unwrap() {
                    Step::SyncPoint => break,
                    Step::Paused if gait == Gait::Kicked => Target::current().kick(),
                    Step::Paused => {}
                    Step::Kicked => {
                        boundaries.pop();
                        kicks += 1;
                    }
                    Step::Ended(cause) => break 'ended cause,
                }
            }
        };
        drop(perturbation);
        let result = Result {
            position: machine.position(),
            cause,
            rolling: machine.rolling(),
            full: machine.full_digest().unwrap(),
            calls: guest::calls(machine.ram()),
        };
        let exits = exits.0.take();
        Played { result, boundaries, exits, kicks }
    }
}

/// xorshift64 (Marsaglia 2003)
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % limit
    }
}

fn progress(place: Position) -> Progress {
    Progress { branches: place.branches, steps: place.steps }
}

/// A guest's description and files, as a session finds them.
///
/// # Panics
/// They cannot be used.
pub fn describe(bench: &Bench, guest: &GuestConfig) -> (Header, BootFiles, Choice) {
    let cache = DigestCache::new(&bench.path(""));
    config::describe(guest, &cache, made_up_host()).unwrap()
}

/// Where recordings and overlays of `bench` go.
pub fn folder(bench: &Bench) -> PathBuf {
    bench.path("")
}
