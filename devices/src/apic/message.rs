//! What APICs say to each other: owned values that the machine delivers.

use serde::{Deserialize, Serialize};

use super::lapic::Lapic;

/// How a message is to be taken (SDM 11.6.1, "Delivery Mode"; 82093AA, 3.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delivery {
    /// Its vector, to every destination.
    Fixed,
    /// Its vector, to the destination of the lowest priority.
    LowestPriority,
    /// System management interrupt. There is no such mode on these platforms: nothing happens.
    Smi,
    /// Nonmaskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// Start-up, at the page that the vector names.
    Startup,
    /// Like an 8259A's INTR. Not taken as a message: the 8259A pair hangs on LINT0 alone.
    External,
}

impl Delivery {
    /// From the three bits of ICR, LVT and redirection entries; 3 is reserved, 7 is not an IPI's.
    pub(super) fn from_bits(bits: u32) -> Option<Self> {
        Some(match bits & 7 {
            0 => Delivery::Fixed,
            1 => Delivery::LowestPriority,
            2 => Delivery::Smi,
            4 => Delivery::Nmi,
            5 => Delivery::Init,
            6 => Delivery::Startup,
            7 => Delivery::External,
            _ => return None,
        })
    }
}

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Destination {
    /// All local APICs.
    All,
    /// All but the one with this ID.
    AllBut(u32),
    /// The one with this ID.
    Physical(u32),
    /// Those whose logical ID matches (SDM 11.6.2.2, 11.12.10.2).
    Logical(u32),
}

impl Destination {
    /// From an 8-bit destination field and destination mode, of an xAPIC or an I/O APIC. 0xff is everybody in both modes.
    pub(super) fn from_byte(destination: u8, logical: bool) -> Self {
        match (destination, logical) {
            (0xff, _) => Destination::All,
            (id, false) => Destination::Physical(id.into()),
            (mask, true) => Destination::Logical(mask.into()),
        }
    }

    /// From the 32-bit destination field of an x2APIC's ICR.
    pub(super) fn from_word(destination: u32, logical: bool) -> Self {
        match (destination, logical) {
            (u32::MAX, _) => Destination::All,
            (id, false) => Destination::Physical(id),
            (mask, true) => Destination::Logical(mask),
        }
    }
}

/// An interrupt message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Whom it is for.
    pub destination: Destination,
    /// How it is to be taken.
    pub delivery: Delivery,
    /// The vector; of [`Delivery::Startup`] the number of the page to start at. The other modes ignore it.
    pub vector: u8,
    /// Level-triggered: its end of interrupt is broadcast.
    pub level: bool,
}

/// What a message does to a processor besides waiting in its local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Signal {
    /// Nonmaskable interrupt.
    Nmi,
    /// INIT: the local APIC has been reset; the processor waits for a start-up.
    Init,
    /// Start-up at this page: CS base `page << 12`, IP 0.
    Startup(u8),
}

/// What became of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Some local APIC took it.
    pub accepted: bool,
    /// Processors to be told, by their index, ascending.
    pub signals: Vec<(usize, Signal)>,
}

/// Delivers a message to those of `lapics` it is for, in their order. Of several with the lowest priority the one with
/// the smallest index takes it (SDM 11.6.2.4 leaves that open).
pub fn deliver(lapics: &mut [Lapic], message: &Message) -> Delivered {
    let mut delivered = Delivered::default();
    let matching = |lapic: &Lapic| lapic.matches(message.destination);
    if message.delivery == Delivery::LowestPriority {
        let candidates = lapics.iter_mut().filter(|lapic| matching(lapic) && lapic.is_enabled());
        if let Some(lapic) = candidates.min_by_key(|lapic| lapic.arbitration_priority()) {
            delivered.accepted = lapic.receive(message).0;
        }
        return delivered;
    }
    for (index, lapic) in lapics.iter_mut().enumerate().filter(|(_, lapic)| matching(lapic)) {
        let (accepted, signal) = lapic.receive(message);
        delivered.accepted |= accepted;
        delivered.signals.extend(signal.map(|signal| (index, signal)));
    }
    delivered
}
