//! 2^x - 1 and logarithms to base 2.

use super::super::extended::Extended;
use super::super::round::Exact;
use super::wide::{fraction, inexact, mul, product, quotient};

/// ln(2).
const LN_2: Exact = Exact { sign: false, exp: -1, sig: 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af };
/// 2 / ln(2).
const TWO_OVER_LN_2: Exact = Exact { sign: false, exp: 1, sig: 0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e88 };
/// sqrt(2), rounded; where the significand is split.
const SQRT_2: u128 = 0xb504_f333_f9de_6484_597d_89b3_754a_be9f;

/// 2^x - 1, 0 < |x| < 1: y (1 + y/2 (1 + y/3 (1 + ...))), y = x ln(2).
pub(super) fn exp2m1(x: &Extended) -> Exact {
    const TERMS: u128 = 36;
    const ONE: u128 = 1 << 127;
    let y = product(x.exact(), LN_2);
    let t = fraction(y);
    // With one bit before the point.
    let mut sum = ONE;
    for k in (2..TERMS).rev() {
        let term = mul(t, sum) / k;
        sum = if x.sign { ONE - term } else { ONE + term };
    }
    inexact(product(y, Exact::normalized(false, 0, sum)))
}

/// log2(f) = 2/ln(2) atanh(s), s = (f - 1) / (f + 1), for s below 0.18.
fn log_by(s: Exact) -> Exact {
    const TERMS: u128 = 28;
    let t = fraction(s);
    let z = mul(t, t);
    // Half of the series: it is a little more than 1.
    let half = |k: u128| (1 << 127) / (2 * k + 1);
    let mut sum = half(TERMS);
    for k in (0..TERMS).rev() {
        sum = half(k) + mul(z, sum);
    }
    product(product(s, Exact::normalized(false, 0, sum)), TWO_OVER_LN_2)
}

/// log2 of a positive number that is not 1. `true` if the result is exact.
pub(super) fn log2(x: Exact) -> (Exact, bool) {
    // x = 2^n f, f between sqrt(1/2) and sqrt(2).
    let above = x.sig > SQRT_2;
    let n = x.exp + i32::from(above);
    // f - 1 and f + 1 in units of 2^-127, or of 2^-128 where f is below 1.
    let one: u128 = 1 << 127;
    let log = if x.sig == one {
        None
    } else if above {
        let (under, over) = (x.sig, x.sig.wrapping_neg());
        // 1 + f needs a bit more.
        let sum = Exact { sign: false, exp: 0, sig: one | under >> 1 };
        Some(log_by(quotient(Exact::normalized(true, -1, over), sum)))
    } else {
        let sum = Exact { sign: false, exp: 1, sig: one | (x.sig - one) >> 1 };
        Some(log_by(quotient(Exact::normalized(false, 0, x.sig - one), sum)))
    };
    let whole = Exact::normalized(n < 0, 31, u128::from(n.unsigned_abs()).max(1) << 96);
    match log {
        None => (whole, true),
        Some(log) if n == 0 => (log, false),
        Some(log) => {
            let part = log.sig.checked_shr((whole.exp - log.exp).unsigned_abs()).unwrap_or(0);
            let sum = if log.sign == whole.sign {
                let (sum, carry) = whole.sig.overflowing_add(part);
                if carry {
                    Exact { sign: whole.sign, exp: whole.exp + 1, sig: sum >> 1 | one }
                } else {
                    Exact { sig: sum, ..whole }
                }
            } else {
                Exact::normalized(whole.sign, whole.exp, whole.sig - part)
            };
            (sum, false)
        }
    }
}

/// log2(1 + x), x above -1 and not 0.
pub(super) fn log2p1(x: &Extended) -> (Exact, bool) {
    let x = x.exact();
    let one: u128 = 1 << 127;
    if x.exp < -2 {
        // s = x / (2 + x), nothing is lost by forming 1 + x.
        let part = x.sig.checked_shr((1 - x.exp).unsigned_abs()).unwrap_or(0);
        let sum = if x.sign {
            Exact::normalized(false, 1, one - part)
        } else {
            Exact { sign: false, exp: 1, sig: one + part }
        };
        return (log_by(quotient(x, sum)), false);
    }
    // Exact below 2^64; above, 1 counts for little.
    let sum = if x.exp >= 0 {
        let unit = one.checked_shr(x.exp.unsigned_abs()).unwrap_or(0);
        let (sum, carry) = x.sig.overflowing_add(unit);
        if carry {
            Exact { sign: false, exp: x.exp + 1, sig: sum >> 1 | one }
        } else {
            Exact { sig: sum, ..x }
        }
    } else {
        let part = x.sig >> x.exp.unsigned_abs();
        if x.sign {
            Exact::normalized(false, 0, one - part)
        } else {
            Exact { sign: false, exp: 0, sig: one + part }
        }
    };
    log2(sum)
}

/// y log2(x), and whether that needs no more bits.
pub(super) fn times(y: Exact, (log, exact): (Exact, bool)) -> Exact {
    let value = product(y, log);
    if exact { value } else { inexact(value) }
}
