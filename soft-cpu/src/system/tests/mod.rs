//! Small guests for the system's instructions, and what they share: GDT, IDT, TSS, user pages.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod behaviour;
mod debug;
mod events;
mod hostile;
mod legacy;
mod registers;
mod segments;
mod transfers;

use iced_x86::IcedError;
use iced_x86::code_asm::CodeAssembler;
use scribe_types::cpu::Segment;

use crate::testing::{Bench, CODE, DATA};

const GDT: u64 = 0x500;
const IDT: u64 = 0x6000;
const TSS: u64 = 0x7000;
/// Handler of vector n: `HANDLERS + 16 * n`, all NOPs.
const HANDLERS: u64 = 0x8000;
/// RSP0 of the TSS.
const RSP0: u64 = 0x1_8000;
/// IST1 of the TSS.
const IST1: u64 = 0x1_c000;
/// Code of the user, in the user's pages.
const USER: u64 = DATA + 0x1_0000;
/// Stack of the user.
const USER_STACK: u64 = DATA + 0x2_0000;

const KERNEL_CODE: u16 = 0x10;
const KERNEL_DATA: u16 = 0x18;
const USER_CODE_32: u16 = 0x23;
const USER_DATA: u16 = 0x2b;
const USER_CODE: u16 = 0x33;
const KERNEL_CODE_32: u16 = 0x38;
const TASK: u16 = 0x40;
/// 4 KiB of data from DATA on, for everybody.
const SMALL: u16 = 0x53;
/// Expand-down data from DATA on, offsets above 0xfff.
const DOWN: u16 = 0x5b;
/// Code that may not be read.
const EXECUTE_ONLY: u16 = 0x63;
/// Not present.
const ABSENT: u16 = 0x6b;

/// A descriptor; `attributes` as in [`Segment::attributes`].
fn descriptor(base: u64, limit: u32, attributes: u32) -> [u8; 8] {
    let raw = u64::from(limit & 0xffff)
        | (base & 0xff_ffff) << 16
        | u64::from(attributes) << 40
        | u64::from(limit >> 16) << 48
        | (base >> 24 & 0xff) << 56;
    raw.to_le_bytes()
}

/// A gate of long mode's IDT.
fn gate(offset: u64, selector: u16, ist: u8, attributes: u8) -> [u8; 16] {
    let low = offset & 0xffff
        | u64::from(selector) << 16
        | u64::from(ist) << 32
        | u64::from(attributes) << 40
        | (offset >> 16 & 0xffff) << 48;
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&low.to_le_bytes());
    bytes[8..].copy_from_slice(&(offset >> 32).to_le_bytes());
    bytes
}

fn handler(vector: u8) -> u64 {
    HANDLERS + 16 * u64::from(vector)
}

