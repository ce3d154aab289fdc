//! Inputs and interrupts at any place of a guest: each recorded or played, and played again under kicks to the same end. Where
//! an interrupt is taken is compared with what the manual says of that place.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests, also outside of test functions")]

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;

use iced_x86::Mnemonic;
use scribe_log::{EndCause, Position};
use scribe_tests::bench::{Bench, KICKS};
use scribe_tests::engines::{self, Under};
use scribe_tests::injections::guest::{self, STATUS, course};
use scribe_tests::injections::model::{Model, comparable};
use scribe_tests::injections::placed::{self, Chooser};
use scribe_tests::injections::stage::{Boundary, Gait, Played, Stage, describe};
use scribe_tests::lab::{Chance, Lab, count, figure, image};
use scribe_tests::places::Theatre;
use scribe_tests::tiny;
use scribe_vmm::engine::Exit;
use scribe_vmm::engine::cpu::Registers;
use scribe_vmm::machine::Machine;
use scribe_vmm::machine::observe::{Moment, Observer};
use scribe_vmm::machine::platform::UART_PORT;
use scribe_vmm::session::config::{self, GuestConfig};
use scribe_vmm::session::console::Console;
use scribe_vmm::session::files::DigestCache;
use scribe_vmm::session::player::Stay;
use scribe_vmm::session::replay::{Outcome, Target};

/// PIT ticks in 4 ms.
const TICKS: u16 = 4773;

fn counted() {
    engines::on(Under::Counted, "counted", || {});
}

/// The hand-made guest, where it can be interrupted, and what must come of it.
struct Course {
    stage: Stage,
    model: Model,
    /// all of its boundaries, undisturbed
    quiet: Played,
    /// those from the first STI on
    open: Range<usize>,
    /// that the runs came back for
    kicks: Cell<u64>,
}

impl Course {
    fn new() -> Self {
        counted();
        let stage = Stage::new(|a| course(a, 1, 0));
        let model = Model::new(tiny::assemble(|a| course(a, 1, 0)));
        let quiet = stage.play(&[], Gait::Stepped);
        assert_eq!(quiet.result.cause, EndCause::PowerOff { status: STATUS });
        assert_eq!(quiet.result, stage.play(&[], Gait::Straight).result, "pauses are noticed");
        let first = quiet.boundaries.iter().position(|b| model.is(b.registers.rip, Mnemonic::Sti)).unwrap();
        let open = first..quiet.boundaries.len();
        Self { stage, model, quiet, open, kicks: Cell::new(0) }
    }

    /// Injects at `places`, twice: the second time under kicks. Then once more, a step at a time, which is given.
    fn inject(&self, places: &[Position]) -> Played {
        let straight = self.stage.play(places, Gait::Straight);
        let kicked = self.stage.play(places, Gait::Kicked);
        let stepped = self.stage.play(places, Gait::Stepped);
        self.kicks.set(self.kicks.get() + kicked.kicks);
        for again in [&kicked, &stepped] {
            assert_eq!(again.result, straight.result, "{places:?}");
            assert_eq!(again.exits, straight.exits, "{places:?}");
        }
        stepped
    }

    /// Injects at boundary `number`, and checks where the guest was interrupted.
    fn one(&self, number: usize) -> Played {
        let place = self.quiet.boundaries[number].position;
        let played = self.inject(&[place]);
        let expected: Vec<_> = self.model.call(&self.quiet.boundaries, number).into_iter().collect();
        assert_eq!(comparable(&played.result.calls), expected, "{place}");
        played
    }

    /// A second one behind the first, which alone comes to `first`: at its boundary `number`.
    fn two(&self, place: Position, first: &Played, number: usize) {
        let second = first.boundaries[number].position;
        let played = self.inject(&[place, second]);
        // A byte for a port that is not empty yet raises no line; for one that is it does, even if the handler takes it
        // before it returns: the controller has seen the edge.
        let empties = |exit: &Exit| matches!(exit, Exit::PortRead { port: UART_PORT, .. });
        let last = first.exits.iter().rposition(empties).map(|index| index as u64 + 1);
        let mut expected = comparable(&first.result.calls);
        if last.is_some_and(|last| second.exit >= last) {
            expected.extend(self.model.call(&first.boundaries, number));
        }
        assert_eq!(comparable(&played.result.calls), expected, "{place} {second}");
    }
}

