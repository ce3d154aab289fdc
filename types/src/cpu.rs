//! Engine-neutral CPU state, by logical value.
//!
//! What is left out on purpose: FIP, FDP and FOP (the last x87 instruction), which processors save differently.
//! RFLAGS.RF is part of a state, since an interrupt pushes it, and of no digest, since page-fault frames push it
//! differently (docs/determinism.md).

use serde::{Deserialize, Serialize};

/// General registers, RIP and RFLAGS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Registers {
    /// RAX RCX RDX RBX RSP RBP RSI RDI R8..R15 (the processor's own numbering)
    pub general: [u64; 16],
    /// instruction pointer
    pub rip: u64,
    /// flags
    pub rflags: u64,
}

impl Registers {
    /// RFLAGS.IF
    pub const IF: u64 = 1 << 9;
    /// RFLAGS.RF, which no digest covers
    pub const RF: u64 = 1 << 16;

    /// True if RFLAGS.TF is set.
    pub fn is_traced(&self) -> bool {
        self.rflags & 1 << 8 != 0
    }

    /// The registers as digested: 18 words, RFLAGS.RF masked.
    pub fn words(&self) -> [u64; 18] {
        let mut words = [0; 18];
        words[..16].copy_from_slice(&self.general);
        words[16] = self.rip;
        words[17] = self.rflags & !Self::RF;
        words
    }

    /// True if RFLAGS.IF is set.
    pub fn interrupts_enabled(&self) -> bool {
        self.rflags & Self::IF != 0
    }
}

impl std::fmt::Display for Registers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const NAMES: [&str; 16] = [
            "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
            "r14", "r15",
        ];
        write!(f, "rip={:#x} rflags={:#x}", self.rip, self.rflags)?;
        for (name, value) in NAMES.iter().zip(self.general) {
            write!(f, " {name}={value:#x}")?;
        }
        Ok(())
    }
}

/// A segment register with its hidden part (Intel SDM vol. 3, 3.4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Segment {
    /// base address
    pub base: u64,
    /// limit in bytes
    pub limit: u32,
    /// selector
    pub selector: u16,
    /// type, S, DPL, P, AVL, L, D/B, G as in the descriptor's bits 40..55, and bit 16: unusable
    pub attributes: u32,
}

/// GDTR or IDTR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DescriptorTable {
    /// linear base address
    pub base: u64,
    /// limit in bytes
    pub limit: u16,
}

/// x87 and SSE state without FIP, FDP and FOP.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Fpu {
    /// ST0..ST7, 80 bits each in 16 bytes
    pub st: [[u8; 16]; 8],
    /// XMM0..XMM15
    pub xmm: [[u8; 16]; 16],
    /// control word
    pub fcw: u16,
    /// status word
    pub fsw: u16,
    /// abridged tag word (FXSAVE form)
    pub ftw: u8,
    /// SSE control and status
    pub mxcsr: u32,
}

/// Events that are pending inside the vCPU between two instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PendingEvents {
    /// an external interrupt injected and not yet delivered
    pub interrupt: Option<u8>,
    /// an exception raised and not yet delivered: vector and error code
    pub exception: Option<(u8, Option<u32>)>,
    /// interrupt shadow: bit 0 MOV SS, bit 1 STI
    pub shadow: u8,
    /// NMIs are blocked until IRET
    pub nmi_masked: bool,
}

/// The whole architectural state of one vCPU.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CpuState {
    /// general registers, RIP, RFLAGS
    pub registers: Registers,
    /// ES CS SS DS FS GS LDTR TR
    pub segments: [Segment; 8],
    /// GDTR
    pub gdt: DescriptorTable,
    /// IDTR
    pub idt: DescriptorTable,
    /// CR0
    pub cr0: u64,
    /// CR2
    pub cr2: u64,
    /// CR3
    pub cr3: u64,
    /// CR4
    pub cr4: u64,
    /// CR8
    pub cr8: u64,
    /// EFER
    pub efer: u64,
    /// DR0..DR3
    pub debug: [u64; 4],
    /// DR6
    pub dr6: u64,
    /// DR7
    pub dr7: u64,
    /// x87 and SSE
    pub fpu: Fpu,
    /// the MSRs of [`crate::msr::SAVED`], in its order
    pub msrs: Vec<(u32, u64)>,
    /// pending events
    pub events: PendingEvents,
}
