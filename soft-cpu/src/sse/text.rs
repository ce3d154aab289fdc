//! stub
use crate::op::{Handler, Op};
use iced_x86::Instruction;
pub(super) fn lower(_: &Instruction, _: &mut Op) -> Option<Handler> {
    None
}
