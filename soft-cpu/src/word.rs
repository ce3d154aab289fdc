//! Operand widths: the four integer sizes, written once.

/// An operand of 1, 2, 4 or 8 bytes.
pub(crate) trait Word: Copy + Eq + 'static {
    /// bytes
    const BYTES: u64;
    /// bits
    const BITS: u32;
    /// 0 for bytes up to 3 for quadwords, as in [`crate::flags::Arithmetic`]
    const WIDTH: u8;
    /// all bits of this width
    const MASK: u64;
    /// the low bits of `value`
    fn cut(value: u64) -> Self;
    /// zero-extended
    fn wide(self) -> u64;
    /// sign-extended
    fn signed(self) -> i64;
}

macro_rules! word {
    ($t:ty, $s:ty, $w:expr) => {
        impl Word for $t {
            const BYTES: u64 = size_of::<$t>() as u64;
            const BITS: u32 = <$t>::BITS;
            const WIDTH: u8 = $w;
            const MASK: u64 = <$t>::MAX as u64;
            #[inline(always)]
            #[allow(clippy::cast_possible_truncation, reason = "the low bits are what is asked for")]
            fn cut(value: u64) -> Self {
                value as $t
            }
            #[inline(always)]
            fn wide(self) -> u64 {
                self as u64
            }
            #[inline(always)]
            fn signed(self) -> i64 {
                i64::from(self.cast_signed())
            }
        }
    };
}

word!(u8, i8, 0);
word!(u16, i16, 1);
word!(u32, i32, 2);
word!(u64, i64, 3);
