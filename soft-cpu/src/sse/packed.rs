//! Packed integer arithmetic, comparison, logic, packing and interleaving that SSE2 has.
//!
//! MMX registers are computed with as the low half of an XMM register.

use iced_x86::{Instruction, Mnemonic};

use crate::cpu::{Cpu, Done};
use crate::op::{Handler, Op};

use super::host;
use super::lanes::{by_form, combine, combined, lanewise};
use super::operand::MM_MEMORY;

macro_rules! each {
    ($i:expr, $f:ident) => {
        lanewise!($i, host::$f)
    };
}

/// Packing: an MMX register's result is packed from both operands side by side.
macro_rules! pack {
    ($i:expr, $f:ident) => {
        combined!($i, host::$f, |a, b| {
            let both = u128::from(b) << 64 | u128::from(a);
            host::$f(both, both) as u64
        })
    };
}

/// Interleaving of low halves: with memory, MMX reads 4 bytes of it only.
macro_rules! unpack_low {
    ($i:expr, $f:ident) => {{
        fn run<const FORM: u8>(cpu: &mut Cpu, op: &Op) -> Done {
            let f = host::$f;
            if FORM == MM_MEMORY {
                cpu.mmx()?;
                let b: u32 = cpu.read_mem(op)?;
                cpu.set_mm(op.dst, f(cpu.mm(op.dst).into(), b.into()) as u64);
                return Ok(());
            }
            combine::<FORM>(cpu, op, f, |a, b| f(a.into(), b.into()) as u64)
        }
        by_form($i, [run::<0>, run::<1>, run::<2>, run::<3>])
    }};
}

/// Interleaving of high halves, which for MMX are the second half of what interleaving low halves of XMM gives.
macro_rules! unpack_high {
    ($i:expr, $f:ident, $low:ident) => {
        combined!($i, host::$f, |a, b| (host::$low(a.into(), b.into()) >> 64) as u64)
    };
}

pub(super) fn lower(i: &Instruction) -> Option<Handler> {
    use Mnemonic as M;
    match i.mnemonic() {
        M::Paddb => each!(i, _mm_add_epi8),
        M::Paddw => each!(i, _mm_add_epi16),
        M::Paddd => each!(i, _mm_add_epi32),
        M::Paddq => each!(i, _mm_add_epi64),
        M::Paddsb => each!(i, _mm_adds_epi8),
        M::Paddsw => each!(i, _mm_adds_epi16),
        M::Paddusb => each!(i, _mm_adds_epu8),
        M::Paddusw => each!(i, _mm_adds_epu16),
        M::Psubb => each!(i, _mm_sub_epi8),
        M::Psubw => each!(i, _mm_sub_epi16),
        M::Psubd => each!(i, _mm_sub_epi32),
        M::Psubq => each!(i, _mm_sub_epi64),
        M::Psubsb => each!(i, _mm_subs_epi8),
        M::Psubsw => each!(i, _mm_subs_epi16),
        M::Psubusb => each!(i, _mm_subs_epu8),
        M::Psubusw => each!(i, _mm_subs_epu16),
        M::Pcmpeqb => each!(i, _mm_cmpeq_epi8),
        M::Pcmpeqw => each!(i, _mm_cmpeq_epi16),
        M::Pcmpeqd => each!(i, _mm_cmpeq_epi32),
        M::Pcmpgtb => each!(i, _mm_cmpgt_epi8),
        M::Pcmpgtw => each!(i, _mm_cmpgt_epi16),
        M::Pcmpgtd => each!(i, _mm_cmpgt_epi32),
        M::Pminub => each!(i, _mm_min_epu8),
        M::Pmaxub => each!(i, _mm_max_epu8),
        M::Pminsw => each!(i, _mm_min_epi16),
        M::Pmaxsw => each!(i, _mm_max_epi16),
        M::Pavgb => each!(i, _mm_avg_epu8),
        M::Pavgw => each!(i, _mm_avg_epu16),
        M::Pmullw => each!(i, _mm_mullo_epi16),
        M::Pmulhw => each!(i, _mm_mulhi_epi16),
        M::Pmulhuw => each!(i, _mm_mulhi_epu16),
        M::Pmuludq => each!(i, _mm_mul_epu32),
        M::Pmaddwd => each!(i, _mm_madd_epi16),
        M::Psadbw => each!(i, _mm_sad_epu8),
        M::Pand | M::Andps | M::Andpd => lanewise!(i, |a: u128, b: u128| a & b),
        M::Pandn | M::Andnps | M::Andnpd => lanewise!(i, |a: u128, b: u128| !a & b),
        M::Por | M::Orps | M::Orpd => lanewise!(i, |a: u128, b: u128| a | b),
        M::Pxor | M::Xorps | M::Xorpd => lanewise!(i, |a: u128, b: u128| a ^ b),
        M::Packsswb => pack!(i, _mm_packs_epi16),
        M::Packuswb => pack!(i, _mm_packus_epi16),
        M::Packssdw => pack!(i, _mm_packs_epi32),
        M::Punpcklbw => unpack_low!(i, _mm_unpacklo_epi8),
        M::Punpcklwd => unpack_low!(i, _mm_unpacklo_epi16),
        M::Punpckldq | M::Unpcklps => unpack_low!(i, _mm_unpacklo_epi32),
        M::Punpcklqdq | M::Unpcklpd => each!(i, _mm_unpacklo_epi64),
        M::Punpckhbw => unpack_high!(i, _mm_unpackhi_epi8, _mm_unpacklo_epi8),
        M::Punpckhwd => unpack_high!(i, _mm_unpackhi_epi16, _mm_unpacklo_epi16),
        M::Punpckhdq | M::Unpckhps => unpack_high!(i, _mm_unpackhi_epi32, _mm_unpacklo_epi32),
        M::Punpckhqdq | M::Unpckhpd => each!(i, _mm_unpackhi_epi64),
        _ => None,
    }
}
