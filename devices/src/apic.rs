//! The local APICs and the I/O APIC, and the messages between them.
//!
//! A [`Lapic`] belongs to one processor and answers at 0xfee0_0000 (xAPIC) or as MSRs (x2APIC); the one [`IoApic`] turns
//! the devices' lines into messages. Neither knows the other: whatever goes from one to the other is a [`Message`], or
//! the vector of an end of interrupt, and the machine carries it, so that with several processors the order in which
//! they meet is the machine's to decide (and to log).
//!
//! Intel SDM vol. 3A, chapter 11 (order number 325462-080), and the 82093AA data sheet (order number 290566).
//! Rejected alternative: one object that owns all APICs and delivers by itself; its order of delivery would be hidden.

mod ioapic;
mod lapic;
mod message;

pub use ioapic::{IoApic, IoApicState, PINS};
pub use lapic::{
    APIC_BASE, BASE_ADDRESS, Counting, Deadline, GeneralProtection, Interrupt, Lapic, LapicConfig,
    LapicState, Mode, Request, TSC_DEADLINE, Tsc, X2APIC_MSRS, is_apic_msr,
};
pub use message::{Delivered, Delivery, Destination, Message, Signal, deliver};
