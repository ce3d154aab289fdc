//! XMM registers as lanes, and handlers of instructions that combine two operands lane by lane.

use std::array::from_fn;

use iced_x86::{Instruction, OpKind};

use crate::cpu::{Cpu, Done};
use crate::op::{Handler, Op};

use super::operand::{MM, MM_MEMORY, XMM, XMM_MEMORY};

pub(super) fn bytes(value: u128) -> [u8; 16] {
    value.to_le_bytes()
}

pub(super) fn words(value: u128) -> [u16; 8] {
    from_fn(|n| (value >> (16 * n)) as u16)
}

pub(super) fn doublewords(value: u128) -> [u32; 4] {
    from_fn(|n| (value >> (32 * n)) as u32)
}

pub(super) fn quadwords(value: u128) -> [u64; 2] {
    [value as u64, (value >> 64) as u64]
}

pub(super) fn from_bytes(lanes: [u8; 16]) -> u128 {
    u128::from_le_bytes(lanes)
}

pub(super) fn from_words(lanes: [u16; 8]) -> u128 {
    lanes.into_iter().rev().fold(0, |sum, lane| sum << 16 | u128::from(lane))
}

pub(super) fn from_doublewords(lanes: [u32; 4]) -> u128 {
    lanes.into_iter().rev().fold(0, |sum, lane| sum << 32 | u128::from(lane))
}

pub(super) fn from_quadwords(lanes: [u64; 2]) -> u128 {
    u128::from(lanes[1]) << 64 | u128::from(lanes[0])
}

pub(super) fn each_byte(a: u128, b: u128, f: impl Fn(u8, u8) -> u8) -> u128 {
    let (a, b) = (bytes(a), bytes(b));
    from_bytes(from_fn(|n| f(a[n], b[n])))
}

pub(super) fn each_word(a: u128, b: u128, f: impl Fn(u16, u16) -> u16) -> u128 {
    let (a, b) = (words(a), words(b));
    from_words(from_fn(|n| f(a[n], b[n])))
}

pub(super) fn each_doubleword(a: u128, b: u128, f: impl Fn(u32, u32) -> u32) -> u128 {
    let (a, b) = (doublewords(a), doublewords(b));
    from_doublewords(from_fn(|n| f(a[n], b[n])))
}

pub(super) fn each_quadword(a: u128, b: u128, f: impl Fn(u64, u64) -> u64) -> u128 {
    let (a, b) = (quadwords(a), quadwords(b));
    from_quadwords(from_fn(|n| f(a[n], b[n])))
}

/// Executes an instruction that combines its two operands: `xmm` on XMM registers, `mm` on MMX registers.
#[inline(always)]
pub(super) fn combine<const FORM: u8>(
    cpu: &mut Cpu,
    op: &Op,
    xmm: impl Fn(u128, u128) -> u128,
    mm: impl Fn(u64, u64) -> u64,
) -> Done {
    if FORM == XMM || FORM == XMM_MEMORY {
        cpu.sse()?;
        let b = if FORM == XMM { cpu.xmm(op.src) } else { cpu.read_aligned(op)? };
        cpu.set_xmm(op.dst, xmm(cpu.xmm(op.dst), b));
    } else {
        cpu.mmx()?;
        let b = if FORM == MM { cpu.mm(op.src) } else { cpu.read_mem(op)? };
        cpu.set_mm(op.dst, mm(cpu.mm(op.dst), b));
    }
    Ok(())
}

/// The handler for an instruction's form, of `[xmm, xmm-memory, mm, mm-memory]`.
pub(super) fn by_form(i: &Instruction, forms: [Handler; 4]) -> Option<Handler> {
    let form = if i.op0_register().is_mm() { MM } else { XMM };
    let memory = if i.op1_kind() == OpKind::Memory { MM_MEMORY - MM } else { 0 };
    forms.get(usize::from(form + memory)).copied()
}

/// Handlers of all forms of an instruction that does the same to each lane, whatever the number of lanes.
macro_rules! lanewise {
    ($i:expr, $f:expr) => {{
        fn run<const FORM: u8>(cpu: &mut $crate::cpu::Cpu, op: &$crate::op::Op) -> $crate::cpu::Done {
            let f = $f;
            $crate::sse::lanes::combine::<FORM>(cpu, op, f, |a, b| f(a.into(), b.into()) as u64)
        }
        $crate::sse::lanes::by_form($i, [run::<0>, run::<1>, run::<2>, run::<3>])
    }};
}
pub(super) use lanewise;

/// Handlers where MMX registers need code of their own.
macro_rules! combined {
    ($i:expr, $f:expr, $g:expr) => {{
        fn run<const FORM: u8>(cpu: &mut $crate::cpu::Cpu, op: &$crate::op::Op) -> $crate::cpu::Done {
            $crate::sse::lanes::combine::<FORM>(cpu, op, $f, $g)
        }
        $crate::sse::lanes::by_form($i, [run::<0>, run::<1>, run::<2>, run::<3>])
    }};
}
pub(super) use combined;
