//! Random values, biased to those at which processors go wrong.

use super::layout::{CODE, DATA, DATA_BYTES, READ_ONLY};
use super::rng::Rng;

/// Bytes of the pool that memory is filled from.
pub const POOL_BYTES: usize = 1 << 16;

/// An address in or around the data pages.
pub fn pointer(rng: &mut Rng, align: u64) -> u64 {
    let inside = DATA + 64 + rng.below(DATA_BYTES as u64 - 640);
    match rng.below(20) {
        0..=14 => inside & !(align.max(1) - 1),
        15..=16 => inside,
        17 => DATA + 4096 - rng.below(20),
        18 => READ_ONLY - rng.below(40),
        _ => rng.pick(&[DATA, READ_ONLY, READ_ONLY + 4096, CODE]).wrapping_sub(rng.below(24)),
    }
}

/// A 64-bit integer.
pub fn integer(rng: &mut Rng) -> u64 {
    let edge = rng.pick(&[0_u64, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000])
        ^ rng.pick(&[0, 0, u64::MAX, 0xffff_ffff, 1 << 63, 0x7fff_ffff_ffff_ffff]);
    match rng.below(10) {
        0..=2 => edge,
        3 => edge.wrapping_add(rng.below(5)).wrapping_sub(2),
        4..=5 => rng.below(70),
        6 => pointer(rng, 16),
        7 => 1 << rng.below(64),
        8 => rng.bits() >> rng.below(64),
        _ => rng.bits(),
    }
}

/// Single precision, as bits.
pub fn single(rng: &mut Rng) -> u32 {
    let sign = (rng.below(2) as u32) << 31;
    sign | match rng.below(12) {
        0 => rng.pick(&[0, 1, 0x007f_ffff, 0x0080_0000, 0x7f7f_ffff, 0x7f80_0000, 0x3f80_0000, 0x3f00_0000]),
        1 => rng.bits() as u32 & 0x007f_ffff,
        2 => 0x7f80_0000 | rng.bits() as u32 & 0x007f_ffff,
        3 => 0x7fc0_0000,
        4 => (rng.below(2000) as f32).to_bits(),
        5 => (rng.below(4000) as f32 / 2.0).to_bits(),
        6 => rng.pick(&[0x4eff_ffff, 0x4f00_0000, 0x4f80_0000, 0x5eff_ffff, 0x5f00_0000, 0x5f80_0000]),
        7..=9 => ((120 + rng.below(16)) as u32) << 23 | rng.bits() as u32 & 0x007f_ffff,
        _ => rng.bits() as u32 & 0x7fff_ffff,
    }
}

/// Double precision, as bits.
pub fn double(rng: &mut Rng) -> u64 {
    let fraction = rng.bits() & 0x000f_ffff_ffff_ffff;
    let sign = rng.below(2) << 63;
    sign | match rng.below(13) {
        0 => rng.pick(&[
            0,
            1,
            0x000f_ffff_ffff_ffff,
            1 << 52,
            0x7fef_ffff_ffff_ffff,
            0x7ff0 << 48,
            0x3ff0 << 48,
        ]),
        1 => fraction,
        2 => 0x7ff0 << 48 | fraction,
        3 => 0x7ff8 << 48,
        4 => (rng.below(2000) as f64).to_bits(),
        5 => (rng.below(4000) as f64 / 2.0).to_bits(),
        6 => rng.pick(&[
            0x41df_ffff_ffc0_0000,
            0x41df_ffff_ffe0_0000,
            0x41e0_0000_0000_0000,
            0x43df_ffff_ffff_ffff,
            0x43e0_0000_0000_0000,
            0x47ef_ffff_e000_0000,
            0x47ef_ffff_f000_0000,
            0x3810_0000_0000_0000,
            0x380f_ffff_ffff_ffff,
            0x36a0_0000_0000_0000,
        ]),
        7..=9 => (1016 + rng.below(16)) << 52 | fraction,
        // around the range of single precision
        10 => rng.pick(&[870, 896, 897, 1150, 1151_u64]) << 52 | fraction & (u64::MAX << rng.below(52)),
        _ => rng.bits() & 0x7fff_ffff_ffff_ffff,
    }
}

/// Double extended precision, all classes, unsupported encodings included.
pub fn extended(rng: &mut Rng) -> [u8; 10] {
    let integer_bit = 1_u64 << 63;
    let fraction = rng.bits() >> 1;
    let near = 16383 - 8 + rng.below(16);
    let (exponent, significand) = match rng.below(18) {
        0 => (0, 0),
        1 => (16383, integer_bit),
        2 => (0x7fff, integer_bit),
        3 => (0x7fff, integer_bit | fraction),
        4 => (0x7fff, 0xc000_0000_0000_0000),
        5 => (0, fraction >> rng.below(63)),
        6 => (0, integer_bit | fraction),
        7 => (rng.below(0x8000), fraction),
        8 => (
            rng.pick(&[1, 2, 0x7ffe, 0x3c00, 0x3c01, 0x43fe, 0x43ff, 0x3f80, 0x3f81, 0x407e]),
            integer_bit | fraction,
        ),
        9 => (near, integer_bit | fraction & (u64::MAX << 40)),
        10 => (near, integer_bit | fraction & (u64::MAX << 11)),
        11 => (near, integer_bit | fraction & (u64::MAX << 62)),
        // around the integers that FIST can store
        12 => (
            16383 + rng.pick(&[14, 15, 30, 31, 62, 63_u64]),
            integer_bit | fraction & (u64::MAX << rng.below(64)),
        ),
        13 => (16383 + rng.below(64), integer_bit | fraction & (u64::MAX << rng.below(64))),
        14 => (rng.below(0x7ffe) + 1, integer_bit | fraction),
        _ => (near, integer_bit | fraction),
    };
    let top = (exponent | rng.below(2) << 15) as u16;
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&significand.to_le_bytes());
    bytes[8..].copy_from_slice(&top.to_le_bytes());
    bytes
}

/// 16 bytes of some kind.
pub fn vector(rng: &mut Rng) -> [u8; 16] {
    let mut bytes = [0; 16];
    match rng.below(16) {
        0..=3 => bytes.chunks_exact_mut(4).for_each(|c| c.copy_from_slice(&single(rng).to_le_bytes())),
        4..=7 => bytes.chunks_exact_mut(8).for_each(|c| c.copy_from_slice(&double(rng).to_le_bytes())),
        8..=9 => bytes.chunks_exact_mut(8).for_each(|c| c.copy_from_slice(&integer(rng).to_le_bytes())),
        10 => bytes[..10].copy_from_slice(&extended(rng)),
        11 => bytes.iter_mut().for_each(|b| *b = rng.pick(&[0, b'a', b'b', b'c', b'z', 0x80, 0xff])),
        12 => bytes.iter_mut().for_each(|b| *b = (rng.below(10) | rng.below(10) << 4) as u8),
        13 => bytes.chunks_exact_mut(2).for_each(|c| {
            let word = rng.pick(&[0_u16, 1, 0x7fff, 0x8000, 0xffff, 0x7f, 0xff80, 0x100]);
            c.copy_from_slice(&word.to_le_bytes());
        }),
        14 => {}
        _ => bytes.chunks_exact_mut(8).for_each(|c| c.copy_from_slice(&rng.bits().to_le_bytes())),
    }
    bytes
}

/// The bytes that memory is filled from: the same for every run.
pub fn pool() -> Box<[u8]> {
    let mut rng = Rng::new(0x5c21_be00, 0);
    (0..POOL_BYTES / 16).flat_map(|_| vector(&mut rng)).collect()
}
