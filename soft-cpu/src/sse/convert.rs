//! Conversions between integers and floating-point numbers, and between those.

use iced_x86::{Code, Instruction};

use crate::Behaviour;
use crate::cpu::{Cpu, Done, Trap};
use crate::op::{Handler, Op};
use crate::word::Word;

use super::choose;
use super::float::finish;
use super::host;
use super::range::{Operation, Shape};

/// To an XMM register from an XMM register or memory, which `$read` reads.
macro_rules! to_xmm {
    ($i:expr, $read:ident, $f:ident) => {{
        fn run<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
            cpu.sse()?;
            let b = u128::from(cpu.$read::<MEMORY>(op)?);
            let outcome = host::$f(cpu.xmm(op.dst), b, cpu.fpu.mxcsr);
            finish(cpu, op, outcome, Shape::Safe, 0, b)
        }
        choose($i, run::<false>, run::<true>)
    }};
}

/// As `to_xmm`, to smaller numbers, which may underflow.
macro_rules! narrow {
    ($i:expr, $read:ident, $f:ident, $shape:expr) => {{
        fn run<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
            cpu.sse()?;
            let b = u128::from(cpu.$read::<MEMORY>(op)?);
            let outcome = host::$f(cpu.xmm(op.dst), b, cpu.fpu.mxcsr);
            finish(cpu, op, outcome, $shape, 0, b)
        }
        choose($i, run::<false>, run::<true>)
    }};
}

/// To a general register.
macro_rules! to_general {
    ($i:expr, $read:ident, $f:ident, $word:ty) => {{
        fn run<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
            cpu.sse()?;
            let b = u128::from(cpu.$read::<MEMORY>(op)?);
            let outcome = host::$f(b, cpu.fpu.mxcsr);
            cpu.take_flags(outcome.raised)?;
            cpu.set_reg(op.dst, <$word>::cut(outcome.value));
            Ok(())
        }
        choose($i, run::<false>, run::<true>)
    }};
}

/// From a general register or an integer in memory.
macro_rules! from_general {
    ($i:expr, $f:ident, $word:ty) => {{
        fn run<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
            cpu.sse()?;
            let n: $word = if MEMORY { cpu.read_mem(op)? } else { cpu.reg(op.src) };
            let outcome = host::$f(cpu.xmm(op.dst), n.into(), cpu.fpu.mxcsr);
            finish(cpu, op, outcome, Shape::Safe, 0, 0)
        }
        choose($i, run::<false>, run::<true>)
    }};
}

/// To an MMX register.
macro_rules! to_mm {
    ($i:expr, $read:ident, $f:ident) => {{
        fn run<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
            cpu.sse_with_mmx()?;
            // Lanes beyond the two that count must not raise flags.
            let b = u128::from(cpu.$read::<MEMORY>(op)?);
            let outcome = host::$f(0, b, cpu.fpu.mxcsr);
            // The x87 registers become MMX registers even if this faults, as on AMD's processors.
            cpu.enter_mmx();
            cpu.take_flags(outcome.raised)?;
            cpu.set_mm(op.dst, outcome.value as u64);
            Ok(())
        }
        choose($i, run::<false>, run::<true>)
    }};
}

