//! Packed shifts. A count beyond the lane's width clears the lane, or fills it with its sign.

use iced_x86::{Instruction, Mnemonic, OpKind};

use crate::cpu::{Cpu, Done};
use crate::op::{Handler, Op};

use super::operand::{MM, XMM, XMM_MEMORY};

/// The same shift of each lane: of `$bits` bits as `$lane`; `$f` gets a lane and a count below `$bits`, `$beyond` the
/// lane if the count is larger.
macro_rules! shift {
    ($i:expr, $lane:ty, $f:expr, $beyond:expr) => {{
        fn each(value: u128, count: u64) -> u128 {
            const BITS: u32 = <$lane>::BITS;
            let (f, beyond) = ($f, $beyond);
            let shifted = |lane: $lane| {
                if count < BITS.into() { f(lane, count as u32) } else { beyond(lane) }
            };
            (0..128 / BITS)
                .fold(0, |sum, n| sum | u128::from(shifted((value >> (n * BITS)) as $lane)) << (n * BITS))
        }
        fn run<const FORM: u8>(cpu: &mut Cpu, op: &Op) -> Done {
            by_operand::<FORM>(cpu, op, each)
        }
        fn run_immediate<const MMX: bool>(cpu: &mut Cpu, op: &Op) -> Done {
            by_immediate::<MMX>(cpu, op, each)
        }
        let forms = [run::<0>, run::<1>, run::<2>, run::<3>];
        if $i.op1_kind() == OpKind::Immediate8 {
            Some(if $i.op0_register().is_mm() { run_immediate::<true> } else { run_immediate::<false> })
        } else {
            super::lanes::by_form($i, forms)
        }
    }};
}

pub(super) fn lower(i: &Instruction) -> Option<Handler> {
    use Mnemonic as M;
    match i.mnemonic() {
        M::Psllw => shift!(i, u16, |lane: u16, n: u32| lane << n, |_: u16| 0),
        M::Pslld => shift!(i, u32, |lane: u32, n: u32| lane << n, |_: u32| 0),
        M::Psllq => shift!(i, u64, |lane: u64, n: u32| lane << n, |_: u64| 0),
        M::Psrlw => shift!(i, u16, |lane: u16, n: u32| lane >> n, |_: u16| 0),
        M::Psrld => shift!(i, u32, |lane: u32, n: u32| lane >> n, |_: u32| 0),
        M::Psrlq => shift!(i, u64, |lane: u64, n: u32| lane >> n, |_: u64| 0),
        M::Psraw => shift!(i, u16, arithmetic16, |lane: u16| arithmetic16(lane, 15)),
        M::Psrad => shift!(i, u32, arithmetic32, |lane: u32| arithmetic32(lane, 31)),
        M::Pslldq => Some(left_bytes),
        M::Psrldq => Some(right_bytes),
        _ => None,
    }
}

fn arithmetic16(lane: u16, count: u32) -> u16 {
    (lane.cast_signed() >> count).cast_unsigned()
}

fn arithmetic32(lane: u32, count: u32) -> u32 {
    (lane.cast_signed() >> count).cast_unsigned()
}

#[inline(always)]
fn by_operand<const FORM: u8>(cpu: &mut Cpu, op: &Op, f: impl Fn(u128, u64) -> u128) -> Done {
    if FORM == XMM || FORM == XMM_MEMORY {
        cpu.sse()?;
        // The count is the low quadword; memory is read whole.
        let count = if FORM == XMM { cpu.xmm(op.src) } else { cpu.read_aligned(op)? } as u64;
        cpu.set_xmm(op.dst, f(cpu.xmm(op.dst), count));
    } else {
        cpu.mmx()?;
        let count = if FORM == MM { cpu.mm(op.src) } else { cpu.read_mem(op)? };
        cpu.set_mm(op.dst, f(cpu.mm(op.dst).into(), count) as u64);
    }
    Ok(())
}

#[inline(always)]
fn by_immediate<const MMX: bool>(cpu: &mut Cpu, op: &Op, f: impl Fn(u128, u64) -> u128) -> Done {
    let count = op.imm & 0xff;
    if MMX {
        cpu.mmx()?;
        cpu.set_mm(op.dst, f(cpu.mm(op.dst).into(), count) as u64);
    } else {
        cpu.sse()?;
        cpu.set_xmm(op.dst, f(cpu.xmm(op.dst), count));
    }
    Ok(())
}

fn left_bytes(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    let bits = 8 * (op.imm & 0xff) as u32;
    cpu.set_xmm(op.dst, cpu.xmm(op.dst).checked_shl(bits).unwrap_or(0));
    Ok(())
}

fn right_bytes(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    let bits = 8 * (op.imm & 0xff) as u32;
    cpu.set_xmm(op.dst, cpu.xmm(op.dst).checked_shr(bits).unwrap_or(0));
    Ok(())
}
