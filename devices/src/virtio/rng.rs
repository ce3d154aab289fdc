//! The virtio entropy device (section 5.4): buffers that wait until the machine has bytes for them.
//!
//! Where the bytes come from is the machine's affair: they are something from outside, so they arrive between two
//! exits, through [`supply`](VirtioMmio::supply). Requests wait in the driver's own ring; the device remembers only
//! how many bytes the next of them takes, so there is nothing in flight that a saved state could miss, and no memory
//! that a guest could make it use. A guest that changes a waiting request gets what it then asks for.

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use virtio_queue::Queue;
use vm_memory::GuestMemory;

use super::mmio::VirtioMmio;
use super::queue::{self, Chain};
use super::{Fault, VirtioDevice};
use crate::snapshot::{RestoreError, Snapshot, require};

#[cfg(test)]
mod tests;

/// Most bytes that a request is answered with. The device may use less than the buffer (section 5.4.6.2), and the
/// bytes are in the recording.
pub const MAX_SUPPLY: u32 = 256;
/// Entries of the queue.
const QUEUE_SIZE: u16 = 8;
const REQUESTS: usize = 0;

/// The entropy device.
#[derive(Debug, Default)]
pub struct Rng {
    state: RngState,
}

/// State of [`Rng`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RngState {
    /// Bytes that the oldest waiting request takes, at most [`MAX_SUPPLY`]; 0 if none waits.
    pub wanted: u32,
}

impl Rng {
    /// An entropy device.
    pub fn new() -> Self {
        Rng::default()
    }

    /// Looks at the oldest waiting request without taking it.
    fn look<M: GuestMemory>(&mut self, queue: &mut Queue, mem: &M) -> Result<(), Fault> {
        self.state.wanted = 0;
        if queue::available(queue, mem)? > 0 {
            let chain = next_request(queue, mem)?;
            queue::put_back(queue);
            self.state.wanted = u32::try_from(chain.writable.left()).unwrap_or(MAX_SUPPLY).min(MAX_SUPPLY);
        }
        Ok(())
    }
}

/// Takes the next request: room for bytes, and nothing that the driver has written (section 5.4.6.1).
fn next_request<M: GuestMemory>(queue: &mut Queue, mem: &M) -> Result<Chain, Fault> {
    let chain = queue::next_chain(queue, mem)?;
    let is_request = chain.readable.left() == 0 && chain.writable.left() > 0;
    if is_request { Ok(chain) } else { Err(Fault::Chain) }
}

impl VirtioMmio<Rng> {
    /// Bytes that the guest waits for: how many the next [`supply`](Self::supply) can use. 0 if it waits for none.
    pub fn wanted(&self) -> u32 {
        if self.serves(REQUESTS) { self.device().state.wanted } else { 0 }
    }

    /// Answers the oldest waiting request with the first of `bytes`; gives how many it took. Bytes that nobody waits
    /// for are not kept.
    pub fn supply<M: GuestMemory>(&mut self, bytes: &[u8], mem: &M) -> usize {
        if self.wanted() == 0 || bytes.is_empty() {
            return 0;
        }
        let supplied = self.with_queue(REQUESTS, |rng, queue, _| {
            if queue::available(queue, mem)? == 0 {
                // The driver has taken its request back.
                rng.state.wanted = 0;
                return Ok((0, false));
            }
            let mut chain = next_request(queue, mem)?;
            let room = u32::try_from(chain.writable.left()).unwrap_or(MAX_SUPPLY).min(MAX_SUPPLY);
            let len = u32::try_from(bytes.len()).unwrap_or(room).min(room);
            let count = usize::try_from(len).unwrap_or(0);
            chain.writable.write(mem, bytes.get(..count).unwrap_or(bytes))?;
            queue::give_back(queue, mem, chain.head, len)?;
            let interrupt = queue::wants_interrupt(queue, mem)?;
            rng.look(queue, mem)?;
            Ok((count, interrupt))
        });
        supplied.unwrap_or(0)
    }
}

impl VirtioDevice for Rng {
    const DEVICE_ID: u32 = VIRTIO_ID_RNG;
    const QUEUE_SIZES: &'static [u16] = &[QUEUE_SIZE];
    type Host = ();

    fn features(&self) -> u64 {
        0
    }

    /// There is no configuration space.
    fn read_config(&self, _offset: u64, _bytes: &mut [u8]) {}

    fn reset(&mut self) {
        self.state = RngState::default();
    }

    fn notify<M: GuestMemory>(
        &mut self,
        _index: usize,
        queue: &mut Queue,
        _features: u64,
        mem: &M,
        _host: &mut (),
    ) -> Result<bool, Fault> {
        self.look(queue, mem).map(|()| false)
    }
}

impl Snapshot for Rng {
    const KIND: &'static str = "virtio-rng";
    const VERSION: u16 = 1;
    type State = RngState;

    fn save(&self) -> RngState {
        self.state.clone()
    }

    fn restore(&mut self, state: RngState) -> Result<(), RestoreError> {
        require(state.wanted <= MAX_SUPPLY, Self::KIND, "wanted", state.wanted, "at most 256 bytes")?;
        self.state = state;
        Ok(())
    }
}
