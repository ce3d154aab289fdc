//! Where an interrupt must be taken, from the manual and the guest's code: what the engine does is no part of it.
//!
//! SDM volume 3, section 6.8.1 and volume 2, STI and MOV: with IF set, at the next boundary of instructions or of iterations of
//! REP; not behind an STI that has just set IF, nor behind a MOV to SS, until the instruction after it is over.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use super::guest::Call;
use super::stage::Boundary;
use crate::tiny;

const IF: u64 = 0x200;
/// Set in the flags of a REP instruction that was interrupted, on some processors.
const RF: u64 = 0x1_0000;

/// The guest's code, to be asked what an instruction does.
#[derive(Debug)]
pub struct Model {
    code: Vec<u8>,
}

impl Model {
    /// For code at [`tiny::CODE`].
    pub fn new(code: Vec<u8>) -> Self {
        Self { code }
    }

    /// The instruction at this address.
    fn at(&self, rip: u64) -> Option<Instruction> {
        let offset = usize::try_from(rip.checked_sub(tiny::CODE)?).ok()?;
        let mut decoder = Decoder::with_ip(64, self.code.get(offset..)?, rip, DecoderOptions::NONE);
        decoder.can_decode().then(|| decoder.decode())
    }

    /// True if the instruction at `rip` is this one.
    pub fn is(&self, rip: u64, mnemonic: Mnemonic) -> bool {
        self.at(rip).is_some_and(|instruction| instruction.mnemonic() == mnemonic)
    }

    /// True if the instruction at `rip` is a MOV to SS.
    pub fn is_to_ss(&self, rip: u64) -> bool {
        self.at(rip).is_some_and(|instruction| to_ss(&instruction))
    }

    /// True if the vCPU takes an interrupt between what retired last, which began at `before`, and what comes at `here`.
    fn takes(&self, before: Option<&Boundary>, here: &Boundary) -> bool {
        let shadow = before.and_then(|before| {
            let retired = self.at(before.registers.rip)?;
            Some(match retired.mnemonic() {
                Mnemonic::Sti => before.registers.rflags & IF == 0,
                _ => to_ss(&retired),
            })
        });
        here.registers.rflags & IF != 0 && !shadow.unwrap_or(false)
    }

    /// What the handler sees of an interrupt that is asked for at boundary `number` of these, which are all of a run to
    /// which it does not come.
    pub fn call(&self, boundaries: &[Boundary], number: usize) -> Option<Call> {
        let before = |n: usize| n.checked_sub(1).map(|n| &boundaries[n]);
        let taken = (number..boundaries.len()).find(|n| self.takes(before(*n), &boundaries[*n]))?;
        let registers = &boundaries[taken].registers;
        let [_, rcx, _, _, rsp, ..] = registers.general;
        Some(Call { rip: registers.rip, rflags: registers.rflags & !RF, rcx, rsp })
    }
}

fn to_ss(instruction: &Instruction) -> bool {
    instruction.mnemonic() == Mnemonic::Mov
        && instruction.op0_kind() == OpKind::Register
        && instruction.op0_register() == Register::SS
}

/// What the handler saw, less what processors differ in.
pub fn comparable(calls: &[Call]) -> Vec<Call> {
    calls.iter().map(|call| Call { rflags: call.rflags & !RF, ..*call }).collect()
}
