//! Decimal adjustments, which 64-bit code does not have: DAA DAS AAA AAS AAM AAD, and SALC.
//!
//! The flags that the manuals leave open are with Zen those of the addition or subtraction that is inside: 8 bits in DAA,
//! DAS and AAD, 16 bits (AX before its upper digit is cut) in AAA and AAS.

use iced_x86::{Instruction, Mnemonic};

use crate::Behaviour;
use crate::cpu::{Cpu, Done, HIGH, RAX, vector};
use crate::flags::{AF, Arithmetic, CF};
use crate::lower::Choice;
use crate::op::Op;

/// Flags of the operation inside (`sum`: its kind, width, result and second operand), or SF, ZF, PF of AL with OF 0; CF
/// and AF are given.
fn settle(cpu: &mut Cpu, al: u8, sum: (Arithmetic, u8, u64, u64), carry: bool, adjust: bool) {
    let (kind, width, result, second) = match cpu.profile.behaviour {
        Behaviour::Zen => sum,
        Behaviour::Tcg => (Arithmetic::Logic, 0, al.into(), 0),
    };
    cpu.flags.set(kind, width, result, second);
    let bits = if carry { CF } else { 0 } | if adjust { AF } else { 0 };
    cpu.flags.change(CF | AF, bits);
}

/// Intel SDM vol. 2, DAA and DAS.
fn decimal(cpu: &mut Cpu, change: fn(u8, u8) -> u8, subtract: bool) {
    let old: u8 = cpu.reg(RAX);
    let old_carry = cpu.flags.cf();
    let mut al = old;
    let (mut carry, mut adjust) = (false, false);
    if old & 0xf > 9 || cpu.flags.af() {
        al = change(al, 6);
        carry = old_carry || if subtract { old < 6 } else { old > 0xff - 6 };
        adjust = true;
    }
    if old > 0x99 || old_carry {
        al = change(al, 0x60);
        carry = true;
    } else if !subtract {
        carry = false;
    }
    cpu.set_reg(RAX, al);
    let (kind, difference) = if subtract {
        (Arithmetic::Sub, old.wrapping_sub(al))
    } else {
        (Arithmetic::Add, al.wrapping_sub(old))
    };
    settle(cpu, al, (kind, 0, al.into(), difference.into()), carry, adjust);
}

fn adjust_after_addition(cpu: &mut Cpu, _: &Op) -> Done {
    decimal(cpu, u8::wrapping_add, false);
    Ok(())
}

fn adjust_after_subtraction(cpu: &mut Cpu, _: &Op) -> Done {
    decimal(cpu, u8::wrapping_sub, true);
    Ok(())
}

/// AAA and AAS.
fn unpacked(cpu: &mut Cpu, kind: Arithmetic, change: fn(u16, u16) -> u16) {
    let ax: u16 = cpu.reg(RAX);
    let adjust = ax & 0xf > 9 || cpu.flags.af();
    let second = if adjust { 0x106 } else { 0 };
    let sum = change(ax, second);
    let ax = sum & 0xff0f;
    cpu.set_reg(RAX, ax);
    settle(cpu, ax as u8, (kind, 1, sum.into(), second.into()), adjust, adjust);
}

fn ascii_after_addition(cpu: &mut Cpu, _: &Op) -> Done {
    unpacked(cpu, Arithmetic::Add, u16::wrapping_add);
    Ok(())
}

fn ascii_after_subtraction(cpu: &mut Cpu, _: &Op) -> Done {
    unpacked(cpu, Arithmetic::Sub, u16::wrapping_sub);
    Ok(())
}

fn ascii_after_multiplication(cpu: &mut Cpu, op: &Op) -> Done {
    let base = op.imm as u8;
    if base == 0 {
        return Err(cpu.raise(vector::DE));
    }
    let al: u8 = cpu.reg(RAX);
    cpu.set_reg(RAX, u16::from(al / base) << 8 | u16::from(al % base));
    cpu.flags.set(Arithmetic::Logic, 0, (al % base).into(), 0);
    Ok(())
}

fn ascii_before_division(cpu: &mut Cpu, op: &Op) -> Done {
    let (al, ah): (u8, u8) = (cpu.reg(RAX), cpu.reg(HIGH));
    let tens = ah.wrapping_mul(op.imm as u8);
    let value = al.wrapping_add(tens);
    cpu.set_reg(RAX, u16::from(value));
    let kind = match cpu.profile.behaviour {
        Behaviour::Zen => Arithmetic::Add,
        Behaviour::Tcg => Arithmetic::Logic,
    };
    cpu.flags.set(kind, 0, value.into(), tens.into());
    Ok(())
}

fn carry_to_al(cpu: &mut Cpu, _: &Op) -> Done {
    let cf = cpu.flags.cf();
    cpu.set_reg(RAX, if cf { 0xff_u8 } else { 0 });
    Ok(())
}

pub(super) fn lower(i: &Instruction) -> Option<Choice> {
    Choice::on(match i.mnemonic() {
        Mnemonic::Daa => adjust_after_addition,
        Mnemonic::Das => adjust_after_subtraction,
        Mnemonic::Aaa => ascii_after_addition,
        Mnemonic::Aas => ascii_after_subtraction,
        Mnemonic::Aam => ascii_after_multiplication,
        Mnemonic::Aad => ascii_before_division,
        Mnemonic::Salc => carry_to_al,
        _ => return None,
    })
}
