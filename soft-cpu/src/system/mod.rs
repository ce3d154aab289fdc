//! Instructions of the system: modes, segments, interrupts, MSRs.

mod control;
mod debug;
mod descriptor;
pub(crate) mod event;
mod far;
mod flag;
mod gate;
mod hint;
mod interrupt;
mod io;
mod load;
mod msr;
mod segment;
mod stack;
mod syscall;
mod tables;
#[cfg(test)]
mod tests;

pub(crate) use control::{CR0_KNOWN, CR3_RESERVED, CR4_KNOWN};
pub(crate) use msr::EFER_KNOWN;

use iced_x86::Instruction;

use crate::lower::{Choice, Context};
use crate::op::Op;

type Lower = fn(&Instruction, &mut Op, &Context) -> Option<Choice>;

const PARTS: [Lower; 11] = [
    flag::lower,
    hint::lower,
    msr::lower,
    io::lower,
    syscall::lower,
    interrupt::lower,
    control::lower,
    load::lower,
    debug::lower,
    far::lower,
    tables::lower,
];

pub(crate) fn lower(i: &Instruction, op: &mut Op, c: &Context) -> Option<Choice> {
    let before = *op;
    let choice = PARTS.iter().find_map(|part| part(i, op, c));
    if choice.is_none() {
        *op = before; // for other groups
    }
    choice
}
