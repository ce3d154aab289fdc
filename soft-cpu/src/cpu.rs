//! The processor's registers and modes, and how an instruction comes to its end.

use scribe_types::cpu::{DescriptorTable, Segment};
use scribe_types::stop::Exit;

use crate::Profile;
use crate::access::Accesses;
use crate::flags::Flags;
use crate::fpu::Fpu;
use crate::mmu::Mmu;

pub(crate) const RAX: u8 = 0;
pub(crate) const RCX: u8 = 1;
pub(crate) const RDX: u8 = 2;
pub(crate) const RBX: u8 = 3;
pub(crate) const RSP: u8 = 4;
pub(crate) const RBP: u8 = 5;
pub(crate) const RSI: u8 = 6;
pub(crate) const RDI: u8 = 7;
pub(crate) const R11: u8 = 11;
/// Reads 0: the base or index that an address does not have.
pub(crate) const ZERO: u8 = 16;
/// RIP at the start of the running block: the base of RIP-relative addresses.
pub(crate) const BLOCK_RIP: u8 = 17;
/// Flag in the number of a byte register: AH, CH, DH, BH.
pub(crate) const HIGH: u8 = 0x20;

pub(crate) const ES: usize = 0;
pub(crate) const CS: usize = 1;
pub(crate) const SS: usize = 2;
pub(crate) const DS: usize = 3;
pub(crate) const FS: usize = 4;
pub(crate) const GS: usize = 5;
pub(crate) const LDTR: usize = 6;
pub(crate) const TR: usize = 7;

pub(crate) const CR0_PE: u64 = 1;
pub(crate) const CR0_MP: u64 = 1 << 1;
pub(crate) const CR0_EM: u64 = 1 << 2;
pub(crate) const CR0_TS: u64 = 1 << 3;
pub(crate) const CR0_ET: u64 = 1 << 4;
pub(crate) const CR0_NE: u64 = 1 << 5;
pub(crate) const CR0_WP: u64 = 1 << 16;
pub(crate) const CR0_AM: u64 = 1 << 18;
pub(crate) const CR0_NW: u64 = 1 << 29;
pub(crate) const CR0_CD: u64 = 1 << 30;
pub(crate) const CR0_PG: u64 = 1 << 31;

pub(crate) const CR4_VME: u64 = 1;
pub(crate) const CR4_PVI: u64 = 1 << 1;
pub(crate) const CR4_TSD: u64 = 1 << 2;
pub(crate) const CR4_DE: u64 = 1 << 3;
pub(crate) const CR4_PSE: u64 = 1 << 4;
pub(crate) const CR4_PAE: u64 = 1 << 5;
pub(crate) const CR4_MCE: u64 = 1 << 6;
pub(crate) const CR4_PGE: u64 = 1 << 7;
pub(crate) const CR4_OSFXSR: u64 = 1 << 9;
pub(crate) const CR4_OSXMMEXCPT: u64 = 1 << 10;
pub(crate) const CR4_SMEP: u64 = 1 << 20;
pub(crate) const CR4_SMAP: u64 = 1 << 21;

pub(crate) const EFER_SCE: u64 = 1;
pub(crate) const EFER_LME: u64 = 1 << 8;
pub(crate) const EFER_LMA: u64 = 1 << 10;
pub(crate) const EFER_NXE: u64 = 1 << 11;

/// Exception vectors (Intel SDM vol. 3, 7.3).
pub(crate) mod vector {
    pub(crate) const DE: u8 = 0;
    pub(crate) const DB: u8 = 1;
    pub(crate) const BP: u8 = 3;
    pub(crate) const OF: u8 = 4;
    pub(crate) const BR: u8 = 5;
    pub(crate) const UD: u8 = 6;
    pub(crate) const NM: u8 = 7;
    pub(crate) const DF: u8 = 8;
    pub(crate) const TS: u8 = 10;
    pub(crate) const NP: u8 = 11;
    pub(crate) const SS: u8 = 12;
    pub(crate) const GP: u8 = 13;
    pub(crate) const PF: u8 = 14;
    pub(crate) const MF: u8 = 16;
    pub(crate) const AC: u8 = 17;
    pub(crate) const XM: u8 = 19;
}

/// Why an instruction did not simply retire. The details are in the processor: [`Cpu::fault`], [`Cpu::accesses`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Trap {
    /// it faults, as [`Cpu::fault`] says; nothing of it has happened
    Fault,
    /// the machine must serve [`Cpu::wanted`] first; then the instruction runs again
    Exit,
    /// it writes to the code that runs: it must run alone
    Alone,
    /// a REP instruction has retired some iterations and goes on where it is: RIP stays
    Again,
    /// this processor does not have what it needs
    Refused,
    /// triple fault
    Shutdown,
}

