//! Addition, subtraction, multiplication, division, square root, comparison.
//!
//! The significands' arithmetic is `rustc_apfloat`'s, in its 113-bit format and cut off: 49 bits more than the largest
//! result has, and its "inexact" for whatever is below them. Rounding is done here, because the library has no precision
//! control, does not say in which direction it rounded (C1), and does not give the adjusted exponents of unmasked
//! overflow and underflow. It has no square root.

use rustc_apfloat::ieee::Quad;
use rustc_apfloat::{Float, Round, Status, StatusAnd};

use super::extended::{Class, Extended, denormals, infinity, invalid, nan, nans, stopped, zero};
use super::round::{Exact, Outcome, Rounding, Rules, ZE, round_extended};

/// What FADD and its like do with destination and source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Binary {
    Add,
    Mul,
    Sub,
    /// source - destination
    SubReverse,
    Div,
    /// source / destination
    DivReverse,
}

impl Binary {
    /// The inverse of `as u8`.
    pub(crate) fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Add,
            1 => Self::Mul,
            2 => Self::Sub,
            3 => Self::SubReverse,
            4 => Self::Div,
            _ => Self::DivReverse,
        }
    }
}

/// One of the four basic operations.
pub(crate) fn binary(kind: Binary, dst: u128, src: u128, rules: Rules) -> Outcome {
    let (dst, src) = (Extended::new(dst), Extended::new(src));
    if let Some(outcome) = nans(&dst, &src) {
        return outcome;
    }
    match kind {
        Binary::Add => add(dst, src, rules),
        Binary::Mul => mul(dst, src, rules),
        Binary::Sub => add(dst, negated(src), rules),
        Binary::SubReverse => add(src, negated(dst), rules),
        Binary::Div => div(dst, src, rules),
        Binary::DivReverse => div(src, dst, rules),
    }
}

fn negated(x: Extended) -> Extended {
    Extended { sign: !x.sign, bits: x.bits ^ super::extended::SIGN, ..x }
}

/// `sig` * 2^(`exp` - 63) in the library's format. The exponent is small.
fn quad(sign: bool, exp: i32, sig: u64) -> Quad {
    let exponent = u128::from((exp + 16383) as u16);
    Quad::from_bits(u128::from(sign) << 127 | exponent << 112 | u128::from(sig << 1) << 48)
}

/// Back from it, the exponent raised by `exp`. `None` for 0.
fn exact(result: StatusAnd<Quad>, exp: i32) -> Option<Exact> {
    let bits = result.value.to_bits();
    let exponent = i32::from((bits >> 112) as u16 & 0x7fff);
    if exponent == 0 {
        return None;
    }
    let sticky = u128::from(result.status.contains(Status::INEXACT));
    let sig = 1 << 127 | bits << 16 >> 1 | sticky;
    Some(Exact { sign: bits >> 127 != 0, exp: exponent - 16383 + exp, sig })
}

fn add(a: Extended, b: Extended, rules: Rules) -> Outcome {
    // Far below the last bit of the larger, only that there is something counts.
    const FAR: i32 = -300;
    if a.is_infinite() && b.is_infinite() && a.sign != b.sign {
        return invalid();
    }
    let flags = denormals(&[&a, &b]);
    if let Some(outcome) = stopped(flags, rules) {
        return outcome;
    }
    let mut outcome = match (a.class, b.class) {
        (Class::Infinity, _) => Outcome::exact(a.bits),
        (_, Class::Infinity) => Outcome::exact(b.bits),
        (Class::Zero, Class::Zero) if a.sign == b.sign => Outcome::exact(a.bits),
        (Class::Zero, Class::Zero) => Outcome::exact(zero(rules.rounding == Rounding::Down)),
        (Class::Zero, _) => round_extended(b.exact(), rules),
        (_, Class::Zero) => round_extended(a.exact(), rules),
        _ => {
            let base = a.exp.max(b.exp);
            let left = quad(a.sign, (a.exp - base).max(FAR), a.sig);
            let right = quad(b.sign, (b.exp - base).max(FAR), b.sig);
            match exact(left.add_r(right, Round::TowardZero), base) {
                Some(sum) => round_extended(sum, rules),
                None => Outcome::exact(zero(rules.rounding == Rounding::Down)),
            }
        }
    };
    outcome.flags |= flags;
    outcome
}

