//! Recordings and replays on a processor's counter, simulated: exact as long as overflows keep to the skid, and made up for
//! when they do not.

use std::cell::RefCell;
use std::io::{self, Write};
use std::path::PathBuf;
use std::rc::Rc;

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::*;
use crate::engine::EngineError;
use crate::engine::approach::tests::engine as simulated;
use crate::engine::cpu::CpuState;
use crate::engine::pmu::Counter;
use crate::host::perf::{self, Event as Counts};
use crate::machine::MachineError;
use crate::session::choice::{COUNTER, HostCounter, Wish as On};
use crate::session::config::{GuestConfig, Moved};
use crate::session::files::DigestCache;
use crate::session::journal::Noting;
use crate::session::player::{Player, Stay};
use crate::session::replay::Target as Goal;
use crate::session::start::{self, Connections, LiveReport, ReplayConfig, ReplayReport, StartError, Target};

const CODE: u64 = 0x10_0000;
const IDT: u32 = 0x13_0000;
const TICKS: u32 = 24;

fn out8(a: &mut CodeAssembler, port: u32, value: u32) -> Result<(), IcedError> {
    a.mov(al, value)?;
    a.mov(dx, port)?;
    a.out(dx, al)
}

/// Computes, with interrupts on, while the PIT ticks every half millisecond, and prints where it is at every fourth tick.
fn ticking(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut tick, mut again, mut quiet) = (a.create_label(), a.create_label(), a.create_label());
    a.lea(rax, ptr(tick))?;
    a.mov(edi, IDT + 16 * 0x30)?;
    a.mov(word_ptr(rdi), ax)?;
    a.mov(dword_ptr(rdi + 2), 0x8e00_0010u32)?; // an interrupt gate, and the boot code's selector
    a.mov(word_ptr(rdi + 2), 0x10)?;
    a.mov(word_ptr(rdi + 4), 0x8e00)?;
    a.shr(eax, 16)?;
    a.mov(word_ptr(rdi + 6), ax)?;
    a.mov(qword_ptr(rdi + 8), 0)?;
    a.mov(edi, IDT + 0x1000)?;
    a.mov(word_ptr(rdi), 0xfff)?;
    a.mov(dword_ptr(rdi + 2), IDT)?;
    a.mov(dword_ptr(rdi + 6), 0)?;
    a.lidt(ptr(rdi))?;
    for (port, value) in [(0x20, 0x11), (0x21, 0x30), (0x21, 4), (0x21, 1), (0x21, 0xfe)] {
        out8(a, port, value)?;
    }
    for (port, value) in [(0x43, 0x34), (0x40, 0x54), (0x40, 0x02)] {
        out8(a, port, value)?; // 596 of the PIT's ticks
    }
    a.xor(r12d, r12d)?;
    a.mov(ebx, 1)?;
    a.sti()?;
    a.set_label(&mut again)?;
    a.imul_3(ebx, ebx, 0x0019_660d)?;
    a.test(ebx, 0x10)?;
    a.jz(quiet)?;
    a.inc(r13)?;
    a.set_label(&mut quiet)?;
    a.cmp(r12d, TICKS)?;
    a.jb(again)?;
    a.cli()?;
    a.mov(eax, 3)?;
    a.mov(dx, 0x5c0 + 0x14)?;
    a.out(dx, eax)?;
    a.mov(dx, 0x5c0 + 0x18)?;
    a.out(dx, eax)?;
    let mut over = a.create_label();
    a.set_label(&mut tick)?;
    a.push(rax)?;
    a.push(rdx)?;
    a.inc(r12d)?;
    a.test(r12d, 3)?;
    a.jnz(over)?;
    a.mov(dx, 0x3f8)?;
    a.mov(eax, ebx)?;
    a.and(al, 0x3f)?;
    a.add(al, 0x30)?;
    a.out(dx, al)?;
    a.set_label(&mut over)?;
    out8(a, 0x20, 0x20)?;
    a.pop(rdx)?;
    a.pop(rax)?;
    a.iretq()
}

/// An ELF with one loadable segment, and the note that says that it reads no clock (docs/guest-interface.md).
fn kernel() -> Vec<u8> {
    let mut assembler = CodeAssembler::new(64).unwrap();
    ticking(&mut assembler).unwrap();
    let code = assembler.assemble(CODE).unwrap();
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let length = code.len() as u64;
    [
        b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec(),
        words(&[CODE, 64, 0]),
        vec![0, 0, 0, 0, 64, 0, 56, 0, 2, 0, 0, 0, 0, 0, 0, 0],
        vec![1, 0, 0, 0, 7, 0, 0, 0],
        words(&[200, CODE, CODE, length, length, 1]),
        vec![4, 0, 0, 0, 4, 0, 0, 0],
        words(&[176, 0, 0, 24, 24, 4]),
        b"\x07\0\0\0\x04\0\0\0\x01\0\0\0Scribe\0\0\x01\0\0\0".to_vec(),
        code,
    ]
    .concat()
}

