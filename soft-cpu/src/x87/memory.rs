//! Loads and stores, and the operands in memory of arithmetic instructions.

use super::convert::{
    DECIMAL_INDEFINITE, from_decimal, load, narrow, narrow_fails, to_decimal, to_integer, widen,
};
use super::extended::{Class, Extended, INDEFINITE, from_integer};
use super::round::{DE, DOUBLE, Format, IE, Outcome, Rounding, SINGLE, ZE};
use super::stack::UNDERFLOW;
use crate::cpu::{Cpu, Done, Trap};
use crate::op::Op;
use crate::word::Word;

/// A real in memory.
pub(crate) trait Real: Word {
    const FORMAT: Format;
}

impl Real for u32 {
    const FORMAT: Format = SINGLE;
}

impl Real for u64 {
    const FORMAT: Format = DOUBLE;
}

/// An arithmetic instruction's operand in memory.
pub(crate) trait Source: 'static {
    /// As an extended real, and DE.
    fn read(cpu: &mut Cpu, op: &Op) -> Result<Outcome, Trap>;
}

/// A single or double.
pub(crate) struct RealSource<W>(std::marker::PhantomData<W>);
/// A signed integer.
pub(crate) struct IntegerSource<W>(std::marker::PhantomData<W>);

impl<W: Real> Source for RealSource<W> {
    fn read(cpu: &mut Cpu, op: &Op) -> Result<Outcome, Trap> {
        let value: W = cpu.read_mem(op)?;
        Ok(widen(value.wide(), W::FORMAT))
    }
}

impl<W: Word> Source for IntegerSource<W> {
    fn read(cpu: &mut Cpu, op: &Op) -> Result<Outcome, Trap> {
        let value: W = cpu.read_mem(op)?;
        Ok(Outcome::exact(from_integer(value.signed())))
    }
}

/// Reads 80 bits: two accesses, because the first 8 bytes are what alignment is checked for.
fn read_80(cpu: &mut Cpu, op: &Op) -> Result<u128, Trap> {
    let at = cpu.linear(op, 10, false)?;
    let low: u64 = cpu.load(at)?;
    let high: u16 = cpu.load(at.wrapping_add(8))?;
    Ok(u128::from(high) << 64 | u128::from(low))
}

fn write_80(cpu: &mut Cpu, op: &Op, bits: u128) -> Done {
    let at = cpu.linear(op, 10, true)?;
    cpu.check_alignment(at, 8)?;
    cpu.check_writable(at, 10)?;
    cpu.store(at, bits as u64)?;
    cpu.store(at.wrapping_add(8), (bits >> 64) as u16)
}

/// Faults as the store would that an exception prevents.
fn no_store(cpu: &mut Cpu, op: &Op, bytes: u64) -> Done {
    let at = cpu.linear(op, bytes, true)?;
    cpu.check_alignment(at, bytes.min(8) as usize)?;
    cpu.check_writable(at, bytes)
}

/// FLD of a single or double.
pub(crate) fn fld<W: Real>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87_ready()?;
    let value: W = cpu.read_mem(op)?;
    let outcome = load(value.wide(), W::FORMAT);
    // A denormal is pushed even if its exception is not masked: it is one no longer.
    let Outcome { bits, flags } = outcome;
    if flags & DE != 0 && !cpu.is_full() {
        cpu.push_st(bits);
        cpu.report(flags);
    } else {
        cpu.finish_push(outcome);
    }
    Ok(())
}

pub(crate) fn fld_80(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87_ready()?;
    let bits = read_80(cpu, op)?;
    cpu.finish_push(Outcome::exact(bits));
    Ok(())
}

pub(crate) fn fild<W: Word>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87_ready()?;
    let value: W = cpu.read_mem(op)?;
    cpu.finish_push(Outcome::exact(from_integer(value.signed())));
    Ok(())
}

pub(crate) fn fbld(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87_ready()?;
    let bits = read_80(cpu, op)?;
    cpu.finish_push(Outcome::exact(from_decimal(bits)));
    Ok(())
}

/// FST and FSTP to a single or double.
pub(crate) fn fst<W: Real>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87_ready()?;
    let rules = cpu.rules();
    let outcome = match cpu.st(0) {
        Some(bits) => narrow(bits, W::FORMAT, rules),
        None => Outcome { flags: UNDERFLOW, ..narrow(INDEFINITE, W::FORMAT, rules) },
    };
    if narrow_fails(outcome.flags, rules) {
        no_store(cpu, op, W::BYTES)?;
    } else {
        cpu.write_mem(op, W::cut(outcome.bits as u64))?;
        cpu.pop(op.size);
    }
    cpu.report(outcome.flags);
    Ok(())
}

pub(crate) fn fstp_80(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87_ready()?;
    let outcome = match cpu.st(0) {
        Some(bits) => Outcome::exact(bits),
        None => Outcome { bits: INDEFINITE, flags: UNDERFLOW },
    };
    store_80(cpu, op, outcome)
}

pub(crate) fn fbstp(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87_ready()?;
    let outcome = match cpu.st(0) {
        Some(bits) => to_decimal(bits, cpu.rules().rounding),
        None => Outcome { bits: DECIMAL_INDEFINITE, flags: UNDERFLOW },
    };
    store_80(cpu, op, outcome)
}

fn store_80(cpu: &mut Cpu, op: &Op, outcome: Outcome) -> Done {
    if cpu.blocked(outcome.flags) {
        no_store(cpu, op, 10)?;
    } else {
        write_80(cpu, op, outcome.bits)?;
        cpu.pop(1);
    }
    cpu.report(outcome.flags);
    Ok(())
}

/// FIST and FISTP.
pub(crate) fn fist<W: Word>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87_ready()?;
    let rounding = cpu.rules().rounding;
    store_integer::<W>(cpu, op, rounding)
}

pub(crate) fn fisttp<W: Word>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87_ready()?;
    store_integer::<W>(cpu, op, Rounding::Zero)
}

fn store_integer<W: Word>(cpu: &mut Cpu, op: &Op, rounding: Rounding) -> Done {
    let outcome = match cpu.st(0) {
        Some(bits) => to_integer(bits, W::BITS, rounding),
        None => Outcome { bits: 1 << (W::BITS - 1), flags: UNDERFLOW },
    };
    if cpu.blocked(outcome.flags) {
        no_store(cpu, op, W::BYTES)?;
    } else {
        cpu.write_mem(op, W::cut(outcome.bits as u64))?;
        cpu.pop(op.size);
    }
    cpu.report(outcome.flags);
    Ok(())
}

/// What an operand in memory adds to an operation's flags: DE, unless the operation is invalid, divides by 0 or ends in a NaN.
pub(crate) fn memory_flags(outcome: Outcome, de: u16) -> u16 {
    let nan =
        matches!(Extended::new(outcome.bits).class, Class::Quiet | Class::Signalling | Class::Unsupported);
    if nan || outcome.flags & (IE | ZE) != 0 { outcome.flags } else { outcome.flags | de }
}
