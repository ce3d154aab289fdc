//! Floating-point arithmetic, comparison and rounding.

use iced_x86::{Instruction, Mnemonic};

use crate::cpu::{CR4_OSXMMEXCPT, Cpu, Done, vector};
use crate::op::{Handler, Op};

use super::host::{self, Outcome};
use super::range::{self, Operation, Shape};
use super::{choose, estimate};

/// Flags that are found before the operation: invalid, denormal operand, division by zero.
pub(super) const BEFORE: u32 = 0b111;
/// Overflow and underflow.
pub(super) const RANGE: u32 = 0b11 << 3;
/// Underflow.
pub(super) const UE: u32 = 1 << 4;
/// Inexact result.
pub(super) const PE: u32 = 1 << 5;
/// How far left of its flag an exception's mask is.
pub(super) const MASKS: u32 = 7;
const ALL_MASKED: u32 = 0x3f << MASKS;
/// MXCSR.RC
const ROUNDING: u32 = 3 << 13;

impl Cpu {
    /// Takes the flags of an operation into MXCSR; with one that is unmasked the instruction faults.
    ///
    /// An unmasked exception that is found before the operation hides those found after it, in all lanes (Intel SDM
    /// vol. 1, 11.5.3).
    #[inline(always)]
    pub(super) fn take_flags(&mut self, raised: u32) -> Done {
        if raised == 0 { Ok(()) } else { self.take_new_flags(raised) }
    }

    #[inline(never)]
    fn take_new_flags(&mut self, raised: u32) -> Done {
        let unmasked = !(self.fpu.mxcsr >> MASKS);
        let raised = if raised & BEFORE & unmasked != 0 { raised & BEFORE } else { raised };
        self.fpu.mxcsr |= raised;
        if raised & unmasked == 0 {
            Ok(())
        } else if self.cr4 & CR4_OSXMMEXCPT == 0 {
            Err(self.undefined())
        } else {
            Err(self.raise(vector::XM))
        }
    }
}

/// Takes the flags of an operation on `a` and `b`, then its result.
#[inline(always)]
pub(super) fn finish(cpu: &mut Cpu, op: &Op, outcome: Outcome<u128>, shape: Shape, a: u128, b: u128) -> Done {
    let mut raised = outcome.raised;
    if shape != Shape::Safe && range::is_unmasked(cpu.fpu.mxcsr) {
        raised = range::raised(shape, a, b, cpu.fpu.mxcsr);
    }
    cpu.take_flags(raised)?;
    cpu.set_xmm(op.dst, outcome.value);
    Ok(())
}

/// `$f` of two XMM registers; the second is a register or memory that `$read` reads.
macro_rules! operation {
    ($i:expr, $read:ident, $f:expr, $shape:expr) => {{
        fn run<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
            cpu.sse()?;
            let b = u128::from(cpu.$read::<MEMORY>(op)?);
            let a = cpu.xmm(op.dst);
            let outcome = $f(a, b, cpu.fpu.mxcsr);
            finish(cpu, op, outcome, $shape, a, b)
        }
        choose($i, run::<false>, run::<true>)
    }};
}

macro_rules! packed {
    ($i:expr, $f:ident, $shape:expr) => {
        operation!($i, source, host::$f, $shape)
    };
}

macro_rules! scalar32 {
    ($i:expr, $f:ident, $shape:expr) => {
        operation!($i, source32, host::$f, $shape)
    };
}

macro_rules! scalar64 {
    ($i:expr, $f:ident, $shape:expr) => {
        operation!($i, source64, host::$f, $shape)
    };
}

