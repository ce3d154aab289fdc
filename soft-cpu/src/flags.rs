//! RFLAGS. The six arithmetic flags are kept as the last operation and its values and computed when somebody looks.
//!
//! The operations are chosen so that the flags a manual leaves open fall out of them the same way each time; where a
//! behaviour ([`crate::Behaviour`]) wants others, the instruction sets them itself.

pub(crate) const CF: u64 = 1;
pub(crate) const PF: u64 = 1 << 2;
pub(crate) const AF: u64 = 1 << 4;
pub(crate) const ZF: u64 = 1 << 6;
pub(crate) const SF: u64 = 1 << 7;
pub(crate) const TF: u64 = 1 << 8;
pub(crate) const IF: u64 = 1 << 9;
pub(crate) const DF: u64 = 1 << 10;
pub(crate) const OF: u64 = 1 << 11;
pub(crate) const IOPL: u64 = 3 << 12;
pub(crate) const NT: u64 = 1 << 14;
pub(crate) const RF: u64 = 1 << 16;
pub(crate) const VM: u64 = 1 << 17;
pub(crate) const AC: u64 = 1 << 18;
pub(crate) const ID: u64 = 1 << 21;
/// The bits of RFLAGS that there are.
pub(crate) const BITS: u64 = 0x3f_7fd7;
/// The arithmetic flags.
pub(crate) const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;

/// What the arithmetic flags follow from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub(crate) enum Arithmetic {
    /// `src` holds the flags themselves
    #[default]
    Known,
    /// `dst` = a + `src`
    Add,
    /// `dst` = a + `src` + `carry`
    Adc,
    /// `dst` = a - `src`
    Sub,
    /// `dst` = a - `src` - `carry`
    Sbb,
    /// CF, OF, AF are 0
    Logic,
    /// `dst` = a + 1; `src` is CF
    Inc,
    /// `dst` = a - 1; `src` is CF
    Dec,
    /// `src` is the value shifted left by one less than the count
    Shl,
    /// `src` is the value shifted right by one less than the count
    Shr,
    /// as `Shl`, but AF is 1
    ShlAdjust,
    /// as `Shr`, but AF is 1
    ShrAdjust,
    /// CF and OF are `src` != 0
    Mul,
}

impl Arithmetic {
    /// All of them, by number.
    pub(crate) const ALL: [Self; 13] = [
        Self::Known,
        Self::Add,
        Self::Adc,
        Self::Sub,
        Self::Sbb,
        Self::Logic,
        Self::Inc,
        Self::Dec,
        Self::Shl,
        Self::Shr,
        Self::ShlAdjust,
        Self::ShrAdjust,
        Self::Mul,
    ];
}

/// The numbers are in saved states and never change.
const _: () = {
    let mut n = 0;
    while n < Arithmetic::ALL.len() {
        assert!(Arithmetic::ALL[n] as usize == n);
        n += 1;
    }
};

/// RFLAGS, the arithmetic part not computed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Flags {
    /// the last operation
    pub op: Arithmetic,
    /// its width: 0 byte .. 3 quadword
    pub width: u8,
    /// carry in, of `Adc` and `Sbb`
    pub carry: bool,
    /// result, zero-extended from its width
    pub dst: u64,
    /// see [`Arithmetic`]; zero-extended
    pub src: u64,
    /// While they are `Known`: an instruction of the running block has set them, on a processor that told no more of it
    /// than the flags.
    pub taken_up: bool,
    /// the other flags, bit 1 always set
    pub system: u64,
}

/// PF of a result.
#[inline(always)]
pub(crate) fn parity(value: u64) -> bool {
    (value & 0xff).count_ones() & 1 == 0
}

impl Flags {
    #[inline(always)]
    pub(crate) fn set(&mut self, op: Arithmetic, width: u8, dst: u64, src: u64) {
        self.op = op;
        self.width = width;
        self.dst = dst;
        self.src = src;
    }

    /// Sets the arithmetic flags to the bits of `value`.
    #[inline(always)]
    pub(crate) fn set_known(&mut self, value: u64) {
        self.op = Arithmetic::Known;
        self.src = value & ARITHMETIC;
    }

    /// Sets those arithmetic flags that `mask` names.
    pub(crate) fn change(&mut self, mask: u64, value: u64) {
        let old = self.arithmetic();
        self.set_known(old & !mask | value & mask);
    }

