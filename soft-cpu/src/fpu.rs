//! x87 and SSE registers as they are kept.

/// x87, MMX and SSE state. FIP, FDP and FOP are not kept: they read 0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fpu {
    /// R0..R7, the physical registers: 80 bits each. MMX register n is the low 64 bits of Rn
    pub regs: [u128; 8],
    /// XMM0..XMM15
    pub xmm: [u128; 16],
    /// control word
    pub fcw: u16,
    /// status word, TOP in bits 11 to 13
    pub fsw: u16,
    /// bit n: Rn is not empty
    pub ftw: u8,
    pub mxcsr: u32,
}

impl Default for Fpu {
    fn default() -> Self {
        Self { regs: [0; 8], xmm: [0; 16], fcw: 0x37f, fsw: 0, ftw: 0, mxcsr: 0x1f80 }
    }
}

impl Fpu {
    /// Number of the physical register that is ST(0).
    pub(crate) fn top(&self) -> usize {
        usize::from(self.fsw >> 11 & 7)
    }
}
