//! Pure device models of the `scribe-pc` platforms.
//!
//! A device here is a register machine: no file descriptor, no clock, no thread, no host state. Guest time is an
//! argument in nanoseconds and never decreases; output, interrupt lines and requests to the machine are return
//! values or fields the machine collects. So a device's state is a function of the accesses it has seen, which is
//! what lets the same code run in a recording and in its replay.
//!
//! - Whatever a guest writes is hostile: an access can never panic, loop without bound or take unbounded memory.
//! - Every device implements [`Snapshot`]; its state is complete, and equal devices have equal states.
//! - Nothing here knows whether it is recorded, replayed or live.
//!
//! Rejected alternative: one `Device` trait with `read` and `write`. The devices need different things per access
//! (time, guest memory, a disk), so a common trait would pass all of them to each; the machine owns its devices as
//! concrete fields instead.

pub mod acpi_pm;
pub mod apic;
pub mod guest_interface;
pub mod i8042;
pub mod pic;
pub mod pit;
pub mod rtc;
pub mod snapshot;
pub mod uart;
pub mod virtio;

pub use acpi_pm::{AcpiPm, PowerRequest};
pub use apic::{IoApic, Lapic};
pub use guest_interface::{GuestInterface, GuestRequest};
pub use i8042::{I8042, ResetRequest};
pub use pic::PicPair;
pub use pit::Pit;
pub use rtc::Rtc;
pub use snapshot::{RestoreError, Snapshot};
pub use uart::Uart;
pub use virtio::blk::{Blk, BlockBackend, BlockError};
pub use virtio::mmio::VirtioMmio;
pub use virtio::slot::{Bank, Slot};

#[cfg(test)]
mod testing;
