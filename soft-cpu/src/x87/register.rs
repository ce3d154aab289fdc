//! Arithmetic, comparison and moves on the stack.

use super::arithmetic::{Binary, UNORDERED, binary, compare, sqrt};
use super::convert::round_to_integer;
use super::extended::{Class, Extended, INDEFINITE, SIGN};
use super::memory::{Source, memory_flags};
use super::round::{BEFORE, C1, DE, Outcome, Rounding, Rules};
use super::stack::{C0, C2, C3, UNDERFLOW};
use crate::cpu::{Cpu, Done};
use crate::flags::{CF, PF, ZF};
use crate::op::Op;

/// ST(dst) = ST(dst) op ST(src), then pops `size` times; `extra` is the operation.
pub(crate) fn arithmetic(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87_ready()?;
    let (Some(dst), Some(src)) = (cpu.st(op.dst), cpu.st(op.src)) else {
        return cpu.underflow(op.dst, op.size);
    };
    let outcome = binary(Binary::from_number(op.extra), dst, src, cpu.rules());
    cpu.finish(op.dst, op.size, outcome);
    Ok(())
}

/// ST(0) = ST(0) op memory.
pub(crate) fn arithmetic_memory<S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87_ready()?;
    let src = S::read(cpu, op)?;
    let Some(dst) = cpu.st(0) else {
        return cpu.underflow(0, 0);
    };
    let rules = cpu.rules();
    let mut outcome = binary(Binary::from_number(op.extra), dst, src.bits, rules);
    outcome.flags = memory_flags(outcome, src.flags);
    if rules.unmasked(outcome.flags & DE) {
        outcome.flags &= BEFORE;
    }
    cpu.finish(0, 0, outcome);
    Ok(())
}

/// Bits of `extra` of the comparisons.
pub(crate) const QUIET: u8 = 1;
pub(crate) const TO_FLAGS: u8 = 2;

/// Compares ST(0) with ST(src), then pops `size` times.
pub(crate) fn compare_registers(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87_ready()?;
    let outcome = match (cpu.st(0), cpu.st(op.src)) {
        (Some(a), Some(b)) => compare(a, b, op.extra & QUIET != 0),
        _ => Outcome { bits: UNORDERED.into(), flags: UNDERFLOW },
    };
    finish_comparison(cpu, op, outcome);
    Ok(())
}

pub(crate) fn compare_memory<S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87_ready()?;
    let src = S::read(cpu, op)?;
    let outcome = match cpu.st(0) {
        Some(a) => {
            let outcome = compare(a, src.bits, false);
            let unordered = outcome.bits as u16 == UNORDERED;
            Outcome { flags: outcome.flags | if unordered { 0 } else { src.flags }, ..outcome }
        }
        None => Outcome { bits: UNORDERED.into(), flags: UNDERFLOW },
    };
    finish_comparison(cpu, op, outcome);
    Ok(())
}

pub(crate) fn ftst(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87_ready()?;
    let outcome = match cpu.st(0) {
        Some(a) => compare(a, 0, false),
        None => Outcome { bits: UNORDERED.into(), flags: UNDERFLOW },
    };
    finish_comparison(cpu, op, outcome);
    Ok(())
}

fn finish_comparison(cpu: &mut Cpu, op: &Op, outcome: Outcome) {
    let codes = outcome.bits as u16;
    let blocked = cpu.blocked(outcome.flags);
    if op.extra & TO_FLAGS == 0 {
        cpu.report_codes(codes, outcome.flags);
    } else {
        // An exception that is not masked does not keep it from RFLAGS; and C1 stays unless the stack is at fault.
        let flag = |code: u16, flag: u64| if codes & code != 0 { flag } else { 0 };
        cpu.flags.set_known(flag(C0, CF) | flag(C2, PF) | flag(C3, ZF));
        let c1 = if outcome.flags == UNDERFLOW { 0 } else { cpu.fpu.fsw & C1 };
        cpu.report(outcome.flags | c1);
    }
    if !blocked {
        cpu.pop(op.size);
    }
}

pub(crate) fn fxam(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.x87_ready()?;
    let physical = cpu.fpu.top();
    let x = Extended::new(cpu.fpu.regs[physical]);
    let codes = match x.class {
        _ if cpu.st(0).is_none() => C3 | C0,
        Class::Unsupported => 0,
        Class::Quiet | Class::Signalling => C0,
        Class::Infinity => C2 | C0,
        Class::Zero => C3,
        Class::Finite if x.denormal => C3 | C2,
        Class::Finite => C2,
    };
    cpu.report_codes(codes, if x.sign { C1 } else { 0 });
    Ok(())
}