    /// A result of `width` that has SF, ZF and PF of flags that are `Known`.
    pub(crate) fn like_result(&self, width: u8) -> u64 {
        let sign = if self.src & SF != 0 { 1 << ((8_u32 << width) - 1) } else { 0 };
        match (self.src & ZF != 0, parity(sign | 1) == (self.src & PF != 0)) {
            (true, _) => 0,
            (false, true) => sign | 1,
            (false, false) => sign | 3,
        }
    }

    #[inline(always)]
    fn bits(&self) -> u32 {
        8 << self.width
    }

    #[inline(always)]
    fn mask(&self) -> u64 {
        u64::MAX >> (64 - self.bits())
    }

    #[inline(always)]
    fn sign(&self) -> u64 {
        1 << (self.bits() - 1)
    }

    /// The first operand of an addition or subtraction.
    #[inline(always)]
    fn first(&self) -> u64 {
        let carry = u64::from(self.carry);
        let value = match self.op {
            Arithmetic::Add => self.dst.wrapping_sub(self.src),
            Arithmetic::Adc => self.dst.wrapping_sub(self.src).wrapping_sub(carry),
            Arithmetic::Sub => self.dst.wrapping_add(self.src),
            Arithmetic::Sbb => self.dst.wrapping_add(self.src).wrapping_add(carry),
            Arithmetic::Inc => self.dst.wrapping_sub(1),
            Arithmetic::Dec => self.dst.wrapping_add(1),
            _ => 0,
        };
        value & self.mask()
    }

    #[inline]
    pub(crate) fn cf(&self) -> bool {
        match self.op {
            Arithmetic::Known => self.src & CF != 0,
            Arithmetic::Add => self.dst < self.src,
            Arithmetic::Adc => self.dst < self.src || (self.carry && self.dst == self.src),
            Arithmetic::Sub => self.first() < self.src,
            Arithmetic::Sbb => {
                let first = self.first();
                first < self.src || (self.carry && first == self.src)
            }
            Arithmetic::Logic => false,
            Arithmetic::Inc | Arithmetic::Dec => self.src != 0,
            Arithmetic::Shl | Arithmetic::ShlAdjust => self.src & self.sign() != 0,
            Arithmetic::Shr | Arithmetic::ShrAdjust => self.src & 1 != 0,
            Arithmetic::Mul => self.src != 0,
        }
    }

    #[inline(always)]
    pub(crate) fn zf(&self) -> bool {
        match self.op {
            Arithmetic::Known => self.src & ZF != 0,
            _ => self.dst == 0,
        }
    }

    #[inline(always)]
    pub(crate) fn sf(&self) -> bool {
        match self.op {
            Arithmetic::Known => self.src & SF != 0,
            _ => self.dst & self.sign() != 0,
        }
    }

    #[inline(always)]
    pub(crate) fn pf(&self) -> bool {
        match self.op {
            Arithmetic::Known => self.src & PF != 0,
            _ => parity(self.dst),
        }
    }

    pub(crate) fn af(&self) -> bool {
        match self.op {
            Arithmetic::Known => self.src & AF != 0,
            Arithmetic::Add | Arithmetic::Adc | Arithmetic::Sub | Arithmetic::Sbb => {
                (self.dst ^ self.src ^ self.first()) & 0x10 != 0
            }
            Arithmetic::Inc => self.dst & 0xf == 0,
            Arithmetic::Dec => self.dst & 0xf == 0xf,
            Arithmetic::ShlAdjust | Arithmetic::ShrAdjust => true,
            _ => false,
        }
    }

    pub(crate) fn of(&self) -> bool {
        match self.op {
            Arithmetic::Known => self.src & OF != 0,
            Arithmetic::Add | Arithmetic::Adc => {
                (self.first() ^ self.dst) & (self.src ^ self.dst) & self.sign() != 0
            }
            Arithmetic::Sub | Arithmetic::Sbb => {
                let first = self.first();
                (first ^ self.src) & (first ^ self.dst) & self.sign() != 0
            }
            Arithmetic::Logic => false,
            Arithmetic::Inc => self.dst == self.sign(),
            Arithmetic::Dec => self.dst == self.sign() - 1,
            Arithmetic::Shl | Arithmetic::Shr | Arithmetic::ShlAdjust | Arithmetic::ShrAdjust => {
                (self.src ^ self.dst) & self.sign() != 0
            }
            Arithmetic::Mul => self.src != 0,
        }
    }

