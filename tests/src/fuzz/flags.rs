//! Which flags the manuals leave undefined after an instruction, followed through a sequence.

use super::case::{Case, Piece};
use iced_x86::{Instruction, Mnemonic, OpKind, Register, RflagsBits};

/// RFLAGS bits of iced's flag set.
const BITS: [(u32, u64); 7] = [
    (RflagsBits::CF, 1),
    (RflagsBits::PF, 1 << 2),
    (RflagsBits::AF, 1 << 4),
    (RflagsBits::ZF, 1 << 6),
    (RflagsBits::SF, 1 << 7),
    (RflagsBits::DF, 1 << 10),
    (RflagsBits::OF, 1 << 11),
];

fn rflags(set: u32) -> u64 {
    BITS.iter().filter(|(bit, _)| set & bit != 0).map(|(_, flag)| flag).sum()
}

/// Flags that an instruction reads.
pub fn read(instruction: &Instruction) -> u64 {
    rflags(instruction.rflags_read())
}

/// The count of a shift by a constant, as the processor masks it.
fn count(instruction: &Instruction) -> Option<u32> {
    let last = instruction.op_count() - 1;
    let mask =
        if instruction.op_register(0).is_gpr64() || instruction.memory_size().size() == 8 { 63 } else { 31 };
    match instruction.op_kind(last) {
        OpKind::Immediate8 => Some(u32::from(instruction.immediate8()) & mask),
        _ => None,
    }
}

/// Flags undefined behind an instruction, and flags that it defines, whatever its operands' values are.
fn effect(instruction: &Instruction) -> (u64, u64) {
    let undefined = rflags(instruction.rflags_undefined());
    let modified = rflags(instruction.rflags_modified());
    let defined = modified & !undefined;
    let carry = 1;
    let overflow = 1 << 11;
    match instruction.mnemonic() {
        Mnemonic::Shl | Mnemonic::Sal | Mnemonic::Shr | Mnemonic::Sar | Mnemonic::Shld | Mnemonic::Shrd => {
            let adjust = 1 << 4;
            let size = match instruction.op0_kind() {
                OpKind::Register => instruction.op0_register().size(),
                _ => instruction.memory_size().size(),
            };
            match count(instruction) {
                Some(0) => (0, 0),
                Some(1) => (adjust, 0x8d5 & !adjust),
                // the carry comes from beyond the operand
                Some(count) if count as usize >= 8 * size => (adjust | overflow | carry, 0xc4),
                Some(_) => (adjust | overflow, 0xc5),
                // perhaps none, perhaps many
                None if size <= 2 => (adjust | overflow | carry, 0),
                None => (adjust | overflow, 0),
            }
        }
        Mnemonic::Rol | Mnemonic::Ror | Mnemonic::Rcl | Mnemonic::Rcr => match count(instruction) {
            Some(0) => (0, 0),
            Some(1) => (0, carry | overflow),
            _ => (overflow, 0),
        },
        // none at all if RCX is 0
        _ if instruction.has_rep_prefix() || instruction.has_repne_prefix() => (undefined, 0),
        _ => (undefined, defined),
    }
}

/// Where each remaining piece begins and which flags are undefined there, and the end; `None` if a piece would read one
/// that is, so that differences would come of it.
pub fn undefined(case: &Case) -> Option<Vec<(u64, u64)>> {
    let mut places = Vec::with_capacity(case.pieces.len() + 1);
    let mut now = 0;
    let mut jumped = None;
    let mut ip = case.machine.rip;
    for piece in &case.pieces {
        places.push((ip, now));
        ip += piece.bytes.len() as u64;
        if piece.dropped {
            now |= jumped.take().unwrap_or(0);
            continue;
        }
        if read(&piece.instruction) & now != 0 {
            return None;
        }
        let before = now;
        now = after(piece, now) | jumped.take().unwrap_or(0);
        if piece.skips {
            jumped = Some(before);
        }
    }
    places.push((ip, now));
    Some(places)
}

/// Flags undefined behind a piece.
pub fn after(piece: &Piece, before: u64) -> u64 {
    let (undefined, defined) = effect(&piece.instruction);
    before & !defined | undefined
}

/// True if a shift may have a count beyond its operand, which leaves the result undefined: SHLD and SHRD of 16 bits.
pub fn wide_count(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Shld | Mnemonic::Shrd)
        && instruction.op1_register().is_gpr16()
        && (instruction.op_kind(2) != OpKind::Immediate8 || instruction.immediate8() & 31 > 16)
}

/// True if the piece counts by CL.
pub fn counts_by_cl(instruction: &Instruction) -> bool {
    instruction.op_count() == 3
        && instruction.op_kind(2) == OpKind::Register
        && instruction.op2_register() == Register::CL
}
