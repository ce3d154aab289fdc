//! RCPPS, RCPSS, RSQRTPS, RSQRTSS: the manuals bound the error only, so processors differ. Here the result is fixed.
//!
//! Zen behaviour: the exact result rounded to 12 significant bits, halves up, so the relative error is at most 2^-12 (the
//! bound is 1.5 * 2^-12). A denormal operand counts as zero, a reciprocal that would be denormal is zero, whatever MXCSR
//! says (Intel SDM vol. 2, RCPPS). Silicon uses tables of its own, which are not copied.
//!
//! Tcg behaviour: a division, and a division by a square root, rounded as MXCSR says.
//!
//! Neither raises flags.

use std::array::from_fn;

use crate::Behaviour;
use crate::cpu::{Cpu, Done};
use crate::op::Op;

use super::host;
use super::lanes::{doublewords, from_doublewords};

const SIGN: u32 = 1 << 31;
const INFINITY: u32 = 0xff << 23;
const QUIET: u32 = 1 << 22;
const DEFAULT_NAN: u32 = SIGN | INFINITY | QUIET;
const ONES: u128 = 0x3f80_0000_3f80_0000_3f80_0000_3f80_0000;
const MASKED: u32 = 0x1f80;

/// A number of 12 bits (2048 to 4096) / 4096 * 2^`exponent` as a float; zero if it is too small for a normal one.
fn float(significand: u32, exponent: i32) -> u32 {
    let (fraction, exponent) =
        if significand == 4096 { (0, exponent + 127) } else { ((significand - 2048) << 12, exponent + 126) };
    if exponent <= 0 { 0 } else { exponent.cast_unsigned() << 23 | fraction }
}

/// Biased exponent, and significand with its leading bit.
fn split(x: u32) -> (i32, u32) {
    ((x >> 23 & 0xff).cast_signed(), x & 0x7f_ffff | 0x80_0000)
}

/// 1 / x to 12 bits.
///
/// With x = M / 2^23 * 2^e, 2^23 <= M < 2^24: floor(2^35 / M + 1/2) / 2^12 * 2^-e.
fn reciprocal(x: u32) -> u32 {
    let (biased, significand) = split(x);
    match biased {
        0xff if x << 9 != 0 => x | QUIET,
        0xff => x & SIGN,
        0 => x & SIGN | INFINITY,
        // Just above 2^126: denormal, although its 12 bits would round up to a normal number.
        253 if significand > 0x80_0000 => x & SIGN,
        _ => {
            let quotient = ((1u64 << 35) + u64::from(significand >> 1)) / u64::from(significand);
            x & SIGN | float(quotient as u32, 127 - biased)
        }
    }
}

/// 1 / sqrt(x) to 12 bits.
///
/// With x = Y / 2^23 * 4^h, 2^23 <= Y < 2^25: floor(sqrt(2^47 / Y) + 1/2) / 2^12 * 2^-h.
fn reciprocal_root(x: u32) -> u32 {
    let (biased, significand) = split(x);
    match biased {
        0xff if x << 9 != 0 => x | QUIET,
        0 => x & SIGN | INFINITY,
        _ if x & SIGN != 0 => DEFAULT_NAN,
        0xff => 0,
        _ => {
            let exponent = biased - 127;
            let y = u64::from(significand) << (exponent & 1);
            let doubled = ((1u64 << 49) / y).isqrt();
            float((doubled as u32 + 1) >> 1, -(exponent >> 1))
        }
    }
}

fn rcp(cpu: &Cpu, x: u128) -> u128 {
    match cpu.profile.behaviour {
        Behaviour::Zen => each(x, reciprocal),
        Behaviour::Tcg => host::divps(ONES, x, cpu.fpu.mxcsr | MASKED).value,
    }
}

fn rsqrt(cpu: &Cpu, x: u128) -> u128 {
    match cpu.profile.behaviour {
        Behaviour::Zen => each(x, reciprocal_root),
        Behaviour::Tcg => {
            let mxcsr = cpu.fpu.mxcsr | MASKED;
            host::divps(ONES, host::sqrtps(0, x, mxcsr).value, mxcsr).value
        }
    }
}

fn each(x: u128, f: impl Fn(u32) -> u32) -> u128 {
    let x = doublewords(x);
    from_doublewords(from_fn(|n| f(x[n])))
}

pub(super) fn rcpps<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    let x = cpu.source::<MEMORY>(op)?;
    cpu.set_xmm(op.dst, rcp(cpu, x));
    Ok(())
}

pub(super) fn rcpss<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    let x = cpu.source32::<MEMORY>(op)?;
    cpu.set_xmm_low32(op.dst, rcp(cpu, x.into()) as u32);
    Ok(())
}

pub(super) fn rsqrtps<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    let x = cpu.source::<MEMORY>(op)?;
    cpu.set_xmm(op.dst, rsqrt(cpu, x));
    Ok(())
}

pub(super) fn rsqrtss<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    let x = cpu.source32::<MEMORY>(op)?;
    cpu.set_xmm_low32(op.dst, rsqrt(cpu, x.into()) as u32);
    Ok(())
}
