//! A pre-decoded instruction: what to call, and its operands in the form that handlers use.

use crate::cpu::{Cpu, Done, HIGH};
use crate::word::Word;

/// Executes one instruction. On success its results are in place; RIP is moved by the run loop unless the instruction
/// ends a block and sets it itself ([`Ends::Jump`]).
pub(crate) type Handler = fn(&mut Cpu, &Op) -> Done;

/// One instruction of a block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Op {
    pub run: Handler,
    /// immediate, sign-extended; of near branches the target relative to the block's start
    pub imm: u64,
    /// displacement, sign-extended; of RIP-relative operands relative to the block's start
    pub disp: u64,
    /// where the next instruction starts, relative to the block's start
    pub next: u16,
    /// first register operand (destination, ModRM.reg or .rm): number, [`HIGH`] for AH..BH
    pub dst: u8,
    /// second register operand
    pub src: u8,
    /// base register of the memory operand, [`crate::cpu::ZERO`] for none
    pub base: u8,
    /// index register, likewise
    pub index: u8,
    /// index is shifted left by so much
    pub scale: u8,
    /// segment of the memory operand: number as in [`Cpu::segs`]
    pub seg: u8,
    /// bits of the address: 16, 32, 64
    pub address: u8,
    /// bits of the operand where one handler serves several
    pub size: u8,
    /// the linear address is base + index + displacement, nothing else
    pub flat: bool,
    /// the instruction has a REP or REPE (1) or REPNE (2) prefix
    pub rep: u8,
    /// a third register or other small number
    pub extra: u8,
    /// with `tcg`: width, and 1, of the last instruction before it in its block that has set all arithmetic flags; 0: none
    pub flags: u8,
}

/// How a block ends behind an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
    /// it does not
    No,
    /// it ends; the next instruction follows it in memory
    Behind,
    /// it ends; the handler sets RIP
    Jump,
    /// as `Jump`, and a conditional branch has retired
    Branch,
}

/// What a lowering gives for an instruction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lowered {
    pub op: Op,
    pub ends: Ends,
}

impl Op {
    /// The memory operand's offset in its segment, not truncated to the address size.
    #[inline(always)]
    fn sum(&self, cpu: &Cpu) -> u64 {
        cpu.regs[usize::from(self.base & 31)]
            .wrapping_add(cpu.regs[usize::from(self.index & 31)] << (self.scale & 3))
            .wrapping_add(self.disp)
    }

    /// The memory operand's offset in its segment: what LEA computes.
    #[inline(always)]
    pub(crate) fn offset(&self, cpu: &Cpu) -> u64 {
        let sum = self.sum(cpu);
        if self.flat { sum } else { truncate(sum, self.address) }
    }

    /// RIP behind the instruction.
    #[inline(always)]
    pub(crate) fn next_rip(&self, cpu: &Cpu) -> u64 {
        let rip = cpu.regs[usize::from(crate::cpu::BLOCK_RIP)].wrapping_add(u64::from(self.next));
        if cpu.mode.bitness == 64 { rip } else { rip & 0xffff_ffff }
    }
}

/// The low `bits` (16, 32 or 64) of a value.
#[inline(always)]
pub(crate) fn truncate(value: u64, bits: u8) -> u64 {
    match bits {
        64 => value,
        32 => value & 0xffff_ffff,
        _ => value & 0xffff,
    }
}

impl Cpu {
    /// A general register (never AH..BH unless `W` is a byte).
    #[inline(always)]
    pub(crate) fn reg<W: Word>(&self, number: u8) -> W {
        if W::WIDTH == 0 && number & HIGH != 0 {
            return W::cut(self.regs[usize::from(number & 3)] >> 8);
        }
        W::cut(self.regs[usize::from(number & 31)])
    }

    /// Sets a general register: a doubleword clears the upper half, smaller ones keep the rest.
    #[inline(always)]
    pub(crate) fn set_reg<W: Word>(&mut self, number: u8, value: W) {
        if W::WIDTH == 0 && number & HIGH != 0 {
            let slot = &mut self.regs[usize::from(number & 3)];
            *slot = *slot & !0xff00 | value.wide() << 8;
            return;
        }
        let slot = &mut self.regs[usize::from(number & 31)];
        *slot = match W::WIDTH {
            0 | 1 => *slot & !W::MASK | value.wide(),
            _ => value.wide(),
        };
    }

    /// The linear address of the memory operand, for an access of `bytes`.
    #[inline(always)]
    pub(crate) fn linear(&mut self, op: &Op, bytes: u64, write: bool) -> Result<u64, crate::cpu::Trap> {
        let sum = op.sum(self);
        if op.flat {
            return Ok(sum);
        }
        self.linear_in(usize::from(op.seg), truncate(sum, op.address), bytes, write)
    }

    /// Reads the memory operand.
    #[inline(always)]
    pub(crate) fn read_mem<W: Word>(&mut self, op: &Op) -> Result<W, crate::cpu::Trap> {
        let at = self.linear(op, W::BYTES, false)?;
        self.load(at)
    }

    /// Writes the memory operand.
    #[inline(always)]
    pub(crate) fn write_mem<W: Word>(&mut self, op: &Op, value: W) -> Done {
        let at = self.linear(op, W::BYTES, true)?;
        self.store(at, value)
    }
}
