//! The I/O APIC: 24 pins, each with an entry that says which message its interrupt is (82093AA data sheet, Intel order
//! number 290566; version 0x20 adds the EOI register).
//!
//! Nothing is sent by itself: [`IoApic::service`] gives the machine what waits, and is told whether some local APIC took
//! it. A level-triggered interrupt that nobody took waits on; an edge-triggered one is gone.
//! - Registers answer to accesses of 4 bytes; others read all ones and write nothing.
//! - An edge on a masked pin is lost (3.2.4, "Interrupt Mask"); KVM keeps it.
//! - NMI, SMI, INIT and ExtINT are edge-triggered whatever the entry says. Nobody takes ExtINT: the 8259A pair hangs on the
//!   local APIC's LINT0.

use serde::{Deserialize, Serialize};

use super::message::{Delivery, Destination, Message};
use crate::snapshot::{RestoreError, Snapshot, require};

#[cfg(test)]
mod tests;

/// Pins, and entries of the redirection table.
pub const PINS: u8 = 24;

const INDEX: u64 = 0x00;
const WINDOW: u64 = 0x10;
const END_OF_INTERRUPT: u64 = 0x40;

/// Highest entry, and version.
const VERSION: u32 = (PINS as u32 - 1) << 16 | 0x20;

const ACTIVE_LOW: u64 = 1 << 13;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
/// The lower half of an entry, as far as it can be written; delivery status, bit 12, is always "idle".
const WRITABLE_LOW: u64 = 0x1_afff;
/// The upper half: the destination.
const WRITABLE_HIGH: u64 = 0xff << 56;

/// The I/O APIC.
#[derive(Clone, Debug)]
pub struct IoApic {
    state: IoApicState,
}

/// State of [`IoApic`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoApicState {
    /// APIC ID, four bits.
    pub id: u8,
    /// Arbitration ID: as the ID when it was last written.
    pub arbitration: u8,
    /// Register that the window shows.
    pub index: u8,
    /// Redirection table.
    pub entries: [u64; PINS as usize],
    /// Levels of the pins.
    pub lines: u32,
    /// Edges that have been seen and not been sent.
    pub edges: u32,
}

/// How an entry's interrupt is sent; `None` for a reserved delivery mode.
fn delivery(entry: u64) -> Option<Delivery> {
    Delivery::from_bits(entry.to_le_bytes()[1].into())
}

fn is_level(entry: u64) -> bool {
    entry & LEVEL != 0 && matches!(delivery(entry), Some(Delivery::Fixed | Delivery::LowestPriority))
}

impl IoApicState {
    fn is_active(&self, pin: u8, entry: u64) -> bool {
        (self.lines >> pin & 1 != 0) != (entry & ACTIVE_LOW != 0)
    }
}

impl IoApic {
    /// An I/O APIC after power-on: all pins masked, ID `id` (four bits), as firmware gives it one.
    pub fn new(id: u8) -> Self {
        let id = id & 0xf;
        let entries = [MASKED; PINS as usize];
        IoApic { state: IoApicState { id, arbitration: id, index: 0, entries, lines: 0, edges: 0 } }
    }

