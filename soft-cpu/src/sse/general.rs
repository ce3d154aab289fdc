//! SIMD instructions that meet general registers, flags or memory in their own way, and CRC32.

use iced_x86::{Code, Instruction, Mnemonic};

use crate::cpu::{Cpu, Done, RDI};
use crate::flags::{CF, ZF};
use crate::op::{Handler, Op};
use crate::word::Word;

use super::choose;
use super::lanes::bytes;

pub(super) fn lower(i: &Instruction, op: &mut Op) -> Option<Handler> {
    use Code as C;
    use Mnemonic as M;
    match i.code() {
        C::Maskmovq_rDI_mm_mm => {
            at_rdi(op);
            return Some(maskmovq);
        }
        C::Maskmovdqu_rDI_xmm_xmm => {
            at_rdi(op);
            return Some(maskmovdqu);
        }
        C::Movnti_m32_r32 => return Some(movnti::<u32>),
        C::Movnti_m64_r64 => return Some(movnti::<u64>),
        C::Crc32_r32_rm8 | C::Crc32_r64_rm8 => return choose(i, crc32::<u8, false>, crc32::<u8, true>),
        C::Crc32_r32_rm16 => return choose(i, crc32::<u16, false>, crc32::<u16, true>),
        C::Crc32_r32_rm32 => return choose(i, crc32::<u32, false>, crc32::<u32, true>),
        C::Crc32_r64_rm64 => return choose(i, crc32::<u64, false>, crc32::<u64, true>),
        C::Pextrw_r32_mm_imm8 | C::Pextrw_r64_mm_imm8 => return Some(pextrw_mm),
        C::Pinsrw_mm_r32m16_imm8 | C::Pinsrw_mm_r64m16_imm8 => {
            return choose(i, pinsrw_mm::<false>, pinsrw_mm::<true>);
        }
        C::Pmovmskb_r32_mm | C::Pmovmskb_r64_mm => return Some(pmovmskb_mm),
        _ => {}
    }
    match i.mnemonic() {
        M::Movmskps => Some(mask::<32>),
        M::Movmskpd => Some(mask::<64>),
        M::Pmovmskb => Some(mask::<8>),
        M::Ptest => choose(i, ptest::<false>, ptest::<true>),
        M::Pinsrb => choose(i, insert::<u8, false>, insert::<u8, true>),
        M::Pinsrw => choose(i, insert::<u16, false>, insert::<u16, true>),
        M::Pinsrd => choose(i, insert::<u32, false>, insert::<u32, true>),
        M::Pinsrq => choose(i, insert::<u64, false>, insert::<u64, true>),
        M::Pextrb => choose(i, extract::<u8, false>, extract::<u8, true>),
        M::Pextrw => choose(i, extract::<u16, false>, extract::<u16, true>),
        M::Pextrd | M::Extractps => choose(i, extract::<u32, false>, extract::<u32, true>),
        M::Pextrq => choose(i, extract::<u64, false>, extract::<u64, true>),
        _ => None,
    }
}

/// The top bits of an XMM register's lanes.
fn mask<const BITS: u32>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    let value = cpu.xmm(op.src);
    let mask = (0..128 / BITS).fold(0, |sum, n| sum | (value >> (BITS * n + BITS - 1) & 1) << n);
    cpu.set_reg(op.dst, mask as u64);
    Ok(())
}

fn pmovmskb_mm(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.mmx()?;
    let value = cpu.mm(op.src);
    let mask = (0..8).fold(0, |sum, n| sum | (value >> (8 * n + 7) & 1) << n);
    cpu.set_reg(op.dst, mask);
    cpu.enter_mmx();
    Ok(())
}

fn ptest<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    let b = cpu.source::<MEMORY>(op)?;
    let a = cpu.xmm(op.dst);
    let zero = if a & b == 0 { ZF } else { 0 };
    let carry = if !a & b == 0 { CF } else { 0 };
    cpu.flags.set_known(zero | carry);
    Ok(())
}

