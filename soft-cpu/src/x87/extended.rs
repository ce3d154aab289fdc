//! The double extended format: classes of values, NaNs (Intel SDM vol. 1, 4.8 and 8.2).

use super::round::{DE, Exact, IE, Outcome, Rules};

/// The default NaN, "real indefinite".
pub(crate) const INDEFINITE: u128 = 0xffff_c000_0000_0000_0000;
pub(crate) const SIGN: u128 = 1 << 79;
pub(crate) const ONE: u128 = 0x3fff_8000_0000_0000_0000;
const QUIET: u128 = 1 << 62;
const INTEGER: u64 = 1 << 63;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Zero,
    /// normal, denormal or pseudo-denormal
    Finite,
    Infinity,
    Quiet,
    Signalling,
    /// unnormal, pseudo-infinity, pseudo-NaN: invalid operands since the 387
    Unsupported,
}

/// A value taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extended {
    pub bits: u128,
    pub class: Class,
    pub sign: bool,
    /// exponent of bit 63 of `sig`, where finite
    pub exp: i32,
    /// significand; where finite bit 63 is set
    pub sig: u64,
    /// denormal or pseudo-denormal
    pub denormal: bool,
}

impl Extended {
    pub(crate) fn new(bits: u128) -> Self {
        let sig = bits as u64;
        let exponent = (bits >> 64) as u16 & 0x7fff;
        let class = match exponent {
            0 if sig == 0 => Class::Zero,
            0 => Class::Finite,
            _ if sig & INTEGER == 0 => Class::Unsupported,
            0x7fff if sig == INTEGER => Class::Infinity,
            0x7fff if sig & QUIET as u64 != 0 => Class::Quiet,
            0x7fff => Class::Signalling,
            _ => Class::Finite,
        };
        let denormal = exponent == 0 && sig != 0;
        let mut exp = i32::from(exponent) - 16383;
        let mut sig = sig;
        if denormal {
            let shift = sig.leading_zeros();
            exp += 1 - shift.cast_signed();
            sig <<= shift;
        }
        Self { bits, class, sign: bits & SIGN != 0, exp, sig, denormal }
    }

    pub(crate) fn is_nan(&self) -> bool {
        matches!(self.class, Class::Quiet | Class::Signalling | Class::Unsupported)
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.class == Class::Zero
    }

    pub(crate) fn is_infinite(&self) -> bool {
        self.class == Class::Infinity
    }

    /// The value, where finite.
    pub(crate) fn exact(&self) -> Exact {
        Exact { sign: self.sign, exp: self.exp, sig: u128::from(self.sig) << 64 }
    }
}

pub(crate) fn zero(sign: bool) -> u128 {
    if sign { SIGN } else { 0 }
}

pub(crate) fn infinity(sign: bool) -> u128 {
    zero(sign) | 0x7fff_8000_0000_0000_0000
}

/// A normal number: significand with bit 63 set, exponent in range.
pub(crate) fn pack(sign: bool, exp: i32, sig: u64) -> u128 {
    zero(sign) | u128::from((exp + 16383) as u16 & 0x7fff) << 64 | u128::from(sig)
}

/// An integer, exactly; 0 has a sign too.
pub(crate) fn from_magnitude(sign: bool, magnitude: u64) -> u128 {
    if magnitude == 0 {
        return zero(sign);
    }
    let shift = magnitude.leading_zeros();
    pack(sign, 63 - shift.cast_signed(), magnitude << shift)
}

pub(crate) fn from_integer(value: i64) -> u128 {
    from_magnitude(value < 0, value.unsigned_abs())
}

/// An invalid operation's masked answer.
pub(crate) fn invalid() -> Outcome {
    Outcome { bits: INDEFINITE, flags: IE }
}

/// The answer to one operand that is a NaN or unsupported.
pub(crate) fn nan(a: &Extended) -> Option<Outcome> {
    match a.class {
        Class::Unsupported => Some(invalid()),
        Class::Signalling => Some(Outcome { bits: a.bits | QUIET, flags: IE }),
        Class::Quiet => Some(Outcome::exact(a.bits)),
        _ => None,
    }
}

/// The answer where one of two operands is a NaN or unsupported: the larger significand wins, then the positive sign.
pub(crate) fn nans(a: &Extended, b: &Extended) -> Option<Outcome> {
    if !a.is_nan() && !b.is_nan() {
        return None;
    }
    if a.class == Class::Unsupported || b.class == Class::Unsupported {
        return Some(invalid());
    }
    let signalling = a.class == Class::Signalling || b.class == Class::Signalling;
    let chosen = match (a.class, b.class) {
        (Class::Signalling, Class::Quiet) => b,
        (Class::Quiet, Class::Signalling) => a,
        _ if !a.is_nan() => b,
        _ if !b.is_nan() => a,
        _ if a.sig > b.sig => a,
        _ if a.sig < b.sig => b,
        _ if a.sign => b,
        _ => a,
    };
    Some(Outcome { bits: chosen.bits | QUIET, flags: if signalling { IE } else { 0 } })
}

/// DE if one of the operands is denormal.
pub(crate) fn denormals(operands: &[&Extended]) -> u16 {
    if operands.iter().any(|x| x.denormal) { DE } else { 0 }
}

/// An operation stops here, with flags only, if a denormal operand is not masked.
pub(crate) fn stopped(flags: u16, rules: Rules) -> Option<Outcome> {
    rules.unmasked(flags).then_some(Outcome { bits: INDEFINITE, flags })
}
