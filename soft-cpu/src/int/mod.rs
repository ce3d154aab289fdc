//! Integer instructions: arithmetic, moves, shifts, bits, stack, near branches.

mod alu;
mod bcd;
mod bits;
mod branch;
mod exchange;
mod mov;
mod muldiv;
mod place;
mod shift;
pub(crate) mod stack;

#[cfg(test)]
mod tests;

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind};

use crate::lower::{Choice, Context};
use crate::op::Op;

/// Handlers for the integer instructions.
pub(crate) fn lower(i: &Instruction, op: &mut Op, c: &Context) -> Option<Choice> {
    alu::lower(i)
        .or_else(|| mov::lower(i, op))
        .or_else(|| branch::lower(i, op, c))
        .or_else(|| stack::lower(i, op, c))
        .or_else(|| shift::lower(i, op, c))
        .or_else(|| bits::lower(i))
        .or_else(|| muldiv::lower(i, op))
        .or_else(|| exchange::lower(i))
        .or_else(|| bcd::lower(i))
}

/// Bytes of the operand that `n` names.
fn bytes_of(i: &Instruction, n: u32) -> usize {
    match i.op_kind(n) {
        OpKind::Register => i.op_register(n).size(),
        OpKind::Memory => i.memory_size().size(),
        _ => 0,
    }
}

/// Follows which instruction of the block has set all arithmetic flags, and with what width: where `tcg` leaves the open
/// flags of BT depends on it (see [`bits`]).
pub(crate) fn track_flags(i: &Instruction, c: &mut Context) {
    use Mnemonic as M;
    if i.flow_control() != FlowControl::Next {
        c.flags_width = None;
        return;
    }
    let width = |bytes: usize| Some(bytes.trailing_zeros() as u8);
    match i.mnemonic() {
        M::Add
        | M::Adc
        | M::Sub
        | M::Sbb
        | M::And
        | M::Or
        | M::Xor
        | M::Cmp
        | M::Test
        | M::Inc
        | M::Dec
        | M::Neg
        | M::Xadd
        | M::Cmpxchg
        | M::Mul
        | M::Imul
        | M::Bsf
        | M::Bsr
        | M::Tzcnt
        | M::Lzcnt
        | M::Bt
        | M::Bts
        | M::Btr
        | M::Btc => c.flags_width = width(bytes_of(i, 0)),
        M::Shl | M::Sal | M::Shr | M::Sar => {
            c.flags_width = match i.op1_kind() {
                OpKind::Immediate8 if i.immediate8() & 31 == 0 => c.flags_width,
                OpKind::Immediate8 => width(bytes_of(i, 0)),
                _ => None,
            };
        }
        M::Shld | M::Shrd => {
            c.flags_width = match i.op2_kind() {
                OpKind::Immediate8 if i.immediate8() & 31 == 0 => c.flags_width,
                OpKind::Immediate8 => width(bytes_of(i, 0)),
                _ => None,
            };
        }
        _ if i.rflags_modified() & 0x3f != 0 => c.flags_width = None,
        _ => {}
    }
}

/// Picks the instance of a generic handler for a width in bytes: `by_width!(bytes, handler, Types...)`.
macro_rules! by_width {
    ($bytes:expr, $f:path $(, $t:ty)*) => {{
        use $f as handler;
        match $bytes {
            1 => handler::<u8 $(, $t)*> as crate::op::Handler,
            2 => handler::<u16 $(, $t)*>,
            4 => handler::<u32 $(, $t)*>,
            _ => handler::<u64 $(, $t)*>,
        }
    }};
}
pub(crate) use by_width;
