//! Near transfers: JMP, Jcc, JCXZ, LOOP, CALL, RET; BOUND.

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use super::bytes_of;
use super::mov::{by_condition, condition};
use super::place::{First, Memory, Source};
use crate::cpu::{BLOCK_RIP, CS, Cpu, Done, RCX, vector};
use crate::lower::{Choice, Context};
use crate::mmu::is_canonical;
use crate::op::{Handler, Op, truncate};
use crate::word::Word;

impl Cpu {
    /// Goes to `target`, which must lie in the code segment.
    #[inline(always)]
    pub(crate) fn jump(&mut self, target: u64) -> Done {
        self.check_target(target)?;
        self.rip = target;
        Ok(())
    }

    /// #GP(0) unless code can be at `target`.
    #[inline(always)]
    pub(crate) fn check_target(&mut self, target: u64) -> Done {
        let inside = if self.mode.bitness == 64 {
            is_canonical(target)
        } else {
            target <= u64::from(self.segs[CS].limit)
        };
        if inside { Ok(()) } else { Err(self.general_protection()) }
    }
}

/// The target of a relative branch.
#[inline(always)]
fn relative(cpu: &Cpu, op: &Op) -> u64 {
    let target = cpu.regs[usize::from(BLOCK_RIP)].wrapping_add(op.imm);
    truncate(target, op.size)
}

fn jump_relative(cpu: &mut Cpu, op: &Op) -> Done {
    let target = relative(cpu, op);
    cpu.jump(target)
}

fn jump_if<const CC: u8>(cpu: &mut Cpu, op: &Op) -> Done {
    if cpu.flags.condition(CC) {
        let target = relative(cpu, op);
        return cpu.jump(target);
    }
    cpu.rip = op.next_rip(cpu);
    Ok(())
}

fn jump_to<W: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let target = S::get::<W>(cpu, op)?.wide();
    cpu.jump(target)
}

/// rCX by the address size.
fn counter(cpu: &Cpu, op: &Op) -> u64 {
    truncate(cpu.reg(RCX), op.address)
}

fn jump_if_zero(cpu: &mut Cpu, op: &Op) -> Done {
    let taken = counter(cpu, op) == 0;
    branch(cpu, op, taken)
}

fn branch(cpu: &mut Cpu, op: &Op, taken: bool) -> Done {
    let target = if taken { relative(cpu, op) } else { op.next_rip(cpu) };
    cpu.jump(target)
}

/// LOOP (`op.extra` 0), LOOPE (1), LOOPNE (2).
fn count_down(cpu: &mut Cpu, op: &Op) -> Done {
    let left = truncate(counter(cpu, op).wrapping_sub(1), op.address);
    let taken = left != 0
        && match op.extra {
            0 => true,
            1 => cpu.flags.zf(),
            _ => !cpu.flags.zf(),
        };
    branch(cpu, op, taken)?;
    match op.address {
        16 => cpu.set_reg(RCX, left as u16),
        32 => cpu.set_reg(RCX, left as u32),
        _ => cpu.set_reg(RCX, left),
    }
    Ok(())
}

fn call<W: Word>(cpu: &mut Cpu, op: &Op, target: u64) -> Done {
    let back = op.next_rip(cpu);
    if cpu.check_target(target).is_err() {
        // A fault of the push comes first.
        cpu.check_push(W::BYTES)?;
        return Err(cpu.general_protection());
    }
    cpu.push(W::cut(back))?;
    cpu.rip = target;
    Ok(())
}

fn call_relative<W: Word>(cpu: &mut Cpu, op: &Op) -> Done {
    let target = relative(cpu, op);
    call::<W>(cpu, op, target)
}

fn call_to<W: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let target = S::get::<W>(cpu, op)?.wide();
    call::<W>(cpu, op, target)
}

/// RET, with `op.imm` bytes of arguments to drop.
fn give_back<W: Word>(cpu: &mut Cpu, op: &Op) -> Done {
    let target = cpu.top::<W>()?.wide();
    cpu.jump(target)?;
    cpu.drop_stack(W::BYTES.wrapping_add(op.imm & 0xffff));
    Ok(())
}