/// How instructions come back.
pub(crate) type Done = Result<(), Trap>;

/// An exception.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Fault {
    pub vector: u8,
    pub code: Option<u32>,
    /// linear address of a page fault
    pub address: u64,
    /// a #GP for a non-canonical address, which is #SS where the stack segment was used
    pub canonical: bool,
}

/// The MSRs that are registers of this processor and of nothing else.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Msrs {
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub pat: u64,
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub tsc_aux: u64,
    /// what WRMSR of the TSC has added to guest time
    pub tsc_offset: u64,
}

/// What instructions are decoded and addresses are formed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Mode {
    /// 16, 32 or 64
    pub bitness: u8,
    /// 16, 32 or 64: the stack pointer's width
    pub stack: u8,
    /// protected mode (not real, not virtual-8086)
    pub protected: bool,
    pub cpl: u8,
    /// SS, DS and ES have base 0 and no limit below 4 GiB, or do not count (64-bit code)
    pub flat: bool,
}

/// All architectural state and what is derived from it.
pub(crate) struct Cpu {
    /// RAX RCX RDX RBX RSP RBP RSI RDI R8..R15, [`ZERO`], [`BLOCK_RIP`]; the rest pads, so that no index is out of bounds
    pub regs: [u64; 32],
    /// next instruction, while none runs; an instruction that transfers control sets it
    pub rip: u64,
    pub flags: Flags,
    /// ES CS SS DS FS GS LDTR TR
    pub segs: [Segment; 8],
    pub gdt: DescriptorTable,
    pub idt: DescriptorTable,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub cr8: u64,
    pub efer: u64,
    pub dr: [u64; 4],
    pub dr6: u64,
    pub dr7: u64,
    pub msrs: Msrs,
    pub fpu: Fpu,
    /// interrupt shadow: bit 0 MOV SS, bit 1 STI
    pub shadow: u8,
    pub nmi_masked: bool,
    /// external interrupt to be delivered before the next instruction
    pub interrupt: Option<u8>,
    /// exception (a trap: #DB) to be delivered before the next instruction
    pub exception: Option<(u8, Option<u32>)>,
    /// DR6 bits that the running instruction's data accesses have matched
    pub watched: u64,
    /// derived from CR0, EFER, RFLAGS.VM and the segments by [`Cpu::update_mode`]
    pub mode: Mode,
    pub mmu: Mmu,
    pub accesses: Accesses,
    /// the exit that the machine must serve, after [`Trap::Exit`]
    pub wanted: Option<Exit>,
    pub fault: Fault,
    /// what a [`Trap::Refused`] was about
    pub refused: &'static str,
    /// the instruction has loaded RFLAGS.RF, for the next one
    pub resume_set: bool,
    /// TF asks for a trap behind the instruction that runs alone
    pub trace: bool,
    pub profile: Profile,
    /// instructions retired before the running block, iterations of REP included
    pub instructions: u64,
    /// conditional branches retired since the last exit
    pub branches: u64,
    /// guest time at the last exit, and what a branch adds
    pub clock: (u64, u64),
    /// iterations that REP instructions may still run before the place to stop at; see [`crate::string`]
    pub iterations: u64,
    /// a debug breakpoint or an exception has to be looked for between instructions: TF, shadow, DR7, pending events
    pub careful: bool,
}

impl Cpu {
    pub(crate) fn new(mmu: Mmu, profile: Profile) -> Self {
        Self {
            regs: [0; 32],
            rip: 0,
            flags: Flags { system: 2, ..Flags::default() },
            segs: [Segment::default(); 8],
            gdt: DescriptorTable::default(),
            idt: DescriptorTable::default(),
            cr0: CR0_ET,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            cr8: 0,
            efer: 0,
            dr: [0; 4],
            dr6: 0xffff_0ff0,
            dr7: 0x400,
            msrs: Msrs::default(),
            fpu: Fpu::default(),
            shadow: 0,
            nmi_masked: false,
            interrupt: None,
            exception: None,
            watched: 0,
            mode: Mode::default(),
            mmu,
            accesses: Accesses::default(),
            wanted: None,
            fault: Fault::default(),
            refused: "",
            resume_set: false,
            trace: false,
            profile,
            instructions: 0,
            branches: 0,
            clock: (0, 0),
            iterations: u64::MAX,
            careful: false,
        }
    }