pub(super) fn lower(i: &Instruction) -> Option<Handler> {
    use Code as C;
    match i.code() {
        C::Cvtps2pd_xmm_xmmm64 => to_xmm!(i, source64, cvtps2pd),
        C::Cvtpd2ps_xmm_xmmm128 => narrow!(i, source, cvtpd2ps, Shape::Single(2, Operation::Narrow)),
        C::Cvtss2sd_xmm_xmmm32 => to_xmm!(i, source32, cvtss2sd),
        C::Cvtsd2ss_xmm_xmmm64 => narrow!(i, source64, cvtsd2ss, Shape::Single(1, Operation::Narrow)),
        C::Cvtdq2ps_xmm_xmmm128 => to_xmm!(i, source, cvtdq2ps),
        C::Cvtdq2pd_xmm_xmmm64 => to_xmm!(i, source64, cvtdq2pd),
        C::Cvtps2dq_xmm_xmmm128 => to_xmm!(i, source, cvtps2dq),
        C::Cvttps2dq_xmm_xmmm128 => to_xmm!(i, source, cvttps2dq),
        C::Cvtpd2dq_xmm_xmmm128 => to_xmm!(i, source, cvtpd2dq),
        C::Cvttpd2dq_xmm_xmmm128 => to_xmm!(i, source, cvttpd2dq),
        C::Cvtss2si_r32_xmmm32 => to_general!(i, source32, cvtss2si_32, u32),
        C::Cvtss2si_r64_xmmm32 => to_general!(i, source32, cvtss2si_64, u64),
        C::Cvtsd2si_r32_xmmm64 => to_general!(i, source64, cvtsd2si_32, u32),
        C::Cvtsd2si_r64_xmmm64 => to_general!(i, source64, cvtsd2si_64, u64),
        C::Cvttss2si_r32_xmmm32 => to_general!(i, source32, cvttss2si_32, u32),
        C::Cvttss2si_r64_xmmm32 => to_general!(i, source32, cvttss2si_64, u64),
        C::Cvttsd2si_r32_xmmm64 => to_general!(i, source64, cvttsd2si_32, u32),
        C::Cvttsd2si_r64_xmmm64 => to_general!(i, source64, cvttsd2si_64, u64),
        C::Cvtsi2ss_xmm_rm32 => from_general!(i, cvtsi2ss_32, u32),
        C::Cvtsi2ss_xmm_rm64 => from_general!(i, cvtsi2ss_64, u64),
        C::Cvtsi2sd_xmm_rm32 => from_general!(i, cvtsi2sd_32, u32),
        C::Cvtsi2sd_xmm_rm64 => from_general!(i, cvtsi2sd_64, u64),
        C::Cvtps2pi_mm_xmmm64 => to_mm!(i, source64, cvtps2dq),
        C::Cvttps2pi_mm_xmmm64 => to_mm!(i, source64, cvttps2dq),
        C::Cvtpd2pi_mm_xmmm128 => to_mm!(i, source, cvtpd2dq),
        C::Cvttpd2pi_mm_xmmm128 => to_mm!(i, source, cvttpd2dq),
        C::Cvtpi2ps_xmm_mmm64 => choose(i, cvtpi2ps::<false>, cvtpi2ps::<true>),
        C::Cvtpi2pd_xmm_mmm64 => choose(i, cvtpi2pd::<false>, cvtpi2pd::<true>),
        _ => None,
    }
}

/// Two integers in an MMX register or memory. With memory the x87 registers are left alone (Intel SDM vol. 2, CVTPI2PD;
/// AMD's processors do so for CVTPI2PS too); tcg does not tell the forms apart.
#[inline(always)]
fn pair<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Result<(u128, bool), Trap> {
    let mmx = !MEMORY || cpu.profile.behaviour == Behaviour::Tcg;
    cpu.sse()?;
    if mmx {
        cpu.mmx()?;
    }
    let value = if MEMORY { cpu.read_mem::<u64>(op)? } else { cpu.mm(op.src) };
    Ok((value.into(), mmx))
}

fn cvtpi2ps<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    let (b, mmx) = pair::<MEMORY>(cpu, op)?;
    let outcome = host::cvtdq2ps(0, b, cpu.fpu.mxcsr);
    if mmx {
        cpu.enter_mmx();
    }
    cpu.take_flags(outcome.raised)?;
    cpu.set_xmm_low(op.dst, outcome.value as u64);
    Ok(())
}

fn cvtpi2pd<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    let (b, mmx) = pair::<MEMORY>(cpu, op)?;
    cpu.set_xmm(op.dst, host::cvtdq2pd(0, b, cpu.fpu.mxcsr).value);
    if mmx {
        cpu.enter_mmx();
    }
    Ok(())
}
