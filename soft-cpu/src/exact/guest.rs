//! Tiny kernels of a seed: tables, handlers that get the guest going again, and code that does whatever is likely to show
//! what the host has done.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use scribe_types::cpu::{CpuState, DescriptorTable, Fpu, Registers, Segment};

use super::items;
use super::random::Random;
use super::world::RAM;
use crate::{Behaviour, Profile};

pub(super) const TABLES: u64 = 0x1000;
/// Entries of the first 2 MiB.
pub(super) const ENTRIES: u64 = 0x4000;
pub(super) const CODE: u64 = 0x1_0000;
/// Bytes that the code may have.
pub(super) const CODE_BYTES: u64 = 0x3000;
pub(super) const DATA: u64 = 0x2_0000;
const STACK: u64 = 0x1_f000;
/// Linear address of pages that the guest maps here and there.
pub(super) const WINDOW: u64 = 0x10_0000;
pub(super) const WINDOW_PAGES: u64 = 128;
/// Linear address of all RAM, for the user.
pub(super) const USER: u64 = 0x18_0000;
/// The same 2 MiB of linear addresses once more, in the same slots of the TLB.
pub(super) const AGAIN: u64 = 0x40_0000;
const GDT: u64 = 0x500;
const IDT: u64 = 0x6000;
const TSS: u64 = 0x7000;
const HANDLERS: u64 = 0x8000;
const KERNEL_CODE: u64 = 0x10;
const KERNEL_DATA: u64 = 0x18;
const RF: u32 = 1 << 16;
/// An address that is not RAM.
pub(super) const DEVICE: u64 = 0x3000_0000;

/// Where a guest starts.
pub(super) struct Guest {
    pub seed: u64,
    pub profile: Profile,
    pub ram: Vec<u8>,
    pub state: CpuState,
}

