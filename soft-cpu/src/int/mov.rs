//! MOV, MOVZX, MOVSX, LEA, CMOVcc, SETcc, BSWAP, XLAT, sign extensions, single flags.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

use super::place::{First, Immediate, Memory, Second, Source};
use super::{by_width, bytes_of};
use crate::cpu::{BLOCK_RIP, Cpu, Done, RAX, RBX, RDX, ZERO};
use crate::flags::{AF, CF, DF, PF, SF, ZF};
use crate::lower::Choice;
use crate::op::{Handler, Op, truncate};
use crate::word::Word;

fn to_register<W: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let value: W = S::get(cpu, op)?;
    cpu.set_reg(op.dst, value);
    Ok(())
}

fn to_memory<W: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let value: W = S::get(cpu, op)?;
    cpu.write_mem(op, value)
}

/// MOVZX from `F` to `W`; MOV r32, r/m32 by MOVSXD without REX.W too.
fn zero_extend<W: Word, F: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let value: F = S::get(cpu, op)?;
    cpu.set_reg(op.dst, W::cut(value.wide()));
    Ok(())
}

fn sign_extend<W: Word, F: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let value: F = S::get(cpu, op)?;
    cpu.set_reg(op.dst, W::cut(value.signed().cast_unsigned()));
    Ok(())
}

fn address<W: Word>(cpu: &mut Cpu, op: &Op) -> Done {
    let offset = op.offset(cpu);
    cpu.set_reg(op.dst, W::cut(offset));
    Ok(())
}

fn conditional_move<W: Word, S: Source, const CC: u8>(cpu: &mut Cpu, op: &Op) -> Done {
    // The operand is read, and may fault, whatever the condition; the upper half is cleared likewise.
    let value: W = S::get(cpu, op)?;
    let kept = cpu.reg(op.dst);
    let value = if cpu.flags.condition(CC) { value } else { kept };
    cpu.set_reg(op.dst, value);
    Ok(())
}

fn set_register<const CC: u8>(cpu: &mut Cpu, op: &Op) -> Done {
    let holds = cpu.flags.condition(CC);
    cpu.set_reg(op.dst, u8::from(holds));
    Ok(())
}

fn set_memory<const CC: u8>(cpu: &mut Cpu, op: &Op) -> Done {
    let holds = cpu.flags.condition(CC);
    cpu.write_mem(op, u8::from(holds))
}

fn swap_bytes<W: Word>(cpu: &mut Cpu, op: &Op) -> Done {
    let value: W = cpu.reg(op.dst);
    // With a 16-bit operand the result is open; processors give 0.
    let swapped = if W::BYTES == 2 { 0 } else { value.wide().swap_bytes() >> (64 - W::BITS) };
    cpu.set_reg(op.dst, W::cut(swapped));
    Ok(())
}

fn translate_byte(cpu: &mut Cpu, op: &Op) -> Done {
    let index = cpu.reg::<u8>(RAX).wide();
    let offset = truncate(cpu.reg::<u64>(RBX).wrapping_add(index), op.address);
    let at = if op.flat { offset } else { cpu.linear_in(op.seg.into(), offset, 1, false)? };
    let value: u8 = cpu.load(at)?;
    cpu.set_reg(RAX, value);
    Ok(())
}

/// CBW, CWDE, CDQE: the lower half of the accumulator into all of `W`.
fn extend_accumulator<W: Word, H: Word>(cpu: &mut Cpu, _: &Op) -> Done {
    let value: H = cpu.reg(RAX);
    cpu.set_reg(RAX, W::cut(value.signed().cast_unsigned()));
    Ok(())
}

/// CWD, CDQ, CQO: the accumulator's sign into all of rDX.
fn spread_sign<W: Word>(cpu: &mut Cpu, _: &Op) -> Done {
    let value: W = cpu.reg(RAX);
    cpu.set_reg(RDX, W::cut((value.signed() >> 63).cast_unsigned()));
    Ok(())
}

fn load_ah(cpu: &mut Cpu, _: &Op) -> Done {
    let flags = cpu.flags.value() as u8;
    cpu.set_reg(crate::cpu::HIGH, flags);
    Ok(())
}

fn store_ah(cpu: &mut Cpu, _: &Op) -> Done {
    let value: u8 = cpu.reg(crate::cpu::HIGH);
    cpu.flags.change(SF | ZF | AF | PF | CF, value.into());
    Ok(())
}

fn clear_carry(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.flags.change(CF, 0);
    Ok(())
}

fn set_carry(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.flags.change(CF, CF);
    Ok(())
}

fn complement_carry(cpu: &mut Cpu, _: &Op) -> Done {
    let cf = cpu.flags.cf();
    cpu.flags.change(CF, if cf { 0 } else { CF });
    Ok(())
}

fn clear_direction(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.flags.system &= !DF;
    Ok(())
}

fn set_direction(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.flags.system |= DF;
    Ok(())
}

fn nothing(_: &mut Cpu, _: &Op) -> Done {
    Ok(())
}

/// The instance of a handler with a condition.
macro_rules! by_condition {
    ($cc:expr, |$c:ident| $f:expr) => {{
        macro_rules! case {
            ($n:literal) => {{
                const $c: u8 = $n;
                $f as Handler
            }};
        }
        match $cc {
            0 => case!(0),
            1 => case!(1),
            2 => case!(2),
            3 => case!(3),
            4 => case!(4),
            5 => case!(5),
            6 => case!(6),
            7 => case!(7),
            8 => case!(8),
            9 => case!(9),
            10 => case!(10),
            11 => case!(11),
            12 => case!(12),
            13 => case!(13),
            14 => case!(14),
            _ => case!(15),
        }
    }};
}
pub(super) use by_condition;