/// BOUND (Intel SDM vol. 2): the index must lie between the two words in memory.
fn bound<W: Word>(cpu: &mut Cpu, op: &Op) -> Done {
    let at = cpu.linear(op, 2 * W::BYTES, false)?;
    let low: W = cpu.load(at)?;
    let high: W = cpu.load(truncate(at.wrapping_add(W::BYTES), 32))?;
    let index: W = cpu.reg(op.dst);
    if index.signed() < low.signed() || index.signed() > high.signed() {
        return Err(cpu.raise(vector::BR));
    }
    Ok(())
}

macro_rules! by_size {
    ($size:expr, $f:ident $(, $t:ty)*) => {
        match $size {
            16 => $f::<u16 $(, $t)*> as Handler,
            32 => $f::<u32 $(, $t)*>,
            _ => $f::<u64 $(, $t)*>,
        }
    };
}

/// Operand bits of a near transfer.
fn size_of_branch(i: &Instruction, c: &Context) -> u8 {
    match (i.code(), i.op0_kind()) {
        (Code::Retnw | Code::Retnw_imm16, _) => 16,
        (Code::Retnd | Code::Retnd_imm16, _) => 32,
        (Code::Retnq | Code::Retnq_imm16, _) => 64,
        (_, OpKind::NearBranch16) => 16,
        (_, OpKind::NearBranch32) => 32,
        (_, OpKind::NearBranch64) => 64,
        (_, OpKind::Register | OpKind::Memory) => (bytes_of(i, 0) * 8) as u8,
        _ => c.mode.bitness,
    }
}

/// The address size of a loop's counter, which only the code tells.
fn counter_bits(i: &Instruction) -> u8 {
    use Code as C;
    match i.code() {
        C::Jcxz_rel8_16
        | C::Jcxz_rel8_32
        | C::Loop_rel8_16_CX
        | C::Loop_rel8_32_CX
        | C::Loope_rel8_16_CX
        | C::Loope_rel8_32_CX
        | C::Loopne_rel8_16_CX
        | C::Loopne_rel8_32_CX => 16,
        C::Jrcxz_rel8_16
        | C::Jrcxz_rel8_64
        | C::Loop_rel8_16_RCX
        | C::Loop_rel8_64_RCX
        | C::Loope_rel8_16_RCX
        | C::Loope_rel8_64_RCX
        | C::Loopne_rel8_16_RCX
        | C::Loopne_rel8_64_RCX => 64,
        _ => 32,
    }
}

pub(super) fn lower(i: &Instruction, op: &mut Op, c: &Context) -> Option<Choice> {
    use Mnemonic as M;
    let memory = i.op0_kind() == OpKind::Memory;
    let near = matches!(i.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64);
    op.size = size_of_branch(i, c);
    match i.mnemonic() {
        M::Jmp if near => Choice::jump(jump_relative),
        M::Jmp if i.is_jmp_near_indirect() && memory => Choice::jump(by_size!(op.size, jump_to, Memory)),
        M::Jmp if i.is_jmp_near_indirect() => Choice::jump(by_size!(op.size, jump_to, First)),
        M::Call if near => Choice::jump(by_size!(op.size, call_relative)),
        M::Call if i.is_call_near_indirect() && memory => Choice::jump(by_size!(op.size, call_to, Memory)),
        M::Call if i.is_call_near_indirect() => Choice::jump(by_size!(op.size, call_to, First)),
        M::Ret => Choice::jump(by_size!(op.size, give_back)),
        M::Jcxz | M::Jecxz | M::Jrcxz => {
            op.address = counter_bits(i);
            Choice::branch(jump_if_zero)
        }
        M::Loop | M::Loope | M::Loopne => {
            op.address = counter_bits(i);
            op.extra = match i.mnemonic() {
                M::Loop => 0,
                M::Loope => 1,
                _ => 2,
            };
            Choice::branch(count_down)
        }
        M::Bound if bytes_of(i, 0) == 2 => Choice::on(bound::<u16>),
        M::Bound => Choice::on(bound::<u32>),
        _ if i.is_jcc_short_or_near() => {
            let cc = condition(i)?;
            Choice::branch(by_condition!(cc, |CC| jump_if::<CC>))
        }
        _ => None,
    }
}
