//! What every case's guest finds in RAM and in its vCPU: page tables, descriptor tables, a TSS, handlers, stacks.

use scribe_vmm::engine::cpu::{CpuState, DescriptorTable, Fpu, Registers, Segment};
use scribe_vmm::machine::msr;

/// RAM that is looked at; there is no other that a case uses.
pub const LOOKED_AT: u64 = 0x12_0000;
/// PML4 of the long-mode tables; PDPT, PD and PT follow.
pub const PML4: u64 = 0x1000;
/// The page table of the first 2 MiB.
pub const PT: u64 = 0x4000;
/// Handler of vector v of 64-bit code: 16 bytes each.
pub const HANDLERS: u64 = 0x5000;
/// Handlers of 16-bit and of 32-bit code.
pub const SHORT_HANDLERS: u64 = 0x6000;
/// The global descriptor table.
pub const GDT: u64 = 0x8000;
/// The local descriptor table.
pub const LDT: u64 = 0x8800;
/// The interrupt table of long mode.
pub const IDT: u64 = 0x9000;
/// The TSS of long mode.
pub const TSS: u64 = 0xa000;
/// The interrupt table of protected mode.
pub const SHORT_IDT: u64 = 0xb000;
/// The TSS of protected mode.
pub const SHORT_TSS: u64 = 0xc000;
/// Page tables of protected mode: PDPT of PAE, directory of PAE, 32-bit directory.
pub const SHORT_TABLES: u64 = 0xd000;
/// Top of the kernel's stack.
pub const STACK: u64 = 0x2_0000;
/// RSP0.
pub const RSP0: u64 = 0x2_2000;
/// IST1, IST2.
pub const IST: [u64; 2] = [0x2_4000, 0x2_6008];
/// Code of CPL 0.
pub const CODE: u64 = 0x3_0000;
/// Where SYSCALL arrives: HLT and SYSRETQ.
pub const SYSCALL: u64 = 0x3_8000;
/// Where SYSCALL from compatibility mode arrives: HLT and SYSRETD.
pub const SYSCALL_32: u64 = 0x3_8100;
/// Where call gates lead: HLT and a far RET.
pub const GATE: u64 = 0x3_8200;
/// Data of CPL 0.
pub const DATA: u64 = 0x4_0000;
/// Code of CPL 3.
pub const USER_CODE: u64 = 0x8_0000;
/// Top of CPL 3's stack.
pub const USER_STACK: u64 = 0x9_0000;
/// Data of CPL 3.
pub const USER_DATA: u64 = 0x9_1000;
/// Pages whose translation cases change, present and open to everything before.
pub const TEST: u64 = 0x10_0000;

/// Selectors, without RPL.
#[expect(missing_docs, reason = "named as what they are")]
pub mod sel {
    pub const CODE64: u16 = 0x08;
    pub const DATA: u16 = 0x10;
    pub const USER_CODE32: u16 = 0x18;
    pub const USER_DATA: u16 = 0x20;
    pub const USER_CODE64: u16 = 0x28;
    pub const CODE32: u16 = 0x30;
    pub const USER_CODE16: u16 = 0x38;
    pub const CODE16: u16 = 0x40;
    pub const DATA16: u16 = 0x48;
    pub const USER_DATA16: u16 = 0x50;
    pub const USER_DOWN: u16 = 0x58;
    pub const USER_DOWN16: u16 = 0x60;
    pub const USER_READ_ONLY: u16 = 0x68;
    pub const USER_EXECUTE_ONLY: u16 = 0x70;
    pub const USER_ABSENT: u16 = 0x78;
    pub const CODE64_ABSENT: u16 = 0x80;
    pub const CONFORMING32: u16 = 0x88;
    pub const CONFORMING64: u16 = 0x90;
    pub const USER_LIMITED: u16 = 0x98;
    pub const TSS: u16 = 0xa0;
    pub const LDT: u16 = 0xb0;
    pub const GATE: u16 = 0xc0;
    pub const GATE_ABSENT: u16 = 0xd0;
    pub const GATE_NULL: u16 = 0xe0;
    pub const USER_UNACCESSED: u16 = 0xf0;
    pub const CODE64_UNACCESSED: u16 = 0xf8;
    pub const CODE_BOTH: u16 = 0x100;
    pub const TSS_FREE: u16 = 0x108;
    pub const USER_BASED: u16 = 0x118;
    pub const SHORT_GATE: u16 = 0x120;
    pub const SHORT_TSS: u16 = 0x128;
    pub const GATE_KERNEL: u16 = 0x130;
    pub const LDT_ABSENT: u16 = 0x140;
    pub const BEYOND: u16 = 0x1f8;
    /// In the LDT: data of CPL 3.
    pub const LOCAL: u16 = 0x0c;
}

