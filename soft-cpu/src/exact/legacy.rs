//! Guests outside long mode: 32-bit code without paging and with both kinds of it, virtual-8086 and real mode, code segments
//! that end soon.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use scribe_types::cpu::{CpuState, DescriptorTable, Fpu, Registers, Segment};

use super::guest::{CODE, CODE_BYTES, DATA, DEVICE, Guest};
use super::random::Random;
use super::world::RAM;
use crate::{Behaviour, Profile};

const GDT: u64 = 0x500;
const IDT: u64 = 0x6000;
const TSS: u64 = 0x7000;
const HANDLERS: u64 = 0x8000;
const STACK: u32 = 0x1_f000;
/// Root of the paging structures, and the table of the first 2 or 4 MiB.
const ROOT: u64 = 0x1000;
const ENTRIES: u64 = 0x4000;
/// Linear addresses of pages that change.
const WINDOW: u32 = 0x10_0000;

/// What kind of guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Flat,
    /// entries of 4 bytes
    Paged,
    /// entries of 8 bytes
    Extended,
    Virtual,
    Real,
}

impl Kind {
    fn bits(self) -> u32 {
        if matches!(self, Self::Virtual | Self::Real) { 16 } else { 32 }
    }
}

impl Guest {
    /// A guest outside long mode.
    pub(super) fn legacy(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x1e6a);
        let r = &mut random;
        let profile = Profile {
            cpuid: &scribe_types::cpuid::SCRIBE_V1_TABLE,
            tsc: false,
            behaviour: r.pick(&[Behaviour::Zen, Behaviour::Tcg]),
        };
        let kind = r.pick(&[Kind::Flat, Kind::Paged, Kind::Paged, Kind::Extended, Kind::Virtual, Kind::Real]);
        let mut guest = Self { seed, profile, ram: vec![0; RAM as usize], state: CpuState::default() };
        for at in (DATA..DATA + 0x5000).step_by(8) {
            guest.write(at, &r.next().to_le_bytes());
        }
        let start = CODE + if r.once_in(3) { 0 } else { 0x1000 - r.below(0x100) };
        let code = code(r, kind, start).unwrap();
        guest.write(start, &code[..code.len().min((CODE + CODE_BYTES - start) as usize)]);
        guest.interrupts_of(kind);
        guest.tables_of(r, kind);
        guest.state = state(r, kind, start, code.len() as u64);
        let limit = u64::from(guest.state.segments[1].limit);
        if kind.bits() == 32 && limit != u64::from(u32::MAX) {
            let raw = limit & 0xffff | 0x9a00 << 32 | (limit >> 16) << 48 | 0x40 << 48;
            guest.write(GDT + 0x10, &raw.to_le_bytes());
        }
        guest
    }

    fn interrupts_of(&mut self, kind: Kind) {
        let code = handler(kind).unwrap();
        self.write(HANDLERS, &code);
        for vector in 0..256u64 {
            // Behind the first instruction, which drops an error code.
            let coded = matches!(vector, 8 | 10..=14 | 17) && kind != Kind::Real;
            let offset = HANDLERS + if coded { 0 } else { 3 };
            if kind == Kind::Real {
                self.write(4 * vector, &(offset as u32).to_le_bytes());
            } else {
                let gate = offset | 0x10 << 16 | 0xee00 << 32;
                self.write(IDT + 8 * vector, &gate.to_le_bytes());
            }
        }
        if kind == Kind::Real {
            return;
        }
        for (at, raw) in
            [(0x10, 0x00cf_9a00_0000_ffff_u64), (0x18, 0x00cf_9200_0000_ffff), (0x28, 0x0000_8900_7000_0067)]
        {
            self.write(GDT + at, &raw.to_le_bytes());
        }
        self.write(TSS + 4, &0x1_8000u32.to_le_bytes());
        self.write(TSS + 8, &0x18u32.to_le_bytes());
        self.write(TSS + 0x66, &0x68u16.to_le_bytes());
    }

    fn tables_of(&mut self, r: &mut Random, kind: Kind) {
        match kind {
            Kind::Paged => {
                self.write(ROOT, &(ENTRIES as u32 | 7).to_le_bytes());
                self.write(ROOT + 4, &(ENTRIES as u32 | 7).to_le_bytes());
                for n in 0..512u64 {
                    let entry = if n < RAM >> 12 { (n as u32) << 12 | 7 } else { entry(r) };
                    self.write(ENTRIES + 4 * n, &entry.to_le_bytes());
                }
            }
            Kind::Extended => {
                for n in 0..4 {
                    self.write(ROOT + 8 * n, &0x2001u64.to_le_bytes());
                }
                self.write(0x2000, &(ENTRIES | 7).to_le_bytes());
                self.write(0x2010, &(ENTRIES | 7).to_le_bytes());
                for n in 0..512u64 {
                    let entry = if n < RAM >> 12 { n << 12 | 7 } else { entry(r).into() };
                    self.write(ENTRIES + 8 * n, &entry.to_le_bytes());
                }
            }
            _ => {}
        }
    }
}

