//! SHL SHR SAR ROL ROR RCL RCR SHLD SHRD.
//!
//! A count of 0 changes no flag. OF, which the manuals define for counts of 1 only, is set for all counts by the same rule.
//! AF is open: Zen sets it, Tcg clears it. Lowering chooses between the two.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::place::{First, Memory, Target};
use super::{by_width, bytes_of};
use crate::Behaviour;
use crate::cpu::{Cpu, Done, RCX};
use crate::flags::{Arithmetic, CF, OF};
use crate::lower::{Choice, Context};
use crate::op::{Handler, Op};
use crate::word::Word;

/// Where the count is.
trait Count {
    fn get(cpu: &Cpu, op: &Op) -> u32;
}

struct ByImmediate;
struct ByCl;

impl Count for ByImmediate {
    #[inline(always)]
    fn get(_: &Cpu, op: &Op) -> u32 {
        op.imm as u32
    }
}

impl Count for ByCl {
    #[inline(always)]
    fn get(cpu: &Cpu, _: &Op) -> u32 {
        u32::from(cpu.reg::<u8>(RCX))
    }
}

/// The count that the processor uses: 5 bits, 6 for quadwords.
#[inline(always)]
fn masked<W: Word>(count: u32) -> u32 {
    count & if W::BYTES == 8 { 63 } else { 31 }
}

/// What a shift does: result and the operand one bit before it, from the operand and a count above 0.
trait Shift {
    const FLAGS: Arithmetic;
    fn go<W: Word>(value: W, count: u32) -> (W, W);
}

/// The shifts; with `ZEN` they set AF.
struct Left<const ZEN: bool>;
struct Right<const ZEN: bool>;
struct Signed<const ZEN: bool>;

const fn left_flags(zen: bool) -> Arithmetic {
    if zen { Arithmetic::ShlAdjust } else { Arithmetic::Shl }
}

const fn right_flags(zen: bool) -> Arithmetic {
    if zen { Arithmetic::ShrAdjust } else { Arithmetic::Shr }
}

impl<const ZEN: bool> Shift for Left<ZEN> {
    const FLAGS: Arithmetic = left_flags(ZEN);
    #[inline(always)]
    fn go<W: Word>(value: W, count: u32) -> (W, W) {
        let before = value.wide() << (count - 1);
        (W::cut(before << 1), W::cut(before))
    }
}

impl<const ZEN: bool> Shift for Right<ZEN> {
    const FLAGS: Arithmetic = right_flags(ZEN);
    #[inline(always)]
    fn go<W: Word>(value: W, count: u32) -> (W, W) {
        let before = value.wide() >> (count - 1);
        (W::cut(before >> 1), W::cut(before))
    }
}

impl<const ZEN: bool> Shift for Signed<ZEN> {
    const FLAGS: Arithmetic = right_flags(ZEN);
    #[inline(always)]
    fn go<W: Word>(value: W, count: u32) -> (W, W) {
        let before = value.signed() >> (count - 1);
        (W::cut((before >> 1).cast_unsigned()), W::cut(before.cast_unsigned()))
    }
}

fn shift<W: Word, S: Shift, T: Target, C: Count>(cpu: &mut Cpu, op: &Op) -> Done {
    let count = masked::<W>(C::get(cpu, op));
    T::change(
        cpu,
        op,
        |_, value: W| if count == 0 { (value, value) } else { S::go(value, count) },
        |cpu, result, before| {
            if count != 0 {
                cpu.flags.set(S::FLAGS, W::WIDTH, result.wide(), before.wide());
            }
        },
    )
}

/// What a rotation does: result, CF and OF, from operand, carry and masked count above 0. `None`: no flag changes.
trait Rotation {
    fn go<W: Word>(value: W, carry: bool, count: u32) -> (W, Option<(bool, bool)>);
}

#[inline(always)]
fn top<W: Word>(value: W) -> bool {
    value.wide() >> (W::BITS - 1) & 1 == 1
}

#[inline(always)]
fn second<W: Word>(value: W) -> bool {
    value.wide() >> (W::BITS - 2) & 1 == 1
}