    /// Derives [`Cpu::mode`] and the MMU's. After every change of CR0, CR4, EFER, RFLAGS.VM, RFLAGS.AC or a segment.
    pub(crate) fn update_mode(&mut self) {
        let protected = self.cr0 & CR0_PE != 0 && self.flags.system & crate::flags::VM == 0;
        let cs = &self.segs[CS];
        let long = self.efer & EFER_LMA != 0;
        let default_32 = cs.attributes & ATTR_DB != 0;
        let bitness = match (long && cs.attributes & ATTR_L != 0, default_32) {
            (true, _) => 64,
            (false, true) => 32,
            (false, false) => 16,
        };
        let stack = match (bitness, self.segs[SS].attributes & ATTR_DB != 0) {
            (64, _) => 64,
            (_, true) => 32,
            (_, false) => 16,
        };
        let cpl = if self.cr0 & CR0_PE == 0 {
            0
        } else if self.flags.system & crate::flags::VM != 0 {
            3
        } else {
            ((self.segs[SS].attributes >> 5) & 3) as u8
        };
        let flat = bitness == 64
            || (protected
                && [ES, SS, DS].iter().all(|&s| {
                    let s = &self.segs[s];
                    s.base == 0 && s.limit == u32::MAX && s.attributes & FLAT_MASK == FLAT_WANT
                }));
        let mode = Mode { bitness, stack, protected, cpl, flat };
        if mode != self.mode {
            self.mode = mode;
            self.mmu.generation += 1;
        }
        self.mmu.set_context(crate::mmu::Context {
            paging: self.cr0 & CR0_PG != 0,
            long,
            pae: self.cr4 & CR4_PAE != 0,
            pse: self.cr4 & CR4_PSE != 0,
            write_protect: self.cr0 & CR0_WP != 0,
            no_execute: self.efer & EFER_NXE != 0,
            smep: self.cr4 & CR4_SMEP != 0,
            smap: self.cr4 & CR4_SMAP != 0,
            global: self.cr4 & CR4_PGE != 0,
            root: self.cr3,
            user: cpl == 3,
            access_user: self.flags.system & crate::flags::AC != 0,
            aligned: cpl == 3 && self.cr0 & CR0_AM != 0 && self.flags.system & crate::flags::AC != 0,
        });
    }

    /// Looks whether something has to be looked for between instructions.
    pub(crate) fn update_careful(&mut self) {
        self.careful = self.shadow != 0
            || self.flags.system & (crate::flags::TF | crate::flags::RF) != 0
            || self.interrupt.is_some()
            || self.exception.is_some()
            || self.dr7 & 0xff != 0;
        self.mmu.set_watching(self.dr7 & 0xff != 0);
    }

    /// Guest time in nanoseconds: what RDTSC reads.
    pub(crate) fn now(&self) -> u64 {
        self.clock.0.wrapping_add(self.branches.wrapping_mul(self.clock.1)).wrapping_add(self.msrs.tsc_offset)
    }

    #[cold]
    pub(crate) fn raise(&mut self, vector: u8) -> Trap {
        self.fault = Fault { vector, ..Fault::default() };
        Trap::Fault
    }

    #[cold]
    pub(crate) fn raise_code(&mut self, vector: u8, code: u32) -> Trap {
        self.fault = Fault { vector, code: Some(code), ..Fault::default() };
        Trap::Fault
    }

    /// #GP(0)
    #[cold]
    pub(crate) fn general_protection(&mut self) -> Trap {
        self.raise_code(vector::GP, 0)
    }

    /// #UD
    #[cold]
    pub(crate) fn undefined(&mut self) -> Trap {
        self.raise(vector::UD)
    }

    #[cold]
    pub(crate) fn refuse(&mut self, what: &'static str) -> Trap {
        self.refused = what;
        Trap::Refused
    }

    /// #GP(0) unless CPL is 0.
    #[inline]
    pub(crate) fn require_kernel(&mut self) -> Done {
        if self.mode.cpl == 0 { Ok(()) } else { Err(self.general_protection()) }
    }

    #[inline(always)]
    pub(crate) fn is_long(&self) -> bool {
        self.mode.bitness == 64
    }
}

/// Descriptor attribute bits as in [`Segment::attributes`].
pub(crate) const ATTR_S: u32 = 1 << 4;
pub(crate) const ATTR_P: u32 = 1 << 7;
pub(crate) const ATTR_L: u32 = 1 << 13;
pub(crate) const ATTR_DB: u32 = 1 << 14;
pub(crate) const ATTR_UNUSABLE: u32 = 1 << 16;
/// A present, writable, expand-up data segment that is usable.
const FLAT_MASK: u32 = ATTR_S | ATTR_P | ATTR_UNUSABLE | 0b1110;
const FLAT_WANT: u32 = ATTR_S | ATTR_P | 0b0010;
