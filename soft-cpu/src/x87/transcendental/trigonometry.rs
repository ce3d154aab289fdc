//! Sine, cosine, tangent.
//!
//! The argument is reduced exactly by pi cut off to 66 bits, as processors do since the 387 (Intel SDM vol. 1, 8.3.8).
//! What is left, at most pi/4, goes into Taylor series.

use super::super::extended::Extended;
use super::super::round::Exact;
use super::wide::{fraction, inexact, mul, product, quotient};

/// pi/4 in units of 2^-68, cut off.
const QUARTER: u128 = 0xc_90fd_aa22_168c_234c;
/// Terms of the series, more than 128 bits need.
const TERMS: u128 = 18;

/// An argument as `quadrant` * pi/2 + `rest`; its sign apart.
struct Reduced {
    quadrant: u64,
    rest: Exact,
}

fn reduce(x: &Extended) -> Reduced {
    if x.exp < -5 {
        return Reduced { quadrant: 0, rest: Exact { sign: false, ..x.exact() } };
    }
    // In units of 2^-68, the significand is to be shifted left by so much; division goes along.
    let mut shift = x.exp + 5;
    let mut eighths = 0u64;
    let mut rest = u128::from(x.sig);
    while shift > 0 {
        let step = shift.min(59);
        rest <<= step;
        eighths = (eighths << step).wrapping_add((rest / QUARTER) as u64);
        rest %= QUARTER;
        shift -= step;
    }
    let odd = eighths & 1 != 0;
    if odd {
        rest = QUARTER - rest;
    }
    Reduced { quadrant: eighths.wrapping_add(1) >> 1, rest: Exact::normalized(odd, 59, rest) }
}

/// 1 - z/(n(n+1)) + z^2/(n(n+1)(n+2)(n+3)) - ..., a little below.
fn series(z: u128, n: u128) -> u128 {
    let mut sum = 0;
    for k in (0..TERMS).rev() {
        let (a, b) = (n + 2 * k, n + 2 * k + 1);
        // `sum` is what the next term subtracts from 1.
        sum = mul(z, u128::MAX - sum) / (a * b);
    }
    u128::MAX - sum
}

/// Sine of at most pi/4.
fn small_sine(x: Exact) -> Exact {
    let t = fraction(x);
    let ratio = series(mul(t, t), 2);
    product(x, Exact { sign: false, exp: -1, sig: ratio })
}

fn small_cosine(x: Exact) -> Exact {
    let t = fraction(x);
    Exact { sign: false, exp: -1, sig: series(mul(t, t), 1) }
}

fn negated(x: Exact, condition: bool) -> Exact {
    Exact { sign: x.sign != condition, ..x }
}

/// Sine of a finite number that is not 0, below 2^63.
pub(super) fn sine(x: &Extended) -> Exact {
    let Reduced { quadrant, rest } = reduce(x);
    let value = if quadrant & 1 == 0 { small_sine(rest) } else { small_cosine(rest) };
    inexact(negated(value, x.sign != (quadrant & 2 != 0)))
}

pub(super) fn cosine(x: &Extended) -> Exact {
    let Reduced { quadrant, rest } = reduce(x);
    let value = if quadrant & 1 == 0 { small_cosine(rest) } else { small_sine(rest) };
    inexact(negated(value, (quadrant + 1) & 2 != 0))
}

pub(super) fn tangent(x: &Extended) -> Exact {
    let Reduced { quadrant, rest } = reduce(x);
    if quadrant & 1 == 0 && rest.exp < -40 {
        // x + x^3/3: a quotient would lose that this is above x.
        let t = fraction(rest);
        let sig = rest.sig + mul(rest.sig, mul(t, t)) / 3;
        return inexact(negated(Exact { sig, ..rest }, x.sign));
    }
    let (sine, cosine) = (small_sine(rest), small_cosine(rest));
    let value =
        if quadrant & 1 == 0 { quotient(sine, cosine) } else { negated(quotient(cosine, sine), true) };
    inexact(negated(value, x.sign))
}
