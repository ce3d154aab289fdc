//! ADD OR ADC SBB AND SUB XOR CMP TEST INC DEC NEG NOT.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::place::{First, Immediate, Memory, Second, Source, Target};
use super::{by_width, bytes_of};
use crate::cpu::{Cpu, Done};
use crate::flags::{Arithmetic, Flags};
use crate::lower::Choice;
use crate::op::{Handler, Op};
use crate::word::Word;

/// A two-operand operation.
trait Operation {
    /// the carry matters
    const CARRY: bool = false;
    fn value(a: u64, b: u64, carry: u64) -> u64;
    const FLAGS: Arithmetic;
}

macro_rules! operation {
    ($name:ident, $flags:ident, $carry:expr, |$a:ident, $b:ident, $c:ident| $value:expr) => {
        struct $name;
        impl Operation for $name {
            const CARRY: bool = $carry;
            const FLAGS: Arithmetic = Arithmetic::$flags;
            #[inline(always)]
            fn value($a: u64, $b: u64, $c: u64) -> u64 {
                $value
            }
        }
    };
}

operation!(Add, Add, false, |a, b, _c| a.wrapping_add(b));
operation!(Adc, Adc, true, |a, b, c| a.wrapping_add(b).wrapping_add(c));
operation!(Sub, Sub, false, |a, b, _c| a.wrapping_sub(b));
operation!(Sbb, Sbb, true, |a, b, c| a.wrapping_sub(b).wrapping_sub(c));
operation!(And, Logic, false, |a, b, _c| a & b);
operation!(Or, Logic, false, |a, b, _c| a | b);
operation!(Xor, Logic, false, |a, b, _c| a ^ b);

#[inline(always)]
fn carry<O: Operation>(flags: &Flags) -> bool {
    O::CARRY && flags.cf()
}

#[inline(always)]
fn set_flags<O: Operation, W: Word>(flags: &mut Flags, result: W, b: W, carry: bool) {
    flags.set(O::FLAGS, W::WIDTH, result.wide(), b.wide());
    if O::CARRY {
        flags.carry = carry;
    }
}

fn write<W: Word, O: Operation, T: Target, S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let b: W = S::get(cpu, op)?;
    T::change(
        cpu,
        op,
        |cpu, a: W| {
            let carry = carry::<O>(&cpu.flags);
            (W::cut(O::value(a.wide(), b.wide(), carry.into())), carry)
        },
        |cpu, result, carry| set_flags::<O, W>(&mut cpu.flags, result, b, carry),
    )
}

/// CMP and TEST: flags only.
fn compare<W: Word, O: Operation, A: Source, B: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let a: W = A::get(cpu, op)?;
    let b: W = B::get(cpu, op)?;
    let result = W::cut(O::value(a.wide(), b.wide(), 0));
    set_flags::<O, W>(&mut cpu.flags, result, b, false);
    Ok(())
}

fn increment<W: Word, T: Target>(cpu: &mut Cpu, op: &Op) -> Done {
    T::change(
        cpu,
        op,
        |_, a: W| (W::cut(a.wide().wrapping_add(1)), ()),
        |cpu, result, ()| {
            let cf = u64::from(cpu.flags.cf());
            cpu.flags.set(Arithmetic::Inc, W::WIDTH, result.wide(), cf);
        },
    )
}

fn decrement<W: Word, T: Target>(cpu: &mut Cpu, op: &Op) -> Done {
    T::change(
        cpu,
        op,
        |_, a: W| (W::cut(a.wide().wrapping_sub(1)), ()),
        |cpu, result, ()| {
            let cf = u64::from(cpu.flags.cf());
            cpu.flags.set(Arithmetic::Dec, W::WIDTH, result.wide(), cf);
        },
    )
}

fn negate<W: Word, T: Target>(cpu: &mut Cpu, op: &Op) -> Done {
    T::change(
        cpu,
        op,
        |_, a: W| (W::cut(0u64.wrapping_sub(a.wide())), a),
        |cpu, result, a| cpu.flags.set(Arithmetic::Sub, W::WIDTH, result.wide(), a.wide()),
    )
}

fn invert<W: Word, T: Target>(cpu: &mut Cpu, op: &Op) -> Done {
    T::change(cpu, op, |_, a: W| (W::cut(!a.wide()), ()), |_, _, ()| {})
}

/// The form of `write` for the operand kinds.
fn writing<O: Operation>(i: &Instruction) -> Handler {
    let bytes = bytes_of(i, 0);
    match (i.op0_kind(), i.op1_kind()) {
        (OpKind::Register, OpKind::Register) => by_width!(bytes, write, O, First, Second),
        (OpKind::Register, OpKind::Memory) => by_width!(bytes, write, O, First, Memory),
        (OpKind::Register, _) => by_width!(bytes, write, O, First, Immediate),
        (_, OpKind::Register) => by_width!(bytes, write, O, Memory, First),
        _ => by_width!(bytes, write, O, Memory, Immediate),
    }
}

fn comparing<O: Operation>(i: &Instruction) -> Handler {
    let bytes = bytes_of(i, 0);
    match (i.op0_kind(), i.op1_kind()) {
        (OpKind::Register, OpKind::Register) => by_width!(bytes, compare, O, First, Second),
        (OpKind::Register, OpKind::Memory) => by_width!(bytes, compare, O, First, Memory),
        (OpKind::Register, _) => by_width!(bytes, compare, O, First, Immediate),
        (_, OpKind::Register) => by_width!(bytes, compare, O, Memory, First),
        _ => by_width!(bytes, compare, O, Memory, Immediate),
    }
}

pub(super) fn lower(i: &Instruction) -> Option<Choice> {
    let bytes = bytes_of(i, 0);
    let memory = i.op0_kind() == OpKind::Memory;
    Choice::on(match i.mnemonic() {
        Mnemonic::Add => writing::<Add>(i),
        Mnemonic::Or => writing::<Or>(i),
        Mnemonic::Adc => writing::<Adc>(i),
        Mnemonic::Sbb => writing::<Sbb>(i),
        Mnemonic::And => writing::<And>(i),
        Mnemonic::Sub => writing::<Sub>(i),
        Mnemonic::Xor => writing::<Xor>(i),
        Mnemonic::Cmp => comparing::<Sub>(i),
        Mnemonic::Test => comparing::<And>(i),
        Mnemonic::Inc if memory => by_width!(bytes, increment, Memory),
        Mnemonic::Inc => by_width!(bytes, increment, First),
        Mnemonic::Dec if memory => by_width!(bytes, decrement, Memory),
        Mnemonic::Dec => by_width!(bytes, decrement, First),
        Mnemonic::Neg if memory => by_width!(bytes, negate, Memory),
        Mnemonic::Neg => by_width!(bytes, negate, First),
        Mnemonic::Not if memory => by_width!(bytes, invert, Memory),
        Mnemonic::Not => by_width!(bytes, invert, First),
        _ => return None,
    })
}