/// Which of the kinds of places that must be there a boundary is.
fn kind(model: &Model, boundaries: &[Boundary], number: usize) -> Option<&'static str> {
    let here = boundaries[number].registers;
    let before = boundaries[number.checked_sub(1)?].registers;
    let inside = here.rip == before.rip && here.general[1] != before.general[1];
    Some(match () {
        () if inside && model.is(here.rip, Mnemonic::Movsb) => "inside a REP MOVS",
        () if inside => "inside another REP",
        () if model.is(before.rip, Mnemonic::Sti) => "behind STI",
        () if model.is(before.rip, Mnemonic::Popfq) => "behind POPF",
        () if model.is(before.rip, Mnemonic::Syscall) || model.is(here.rip, Mnemonic::Syscall) => {
            "at SYSCALL"
        }
        () if model.is(before.rip, Mnemonic::Sysretq) => "behind SYSRET",
        () if model.is(before.rip, Mnemonic::Iretq) => "behind IRET",
        () if model.is(before.rip, Mnemonic::Int) => "behind INT",
        () if model.is(here.rip, Mnemonic::Ud2) => "at a fault",
        () if model.is_to_ss(before.rip) => "behind MOV SS",
        () => return None,
    })
}

#[test]
#[cfg_attr(debug_assertions, ignore = "optimised only: scripts/test.sh")]
fn an_interrupt_can_come_at_every_place() {
    let course = Course::new();
    let mut chance = Chance::new("an_interrupt_can_come_at_every_place");
    let mut kinds: Vec<&str> = Vec::new();
    let mut injections = 0;
    let mut second = 0;
    let wanted = count("SCRIBE_TEST_INJECTIONS", 500);
    let mut firsts: Vec<usize> = course.open.clone().collect();
    let all = firsts.len();
    // Every place once, and then any.
    while injections < wanted || !firsts.is_empty() {
        let systematic = !firsts.is_empty();
        if !systematic {
            firsts.push(course.open.start + chance.below(course.open.len()));
        }
        let number = firsts.swap_remove(chance.below(firsts.len()));
        let played = course.one(number);
        injections += 1;
        kinds.extend(kind(&course.model, &course.quiet.boundaries, number).filter(|_| systematic));
        if injections % 4 == 0 || !systematic {
            // Near, so that the handler of the first is often not done.
            let place = course.quiet.boundaries[number].position;
            let behind = played.boundaries.iter().position(|b| b.position == place).unwrap() + 1;
            let far = if chance.below(2) == 0 { 40 } else { 400 };
            let number = behind + chance.below(far);
            if number < played.boundaries.len() {
                course.two(place, &played, number);
                injections += 2;
                second += 1;
            }
        }
    }
    let names: BTreeSet<&str> = kinds.iter().copied().collect();
    let each: Vec<String> = names
        .iter()
        .map(|name| format!("{} {name}", kinds.iter().filter(|kind| *kind == name).count()))
        .collect();
    assert_eq!(each.len(), 10, "{each:?}");
    let kicks = course.kicks.get();
    assert!(kicks > 0, "nothing was kicked");
    figure(
        "interrupts at chosen places of a hand-made guest",
        format!(
            "{injections}: each of its {all} places ({}), then random ones, {second} pairs; each run again under {kicks} kicks and again \
             with a pause at every place: rolling and full digests equal, taken where the manual says",
            each.join(", ")
        ),
    );
}

/// Notes that the guest has said `ready`: from then on it loses no input.
struct Ready(Rc<Cell<bool>>, Vec<u8>);

impl Observer for Ready {
    fn console(&mut self, _at: Moment, bytes: &[u8]) {
        self.1.extend(bytes);
        self.0.set(self.0.get() || self.1.windows(5).any(|word| word == b"ready"));
    }
}

/// Inputs at random places, a few branches and steps ahead.
struct Random<'a> {
    chance: &'a mut Chance,
    /// the guest takes input
    ready: Rc<Cell<bool>>,
    /// how far ahead at most
    branches: usize,
    /// one in so many sync points chooses a place
    one_in: usize,
    left: usize,
    /// sent when all the others have been
    last: Option<Vec<u8>>,
    bytes: &'static [u8],
    woken: usize,
}

