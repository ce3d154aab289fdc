//! Decimal adjustments, which 64-bit code does not have: DAA DAS AAA AAS AAM AAD, and SALC.

use iced_x86::{Instruction, Mnemonic};

use crate::cpu::{Cpu, Done, HIGH, RAX, vector};
use crate::flags::{AF, Arithmetic, CF};
use crate::lower::Choice;
use crate::op::Op;

/// SF, ZF, PF of AL, with CF and AF given; OF is open and becomes 0.
fn settle(cpu: &mut Cpu, al: u8, carry: bool, adjust: bool) {
    cpu.flags.set(Arithmetic::Logic, 0, al.into(), 0);
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
    settle(cpu, al, carry, adjust);
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
fn unpacked(cpu: &mut Cpu, change: fn(u16, u16) -> u16) {
    let ax: u16 = cpu.reg(RAX);
    let adjust = ax & 0xf > 9 || cpu.flags.af();
    let ax = if adjust { change(ax, 0x106) } else { ax } & 0xff0f;
    cpu.set_reg(RAX, ax);
    settle(cpu, ax as u8, adjust, adjust);
}

fn ascii_after_addition(cpu: &mut Cpu, _: &Op) -> Done {
    unpacked(cpu, u16::wrapping_add);
    Ok(())
}

fn ascii_after_subtraction(cpu: &mut Cpu, _: &Op) -> Done {
    unpacked(cpu, u16::wrapping_sub);
    Ok(())
}

fn ascii_after_multiplication(cpu: &mut Cpu, op: &Op) -> Done {
    let base = op.imm as u8;
    if base == 0 {
        return Err(cpu.raise(vector::DE));
    }
    let al: u8 = cpu.reg(RAX);
    cpu.set_reg(RAX, u16::from(al / base) << 8 | u16::from(al % base));
    settle(cpu, al % base, false, false);
    Ok(())
}

fn ascii_before_division(cpu: &mut Cpu, op: &Op) -> Done {
    let (al, ah): (u8, u8) = (cpu.reg(RAX), cpu.reg(HIGH));
    let value = al.wrapping_add(ah.wrapping_mul(op.imm as u8));
    cpu.set_reg(RAX, u16::from(value));
    settle(cpu, value, false, false);
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
