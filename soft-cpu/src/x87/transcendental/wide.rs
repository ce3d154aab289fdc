//! 128-bit arithmetic for series: significands with an exponent, and fractions.
//!
//! A fraction is a number from 0 up to 1 as a `u128`: its bits behind the point. Results are cut off; a series of 40 terms
//! loses 6 of 128 bits, and 64 are wanted.

use super::super::round::Exact;

/// The upper half of the product: of fractions, their product.
pub(super) fn mul(a: u128, b: u128) -> u128 {
    const LOW: u128 = u64::MAX as u128;
    let (a1, a0, b1, b0) = (a >> 64, a & LOW, b >> 64, b & LOW);
    let (high, low) = (a1 * b1, a0 * b0);
    let (one, two) = (a1 * b0, a0 * b1);
    let middle = (low >> 64) + (one & LOW) + (two & LOW);
    high + (one >> 64) + (two >> 64) + (middle >> 64)
}

pub(super) fn product(a: Exact, b: Exact) -> Exact {
    Exact::normalized(a.sign != b.sign, a.exp + b.exp + 1, mul(a.sig, b.sig))
}

/// `a` / `b`, 128 bits of it.
pub(super) fn quotient(a: Exact, b: Exact) -> Exact {
    let below = a.sig < b.sig;
    let (mut rest, mut carry) = (a.sig, false);
    if below {
        carry = rest >> 127 != 0;
        rest <<= 1;
    }
    let mut sig = 0;
    for _ in 0..128 {
        sig <<= 1;
        if carry || rest >= b.sig {
            rest = rest.wrapping_sub(b.sig);
            sig |= 1;
        }
        carry = rest >> 127 != 0;
        rest <<= 1;
    }
    Exact { sign: a.sign != b.sign, exp: a.exp - b.exp - i32::from(below), sig }
}

/// The magnitude as a fraction; it must be below 1.
pub(super) fn fraction(a: Exact) -> u128 {
    let below = (-1 - a.exp).max(0).unsigned_abs();
    a.sig.checked_shr(below).unwrap_or(0)
}

/// A fraction that is not 0, as a number.
pub(super) fn from_fraction(sign: bool, fraction: u128) -> Exact {
    Exact::normalized(sign, -1, fraction)
}

/// With the bit set that says that there is more below.
pub(super) fn inexact(a: Exact) -> Exact {
    Exact { sig: a.sig | 1, ..a }
}
