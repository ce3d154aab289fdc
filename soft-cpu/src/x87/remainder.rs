//! FPREM, FPREM1, FSCALE, FXTRACT: what takes exponents and significands apart.

use super::extended::{
    Extended, INDEFINITE, denormals, from_integer, infinity, invalid, nan, nans, pack, stopped, zero,
};
use super::round::{Exact, Outcome, Rules, ZE, round_extended};
use super::stack::{C0, C2, C3, OVERFLOW, UNDERFLOW};
use crate::cpu::{Cpu, Done};
use crate::op::Op;

/// FPREM (`extra` 0) and FPREM1 (1).
pub(crate) fn fprem(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87_ready()?;
    let (Some(a), Some(b)) = (cpu.st(0), cpu.st(1)) else {
        cpu.fpu.fsw &= !C2;
        return cpu.underflow(0, 0);
    };
    let (outcome, codes) = remainder(a, b, op.extra != 0, cpu.rules());
    if !cpu.blocked(outcome.flags) {
        cpu.set_st(0, outcome.bits);
    }
    match codes {
        Some(codes) => cpu.report_codes(codes, outcome.flags),
        None => {
            cpu.fpu.fsw &= !C2;
            cpu.report(outcome.flags);
        }
    }
    Ok(())
}

/// The three low bits of a quotient: bit 2 in C0, bit 1 in C3, bit 0 in C1.
fn quotient_codes(quotient: u128) -> u16 {
    let bit = |n: u32, code: u16| if quotient >> n & 1 != 0 { code } else { 0 };
    bit(2, C0) | bit(1, C3) | bit(0, super::round::C1)
}

/// The remainder, or a step towards it if the exponents are 64 and more apart (C2), and condition codes; `None` if there is no
/// quotient: then C2 becomes 0 and the others stay.
fn remainder(a: u128, b: u128, nearest: bool, rules: Rules) -> (Outcome, Option<u16>) {
    let (x, y) = (Extended::new(a), Extended::new(b));
    if let Some(outcome) = nans(&x, &y) {
        return (outcome, None);
    }
    if x.is_infinite() || y.is_zero() {
        return (invalid(), None);
    }
    let de = denormals(&[&x, &y]);
    if let Some(outcome) = stopped(de, rules) {
        return (outcome, None);
    }
    if x.is_zero() {
        return (Outcome { bits: a, flags: de }, Some(0));
    }
    let distance = if y.is_infinite() { i32::MIN } else { x.exp - y.exp };
    // `rest` * 2^(`exp` - 63) remains.
    let (quotient, rest, exp, sign, codes) = match distance {
        ..-1 => (0, u128::from(x.sig), x.exp, x.sign, 0),
        -1 if nearest && x.sig > y.sig => (1, 2 * u128::from(y.sig) - u128::from(x.sig), x.exp, !x.sign, 0),
        -1 => (0, u128::from(x.sig), x.exp, x.sign, 0),
        0..64 => {
            let dividend = u128::from(x.sig) << distance;
            let (quotient, rest) = (dividend / u128::from(y.sig), dividend % u128::from(y.sig));
            let twice = (2 * rest).cmp(&u128::from(y.sig));
            if nearest && (twice.is_gt() || (twice.is_eq() && quotient & 1 != 0)) {
                (quotient + 1, u128::from(y.sig) - rest, y.exp, !x.sign, 0)
            } else {
                (quotient, rest, y.exp, x.sign, 0)
            }
        }
        _ => {
            // As many bits of the quotient as make the distance that remains a multiple of 32.
            let bits = 32 + distance % 32;
            let rest = (u128::from(x.sig) << bits) % u128::from(y.sig);
            (0, rest, y.exp + distance - bits, x.sign, C2)
        }
    };
    let codes = codes | quotient_codes(quotient);
    if rest == 0 {
        return (Outcome { bits: zero(x.sign), flags: de }, Some(codes));
    }
    let outcome = round_extended(Exact::normalized(sign, exp + 64, rest), rules.full());
    (Outcome { flags: outcome.flags | de, ..outcome }, Some(codes))
}

/// FSCALE.
pub(crate) fn scale(a: u128, b: u128, rules: Rules) -> Outcome {
    /// More than any exponent reaches.
    const FAR: i32 = 0x1_0000;
    let (x, y) = (Extended::new(a), Extended::new(b));
    if let Some(outcome) = nans(&x, &y) {
        return outcome;
    }
    if y.is_infinite() && if y.sign { x.is_infinite() } else { x.is_zero() } {
        return invalid();
    }
    let de = denormals(&[&x, &y]);
    if let Some(outcome) = stopped(de, rules) {
        return outcome;
    }
    let mut outcome = if x.is_infinite() || x.is_zero() {
        Outcome::exact(a)
    } else if y.is_infinite() {
        Outcome::exact(if y.sign { zero(x.sign) } else { infinity(x.sign) })
    } else {
        let magnitude = match y.exp {
            _ if y.is_zero() => 0,
            ..0 => 0,
            0..16 => (y.sig >> (63 - y.exp)) as i32,
            _ => FAR,
        };
        let by = if y.sign { -magnitude } else { magnitude };
        round_extended(Exact { exp: x.exp + by, ..x.exact() }, rules.full())
    };
    outcome.flags |= de;
    outcome
}

pub(crate) fn fscale(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.x87_ready()?;
    let (Some(a), Some(b)) = (cpu.st(0), cpu.st(1)) else {
        return cpu.underflow(0, 0);
    };
    let outcome = scale(a, b, cpu.rules());
    cpu.finish(0, 0, outcome);
    Ok(())
}

/// FXTRACT: the exponent replaces ST(0), the significand is pushed.
pub(crate) fn fxtract(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.x87_ready()?;
    let (exponent, significand, flags) = match cpu.st(0) {
        None => (INDEFINITE, INDEFINITE, UNDERFLOW),
        Some(_) if cpu.is_full() => (INDEFINITE, INDEFINITE, OVERFLOW),
        Some(bits) => {
            let x = Extended::new(bits);
            if let Some(Outcome { bits, flags }) = nan(&x) {
                (bits, bits, flags)
            } else if x.is_zero() {
                (infinity(true), bits, ZE)
            } else if x.is_infinite() {
                (infinity(false), bits, 0)
            } else {
                (from_integer(x.exp.into()), pack(x.sign, 0, x.sig), denormals(&[&x]))
            }
        }
    };
    if !cpu.blocked(flags) {
        cpu.set_st(0, exponent);
        cpu.push_st(significand);
    }
    cpu.report(flags);
    Ok(())
}
