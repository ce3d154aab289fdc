//! Accepting, ranking and handling interrupts (SDM 11.5, 11.8), and the two local pins.

use super::super::message::{Delivery, Destination, Message, Signal};
use super::{ERROR, LINT0, Lapic, MASKED, Mode, Request};

/// The first vector that an APIC takes.
pub(super) const FIRST_VECTOR: u8 = 16;
/// LVT entries of the pins: remote IRR.
pub(super) const REMOTE_IRR: u32 = 1 << 14;
/// LVT entries of the pins: active low.
const ACTIVE_LOW: u32 = 1 << 13;
/// LVT entries of the pins: level-triggered.
const LEVEL: u32 = 1 << 15;

/// Bits of the error status register (SDM 11.5.3).
pub(super) const SEND_ILLEGAL_VECTOR: u8 = 1 << 5;
pub(super) const RECEIVE_ILLEGAL_VECTOR: u8 = 1 << 6;
pub(super) const ILLEGAL_REGISTER: u8 = 1 << 7;

/// An interrupt that waits for the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// The 8259A pair's, through LINT0: its acknowledge cycle gives the vector.
    External,
    /// The local APIC's own: [`Lapic::acknowledge`] gives this vector.
    Vector(u8),
}

pub(super) fn bit(vector: u8) -> (usize, u32) {
    (usize::from(vector >> 5), 1 << (vector & 31))
}

fn has(set: &[u32; 8], vector: u8) -> bool {
    let (word, mask) = bit(vector);
    set[word] & mask != 0
}

fn insert(set: &mut [u32; 8], vector: u8) {
    let (word, mask) = bit(vector);
    set[word] |= mask;
}

fn remove(set: &mut [u32; 8], vector: u8) {
    let (word, mask) = bit(vector);
    set[word] &= !mask;
}

/// The largest vector of a set: the one of the highest priority.
pub(super) fn highest(set: &[u32; 8]) -> Option<u8> {
    let (index, word) = (0..=7_u8).zip(set).rev().find(|(_, word)| **word != 0)?;
    let [bit, ..] = word.ilog2().to_le_bytes();
    Some(index << 5 | bit)
}

impl Lapic {
    /// Processor priority: task priority, or the class of what is in service (SDM 11.8.3.1).
    pub fn processor_priority(&self) -> u8 {
        let in_service = highest(&self.state.isr).unwrap_or(0) & 0xf0;
        if self.state.tpr & 0xf0 >= in_service { self.state.tpr } else { in_service }
    }

    /// Arbitration priority: who takes an interrupt for the lowest priority (SDM 11.6.2.4).
    pub fn arbitration_priority(&self) -> u8 {
        let waiting = highest(&self.state.irr).unwrap_or(0) & 0xf0;
        let in_service = highest(&self.state.isr).unwrap_or(0) & 0xf0;
        let task = self.state.tpr & 0xf0;
        if task >= waiting && task > in_service { self.state.tpr } else { (task & in_service).max(waiting) }
    }

    /// The upper four bits of the task priority: what CR8 reads (SDM 11.8.6).
    pub fn cr8(&self) -> u8 {
        self.state.tpr >> 4
    }

    /// A move to CR8. Without a local APIC it is the processor's alone.
    pub fn set_cr8(&mut self, value: u8) {
        if self.state.mode != Mode::Disabled {
            self.state.tpr = value << 4;
        }
    }

    /// The interrupt that the processor would take now, if its own flags let it.
    pub fn pending(&self) -> Option<Interrupt> {
        if self.external() {
            return Some(Interrupt::External);
        }
        if !self.is_enabled() {
            return None;
        }
        let vector = highest(&self.state.irr)?;
        (vector >> 4 > self.processor_priority() >> 4).then_some(Interrupt::Vector(vector))
    }

    /// The processor takes the local APIC's interrupt: gives its vector and puts it into service. If none waits that may be
    /// taken, gives the spurious vector, and nothing is in service (SDM 11.9).
    pub fn acknowledge(&mut self) -> u8 {
        let waiting = highest(&self.state.irr).filter(|vector| vector >> 4 > self.processor_priority() >> 4);
        let Some(vector) = waiting.filter(|_| self.is_enabled()) else {
            return self.state.svr.to_le_bytes()[0];
        };
        remove(&mut self.state.irr, vector);
        insert(&mut self.state.isr, vector);
        vector
    }

    /// A write to the EOI register: the highest interrupt in service has been handled (SDM 11.8.5).
    pub(super) fn end_of_interrupt(&mut self) -> Option<Request> {
        let vector = highest(&self.state.isr)?;
        remove(&mut self.state.isr, vector);
        if !has(&self.state.tmr, vector) {
            return None;
        }
        for pin in 0..2 {
            let entry = &mut self.state.lvt[LINT0 + pin];
            if *entry & 0xff == u32::from(vector) {
                *entry &= !REMOTE_IRR;
            }
        }
        self.sample_pins();
        Some(Request::EndOfInterrupt(vector))
    }

    /// True if a message for `destination` is for this one (SDM 11.6.2, 11.12.10).
    pub fn matches(&self, destination: Destination) -> bool {
        let id = self.state.config.id;
        match (destination, self.state.mode) {
            (_, Mode::Disabled) => false,
            (Destination::All, _) => true,
            (Destination::AllBut(other), _) => other != id,
            (Destination::Physical(one), _) => one == id,
            (Destination::Logical(mask), Mode::X2Apic) => {
                let logical = self.x2apic_logical_id();
                mask >> 16 == logical >> 16 && mask & logical & 0xffff != 0
            }
            (Destination::Logical(mask), Mode::XApic) => {
                let Ok(mask) = u8::try_from(mask) else { return false };
                let logical = self.state.logical_id;
                match self.state.model {
                    0xf => mask & logical != 0,
                    0 => (mask >> 4 == 0xf || mask >> 4 == logical >> 4) && mask & logical & 0xf != 0,
                    _ => false,
                }
            }
        }
    }

