//! A processor with a little RAM for tests: long mode, CPL 0, the first 4 MiB mapped one to one.
#![allow(unsafe_code, clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::atomic::AtomicBool;

use iced_x86::IcedError;
use iced_x86::code_asm::CodeAssembler;
use scribe_types::cpu::{CpuState, DescriptorTable, Fpu, Registers, Segment};
use scribe_types::stop::{Progress, Stop};

use crate::block::{Cache, Found, Want};
use crate::cpu::Cpu;
use crate::op::Op;
use crate::{Behaviour, Profile, Ram, RamRegion, SoftCpu};

/// RAM of the tests.
pub(crate) const RAM: u64 = 4 << 20;
/// Where code is.
pub(crate) const CODE: u64 = 0x10_0000;
/// Where data may be.
pub(crate) const DATA: u64 = 0x20_0000;
/// Where the stack grows down from.
pub(crate) const STACK: u64 = 0x1f_0000;
const TABLES: u64 = 0x1000;

/// A processor and its RAM.
pub(crate) struct Bench {
    pub cpu: SoftCpu,
    /// backs the processor's RAM, page-aligned from `offset` on
    memory: Box<[u8]>,
    offset: usize,
}

pub(crate) fn profile() -> Profile {
    Profile { cpuid: &scribe_types::cpuid::SCRIBE_V1_TABLE, tsc: false, behaviour: Behaviour::Zen }
}

impl Bench {
    /// A processor at the first instruction of what `emit` assembles.
    pub(crate) fn new(emit: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Self {
        let mut assembler = CodeAssembler::new(64).unwrap();
        emit(&mut assembler).unwrap();
        Self::with_code(&assembler.assemble(CODE).unwrap())
    }

    /// A processor at the first byte of `code`.
    pub(crate) fn with_code(code: &[u8]) -> Self {
        let mut memory = vec![0; RAM as usize + 4096].into_boxed_slice();
        let offset = memory.as_ptr().align_offset(4096);
        let host = memory.as_mut_ptr() as u64 + offset as u64;
        // SAFETY: the box lives as long as the processor, and tests write to it only between runs.
        let ram = unsafe { Ram::new(vec![RamRegion { start: 0, size: RAM, host }]) };
        let mut bench = Self { cpu: SoftCpu::new(ram, profile()), memory, offset };
        bench.write(TABLES, &((TABLES + 0x1000) | 3).to_le_bytes());
        bench.write(TABLES + 0x1000, &((TABLES + 0x2000) | 3).to_le_bytes());
        for n in 0..2 {
            bench.write(TABLES + 0x2000 + 8 * n, &(n << 21 | 0x83).to_le_bytes());
        }
        bench.write(CODE, code);
        let state = bench.start();
        bench.cpu.set_state(&state).unwrap();
        bench
    }

    /// Long mode, flat segments.
    pub(crate) fn start(&self) -> CpuState {
        let data = Segment { base: 0, limit: u32::MAX, selector: 0x18, attributes: 0xc093 };
        let code = Segment { base: 0, limit: u32::MAX, selector: 0x10, attributes: 0xa09b };
        let ldt = Segment { attributes: 1 << 16, ..Segment::default() };
        let tss = Segment { base: 0, limit: 0x67, selector: 0, attributes: 0x8b };
        let mut registers = Registers { rip: CODE, rflags: 2, ..Registers::default() };
        registers.general[4] = STACK;
        CpuState {
            registers,
            segments: [data, code, data, data, data, data, ldt, tss],
            gdt: DescriptorTable { base: 0x500, limit: 0xff },
            idt: DescriptorTable { base: 0x6000, limit: 0xfff },
            cr0: 0x8000_0033,
            cr3: TABLES,
            cr4: 0x620,
            efer: 0xd01,
            dr6: 0xffff_0ff0,
            dr7: 0x400,
            fpu: Fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Fpu::default() },
            ..CpuState::default()
        }
    }

    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) {
        let at = self.offset + at as usize;
        self.memory[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn read<const N: usize>(&self, at: u64) -> [u8; N] {
        *self.memory[self.offset + at as usize..].first_chunk().unwrap()
    }

    /// Retires `steps` instructions, among them no conditional branch but the last; anything but reaching that place is a failure.
    #[track_caller]
    pub(crate) fn steps(&mut self, steps: u64) {
        let stop = self.run(steps);
        assert_eq!(stop, Stop::Reached, "{}", self.cpu.registers());
    }

    /// Runs for at most `steps` instructions.
    pub(crate) fn run(&mut self, steps: u64) -> Stop {
        let progress = self.cpu.progress();
        let until = Progress { steps: progress.steps + steps, ..progress };
        self.cpu.run(Some(until), &AtomicBool::new(false))
    }

    /// A general register.
    pub(crate) fn general(&self, number: usize) -> u64 {
        self.cpu.registers().general[number]
    }

    /// Changes the state.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut CpuState)) {
        let mut state = self.cpu.state();
        change(&mut state);
        self.cpu.set_state(&state).unwrap();
    }
}

/// The instruction at a linear address, to be run without what the run loop does around it.
pub(crate) fn op_at(cpu: &mut Cpu, linear: u64) -> Op {
    let mut cache = Cache::new();
    match cache.find(cpu, linear, Want::Single) {
        Ok(Found::Cached(number)) => cache.block(number).ops[0],
        _ => panic!("no code at {linear:#x}"),
    }
}
