//! Singles, doubles, integers and packed decimals to and from the extended format.

use super::extended::{Class, Extended, INDEFINITE, SIGN, denormals, nan, pack, stopped};
use super::round::{
    C1, Exact, Format, IE, OE, Outcome, PE, Rounded, Rounding, Rules, SINGLE, UE, cut, jam, round,
    round_extended,
};

/// Packed decimal indefinite.
pub(crate) const DECIMAL_INDEFINITE: u128 = 0xffff_c000_0000_0000_0000;
/// The largest packed decimal: 18 digits.
const DECIMAL_MAX: u64 = 999_999_999_999_999_999;

/// Bits of the fraction and of the exponent.
fn widths(format: Format) -> (u32, u32) {
    if format == SINGLE { (23, 8) } else { (52, 11) }
}

/// A single or double as an extended real, and DE if it is denormal. Signalling NaNs stay what they are.
pub(crate) fn widen(bits: u64, format: Format) -> Outcome {
    let (fraction_bits, exponent_bits) = widths(format);
    let top = (1 << exponent_bits) - 1;
    let fraction = bits & ((1 << fraction_bits) - 1);
    let exponent = (bits >> fraction_bits) as i32 & top;
    let sign = bits >> (fraction_bits + exponent_bits) & 1 != 0;
    let sig = fraction << (63 - fraction_bits);
    let sign_bit = if sign { SIGN } else { 0 };
    if exponent == top {
        return Outcome::exact(sign_bit | 0x7fff << 64 | 1 << 63 | u128::from(sig));
    }
    if exponent != 0 {
        return Outcome::exact(pack(sign, exponent - format.bias, sig | 1 << 63));
    }
    if fraction == 0 {
        return Outcome::exact(sign_bit);
    }
    let shift = sig.leading_zeros();
    let bits = pack(sign, 1 - format.bias - shift.cast_signed(), sig << shift);
    Outcome { bits, flags: super::round::DE }
}

/// What FLD does with a single or double: as [`widen`], and signalling NaNs become quiet.
pub(crate) fn load(bits: u64, format: Format) -> Outcome {
    let wide = widen(bits, format);
    match nan(&Extended::new(wide.bits)) {
        Some(outcome) => outcome,
        None => wide,
    }
}

/// An extended real as a single or double. The bits are of use if IE, OE and UE are masked or not raised.
pub(crate) fn narrow(bits: u128, format: Format, rules: Rules) -> Outcome {
    let x = Extended::new(bits);
    let (fraction_bits, exponent_bits) = widths(format);
    let assemble = |sign: bool, exponent: u16, sig: u64| {
        u128::from(sign) << (fraction_bits + exponent_bits)
            | u128::from(exponent) << fraction_bits
            | u128::from(sig << 1 >> (64 - fraction_bits))
    };
    let top = 2 * format.bias as u16 + 1;
    if let Some(Outcome { bits, flags }) = nan(&x) {
        return Outcome { bits: assemble(bits & SIGN != 0, top, bits as u64), flags };
    }
    match x.class {
        Class::Zero => Outcome::exact(assemble(x.sign, 0, 0)),
        Class::Infinity => Outcome::exact(assemble(x.sign, top, 0)),
        _ => {
            // A denormal operand is an underflow here, and nothing else.
            let Rounded { exponent, sig, flags } = round(x.exact(), rules, format);
            // Nothing is rounded if one of these prevents the store.
            let prevents = flags & (OE | UE);
            let flags = if rules.unmasked(prevents) { prevents } else { flags };
            Outcome { bits: assemble(x.sign, exponent, sig), flags }
        }
    }
}

/// True if a store of a real must not be done.
pub(crate) fn narrow_fails(flags: u16, rules: Rules) -> bool {
    rules.unmasked(flags & (super::round::BEFORE | OE | UE))
}

/// Rounds a finite number to an integer: its magnitude, PE, C1. `None` if that has more than 64 bits.
fn integral(x: &Extended, rounding: Rounding) -> Option<(u64, u16)> {
    if x.exp > 63 {
        return None;
    }
    // One integer bit above 63 fraction bits of the smallest that matter.
    let below = (63 - x.exp).unsigned_abs();
    let rounded = cut(x.sign, jam(u128::from(x.sig) << 64, below), 64, rounding);
    if rounded.carry {
        return None;
    }
    let flags = if rounded.inexact { PE } else { 0 } | if rounded.up { C1 } else { 0 };
    Some((rounded.sig, flags))
}

/// An extended real as a signed integer of `width` bits; "integer indefinite" where it does not fit.
pub(crate) fn to_integer(bits: u128, width: u32, rounding: Rounding) -> Outcome {
    let x = Extended::new(bits);
    let limit = 1u64 << (width - 1);
    let indefinite = Outcome { bits: limit.into(), flags: IE };
    match x.class {
        Class::Zero => Outcome::exact(0),
        Class::Finite => match integral(&x, rounding) {
            Some((magnitude, flags)) if magnitude < limit || (magnitude == limit && x.sign) => {
                let value = if x.sign { magnitude.wrapping_neg() } else { magnitude };
                Outcome { bits: u128::from(value & (u64::MAX >> (64 - width))), flags }
            }
            _ => indefinite,
        },
        _ => indefinite,
    }
}

/// An extended real as a packed decimal.
pub(crate) fn to_decimal(bits: u128, rounding: Rounding) -> Outcome {
    let x = Extended::new(bits);
    let sign = if x.sign { SIGN } else { 0 };
    let indefinite = Outcome { bits: DECIMAL_INDEFINITE, flags: IE };
    match x.class {
        Class::Zero => Outcome::exact(sign),
        Class::Finite => match integral(&x, rounding) {
            Some((magnitude, flags)) if magnitude <= DECIMAL_MAX => {
                let mut rest = magnitude;
                let mut digits = 0;
                for n in 0..18 {
                    digits |= u128::from(rest % 10) << (4 * n);
                    rest /= 10;
                }
                Outcome { bits: sign | digits, flags }
            }
            _ => indefinite,
        },
        _ => indefinite,
    }
}

/// A packed decimal as an extended real, exactly. Digits above 9 count what they are; the manuals leave them open.
pub(crate) fn from_decimal(bits: u128) -> u128 {
    let magnitude = (0..18).rev().fold(0u64, |sum, n| sum * 10 + (bits >> (4 * n)) as u64 % 16);
    super::extended::from_magnitude(bits & SIGN != 0, magnitude)
}

/// FRNDINT.
pub(crate) fn round_to_integer(bits: u128, rules: Rules) -> Outcome {
    let x = Extended::new(bits);
    if let Some(outcome) = nan(&x) {
        return outcome;
    }
    if x.class != Class::Finite || x.exp >= 63 {
        return Outcome::exact(bits);
    }
    let de = denormals(&[&x]);
    if let Some(outcome) = stopped(de, rules) {
        return outcome;
    }
    let Some((magnitude, flags)) = integral(&x, rules.rounding) else {
        return Outcome { bits: INDEFINITE, flags: IE };
    };
    if magnitude == 0 {
        return Outcome { bits: bits & SIGN, flags: flags | de };
    }
    let value = Exact::normalized(x.sign, 63, u128::from(magnitude) << 64);
    let rounded = round_extended(value, rules.full());
    Outcome { bits: rounded.bits, flags: flags | de }
}
