//! Whether SIMD instructions may run, and their 128- and 64-bit operands.

use crate::cpu::{CR0_EM, CR0_TS, CR4_OSFXSR, Cpu, Done, Trap, vector};
use crate::op::Op;

/// The forms that one handler is instantiated for: of the source operand, where it is.
pub(super) const XMM: u8 = 0;
/// 16 bytes of memory, aligned
pub(super) const XMM_MEMORY: u8 = 1;
/// an MMX register
pub(super) const MM: u8 = 2;
/// 8 bytes of memory
pub(super) const MM_MEMORY: u8 = 3;

/// Bits 64 to 79 of an x87 register that MMX has written.
const ONES: u128 = 0xffff << 64;
/// TOP in the x87 status word.
const TOP: u16 = 7 << 11;

impl Cpu {
    /// Before every SSE instruction: #UD, #NM.
    #[inline(always)]
    pub(super) fn sse(&mut self) -> Done {
        if self.cr0 & (CR0_EM | CR0_TS) != 0 || self.cr4 & CR4_OSFXSR == 0 {
            return Err(self.no_simd(self.cr4 & CR4_OSFXSR != 0));
        }
        Ok(())
    }

    /// Before every MMX instruction: #UD, #NM, a pending x87 exception.
    #[inline(always)]
    pub(super) fn mmx(&mut self) -> Done {
        if self.cr0 & (CR0_EM | CR0_TS) != 0 || self.is_x87_pending() {
            return Err(self.no_simd(true));
        }
        Ok(())
    }

    /// Before an SSE instruction with an MMX register.
    #[inline(always)]
    pub(super) fn sse_with_mmx(&mut self) -> Done {
        self.sse()?;
        self.mmx()
    }

    #[inline(always)]
    fn is_x87_pending(&self) -> bool {
        self.fpu.fsw & !self.fpu.fcw & 0x3f != 0
    }

    #[cold]
    fn no_simd(&mut self, enabled: bool) -> Trap {
        if self.cr0 & CR0_EM != 0 || !enabled {
            self.undefined()
        } else if self.cr0 & CR0_TS != 0 {
            self.raise(vector::NM)
        } else {
            self.raise(vector::MF)
        }
    }

    #[inline(always)]
    pub(super) fn xmm(&self, number: u8) -> u128 {
        self.fpu.xmm[usize::from(number & 15)]
    }

    #[inline(always)]
    pub(super) fn set_xmm(&mut self, number: u8, value: u128) {
        self.fpu.xmm[usize::from(number & 15)] = value;
    }

    /// An XMM register's low quadword; the other is kept.
    #[inline(always)]
    pub(super) fn set_xmm_low(&mut self, number: u8, value: u64) {
        let slot = &mut self.fpu.xmm[usize::from(number & 15)];
        *slot = *slot >> 64 << 64 | u128::from(value);
    }

    /// An XMM register's low doubleword; the rest is kept.
    #[inline(always)]
    pub(super) fn set_xmm_low32(&mut self, number: u8, value: u32) {
        let slot = &mut self.fpu.xmm[usize::from(number & 15)];
        *slot = *slot >> 32 << 32 | u128::from(value);
    }

    #[inline(always)]
    pub(super) fn mm(&self, number: u8) -> u64 {
        self.fpu.regs[usize::from(number & 7)] as u64
    }

    /// The x87 registers become MMX registers: the last thing that an instruction with an MMX operand does.
    #[inline(always)]
    pub(super) fn enter_mmx(&mut self) {
        self.fpu.fsw &= !TOP;
        self.fpu.ftw = 0xff;
    }

    /// Sets an MMX register.
    #[inline(always)]
    pub(super) fn set_mm(&mut self, number: u8, value: u64) {
        self.enter_mmx();
        self.fpu.regs[usize::from(number & 7)] = ONES | u128::from(value);
    }

