//! String comparison of SSE4.2: PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM (Intel SDM vol. 2, 4.1).

use iced_x86::{Code, Instruction};

use crate::cpu::{Cpu, Done, RAX, RCX, RDX};
use crate::flags::{CF, OF, SF, ZF};
use crate::op::{Handler, Op};

use super::choose;
use super::lanes::{bytes, words};

/// The result is an index in ECX, not a mask in XMM0.
const INDEX: bool = true;
const MASK: bool = false;
/// Lengths end at a zero element; else they are in registers.
const IMPLICIT: u8 = 0;
/// in EAX and EDX
const EXPLICIT: u8 = 32;
/// in RAX and RDX
const EXPLICIT_64: u8 = 64;

pub(super) fn lower(i: &Instruction) -> Option<Handler> {
    use Code as C;
    match i.code() {
        C::Pcmpistri_xmm_xmmm128_imm8 => {
            choose(i, compare::<INDEX, IMPLICIT, false>, compare::<INDEX, IMPLICIT, true>)
        }
        C::Pcmpistrm_xmm_xmmm128_imm8 => {
            choose(i, compare::<MASK, IMPLICIT, false>, compare::<MASK, IMPLICIT, true>)
        }
        C::Pcmpestri_xmm_xmmm128_imm8 => {
            choose(i, compare::<INDEX, EXPLICIT, false>, compare::<INDEX, EXPLICIT, true>)
        }
        C::Pcmpestrm_xmm_xmmm128_imm8 => {
            choose(i, compare::<MASK, EXPLICIT, false>, compare::<MASK, EXPLICIT, true>)
        }
        C::Pcmpestri64_xmm_xmmm128_imm8 => {
            choose(i, compare::<INDEX, EXPLICIT_64, false>, compare::<INDEX, EXPLICIT_64, true>)
        }
        C::Pcmpestrm64_xmm_xmmm128_imm8 => {
            choose(i, compare::<MASK, EXPLICIT_64, false>, compare::<MASK, EXPLICIT_64, true>)
        }
        _ => None,
    }
}

/// A string in a register: 16 bytes or 8 words, sign- or zero-extended.
struct Text {
    elements: [i32; 16],
    /// valid elements
    length: usize,
}

/// The immediate.
#[derive(Clone, Copy)]
struct Control(u8);

impl Control {
    /// Elements of a register.
    fn count(self) -> usize {
        if self.0 & 1 != 0 { 8 } else { 16 }
    }

    fn elements(self, value: u128) -> [i32; 16] {
        let mut elements = [0; 16];
        if self.0 & 1 != 0 {
            for (to, from) in elements.iter_mut().zip(words(value)) {
                *to = if self.0 & 2 != 0 { from.cast_signed().into() } else { from.into() };
            }
        } else {
            for (to, from) in elements.iter_mut().zip(bytes(value)) {
                *to = if self.0 & 2 != 0 { from.cast_signed().into() } else { from.into() };
            }
        }
        elements
    }

    /// What the comparison says of element `n` of `b`.
    fn matches(self, a: &Text, b: &Text, n: usize) -> bool {
        let here = b.elements[n];
        let valid = n < b.length;
        let set = &a.elements[..a.length];
        match self.0 >> 2 & 3 {
            // equal any
            0 => valid && set.contains(&here),
            // ranges
            1 => valid && set.chunks_exact(2).any(|range| range[0] <= here && here <= range[1]),
            // equal each
            2 => {
                let both = n < a.length && valid;
                if both { a.elements[n] == here } else { n >= a.length && !valid }
            }
            // equal ordered: `a` is found at `n`, or its beginning at the end of `b`
            _ => set.iter().take(self.count() - n).zip(n..).all(|(&x, k)| k < b.length && x == b.elements[k]),
        }
    }

    /// A bit for each element of `b`, with the polarity applied.
    fn result(self, a: &Text, b: &Text) -> u32 {
        let result = (0..self.count()).fold(0, |sum, n| sum | u32::from(self.matches(a, b, n)) << n);
        match self.0 >> 4 & 3 {
            1 => result ^ ((1 << self.count()) - 1),
            3 => result ^ ((1 << b.length) - 1),
            _ => result,
        }
    }
}

fn compare<const TO_INDEX: bool, const LENGTHS: u8, const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    // Unlike other 16-byte operands this one need not be aligned.
    let b = if MEMORY { cpu.read_unaligned(op)? } else { cpu.xmm(op.src) };
    let control = Control(op.imm as u8);
    let count = control.count();
    let text = |value: u128, register: u8| {
        let elements = control.elements(value);
        let length = match LENGTHS {
            IMPLICIT => elements[..count].iter().position(|&element| element == 0).unwrap_or(count),
            EXPLICIT => cpu.reg::<u32>(register).cast_signed().unsigned_abs() as usize,
            _ => cpu.reg::<u64>(register).cast_signed().unsigned_abs() as usize,
        };
        Text { elements, length: length.min(count) }
    };
    let a = text(cpu.xmm(op.dst), RAX);
    let b = text(b, RDX);
    let result = control.result(&a, &b);
    let last = control.0 & 0x40 != 0;
    if TO_INDEX {
        let index = match (result, last) {
            (0, _) => count as u32,
            (_, false) => result.trailing_zeros(),
            (_, true) => result.ilog2(),
        };
        cpu.set_reg(RCX, u64::from(index));
    } else if last {
        let bits = 128 / count;
        let ones = u128::MAX >> (128 - bits);
        let mask = (0..count).filter(|n| result >> n & 1 != 0).fold(0, |sum, n| sum | ones << (bits * n));
        cpu.set_xmm(0, mask);
    } else {
        cpu.set_xmm(0, result.into());
    }
    let flag = |set: bool, flag: u64| if set { flag } else { 0 };
    cpu.flags.set_known(
        flag(result != 0, CF)
            | flag(b.length < count, ZF)
            | flag(a.length < count, SF)
            | flag(result & 1 != 0, OF),
    );
    Ok(())
}