/// A page-table entry for the window.
fn entry(r: &mut Random) -> u32 {
    let frame = match r.below(8) {
        0 => CODE + (r.below(3) << 12),
        1 => ENTRIES,
        2 => DEVICE,
        _ => DATA + (r.below(5) << 12),
    };
    frame as u32 | r.pick(&[3, 3, 7, 7, 1, 2, 0x23, 0x63])
}

/// Goes on a little behind the fault.
fn handler(kind: Kind) -> Result<Vec<u8>, IcedError> {
    if kind == Kind::Real {
        let mut a = CodeAssembler::new(16)?;
        a.add(sp, 2)?;
        a.push(bp)?;
        a.mov(bp, sp)?;
        a.add(word_ptr(bp + 2), 5)?;
        a.pop(bp)?;
        a.iret()?;
        return a.assemble(HANDLERS);
    }
    let mut a = CodeAssembler::new(32)?;
    a.add(esp, 4)?;
    a.add(dword_ptr(esp), 5)?;
    let mut fine = a.create_label();
    a.cmp(dword_ptr(esp), (CODE + CODE_BYTES) as u32)?;
    a.jb(fine)?;
    a.mov(dword_ptr(esp), CODE as u32)?;
    a.set_label(&mut fine)?;
    a.or(dword_ptr(esp + 8), 1 << 16)?; // RF, for breakpoints
    a.and(dword_ptr(esp + 8), !0x100)?;
    a.iretd()?;
    a.assemble(HANDLERS)
}

fn code(r: &mut Random, kind: Kind, start: u64) -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(kind.bits())?;
    let mut first = a.create_label();
    a.set_label(&mut first)?;
    for _ in 0..r.below(40) + 10 {
        if kind.bits() == 16 { item_16(&mut a, r)? } else { item_32(&mut a, r, kind)? }
    }
    a.jmp(first)?;
    a.assemble(start)
}

/// Linear addresses: in 32-bit code data and the window, where there is one.
fn address(r: &mut Random) -> u32 {
    let page = match r.below(8) {
        0..=3 => WINDOW + ((r.below(4) as u32) << 12),
        4 => CODE as u32 + ((r.below(3) as u32) << 12),
        _ => DATA as u32 + ((r.below(5) as u32) << 12),
    };
    page + if r.once_in(4) { 0x1000 - r.below(8) as u32 } else { r.below(0x1000) as u32 }
}

fn item_32(a: &mut CodeAssembler, r: &mut Random, kind: Kind) -> Result<(), IcedError> {
    let paged = matches!(kind, Kind::Paged | Kind::Extended);
    match r.below(16) {
        0 => a.adc(eax, ecx),
        1 => a.imul_2(edx, esi),
        2..=4 => {
            a.mov(ebx, address(r))?;
            match r.below(5) {
                0 => a.mov(eax, dword_ptr(ebx)),
                1 => a.mov(dword_ptr(ebx), ecx),
                2 => a.inc(word_ptr(ebx)),
                3 => a.pop(dword_ptr(ebx)),
                _ => a.push(dword_ptr(ebx)),
            }
        }
        5 | 6 if paged => {
            // A change without INVLPG, between two accesses.
            let page = r.below(4);
            let size = if kind == Kind::Extended { 8 } else { 4 };
            let at = ENTRIES as u32 + size * ((WINDOW >> 12) + page as u32);
            let touched = WINDOW + ((page as u32) << 12) + r.below(0xff0) as u32;
            a.mov(edi, touched)?;
            a.add(dword_ptr(edi), 1)?;
            a.mov(dword_ptr(at), entry(r))?;
            if r.once_in(2) {
                a.add(dword_ptr(edi), 1)?
            } else {
                a.mov(edx, dword_ptr(edi))?
            }
            a.add(ebp, dword_ptr(at))
        }
        7 => {
            a.mov(ecx, r.below(20) as u32)?;
            a.mov(esi, address(r))?;
            a.mov(edi, address(r))?;
            match r.below(4) {
                0 => a.rep().movsb(),
                1 => a.rep().stosd(),
                2 => a.repe().cmpsb(),
                _ => a.repne().scasb(),
            }
        }
        8 => a.pusha(),
        9 => a.popad(),
        10 => {
            a.pushfd()?;
            a.xor(dword_ptr(esp), r.pick(&[0x100, 0x200, 0x4_0000]))?;
            a.popfd()
        }
        11 => a.enter(8, r.below(3) as i32),
        12 => {
            a.mov(edx, r.below(100) as u32)?;
            if r.once_in(2) { a.in_(al, dx) } else { a.out(dx, al) }
        }
        13 => {
            // A byte of the code.
            a.mov(byte_ptr(CODE as u32 + r.below(CODE_BYTES) as u32), r.below(256) as i32)
        }
        14 => {
            a.mov(eax, ss)?;
            a.mov(ss, eax)
        }
        _ => {
            let bytes: [u8; 6] = r.bytes();
            a.db(&bytes)
        }
    }
}

