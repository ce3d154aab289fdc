//! Instructions of the system: modes, segments, interrupts, MSRs.

pub(crate) mod event;
pub(crate) mod segment;

use crate::lower::{Choice, Context};
use crate::op::Op;
use iced_x86::Instruction;

pub(crate) fn lower(_i: &Instruction, _op: &mut Op, _c: &Context) -> Option<Choice> {
    None
}

impl crate::cpu::Cpu {
    /// Permission for a port access.
    pub(crate) fn check_io(&mut self, _port: u16, _size: u8) -> crate::cpu::Done {
        Ok(())
    }
}
