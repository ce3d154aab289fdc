//! FSIN, FCOS, FSINCOS, FPTAN, FPATAN, F2XM1, FYL2X, FYL2XP1.
//!
//! Results are computed to more than 100 bits by series in integer arithmetic and then rounded once, as rounding control
//! says and to 64 bits whatever precision control says. So they are the same on every host, and at most one unit in the
//! last place from a processor's, which is itself a little more than half a unit from the exact value.

mod arctangent;
mod exponential;
mod trigonometry;
mod wide;

use super::extended::{
    Class, Extended, INDEFINITE, ONE, SIGN, denormals, infinity, invalid, nan, nans, stopped, zero,
};
use super::round::{C1, Exact, Outcome, PE, Rules, UE, ZE, round_extended};
use super::stack::{C2, OVERFLOW, UNDERFLOW};
use crate::cpu::{Cpu, Done};
use crate::op::Op;

/// Rounds; "inexact" is raised even if nothing is lost, as processors do, and so is "underflow".
fn rounded(value: Exact, rules: Rules) -> Outcome {
    let outcome = round_extended(value, rules.full());
    let tiny = outcome.bits >> 64 & 0x7fff == 0;
    Outcome { flags: outcome.flags | PE | if tiny { UE } else { 0 }, ..outcome }
}

/// What all trigonometric functions begin with: an operand that is not finite, is too large, or is denormal and that is
/// not masked.
enum Operand {
    Answer(Outcome),
    TooLarge,
    Zero,
    Value(Extended, u16),
}

fn operand(bits: u128, rules: Rules) -> Operand {
    let x = Extended::new(bits);
    if let Some(outcome) = nan(&x) {
        return Operand::Answer(outcome);
    }
    let de = denormals(&[&x]);
    match x.class {
        Class::Infinity => Operand::Answer(invalid()),
        Class::Zero => Operand::Zero,
        _ if x.exp >= 63 => Operand::TooLarge,
        _ => match stopped(de, rules) {
            Some(outcome) => Operand::Answer(outcome),
            None => Operand::Value(x, de),
        },
    }
}

/// One function of ST(0): FSIN (`extra` 0), FCOS (1).
pub(crate) fn sine_or_cosine(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87_ready()?;
    let Some(bits) = cpu.st(0) else {
        cpu.fpu.fsw &= !C2;
        return cpu.underflow(0, 0);
    };
    let rules = cpu.rules();
    let outcome = match operand(bits, rules) {
        Operand::TooLarge => {
            cpu.fpu.fsw |= C2;
            cpu.report(0);
            return Ok(());
        }
        Operand::Answer(outcome) => outcome,
        Operand::Zero => Outcome::exact(if op.extra == 0 { bits } else { ONE }),
        Operand::Value(x, de) => {
            let value = if op.extra == 0 { trigonometry::sine(&x) } else { trigonometry::cosine(&x) };
            let outcome = rounded(value, rules);
            Outcome { flags: outcome.flags | de, ..outcome }
        }
    };
    cpu.fpu.fsw &= !C2;
    cpu.finish(0, 0, outcome);
    Ok(())
}

/// FSINCOS (`extra` 0) and FPTAN (1): one result in ST(0), another (the cosine, or 1) pushed.
pub(crate) fn two_results(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87_ready()?;
    let rules = cpu.rules();
    let tangent = op.extra != 0;
    let (first, second) = match cpu.st(0) {
        None => (Outcome { bits: INDEFINITE, flags: UNDERFLOW }, INDEFINITE),
        Some(_) if cpu.is_full() => (Outcome { bits: INDEFINITE, flags: OVERFLOW }, INDEFINITE),
        Some(bits) => match operand(bits, rules) {
            Operand::TooLarge => {
                cpu.fpu.fsw |= C2;
                cpu.report(0);
                return Ok(());
            }
            Operand::Answer(outcome) => (outcome, outcome.bits),
            Operand::Zero => (Outcome::exact(bits), ONE),
            Operand::Value(x, de) => {
                let (first, second) = if tangent {
                    (rounded(trigonometry::tangent(&x), rules), Outcome::exact(ONE))
                } else {
                    (rounded(trigonometry::sine(&x), rules), rounded(trigonometry::cosine(&x), rules))
                };
                let flags = if tangent { first.flags } else { first.flags & !C1 | second.flags };
                (Outcome { flags: flags | de, ..first }, second.bits)
            }
        },
    };
    cpu.fpu.fsw &= !C2;
    if !cpu.blocked(first.flags) {
        cpu.set_st(0, first.bits);
        cpu.push_st(second);
    }
    cpu.report(first.flags);
    Ok(())
}

pub(crate) fn f2xm1(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.x87_ready()?;
    let Some(bits) = cpu.st(0) else {
        return cpu.underflow(0, 0);
    };
    let outcome = exp2m1(bits, cpu.rules());
    cpu.finish(0, 0, outcome);
    Ok(())
}