impl Guest {
    pub(super) fn write(&mut self, at: u64, bytes: &[u8]) {
        self.ram[at as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    fn word(&mut self, at: u64, value: u64) {
        self.write(at, &value.to_le_bytes());
    }

    /// A kernel in long mode.
    pub(super) fn long(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let profile = Profile {
            cpuid: &scribe_types::cpuid::SCRIBE_V1_TABLE,
            tsc: random.once_in(2),
            behaviour: random.pick(&[Behaviour::Zen, Behaviour::Tcg]),
        };
        let ram = vec![0; RAM as usize];
        let mut guest = Self { seed, profile, ram, state: CpuState::default() };
        // Near the end of a page more often than not.
        let start = CODE + if random.once_in(3) { 0 } else { 0x1000 - random.below(0x180) };
        guest.tables(&mut random);
        guest.interrupts(start);
        for at in (DATA..DATA + 0x5000).step_by(8) {
            guest.word(at, random.next());
        }
        let code = code(&mut random, start).unwrap();
        guest.write(start, &code[..code.len().min((CODE + CODE_BYTES - start) as usize)]);
        guest.state = state(&mut random, start);
        guest
    }

    fn tables(&mut self, random: &mut Random) {
        self.word(TABLES, (TABLES + 0x1000) | 7);
        self.word(TABLES + 0x1000, (TABLES + 0x2000) | 7);
        self.word(TABLES + 0x2000, ENTRIES | 7);
        self.word(TABLES + 0x2010, ENTRIES | 7);
        self.word(TABLES + 0x2008, DEVICE | 0x87);
        for n in 0..RAM >> 12 {
            // A jump to what is no code faults, for the handlers to set it right.
            let code = n == HANDLERS >> 12 || (CODE..CODE + CODE_BYTES).contains(&(n << 12));
            let frame = n << 12 | if code { 0 } else { 1 << 63 };
            self.word(ENTRIES + 8 * n, frame | 3);
            self.word(ENTRIES + 8 * ((USER >> 12) + n), frame | 7);
        }
        for n in 0..WINDOW_PAGES {
            self.word(ENTRIES + 8 * ((WINDOW >> 12) + n), items::entry(random));
        }
    }

    fn interrupts(&mut self, start: u64) {
        let descriptors = [
            (0x10, 0x00af_9a00_0000_ffff), // code
            (0x18, 0x00cf_9200_0000_ffff), // data
            (0x28, 0x00cf_f200_0000_ffff), // the user's data
            (0x30, 0x00af_fa00_0000_ffff), // the user's code
            (0x38, 0x00cf_fa00_0000_ffff), // the user's code of 32 bits
            (0x40, 0x0000_8900_7000_0067), // TSS
        ];
        for (at, raw) in descriptors {
            self.word(GDT + at, raw);
        }
        let (code, offsets) = handlers(start).unwrap();
        self.write(HANDLERS, &code);
        for vector in 0..256u64 {
            let offset = match vector {
                1 => offsets[2],
                8 | 10..=14 | 17 => offsets[1],
                0x20..0x30 => offsets[3],
                0x80 => offsets[4],
                _ => offsets[0],
            };
            let dpl = if matches!(vector, 3 | 4 | 0x80) { 0xee00 } else { 0x8e00 };
            let ist = match vector {
                8 => 1,
                12..=14 => 2,
                _ => 0,
            };
            let low = offset & 0xffff | KERNEL_CODE << 16 | ist << 32 | dpl << 32 | (offset >> 16) << 48;
            self.word(IDT + 16 * vector, low);
        }
        self.word(TSS + 4, 0x1_8000);
        self.word(TSS + 0x24, 0x1_a000);
        self.word(TSS + 0x2c, 0x1_c000);
        self.write(TSS + 0x66, &0x68u16.to_le_bytes());
    }
}

/// Handlers of faults without and with an error code, of #DB, of devices, of INT 80h, of SYSCALL, for code that begins at
/// `start`.
fn handlers(start: u64) -> Result<(Vec<u8>, [u64; 6]), IcedError> {
    let mut a = CodeAssembler::new(64)?;
    let mut labels: [CodeLabel; 6] = std::array::from_fn(|_| a.create_label());
    let [mut plain, mut coded, mut debug, mut device, mut call, mut system] = labels;
    let mut reset = a.create_label();
    let mut leave = a.create_label();
    a.set_label(&mut coded)?;
    a.add(rsp, 8)?;
    a.set_label(&mut plain)?;
    a.push(rax)?;
    // A little further on, where that is code; else from the start, with a stack that works.
    a.add(qword_ptr(rsp + 8), 5)?;
    a.mov(rax, qword_ptr(rsp + 8))?;
    a.and(rax, !(USER as i32 | AGAIN as i32))?;
    a.sub(rax, CODE as i32)?;
    a.cmp(rax, CODE_BYTES as i32 - 0x100)?;
    a.jb(leave)?;
    a.set_label(&mut reset)?;
    a.mov(qword_ptr(rsp + 8), start as i32)?;
    a.mov(qword_ptr(rsp + 16), KERNEL_CODE as i32)?;
    a.and(qword_ptr(rsp + 24), 0x202)?;
    a.mov(qword_ptr(rsp + 32), STACK as i32)?;
    a.mov(qword_ptr(rsp + 40), KERNEL_DATA as i32)?;
    a.set_label(&mut leave)?;
    a.pop(rax)?;
    a.iretq()?;

    a.set_label(&mut debug)?;
    a.or(dword_ptr(rsp + 16), RF as i32)?;
    a.inc(dword_ptr(DATA + 0x4ff8))?;
    let mut on = a.create_label();
    a.test(dword_ptr(DATA + 0x4ff8), 7)?;
    a.jnz(on)?;
    a.and(qword_ptr(rsp + 16), !0x100)?; // no more TF
    a.set_label(&mut on)?;
    a.iretq()?;

    a.set_label(&mut device)?;
    a.inc(dword_ptr(DATA + 0x4ff0))?;
    a.iretq()?;

    a.set_label(&mut call)?;
    a.and(qword_ptr(rsp), !(USER as i32))?;
    a.mov(qword_ptr(rsp + 8), KERNEL_CODE as i32)?;
    a.mov(qword_ptr(rsp + 24), STACK as i32)?;
    a.mov(qword_ptr(rsp + 32), KERNEL_DATA as i32)?;
    a.iretq()?;

    a.set_label(&mut system)?;
    a.and(rcx, !(USER as i32))?;
    a.mov(esp, STACK as u32)?;
    a.jmp(rcx)?;

    labels = [plain, coded, debug, device, call, system];
    let result =
        a.assemble_options(HANDLERS, iced_x86::BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS)?;
    let mut offsets = [0; 6];
    for (offset, label) in offsets.iter_mut().zip(&labels) {
        *offset = result.label_ip(label)?;
    }
    Ok((result.inner.code_buffer, offsets))
}

/// Items, and back to the first.
fn code(random: &mut Random, start: u64) -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(64)?;
    let mut first = a.create_label();
    a.set_label(&mut first)?;
    for _ in 0..random.below(60) + 10 {
        items::item(&mut a, random, 2)?;
    }
    a.jmp(first)?;
    a.assemble(start)
}

fn state(random: &mut Random, start: u64) -> CpuState {
    let data = Segment { base: 0, limit: u32::MAX, selector: 0x18, attributes: 0xc093 };
    let code = Segment { base: 0, limit: u32::MAX, selector: 0x10, attributes: 0xa09b };
    let ldt = Segment { attributes: 1 << 16, ..Segment::default() };
    let tss = Segment { base: TSS, limit: 0x67, selector: 0x40, attributes: 0x8b };
    let mut registers = Registers { rip: start, rflags: 2, ..Registers::default() };
    registers.general = std::array::from_fn(|_| items::value(random));
    registers.general[4] = STACK;
    let msrs =
        [0, 0, 0, 0x0007_0406_0007_0406, 0x0020_0010_0000_0000, handlers(start).unwrap().1[5], 0, 0x200, 0];
    CpuState {
        registers,
        segments: [data, code, data, data, data, data, ldt, tss],
        gdt: DescriptorTable { base: GDT, limit: 0xff },
        idt: DescriptorTable { base: IDT, limit: 0xfff },
        cr0: 0x8000_0033 | random.pick(&[0, 1 << 16]),
        cr3: TABLES,
        cr4: 0x620 | random.pick(&[0, 1 << 7]),
        efer: 0xd01,
        dr6: 0xffff_0ff0,
        dr7: 0x400,
        fpu: Fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Fpu::default() },
        msrs: scribe_types::msr::SAVED.into_iter().zip(msrs).collect(),
        ..CpuState::default()
    }
}
