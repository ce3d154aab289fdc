//! A vCPU of any engine with a hand-made guest and no machine around it: the test answers the exits.

use scribe_vmm::engine::cpu::{CpuState, Registers};
use scribe_vmm::engine::kvm::Kvm;
use scribe_vmm::engine::soft::{self, Soft};
use scribe_vmm::engine::{Answer, Engine, Exit, Fault, Stop};
use scribe_vmm::host::kick::Target;
use scribe_vmm::machine::boot::{self, SEED_BYTES};
use scribe_vmm::machine::cpuid;
use scribe_vmm::machine::kernel::{Blob, BootFiles};
use scribe_vmm::machine::memory::GuestRam;
use scribe_vmm::session::start::prepare_process;

use crate::engines::{self, Under};
use crate::tiny::{self, Emitted};
use iced_x86::code_asm::CodeAssembler;

/// RAX, RCX, ... in [`Registers::general`].
#[expect(missing_docs, reason = "the registers' own names")]
pub mod general {
    pub const RAX: usize = 0;
    pub const RCX: usize = 1;
    pub const RDX: usize = 2;
    pub const RBX: usize = 3;
    pub const RSP: usize = 4;
    pub const RSI: usize = 6;
    pub const RDI: usize = 7;
    pub const R8: usize = 8;
}

fn engine(ram: &GuestRam) -> Box<dyn Engine> {
    match engines::current() {
        Under::Kvm => Box::new(Kvm::new(ram).unwrap()),
        Under::Soft | Under::Counted => {
            Box::new(Soft::new(ram, &cpuid::PROFILES[0], soft::behaviour("zen").unwrap()))
        }
    }
}

/// One vCPU and its RAM.
pub struct Vcpu {
    /// its RAM
    pub ram: GuestRam,
    /// it
    pub engine: Box<dyn Engine>,
    /// kicks it came back for in [`exit`](Self::exit)
    pub kicks: u64,
}

impl Vcpu {
    /// A vCPU at the first instruction of the guest that `emit` assembles, on the engine of the calling thread's test
    /// ([`engines::current`]). It belongs to that thread.
    pub fn new(emit: impl FnOnce(&mut CodeAssembler) -> Emitted) -> Self {
        prepare_process().unwrap();
        let ram = GuestRam::new(tiny::RAM).unwrap();
        let kernel = Blob { source: "tiny".into(), bytes: tiny::kernel(emit) };
        let files = BootFiles { kernel, initrd: None };
        let start = boot::load(&ram, None, &files, "", &[0; SEED_BYTES]).unwrap();
        let mut engine = engine(&ram);
        engine.set_state(&start).unwrap();
        Self { ram, engine, kicks: 0 }
    }

    /// A fresh vCPU of a VM of its own, with a copy of this one's RAM, loaded with `state`.
    pub fn copy(&self, state: &CpuState) -> Self {
        let ram = GuestRam::new(tiny::RAM).unwrap();
        ram.write(0, &self.memory(0, usize::try_from(tiny::RAM).unwrap())).unwrap();
        let mut engine = engine(&ram);
        engine.set_state(state).unwrap();
        Self { ram, engine, kicks: 0 }
    }

    /// Bytes of RAM.
    pub fn memory(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.ram.read(address, &mut bytes).unwrap();
        bytes
    }

    /// Runs once.
    pub fn run(&mut self) -> Stop {
        self.engine.run(None).unwrap()
    }

    /// Runs to the next exit; kicks are counted, anything else is a failure.
    #[track_caller]
    pub fn exit(&mut self) -> Exit {
        loop {
            match self.run() {
                Stop::Exit(exit) => return exit,
                Stop::Kicked => self.kicks += 1,
                other => panic!("{other:?} at {}", self.registers()),
            }
        }
    }

    /// Answers the exit and retires its instruction; `Some`: the next exit of the same instruction.
    pub fn answer(&mut self, answer: Answer) -> Option<Exit> {
        self.engine.answer(answer);
        self.engine.finish().unwrap()
    }

    /// Answers an exit that must be its instruction's last.
    #[track_caller]
    pub fn finish(&mut self, answer: Answer) {
        assert_eq!(self.answer(answer), None);
    }

    /// Runs to the next exit, which must be `expected` and its instruction's only one, and retires it.
    #[track_caller]
    pub fn expect(&mut self, expected: Exit, answer: Answer) {
        assert_eq!(self.exit(), expected);
        self.finish(answer);
    }

    /// Runs to an OUT of a byte to port 0x80, retires it, and gives the byte.
    #[track_caller]
    pub fn mark(&mut self) -> u32 {
        match self.exit() {
            Exit::PortWrite { port: 0x80, size: 1, value } => {
                self.finish(Answer::Done);
                value
            }
            other => panic!("{other:?} at {}", self.registers()),
        }
    }

    /// Registers at the last stop.
    pub fn registers(&self) -> Registers {
        self.engine.registers()
    }

    /// One general register at the last stop, by its number ([`general`]).
    pub fn general(&self, number: usize) -> u64 {
        self.registers().general[number]
    }

    /// RIP relative to the guest's start.
    pub fn offset(&self) -> u64 {
        self.registers().rip - tiny::CODE
    }

    /// Kicks this vCPU, which is not running: the kick stays pending.
    pub fn kick(&self) {
        Target::current().kick();
    }
}

/// OUT of `value` to port 0x80 without changing a register but AL.
pub fn mark(a: &mut CodeAssembler, value: u8) -> Emitted {
    a.mov(iced_x86::code_asm::al, u32::from(value))?;
    a.out(0x80, iced_x86::code_asm::al)
}

/// True if the engine is a KVM that runs CPL 0 in its instruction emulator, which has no POPCNT. It does so many instructions at a
/// time as the host's scheduler allows, and looks for interrupt windows only between these.
pub fn emulates_kernels() -> bool {
    let mut vcpu = Vcpu::new(|a| {
        a.popcnt(iced_x86::code_asm::rax, iced_x86::code_asm::rbx)?;
        a.hlt()
    });
    match vcpu.run() {
        Stop::Exit(Exit::Halt) => false,
        Stop::Fault(Fault::Refused { rip: tiny::CODE, .. }) => true,
        other => panic!("{other:?} at {}", vcpu.registers()),
    }
}
