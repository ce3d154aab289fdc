//! Rounding: from an exact value to a format, once, with the exceptions that come of it.
//!
//! Results are first computed exactly, or cut off with a sticky bit, in 128 bits. So precision control, the three formats,
//! gradual underflow and the adjusted exponents of unmasked overflow and underflow are one function and one rounding
//! (Intel SDM vol. 1, 4.8.4 and 8.5.4 to 8.5.6).

/// Exception flags and C1 as they are in the status word.
pub(crate) const IE: u16 = 1;
pub(crate) const DE: u16 = 1 << 1;
pub(crate) const ZE: u16 = 1 << 2;
pub(crate) const OE: u16 = 1 << 3;
pub(crate) const UE: u16 = 1 << 4;
pub(crate) const PE: u16 = 1 << 5;
pub(crate) const SF: u16 = 1 << 6;
pub(crate) const C1: u16 = 1 << 9;
/// The six exceptions.
pub(crate) const EXCEPTIONS: u16 = 0x3f;
/// Exceptions that are found before anything is computed.
pub(crate) const BEFORE: u16 = IE | DE | ZE;

/// Rounding control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rounding {
    Nearest,
    Down,
    Up,
    Zero,
}

/// What of the control word results depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rules {
    pub rounding: Rounding,
    /// significant bits: 24, 53 or 64
    pub precision: u32,
    /// masked exceptions
    pub masks: u16,
}

impl Rules {
    /// As the control word says.
    pub(crate) fn new(control: u16) -> Self {
        let rounding = match control >> 10 & 3 {
            0 => Rounding::Nearest,
            1 => Rounding::Down,
            2 => Rounding::Up,
            _ => Rounding::Zero,
        };
        let precision = match control >> 8 & 3 {
            0 => 24,
            2 => 53,
            _ => 64,
        };
        Self { rounding, precision, masks: control & EXCEPTIONS }
    }

    /// For the instructions that precision control does not concern.
    pub(crate) fn full(self) -> Self {
        Self { precision: 64, ..self }
    }

    /// True if one of `flags` is not masked.
    pub(crate) fn unmasked(self, flags: u16) -> bool {
        flags & EXCEPTIONS & !self.masks != 0
    }
}

/// A finite value that is not 0: `sig` * 2^(`exp` - 127), bit 127 of `sig` set; bit 0 stands for any bits below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exact {
    pub sign: bool,
    pub exp: i32,
    pub sig: u128,
}

impl Exact {
    /// `sig` * 2^(`exp` - 127), `sig` anything but 0.
    pub(crate) fn normalized(sign: bool, exp: i32, sig: u128) -> Self {
        let shift = sig.leading_zeros();
        Self { sign, exp: exp - shift.cast_signed(), sig: sig << (shift & 127) }
    }
}

/// A binary format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    pub precision: u32,
    /// exponent bias
    pub bias: i32,
    /// what unmasked overflow subtracts from the exponent and unmasked underflow adds
    pub adjust: i32,
}

pub(crate) const SINGLE: Format = Format { precision: 24, bias: 127, adjust: 192 };
pub(crate) const DOUBLE: Format = Format { precision: 53, bias: 1023, adjust: 1536 };
pub(crate) const EXTENDED: Format = Format { precision: 64, bias: 16383, adjust: 24576 };

/// A rounded value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rounded {
    /// biased exponent: 0 for denormals and 0, 2 * bias + 1 for infinity
    pub exponent: u16,
    /// significand, its integer bit in bit 63
    pub sig: u64,
    /// exceptions and C1
    pub flags: u16,
}

/// Shifts right; bits that are lost stay as bit 0.
pub(crate) fn jam(sig: u128, by: u32) -> u128 {
    match by {
        0 => sig,
        1..=127 => sig >> by | u128::from(sig << (128 - by) != 0),
        _ => u128::from(sig != 0),
    }
}

/// The top `keep` bits, rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// left-justified in 64 bits; after a carry 1 followed by zeros
    pub sig: u64,
    pub carry: bool,
    pub inexact: bool,
    pub up: bool,
}

