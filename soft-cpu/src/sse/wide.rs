//! Packed integer instructions of SSSE3, SSE4.1 and SSE4.2.

use std::array::from_fn;

use iced_x86::{Instruction, Mnemonic};

use crate::cpu::{Cpu, Done};
use crate::op::{Handler, Op};

use super::choose;
use super::lanes::{
    bytes, combined, doublewords, each_byte, each_doubleword, each_quadword, each_word, from_words, lanewise,
    words,
};

/// Sums or differences of neighbours: of the first operand's pairs, then of the second's.
macro_rules! horizontal {
    ($i:expr, $f:expr) => {
        combined!($i, |a, b| u128::from($f(b)) << 64 | u128::from($f(a)), |a, b| {
            $f(u128::from(b) << 64 | u128::from(a))
        })
    };
}

/// Lanes of the given width of a source, each extended to `$to` bits.
macro_rules! extend {
    ($i:expr, $read:ident, $from:ty => $wide:ty, $to:expr) => {{
        fn run<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
            cpu.sse()?;
            let source = u128::from(cpu.$read::<MEMORY>(op)?);
            let mask = u128::MAX >> (128 - $to);
            let value = (0..128 / $to).fold(0u128, |sum, n| {
                let lane = (source >> (<$from>::BITS * n)) as $from;
                sum | (<$wide>::from(lane) as u128 & mask) << ($to * n)
            });
            cpu.set_xmm(op.dst, value);
            Ok(())
        }
        choose($i, run::<false>, run::<true>)
    }};
}

pub(super) fn lower(i: &Instruction) -> Option<Handler> {
    use Mnemonic as M;
    match i.mnemonic() {
        M::Phaddw => horizontal!(i, |v| pairs16(v, i16::wrapping_add)),
        M::Phaddsw => horizontal!(i, |v| pairs16(v, i16::saturating_add)),
        M::Phsubw => horizontal!(i, |v| pairs16(v, i16::wrapping_sub)),
        M::Phsubsw => horizontal!(i, |v| pairs16(v, i16::saturating_sub)),
        M::Phaddd => horizontal!(i, |v| pairs32(v, u32::wrapping_add)),
        M::Phsubd => horizontal!(i, |v| pairs32(v, u32::wrapping_sub)),
        M::Pmaddubsw => lanewise!(i, pmaddubsw),
        M::Pmulhrsw => lanewise!(i, |a: u128, b: u128| each_word(a, b, pmulhrsw)),
        M::Psignb => lanewise!(i, |a: u128, b: u128| each_byte(a, b, |x, y| {
            x.cast_signed().wrapping_mul(y.cast_signed().signum()).cast_unsigned()
        })),
        M::Psignw => lanewise!(i, |a: u128, b: u128| each_word(a, b, |x, y| {
            x.cast_signed().wrapping_mul(y.cast_signed().signum()).cast_unsigned()
        })),
        M::Psignd => lanewise!(i, |a: u128, b: u128| each_doubleword(a, b, |x, y| {
            x.cast_signed().wrapping_mul(y.cast_signed().signum()).cast_unsigned()
        })),
        M::Pabsb => lanewise!(i, |_: u128, b: u128| each_byte(b, b, |x, _| x.cast_signed().unsigned_abs())),
        M::Pabsw => lanewise!(i, |_: u128, b: u128| each_word(b, b, |x, _| x.cast_signed().unsigned_abs())),
        M::Pabsd => {
            lanewise!(i, |_: u128, b: u128| each_doubleword(b, b, |x, _| x.cast_signed().unsigned_abs()))
        }
        M::Pminsb => lanewise!(i, |a: u128, b: u128| each_byte(a, b, |x, y| {
            x.cast_signed().min(y.cast_signed()).cast_unsigned()
        })),
        M::Pmaxsb => lanewise!(i, |a: u128, b: u128| each_byte(a, b, |x, y| {
            x.cast_signed().max(y.cast_signed()).cast_unsigned()
        })),
        M::Pminuw => lanewise!(i, |a: u128, b: u128| each_word(a, b, u16::min)),
        M::Pmaxuw => lanewise!(i, |a: u128, b: u128| each_word(a, b, u16::max)),
        M::Pminud => lanewise!(i, |a: u128, b: u128| each_doubleword(a, b, u32::min)),
        M::Pmaxud => lanewise!(i, |a: u128, b: u128| each_doubleword(a, b, u32::max)),
        M::Pminsd => lanewise!(i, |a: u128, b: u128| each_doubleword(a, b, |x, y| {
            x.cast_signed().min(y.cast_signed()).cast_unsigned()
        })),
        M::Pmaxsd => lanewise!(i, |a: u128, b: u128| each_doubleword(a, b, |x, y| {
            x.cast_signed().max(y.cast_signed()).cast_unsigned()
        })),
        M::Pmulld => lanewise!(i, |a: u128, b: u128| each_doubleword(a, b, u32::wrapping_mul)),
        M::Pmuldq => lanewise!(i, |a: u128, b: u128| each_quadword(a, b, |x, y| {
            let low = |v: u64| i64::from((v as u32).cast_signed());
            low(x).wrapping_mul(low(y)).cast_unsigned()
        })),
        M::Pcmpeqq => {
            lanewise!(i, |a: u128, b: u128| each_quadword(a, b, |x, y| if x == y { u64::MAX } else { 0 }))
        }
        M::Pcmpgtq => lanewise!(i, |a: u128, b: u128| each_quadword(a, b, |x, y| {
            if x.cast_signed() > y.cast_signed() { u64::MAX } else { 0 }
        })),
        M::Packusdw => lanewise!(i, |a: u128, b: u128| {
            let (a, b) = (doublewords(a), doublewords(b));
            from_words(from_fn(|n| {
                let lane = if n < 4 { a[n] } else { b[n - 4] };
                lane.cast_signed().clamp(0, 0xffff) as u16
            }))
        }),
        M::Phminposuw => lanewise!(i, |_: u128, b: u128| {
            let least = (0..).zip(words(b)).min_by_key(|&(_, lane)| lane);
            least.map_or(0, |(n, lane): (u128, u16)| n << 16 | u128::from(lane))
        }),
        M::Mpsadbw => choose(i, mpsadbw::<false>, mpsadbw::<true>),
        M::Pmovsxbw => extend!(i, source64, i8 => i128, 16),
        M::Pmovsxbd => extend!(i, source32, i8 => i128, 32),
        M::Pmovsxbq => extend!(i, source16, i8 => i128, 64),
        M::Pmovsxwd => extend!(i, source64, i16 => i128, 32),
        M::Pmovsxwq => extend!(i, source32, i16 => i128, 64),
        M::Pmovsxdq => extend!(i, source64, i32 => i128, 64),
        M::Pmovzxbw => extend!(i, source64, u8 => u128, 16),
        M::Pmovzxbd => extend!(i, source32, u8 => u128, 32),
        M::Pmovzxbq => extend!(i, source16, u8 => u128, 64),
        M::Pmovzxwd => extend!(i, source64, u16 => u128, 32),
        M::Pmovzxwq => extend!(i, source32, u16 => u128, 64),
        M::Pmovzxdq => extend!(i, source64, u32 => u128, 64),
        _ => None,
    }
}