/// FLD ST(dst).
pub(crate) fn fld_register(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87_ready()?;
    let outcome = match cpu.st(op.dst) {
        Some(bits) => Outcome::exact(bits),
        None if cpu.is_full() => {
            // Both an empty source and no room: the underflow is what is reported.
            if !cpu.blocked(UNDERFLOW) {
                cpu.push_st(INDEFINITE);
            }
            cpu.report(UNDERFLOW);
            return Ok(());
        }
        None => Outcome { bits: INDEFINITE, flags: UNDERFLOW },
    };
    cpu.finish_push(outcome);
    Ok(())
}

/// FST and FSTP ST(dst).
pub(crate) fn fst_register(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87_ready()?;
    match cpu.st(0) {
        Some(bits) => cpu.finish(op.dst, op.size, Outcome::exact(bits)),
        None => return cpu.underflow(op.dst, op.size),
    }
    Ok(())
}

/// FSTPNCE ST(dst), an alias of FSTP that does not mind an empty ST(0): then it only pops.
pub(crate) fn fstpnce(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87_ready()?;
    match cpu.st(0) {
        Some(bits) => cpu.finish(op.dst, op.size, Outcome::exact(bits)),
        None => {
            cpu.pop(op.size);
            cpu.report(0);
        }
    }
    Ok(())
}

/// FXCH ST(src).
pub(crate) fn fxch(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87_ready()?;
    let (a, b) = (cpu.st(0), cpu.st(op.src));
    let flags = if a.is_none() || b.is_none() { UNDERFLOW } else { 0 };
    if !cpu.blocked(flags) {
        cpu.set_st(0, b.unwrap_or(INDEFINITE));
        cpu.set_st(op.src, a.unwrap_or(INDEFINITE));
    }
    cpu.report(flags);
    Ok(())
}

/// FCMOVcc; `extra`: 0 below, 1 equal, 2 below or equal, 3 unordered, 4 and more: not.
pub(crate) fn fcmov(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87_ready()?;
    let flags = &cpu.flags;
    let holds = match op.extra & 3 {
        0 => flags.cf(),
        1 => flags.zf(),
        2 => flags.cf() || flags.zf(),
        _ => flags.pf(),
    };
    let (Some(a), Some(b)) = (cpu.st(0), cpu.st(op.src)) else {
        return cpu.underflow(0, 0);
    };
    let taken = holds != (op.extra & 4 != 0);
    // C1 stays what it is.
    cpu.set_st(0, if taken { b } else { a });
    Ok(())
}

/// An instruction that replaces ST(0) by a function of it.
fn unary(cpu: &mut Cpu, function: impl FnOnce(u128, Rules) -> Outcome) -> Done {
    cpu.x87_ready()?;
    match cpu.st(0) {
        Some(bits) => {
            let outcome = function(bits, cpu.rules());
            cpu.finish(0, 0, outcome);
            Ok(())
        }
        None => cpu.underflow(0, 0),
    }
}

pub(crate) fn fchs(cpu: &mut Cpu, _: &Op) -> Done {
    unary(cpu, |bits, _| Outcome::exact(bits ^ SIGN))
}

pub(crate) fn fabs(cpu: &mut Cpu, _: &Op) -> Done {
    unary(cpu, |bits, _| Outcome::exact(bits & !SIGN))
}

pub(crate) fn fsqrt(cpu: &mut Cpu, _: &Op) -> Done {
    unary(cpu, sqrt)
}

pub(crate) fn frndint(cpu: &mut Cpu, _: &Op) -> Done {
    unary(cpu, round_to_integer)
}

/// The constants, cut off, and whether rounding to nearest adds one to the last place; `None` for exact ones.
const CONSTANTS: [(u128, Option<bool>); 7] = [
    (super::extended::ONE, None),
    (0x4000_d49a_784b_cd1b_8afe, Some(false)), // log2(10)
    (0x3fff_b8aa_3b29_5c17_f0bb, Some(true)),  // log2(e)
    (0x4000_c90f_daa2_2168_c234, Some(true)),  // pi
    (0x3ffd_9a20_9a84_fbcf_f798, Some(true)),  // log10(2)
    (0x3ffe_b172_17f7_d1cf_79ab, Some(true)),  // ln(2)
    (0, None),
];

/// FLD1 (0), FLDL2T, FLDL2E, FLDPI, FLDLG2, FLDLN2, FLDZ, by `extra`. They are rounded, and no exception says so.
pub(crate) fn constant(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87_ready()?;
    let (bits, nearest) = CONSTANTS[usize::from(op.extra) % CONSTANTS.len()];
    let up = match cpu.rules().rounding {
        Rounding::Nearest => nearest == Some(true),
        Rounding::Up => nearest.is_some(),
        Rounding::Down | Rounding::Zero => false,
    };
    cpu.finish_push(Outcome::exact(bits + u128::from(up)));
    Ok(())
}