/// Comparisons: the predicate is the low three bits of the immediate.
macro_rules! compare {
    ($i:expr, $read:ident, $f:ident) => {{
        fn run<const MEMORY: bool, const P: u8>(cpu: &mut Cpu, op: &Op) -> Done {
            cpu.sse()?;
            let b = u128::from(cpu.$read::<MEMORY>(op)?);
            let a = cpu.xmm(op.dst);
            let outcome = host::$f::<P>(a, b, cpu.fpu.mxcsr);
            finish(cpu, op, outcome, Shape::Safe, a, b)
        }
        match $i.immediate8() & 7 {
            0 => choose($i, run::<false, 0>, run::<true, 0>),
            1 => choose($i, run::<false, 1>, run::<true, 1>),
            2 => choose($i, run::<false, 2>, run::<true, 2>),
            3 => choose($i, run::<false, 3>, run::<true, 3>),
            4 => choose($i, run::<false, 4>, run::<true, 4>),
            5 => choose($i, run::<false, 5>, run::<true, 5>),
            6 => choose($i, run::<false, 6>, run::<true, 6>),
            _ => choose($i, run::<false, 7>, run::<true, 7>),
        }
    }};
}

/// Comparisons to RFLAGS.
macro_rules! compare_to_flags {
    ($i:expr, $read:ident, $f:ident) => {{
        fn run<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
            cpu.sse()?;
            let b = u128::from(cpu.$read::<MEMORY>(op)?);
            let outcome = host::$f(cpu.xmm(op.dst), b, cpu.fpu.mxcsr);
            cpu.take_flags(outcome.raised)?;
            cpu.flags.set_known(outcome.value);
            Ok(())
        }
        choose($i, run::<false>, run::<true>)
    }};
}

/// Rounding to integers: immediate bits 0 and 1 give the mode unless bit 2 says MXCSR's; bit 3 suppresses PE.
macro_rules! round {
    ($i:expr, $read:ident, $f:ident, $quietly:ident) => {{
        fn run<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
            cpu.sse()?;
            let b = u128::from(cpu.$read::<MEMORY>(op)?);
            let mut mxcsr = cpu.fpu.mxcsr;
            if op.imm & 4 == 0 {
                mxcsr = mxcsr & !ROUNDING | (op.imm as u32 & 3) << 13;
            }
            let f = if op.imm & 8 == 0 { host::$f } else { host::$quietly };
            let a = cpu.xmm(op.dst);
            let outcome = f(a, b, mxcsr);
            finish(cpu, op, outcome, Shape::Safe, a, b)
        }
        choose($i, run::<false>, run::<true>)
    }};
}

/// Dot products: immediate bits 4 to 7 choose the lanes that are multiplied, bits 0 to 3 those that get the sum.
macro_rules! dot {
    ($i:expr, $f:ident, $bits:expr) => {{
        fn run<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
            cpu.sse()?;
            let b = cpu.source::<MEMORY>(op)?;
            let lanes = |mask: u64| {
                (0..128 / $bits)
                    .filter(|n| mask >> n & 1 != 0)
                    .fold(0u128, |sum, n| sum | (u128::MAX >> (128 - $bits)) << ($bits * n))
            };
            // A lane that is not chosen is +0 there too, and 0 * 0 is +0.
            let chosen = lanes(op.imm >> 4);
            let (a, b) = (cpu.xmm(op.dst) & chosen, b & chosen);
            let outcome = host::$f(a, b, cpu.fpu.mxcsr);
            if cpu.fpu.mxcsr & ALL_MASKED == ALL_MASKED {
                cpu.take_flags(outcome.raised)?;
            } else {
                range::dot(cpu, $bits == 32, a, b)?;
            }
            cpu.set_xmm(op.dst, outcome.value & lanes(op.imm));
            Ok(())
        }
        choose($i, run::<false>, run::<true>)
    }};
}

