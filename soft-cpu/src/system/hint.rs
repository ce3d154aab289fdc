//! Instructions that do nothing here: fences, hints, cache control.

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use crate::cpu::{Cpu, Done};
use crate::lower::{Choice, Context};
use crate::op::Op;

pub(super) fn lower(i: &Instruction, _: &mut Op, _: &Context) -> Option<Choice> {
    use Mnemonic as M;
    match i.mnemonic() {
        // Only with a memory operand (AMD APM vol. 3, PREFETCH).
        M::Reservednop if i.op0_kind() == OpKind::Register && is_prefetch(i.code()) => None,
        M::Pause
        | M::Lfence
        | M::Mfence
        | M::Sfence
        | M::Nop
        | M::Reservednop
        | M::Prefetch
        | M::Prefetchw
        | M::Prefetchwt1
        | M::Prefetchnta
        | M::Prefetcht0
        | M::Prefetcht1
        | M::Prefetcht2
        | M::Endbr32
        | M::Endbr64
        | M::Rdsspd
        | M::Rdsspq => Choice::on(nothing),
        _ if i.code() == Code::Clflush_m8 => Choice::on(clflush),
        _ => None,
    }
}

/// 0F 0D.
fn is_prefetch(code: Code) -> bool {
    matches!(
        code,
        Code::Reservednop_rm16_r16_0F0D | Code::Reservednop_rm32_r32_0F0D | Code::Reservednop_rm64_r64_0F0D
    )
}

fn nothing(_: &mut Cpu, _: &Op) -> Done {
    Ok(())
}

/// Its address is checked and translated as for a load.
fn clflush(cpu: &mut Cpu, op: &Op) -> Done {
    let linear = cpu.linear(op, 1, false)?;
    cpu.translate(linear, crate::mmu::Access::Read, false).map(|_| ())
}