fn mul(a: Extended, b: Extended, rules: Rules) -> Outcome {
    let sign = a.sign != b.sign;
    if (a.is_infinite() && b.is_zero()) || (a.is_zero() && b.is_infinite()) {
        return invalid();
    }
    let flags = denormals(&[&a, &b]);
    if let Some(outcome) = stopped(flags, rules) {
        return outcome;
    }
    let mut outcome = if a.is_infinite() || b.is_infinite() {
        Outcome::exact(infinity(sign))
    } else if a.is_zero() || b.is_zero() {
        Outcome::exact(zero(sign))
    } else {
        let product = quad(a.sign, 0, a.sig).mul_r(quad(b.sign, 0, b.sig), Round::TowardZero);
        match exact(product, a.exp + b.exp) {
            Some(product) => round_extended(product, rules),
            None => Outcome::exact(zero(sign)),
        }
    };
    outcome.flags |= flags;
    outcome
}

fn div(a: Extended, b: Extended, rules: Rules) -> Outcome {
    let sign = a.sign != b.sign;
    if (a.is_infinite() && b.is_infinite()) || (a.is_zero() && b.is_zero()) {
        return invalid();
    }
    if b.is_zero() && !a.is_infinite() {
        return Outcome { bits: infinity(sign), flags: ZE };
    }
    let flags = denormals(&[&a, &b]);
    if let Some(outcome) = stopped(flags, rules) {
        return outcome;
    }
    let mut outcome = if a.is_infinite() {
        Outcome::exact(infinity(sign))
    } else if a.is_zero() || b.is_infinite() {
        Outcome::exact(zero(sign))
    } else {
        let quotient = quad(a.sign, 0, a.sig).div_r(quad(b.sign, 0, b.sig), Round::TowardZero);
        match exact(quotient, a.exp - b.exp) {
            Some(quotient) => round_extended(quotient, rules),
            None => Outcome::exact(zero(sign)),
        }
    };
    outcome.flags |= flags;
    outcome
}

/// FSQRT.
pub(crate) fn sqrt(bits: u128, rules: Rules) -> Outcome {
    let a = Extended::new(bits);
    if let Some(outcome) = nan(&a) {
        return outcome;
    }
    if a.is_zero() {
        return Outcome::exact(bits);
    }
    if a.sign {
        return invalid();
    }
    let flags = denormals(&[&a]);
    if let Some(outcome) = stopped(flags, rules) {
        return outcome;
    }
    if a.is_infinite() {
        return Outcome { bits, flags };
    }
    // 64 bits of the root, then one more (the root is above the middle exactly if the rest is above the root), then
    // whether anything is left. A root is never in the middle between two 64-bit numbers.
    let square = u128::from(a.sig) << if a.exp & 1 == 0 { 63 } else { 64 };
    let root = square.isqrt();
    let rest = square - root * root;
    let sig = root << 64 | u128::from(rest > root) << 63 | u128::from(rest != 0);
    let mut outcome = round_extended(Exact { sign: false, exp: a.exp >> 1, sig }, rules);
    outcome.flags |= flags;
    outcome
}

/// Relations as C3 (bit 14), C2 (bit 10) and C0 (bit 8) say them.
pub(crate) const GREATER: u16 = 0;
pub(crate) const LESS: u16 = 1 << 8;
pub(crate) const EQUAL: u16 = 1 << 14;
pub(crate) const UNORDERED: u16 = 1 << 14 | 1 << 10 | 1 << 8;

/// Compares; `quiet` if a quiet NaN is no invalid operand. The relation is in the low bits of the outcome.
pub(crate) fn compare(a: u128, b: u128, quiet: bool) -> Outcome {
    let (a, b) = (Extended::new(a), Extended::new(b));
    let bits = u128::from(UNORDERED);
    if let Some(Outcome { flags, .. }) = nans(&a, &b) {
        return Outcome { bits, flags: if quiet { flags } else { super::round::IE } };
    }
    let relation = match order(&a).cmp(&order(&b)) {
        std::cmp::Ordering::Less => LESS,
        std::cmp::Ordering::Equal => EQUAL,
        std::cmp::Ordering::Greater => GREATER,
    };
    Outcome { bits: relation.into(), flags: denormals(&[&a, &b]) }
}

/// Orders as the values do.
fn order(x: &Extended) -> i128 {
    let magnitude = match x.class {
        Class::Zero => 0,
        Class::Infinity => i128::MAX,
        _ => i128::from(x.exp + 40_000) << 64 | i128::from(x.sig),
    };
    if x.sign { -magnitude } else { magnitude }
}