impl Chooser for Random<'_> {
    fn place(&mut self, machine: &Machine) -> Option<Position> {
        let here = machine.position();
        if !self.ready.get() {
            return None;
        }
        if self.left == 0 {
            return self.last.is_some().then_some(here);
        }
        if self.chance.below(self.one_in) != 0 {
            return None;
        }
        let branches = here.branches + self.chance.below(self.branches) as u64;
        let steps = if branches == here.branches { here.steps } else { 0 };
        let steps = steps + self.chance.below(30) as u64;
        Some(Position { branches, steps, ..here })
    }

    fn bytes(&mut self, _machine: &Machine) -> Vec<u8> {
        if self.left == 0 {
            return self.last.take().unwrap_or_default();
        }
        self.left -= 1;
        self.bytes.to_vec()
    }

    fn wake(&mut self, machine: &Machine, deadline: Option<u64>) -> Option<u64> {
        let now = machine.guest_time();
        if !self.ready.get() {
            return None;
        }
        if self.left == 0 {
            return self.last.is_some().then_some(now);
        }
        let until = deadline.unwrap_or(now + 1_000_000);
        let sleep = usize::try_from(until - now).unwrap().max(1);
        let to = now + self.chance.below(sleep) as u64;
        // More often than where it computes: a guest that has nothing else to do sleeps until its limit.
        let woken = deadline.is_none() || self.chance.below(4) == 0;
        self.woken += usize::from(woken);
        woken.then_some(to)
    }
}

/// Where inputs came, for a figure.
fn places(inputs: &[(Position, Registers)]) -> String {
    let stepped = inputs.iter().filter(|(at, _)| at.steps > 0).count();
    let between = inputs.iter().filter(|(at, _)| !at.is_exit()).count();
    format!("{between} between two exits, {stepped} between two branches")
}

#[test]
#[cfg_attr(debug_assertions, ignore = "optimised only: scripts/test.sh")]
fn input_can_come_at_any_place() {
    counted();
    let mut chance = Chance::new("input_can_come_at_any_place");
    let wanted = count("SCRIBE_TEST_INPUTS", 500);
    let model = Model::new(tiny::assemble(|a| course(a, 1, TICKS)));
    let (mut inputs, mut recordings, mut kicks, mut inside) = (Vec::new(), 0, 0, 0);
    while inputs.len() < wanted {
        let bench = Bench::new();
        let turns = 20_000 + u32::try_from(chance.below(10_000)).unwrap();
        // Every other one under chaos: then the ticks' interrupts come between branches too.
        let chaos = (recordings % 2 == 1).then(|| 1 + chance.below(1 << 20) as u64);
        let guest = GuestConfig { chaos, ..bench.guest(|a| course(a, turns, TICKS)) };
        let (header, files, choice) = describe(&bench, &guest);
        let machine = config::assemble(&header, &files, &choice, &bench.path("")).unwrap();
        let mut chooser = Random {
            ready: Rc::new(Cell::new(true)),
            chance: &mut chance,
            branches: 4000,
            one_in: 1,
            left: 50,
            last: None,
            bytes: b"x",
            woken: 0,
        };
        let placed = placed::record(&header, machine, &bench.path("a"), &mut chooser, u64::MAX);
        assert_eq!(placed.summary.end.cause, EndCause::PowerOff { status: STATUS });
        assert!(placed.inputs.len() > 25, "{} inputs", placed.inputs.len());
        for perturb in [None, Some(KICKS)] {
            let replayed = bench.replay("a", perturb).unwrap();
            assert_eq!(replayed.report.outcome, Outcome::Complete(placed.summary.end.clone()));
            kicks += replayed.report.kicks;
        }
        inside += placed
            .inputs
            .iter()
            .filter(|(_, r)| r.general[1] > 0 && model.is(r.rip, Mnemonic::Movsb))
            .count();
        inputs.extend(placed.inputs);
        recordings += 1;
    }
    assert!(inside > 0 && kicks > 0, "{inside} {kicks}");
    figure(
        "input at random places of a hand-made guest that ticks",
        format!(
            "{} in {recordings} recordings, half of them under chaos, each replayed twice, once under kicks ({kicks}): equal; {}, {inside} at a REP MOVS",
            inputs.len(),
            places(&inputs)
        ),
    );
}

