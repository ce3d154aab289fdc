//! Arctangent of a quotient, in all four quadrants.
//!
//! atan(y/x), y <= x, is atan(k/8) from a table and atan((8y - kx) / (8x + ky)) by its series: k is chosen so that the
//! second is at most atan(1/16).

use super::super::round::Exact;
use super::wide::{fraction, from_fraction, inexact, mul, product, quotient};

/// atan(k/8), k from 1, as fractions.
const TABLE: [u128; 8] = [
    0x1fd5_ba9a_ac2f_6dc6_5912_f313_e7d1_11de,
    0x3eb6_ebf2_5901_bac5_5b71_e7bd_7de8_85f9,
    0x5bd8_6507_937b_c239_c551_9091_6e7f_2241,
    0x76b1_9c15_86ed_3da2_b7f2_22f6_5e1d_4681,
    0x8f00_5d5e_f7f5_9f9b_5c83_5e16_65c4_3747,
    0xa4bc_7d19_34f7_0924_19a8_7f2a_457d_ac9e,
    0xb805_3e2b_c231_9e73_cb2d_a552_10a4_443d,
    QUARTER,
];
/// pi/4 as a fraction.
const QUARTER: u128 = 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1;
const TERMS: u128 = 18;

/// `n` * pi/4.
pub(super) fn quarters(sign: bool, n: u32) -> Exact {
    // 1, 2 or 4 quarters shift the point; 3 need two more bits than a fraction has.
    match n {
        3 => inexact(Exact { sign, exp: 1, sig: (QUARTER >> 1) + (QUARTER >> 2) }),
        n => inexact(Exact { sign, exp: n.trailing_zeros().cast_signed() - 1, sig: QUARTER }),
    }
}

/// atan(u), u at most 1/16 or so.
fn series(u: Exact) -> Exact {
    let t = fraction(u);
    let z = mul(t, t);
    let mut sum = u128::MAX / (2 * TERMS + 1);
    for k in (0..TERMS).rev() {
        sum = u128::MAX / (2 * k + 1) - mul(z, sum);
    }
    product(u, Exact::normalized(false, -1, sum))
}

/// atan(y / x), 0 < y <= x: a number.
fn first_octant(y: Exact, x: Exact) -> Exact {
    let distance = x.exp - y.exp;
    if distance > 5 {
        return series(quotient(y, x));
    }
    // Exact integers with a common unit: 64 significant bits, 5 for the distance, 4 for the factors.
    let (y_units, x_units) =
        ((y.sig >> 64 << (5 - distance)).cast_signed(), (x.sig >> 64 << 5).cast_signed());
    let k = (16 * y_units + x_units) / (2 * x_units);
    let (over, under) = (8 * y_units - k * x_units, 8 * x_units + k * y_units);
    let known = match k {
        1..=8 => TABLE[k as usize - 1],
        _ => return series(quotient(y, x)),
    };
    if over == 0 {
        return from_fraction(false, known);
    }
    let small = quotient(
        Exact::normalized(false, 127, over.unsigned_abs()),
        Exact::normalized(false, 127, under.unsigned_abs()),
    );
    let small = fraction(series(small));
    from_fraction(false, if over < 0 { known - small } else { known + small })
}

/// `n` * pi/4 - `a`, `a` at most pi/4 and `n` 2 or 4.
fn subtract_from(n: u32, a: Exact) -> Exact {
    let whole = quarters(false, n);
    // In the larger's units.
    let distance = (whole.exp - a.exp).unsigned_abs();
    let a = a.sig.checked_shr(distance).unwrap_or(0);
    Exact::normalized(false, whole.exp, whole.sig - a)
}

/// atan2(y, x) of finite numbers that are not 0.
pub(super) fn arctangent(y: Exact, x: Exact) -> Exact {
    let sign = y.sign;
    let (a, b) = (Exact { sign: false, ..y }, Exact { sign: false, ..x });
    let steep = (a.exp, a.sig) > (b.exp, b.sig);
    let octant = if steep { first_octant(b, a) } else { first_octant(a, b) };
    let angle = match (steep, x.sign) {
        (false, false) => octant,
        (false, true) => subtract_from(4, octant),
        (true, false) => subtract_from(2, octant),
        (true, true) => {
            let quarter = quarters(false, 2);
            let distance = (quarter.exp - octant.exp).unsigned_abs();
            let (sum, carry) = quarter.sig.overflowing_add(octant.sig.checked_shr(distance).unwrap_or(0));
            if carry {
                Exact { sign, exp: quarter.exp + 1, sig: sum >> 1 | 1 << 127 }
            } else {
                Exact { sign, exp: quarter.exp, sig: sum }
            }
        }
    };
    inexact(Exact { sign, ..angle })
}
