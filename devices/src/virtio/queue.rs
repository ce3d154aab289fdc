//! Split virtqueues (section 2.7): saved state, and chains taken apart and checked before a device sees them.
//!
//! [`virtio_queue::Queue`] walks the rings and the descriptors. Its iterators end silently where a chain is broken;
//! here that is a [`Fault`], so a device only ever meets whole chains whose buffers lie in RAM.

use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueState, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemory, Permissions};

use super::Fault;
use crate::snapshot::{RestoreError, require, require_same};

/// The driver asks not to be interrupted (section 2.7.6, `VIRTQ_AVAIL_F_NO_INTERRUPT`).
const NO_INTERRUPT: u16 = 1;

/// Saved state of one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedQueue {
    /// Largest size.
    pub max_size: u16,
    /// Index in the available ring of the next chain to serve.
    pub next_avail: u16,
    /// Index in the used ring of the next entry to write.
    pub next_used: u16,
    /// Size that the driver chose.
    pub size: u16,
    /// The driver has finished setting the queue up.
    pub ready: bool,
    /// Guest physical address of the descriptor table.
    pub desc_table: u64,
    /// Guest physical address of the available ring ("driver area").
    pub avail_ring: u64,
    /// Guest physical address of the used ring ("device area").
    pub used_ring: u64,
}

pub(super) fn save(queue: &Queue) -> SavedQueue {
    let QueueState {
        max_size, next_avail, next_used, size, ready, desc_table, avail_ring, used_ring, ..
    } = queue.state();
    SavedQueue { max_size, next_avail, next_used, size, ready, desc_table, avail_ring, used_ring }
}

/// The queue that `saved` describes, in a device whose queue has at most `max_size` entries.
pub(super) fn restore(saved: SavedQueue, device: &'static str, max_size: u16) -> Result<Queue, RestoreError> {
    require_same(device, "largest queue size", &saved.max_size, &max_size)?;
    let SavedQueue { max_size, next_avail, next_used, size, ready, desc_table, avail_ring, used_ring } =
        saved;
    let state = QueueState {
        max_size,
        next_avail,
        next_used,
        event_idx_enabled: false,
        size,
        ready,
        desc_table,
        avail_ring,
        used_ring,
    };
    let queue = Queue::try_from(state);
    let shape = || format!("{size} entries at {desc_table:#x}, {avail_ring:#x}, {used_ring:#x}");
    require(queue.is_ok(), device, "queue", shape(), "a power of two, aligned")?;
    queue.map_err(|_| RestoreError::Invalid {
        device,
        field: "queue",
        value: shape(),
        expected: "a power of two, aligned",
    })
}

/// A piece of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Where it starts.
    pub addr: GuestAddress,
    /// Its length in bytes, not 0.
    pub len: u32,
}

/// A descriptor chain: whole, within the queue's size, readable buffers before writable ones, all of them in RAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Index of its first descriptor, which names it in the used ring.
    pub head: u16,
    /// What the driver has written for the device.
    pub readable: Stream,
    /// Where the device writes its answer.
    pub writable: Stream,
}

/// Buffers read or written one after the other, as one sequence of bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    buffers: Vec<Buffer>,
    /// The buffer the position is in.
    current: usize,
    /// Bytes of it that lie before the position.
    offset: u32,
    /// Bytes from the position to the end.
    left: u64,
}

impl Stream {
    fn push(&mut self, buffer: Buffer) {
        // Buffers of no length carry nothing, and need not lie in RAM.
        if buffer.len > 0 {
            self.left = self.left.saturating_add(u64::from(buffer.len));
            self.buffers.push(buffer);
        }
    }

    /// Bytes from the position to the end.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Takes the last byte off the stream; gives its address.
    pub fn split_last_byte(&mut self) -> Option<GuestAddress> {
        let last = self.buffers.last_mut().filter(|_| self.left > 0)?;
        last.len = last.len.checked_sub(1)?;
        let addr = last.addr.checked_add(u64::from(last.len))?;
        if last.len == 0 {
            self.buffers.pop();
        }
        self.left = self.left.saturating_sub(1);
        Some(addr)
    }