/// A segment descriptor. `kind`: bits 40 to 47; `flags`: bits 52 to 55.
pub fn descriptor(base: u32, limit: u32, kind: u8, flags: u8) -> u64 {
    let (base, limit) = (u64::from(base), u64::from(limit));
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | u64::from(kind) << 40
        | (limit >> 16 & 0xf) << 48
        | u64::from(flags) << 52
        | (base >> 24) << 56
}

/// A gate's first eight bytes.
pub fn gate(selector: u16, offset: u64, kind: u8, low: u8) -> u64 {
    offset & 0xffff
        | u64::from(selector) << 16
        | u64::from(low) << 32
        | u64::from(kind) << 40
        | (offset >> 16 & 0xffff) << 48
}

fn gdt() -> Vec<(u16, u64)> {
    vec![
        (sel::CODE64, descriptor(0, 0xf_ffff, 0x9b, 0xa)),
        (sel::DATA, descriptor(0, 0xf_ffff, 0x93, 0xc)),
        (sel::USER_CODE32, descriptor(0, 0xf_ffff, 0xfb, 0xc)),
        (sel::USER_DATA, descriptor(0, 0xf_ffff, 0xf3, 0xc)),
        (sel::USER_CODE64, descriptor(0, 0xf_ffff, 0xfb, 0xa)),
        (sel::CODE32, descriptor(0, 0xf_ffff, 0x9b, 0xc)),
        (sel::USER_CODE16, descriptor(0x8_0000, 0xffff, 0xfb, 0)),
        (sel::CODE16, descriptor(0x3_0000, 0xffff, 0x9b, 0)),
        (sel::DATA16, descriptor(0x1_0000, 0xffff, 0x93, 0)),
        (sel::USER_DATA16, descriptor(0x8_0000, 0xffff, 0xf3, 0)),
        (sel::USER_DOWN, descriptor(0, 0x9_17ff, 0xf7, 4)),
        (sel::USER_DOWN16, descriptor(0x8_9000, 0x7fff, 0xf7, 0)),
        (sel::USER_READ_ONLY, descriptor(0, 0xf_ffff, 0xf1, 0xc)),
        (sel::USER_EXECUTE_ONLY, descriptor(0, 0xf_ffff, 0xf9, 0xc)),
        (sel::USER_ABSENT, descriptor(0, 0xf_ffff, 0x73, 0xc)),
        (sel::CODE64_ABSENT, descriptor(0, 0xf_ffff, 0x1b, 0xa)),
        (sel::CONFORMING32, descriptor(0, 0xf_ffff, 0x9f, 0xc)),
        (sel::CONFORMING64, descriptor(0, 0xf_ffff, 0x9f, 0xa)),
        (sel::USER_LIMITED, descriptor(0, 0x9_1103, 0xf3, 4)),
        (sel::TSS, descriptor(0xa000, 0x88, 0x8b, 0)),
        (sel::LDT, descriptor(0x8800, 0x1f, 0x82, 0)),
        (sel::GATE, gate(sel::CODE64, GATE, 0xec, 0)),
        (sel::GATE_ABSENT, gate(sel::CODE64, GATE, 0x6c, 0)),
        (sel::GATE_NULL, gate(0, GATE, 0xec, 0)),
        (sel::USER_UNACCESSED, descriptor(0, 0xf_ffff, 0xf2, 0xc)),
        (sel::CODE64_UNACCESSED, descriptor(0, 0xf_ffff, 0x9a, 0xa)),
        (sel::CODE_BOTH, descriptor(0, 0xf_ffff, 0x9b, 0xe)),
        (sel::TSS_FREE, descriptor(0xa000, 0x88, 0x89, 0)),
        (sel::USER_BASED, descriptor(0x9_1000, 0xfff, 0xf3, 4)),
        (sel::SHORT_GATE, gate(sel::CODE32, GATE, 0xec, 2)),
        (sel::SHORT_TSS, descriptor(0xc000, 0x67, 0x8b, 0)),
        (sel::GATE_KERNEL, gate(sel::CODE64, GATE, 0x8c, 0)),
        (sel::LDT_ABSENT, descriptor(0x8800, 0x1f, 0x02, 0)),
    ]
}

/// True for vectors with an error code.
pub fn has_code(vector: u64) -> bool {
    matches!(vector, 8 | 10..=14 | 17)
}