/// `f` of each pair of words.
fn pairs16(value: u128, f: impl Fn(i16, i16) -> i16) -> u64 {
    let lanes = words(value).map(u16::cast_signed);
    let of = |n: usize| u64::from(f(lanes[2 * n], lanes[2 * n + 1]).cast_unsigned());
    of(0) | of(1) << 16 | of(2) << 32 | of(3) << 48
}

/// `f` of each pair of doublewords.
fn pairs32(value: u128, f: impl Fn(u32, u32) -> u32) -> u64 {
    let lanes = doublewords(value);
    u64::from(f(lanes[0], lanes[1])) | u64::from(f(lanes[2], lanes[3])) << 32
}

/// Unsigned bytes times signed bytes, neighbours added with saturation.
fn pmaddubsw(a: u128, b: u128) -> u128 {
    let (a, b) = (bytes(a), bytes(b));
    let product = |n: usize| i32::from(a[n]) * i32::from(b[n].cast_signed());
    from_words(from_fn(|n| {
        let sum = product(2 * n) + product(2 * n + 1);
        (sum.clamp(i16::MIN.into(), i16::MAX.into()) as i16).cast_unsigned()
    }))
}

/// The high half of a product of fractions, rounded.
fn pmulhrsw(a: u16, b: u16) -> u16 {
    let product = i32::from(a.cast_signed()) * i32::from(b.cast_signed());
    (((product >> 14) + 1) >> 1) as u16
}

/// Eight sums of absolute differences: of four bytes of the source and four bytes from each place of the destination.
fn mpsadbw<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    let b = bytes(cpu.source::<MEMORY>(op)?);
    let a = bytes(cpu.xmm(op.dst));
    let (from, to) = (4 * (op.imm & 3) as usize, (op.imm & 4) as usize);
    let sums =
        from_fn(|n| (0..4).map(|k| u16::from(a[(to + n + k) & 15].abs_diff(b[from + k]))).sum::<u16>());
    cpu.set_xmm(op.dst, from_words(sums));
    Ok(())
}