fn counter(skid: u64) -> HostCounter {
    let event = Counts { pmu: perf::RAW, config: 0x5111c4 };
    Ok(Counter { model: "made up", event, skid, processors: None })
}

#[derive(Clone, Default)]
struct Output(Rc<RefCell<Vec<u8>>>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A folder with a kernel and recordings of it.
struct Bench {
    dir: tempfile::TempDir,
    cache: DigestCache,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("kernel"), kernel()).unwrap();
        let cache = DigestCache::new(dir.path());
        Self { dir, cache }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn record(
        &self,
        name: &str,
        engine: On,
        counter: HostCounter,
    ) -> Result<(LiveReport, Vec<u8>), StartError> {
        self.record_at(Level::Inputs, name, engine, counter)
    }

    fn record_at(
        &self,
        level: Level,
        name: &str,
        engine: On,
        counter: HostCounter,
    ) -> Result<(LiveReport, Vec<u8>), StartError> {
        let guest = GuestConfig {
            platform: None,
            chaos: None,
            image: None,
            kernel: Some(self.path("kernel")),
            initrd: None,
            append: None,
            memory: 2 << 20,
            command: Vec::new(),
            seed: [7; 32],
            rtc: 0,
            pace: Pace::Max,
            digest_every: 16,
            engine,
            cpu: None,
            sync_points: None,
            behaviour: None,
            counter,
            devices: Vec::new(),
        };
        let output = Output::default();
        let noting = Noting { snapshot_every: Some(2_000_000), level, ..Noting::default() };
        let target = Target { directory: &self.path(name), overwrite: false, store: None, noting };
        let mut console = Console::to(Box::new(output.clone()));
        let (cache, none) = (&self.cache, Connections::none());
        let report = start::record(&guest, cache, Host::default(), none, &target, &mut console)?;
        Ok((report, output.0.take()))
    }

    fn config(&self, name: &str, engine: On, counter: HostCounter, snapshots: bool) -> ReplayConfig<'static> {
        let directory = Box::leak(self.path(name).into_boxed_path());
        let moved = Moved::default();
        ReplayConfig {
            directory,
            moved,
            engine,
            behaviour: None,
            quiet: true,
            perturb: None,
            snapshots,
            counter,
        }
    }

    fn replay(&self, config: &ReplayConfig) -> Result<(ReplayReport, Vec<u8>), StartError> {
        let output = Output::default();
        let mut console = Console::to(Box::new(output.clone()));
        let report = start::replay(config, &self.cache, &Host::default(), self.dir.path(), &mut console)?;
        Ok((report, output.0.take()))
    }

    fn player(&self, config: &ReplayConfig, target: Goal) -> Player {
        Player::open(config, &self.cache, &Host::default(), self.dir.path(), Some(target)).unwrap()
    }
}

fn none() -> HostCounter {
    Err("none".into())
}

fn overshoot(error: &StartError) -> bool {
    matches!(
        error,
        StartError::Session(SessionError::Machine(MachineError::Engine(EngineError::Overshoot { .. })))
    )
}

/// Recorded on soft: output, and the header's file.
fn recorded(bench: &Bench) -> Vec<u8> {
    let (report, output) = bench.record("soft", On::Soft, none()).unwrap();
    assert_eq!(report.cause, EndCause::PowerOff { status: 3 });
    assert_eq!(output.len(), usize::try_from(TICKS / 4).unwrap());
    output
}

