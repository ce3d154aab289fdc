//! Interrupts and exceptions.
use crate::cpu::{Cpu, Done};

/// Something to be delivered through the IDT.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    pub vector: u8,
    pub code: Option<u32>,
    /// RIP that is pushed
    pub rip: u64,
}

impl Event {
    /// The fault that [`Cpu::fault`] describes, of the instruction at RIP.
    pub(crate) fn fault(cpu: &Cpu) -> Self {
        Self { vector: cpu.fault.vector, code: cpu.fault.code, rip: cpu.rip }
    }
    /// A trap behind an instruction: #DB.
    pub(crate) fn trap(cpu: &Cpu, vector: u8, code: Option<u32>) -> Self {
        Self { vector, code, rip: cpu.rip }
    }
    /// An external interrupt.
    pub(crate) fn external(cpu: &Cpu, vector: u8) -> Self {
        Self { vector, code: None, rip: cpu.rip }
    }
    /// An instruction breakpoint: a #DB that is a fault.
    pub(crate) fn breakpoint(cpu: &Cpu) -> Self {
        Self { vector: 1, code: None, rip: cpu.rip }
    }
}

impl Cpu {
    /// Delivers an event; exceptions that this raises become #DF or a shutdown.
    pub(crate) fn deliver(&mut self, _event: Event) -> Done {
        Err(crate::cpu::Trap::Shutdown)
    }
}