/// The bit at which the lane that an immediate names starts, of `lanes` lanes of `bits` bits.
fn lane_start(op: &Op, bits: u32, lanes: u32) -> u32 {
    (op.imm as u32 & (lanes - 1)) * bits
}

fn insert<W: Word, const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    let value: W = if MEMORY { cpu.read_mem(op)? } else { cpu.reg(op.src) };
    let start = lane_start(op, W::BITS, 128 / W::BITS);
    let cleared = cpu.xmm(op.dst) & !(u128::from(W::MASK) << start);
    cpu.set_xmm(op.dst, cleared | u128::from(value.wide()) << start);
    Ok(())
}

fn extract<W: Word, const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    let start = lane_start(op, W::BITS, 128 / W::BITS);
    if MEMORY {
        let value = W::cut((cpu.xmm(op.dst) >> start) as u64);
        return cpu.write_mem(op, value);
    }
    let value = W::cut((cpu.xmm(op.src) >> start) as u64);
    cpu.set_reg(op.dst, value.wide());
    Ok(())
}

fn pinsrw_mm<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.mmx()?;
    let value: u16 = if MEMORY { cpu.read_mem(op)? } else { cpu.reg(op.src) };
    let start = lane_start(op, 16, 4);
    let cleared = cpu.mm(op.dst) & !(0xffff << start);
    cpu.set_mm(op.dst, cleared | u64::from(value) << start);
    Ok(())
}

fn pextrw_mm(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.mmx()?;
    let value = cpu.mm(op.src) >> lane_start(op, 16, 4) & 0xffff;
    cpu.set_reg(op.dst, value);
    cpu.enter_mmx();
    Ok(())
}

fn movnti<W: Word>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.write_mem(op, cpu.reg::<W>(op.dst))
}

/// The memory operand of MASKMOVQ and MASKMOVDQU: at rDI, in DS unless overridden.
fn at_rdi(op: &mut Op) {
    op.base = RDI;
    op.disp = 0;
    op.flat = op.address == 64 && op.seg < 4;
}

/// Stores those of the first `count` bytes of `data` whose byte in `mask` has its top bit set. The others' places are
/// neither checked nor read.
fn store_masked(cpu: &mut Cpu, op: &Op, data: u128, mask: u128, count: usize) -> Done {
    let (data, mask) = (bytes(data), bytes(mask));
    let chosen = |n: &usize| mask[*n] & 0x80 != 0;
    let start = cpu.linear(op, count as u64, true)?;
    let at = |n: usize| start.wrapping_add(n as u64);
    // The whole operand must be writable, even with an empty mask: as AMD's processors have it.
    cpu.check_alignment(start, 8)?;
    cpu.check_writable(start, count as u64)?;
    for n in (0..count).filter(chosen) {
        cpu.store(at(n), data[n])?;
    }
    Ok(())
}

fn maskmovq(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.mmx()?;
    // Even if the store faults, as AMD's processors have it; doing it again changes nothing.
    cpu.enter_mmx();
    store_masked(cpu, op, cpu.mm(op.dst).into(), cpu.mm(op.src).into(), 8)
}

fn maskmovdqu(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    store_masked(cpu, op, cpu.xmm(op.dst), cpu.xmm(op.src), 16)
}

/// CRC-32C of each byte, bits reversed.
const CRC: [u32; 256] = {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        let mut crc = n as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = crc >> 1 ^ if crc & 1 != 0 { 0x82f6_3b78 } else { 0 };
            bit += 1;
        }
        table[n] = crc;
        n += 1;
    }
    table
};

fn crc32<W: Word, const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    let value: W = if MEMORY { cpu.read_mem(op)? } else { cpu.reg(op.src) };
    let mut crc: u32 = cpu.reg(op.dst);
    for byte in value.wide().to_le_bytes().into_iter().take(W::BYTES as usize) {
        crc = crc >> 8 ^ CRC[usize::from(crc as u8 ^ byte)];
    }
    cpu.set_reg(op.dst, u64::from(crc));
    Ok(())
}