/// The demo image with a shell that counts the lines it is given while another program forks, and one spins, if that is
/// wanted.
fn linux(spins: bool) -> GuestConfig {
    let spin = if spins { "while :; do :; done & spin=$!" } else { "spin=" };
    let script = format!(
        "echo ready; /bin/forks >/dev/null & {spin}; count=0; \
         while read -r line; do [ \"$line\" = q ] && break; count=$((count + 1)); done; \
         [ \"$spin\" ] && kill $spin; wait; echo counted $count"
    );
    let script = script.as_str();
    let command = ["sh", "-c", script].map(|word| word.as_bytes().to_vec()).to_vec();
    let kernel = std::path::PathBuf::new();
    GuestConfig {
        image: Some(image()),
        kernel: None,
        memory: 64 << 20,
        command,
        ..scribe_tests::bench::config(kernel)
    }
}

#[test]
#[cfg_attr(debug_assertions, ignore = "optimised only: scripts/test.sh")]
fn input_can_come_at_any_place_of_linux() {
    const NAME: &str = "input_can_come_at_any_place_of_linux";
    let Some(lab) = Lab::on_soft(NAME) else { return };
    counted();
    let mut chance = Chance::new(NAME);
    let wanted = count("SCRIBE_TEST_LINUX_INPUTS", 20);
    let replays = count("SCRIBE_TEST_LINUX_REPLAYS", 2);
    let cache = DigestCache::new(&lab.path("home"));
    let (mut inputs, mut recordings, mut woken) = (Vec::new(), 0, 0);
    while inputs.len() < wanted {
        let name = format!("linux-{recordings}");
        let (header, files, choice) =
            config::describe(&linux(recordings % 2 == 1), &cache, scribe_tests::bench::made_up_host())
                .unwrap();
        let mut machine = config::assemble(&header, &files, &choice, &lab.path(".")).unwrap();
        let ready = Rc::new(Cell::new(false));
        machine.observe(Box::new(Ready(Rc::clone(&ready), Vec::new())));
        let each = wanted.div_ceil(4).max(10);
        let last = Some(b"q\n".to_vec());
        let mut chooser = Random {
            ready,
            chance: &mut chance,
            branches: 4000,
            one_in: 40,
            left: each,
            last,
            bytes: b"x\n",
            woken: 0,
        };
        let placed = placed::record(&header, machine, &lab.path(&name), &mut chooser, 60_000_000_000);
        woken += chooser.woken;
        let output = String::from_utf8_lossy(&placed.output);
        assert_eq!(placed.summary.end.cause, EndCause::PowerOff { status: 0 }, "{output}");
        assert!(output.contains(&format!("counted {each}")), "{output}");
        let theatre = Theatre::new(&lab, &name);
        for replay in 0..replays {
            let perturb = (replay % 2 == 1).then_some(KICKS);
            let mut player = theatre.player(None, scribe_tests::places::Way { snapshots: false, perturb });
            let stay = player.run(Target::End, &mut Console::quiet()).unwrap();
            assert_eq!(stay, Stay::Ended(Outcome::Complete(placed.summary.end.clone())));
        }
        inputs.extend(placed.inputs);
        recordings += 1;
    }
    assert!(inputs.iter().any(|(at, _)| at.steps > 0) && woken > 0, "{woken}");
    let user = inputs.iter().filter(|(_, registers)| registers.rip < 1 << 47).count();
    figure(
        "input at random places of Linux",
        format!(
            "{} in {recordings} recordings from power-on to the end, each replayed {replays} times, half under kicks: equal; {}, \
             {user} at addresses of user programs, {woken} while it slept",
            inputs.len(),
            places(&inputs)
        ),
    );
}

#[test]
fn the_handler_sees_where_it_was_called() {
    // In short, in any build: the first place is behind the shadow of the first STI.
    let course = Course::new();
    let played = course.one(course.open.start);
    assert_eq!(played.result.calls.len(), 1);
    assert_eq!(guest::calls(course.stage.machine().ram()), []);
}
