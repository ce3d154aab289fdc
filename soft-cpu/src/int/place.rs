//! Where an operand is: as types, so that each form of an instruction is a handler without branches.

use crate::cpu::{Cpu, Trap};
use crate::op::Op;
use crate::word::Word;

/// An operand that can be read.
pub(super) trait Source {
    fn get<W: Word>(cpu: &mut Cpu, op: &Op) -> Result<W, Trap>;
}

/// The first register operand.
pub(super) struct First;
/// The second register operand.
pub(super) struct Second;
/// The memory operand.
pub(super) struct Memory;
/// The immediate.
pub(super) struct Immediate;

impl Source for First {
    #[inline(always)]
    fn get<W: Word>(cpu: &mut Cpu, op: &Op) -> Result<W, Trap> {
        Ok(cpu.reg(op.dst))
    }
}

impl Source for Second {
    #[inline(always)]
    fn get<W: Word>(cpu: &mut Cpu, op: &Op) -> Result<W, Trap> {
        Ok(cpu.reg(op.src))
    }
}

impl Source for Memory {
    #[inline(always)]
    fn get<W: Word>(cpu: &mut Cpu, op: &Op) -> Result<W, Trap> {
        cpu.read_mem(op)
    }
}

impl Source for Immediate {
    #[inline(always)]
    fn get<W: Word>(_: &mut Cpu, op: &Op) -> Result<W, Trap> {
        Ok(W::cut(op.imm))
    }
}

/// Replaces the first register operand or the memory operand by what `change` makes of it; `settle` comes last, when
/// nothing can fault any more.
pub(super) trait Target {
    fn change<W: Word, T>(
        cpu: &mut Cpu,
        op: &Op,
        change: impl FnOnce(&mut Cpu, W) -> (W, T),
        settle: impl FnOnce(&mut Cpu, W, T),
    ) -> Result<(), Trap>;
}

impl Target for First {
    #[inline(always)]
    fn change<W: Word, T>(
        cpu: &mut Cpu,
        op: &Op,
        change: impl FnOnce(&mut Cpu, W) -> (W, T),
        settle: impl FnOnce(&mut Cpu, W, T),
    ) -> Result<(), Trap> {
        let old = cpu.reg(op.dst);
        let (new, with) = change(cpu, old);
        cpu.set_reg(op.dst, new);
        settle(cpu, new, with);
        Ok(())
    }
}

impl Target for Memory {
    #[inline(always)]
    fn change<W: Word, T>(
        cpu: &mut Cpu,
        op: &Op,
        change: impl FnOnce(&mut Cpu, W) -> (W, T),
        settle: impl FnOnce(&mut Cpu, W, T),
    ) -> Result<(), Trap> {
        let at = cpu.linear(op, W::BYTES, true)?;
        let old = cpu.load_for_update(at)?;
        let (new, with) = change(cpu, old);
        cpu.store(at, new)?;
        settle(cpu, new, with);
        Ok(())
    }
}