struct RotateLeft;
struct RotateRight;
/// With `ZEN` a whole turn sets OF too.
struct CarryLeft<const ZEN: bool>;
struct CarryRight<const ZEN: bool>;

impl Rotation for RotateLeft {
    #[inline(always)]
    fn go<W: Word>(value: W, _: bool, count: u32) -> (W, Option<(bool, bool)>) {
        let n = count % W::BITS;
        let v = value.wide();
        let result = W::cut(if n == 0 { v } else { v << n | v >> (W::BITS - n) });
        let carry = result.wide() & 1 == 1;
        (result, Some((carry, carry != top(result))))
    }
}

impl Rotation for RotateRight {
    #[inline(always)]
    fn go<W: Word>(value: W, _: bool, count: u32) -> (W, Option<(bool, bool)>) {
        let n = count % W::BITS;
        let v = value.wide();
        let result = W::cut(if n == 0 { v } else { v >> n | v << (W::BITS - n) });
        (result, Some((top(result), top(result) != second(result))))
    }
}

/// The operand and CF as one number of one bit more, rotated left by `n`.
fn through_carry<W: Word>(value: W, carry: bool, n: u32) -> (W, bool) {
    let bits = W::BITS + 1;
    let whole = u128::from(carry) << W::BITS | u128::from(value.wide());
    let rotated = if n == 0 { whole } else { whole << n | whole >> (bits - n) };
    (W::cut(rotated as u64), rotated >> W::BITS & 1 == 1)
}

impl<const ZEN: bool> Rotation for CarryLeft<ZEN> {
    #[inline(always)]
    fn go<W: Word>(value: W, carry: bool, count: u32) -> (W, Option<(bool, bool)>) {
        let n = count % (W::BITS + 1);
        let (result, carry) = through_carry(value, carry, n);
        (result, (n != 0 || ZEN).then_some((carry, carry != top(result))))
    }
}

impl<const ZEN: bool> Rotation for CarryRight<ZEN> {
    #[inline(always)]
    fn go<W: Word>(value: W, carry: bool, count: u32) -> (W, Option<(bool, bool)>) {
        let n = count % (W::BITS + 1);
        let (result, carry) = through_carry(value, carry, (W::BITS + 1 - n) % (W::BITS + 1));
        (result, (n != 0 || ZEN).then_some((carry, top(result) != second(result))))
    }
}

fn rotate<W: Word, R: Rotation, T: Target, C: Count>(cpu: &mut Cpu, op: &Op) -> Done {
    let count = masked::<W>(C::get(cpu, op));
    T::change(
        cpu,
        op,
        |cpu, value: W| {
            if count == 0 { (value, None) } else { R::go(value, cpu.flags.cf(), count) }
        },
        |cpu, _, flags| {
            if let Some((carry, overflow)) = flags {
                let bits = if carry { CF } else { 0 } | if overflow { OF } else { 0 };
                cpu.flags.change(CF | OF, bits);
            }
        },
    )
}

/// SHLD (`LEFT`) and SHRD. With a 16-bit operand and a count above 16 the result is open: behind the bits of the second
/// operand come those of the first (Tcg), or those of the second again (Zen).
fn double<W: Word, T: Target, C: Count, const LEFT: bool, const ZEN: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    let count = masked::<W>(C::get(cpu, op));
    // With a register as target the filling operand is the second register, else the first.
    let fill: W = cpu.reg(op.extra);
    T::change(
        cpu,
        op,
        |_, value: W| {
            if count == 0 {
                return (value, value);
            }
            let (v, f) = (u128::from(value.wide()), u128::from(fill.wide()));
            let bits = W::BITS;
            let beyond = if ZEN { f } else { v };
            let shifted = |n: u32| {
                W::cut(match (LEFT, bits) {
                    (true, 64) => ((v << 64 | f) << n >> 64) as u64,
                    (true, _) => ((v << (2 * bits) | f << bits | beyond) >> (2 * bits - n)) as u64,
                    (false, 64) => ((f << 64 | v) >> n) as u64,
                    (false, _) => ((beyond << (2 * bits) | f << bits | v) >> n) as u64,
                })
            };
            (shifted(count), shifted(count - 1))
        },
        |cpu, result, before| {
            if count == 0 {
                return;
            }
            let kind = if LEFT { left_flags(ZEN) } else { right_flags(ZEN) };
            cpu.flags.set(kind, W::WIDTH, result.wide(), before.wide());
            if ZEN && count >= W::BITS {
                // CF comes from the first operand, zeros behind it; SHLD's OF is CF.
                let carry = count == W::BITS && cpu.flags.cf();
                let overflow = if LEFT { carry } else { cpu.flags.of() };
                let bits = if carry { CF } else { 0 } | if overflow { OF } else { 0 };
                cpu.flags.change(CF | OF, bits);
            }
        },
    )
}

