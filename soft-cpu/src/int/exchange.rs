//! XCHG, XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B.

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use super::place::{First, Memory, Second, Source, Target};
use super::{by_width, bytes_of};
use crate::cpu::{Cpu, Done, RAX, RBX, RCX, RDX};
use crate::flags::{Arithmetic, ZF};
use crate::lower::Choice;
use crate::op::Op;
use crate::word::Word;

fn exchange_registers<W: Word>(cpu: &mut Cpu, op: &Op) -> Done {
    let (a, b): (W, W) = (cpu.reg(op.dst), cpu.reg(op.src));
    cpu.set_reg(op.dst, b);
    cpu.set_reg(op.src, a);
    Ok(())
}

fn exchange_memory<W: Word>(cpu: &mut Cpu, op: &Op) -> Done {
    let at = cpu.linear(op, W::BYTES, true)?;
    let old: W = cpu.load_for_update(at)?;
    let new: W = cpu.reg(op.dst);
    cpu.store(at, new)?;
    cpu.set_reg(op.dst, old);
    Ok(())
}

/// The target gets the sum, the register operand `number` the old value (it is written first: XADD r, r gives the sum).
fn add<W: Word, T: Target, S: Source>(cpu: &mut Cpu, op: &Op, number: u8) -> Done {
    let b: W = S::get(cpu, op)?;
    T::change(
        cpu,
        op,
        |_, a: W| (W::cut(a.wide().wrapping_add(b.wide())), a),
        |cpu, sum, a| {
            cpu.set_reg(number, a);
            if number == op.dst && number == op.src {
                cpu.set_reg(number, sum);
            }
            cpu.flags.set(Arithmetic::Add, W::WIDTH, sum.wide(), b.wide());
        },
    )
}

fn add_registers<W: Word>(cpu: &mut Cpu, op: &Op) -> Done {
    add::<W, First, Second>(cpu, op, op.src)
}

fn add_memory<W: Word>(cpu: &mut Cpu, op: &Op) -> Done {
    add::<W, Memory, First>(cpu, op, op.dst)
}

/// Flags as of CMP accumulator, old.
fn compare_flags<W: Word>(cpu: &mut Cpu, old: W) {
    let accumulator: W = cpu.reg(RAX);
    let difference = W::cut(accumulator.wide().wrapping_sub(old.wide()));
    cpu.flags.set(Arithmetic::Sub, W::WIDTH, difference.wide(), old.wide());
}

fn compare_registers<W: Word>(cpu: &mut Cpu, op: &Op) -> Done {
    let (old, new): (W, W) = (cpu.reg(op.dst), cpu.reg(op.src));
    let accumulator: W = cpu.reg(RAX);
    compare_flags(cpu, old);
    if accumulator == old {
        cpu.set_reg(op.dst, new);
    } else {
        cpu.set_reg(RAX, old);
    }
    Ok(())
}

/// The memory is written in any case (AMD APM vol. 3, CMPXCHG).
fn compare_memory<W: Word>(cpu: &mut Cpu, op: &Op) -> Done {
    let at = cpu.linear(op, W::BYTES, true)?;
    let old: W = cpu.load_for_update(at)?;
    let accumulator: W = cpu.reg(RAX);
    let new: W = if accumulator == old { cpu.reg(op.dst) } else { old };
    cpu.store(at, new)?;
    compare_flags(cpu, old);
    if accumulator != old {
        cpu.set_reg(RAX, old);
    }
    Ok(())
}

fn compare_8_bytes(cpu: &mut Cpu, op: &Op) -> Done {
    let at = cpu.linear(op, 8, true)?;
    let old: u64 = cpu.load_for_update(at)?;
    let pair = |cpu: &Cpu, high, low| u64::from(cpu.reg::<u32>(high)) << 32 | u64::from(cpu.reg::<u32>(low));
    let equal = pair(cpu, RDX, RAX) == old;
    let new = if equal { pair(cpu, RCX, RBX) } else { old };
    cpu.store(at, new)?;
    if !equal {
        cpu.set_reg(RAX, old as u32);
        cpu.set_reg(RDX, (old >> 32) as u32);
    }
    cpu.flags.change(ZF, if equal { ZF } else { 0 });
    Ok(())
}

fn compare_16_bytes(cpu: &mut Cpu, op: &Op) -> Done {
    let at = cpu.linear(op, 16, true)?;
    if at & 15 != 0 {
        return Err(cpu.general_protection());
    }
    cpu.check_update(at, 16)?;
    let mut old = [0; 16];
    cpu.read_bytes(at, &mut old)?;
    let old = u128::from_le_bytes(old);
    let pair =
        |cpu: &Cpu, high, low| u128::from(cpu.reg::<u64>(high)) << 64 | u128::from(cpu.reg::<u64>(low));
    let equal = pair(cpu, RDX, RAX) == old;
    let new = if equal { pair(cpu, RCX, RBX) } else { old };
    cpu.write_bytes(at, &new.to_le_bytes())?;
    if !equal {
        cpu.set_reg(RAX, old as u64);
        cpu.set_reg(RDX, (old >> 64) as u64);
    }
    cpu.flags.change(ZF, if equal { ZF } else { 0 });
    Ok(())
}

pub(super) fn lower(i: &Instruction) -> Option<Choice> {
    let bytes = bytes_of(i, 0);
    let memory = i.op0_kind() == OpKind::Memory || i.op1_kind() == OpKind::Memory;
    Choice::on(match i.mnemonic() {
        Mnemonic::Xchg if memory => by_width!(bytes, exchange_memory),
        Mnemonic::Xchg => by_width!(bytes, exchange_registers),
        Mnemonic::Xadd if memory => by_width!(bytes, add_memory),
        Mnemonic::Xadd => by_width!(bytes, add_registers),
        Mnemonic::Cmpxchg if memory => by_width!(bytes, compare_memory),
        Mnemonic::Cmpxchg => by_width!(bytes, compare_registers),
        Mnemonic::Cmpxchg8b if i.code() == Code::Cmpxchg8b_m64 => compare_8_bytes,
        Mnemonic::Cmpxchg16b => compare_16_bytes,
        _ => return None,
    })
}