    /// Serves a read of `size` bytes at `offset` from its base.
    pub fn read(&self, offset: u64, size: u8) -> u64 {
        match (offset, size) {
            (INDEX, 4) => self.state.index.into(),
            (WINDOW, 4) => self.load().into(),
            (END_OF_INTERRUPT, 4) => 0,
            _ => u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8))),
        }
    }

    /// Serves a write of `size` bytes. What waits then is for [`service`](Self::service).
    pub fn write(&mut self, offset: u64, size: u8, value: u64) {
        let [low, _, _, high, ..] = value.to_le_bytes();
        match (offset, size) {
            (INDEX, 4) => self.state.index = low,
            (WINDOW, 4) => match self.state.index {
                0 => (self.state.id, self.state.arbitration) = (high & 0xf, high & 0xf),
                _ => self.store(value & 0xffff_ffff),
            },
            (END_OF_INTERRUPT, 4) => self.end_of_interrupt(low),
            _ => {}
        }
    }

    fn load(&self) -> u32 {
        match self.state.index {
            0 => u32::from(self.state.id) << 24,
            1 => VERSION,
            2 => u32::from(self.state.arbitration) << 24,
            index => match self.entry_at(index) {
                Some((pin, high)) => {
                    let entry = self.state.entries[pin];
                    let half = if high { entry >> 32 } else { entry & 0xffff_ffff };
                    u32::try_from(half).unwrap_or(0)
                }
                None => 0,
            },
        }
    }

    /// The entry, and its upper half, that an index names.
    fn entry_at(&self, index: u8) -> Option<(usize, bool)> {
        let number = index.checked_sub(0x10).filter(|number| *number < 2 * PINS)?;
        Some((usize::from(number / 2), number % 2 == 1))
    }

    fn store(&mut self, value: u64) {
        let Some((pin, high)) = self.entry_at(self.state.index) else { return };
        let entry = &mut self.state.entries[pin];
        if high {
            *entry = *entry & 0xffff_ffff | value << 32 & WRITABLE_HIGH;
            return;
        }
        *entry = *entry & (WRITABLE_HIGH | REMOTE_IRR) | value & WRITABLE_LOW;
        if !is_level(*entry) {
            // Kernels get rid of a remote IRR that way, where there is no EOI register.
            *entry &= !REMOTE_IRR;
        }
        if is_level(*entry) || *entry & MASKED != 0 {
            self.state.edges &= !(1 << pin);
        }
    }

    /// Drives pin `pin`; numbers from [`PINS`] on are ignored.
    pub fn set_line(&mut self, pin: u8, level: bool) {
        let Some(entry) = self.state.entries.get(usize::from(pin)).copied() else { return };
        let before = self.state.is_active(pin, entry);
        self.state.lines = self.state.lines & !(1 << pin) | u32::from(level) << pin;
        let rises = !before && self.state.is_active(pin, entry);
        if rises && !is_level(entry) && entry & MASKED == 0 {
            self.state.edges |= 1 << pin;
        }
    }

    /// One rising edge on pin `pin`: low, then high.
    pub fn pulse(&mut self, pin: u8) {
        self.set_line(pin, false);
        self.set_line(pin, true);
    }

    /// The first unmasked pin whose interrupt has this vector.
    pub fn pin_of(&self, vector: u8) -> Option<u8> {
        let sends = |entry: &u64| entry & MASKED == 0 && entry.to_le_bytes()[0] == vector;
        (0..PINS).zip(&self.state.entries).find(|(_, entry)| sends(entry)).map(|(pin, _)| pin)
    }

    /// True if nothing on pin `pin` gets through.
    pub fn is_masked(&self, pin: u8) -> bool {
        self.state.entries.get(usize::from(pin)).is_none_or(|entry| entry & MASKED != 0)
    }

    /// Gives what waits to `send`, which says whether some local APIC took it: each pin at most once, in their order.
    pub fn service(&mut self, mut send: impl FnMut(&Message) -> bool) {
        for pin in 0..PINS {
            let entry = self.state.entries[usize::from(pin)];
            let level = is_level(entry);
            let edge = self.state.edges & 1 << pin != 0;
            let due = level && entry & REMOTE_IRR == 0 && self.state.is_active(pin, entry) || edge;
            let Some(delivery) = delivery(entry).filter(|_| due && entry & MASKED == 0) else { continue };
            self.state.edges &= !(1 << pin);
            let [vector, _, _, _, _, _, _, destination] = entry.to_le_bytes();
            let destination = Destination::from_byte(destination, entry & 1 << 11 != 0);
            if send(&Message { destination, delivery, vector, level }) && level {
                self.state.entries[usize::from(pin)] |= REMOTE_IRR;
            }
        }
    }

    /// A local APIC, or the EOI register, says that the handling of level-triggered interrupts with this vector has ended:
    /// a line that is still active waits again.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        for entry in &mut self.state.entries {
            if is_level(*entry) && entry.to_le_bytes()[0] == vector {
                *entry &= !REMOTE_IRR;
            }
        }
    }
}

impl Snapshot for IoApic {
    const KIND: &'static str = "ioapic";
    const VERSION: u16 = 1;
    type State = IoApicState;

    fn save(&self) -> IoApicState {
        self.state.clone()
    }

    fn restore(&mut self, state: IoApicState) -> Result<(), RestoreError> {
        require(state.id < 16, Self::KIND, "id", state.id, "four bits")?;
        require(state.arbitration < 16, Self::KIND, "arbitration", state.arbitration, "four bits")?;
        for (name, pins) in [("lines", state.lines), ("edges", state.edges)] {
            require(pins >> PINS == 0, Self::KIND, name, pins, "24 bits")?;
        }
        for (pin, &entry) in state.entries.iter().enumerate() {
            let bits = WRITABLE_HIGH | WRITABLE_LOW | REMOTE_IRR;
            require(entry & !bits == 0, Self::KIND, "entry", entry, "without reserved bits")?;
            let remote = entry & REMOTE_IRR == 0 || is_level(entry);
            require(remote, Self::KIND, "entry", entry, "level-triggered where it is being handled")?;
            let latched = state.edges & 1 << pin == 0 || !is_level(entry) && entry & MASKED == 0;
            require(latched, Self::KIND, "edges", state.edges, "edges of unmasked edge-triggered pins")?;
        }
        self.state = state;
        Ok(())
    }
}
