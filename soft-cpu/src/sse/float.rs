//! Floating-point arithmetic, comparison and rounding.

use iced_x86::{Instruction, Mnemonic};

use crate::cpu::{CR4_OSXMMEXCPT, Cpu, Done, vector};
use crate::op::{Handler, Op};

use super::host::{self, Outcome};
use super::{choose, estimate};

/// Flags that are found before the operation: invalid, denormal operand, division by zero.
const BEFORE: u32 = 0b111;
/// Underflow.
const UE: u32 = 1 << 4;
const MASKS: u32 = 7;
const UNDERFLOW_MASKED: u32 = UE << MASKS;
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

/// What a result is checked for after arithmetic.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// nothing: it cannot underflow
    No,
    /// lanes of 32 bits, so many of them
    Single(u32),
    /// lanes of 64 bits
    Double(u32),
}

/// With underflow unmasked a tiny result is an underflow even if it is exact; the host, where it is masked, flags inexact
/// ones only.
#[cold]
fn tiny(value: u128, check: Check) -> u32 {
    let found = match check {
        Check::No => false,
        Check::Single(lanes) => (0..lanes).any(|n| f32::from_bits((value >> (32 * n)) as u32).is_subnormal()),
        Check::Double(lanes) => (0..lanes).any(|n| f64::from_bits((value >> (64 * n)) as u64).is_subnormal()),
    };
    if found { UE } else { 0 }
}

#[inline(always)]
pub(super) fn finish(cpu: &mut Cpu, op: &Op, outcome: Outcome<u128>, check: Check) -> Done {
    let mut raised = outcome.raised;
    if check != Check::No && cpu.fpu.mxcsr & UNDERFLOW_MASKED == 0 {
        raised |= tiny(outcome.value, check);
    }
    cpu.take_flags(raised)?;
    cpu.set_xmm(op.dst, outcome.value);
    Ok(())
}

/// `$f` of two XMM registers; the second is a register or memory that `$read` reads.
macro_rules! operation {
    ($i:expr, $read:ident, $f:expr, $check:expr) => {{
        fn run<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
            cpu.sse()?;
            let b = u128::from(cpu.$read::<MEMORY>(op)?);
            let outcome = $f(cpu.xmm(op.dst), b, cpu.fpu.mxcsr);
            finish(cpu, op, outcome, $check)
        }
        choose($i, run::<false>, run::<true>)
    }};
}

macro_rules! packed {
    ($i:expr, $f:ident, $check:expr) => {
        operation!($i, source, host::$f, $check)
    };
}

macro_rules! scalar32 {
    ($i:expr, $f:ident, $check:expr) => {
        operation!($i, source32, host::$f, $check)
    };
}

macro_rules! scalar64 {
    ($i:expr, $f:ident, $check:expr) => {
        operation!($i, source64, host::$f, $check)
    };
}

/// Comparisons: the predicate is the low three bits of the immediate.
macro_rules! compare {
    ($i:expr, $read:ident, $f:ident) => {{
        fn run<const MEMORY: bool, const P: u8>(cpu: &mut Cpu, op: &Op) -> Done {
            cpu.sse()?;
            let b = u128::from(cpu.$read::<MEMORY>(op)?);
            let outcome = host::$f::<P>(cpu.xmm(op.dst), b, cpu.fpu.mxcsr);
            finish(cpu, op, outcome, Check::No)
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
            let outcome = f(cpu.xmm(op.dst), b, mxcsr);
            finish(cpu, op, outcome, Check::No)
        }
        choose($i, run::<false>, run::<true>)
    }};
}

/// Dot products: immediate bits 4 to 7 choose the lanes that are multiplied, bits 0 to 3 those that get the sum.
macro_rules! dot {
    ($i:expr, $f:ident, $bits:expr, $check:expr) => {{
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
            let mut outcome = host::$f(cpu.xmm(op.dst) & chosen, b & chosen, cpu.fpu.mxcsr);
            outcome.value &= lanes(op.imm);
            finish(cpu, op, outcome, $check)
        }
        choose($i, run::<false>, run::<true>)
    }};
}

const PS: Check = Check::Single(4);
const SS: Check = Check::Single(1);
const PD: Check = Check::Double(2);
const SD: Check = Check::Double(1);

pub(super) fn lower(i: &Instruction) -> Option<Handler> {
    use Mnemonic as M;
    match i.mnemonic() {
        M::Addps => packed!(i, addps, PS),
        M::Addpd => packed!(i, addpd, PD),
        M::Addss => scalar32!(i, addss, SS),
        M::Addsd => scalar64!(i, addsd, SD),
        M::Subps => packed!(i, subps, PS),
        M::Subpd => packed!(i, subpd, PD),
        M::Subss => scalar32!(i, subss, SS),
        M::Subsd => scalar64!(i, subsd, SD),
        M::Mulps => packed!(i, mulps, PS),
        M::Mulpd => packed!(i, mulpd, PD),
        M::Mulss => scalar32!(i, mulss, SS),
        M::Mulsd => scalar64!(i, mulsd, SD),
        M::Divps => packed!(i, divps, PS),
        M::Divpd => packed!(i, divpd, PD),
        M::Divss => scalar32!(i, divss, SS),
        M::Divsd => scalar64!(i, divsd, SD),
        M::Minps => packed!(i, minps, Check::No),
        M::Minpd => packed!(i, minpd, Check::No),
        M::Minss => scalar32!(i, minss, Check::No),
        M::Minsd => scalar64!(i, minsd, Check::No),
        M::Maxps => packed!(i, maxps, Check::No),
        M::Maxpd => packed!(i, maxpd, Check::No),
        M::Maxss => scalar32!(i, maxss, Check::No),
        M::Maxsd => scalar64!(i, maxsd, Check::No),
        M::Sqrtps => packed!(i, sqrtps, Check::No),
        M::Sqrtpd => packed!(i, sqrtpd, Check::No),
        M::Sqrtss => scalar32!(i, sqrtss, Check::No),
        M::Sqrtsd => scalar64!(i, sqrtsd, Check::No),
        M::Addsubps => packed!(i, addsubps, PS),
        M::Addsubpd => packed!(i, addsubpd, PD),
        M::Haddps => packed!(i, haddps, PS),
        M::Haddpd => packed!(i, haddpd, PD),
        M::Hsubps => packed!(i, hsubps, PS),
        M::Hsubpd => packed!(i, hsubpd, PD),
        M::Dpps => dot!(i, dpps_all, 32, PS),
        M::Dppd => dot!(i, dppd_all, 64, PD),
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
