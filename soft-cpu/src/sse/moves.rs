//! Moves between XMM registers, MMX registers, general registers and memory.

use iced_x86::{Code, Instruction};

use crate::cpu::{Cpu, Done};
use crate::op::{Handler, Op};

use super::choose;

pub(super) fn lower(i: &Instruction) -> Option<Handler> {
    use Code as C;
    match i.code() {
        C::Movaps_xmm_xmmm128 | C::Movapd_xmm_xmmm128 | C::Movdqa_xmm_xmmm128 | C::Movntdqa_xmm_m128 => {
            choose(i, copy, load_aligned)
        }
        C::Movups_xmm_xmmm128 | C::Movupd_xmm_xmmm128 | C::Movdqu_xmm_xmmm128 | C::Lddqu_xmm_m128 => {
            choose(i, copy, load_unaligned)
        }
        C::Movaps_xmmm128_xmm
        | C::Movapd_xmmm128_xmm
        | C::Movdqa_xmmm128_xmm
        | C::Movntps_m128_xmm
        | C::Movntpd_m128_xmm
        | C::Movntdq_m128_xmm => choose(i, copy, store_aligned),
        C::Movups_xmmm128_xmm | C::Movupd_xmmm128_xmm | C::Movdqu_xmmm128_xmm => {
            choose(i, copy, store_unaligned)
        }
        C::Movss_xmm_xmmm32 => choose(i, merge32, load32),
        C::Movss_xmmm32_xmm => choose(i, merge32, store32),
        C::Movsd_xmm_xmmm64 => choose(i, merge64, load64),
        C::Movsd_xmmm64_xmm => choose(i, merge64, store64),
        C::Movq_xmm_xmmm64 => choose(i, copy64, load64),
        C::Movq_xmmm64_xmm => choose(i, copy64, store64),
        C::Movlps_xmm_m64 | C::Movlpd_xmm_m64 => Some(load_low),
        C::Movhps_xmm_m64 | C::Movhpd_xmm_m64 => Some(load_high),
        C::Movlps_m64_xmm | C::Movlpd_m64_xmm => Some(store64),
        C::Movhps_m64_xmm | C::Movhpd_m64_xmm => Some(store_high),
        C::Movhlps_xmm_xmm => Some(high_to_low),
        C::Movlhps_xmm_xmm => Some(low_to_high),
        C::Movd_xmm_rm32 => choose(i, from_general::<false>, load32),
        C::Movq_xmm_rm64 => choose(i, from_general::<true>, load64),
        C::Movd_rm32_xmm => choose(i, to_general::<false>, store32),
        C::Movq_rm64_xmm => choose(i, to_general::<true>, store64),
        C::Movd_mm_rm32 => choose(i, mm_from_general::<false>, mm_load::<false>),
        C::Movq_mm_rm64 => choose(i, mm_from_general::<true>, mm_load::<true>),
        C::Movd_rm32_mm => choose(i, mm_to_general::<false>, mm_store::<false>),
        C::Movq_rm64_mm => choose(i, mm_to_general::<true>, mm_store::<true>),
        C::Movq_mm_mmm64 => choose(i, mm_copy, mm_load::<true>),
        C::Movq_mmm64_mm => choose(i, mm_copy, mm_store::<true>),
        C::Movntq_m64_mm => Some(mm_store::<true>),
        C::Movq2dq_xmm_mm => Some(mm_to_xmm),
        C::Movdq2q_mm_xmm => Some(xmm_to_mm),
        _ => None,
    }
}

fn copy(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    cpu.set_xmm(op.dst, cpu.xmm(op.src));
    Ok(())
}

fn load_aligned(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    let value = cpu.read_aligned(op)?;
    cpu.set_xmm(op.dst, value);
    Ok(())
}

fn load_unaligned(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    let value = cpu.read_unaligned(op)?;
    cpu.set_xmm(op.dst, value);
    Ok(())
}

