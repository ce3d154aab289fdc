//! Random values that meet the edges.

/// SplitMix64.
pub(super) struct Random(pub u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Bits in runs: few ones, few zeros, or anything.
    pub(super) fn pattern(&mut self) -> u64 {
        match self.below(6) {
            0 => self.next(),
            1 => u64::MAX << self.below(64),
            2 => u64::MAX >> self.below(64),
            3 => 1 << self.below(64) | 1 << self.below(64),
            4 => !(1 << self.below(64)),
            _ => self.next() << self.below(64),
        }
    }

    /// An extended real of any class.
    pub(super) fn extended(&mut self) -> u128 {
        let sign = u128::from(self.next() & 1) << 79;
        let sig = self.pattern();
        let integer = 1 << 63;
        let (exponent, sig) = match self.below(24) {
            0 => (0, 0),
            1 => (0x7fff, integer),
            2 => (0x7fff, sig | integer | 1 << 62),
            3 => (0x7fff, sig & !(1 << 62) | integer | 1),
            4 => (0, sig & !integer),
            5 => (0, sig | integer),
            6 if self.one_in(4) => (self.below(0x8000), sig & !integer),
            7 => (1 + self.below(70), sig | integer),
            8 => (0x7ffe - self.below(70), sig | integer),
            9 => (0x3fff + self.below(64), sig | integer),
            10 => (0x3fff - 1023 - 60 + self.below(70), sig | integer),
            11 => (0x3fff + 1020 + self.below(8), sig | integer),
            12 => (0x3fff - 127 - 30 + self.below(35), sig | integer),
            13 => (0x3fff + 125 + self.below(8), sig | integer),
            14 => (1 + self.below(0x7ffe), sig | integer),
            15 => return self.small_integer(),
            _ => (0x3fff - 70 + self.below(140), sig | integer),
        };
        sign | u128::from(exponent) << 64 | u128::from(sig)
    }

    /// An integer or a half, of up to 20 bits.
    fn small_integer(&mut self) -> u128 {
        let value = (self.next() & 0xf_ffff) >> self.below(20) | 1;
        let shift = value.leading_zeros();
        let exponent = 0x3fff + 63 - u64::from(shift) - self.below(2);
        u128::from(self.next() & 1) << 79 | u128::from(exponent) << 64 | u128::from(value << shift)
    }

    /// A single or double, by the widths of fraction and exponent.
    pub(super) fn real(&mut self, fraction: u32, exponent: u32) -> u64 {
        let sign = (self.next() & 1) << (fraction + exponent);
        let bits = self.pattern() & ((1 << fraction) - 1);
        let top = (1 << exponent) - 1;
        let e = match self.below(8) {
            0 => 0,
            1 => top,
            2 => top / 2 + self.below(20),
            3 => 1 + self.below(20),
            4 => top - 1 - self.below(20),
            _ => self.below(top),
        };
        sign | e << fraction | if self.one_in(10) { 0 } else { bits }
    }

    pub(super) fn integer(&mut self) -> u64 {
        match self.below(4) {
            0 => self.pattern(),
            1 => self.below(5).wrapping_sub(2),
            _ => self.next().cast_signed().wrapping_shr(self.below(64) as u32).cast_unsigned(),
        }
    }

    /// A packed decimal; one in four has digits above 9.
    pub(super) fn decimal(&mut self) -> u128 {
        let base = if self.one_in(4) { 16 } else { 10 };
        let digits = (0..self.below(19)).fold(0, |d, _| d << 4 | u128::from(self.below(base)));
        digits | u128::from(self.next() as u8) << 72
    }
}