/// What is in RAM before a case changes it.
pub fn ram() -> Vec<(u64, Vec<u8>)> {
    let mut out = Vec::new();
    let mut words = |at: u64, words: &[u64]| {
        out.push((at, words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>()));
    };
    // Accessed, so that only what cases are about changes.
    words(PML4, &[0x2027]);
    words(0x2000, &[0x3027]);
    words(0x3000, &[PT | 0x27]);
    let pages: Vec<u64> = (0..0x12_0000_u64 >> 12)
        .map(|page| {
            let open = (USER_CODE >> 12..0x9_8000 >> 12).contains(&page) || page >= TEST >> 12;
            let used = if page < TEST >> 12 { 0x60 } else { 0 };
            page << 12 | 3 | used | if open { 4 } else { 0 }
        })
        .collect();
    words(PT, &pages);
    for (selector, value) in gdt() {
        words(GDT + u64::from(selector), &[value]);
    }
    words(LDT, &[0, descriptor(0x9_1000, 0xfff, 0xf3, 4), descriptor(0, 0xf_ffff, 0xfb, 0xc)]);
    for vector in 0..256 {
        // INT3, INTO, BOUND's and some that are free may be used by CPL 3.
        let open = matches!(vector, 3..=5 | 0x80..=0x8f);
        let kind = if open { 0xee } else { 0x8e };
        words(IDT + 16 * vector, &[gate(sel::CODE64, HANDLERS + 16 * vector, kind, 0), 0]);
        words(SHORT_IDT + 8 * vector, &[gate(sel::CODE32, SHORT_HANDLERS + 16 * vector, kind, 0)]);
    }
    words(TSS + 0x24, &IST);
    let mut bytes = |at: u64, bytes: &[u8]| out.push((at, bytes.to_vec()));
    bytes(TSS + 4, &RSP0.to_le_bytes());
    bytes(TSS + 0x66, &[0x68, 0]);
    let mut ports = [0xff; 33];
    ports[16] = 0b1100_0010; // 0x80, 0x82 to 0x85
    bytes(TSS + 0x68, &ports);
    bytes(SHORT_TSS + 4, &[RSP0.to_le_bytes(), u64::from(sel::DATA).to_le_bytes()].concat());
    bytes(SHORT_TSS + 8, &sel::DATA.to_le_bytes());
    for vector in 0..256_u64 {
        let drop = has_code(vector);
        let long: &[u8] = if drop { &[0xf4, 0x48, 0x83, 0xc4, 8, 0x48, 0xcf] } else { &[0xf4, 0x48, 0xcf] };
        let short: &[u8] = if drop { &[0xf4, 0x83, 0xc4, 4, 0xcf] } else { &[0xf4, 0xcf] };
        bytes(HANDLERS + 16 * vector, long);
        bytes(SHORT_HANDLERS + 16 * vector, short);
        // Real mode's vectors, at 0060:10v.
        let offset = u16::try_from(16 * vector).unwrap().to_le_bytes();
        bytes(4 * vector, &[offset[0], offset[1], 0x00, 0x06]);
    }
    bytes(SYSCALL, &[0xf4, 0x48, 0x0f, 0x07]);
    bytes(SYSCALL_32, &[0xf4, 0x0f, 0x07]);
    bytes(GATE, &[0xf4, 0x48, 0xcb]);
    for at in [DATA, USER_DATA] {
        let pattern: Vec<u8> = (0..=255).collect();
        bytes(at, &pattern);
    }
    out
}

fn segment(selector: u16, attributes: u32) -> Segment {
    Segment { base: 0, limit: u32::MAX, selector, attributes }
}

fn data(rpl: u16) -> Segment {
    let (selector, dpl) = if rpl == 0 { (sel::DATA, 0) } else { (sel::USER_DATA | 3, 3) };
    segment(selector, 0xc093 | dpl << 5)
}

fn start(code: Segment, rpl: u16, rip: u64, rsp: u64) -> CpuState {
    let mut registers = Registers { rip, rflags: 2, ..Registers::default() };
    for (general, n) in registers.general.iter_mut().zip(0..) {
        *general = 0x1000_0000 + 0x11_1111 * n;
    }
    registers.general[4] = rsp;
    let data = data(rpl);
    let ldt = Segment { base: LDT, limit: 0x1f, selector: sel::LDT, attributes: 0x82 };
    let task = Segment { base: TSS, limit: 0x88, selector: sel::TSS, attributes: 0x8b };
    let star = u64::from(sel::USER_CODE32 | 3) << 48 | u64::from(sel::CODE64) << 32;
    let value = |index| match index {
        0x277 => 0x0007_0406_0007_0406,
        0xc000_0081 => star,
        0xc000_0082 => SYSCALL,
        0xc000_0083 => SYSCALL_32,
        0xc000_0084 => 0x4_0700, // AC, DF, IF, TF
        _ => 0,
    };
    CpuState {
        registers,
        segments: [data, code, data, data, data, data, ldt, task],
        gdt: DescriptorTable { base: GDT, limit: 0x1ef },
        idt: DescriptorTable { base: IDT, limit: 0xfff },
        cr0: 0x8001_0033,
        cr3: PML4,
        cr4: 0x620,
        efer: 0xd01,
        dr6: 0xffff_0ff0,
        dr7: 0x400,
        fpu: Fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Fpu::default() },
        msrs: msr::SAVED.iter().map(|&index| (index, value(index))).collect(),
        ..CpuState::default()
    }
}