fn store_aligned(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    let linear = cpu.linear_aligned(op, true)?;
    cpu.store128(linear, cpu.xmm(op.dst))
}

fn store_unaligned(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    let linear = cpu.linear(op, 16, true)?;
    cpu.store128(linear, cpu.xmm(op.dst))
}

fn merge32(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    cpu.set_xmm_low32(op.dst, cpu.xmm(op.src) as u32);
    Ok(())
}

fn merge64(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    cpu.set_xmm_low(op.dst, cpu.xmm(op.src) as u64);
    Ok(())
}

fn copy64(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    cpu.set_xmm(op.dst, u128::from(cpu.xmm(op.src) as u64));
    Ok(())
}

fn load32(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    let value: u32 = cpu.read_mem(op)?;
    cpu.set_xmm(op.dst, value.into());
    Ok(())
}

fn load64(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    let value: u64 = cpu.read_mem(op)?;
    cpu.set_xmm(op.dst, value.into());
    Ok(())
}

fn store32(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    cpu.write_mem(op, cpu.xmm(op.dst) as u32)
}

fn store64(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    cpu.write_mem(op, cpu.xmm(op.dst) as u64)
}

fn load_low(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    let value: u64 = cpu.read_mem(op)?;
    cpu.set_xmm_low(op.dst, value);
    Ok(())
}

fn load_high(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    let value: u64 = cpu.read_mem(op)?;
    set_high(cpu, op.dst, value);
    Ok(())
}

fn store_high(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    cpu.write_mem(op, (cpu.xmm(op.dst) >> 64) as u64)
}

fn high_to_low(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    cpu.set_xmm_low(op.dst, (cpu.xmm(op.src) >> 64) as u64);
    Ok(())
}

fn low_to_high(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    set_high(cpu, op.dst, cpu.xmm(op.src) as u64);
    Ok(())
}

fn set_high(cpu: &mut Cpu, number: u8, value: u64) {
    let low = cpu.xmm(number) as u64;
    cpu.set_xmm(number, u128::from(value) << 64 | u128::from(low));
}

fn from_general<const QUAD: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    let value = cpu.reg::<u64>(op.src);
    cpu.set_xmm(op.dst, if QUAD { value.into() } else { u128::from(value as u32) });
    Ok(())
}

fn to_general<const QUAD: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    let value = cpu.xmm(op.src) as u64;
    cpu.set_reg(op.dst, if QUAD { value } else { u64::from(value as u32) });
    Ok(())
}

fn mm_from_general<const QUAD: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.mmx()?;
    let value = cpu.reg::<u64>(op.src);
    cpu.set_mm(op.dst, if QUAD { value } else { u64::from(value as u32) });
    Ok(())
}

fn mm_to_general<const QUAD: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.mmx()?;
    let value = cpu.mm(op.src);
    cpu.set_reg(op.dst, if QUAD { value } else { u64::from(value as u32) });
    cpu.enter_mmx();
    Ok(())
}

fn mm_load<const QUAD: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.mmx()?;
    let value = if QUAD { cpu.read_mem(op)? } else { u64::from(cpu.read_mem::<u32>(op)?) };
    cpu.set_mm(op.dst, value);
    Ok(())
}

fn mm_store<const QUAD: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.mmx()?;
    let value = cpu.mm(op.dst);
    if QUAD {
        cpu.write_mem(op, value)?;
    } else {
        cpu.write_mem(op, value as u32)?;
    }
    cpu.enter_mmx();
    Ok(())
}

fn mm_copy(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.mmx()?;
    cpu.set_mm(op.dst, cpu.mm(op.src));
    Ok(())
}

fn mm_to_xmm(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse_with_mmx()?;
    cpu.set_xmm(op.dst, cpu.mm(op.src).into());
    cpu.enter_mmx();
    Ok(())
}

fn xmm_to_mm(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse_with_mmx()?;
    cpu.set_mm(op.dst, cpu.xmm(op.src) as u64);
    Ok(())
}