impl Bench {
    /// A kernel's tables, and the second 2 MiB for the user.
    fn kernel(emit: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Self {
        let mut bench = Self::new(emit);
        bench.tables();
        bench
    }

    fn tables(&mut self) {
        self.tables_in_memory();
        self.change(|s| {
            s.segments[7] = Segment { base: TSS, limit: 0x67, selector: TASK, attributes: 0x8b };
        });
    }

    fn tables_in_memory(&mut self) {
        let entries: [(u16, [u8; 8]); 13] = [
            (KERNEL_CODE, descriptor(0, 0xf_ffff, 0xa09a)),
            (KERNEL_DATA, descriptor(0, 0xf_ffff, 0xc092)),
            (USER_CODE_32, descriptor(0, 0xf_ffff, 0xc0fa)),
            (USER_DATA, descriptor(0, 0xf_ffff, 0xc0f2)),
            (USER_CODE, descriptor(0, 0xf_ffff, 0xa0fa)),
            (KERNEL_CODE_32, descriptor(0, 0xf_ffff, 0xc09a)),
            (TASK, descriptor(TSS, 0x67, 0x89)),
            (TASK + 8, [0; 8]),
            (SMALL, descriptor(DATA, 0xfff, 0x40f2)),
            (DOWN, descriptor(DATA, 0xfff, 0x40f6)),
            (EXECUTE_ONLY, descriptor(0, 0xf_ffff, 0xc0f8)),
            (ABSENT, descriptor(0, 0xf_ffff, 0xc072)),
            (0x70, descriptor(0, 0xffff, 0x9a)),
        ];
        for (selector, entry) in entries {
            self.write(GDT + u64::from(selector & !7), &entry);
        }
        for vector in 0..=255 {
            let dpl3 = matches!(vector, 3 | 4 | 0x80);
            let attributes = if dpl3 { 0xee } else { 0x8e };
            self.write(IDT + 16 * u64::from(vector), &gate(handler(vector), KERNEL_CODE, 0, attributes));
        }
        self.write(HANDLERS, &[0x90; 0x1010]);
        self.write(TSS + 4, &RSP0.to_le_bytes());
        self.write(TSS + 0x24, &IST1.to_le_bytes());
        self.write(TSS + 0x66, &0x68u16.to_le_bytes());
        self.write(0x1000, &0x2007u64.to_le_bytes());
        self.write(0x2000, &0x3007u64.to_le_bytes());
        self.write(0x3008, &0x20_0087u64.to_le_bytes());
    }

    /// Has the processor run the user's 64-bit code, which `emit` assembles.
    fn user(emit: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Self {
        let mut assembler = CodeAssembler::new(64).unwrap();
        emit(&mut assembler).unwrap();
        let code = assembler.assemble(USER).unwrap();
        Self::user_bytes(&code, false)
    }

    /// The same in compatibility mode.
    fn compatibility(emit: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Self {
        let mut assembler = CodeAssembler::new(32).unwrap();
        emit(&mut assembler).unwrap();
        let code = assembler.assemble(USER).unwrap();
        Self::user_bytes(&code, true)
    }

    fn user_bytes(code: &[u8], compatibility: bool) -> Self {
        let mut bench = Self::with_code(&[0x90]);
        bench.tables();
        bench.write(USER, code);
        bench.change(|s| {
            let data = Segment { base: 0, limit: u32::MAX, selector: USER_DATA, attributes: 0xc0f3 };
            let (selector, attributes) =
                if compatibility { (USER_CODE_32, 0xc0fb) } else { (USER_CODE, 0xa0fb) };
            let code = Segment { selector, attributes, ..data };
            s.segments[..6].copy_from_slice(&[data, code, data, data, data, data]);
            s.registers.rip = USER;
            s.registers.general[4] = USER_STACK;
            s.registers.rflags = 0x202;
        });
        bench
    }

    /// The instruction at RIP faults, and a NOP of its handler retires; gives the frame: error code (0 where there is
    /// none), RIP, CS, RFLAGS without RF, RSP, SS.
    #[track_caller]
    fn fault(&mut self, vector: u8) -> [u64; 6] {
        self.steps(1);
        self.frame(vector)
    }

    /// The frame, when the first NOP of the handler has retired.
    #[track_caller]
    fn frame(&mut self, vector: u8) -> [u64; 6] {
        assert_eq!(self.cpu.registers().rip, handler(vector) + 1, "{}", self.cpu.registers());
        let has_code = matches!(vector, 8 | 10..=14 | 17);
        let mut words = [0; 6];
        let mut at = self.general(4);
        for word in &mut words[usize::from(!has_code)..] {
            *word = u64::from_le_bytes(self.read(at));
            at += 8;
        }
        words[3] &= !(1 << 16);
        words
    }

    fn rip(&self) -> u64 {
        self.cpu.registers().rip
    }
}

/// Where the code of `Bench::kernel` goes on `bytes` behind its start.
fn after(bytes: u64) -> u64 {
    CODE + bytes
}