    /// Bits 31 to 16: cluster, 15 to 0: one bit of it (SDM 11.12.10.2).
    pub(super) fn x2apic_logical_id(&self) -> u32 {
        let id = self.state.config.id;
        id >> 4 << 16 | 1 << (id & 0xf)
    }

    /// Takes a message that is for this one. True if it was taken, and what the processor is to be told.
    pub(in super::super) fn receive(&mut self, message: &Message) -> (bool, Option<Signal>) {
        match message.delivery {
            Delivery::Fixed | Delivery::LowestPriority if self.is_enabled() => {
                self.accept(message.vector, message.level);
                (true, None)
            }
            Delivery::Fixed | Delivery::LowestPriority | Delivery::External => (false, None),
            Delivery::Smi => (true, None),
            Delivery::Nmi => (true, Some(Signal::Nmi)),
            Delivery::Init => {
                self.reset();
                (true, Some(Signal::Init))
            }
            Delivery::Startup => (true, Some(Signal::Startup(message.vector))),
        }
    }

    /// Puts an interrupt into IRR.
    fn accept(&mut self, vector: u8, level: bool) {
        if vector < FIRST_VECTOR {
            return self.error(RECEIVE_ILLEGAL_VECTOR);
        }
        insert(&mut self.state.irr, vector);
        if level {
            insert(&mut self.state.tmr, vector);
        } else {
            remove(&mut self.state.tmr, vector);
        }
    }

    /// The edge-triggered interrupt of an LVT entry, unless it is masked.
    pub(super) fn local_interrupt(&mut self, index: usize) {
        let entry = self.state.lvt[index];
        if entry & MASKED == 0 {
            self.accept(entry.to_le_bytes()[0], false);
        }
    }

    /// False if the edge-triggered interrupt of this LVT entry would change nothing: it waits already.
    pub(super) fn interrupt_would_be_new(&self, entry: u32) -> bool {
        match entry.to_le_bytes()[0] {
            vector @ FIRST_VECTOR.. => !has(&self.state.irr, vector),
            _ => self.state.errors & RECEIVE_ILLEGAL_VECTOR == 0,
        }
    }

    /// Notes an error. Its interrupt comes with the first one since the guest last wrote the error status register.
    pub(super) fn error(&mut self, error: u8) {
        let armed = self.state.errors == 0;
        self.state.errors |= error;
        let entry = self.state.lvt[ERROR];
        if armed && entry & MASKED == 0 {
            match entry.to_le_bytes()[0] {
                vector @ FIRST_VECTOR.. => self.accept(vector, false),
                // Another error, but none that is reported the same way again.
                _ => self.state.errors |= RECEIVE_ILLEGAL_VECTOR,
            }
        }
    }

    /// Drives pin LINT0 or LINT1 (`pin` 0 or 1; others are ignored). What the processor is to be told, if anything.
    pub fn set_line(&mut self, pin: usize, level: bool) -> Option<Signal> {
        let before = self.state.lines.get(pin).copied()?;
        if before == level {
            return None;
        }
        self.state.lines[pin] = level;
        if self.state.mode == Mode::Disabled {
            // The pins are the processor's INTR and NMI.
            return (pin == 1 && level).then_some(Signal::Nmi);
        }
        let entry = self.state.lvt[LINT0 + pin];
        let active = level != (entry & ACTIVE_LOW != 0);
        if entry & MASKED != 0 || !active {
            return None;
        }
        match Delivery::from_bits(entry >> 8) {
            Some(Delivery::Fixed) if entry & LEVEL != 0 => self.sample_pins(),
            Some(Delivery::Fixed) => self.local_interrupt(LINT0 + pin),
            Some(Delivery::Nmi) => return Some(Signal::Nmi),
            Some(Delivery::Init) => {
                self.reset();
                return Some(Signal::Init);
            }
            // ExtINT is looked at when the processor asks; there is no SMM; the others are reserved.
            _ => {}
        }
        None
    }

    fn is_active(&self, pin: usize) -> bool {
        self.state.lines[pin] != (self.state.lvt[LINT0 + pin] & ACTIVE_LOW != 0)
    }

    /// Level-triggered interrupts of the pins: one that is active and not being handled is accepted.
    pub(super) fn sample_pins(&mut self) {
        for pin in 0..2 {
            let entry = self.state.lvt[LINT0 + pin];
            let fixed = Delivery::from_bits(entry >> 8) == Some(Delivery::Fixed);
            let waits = entry & (MASKED | REMOTE_IRR | LEVEL) == LEVEL && self.is_enabled();
            if fixed && waits && self.is_active(pin) {
                let vector = entry.to_le_bytes()[0];
                if vector >= FIRST_VECTOR {
                    self.state.lvt[LINT0 + pin] |= REMOTE_IRR;
                }
                self.accept(vector, true);
            }
        }
    }

    /// The 8259A pair's INTR comes through: LINT0 is ExtINT, or there is no local APIC.
    fn external(&self) -> bool {
        if self.state.mode == Mode::Disabled {
            return self.state.lines[0];
        }
        let entry = self.state.lvt[LINT0];
        let wired = entry & MASKED == 0 && Delivery::from_bits(entry >> 8) == Some(Delivery::External);
        wired && self.is_active(0)
    }
}
