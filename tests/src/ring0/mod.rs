//! Ring-0 behaviour in small cases: each starts a vCPU in a state of its own, runs a few instructions to the next HLT, which
//! is in a handler or behind them, and writes down everything that has changed: registers, segments, system registers, RAM.
//!
//! The text is the same for every engine that is right, so it lies in a file (tests/golden/ring0.txt) that each is held
//! against. The cases are the tables in the modules beside this one.

mod code;
mod debug;
pub mod layout;
mod legacy;
mod paging;
mod record;
mod segment;
mod syscall;
mod system;
mod transfer;

use iced_x86::code_asm::CodeAssembler;
use scribe_soft_cpu::Behaviour;
use scribe_vmm::engine::Engine;
use scribe_vmm::engine::cpu::CpuState;
use scribe_vmm::engine::kvm::Kvm;
use scribe_vmm::engine::soft::Soft;
use scribe_vmm::machine::cpuid;
use scribe_vmm::machine::memory::GuestRam;
use scribe_vmm::session::start::prepare_process;

use crate::tiny::{self, Emitted};
use layout::{PT, Start};

/// One case.
#[derive(Debug)]
pub struct Case {
    /// its name, which no other has
    pub name: String,
    start: Start,
    state: CpuState,
    /// what is in RAM beyond [`layout::ram`]
    ram: Vec<(u64, Vec<u8>)>,
    /// HLTs in handlers that it goes on from
    resumes: usize,
}

impl Case {
    /// Puts into `ram` what the case finds there, and gives the state that it starts in.
    pub fn set_up(&self, ram: &GuestRam) -> &CpuState {
        for (at, bytes) in layout::ram().iter().chain(&self.ram) {
            ram.write(*at, bytes).unwrap();
        }
        &self.state
    }

    /// Goes on from so many HLTs in handlers and other places that are not its end.
    pub fn resumed(&mut self, times: usize) -> &mut Self {
        self.resumes = times;
        self
    }

    /// Puts bytes into RAM.
    pub fn poke(&mut self, at: u64, bytes: &[u8]) -> &mut Self {
        self.ram.push((at, bytes.to_vec()));
        self
    }

    /// Puts a word into RAM.
    pub fn word(&mut self, at: u64, word: u64) -> &mut Self {
        self.poke(at, &word.to_le_bytes())
    }

    /// Changes the page-table entry of a linear address.
    pub fn page(&mut self, linear: u64, entry: u64) -> &mut Self {
        self.word(PT + (linear >> 12) * 8, entry)
    }

    /// Changes the state that it starts in.
    pub fn with(&mut self, change: impl FnOnce(&mut CpuState)) -> &mut Self {
        change(&mut self.state);
        self
    }
}

/// All cases, in their order.
pub fn cases() -> Vec<Case> {
    let mut suite = Suite::default();
    paging::add(&mut suite);
    segment::add(&mut suite);
    transfer::add(&mut suite);
    syscall::add(&mut suite);
    debug::add(&mut suite);
    code::add(&mut suite);
    system::add(&mut suite);
    legacy::add(&mut suite);
    suite.cases
}

/// Cases as they are collected.
#[derive(Debug, Default)]
struct Suite {
    cases: Vec<Case>,
}

impl Suite {
    /// A case with code as `emit` assembles it; an end is put behind it.
    fn add(
        &mut self,
        name: impl Into<String>,
        start: Start,
        emit: impl FnOnce(&mut CodeAssembler) -> Emitted,
    ) -> &mut Case {
        let mut assembler = CodeAssembler::new(start.bitness()).unwrap();
        emit(&mut assembler).unwrap();
        if start.is_kernel() {
            assembler.hlt().unwrap();
        } else {
            assembler.int(0x8f).unwrap();
        }
        self.raw(name, start, &assembler.assemble(start.rip()).unwrap())
    }

    /// A case with machine code.
    fn raw(&mut self, name: impl Into<String>, start: Start, code: &[u8]) -> &mut Case {
        let name = name.into();
        assert!(self.cases.iter().all(|case| case.name != name), "two cases are called {name}");
        let mut case = Case { name, start, state: start.state(), ram: Vec::new(), resumes: 0 };
        case.poke(start.code(), code);
        self.cases.push(case);
        self.cases.last_mut().unwrap()
    }
}

/// Cases that the lab's emulated processor does not survive, and why. The manuals' answer is in the file.
pub const DEADLY: [(&str, &str); 1] = [(
    "trampoline lme without pae",
    "it does not notice CR0.PG with EFER.LME and without CR4.PAE, and never stops",
)];

/// Whether a case is one of them.
pub fn is_deadly(name: &str) -> bool {
    DEADLY.iter().any(|(deadly, _)| *deadly == name)
}

/// What runs a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// the processor in software, with one of its behaviours
    Soft(Behaviour),
    /// the host's KVM
    Kvm,
}

/// Runs a case on a vCPU of its own, and gives what happened as text.
pub fn run(case: &Case, on: On) -> String {
    prepare_process().unwrap();
    let ram = GuestRam::new(tiny::RAM).unwrap();
    let start = case.set_up(&ram);
    let mut engine: Box<dyn Engine> = match on {
        On::Kvm => Box::new(Kvm::new(&ram).unwrap()),
        On::Soft(behaviour) => Box::new(Soft::new(&ram, &cpuid::PROFILES[0], behaviour)),
    };
    engine.set_state(start).unwrap();
    record::record(case, &ram, engine.as_mut())
}
