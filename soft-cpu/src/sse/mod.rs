//! MMX and SSE up to SSE4.2, CRC32, FXSAVE and FXRSTOR.
//!
//! Integer instructions are the compiler's own SSE2 intrinsics or plain code lane by lane; floating-point instructions
//! are the host's, run with the guest's MXCSR ([`host`]), and RCPPS and RSQRTPS have fixed results ([`estimate`]).

mod convert;
mod estimate;
mod float;
mod fxsave;
mod general;
mod host;
mod lanes;
mod moves;
mod operand;
mod packed;
mod range;
mod rearrange;
mod shift;
mod text;
mod wide;

use iced_x86::{Instruction, OpKind};

use crate::lower::{Choice, Context};
use crate::op::{Handler, Op};

/// Chooses the handler of an MMX or SSE instruction.
pub(crate) fn lower(i: &Instruction, op: &mut Op, _: &Context) -> Option<Choice> {
    let run = moves::lower(i)
        .or_else(|| packed::lower(i))
        .or_else(|| float::lower(i))
        .or_else(|| rearrange::lower(i))
        .or_else(|| shift::lower(i))
        .or_else(|| wide::lower(i))
        .or_else(|| general::lower(i, op))
        .or_else(|| text::lower(i))
        .or_else(|| fxsave::lower(i))?;
    Choice::on(run)
}

/// True if an operand is in memory.
fn has_memory(i: &Instruction) -> bool {
    (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory)
}

/// The handler for a register or for memory.
fn choose(i: &Instruction, register: Handler, memory: Handler) -> Option<Handler> {
    Some(if has_memory(i) { memory } else { register })
}

#[cfg(test)]
mod against_host;
#[cfg(test)]
mod native;
#[cfg(test)]
mod tests;
