//! MUL IMUL DIV IDIV.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::place::{First, Immediate, Memory, Second, Source};
use super::{by_width, bytes_of};
use crate::Behaviour;
use crate::cpu::{Cpu, Done, HIGH, RAX, RDX, vector};
use crate::flags::{AF, ARITHMETIC, Arithmetic, CF, OF};
use crate::lower::Choice;
use crate::op::{Handler, Op};
use crate::word::Word;

/// CF and OF: the product needs more than its lower half. The others are open: they stay, with `tcg` they are those of the
/// lower half.
fn product_flags<W: Word>(cpu: &mut Cpu, low: W, beyond: bool) {
    if cpu.profile.behaviour == Behaviour::Tcg {
        cpu.flags.set(Arithmetic::Mul, W::WIDTH, low.wide(), beyond.into());
    } else {
        cpu.flags.change(CF | OF, if beyond { CF | OF } else { 0 });
    }
}

/// The double-width register pair: AX, or rDX:rAX.
fn pair<W: Word>(cpu: &Cpu) -> u128 {
    let low = cpu.reg::<W>(RAX).wide();
    let high = if W::BYTES == 1 { cpu.reg::<u8>(HIGH).wide() } else { cpu.reg::<W>(RDX).wide() };
    u128::from(high) << W::BITS | u128::from(low)
}

fn set_pair<W: Word>(cpu: &mut Cpu, low: W, high: W) {
    if W::BYTES == 1 {
        cpu.set_reg(HIGH, high.wide() as u8);
        cpu.set_reg(RAX, low.wide() as u8);
    } else {
        cpu.set_reg(RAX, low);
        cpu.set_reg(RDX, high);
    }
}

fn multiply<W: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let b: W = S::get(cpu, op)?;
    let product = u128::from(cpu.reg::<W>(RAX).wide()) * u128::from(b.wide());
    let (low, high) = (W::cut(product as u64), W::cut((product >> W::BITS) as u64));
    set_pair(cpu, low, high);
    product_flags(cpu, low, high.wide() != 0);
    Ok(())
}

fn multiply_signed<W: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let b: W = S::get(cpu, op)?;
    let product = i128::from(cpu.reg::<W>(RAX).signed()) * i128::from(b.signed());
    let (low, high) = (W::cut(product as u64), W::cut((product >> W::BITS) as u64));
    set_pair(cpu, low, high);
    product_flags(cpu, low, product != i128::from(low.signed()));
    Ok(())
}

fn multiply_into<W: Word, A: Source, B: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let a: W = A::get(cpu, op)?;
    let b: W = B::get(cpu, op)?;
    let product = i128::from(a.signed()) * i128::from(b.signed());
    let low = W::cut(product as u64);
    cpu.set_reg(op.dst, low);
    product_flags(cpu, low, product != i128::from(low.signed()));
    Ok(())
}

/// All flags are open: Zen sets AF and clears PF, ZF and SF; Tcg changes none.
fn quotient_flags(cpu: &mut Cpu) {
    if cpu.profile.behaviour == Behaviour::Zen {
        cpu.flags.change(ARITHMETIC & !(CF | OF), AF);
    }
}

fn divide<W: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let b: W = S::get(cpu, op)?;
    let a = pair::<W>(cpu);
    let divisor = u128::from(b.wide());
    if divisor == 0 || a / divisor > u128::from(W::MASK) {
        return Err(cpu.raise(vector::DE));
    }
    set_pair(cpu, W::cut((a / divisor) as u64), W::cut((a % divisor) as u64));
    quotient_flags(cpu);
    Ok(())
}

fn divide_signed<W: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let b: W = S::get(cpu, op)?;
    let shift = 128 - 2 * W::BITS;
    let a = (pair::<W>(cpu) << shift).cast_signed() >> shift;
    let divisor = i128::from(b.signed());
    let quotient = if divisor == 0 { None } else { a.checked_div(divisor) };
    match quotient {
        Some(quotient) if quotient == i128::from(W::cut(quotient as u64).signed()) => {
            set_pair(cpu, W::cut(quotient as u64), W::cut((a % divisor) as u64));
            quotient_flags(cpu);
            Ok(())
        }
        _ => Err(cpu.raise(vector::DE)),
    }
}

pub(super) fn lower(i: &Instruction, _: &mut Op) -> Option<Choice> {
    let bytes = bytes_of(i, 0);
    let memory = i.op0_kind() == OpKind::Memory;
    macro_rules! one {
        ($f:ident) => {
            if memory { by_width!(bytes, $f, Memory) } else { by_width!(bytes, $f, First) }
        };
    }
    Choice::on(match i.mnemonic() {
        Mnemonic::Mul => one!(multiply),
        Mnemonic::Div => one!(divide),
        Mnemonic::Idiv => one!(divide_signed),
        Mnemonic::Imul => match (i.op_count(), i.op1_kind()) {
            (1, _) => one!(multiply_signed),
            (2, OpKind::Memory) => by_width!(bytes, multiply_into, First, Memory),
            (2, _) => by_width!(bytes, multiply_into, First, Second),
            (_, OpKind::Memory) => by_width!(bytes, multiply_into, Memory, Immediate) as Handler,
            (_, _) => by_width!(bytes, multiply_into, Second, Immediate),
        },
        _ => return None,
    })
}