/// The condition's number in the encoding, from iced's 1 to 16.
pub(super) fn condition(i: &Instruction) -> Option<u8> {
    (i.condition_code() as u8).checked_sub(1)
}

fn conditional(i: &Instruction) -> Option<Choice> {
    use Mnemonic as M;
    let cc = condition(i)?;
    let memory = |n| i.op_kind(n) == OpKind::Memory;
    match i.mnemonic() {
        M::Seta
        | M::Setae
        | M::Setb
        | M::Setbe
        | M::Sete
        | M::Setg
        | M::Setge
        | M::Setl
        | M::Setle
        | M::Setne
        | M::Setno
        | M::Setnp
        | M::Setns
        | M::Seto
        | M::Setp
        | M::Sets => Choice::on(if memory(0) {
            by_condition!(cc, |CC| set_memory::<CC>)
        } else {
            by_condition!(cc, |CC| set_register::<CC>)
        }),
        M::Cmova
        | M::Cmovae
        | M::Cmovb
        | M::Cmovbe
        | M::Cmove
        | M::Cmovg
        | M::Cmovge
        | M::Cmovl
        | M::Cmovle
        | M::Cmovne
        | M::Cmovno
        | M::Cmovnp
        | M::Cmovns
        | M::Cmovo
        | M::Cmovp
        | M::Cmovs => Choice::on(match (bytes_of(i, 0), memory(1)) {
            (2, true) => by_condition!(cc, |CC| conditional_move::<u16, Memory, CC>),
            (2, false) => by_condition!(cc, |CC| conditional_move::<u16, Second, CC>),
            (4, true) => by_condition!(cc, |CC| conditional_move::<u32, Memory, CC>),
            (4, false) => by_condition!(cc, |CC| conditional_move::<u32, Second, CC>),
            (_, true) => by_condition!(cc, |CC| conditional_move::<u64, Memory, CC>),
            (_, false) => by_condition!(cc, |CC| conditional_move::<u64, Second, CC>),
        }),
        _ => None,
    }
}

/// MOV between general registers, memory and immediates; those of segment, control and debug registers are elsewhere.
fn plain_mov(i: &Instruction) -> Option<Choice> {
    let special = |r: Register| r.is_segment_register() || r.is_cr() || r.is_dr() || r.is_tr();
    if special(i.op0_register()) || special(i.op1_register()) {
        return None;
    }
    let bytes = bytes_of(i, 0);
    Choice::on(match (i.op0_kind(), i.op1_kind()) {
        (OpKind::Register, OpKind::Register) => by_width!(bytes, to_register, Second),
        (OpKind::Register, OpKind::Memory) => by_width!(bytes, to_register, Memory),
        (OpKind::Register, _) => by_width!(bytes, to_register, Immediate),
        (_, OpKind::Register) => by_width!(bytes, to_memory, First),
        _ => by_width!(bytes, to_memory, Immediate),
    })
}

fn extension(i: &Instruction) -> Option<Choice> {
    let memory = i.op1_kind() == OpKind::Memory;
    let (to, mut from) = (bytes_of(i, 0), bytes_of(i, 1));
    if i.mnemonic() == Mnemonic::Movsxd {
        from = 4; // with a 16-bit operand too, as AMD's processors have it
    }
    let zero = i.mnemonic() == Mnemonic::Movzx;
    macro_rules! form {
        ($w:ty, $f:ty) => {
            match (zero, memory) {
                (true, true) => zero_extend::<$w, $f, Memory> as Handler,
                (true, false) => zero_extend::<$w, $f, Second>,
                (false, true) => sign_extend::<$w, $f, Memory>,
                (false, false) => sign_extend::<$w, $f, Second>,
            }
        };
    }
    Choice::on(match (to, from) {
        (2, 1) => form!(u16, u8),
        (4, 1) => form!(u32, u8),
        (8, 1) => form!(u64, u8),
        (2, 2) => form!(u16, u16),
        (4, 2) => form!(u32, u16),
        (8, 2) => form!(u64, u16),
        (2, 4) => form!(u16, u32),
        (4, 4) => form!(u32, u32),
        _ => form!(u64, u32),
    })
}

pub(super) fn lower(i: &Instruction, op: &mut Op) -> Option<Choice> {
    use Mnemonic as M;
    Choice::on(match i.mnemonic() {
        M::Mov => return plain_mov(i),
        M::Movzx | M::Movsx | M::Movsxd => return extension(i),
        M::Lea => {
            // In 64-bit code a RIP-relative base is cut to the address size, whatever the segment.
            op.flat &= op.base != BLOCK_RIP || op.index == ZERO;
            by_width!(bytes_of(i, 0), address)
        }
        M::Bswap => by_width!(bytes_of(i, 0), swap_bytes),
        M::Xlatb => {
            op.address = (i.memory_base().size() * 8) as u8;
            op.flat = op.address == 64 && op.seg < 4;
            translate_byte
        }
        M::Cbw => extend_accumulator::<u16, u8>,
        M::Cwde => extend_accumulator::<u32, u16>,
        M::Cdqe => extend_accumulator::<u64, u32>,
        M::Cwd => spread_sign::<u16>,
        M::Cdq => spread_sign::<u32>,
        M::Cqo => spread_sign::<u64>,
        M::Lahf => load_ah,
        M::Sahf => store_ah,
        M::Clc => clear_carry,
        M::Stc => set_carry,
        M::Cmc => complement_carry,
        M::Cld => clear_direction,
        M::Std => set_direction,
        M::Nop if i.code() != Code::Nop_rm16 => nothing,
        _ => return conditional(i),
    })
}