    /// Loads 16 bytes from a linear address.
    #[inline(always)]
    pub(super) fn load128(&mut self, linear: u64) -> Result<u128, Trap> {
        if linear & 15 == 0 {
            let low: u64 = self.load(linear)?;
            let high: u64 = self.load(linear.wrapping_add(8))?;
            return Ok(u128::from(high) << 64 | u128::from(low));
        }
        self.load128_unaligned(linear)
    }

    /// Apart, because it may cross a page and because #AC counts 16 bytes here.
    fn load128_unaligned(&mut self, linear: u64) -> Result<u128, Trap> {
        if self.is_splittable(linear) {
            let low: u64 = self.load(linear)?;
            let high: u64 = self.load(linear.wrapping_add(8))?;
            return Ok(u128::from(high) << 64 | u128::from(low));
        }
        let mut bytes = [0; 16];
        self.read_bytes(linear, &mut bytes)?;
        Ok(u128::from_le_bytes(bytes))
    }

    /// Stores 16 bytes to a linear address.
    #[inline(always)]
    pub(super) fn store128(&mut self, linear: u64, value: u128) -> Done {
        // On one page the second half cannot fault once the first has not.
        if linear & 15 == 0 {
            self.store(linear, value as u64)?;
            return self.store(linear.wrapping_add(8), (value >> 64) as u64);
        }
        self.store128_unaligned(linear, value)
    }

    fn store128_unaligned(&mut self, linear: u64, value: u128) -> Done {
        if self.is_splittable(linear) {
            self.store(linear, value as u64)?;
            return self.store(linear.wrapping_add(8), (value >> 64) as u64);
        }
        self.write_bytes(linear, &value.to_le_bytes())
    }

    /// True if 16 bytes may be accessed as two quadwords: they are on one page and alignment is not checked.
    #[inline(always)]
    fn is_splittable(&self, linear: u64) -> bool {
        linear & 0xfff <= 4096 - 16 && !(self.mode.cpl == 3 && self.flags.system & crate::flags::AC != 0)
    }

    /// The linear address of a 16-byte operand that must be aligned.
    #[inline(always)]
    pub(super) fn linear_aligned(&mut self, op: &Op, write: bool) -> Result<u64, Trap> {
        let linear = self.linear(op, 16, write)?;
        if linear & 15 != 0 {
            return Err(self.general_protection());
        }
        Ok(linear)
    }

    /// Reads a 16-byte memory operand that must be aligned.
    #[inline(always)]
    pub(super) fn read_aligned(&mut self, op: &Op) -> Result<u128, Trap> {
        let linear = self.linear_aligned(op, false)?;
        self.load128(linear)
    }

    /// Reads a 16-byte memory operand.
    #[inline(always)]
    pub(super) fn read_unaligned(&mut self, op: &Op) -> Result<u128, Trap> {
        let linear = self.linear(op, 16, false)?;
        self.load128(linear)
    }

    /// The second operand of an instruction on XMM registers: a register, or memory if `MEMORY`.
    #[inline(always)]
    pub(super) fn source<const MEMORY: bool>(&mut self, op: &Op) -> Result<u128, Trap> {
        if MEMORY { self.read_aligned(op) } else { Ok(self.xmm(op.src)) }
    }

    /// Its low 64 bits, where that is all that is read.
    #[inline(always)]
    pub(super) fn source64<const MEMORY: bool>(&mut self, op: &Op) -> Result<u64, Trap> {
        if MEMORY { self.read_mem(op) } else { Ok(self.xmm(op.src) as u64) }
    }

    /// Its low 32 bits, where that is all that is read.
    #[inline(always)]
    pub(super) fn source32<const MEMORY: bool>(&mut self, op: &Op) -> Result<u32, Trap> {
        if MEMORY { self.read_mem(op) } else { Ok(self.xmm(op.src) as u32) }
    }

    /// Its low 16 bits, where that is all that is read.
    #[inline(always)]
    pub(super) fn source16<const MEMORY: bool>(&mut self, op: &Op) -> Result<u16, Trap> {
        if MEMORY { self.read_mem(op) } else { Ok(self.xmm(op.src) as u16) }
    }
}
