//! BT BTS BTR BTC BSF BSR TZCNT LZCNT POPCNT.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::place::{Immediate, Memory, Second, Source};
use super::{by_width, bytes_of};
use crate::Behaviour;
use crate::cpu::{Cpu, Done};
use crate::flags::{ARITHMETIC, Arithmetic, CF, Flags, OF, PF, ZF, parity};
use crate::lower::Choice;
use crate::op::{Handler, Op, truncate};
use crate::word::Word;

/// What happens to the bit.
trait Change {
    const WRITES: bool = true;
    fn go(value: u64, bit: u64) -> u64;
}

struct Test;
struct Set;
struct Reset;
struct Complement;

impl Change for Test {
    const WRITES: bool = false;
    #[inline(always)]
    fn go(value: u64, _: u64) -> u64 {
        value
    }
}

impl Change for Set {
    #[inline(always)]
    fn go(value: u64, bit: u64) -> u64 {
        value | bit
    }
}

impl Change for Reset {
    #[inline(always)]
    fn go(value: u64, bit: u64) -> u64 {
        value & !bit
    }
}

impl Change for Complement {
    #[inline(always)]
    fn go(value: u64, bit: u64) -> u64 {
        value ^ bit
    }
}

/// CF is the bit; ZF stays. The others are open: they stay, except with `tcg`, where an instruction before it in the same
/// block has set the flags (`op.flags`: its width and 1): its result goes on to decide SF and PF, AF is 0, OF is that
/// of a right shift of `shifted` by one.
#[inline(always)]
fn bit_flags(flags: &mut Flags, op: &Op, bit: bool, shifted: u64) {
    if op.flags != 0 {
        let width = op.flags - 1;
        let dst = match flags.op {
            Arithmetic::Known => flags.taken_up.then(|| flags.like_result(width)),
            _ => Some(flags.dst),
        };
        if let Some(dst) = dst {
            flags.set(Arithmetic::Shr, width, dst, shifted);
            return;
        }
    }
    flags.change(CF, if bit { CF } else { 0 });
}

fn register<W: Word, C: Change, S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let number = S::get::<W>(cpu, op)?.wide() & u64::from(W::BITS - 1);
    let value: W = cpu.reg(op.dst);
    let bit = 1 << number;
    if C::WRITES {
        cpu.set_reg(op.dst, W::cut(C::go(value.wide(), bit)));
    }
    bit_flags(&mut cpu.flags, op, value.wide() & bit != 0, value.wide() >> number);
    Ok(())
}

fn at<W: Word, C: Change>(cpu: &mut Cpu, op: &Op, linear: u64, number: u64) -> Done {
    let bit = 1 << number;
    let value: W = if C::WRITES { cpu.load_for_update(linear)? } else { cpu.load(linear)? };
    if C::WRITES {
        cpu.store(linear, W::cut(C::go(value.wide(), bit)))?;
    }
    bit_flags(&mut cpu.flags, op, value.wide() & bit != 0, value.wide() >> number);
    Ok(())
}

/// The bit's number is in the operand.
fn memory_immediate<W: Word, C: Change>(cpu: &mut Cpu, op: &Op) -> Done {
    let linear = cpu.linear(op, W::BYTES, C::WRITES)?;
    at::<W, C>(cpu, op, linear, op.imm & u64::from(W::BITS - 1))
}

/// The bit's number is a signed offset from the operand's first bit.
fn memory_register<W: Word, C: Change>(cpu: &mut Cpu, op: &Op) -> Done {
    let number = cpu.reg::<W>(op.dst).signed();
    let words = number >> W::BITS.trailing_zeros();
    let moved = op.offset(cpu).wrapping_add(words.cast_unsigned().wrapping_mul(W::BYTES));
    let linear = if op.flat {
        moved
    } else {
        cpu.linear_in(op.seg.into(), truncate(moved, op.address), W::BYTES, C::WRITES)?
    };
    at::<W, C>(cpu, op, linear, number.cast_unsigned() & u64::from(W::BITS - 1))
}