pub(super) fn lower(i: &Instruction) -> Option<Handler> {
    use Mnemonic as M;
    use Operation::{Add, Differences, Div, Mul, Sub, SubAdd, Sums};
    use Shape::{Double, Safe, Single};
    match i.mnemonic() {
        M::Addps => packed!(i, addps, Single(4, Add)),
        M::Addpd => packed!(i, addpd, Double(2, Add)),
        M::Addss => scalar32!(i, addss, Single(1, Add)),
        M::Addsd => scalar64!(i, addsd, Double(1, Add)),
        M::Subps => packed!(i, subps, Single(4, Sub)),
        M::Subpd => packed!(i, subpd, Double(2, Sub)),
        M::Subss => scalar32!(i, subss, Single(1, Sub)),
        M::Subsd => scalar64!(i, subsd, Double(1, Sub)),
        M::Mulps => packed!(i, mulps, Single(4, Mul)),
        M::Mulpd => packed!(i, mulpd, Double(2, Mul)),
        M::Mulss => scalar32!(i, mulss, Single(1, Mul)),
        M::Mulsd => scalar64!(i, mulsd, Double(1, Mul)),
        M::Divps => packed!(i, divps, Single(4, Div)),
        M::Divpd => packed!(i, divpd, Double(2, Div)),
        M::Divss => scalar32!(i, divss, Single(1, Div)),
        M::Divsd => scalar64!(i, divsd, Double(1, Div)),
        M::Minps => packed!(i, minps, Safe),
        M::Minpd => packed!(i, minpd, Safe),
        M::Minss => scalar32!(i, minss, Safe),
        M::Minsd => scalar64!(i, minsd, Safe),
        M::Maxps => packed!(i, maxps, Safe),
        M::Maxpd => packed!(i, maxpd, Safe),
        M::Maxss => scalar32!(i, maxss, Safe),
        M::Maxsd => scalar64!(i, maxsd, Safe),
        M::Sqrtps => packed!(i, sqrtps, Safe),
        M::Sqrtpd => packed!(i, sqrtpd, Safe),
        M::Sqrtss => scalar32!(i, sqrtss, Safe),
        M::Sqrtsd => scalar64!(i, sqrtsd, Safe),
        M::Addsubps => packed!(i, addsubps, Single(4, SubAdd)),
        M::Addsubpd => packed!(i, addsubpd, Double(2, SubAdd)),
        M::Haddps => packed!(i, haddps, Single(4, Sums)),
        M::Haddpd => packed!(i, haddpd, Double(2, Sums)),
        M::Hsubps => packed!(i, hsubps, Single(4, Differences)),
        M::Hsubpd => packed!(i, hsubpd, Double(2, Differences)),
        M::Dpps => dot!(i, dpps_all, 32),
        M::Dppd => dot!(i, dppd_all, 64),
        M::Roundps => round!(i, source, roundps, roundps_quietly),
        M::Roundpd => round!(i, source, roundpd, roundpd_quietly),
        M::Roundss => round!(i, source32, roundss, roundss_quietly),
        M::Roundsd => round!(i, source64, roundsd, roundsd_quietly),
        M::Cmpps => compare!(i, source, cmpps),
        M::Cmppd => compare!(i, source, cmppd),
        M::Cmpss => compare!(i, source32, cmpss),
        M::Cmpsd if i.op0_register().is_xmm() => compare!(i, source64, cmpsd),
        M::Ucomiss => compare_to_flags!(i, source32, ucomiss),
        M::Ucomisd => compare_to_flags!(i, source64, ucomisd),
        M::Comiss => compare_to_flags!(i, source32, comiss),
        M::Comisd => compare_to_flags!(i, source64, comisd),
        M::Rcpps => choose(i, estimate::rcpps::<false>, estimate::rcpps::<true>),
        M::Rcpss => choose(i, estimate::rcpss::<false>, estimate::rcpss::<true>),
        M::Rsqrtps => choose(i, estimate::rsqrtps::<false>, estimate::rsqrtps::<true>),
        M::Rsqrtss => choose(i, estimate::rsqrtss::<false>, estimate::rsqrtss::<true>),
        _ => super::convert::lower(i),
    }
}