fn doubling<const LEFT: bool, const ZEN: bool>(i: &Instruction, memory: bool, by_cl: bool) -> Handler {
    macro_rules! form {
        ($w:ty) => {
            match (memory, by_cl) {
                (true, true) => double::<$w, Memory, ByCl, LEFT, ZEN> as Handler,
                (true, false) => double::<$w, Memory, ByImmediate, LEFT, ZEN>,
                (false, true) => double::<$w, First, ByCl, LEFT, ZEN>,
                (false, false) => double::<$w, First, ByImmediate, LEFT, ZEN>,
            }
        };
    }
    match bytes_of(i, 0) {
        2 => form!(u16),
        4 => form!(u32),
        _ => form!(u64),
    }
}

fn shifting<S: Shift>(bytes: usize, memory: bool, by_cl: bool) -> Handler {
    match (memory, by_cl) {
        (true, true) => by_width!(bytes, shift, S, Memory, ByCl),
        (true, false) => by_width!(bytes, shift, S, Memory, ByImmediate),
        (false, true) => by_width!(bytes, shift, S, First, ByCl),
        (false, false) => by_width!(bytes, shift, S, First, ByImmediate),
    }
}

fn rotating<R: Rotation>(bytes: usize, memory: bool, by_cl: bool) -> Handler {
    match (memory, by_cl) {
        (true, true) => by_width!(bytes, rotate, R, Memory, ByCl),
        (true, false) => by_width!(bytes, rotate, R, Memory, ByImmediate),
        (false, true) => by_width!(bytes, rotate, R, First, ByCl),
        (false, false) => by_width!(bytes, rotate, R, First, ByImmediate),
    }
}

pub(super) fn lower(i: &Instruction, op: &mut Op, c: &Context) -> Option<Choice> {
    let memory = i.op0_kind() == OpKind::Memory;
    if matches!(i.mnemonic(), Mnemonic::Shld | Mnemonic::Shrd) {
        op.extra = if memory { op.dst } else { op.src };
    }
    Choice::on(match c.behaviour {
        Behaviour::Zen => handler::<true>(i, memory)?,
        Behaviour::Tcg => handler::<false>(i, memory)?,
    })
}

fn handler<const ZEN: bool>(i: &Instruction, memory: bool) -> Option<Handler> {
    let bytes = bytes_of(i, 0);
    let by_cl = i.op_kind(i.op_count().wrapping_sub(1).min(2)) == OpKind::Register;
    Some(match i.mnemonic() {
        Mnemonic::Shl | Mnemonic::Sal => shifting::<Left<ZEN>>(bytes, memory, by_cl),
        Mnemonic::Shr => shifting::<Right<ZEN>>(bytes, memory, by_cl),
        Mnemonic::Sar => shifting::<Signed<ZEN>>(bytes, memory, by_cl),
        Mnemonic::Rol => rotating::<RotateLeft>(bytes, memory, by_cl),
        Mnemonic::Ror => rotating::<RotateRight>(bytes, memory, by_cl),
        Mnemonic::Rcl => rotating::<CarryLeft<ZEN>>(bytes, memory, by_cl),
        Mnemonic::Rcr => rotating::<CarryRight<ZEN>>(bytes, memory, by_cl),
        Mnemonic::Shld => doubling::<true, ZEN>(i, memory, by_cl),
        Mnemonic::Shrd => doubling::<false, ZEN>(i, memory, by_cl),
        _ => return None,
    })
}