/// BSF and BSR. With a zero operand ZF is set and the destination stays (as all processors have it), in a 32-bit
/// operation its upper half too. The other flags are open: Zen clears them but for PF, the number's (0 if there is none).
fn scan<W: Word, S: Source, const UP: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    let value: W = S::get(cpu, op)?;
    let wide = value.wide();
    let mut number = 0;
    if wide != 0 {
        number = if UP { wide.trailing_zeros() } else { 63 - wide.leading_zeros() };
        cpu.set_reg(op.dst, W::cut(number.into()));
    }
    if cpu.profile.behaviour == Behaviour::Tcg {
        cpu.flags.set(Arithmetic::Logic, W::WIDTH, wide, 0);
    } else {
        let even = if parity(number.into()) { PF } else { 0 };
        cpu.flags.set_known(if wide == 0 { ZF | PF } else { even });
    }
    Ok(())
}

/// TZCNT and LZCNT: CF for a zero operand, ZF for a zero result; the others are open: Zen keeps OF and clears them.
fn count<W: Word, S: Source, const UP: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    let value: W = S::get(cpu, op)?;
    let wide = value.wide();
    let number = if wide == 0 {
        W::BITS
    } else if UP {
        wide.trailing_zeros()
    } else {
        wide.leading_zeros() - (64 - W::BITS)
    };
    cpu.set_reg(op.dst, W::cut(number.into()));
    let bits = if wide == 0 { CF } else { 0 } | if number == 0 { ZF } else { 0 };
    if cpu.profile.behaviour == Behaviour::Tcg {
        cpu.flags.set_known(bits);
    } else {
        cpu.flags.change(ARITHMETIC & !OF, bits);
    }
    Ok(())
}

fn population<W: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let value: W = S::get(cpu, op)?;
    cpu.set_reg(op.dst, W::cut(value.wide().count_ones().into()));
    cpu.flags.set_known(if value.wide() == 0 { ZF } else { 0 });
    Ok(())
}

fn changing<C: Change>(i: &Instruction) -> Handler {
    let bytes = bytes_of(i, 0);
    match (i.op0_kind(), i.op1_kind()) {
        (OpKind::Register, OpKind::Register) => by_width!(bytes, register, C, Second),
        (OpKind::Register, _) => by_width!(bytes, register, C, Immediate),
        (_, OpKind::Register) => by_width!(bytes, memory_register, C),
        _ => by_width!(bytes, memory_immediate, C),
    }
}

pub(super) fn lower(i: &Instruction) -> Option<Choice> {
    let memory = i.op1_kind() == OpKind::Memory;
    let bytes = bytes_of(i, 0);
    macro_rules! two {
        ($f:ident, $up:literal) => {
            match (bytes, memory) {
                (2, true) => $f::<u16, Memory, $up> as Handler,
                (2, false) => $f::<u16, Second, $up>,
                (4, true) => $f::<u32, Memory, $up>,
                (4, false) => $f::<u32, Second, $up>,
                (_, true) => $f::<u64, Memory, $up>,
                (_, false) => $f::<u64, Second, $up>,
            }
        };
    }
    let run = match i.mnemonic() {
        Mnemonic::Bt => changing::<Test>(i),
        Mnemonic::Bts => changing::<Set>(i),
        Mnemonic::Btr => changing::<Reset>(i),
        Mnemonic::Btc => changing::<Complement>(i),
        Mnemonic::Bsf => two!(scan, true),
        Mnemonic::Bsr => two!(scan, false),
        Mnemonic::Tzcnt => two!(count, true),
        Mnemonic::Lzcnt => two!(count, false),
        Mnemonic::Popcnt if memory => by_width!(bytes, population, Memory),
        Mnemonic::Popcnt => by_width!(bytes, population, Second),
        _ => return None,
    };
    Choice::on(run)
}