/// Where a case's code starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// 64-bit code, CPL 0
    Kernel,
    /// 64-bit code, CPL 3
    User,
    /// 32-bit code of compatibility mode, CPL 0
    Kernel32,
    /// 32-bit code of compatibility mode, CPL 3
    User32,
    /// 16-bit code of compatibility mode, CPL 3
    User16,
    /// 32-bit protected mode without paging, CPL 0
    Protected,
    /// the same, CPL 3
    ProtectedUser,
    /// real mode
    Real,
}

impl Start {
    /// The code's width.
    pub fn bitness(self) -> u32 {
        match self {
            Self::Kernel | Self::User => 64,
            Self::Kernel32 | Self::User32 | Self::Protected | Self::ProtectedUser => 32,
            Self::User16 | Self::Real => 16,
        }
    }

    /// True if HLT ends it, rather than INT.
    pub fn is_kernel(self) -> bool {
        matches!(self, Self::Kernel | Self::Kernel32 | Self::Protected | Self::Real)
    }

    /// Where its code lies.
    pub fn code(self) -> u64 {
        if self.is_kernel() { CODE } else { USER_CODE }
    }

    /// What RIP is there.
    pub fn rip(self) -> u64 {
        match self {
            Self::User16 | Self::Real => 0,
            _ => self.code(),
        }
    }

    /// The vCPU's state.
    pub fn state(self) -> CpuState {
        match self {
            Self::Kernel => start(segment(sel::CODE64, 0xa09b), 0, CODE, STACK),
            Self::User => start(segment(sel::USER_CODE64 | 3, 0xa0fb), 3, USER_CODE, USER_STACK),
            Self::Kernel32 => start(segment(sel::CODE32, 0xc09b), 0, CODE, STACK),
            Self::User32 => start(segment(sel::USER_CODE32 | 3, 0xc0fb), 3, USER_CODE, USER_STACK),
            Self::User16 => {
                let code = Segment {
                    base: USER_CODE,
                    limit: 0xffff,
                    selector: sel::USER_CODE16 | 3,
                    attributes: 0xfb,
                };
                let stack = Segment {
                    base: 0x8_0000,
                    limit: 0xffff,
                    selector: sel::USER_DATA16 | 3,
                    attributes: 0xf3,
                };
                let mut state = start(code, 3, 0, 0x8000);
                state.segments[2] = stack;
                state
            }
            Self::Protected => {
                let mut state = start(segment(sel::CODE32, 0xc09b), 0, CODE, STACK);
                unpaged(&mut state);
                state
            }
            Self::ProtectedUser => {
                let mut state = start(segment(sel::USER_CODE32 | 3, 0xc0fb), 3, USER_CODE, USER_STACK);
                unpaged(&mut state);
                state
            }
            Self::Real => {
                let code = Segment { base: CODE, limit: 0xffff, selector: 0x3000, attributes: 0x9b };
                let mut state = start(code, 0, 0, 0x8000);
                unpaged(&mut state);
                state.cr0 = 0x10;
                for (seg, base) in [(0, DATA), (2, 0x1_0000), (3, DATA), (4, 0), (5, 0)] {
                    let selector = u16::try_from(base >> 4).unwrap();
                    state.segments[seg] = Segment { base, limit: 0xffff, selector, attributes: 0x93 };
                }
                state.idt = DescriptorTable { base: 0, limit: 0x3ff };
                state
            }
        }
    }
}

fn unpaged(state: &mut CpuState) {
    state.cr0 = 0x33;
    state.cr3 = 0;
    state.cr4 = 0x600;
    state.efer = 0;
    state.idt = DescriptorTable { base: SHORT_IDT, limit: 0x7ff };
    state.segments[7] = Segment { base: SHORT_TSS, limit: 0x67, selector: sel::SHORT_TSS, attributes: 0x8b };
}