/// Rounds to the top `keep` bits, 1 to 64.
pub(crate) fn cut(sign: bool, sig: u128, keep: u32, rounding: Rounding) -> Cut {
    const HALF: u128 = 1 << 127;
    let kept = (sig >> (128 - keep)) as u64;
    let rest = sig << keep;
    let up = match rounding {
        Rounding::Nearest => rest > HALF || (rest == HALF && kept & 1 == 1),
        Rounding::Down => sign && rest != 0,
        Rounding::Up => !sign && rest != 0,
        Rounding::Zero => false,
    };
    let sum = u128::from(kept) + u128::from(up);
    let carry = sum >> keep != 0;
    let sig = if carry { 1 << 63 } else { (sum as u64) << (64 - keep) };
    Cut { sig, carry, inexact: rest != 0, up }
}

/// True if what does not fit becomes infinity and not the largest finite number.
fn to_infinity(sign: bool, rounding: Rounding) -> bool {
    match rounding {
        Rounding::Nearest => true,
        Rounding::Down => sign,
        Rounding::Up => !sign,
        Rounding::Zero => false,
    }
}

/// Rounds `exact` to `format`; its precision is the smaller of the format's and the control word's.
pub(crate) fn round(exact: Exact, rules: Rules, format: Format) -> Rounded {
    let precision = if format == EXTENDED { rules.precision } else { format.precision };
    let top = 2 * format.bias + 1;
    let normal = cut(exact.sign, exact.sig, precision, rules.rounding);
    let exponent = exact.exp + format.bias + i32::from(normal.carry);
    let flags = |cut: Cut| if cut.inexact { PE } else { 0 } | if cut.up { C1 } else { 0 };
    let mut flags_now = flags(normal);
    if exponent >= top {
        let unmasked = rules.masks & OE == 0;
        if unmasked && exponent - format.adjust < top {
            let exponent = (exponent - format.adjust) as u16;
            return Rounded { exponent, sig: normal.sig, flags: flags_now | OE };
        }
        // FSCALE can go beyond what can be adjusted.
        let infinite = unmasked || to_infinity(exact.sign, rules.rounding);
        flags_now = OE | PE | if infinite { C1 } else { 0 };
        return if infinite {
            Rounded { exponent: top as u16, sig: 1 << 63, flags: flags_now }
        } else {
            Rounded { exponent: (top - 1) as u16, sig: u64::MAX << (64 - precision), flags: flags_now }
        };
    }
    if exponent >= 1 {
        return Rounded { exponent: exponent as u16, sig: normal.sig, flags: flags_now };
    }
    // Tiny: found after rounding as if the exponent had no bounds.
    if rules.masks & UE == 0 {
        // FSCALE can go below what can be adjusted.
        let adjusted = exponent + format.adjust;
        return if adjusted >= 1 {
            Rounded { exponent: adjusted as u16, sig: normal.sig, flags: flags_now | UE }
        } else {
            Rounded { exponent: 0, sig: 0, flags: UE | PE }
        };
    }
    let below = (1 - (exact.exp + format.bias)).unsigned_abs();
    let small = cut(exact.sign, jam(exact.sig, below), precision, rules.rounding);
    flags_now = flags(small);
    if small.inexact {
        flags_now |= UE;
    }
    Rounded { exponent: (small.sig >> 63) as u16, sig: small.sig, flags: flags_now }
}

/// Rounds to an extended real; a sign and 79 bits.
pub(crate) fn round_extended(exact: Exact, rules: Rules) -> Outcome {
    let rounded = round(exact, rules, EXTENDED);
    let high = rounded.exponent | u16::from(exact.sign) << 15;
    Outcome { bits: u128::from(high) << 64 | u128::from(rounded.sig), flags: rounded.flags }
}

/// What an operation gives: a value that is of use unless an exception of [`BEFORE`] is not masked, and flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub bits: u128,
    pub flags: u16,
}

impl Outcome {
    pub(crate) fn exact(bits: u128) -> Self {
        Self { bits, flags: 0 }
    }
}
