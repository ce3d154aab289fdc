//! The stack of a control transfer: another than the current one, perhaps, and not committed before the transfer is.

use scribe_types::cpu::Segment;

use super::descriptor::selector_code;
use super::segment::within;
use crate::cpu::{ATTR_DB, Cpu, Done, RSP, SS, Trap, vector};
use crate::mmu::is_canonical;
use crate::op::truncate;

/// A stack that words are pushed to or popped from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stack {
    pub segment: Segment,
    pub pointer: u64,
    /// bits of the pointer: 16, 32 or 64
    pub width: u8,
    /// its pages belong to privilege levels 0 to 2, whatever the current one is
    system: bool,
    /// error code of the #SS that it raises
    code: u32,
}

impl Stack {
    /// The current stack.
    pub(super) fn current(cpu: &Cpu, ext: u32) -> Self {
        Self {
            segment: cpu.segs[SS],
            pointer: truncate(cpu.regs[usize::from(RSP)], cpu.mode.stack),
            width: cpu.mode.stack,
            system: false,
            code: ext,
        }
    }

    /// A stack of 64-bit mode, for a transfer to privilege `cpl`.
    pub(super) fn long(cpu: &Cpu, segment: Segment, pointer: u64, cpl: u8, ext: u32) -> Self {
        Self { segment, pointer, width: 64, system: cpl < 3 && cpu.mode.cpl == 3, code: ext }
    }

    /// A stack of protected mode, for a transfer to an inner privilege level.
    pub(super) fn inner(cpu: &Cpu, segment: Segment, pointer: u64, ext: u32) -> Self {
        let width = if segment.attributes & ATTR_DB != 0 { 32 } else { 16 };
        let code = selector_code(segment.selector, ext);
        Self { segment, pointer: truncate(pointer, width), width, system: cpu.mode.cpl == 3, code }
    }

    fn linear(&self, cpu: &mut Cpu, pointer: u64, bytes: u64) -> Result<u64, Trap> {
        if self.width == 64 {
            // The bytes of one word: both ends, for it may straddle the edge.
            if is_canonical(pointer) && is_canonical(pointer.wrapping_add(bytes - 1)) {
                return Ok(pointer);
            }
        } else if within(&self.segment, pointer, bytes) {
            return Ok(self.segment.base.wrapping_add(pointer) & 0xffff_ffff);
        }
        Err(cpu.raise_code(vector::SS, self.code))
    }

    /// Pushes the low `bytes` (2, 4 or 8) of `value`.
    pub(super) fn push(&mut self, cpu: &mut Cpu, value: u64, bytes: u64) -> Done {
        let pointer = truncate(self.pointer.wrapping_sub(bytes), self.width);
        let linear = self.linear(cpu, pointer, bytes)?;
        match (bytes, self.system) {
            (2, false) => cpu.store(linear, value as u16),
            (4, false) => cpu.store(linear, value as u32),
            (_, false) => cpu.store(linear, value),
            (2, true) => cpu.store_system(linear, value as u16),
            (4, true) => cpu.store_system(linear, value as u32),
            (_, true) => cpu.store_system(linear, value),
        }?;
        self.pointer = pointer;
        Ok(())
    }

    /// Pops a word of `bytes` (2, 4 or 8), zero-extended.
    pub(super) fn pop(&mut self, cpu: &mut Cpu, bytes: u64) -> Result<u64, Trap> {
        let linear = self.linear(cpu, self.pointer, bytes)?;
        let value = match bytes {
            2 => cpu.load::<u16>(linear)?.into(),
            4 => cpu.load::<u32>(linear)?.into(),
            _ => cpu.load::<u64>(linear)?,
        };
        self.drop(bytes);
        Ok(value)
    }

    /// Moves the pointer up.
    pub(super) fn drop(&mut self, bytes: u64) {
        self.pointer = truncate(self.pointer.wrapping_add(bytes), self.width);
    }

    /// Sets rSP to the pointer.
    pub(super) fn commit_pointer(&self, cpu: &mut Cpu) {
        let slot = &mut cpu.regs[usize::from(RSP)];
        *slot = match self.width {
            16 => *slot & !0xffff | self.pointer,
            _ => self.pointer,
        };
    }
}