fn item_16(a: &mut CodeAssembler, r: &mut Random) -> Result<(), IcedError> {
    match r.below(10) {
        0 => a.sbb(ax, dx),
        1 => a.mov(bx, r.next() as u16 as i32),
        2 => a.add(word_ptr(bx + si), cx),
        3 => {
            a.mov(cx, r.below(30) as i32)?;
            a.mov(di, r.next() as u16 as i32)?;
            if r.once_in(2) { a.rep().movsw() } else { a.rep().stosb() }
        }
        4 => {
            a.pushf()?;
            a.pop(ax)?;
            a.xor(ax, r.pick(&[0x100, 0x200, 0x400]))?;
            a.push(ax)?;
            a.popf()
        }
        5 => {
            // Perhaps into the code.
            a.mov(ax, r.pick(&[0x1000, 0x2000]))?;
            a.mov(es, ax)
        }
        6 => a.in_(al, r.below(256) as u32),
        7 => {
            a.mov(ax, ss)?;
            a.mov(ss, ax)
        }
        _ => {
            let bytes: [u8; 5] = r.bytes();
            a.db(&bytes)
        }
    }
}

fn state(r: &mut Random, kind: Kind, start: u64, bytes: u64) -> CpuState {
    let flat = Segment { base: 0, limit: u32::MAX, selector: 0x18, attributes: 0xc093 };
    let mut code = Segment { selector: 0x10, attributes: 0xc09b, ..flat };
    if kind.bits() == 32 && r.once_in(2) {
        // It ends in the midst of the code.
        code.limit = (start + r.below(bytes)) as u32;
        code.attributes = 0x409b;
    }
    let real =
        |base: u64, attributes| Segment { base, limit: 0xffff, selector: (base >> 4) as u16, attributes };
    let ldt = Segment { attributes: 1 << 16, ..Segment::default() };
    let tss = Segment { base: TSS, limit: 0x67, selector: 0x28, attributes: 0x8b };
    let attributes = if kind == Kind::Virtual { 0xf3 } else { 0x93 };
    let data_16 = real(DATA, attributes);
    let segments = match kind.bits() {
        16 => {
            [data_16, real(CODE, attributes), real(0x1_8000, attributes), data_16, data_16, data_16, ldt, tss]
        }
        _ => [flat, code, flat, flat, flat, flat, ldt, tss],
    };
    let mut registers = Registers { rip: start, rflags: 2, ..Registers::default() };
    registers.general = std::array::from_fn(|_| u64::from(address(r)));
    registers.general[4] = STACK.into();
    registers.general[8..].fill(0);
    if kind.bits() == 16 {
        registers.rip = start - CODE;
        registers.general[4] = 0x6000;
    }
    if kind == Kind::Virtual {
        registers.rflags |= 1 << 17 | r.pick(&[0, 3 << 12]);
    }
    let control = match kind {
        Kind::Real => (0x30, 0x600),
        Kind::Flat | Kind::Virtual => (0x33, 0x600),
        Kind::Paged => (0x8000_0033 | r.pick(&[0, 1 << 16]), 0x610),
        Kind::Extended => (0x8000_0033, 0x620),
    };
    CpuState {
        registers,
        segments,
        gdt: DescriptorTable { base: GDT, limit: 0xff },
        idt: DescriptorTable { base: if kind == Kind::Real { 0 } else { IDT }, limit: 0x7ff },
        cr0: control.0,
        cr3: ROOT,
        cr4: control.1,
        dr6: 0xffff_0ff0,
        dr7: 0x400,
        fpu: Fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Fpu::default() },
        ..CpuState::default()
    }
}
