//! Virtio devices (Virtual I/O Device Version 1.2, OASIS): the MMIO transport and the devices behind it.
//!
//! A device says what it is and serves a queue when it is notified; the transport owns the queues, the status
//! machine and the interrupt. What a device needs of the host, such as the contents of a disk, is passed to each
//! call and belongs to the machine. What the guest asks for is served before the notification returns; what comes
//! from outside (a frame, entropy, typed bytes) is handed to a device between two exits. So nothing is ever in flight
//! when the machine is saved, except requests that wait for something from outside, and those are in its state.

use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtio_queue::Queue;
use vm_memory::GuestMemory;

pub mod blk;
pub mod console;
pub mod mmio;
pub mod net;
pub mod queue;
pub mod rng;
pub mod slot;

#[cfg(test)]
mod testing;

/// What the transport needs of a device.
pub trait VirtioDevice {
    /// Device type (section 5).
    const DEVICE_ID: u32;
    /// Largest size of each queue: powers of two.
    const QUEUE_SIZES: &'static [u16];
    /// What the device needs of the host while it serves an access: a disk, or where its output goes.
    type Host: ?Sized;

    /// The device's own feature bits. The transport adds VERSION_1.
    fn features(&self) -> u64;

    /// Reads the configuration space at `offset`; bytes beyond its end are left 0.
    fn read_config(&self, offset: u64, bytes: &mut [u8]);

    /// Writes the configuration space. The fields of most devices are read-only: ignored.
    fn write_config(&mut self, _offset: u64, _bytes: &[u8], _host: &mut Self::Host) {}

    /// The driver has reset the device.
    fn reset(&mut self);

    /// Serves queue number `index`, which the driver has notified, with `features` negotiated. True if the driver
    /// is to be interrupted because buffers were used.
    ///
    /// # Errors
    /// A [`Fault`] if the driver broke the rules in a way that no answer in the queue can report.
    fn notify<M: GuestMemory>(
        &mut self,
        index: usize,
        queue: &mut Queue,
        features: u64,
        mem: &M,
        host: &mut Self::Host,
    ) -> Result<bool, Fault>;
}

/// Copies the part of `config`, a whole configuration space, that lies at `offset`; bytes beyond its end are left.
fn read_fields(config: &[u8], offset: u64, bytes: &mut [u8]) {
    let rest = usize::try_from(offset).ok().and_then(|offset| config.get(offset..)).unwrap_or(&[]);
    for (to, from) in bytes.iter_mut().zip(rest) {
        *to = *from;
    }
}

/// Why a device demands a reset (DEVICE_NEEDS_RESET, section 2.1). It is a function of what the guest did.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// A control register was written with another size than 4 bytes, or unaligned.
    #[error("a control register was written with the wrong size or alignment")]
    AccessSize,
    /// A status bit was cleared without a reset, or set out of order.
    #[error("the device status went through a forbidden transition")]
    Status,
    /// Features were written after they had been negotiated.
    #[error("features were changed after FEATURES_OK")]
    Features,
    /// A queue was changed while it was ready.
    #[error("a queue was changed while it was ready")]
    QueueInUse,
    /// The size of a queue is not a power of two within the limit, or a part of it is not aligned.
    #[error("a queue has an impossible size or alignment")]
    QueueShape,
    /// A part of a queue lies outside RAM.
    #[error("a queue lies outside RAM")]
    QueueMemory,
    /// The available ring offers more buffers than the queue has, or one that does not exist.
    #[error("the available ring is inconsistent")]
    AvailableRing,
    /// A descriptor chain is broken, too long, out of order or outside RAM, or has no room for an answer.
    #[error("a descriptor chain is malformed")]
    Chain,
}
