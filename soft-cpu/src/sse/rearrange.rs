//! Shuffles, blends and insertions: lanes go to other places.

use std::array::from_fn;

use iced_x86::{Instruction, Mnemonic};

use crate::cpu::{Cpu, Done};
use crate::op::{Handler, Op};

use super::choose;
use super::lanes::{
    bytes, combined, doublewords, from_bytes, from_doublewords, from_quadwords, from_words, quadwords, words,
};
use super::operand::{MM, XMM, XMM_MEMORY};

/// Of two XMM operands and the immediate.
macro_rules! by_immediate {
    ($i:expr, $f:expr) => {{
        fn run<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
            cpu.sse()?;
            let b = cpu.source::<MEMORY>(op)?;
            cpu.set_xmm(op.dst, $f(cpu.xmm(op.dst), b, op.imm as u8));
            Ok(())
        }
        choose($i, run::<false>, run::<true>)
    }};
}

/// Blends chosen by the top bits of XMM0's lanes.
macro_rules! by_xmm0 {
    ($i:expr, $bits:expr) => {{
        fn run<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
            cpu.sse()?;
            let b = cpu.source::<MEMORY>(op)?;
            let chosen = select($bits, |n| cpu.xmm(0) >> ($bits * n + $bits - 1) & 1 != 0);
            cpu.set_xmm(op.dst, cpu.xmm(op.dst) & !chosen | b & chosen);
            Ok(())
        }
        choose($i, run::<false>, run::<true>)
    }};
}

pub(super) fn lower(i: &Instruction) -> Option<Handler> {
    use Mnemonic as M;
    match i.mnemonic() {
        M::Pshufd => by_immediate!(i, |_: u128, b: u128, n: u8| {
            let b = doublewords(b);
            from_doublewords(from_fn(|lane| b[two_bits(n, lane)]))
        }),
        M::Pshuflw => by_immediate!(i, |_: u128, b: u128, n: u8| {
            from_quadwords([shuffle_words(b as u64, n), (b >> 64) as u64])
        }),
        M::Pshufhw => by_immediate!(i, |_: u128, b: u128, n: u8| {
            from_quadwords([b as u64, shuffle_words((b >> 64) as u64, n)])
        }),
        M::Pshufw => choose(i, pshufw::<false>, pshufw::<true>),
        M::Shufps => by_immediate!(i, |a: u128, b: u128, n: u8| {
            let (a, b) = (doublewords(a), doublewords(b));
            from_doublewords(from_fn(|lane| if lane < 2 { a } else { b }[two_bits(n, lane)]))
        }),
        M::Shufpd => by_immediate!(i, |a: u128, b: u128, n: u8| {
            from_quadwords([quadwords(a)[usize::from(n & 1)], quadwords(b)[usize::from(n >> 1 & 1)]])
        }),
        M::Blendps => by_immediate!(i, |a: u128, b: u128, n: u8| blend(a, b, 32, n)),
        M::Blendpd => by_immediate!(i, |a: u128, b: u128, n: u8| blend(a, b, 64, n)),
        M::Pblendw => by_immediate!(i, |a: u128, b: u128, n: u8| blend(a, b, 16, n)),
        M::Pblendvb => by_xmm0!(i, 8),
        M::Blendvps => by_xmm0!(i, 32),
        M::Blendvpd => by_xmm0!(i, 64),
        M::Pshufb => combined!(i, shuffle_bytes, |a, b| {
            shuffle_bytes(a.into(), u128::from(b) & 0x8787_8787_8787_8787) as u64
        }),
        M::Palignr => super::lanes::by_form(i, [palignr::<0>, palignr::<1>, palignr::<2>, palignr::<3>]),
        M::Insertps => choose(i, insertps::<false>, insertps::<true>),
        M::Movddup => choose(i, movddup::<false>, movddup::<true>),
        M::Movsldup => by_immediate!(i, |_: u128, b: u128, _: u8| {
            let b = doublewords(b);
            from_doublewords([b[0], b[0], b[2], b[2]])
        }),
        M::Movshdup => by_immediate!(i, |_: u128, b: u128, _: u8| {
            let b = doublewords(b);
            from_doublewords([b[1], b[1], b[3], b[3]])
        }),
        _ => None,
    }
}

/// Two bits of the immediate: the source of a lane.
fn two_bits(immediate: u8, lane: usize) -> usize {
    usize::from(immediate >> (2 * lane) & 3)
}

fn shuffle_words(value: u64, immediate: u8) -> u64 {
    let lanes = words(value.into());
    from_words(from_fn(|lane| if lane < 4 { lanes[two_bits(immediate, lane)] } else { 0 })) as u64
}

/// All bits of the lanes of `bits` bits for which `chosen` holds.
fn select(bits: u32, chosen: impl Fn(u32) -> bool) -> u128 {
    let ones = u128::MAX >> (128 - bits);
    (0..128 / bits).filter(|&n| chosen(n)).fold(0, |sum, n| sum | ones << (bits * n))
}

fn blend(a: u128, b: u128, bits: u32, immediate: u8) -> u128 {
    let chosen = select(bits, |n| immediate >> n & 1 != 0);
    a & !chosen | b & chosen
}

fn shuffle_bytes(a: u128, b: u128) -> u128 {
    let (a, b) = (bytes(a), bytes(b));
    from_bytes(b.map(|from| if from & 0x80 != 0 { 0 } else { a[usize::from(from & 15)] }))
}

fn pshufw<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.mmx()?;
    let b = if MEMORY { cpu.read_mem(op)? } else { cpu.mm(op.src) };
    cpu.set_mm(op.dst, shuffle_words(b, op.imm as u8));
    Ok(())
}

fn palignr<const FORM: u8>(cpu: &mut Cpu, op: &Op) -> Done {
    let bits = 8 * (op.imm & 0xff) as u32;
    if FORM == XMM || FORM == XMM_MEMORY {
        cpu.sse()?;
        let low = if FORM == XMM { cpu.xmm(op.src) } else { cpu.read_aligned(op)? };
        let high = cpu.xmm(op.dst);
        let value = match bits {
            0 => low,
            1..128 => low >> bits | high << (128 - bits),
            _ => high.checked_shr(bits - 128).unwrap_or(0),
        };
        cpu.set_xmm(op.dst, value);
    } else {
        cpu.mmx()?;
        let low = if FORM == MM { cpu.mm(op.src) } else { cpu.read_mem(op)? };
        let both = u128::from(cpu.mm(op.dst)) << 64 | u128::from(low);
        cpu.set_mm(op.dst, both.checked_shr(bits).unwrap_or(0) as u64);
    }
    Ok(())
}

/// Immediate bits 6 and 7: source lane, of a register only; 4 and 5: destination lane; 0 to 3: lanes that become 0.
fn insertps<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    let immediate = op.imm as u8;
    let value =
        if MEMORY { cpu.read_mem(op)? } else { doublewords(cpu.xmm(op.src))[usize::from(immediate >> 6)] };
    let mut lanes = doublewords(cpu.xmm(op.dst));
    lanes[usize::from(immediate >> 4 & 3)] = value;
    let zeroed = select(32, |n| immediate >> n & 1 != 0);
    cpu.set_xmm(op.dst, from_doublewords(lanes) & !zeroed);
    Ok(())
}

fn movddup<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    let value = cpu.source64::<MEMORY>(op)?;
    cpu.set_xmm(op.dst, from_quadwords([value, value]));
    Ok(())
}