#[test]
fn a_recording_on_a_counter_is_that_of_the_soft_engine() {
    let bench = Bench::new();
    let output = recorded(&bench);
    simulated::simulate(90);
    let (report, same) = bench.record("kvm", On::Kvm, counter(100)).unwrap();
    assert_eq!((report.cause, same), (EndCause::PowerOff { status: 3 }, output.clone()));
    assert_eq!(simulated::skids(), [100]);
    let header = Recording::open(&bench.path("kvm")).unwrap().header().clone();
    assert_eq!((header.engine, header.counter.as_deref()), (Engine::Kvm, Some(COUNTER)));
    let bodies = |name: &str| {
        let recording = Recording::open(&bench.path(name)).unwrap();
        recording.events().map(|event| event.unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(bodies("kvm"), bodies("soft"));
    for name in ["kvm", "soft"] {
        for engine in [On::Kvm, On::Soft] {
            let (replayed, shown) = bench.replay(&bench.config(name, engine, counter(100), false)).unwrap();
            assert!(matches!(replayed.outcome, Outcome::Complete(_)), "{name}");
            assert_eq!(shown, output, "{name}");
        }
    }
    // A snapshot that was taken on kvm between two exits does on soft.
    let mut player = bench.player(&bench.config("kvm", On::Soft, none(), true), Goal::End);
    let began = player.machine().position();
    assert!(began.exit > 20 && !began.is_exit(), "{began}");
    let stay = player.run(Goal::End, &mut Console::quiet()).unwrap();
    assert!(matches!(stay, Stay::Ended(Outcome::Complete(_))), "{stay:?}");
}

#[test]
fn exits_are_compared_as_far_as_a_counter_knows_them() {
    let bench = Bench::new();
    simulated::simulate(90);
    bench.record_at(Level::Exits, "kvm", On::Kvm, counter(100)).unwrap();
    bench.record_at(Level::Exits, "again", On::Kvm, counter(150)).unwrap();
    bench.record_at(Level::Exits, "soft", On::Soft, none()).unwrap();
    let events = |name: &str| std::fs::read(bench.path(name).join(scribe_log::EVENTS_FILE)).unwrap();
    assert!(events("kvm") == events("again"), "the same guest, another recording");
    for name in ["kvm", "soft"] {
        for engine in [On::Kvm, On::Soft] {
            let (replayed, _) = bench.replay(&bench.config(name, engine, counter(100), false)).unwrap();
            assert!(matches!(replayed.outcome, Outcome::Complete(_)), "{name}");
        }
    }
}

#[test]
fn a_replay_that_overshoots_begins_again_with_twice_the_skid() {
    let bench = Bench::new();
    let output = recorded(&bench);
    // Of those that are hardly too late the first comes when something has been shown already.
    for (late, snapshots) in [(1500, false), (1500, true), (104, false), (108, false), (108, true)] {
        simulated::simulate(late);
        let config = bench.config("soft", On::Kvm, counter(100), snapshots);
        let (replayed, shown) = bench.replay(&config).unwrap();
        assert!(matches!(replayed.outcome, Outcome::Complete(_)));
        assert_eq!(shown, output, "each byte once");
        let skids = simulated::skids();
        assert!((2..=5).contains(&skids.len()), "{skids:?}");
        assert!(
            skids.iter().zip([100, 200, 400, 800, 1600]).all(|(skid, twice)| *skid == twice),
            "{skids:?}"
        );
    }
}

#[test]
fn a_place_is_looked_at_as_on_soft_whatever_overshoots() {
    let bench = Bench::new();
    recorded(&bench);
    let state = |mut player: Player, place: Position| -> (CpuState, Vec<u8>) {
        let stay = player.run(Goal::Position(place), &mut Console::quiet()).unwrap();
        assert_eq!(stay, Stay::Paused);
        assert_eq!(player.machine().position(), place);
        let state = player.machine().cpu_state().unwrap();
        // And on to the end.
        let stay = player.run(Goal::End, &mut Console::quiet()).unwrap();
        assert!(matches!(stay, Stay::Ended(Outcome::Complete(_))), "{stay:?}");
        (state, Vec::new())
    };
    simulated::simulate(1500);
    let mut again = 0;
    for place in [
        Position { exit: 10, branches: 4000, steps: 0 },
        Position { exit: 14, branches: 40_000, steps: 1 },
        Position { exit: 30, branches: 52_345, steps: 1 },
    ] {
        let on = |engine, snapshots| {
            let config = bench.config("soft", engine, counter(200), snapshots);
            state(bench.player(&config, Goal::Position(place)), place)
        };
        let made = simulated::skids().len();
        assert_eq!(on(On::Kvm, false), on(On::Soft, false), "{place}");
        assert_eq!(on(On::Kvm, true), on(On::Soft, true), "{place}");
        again += simulated::skids().len() - made - 2;
    }
    assert!(again > 0, "{:?}", simulated::skids());
}

#[test]
fn a_replay_that_goes_on_overshooting_ends() {
    let bench = Bench::new();
    recorded(&bench);
    simulated::simulate(60_000);
    let error = bench.replay(&bench.config("soft", On::Kvm, counter(1), false)).unwrap_err();
    assert!(overshoot(&error), "{error}");
    assert_eq!(simulated::skids(), [1, 2, 4, 8, 16]);
}

#[test]
fn a_recording_that_overshoots_keeps_what_was_sealed() {
    let bench = Bench::new();
    simulated::simulate(30_000);
    let error = bench.record("kvm", On::Kvm, counter(1)).unwrap_err();
    assert!(overshoot(&error), "{error}");
    assert_eq!(simulated::skids(), [1], "what has been shown live cannot be taken back");
    let recording = Recording::open(&bench.path("kvm")).unwrap();
    assert_eq!(recording.state(), scribe_log::State::Crashed);
}

#[test]
fn who_watches_is_not_shown_anything_twice() {
    let bench = Bench::new();
    recorded(&bench);
    simulated::simulate(60_000);
    let config = bench.config("soft", On::Kvm, counter(1), false);
    let mut player = bench.player(&config, Goal::End);
    player.watch();
    assert!(overshoot(&player.run(Goal::End, &mut Console::quiet()).unwrap_err()));
    assert_eq!(simulated::skids(), [1]);
}
