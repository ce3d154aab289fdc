//! Interrupts and exceptions: what is delivered, and what becomes of exceptions while that goes on (Intel SDM vol. 3,
//! chapter 7; AMD APM vol. 2, chapter 8). The ways through the IDT are in [`super::gate`].

use crate::Behaviour;
use crate::cpu::{Cpu, Done, Trap, vector};
use crate::flags::RF;
use crate::mmu::NO_PAGE;

/// Where an event comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// an exception before the instruction at the pushed RIP: RF is pushed as 1
    Fault,
    /// an exception that is a trap, an instruction breakpoint, an external interrupt, INT1
    Other,
    /// INT n, INT3, INTO: the gate's DPL counts
    Program,
}

/// Something to be delivered through the IDT.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    pub vector: u8,
    pub code: Option<u32>,
    /// RIP that is pushed
    pub rip: u64,
    /// CR2 of a page fault
    address: u64,
    pub(super) source: Source,
    /// an exception by the processor: it counts for double faults
    exception: bool,
}

impl Event {
    /// The fault that [`Cpu::fault`] describes, of the instruction at RIP.
    pub(crate) fn fault(cpu: &Cpu) -> Self {
        let fault = cpu.fault;
        Self {
            vector: fault.vector,
            code: fault.code,
            rip: cpu.rip,
            address: fault.address,
            source: Source::Fault,
            exception: true,
        }
    }

    /// An exception that was pending: a trap behind an instruction.
    fn trap(cpu: &Cpu, vector: u8, code: Option<u32>) -> Self {
        Self { vector, code, rip: cpu.rip, address: cpu.cr2, source: Source::Other, exception: true }
    }

    /// An exception that was kept: a trap, or the fault of an instruction that made an exit, behind its sync point.
    pub(crate) fn pended(cpu: &Cpu, vector: u8, code: Option<u32>) -> Self {
        let source = if vector == vector::DB { Source::Other } else { Source::Fault };
        Self { source, ..Self::trap(cpu, vector, code) }
    }

    /// An external interrupt.
    pub(crate) fn external(cpu: &Cpu, vector: u8) -> Self {
        Self { vector, code: None, rip: cpu.rip, address: 0, source: Source::Other, exception: false }
    }

    /// An instruction breakpoint: a #DB that is a fault, but pushes RF as it is.
    pub(crate) fn breakpoint(cpu: &Cpu) -> Self {
        Self::trap(cpu, vector::DB, None)
    }

    /// An interrupt by the program, which goes on at `rip`. `icebp`: by INT1, which no gate denies.
    pub(super) fn program(vector: u8, rip: u64, icebp: bool) -> Self {
        let source = if icebp { Source::Other } else { Source::Program };
        Self { vector, code: None, rip, address: 0, source, exception: icebp }
    }

    /// CR2 once the event is delivered.
    pub(crate) fn cr2(&self, cpu: &Cpu) -> u64 {
        if self.vector == vector::PF { self.address } else { cpu.cr2 }
    }

    /// EXT of error codes: the event is not the program's doing. QEMU leaves it 0.
    pub(super) fn ext(&self, cpu: &Cpu) -> u32 {
        u32::from(self.source != Source::Program && cpu.profile.behaviour != Behaviour::Tcg)
    }

    /// RFLAGS as pushed.
    pub(super) fn flags(&self, cpu: &Cpu) -> u64 {
        let flags = cpu.flags.value();
        if self.source == Source::Fault
            && cpu.profile.behaviour != Behaviour::Tcg
            && self.vector != vector::DF
        {
            return flags | RF;
        }
        flags
    }

    fn class(&self) -> Class {
        match self.vector {
            _ if !self.exception => Class::Benign,
            vector::DE | vector::TS | vector::NP | vector::SS | vector::GP => Class::Contributory,
            vector::PF => Class::PageFault,
            vector::DF => Class::DoubleFault,
            _ => Class::Benign,
        }
    }
}

/// Intel SDM vol. 3, tables 7-4 and 7-5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

impl Cpu {
    /// Delivers an event; exceptions that this raises become #DF or a shutdown.
    ///
    /// # Errors
    /// Shutdown, or what delivery needs is refused.
    pub(crate) fn deliver(&mut self, event: Event) -> Done {
        self.mmu.running = [NO_PAGE; 2]; // no block runs
        let mut event = event;
        loop {
            if event.vector == vector::PF && event.exception {
                self.cr2 = event.address;
            }
            match self.enter(&event) {
                Ok(()) => {
                    if event.vector == vector::DB && event.exception {
                        self.dr7 &= !super::debug::DR7_GD;
                    }
                    self.shadow = 0;
                    self.update_careful();
                    return Ok(());
                }
                Err(Trap::Fault) => event = self.second(&event)?,
                Err(trap @ (Trap::Refused | Trap::Shutdown)) => return Err(trap),
                Err(_) => return Err(self.refuse("event delivery through memory that is not RAM")),
            }
        }
    }

    /// Keeps an exception for later; a page fault's address is in CR2 already.
    pub(crate) fn pend(&mut self, event: &Event) {
        self.cr2 = event.cr2(self);
        self.exception = Some((event.vector, event.code));
        self.update_careful();
    }

    /// What follows from a fault while `first` was being delivered.
    fn second(&mut self, first: &Event) -> Result<Event, Trap> {
        let second = Event { rip: self.rip, ..Event::fault(self) };
        let double = match (first.class(), second.class()) {
            (Class::DoubleFault, _) => return Err(Trap::Shutdown),
            (Class::Contributory, Class::Contributory)
            | (Class::PageFault, Class::Contributory | Class::PageFault) => true,
            _ => false,
        };
        if !double {
            return Ok(second);
        }
        if second.vector == vector::PF {
            self.cr2 = second.address;
        }
        Ok(Event { vector: vector::DF, code: Some(0), ..second })
    }
}