    /// The six arithmetic flags in their places.
    pub(crate) fn arithmetic(&self) -> u64 {
        if self.op == Arithmetic::Known {
            return self.src;
        }
        let bit = |set: bool, flag: u64| if set { flag } else { 0 };
        bit(self.cf(), CF)
            | bit(self.pf(), PF)
            | bit(self.af(), AF)
            | bit(self.zf(), ZF)
            | bit(self.sf(), SF)
            | bit(self.of(), OF)
    }

    /// All of RFLAGS.
    pub(crate) fn value(&self) -> u64 {
        self.system | self.arithmetic() | 2
    }

    /// Replaces all of RFLAGS.
    pub(crate) fn set_value(&mut self, value: u64) {
        self.set_known(value);
        self.system = value & !ARITHMETIC & BITS | 2;
    }

    /// Condition `cc` as encoded in Jcc, SETcc and CMOVcc (Intel SDM vol. 1, appendix B).
    #[inline(always)]
    pub(crate) fn condition(&self, cc: u8) -> bool {
        let holds = match cc >> 1 {
            0 => self.of(),
            1 => self.cf(),
            2 => self.zf(),
            3 => self.zf() || self.cf(),
            4 => self.sf(),
            5 => self.pf(),
            6 => self.less(),
            _ => self.zf() || self.less(),
        };
        holds != (cc & 1 != 0)
    }

    /// SF != OF
    #[inline(always)]
    fn less(&self) -> bool {
        match self.op {
            Arithmetic::Sub => {
                let shift = 64 - self.bits();
                ((self.first() << shift).cast_signed()) < ((self.src << shift).cast_signed())
            }
            Arithmetic::Logic => self.sf(),
            _ => self.sf() != self.of(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(op: Arithmetic, bits: u32, a: u64, b: u64, carry: bool) -> Flags {
        let mask = u64::MAX >> (64 - bits);
        let c = u64::from(carry);
        let dst = match op {
            Arithmetic::Add => a.wrapping_add(b),
            Arithmetic::Adc => a.wrapping_add(b).wrapping_add(c),
            Arithmetic::Sub => a.wrapping_sub(b),
            _ => a.wrapping_sub(b).wrapping_sub(c),
        } & mask;
        Flags { op, width: (bits / 16).ilog2_or_zero(), carry, dst, src: b, taken_up: false, system: 2 }
    }

    trait OrZero {
        fn ilog2_or_zero(self) -> u8;
    }
    impl OrZero for u32 {
        fn ilog2_or_zero(self) -> u8 {
            u8::try_from(self.checked_ilog2().map_or(0, |n| n + 1)).unwrap()
        }
    }

    proptest::proptest! {
        #[test]
        fn flags_of_sums_and_differences_are_those_of_wide_arithmetic(
            a: u64, b: u64, carry: bool, wide in 0u32..4, kind in 0usize..4,
        ) {
            let bits = 8 << wide;
            let mask = u64::MAX >> (64 - bits);
            let (a, b) = (a & mask, b & mask);
            let op = [Arithmetic::Add, Arithmetic::Adc, Arithmetic::Sub, Arithmetic::Sbb][kind];
            let flags = reference(op, bits, a, b, carry);
            let c = i128::from(carry && kind % 2 == 1);
            let signed = |v: u64| i128::from((v << (64 - bits)).cast_signed() >> (64 - bits));
            let (unsigned, sum, low) = if kind < 2 {
                (i128::from(a) + i128::from(b) + c, signed(a) + signed(b) + c, (a & 15) + (b & 15) + c as u64 > 15)
            } else {
                (i128::from(a) - i128::from(b) - c, signed(a) - signed(b) - c, (a & 15) < (b & 15) + c as u64)
            };
            proptest::prop_assert_eq!(flags.cf(), unsigned < 0 || unsigned > i128::from(mask));
            proptest::prop_assert_eq!(flags.of(), sum != signed(flags.dst));
            proptest::prop_assert_eq!(flags.af(), low);
            proptest::prop_assert_eq!(flags.less(), flags.sf() != flags.of());
        }
    }
}