fn exp2m1(bits: u128, rules: Rules) -> Outcome {
    let x = Extended::new(bits);
    if let Some(outcome) = nan(&x) {
        return outcome;
    }
    let de = denormals(&[&x]);
    if let Some(outcome) = stopped(de, rules) {
        return outcome;
    }
    match x.class {
        Class::Zero => Outcome::exact(bits),
        Class::Infinity => Outcome::exact(if x.sign { SIGN | ONE } else { bits }),
        // The manuals leave what is above 1 open.
        _ if x.exp >= 0 => {
            let half = SIGN | 0x3ffe << 64 | 1 << 63;
            Outcome { bits: if bits == SIGN | ONE { half } else { bits }, flags: PE }
        }
        _ => {
            let outcome = rounded(exponential::exp2m1(&x), rules);
            Outcome { flags: outcome.flags | de, ..outcome }
        }
    }
}

/// The instructions that replace ST(1) by a function of it and ST(0), and pop.
fn binary(cpu: &mut Cpu, function: fn(&Extended, &Extended, Rules) -> Outcome) -> Done {
    cpu.x87_ready()?;
    let (Some(x), Some(y)) = (cpu.st(0), cpu.st(1)) else {
        return cpu.underflow(1, 1);
    };
    let (x, y, rules) = (Extended::new(x), Extended::new(y), cpu.rules());
    let outcome = match nans(&y, &x) {
        Some(outcome) => outcome,
        None => function(&y, &x, rules),
    };
    cpu.finish(1, 1, outcome);
    Ok(())
}

/// `compute`, unless a denormal operand stops it.
fn with_denormals(y: &Extended, x: &Extended, rules: Rules, compute: impl FnOnce() -> Outcome) -> Outcome {
    let de = denormals(&[y, x]);
    match stopped(de, rules) {
        Some(outcome) => outcome,
        None => {
            let outcome = compute();
            Outcome { flags: outcome.flags | de, ..outcome }
        }
    }
}

pub(crate) fn fpatan(cpu: &mut Cpu, _: &Op) -> Done {
    binary(cpu, |y, x, rules| {
        with_denormals(y, x, rules, || {
            let quarters = |n| rounded(arctangent::quarters(y.sign, n), rules);
            match (y.class, x.class) {
                (Class::Infinity, Class::Infinity) => quarters(if x.sign { 3 } else { 1 }),
                (Class::Infinity, _) => quarters(2),
                (Class::Zero, _) | (_, Class::Infinity) if x.sign => quarters(4),
                (Class::Zero, _) | (_, Class::Infinity) => Outcome::exact(zero(y.sign)),
                (_, Class::Zero) => quarters(2),
                _ => rounded(arctangent::arctangent(y.exact(), x.exact()), rules),
            }
        })
    })
}

pub(crate) fn fyl2x(cpu: &mut Cpu, _: &Op) -> Done {
    binary(cpu, |y, x, rules| {
        if x.sign && !x.is_zero() {
            return invalid();
        }
        // The sign of the logarithm: 0 for that of 1.
        let sign = match x.class {
            _ if x.bits == ONE => 0,
            _ if x.exp >= 0 && !x.is_zero() => 1,
            _ => -1,
        };
        match (y.class, x.class) {
            (Class::Infinity, _) if sign == 0 => return invalid(),
            (Class::Zero, Class::Zero | Class::Infinity) => return invalid(),
            (Class::Finite, Class::Zero) => {
                return Outcome { bits: infinity(!y.sign), flags: ZE };
            }
            _ => {}
        }
        with_denormals(y, x, rules, || {
            if y.is_infinite() || x.is_infinite() || x.is_zero() {
                Outcome::exact(infinity(y.sign != (sign < 0)))
            } else if y.is_zero() || sign == 0 {
                Outcome::exact(zero(y.sign != (sign < 0)))
            } else {
                rounded(exponential::times(y.exact(), exponential::log2(x.exact())), rules)
            }
        })
    })
}

pub(crate) fn fyl2xp1(cpu: &mut Cpu, _: &Op) -> Done {
    binary(cpu, |y, x, rules| {
        let sign = y.sign != x.sign;
        match (y.class, x.class) {
            (_, Class::Infinity) if x.sign || y.is_zero() => return invalid(),
            (Class::Infinity, Class::Zero) => return invalid(),
            _ => {}
        }
        with_denormals(y, x, rules, || {
            if y.is_infinite() || x.is_infinite() {
                Outcome::exact(infinity(sign))
            } else if y.is_zero() || x.is_zero() {
                Outcome::exact(zero(sign))
            } else if x.sign && x.exp >= 0 {
                // The manuals leave logarithms of 0 and less open.
                Outcome { bits: x.bits, flags: PE }
            } else {
                rounded(exponential::times(y.exact(), exponential::log2p1(x)), rules)
            }
        })
    })
}