    /// Fills `bytes` from the stream.
    ///
    /// # Errors
    /// [`Fault::Chain`] if the stream is too short.
    pub fn read<M: GuestMemory>(&mut self, mem: &M, bytes: &mut [u8]) -> Result<(), Fault> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (addr, len) = self.advance(rest.len()).ok_or(Fault::Chain)?;
            let (piece, after) = std::mem::take(&mut rest).split_at_mut(len);
            mem.read_slice(piece, addr).map_err(|_| Fault::Chain)?;
            rest = after;
        }
        Ok(())
    }

    /// Writes `bytes` to the stream.
    ///
    /// # Errors
    /// [`Fault::Chain`] if the stream is too short.
    pub fn write<M: GuestMemory>(&mut self, mem: &M, bytes: &[u8]) -> Result<(), Fault> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (addr, len) = self.advance(rest.len()).ok_or(Fault::Chain)?;
            let (piece, after) = rest.split_at(len);
            mem.write_slice(piece, addr).map_err(|_| Fault::Chain)?;
            rest = after;
        }
        Ok(())
    }

    /// Moves the position by up to `wanted` bytes within one buffer; gives their address and number.
    fn advance(&mut self, wanted: usize) -> Option<(GuestAddress, usize)> {
        let buffer = self.buffers.get(self.current)?;
        let addr = buffer.addr.checked_add(u64::from(self.offset))?;
        let available = buffer.len.saturating_sub(self.offset);
        let len = u32::try_from(wanted).unwrap_or(u32::MAX).min(available);
        self.left = self.left.saturating_sub(u64::from(len));
        if len == available {
            self.current += 1;
            self.offset = 0;
        } else {
            self.offset += len;
        }
        Some((addr, usize::try_from(len).ok()?))
    }
}

/// Number of chains that the driver has made available. A device serves these and no more before it returns, for
/// what it writes may itself fall on the available ring.
///
/// # Errors
/// [`Fault::AvailableRing`] if there are more than the queue's size, [`Fault::QueueMemory`] if it is outside RAM.
pub fn available<M: GuestMemory>(queue: &Queue, mem: &M) -> Result<u16, Fault> {
    if !queue.is_valid(mem) {
        return Err(Fault::QueueMemory);
    }
    let end = queue.avail_idx(mem, Ordering::Acquire).map_err(|_| Fault::QueueMemory)?;
    let count = end.0.wrapping_sub(queue.next_avail());
    if count > queue.size() { Err(Fault::AvailableRing) } else { Ok(count) }
}

/// Takes the next available chain.
///
/// # Errors
/// [`Fault::AvailableRing`] if there is none, [`Fault::Chain`] if it is malformed.
pub fn next_chain<M: GuestMemory>(queue: &mut Queue, mem: &M) -> Result<Chain, Fault> {
    let size = usize::from(queue.size());
    let descriptors = queue.pop_descriptor_chain(mem).ok_or(Fault::AvailableRing)?;
    let head = descriptors.head_index();
    let mut chain = Chain { head, readable: Stream::default(), writable: Stream::default() };
    let (mut count, mut complete) = (0, false);
    for descriptor in descriptors {
        count += 1;
        complete = !descriptor.has_next();
        let buffer = Buffer { addr: descriptor.addr(), len: descriptor.len() };
        let (stream, access) = if descriptor.is_write_only() {
            (&mut chain.writable, Permissions::Write)
        } else if chain.writable.buffers.is_empty() {
            (&mut chain.readable, Permissions::Read)
        } else {
            return Err(Fault::Chain);
        };
        let len = usize::try_from(buffer.len).map_err(|_| Fault::Chain)?;
        // An indirect table may be longer than the queue, a chain may not (section 2.7.5.3.1).
        if count > size || (len > 0 && !mem.check_range(buffer.addr, len, access)) {
            return Err(Fault::Chain);
        }
        stream.push(buffer);
    }
    // The walk ends early where a descriptor is out of bounds, the chain loops or an indirect table is misplaced.
    if complete { Ok(chain) } else { Err(Fault::Chain) }
}

/// Makes the chain that was taken last the next one again.
pub fn put_back(queue: &mut Queue) {
    queue.set_next_avail(queue.next_avail().wrapping_sub(1));
}

/// Gives a chain back to the driver with `written` bytes written to it.
///
/// # Errors
/// [`Fault::QueueMemory`] if the used ring cannot be written.
pub fn give_back<M: GuestMemory>(queue: &mut Queue, mem: &M, head: u16, written: u32) -> Result<(), Fault> {
    queue.add_used(mem, head, written).map_err(|_| Fault::QueueMemory)
}

/// The driver wants to be interrupted when chains are given back. VIRTIO_F_EVENT_IDX is never offered.
///
/// # Errors
/// [`Fault::QueueMemory`] if the available ring cannot be read.
pub fn wants_interrupt<M: GuestMemory>(queue: &Queue, mem: &M) -> Result<bool, Fault> {
    let flags: u16 =
        mem.load(GuestAddress(queue.avail_ring()), Ordering::Acquire).map_err(|_| Fault::QueueMemory)?;
    Ok(u16::from_le(flags) & NO_INTERRUPT == 0)
}
