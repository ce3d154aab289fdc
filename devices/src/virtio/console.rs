//! The virtio console (section 5.3): one port, its size, and emergency writes.
//!
//! What the guest prints is handed out while its notification is handled. Bytes for the guest come between two exits
//! through [`receive`](VirtioMmio::receive) and wait in the device until the driver has room for them, at most
//! [`BACKLOG`]; whoever has more waits for [room](VirtioMmio::receive_room).
//!
//! Offered: SIZE and EMERG_WRITE. Multiport is not: it needs control queues, and there is one port. An emergency
//! write is the one thing that works before the driver runs.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;
use virtio_queue::Queue;
use vm_memory::GuestMemory;

use super::mmio::VirtioMmio;
use super::queue;
use super::{Fault, VirtioDevice, read_fields};
use crate::snapshot::{RestoreError, Snapshot, require};

#[cfg(test)]
mod tests;

/// Most bytes that wait for the driver.
pub const BACKLOG: usize = 64 * 1024;
/// Most bytes that one chain may print; a longer one is a [`Fault`]. The specification has no limit, and without one
/// a guest could have 256 times its RAM copied in one access.
pub const MAX_WRITE: usize = 64 * 1024;
/// Number of the receive queue.
const RECEIVE: usize = 0;
/// Number of the transmit queue.
const TRANSMIT: usize = 1;
/// Entries of each queue.
const QUEUE_SIZE: u16 = 64;
/// Feature bit: cols and rows are valid (section 5.3.3).
const VIRTIO_CONSOLE_F_SIZE: u32 = 0;
/// Feature bit: there is `emerg_wr`.
const VIRTIO_CONSOLE_F_EMERG_WRITE: u32 = 2;
/// Offset of `emerg_wr` in the configuration space.
const EMERGENCY: u64 = 8;

/// Size of a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Characters of a line.
    pub cols: u16,
    /// Lines.
    pub rows: u16,
}

/// The console.
#[derive(Debug)]
pub struct Console {
    size: Size,
    backlog: VecDeque<u8>,
}

/// State of [`Console`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleState {
    /// Size of the terminal. Like what was typed, it outlives a reset by the driver.
    pub size: Size,
    /// Bytes that the driver has not taken, oldest first.
    pub backlog: Vec<u8>,
}

impl Console {
    /// A console on a terminal of this size.
    pub fn new(size: Size) -> Self {
        Console { size, backlog: VecDeque::new() }
    }

    /// Size of the terminal.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Prints what the driver has made available.
    fn transmit<M: GuestMemory>(
        &mut self,
        queue: &mut Queue,
        mem: &M,
        text: &mut Vec<u8>,
    ) -> Result<bool, Fault> {
        let count = queue::available(queue, mem)?;
        for _ in 0..count {
            let mut chain = queue::next_chain(queue, mem)?;
            let len = usize::try_from(chain.readable.left()).unwrap_or(usize::MAX);
            if chain.writable.left() > 0 || len > MAX_WRITE {
                return Err(Fault::Chain);
            }
            let mut bytes = vec![0; len];
            chain.readable.read(mem, &mut bytes)?;
            text.append(&mut bytes);
            queue::give_back(queue, mem, chain.head, 0)?;
        }
        Ok(count > 0 && queue::wants_interrupt(queue, mem)?)
    }

    /// Gives waiting bytes to the driver, as far as it has room.
    fn deliver<M: GuestMemory>(&mut self, queue: &mut Queue, mem: &M) -> Result<bool, Fault> {
        let mut used = false;
        for _ in 0..queue::available(queue, mem)? {
            if self.backlog.is_empty() {
                break;
            }
            let mut chain = queue::next_chain(queue, mem)?;
            if chain.readable.left() > 0 || chain.writable.left() == 0 {
                return Err(Fault::Chain);
            }
            let room = usize::try_from(chain.writable.left()).unwrap_or(usize::MAX);
            let bytes: Vec<u8> = self.backlog.drain(..room.min(self.backlog.len())).collect();
            chain.writable.write(mem, &bytes)?;
            let len = u32::try_from(bytes.len()).map_err(|_| Fault::Chain)?;
            queue::give_back(queue, mem, chain.head, len)?;
            used = true;
        }
        Ok(used && queue::wants_interrupt(queue, mem)?)
    }
}

impl VirtioMmio<Console> {
    /// Takes bytes for the guest, as many as there is [room](Self::receive_room) for; gives how many. The driver gets
    /// them when it has buffers.
    pub fn receive<M: GuestMemory>(&mut self, bytes: &[u8], mem: &M) -> usize {
        let count = bytes.len().min(self.receive_room());
        self.device_mut().backlog.extend(bytes.iter().take(count));
        self.with_queue(RECEIVE, |console, queue, _| {
            console.deliver(queue, mem).map(|interrupt| ((), interrupt))
        });
        count
    }

    /// Bytes that [`receive`](Self::receive) would take.
    pub fn receive_room(&self) -> usize {
        BACKLOG.saturating_sub(self.device().backlog.len())
    }

    /// Bytes that the driver has not taken.
    pub fn backlog_len(&self) -> usize {
        self.device().backlog.len()
    }

    /// The terminal has another size: the driver is told if that is a change.
    pub fn resize(&mut self, size: Size) {
        if self.device().size != size {
            self.device_mut().size = size;
            self.config_changed();
        }
    }
}

impl VirtioDevice for Console {
    const DEVICE_ID: u32 = VIRTIO_ID_CONSOLE;
    const QUEUE_SIZES: &'static [u16] = &[QUEUE_SIZE, QUEUE_SIZE];
    /// What the guest prints: at most [`MAX_WRITE`] bytes an entry of the queue in one access. The caller takes it.
    type Host = Vec<u8>;

    fn features(&self) -> u64 {
        1 << VIRTIO_CONSOLE_F_SIZE | 1 << VIRTIO_CONSOLE_F_EMERG_WRITE
    }

    /// `struct virtio_console_config` (section 5.3.4): cols and rows. There is no number of ports without multiport,
    /// and `emerg_wr` reads 0.
    fn read_config(&self, offset: u64, bytes: &mut [u8]) {
        let [c0, c1] = self.size.cols.to_le_bytes();
        let [r0, r1] = self.size.rows.to_le_bytes();
        read_fields(&[c0, c1, r0, r1], offset, bytes);
    }

    /// A write to `emerg_wr` prints its lowest byte (section 5.3.5), whatever the driver has negotiated.
    fn write_config(&mut self, offset: u64, bytes: &[u8], text: &mut Vec<u8>) {
        if offset == EMERGENCY {
            text.extend(bytes.first());
        }
    }

    fn reset(&mut self) {}

    fn notify<M: GuestMemory>(
        &mut self,
        index: usize,
        queue: &mut Queue,
        _features: u64,
        mem: &M,
        text: &mut Vec<u8>,
    ) -> Result<bool, Fault> {
        if index == TRANSMIT { self.transmit(queue, mem, text) } else { self.deliver(queue, mem) }
    }
}

impl Snapshot for Console {
    const KIND: &'static str = "virtio-console";
    const VERSION: u16 = 1;
    type State = ConsoleState;

    fn save(&self) -> ConsoleState {
        ConsoleState { size: self.size, backlog: self.backlog.iter().copied().collect() }
    }

    fn restore(&mut self, state: ConsoleState) -> Result<(), RestoreError> {
        let ConsoleState { size, backlog } = state;
        require(backlog.len() <= BACKLOG, Self::KIND, "backlog", backlog.len(), "at most 65536 bytes")?;
        self.size = size;
        self.backlog = backlog.into();
        Ok(())
    }
}
