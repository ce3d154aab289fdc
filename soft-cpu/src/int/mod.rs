//! Stub.
use crate::lower::{Choice, Context};
use crate::op::Op;
use iced_x86::Instruction;
pub(crate) fn lower(_i: &Instruction, _op: &mut Op, _c: &Context) -> Option<Choice> {
    None
}
/// Follows which instruction has set the flags, for what tcg leaves in open flags.
pub(crate) fn track_flags(_i: &Instruction, _c: &mut Context) {}
