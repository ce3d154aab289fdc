//! What some instructions need around them: targets for branches, and masks for what processors store differently.

use super::generate::Builder;
use super::rng::Rng;
use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

/// An instruction with the same memory operand, `offset` bytes on, and a constant.
fn same_memory(from: &Instruction, code: Code, offset: u64, value: u32) -> Option<Instruction> {
    let mut instruction = Instruction::default();
    instruction.set_code(code);
    instruction.set_op0_kind(OpKind::Memory);
    instruction.set_segment_prefix(from.segment_prefix());
    instruction.set_memory_base(from.memory_base());
    instruction.set_memory_index(from.memory_index());
    instruction.set_memory_index_scale(from.memory_index_scale());
    let any = if from.memory_base() == Register::None { from.memory_index() } else { from.memory_base() };
    let (size, mask) = match any {
        Register::None => (from.memory_displ_size(), u64::MAX),
        any if any.is_gpr16() => (2, 0xffff),
        any if any.is_gpr32() => (4, 0xffff_ffff),
        Register::EIP => (4, 0xffff_ffff),
        Register::RIP => (4, u64::MAX),
        _ => (8, u64::MAX),
    };
    instruction.set_memory_displ_size(size);
    instruction.set_memory_displacement64(from.memory_displacement64().wrapping_add(offset) & mask);
    match code {
        Code::Mov_rm16_imm16 => {
            instruction.set_op1_kind(OpKind::Immediate16);
            instruction.set_immediate16(value as u16);
        }
        Code::Mov_rm64_imm32 => {
            instruction.set_op1_kind(OpKind::Immediate32to64);
            instruction.set_immediate32to64(i64::from(value as i32));
        }
        _ => {
            instruction.set_op1_kind(OpKind::Immediate32);
            instruction.set_immediate32(value);
        }
    }
    Some(instruction)
}

/// What goes in front of an instruction.
///
/// MXCSR bit 17 (misaligned SSE) exists on AMD only and not in the profile: it is cleared in what is loaded, and mostly all
/// reserved bits are, so that the load has a chance.
pub(super) fn before(rng: &mut Rng, instruction: &Instruction) -> Vec<Instruction> {
    let offset = match instruction.mnemonic() {
        Mnemonic::Ldmxcsr => 0,
        Mnemonic::Fxrstor | Mnemonic::Fxrstor64 => 24,
        _ => return Vec::new(),
    };
    let mask = if rng.chance(85) { 0xffff } else { 0xfffd_ffff };
    same_memory(instruction, Code::And_rm32_imm32, offset, mask).into_iter().collect()
}

/// What goes behind an instruction: zeros over the FIP, FDP and FOP that it stored, and over MXCSR_MASK.
pub(super) fn after(instruction: &Instruction) -> Vec<Instruction> {
    let (code, offsets): (Code, &[u64]) = match instruction.code() {
        Code::Fnstenv_m14byte | Code::Fstenv_m14byte | Code::Fnsave_m94byte | Code::Fsave_m94byte => {
            (Code::Mov_rm16_imm16, &[6, 8, 10, 12])
        }
        Code::Fnstenv_m28byte | Code::Fstenv_m28byte | Code::Fnsave_m108byte | Code::Fsave_m108byte => {
            (Code::Mov_rm32_imm32, &[12, 16, 20, 24])
        }
        Code::Fxsave_m512byte | Code::Fxsave64_m512byte => (Code::Mov_rm32_imm32, &[8, 12, 16, 20, 28]),
        _ => return Vec::new(),
    };
    let mut list: Vec<_> = offsets.iter().filter_map(|at| same_memory(instruction, code, *at, 0)).collect();
    if matches!(instruction.code(), Code::Fxsave_m512byte | Code::Fxsave64_m512byte) {
        list.extend(same_memory(instruction, Code::Mov_rm16_imm16, 6, 0));
    }
    list
}

/// One short instruction to jump over.
fn filler(rng: &mut Rng) -> Option<Instruction> {
    let register = Register::EAX + rng.below(8) as u32;
    match rng.below(4) {
        0 => Instruction::with2(Code::Mov_r32_imm32, register, rng.bits() as u32).ok(),
        1 => Instruction::with1(Code::Not_rm32, register).ok(),
        2 => Some(Instruction::with(Code::Cld)),
        _ => Instruction::with2(Code::Cmp_rm32_r32, register, Register::EDX).ok(),
    }
}

/// A near branch over one instruction.
pub(super) fn branch(
    b: &mut Builder<'_>,
    instruction: &mut Instruction,
    near: bool,
    form: usize,
    group: usize,
) {
    let Some(filler) = filler(&mut b.rng) else { return };
    let Some(skipped) = b.encode(&filler) else { return };
    b.settle_flags(instruction, group);
    if near {
        let Some(own) = b.encode(instruction) else { return };
        let target = b.ip + own.len() as u64 + skipped.len() as u64;
        match instruction.op0_kind() {
            OpKind::NearBranch16 => instruction.set_near_branch16(target as u16),
            OpKind::NearBranch32 => instruction.set_near_branch32(target as u32),
            _ => instruction.set_near_branch64(target),
        }
    } else if b.rng.chance(92) {
        // where the target comes from: its length does not depend on it
        let Some(own) = b.encode(instruction) else { return };
        let Some(length) = target_source(instruction, b.bitness, 0x8000).and_then(|i| b.encode(&i)) else {
            return;
        };
        let target = b.ip + (length.len() + own.len() + skipped.len()) as u64;
        let source = target_source(instruction, b.bitness, target as u32);
        b.helper(source, group);
    }
    if b.push(instruction, Some(form), group) {
        let before = b.undefined;
        if let Some(piece) = b.case.pieces.last_mut() {
            piece.skips = true;
        }
        b.helper(Some(filler), group);
        b.undefined |= before;
    }
}

/// The instruction that puts a target where an indirect branch looks for it.
fn target_source(branch: &Instruction, bitness: u32, target: u32) -> Option<Instruction> {
    if branch.mnemonic() == Mnemonic::Ret {
        let code = match branch.code() {
            Code::Retnw | Code::Retnw_imm16 => Code::Push_imm16,
            _ if bitness == 64 => Code::Pushq_imm32,
            _ => Code::Pushd_imm32,
        };
        return match code {
            // a word with the sign bit set does not fit the signed form
            Code::Push_imm16 => {
                let mut push = Instruction::default();
                push.set_code(code);
                push.set_op0_kind(OpKind::Immediate16);
                push.set_immediate16(target as u16);
                Some(push)
            }
            _ => Instruction::with1(code, target as i32).ok(),
        };
    }
    if branch.op0_kind() == OpKind::Register {
        let register = branch.op0_register();
        return match register {
            r if r.is_gpr16() => {
                let mut mov = Instruction::default();
                mov.set_code(Code::Mov_r16_imm16);
                mov.set_op0_kind(OpKind::Register);
                mov.set_op0_register(r);
                mov.set_op1_kind(OpKind::Immediate16);
                mov.set_immediate16(target as u16);
                Some(mov)
            }
            r => Instruction::with2(Code::Mov_r32_imm32, r.full_register32(), target).ok(),
        };
    }
    let code = match branch.memory_size().size() {
        2 => Code::Mov_rm16_imm16,
        4 => Code::Mov_rm32_imm32,
        _ => Code::Mov_rm64_imm32,
    };
    same_memory(branch, code, 0, target)
}
