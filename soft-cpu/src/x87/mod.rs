//! Stub.
use crate::lower::{Choice, Context};
use crate::op::Op;
use iced_x86::Instruction;
pub(crate) fn lower(_i: &Instruction, _op: &mut Op, _c: &Context) -> Option<Choice> {
    None
}
