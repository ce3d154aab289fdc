//! The virtio block device (section 5.2): one queue, requests served while the driver's notification is handled.
//!
//! The disk itself is the machine's [`BlockBackend`], passed to each call. Requests: IN, OUT, FLUSH and GET_ID, and
//! with the [`Full`] profile DISCARD and WRITE_ZEROES; others are answered UNSUPP. A request that makes no sense (a
//! sector beyond the end, a length that is no multiple of a sector, a write to a read-only disk) is answered IOERR. A
//! chain that leaves no room for a status is a [`Fault`].
//!
//! An error of the host is answered IOERR as well, but unlike the others it is not a function of guest state. It is
//! kept for the machine, which must stop on it, or note which operation it was, so that a replay can
//! [fail](Blk::fail_operations) the same one.

use std::collections::BTreeSet;
use std::marker::PhantomData;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_RO, VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_queue::Queue;
use vm_memory::{Bytes, GuestMemory};

use super::queue::{self, Chain};
use super::{Fault, VirtioDevice, read_fields};
use crate::snapshot::{RestoreError, Snapshot, require_same};

mod backend;
#[cfg(test)]
mod full_tests;
mod profile;
mod ranges;
#[cfg(test)]
mod tests;

pub use backend::{BackendError, BlockBackend, BlockError, BlockOperation, RequestRecord};
pub use profile::{Basic, Full, Profile};
use ranges::Zeroing;

/// Bytes of a sector: the unit of the disk's size and of every request.
pub const SECTOR_SIZE: usize = BLOCK_SIZE as usize;
/// The same, as the configuration space reports it.
const BLOCK_SIZE: u32 = 512;
/// Bytes moved at once.
pub const CHUNK_SIZE: usize = 64 * 1024;
/// Size of the identification string.
pub const ID_SIZE: usize = VIRTIO_BLK_ID_BYTES as usize;
/// Entries of the queue.
const QUEUE_SIZE: u16 = 256;
/// Data buffers of a request: what header and status leave of the queue.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Bytes of a request before its data: type, priority, sector.
const HEADER_SIZE: usize = 16;

/// The block device, with the features of `P`.
#[derive(Debug)]
pub struct Blk<P = Basic> {
    state: BlkState,
    /// Requests served since they were last taken, if anybody watches. Not part of the state.
    served: Option<Vec<RequestRecord>>,
    /// Errors of the backend since they were last taken, at most one a request. Not part of the state: they are not
    /// the guest's.
    errors: Vec<BackendError>,
    /// Backend operations of this notification so far.
    operations: u64,
    /// Those of the next notification that fail without the backend being asked.
    failing: BTreeSet<u64>,
    profile: PhantomData<P>,
}

/// State of [`Blk`]: its configuration, for it keeps nothing between requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlkState {
    /// Size of the disk in sectors.
    pub sectors: u64,
    /// The guest cannot write.
    pub read_only: bool,
    /// Identification string, padded with zeros.
    pub id: [u8; ID_SIZE],
}

/// How a request ended.
enum Outcome {
    /// OK; the number of bytes of data written to guest memory.
    Done(u32),
    Unsupported,
    Failed,
}

impl<P: Profile> Blk<P> {
    /// A disk of `sectors` sectors, which must be the size of the backend it will be used with. Of `id`, the first
    /// [`ID_SIZE`] bytes count.
    pub fn new(sectors: u64, read_only: bool, id: &[u8]) -> Self {
        let mut padded = [0; ID_SIZE];
        for (to, from) in padded.iter_mut().zip(id) {
            *to = *from;
        }
        Blk {
            state: BlkState { sectors, read_only, id: padded },
            served: None,
            errors: Vec::new(),
            operations: 0,
            failing: BTreeSet::new(),
            profile: PhantomData,
        }
    }

    /// Size of the disk in sectors.
    pub fn sectors(&self) -> u64 {
        self.state.sectors
    }

    /// From now on requests are kept for [`take_served`](Self::take_served).
    pub fn watch(&mut self) {
        self.served.get_or_insert_default();
    }

    /// From now on requests are not kept.
    pub fn unwatch(&mut self) {
        self.served = None;
    }

    /// The requests served since the last call, if the device is [watched](Self::watch).
    pub fn take_served(&mut self) -> Vec<RequestRecord> {
        self.served.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The first error of the backend since errors were last taken; the others are forgotten. The guest saw IOERR, and
    /// nothing in the guest's state explains it: a recording that cannot note it must stop here.
    pub fn take_backend_error(&mut self) -> Option<BackendError> {
        self.take_backend_errors().into_iter().next()
    }

    /// All errors of the backend since errors were last taken, in order. To be taken after each access, so that their
    /// [numbers](BackendError::number) are those of one notification.
    pub fn take_backend_errors(&mut self) -> Vec<BackendError> {
        std::mem::take(&mut self.errors)
    }

    /// These backend operations of the next notification, by their [number](BackendError::number), fail as they did
    /// when they were noted, without the backend being asked and without an error for the machine.
    pub fn fail_operations(&mut self, numbers: impl IntoIterator<Item = u64>) {
        self.failing.extend(numbers);
    }

    /// Operations that should have failed and were never begun; forgets them. Any is a difference from what was noted.
    pub fn take_unfailed(&mut self) -> BTreeSet<u64> {
        std::mem::take(&mut self.failing)
    }

    /// Asks the backend for something; true if it was done.
    fn ask(
        &mut self,
        operation: BlockOperation,
        sector: u64,
        act: impl FnOnce() -> Result<(), BlockError>,
    ) -> bool {
        let number = self.operations;
        self.operations = number.saturating_add(1);
        if self.failing.remove(&number) {
            return false;
        }
        let result = act();
        let done = result.is_ok();
        let error = result.err().map(|source| BackendError { operation, sector, number, source });
        self.errors.extend(error);
        done
    }

    /// Serves one request; gives the number of bytes written to it.
    fn serve<M: GuestMemory>(
        &mut self,
        mut chain: Chain,
        features: u64,
        mem: &M,
        backend: &mut dyn BlockBackend,
    ) -> Result<u32, Fault> {
        let status = chain.writable.split_last_byte().ok_or(Fault::Chain)?;
        // The used length counts bytes from the start of the writable part, and the status is its last byte: it
        // counts when everything before it has been written.
        let only_status = u32::from(chain.writable.left() == 0);
        let data = (chain.readable.left() + chain.writable.left()).saturating_sub(HEADER_SIZE as u64);
        let mut asked = (u32::MAX, 0);
        let (code, written) = match self.request(&mut chain, features, mem, backend, &mut asked)? {
            Outcome::Done(data) => {
                let complete = u32::from(chain.writable.left() == 0);
                (VIRTIO_BLK_S_OK, data.saturating_add(complete))
            }
            Outcome::Failed => (VIRTIO_BLK_S_IOERR, only_status),
            Outcome::Unsupported => (VIRTIO_BLK_S_UNSUPP, only_status),
        };
        let code = code.to_le_bytes()[0];
        if let Some(served) = &mut self.served {
            let (kind, sector) = asked;
            served.push(RequestRecord { kind, sector, bytes: data, status: code });
        }
        mem.write_slice(&[code], status).map_err(|_| Fault::Chain)?;
        Ok(written)
    }

    /// `asked` becomes the request's type and sector.
    fn request<M: GuestMemory>(
        &mut self,
        chain: &mut Chain,
        features: u64,
        mem: &M,
        backend: &mut dyn BlockBackend,
        asked: &mut (u32, u64),
    ) -> Result<Outcome, Fault> {
        let mut header = [0; HEADER_SIZE];
        if chain.readable.left() < HEADER_SIZE as u64 {
            return Ok(Outcome::Failed);
        }
        chain.readable.read(mem, &mut header)?;
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
        let sector = u64::from_le_bytes(sector);
        *asked = (u32::from_le_bytes([t0, t1, t2, t3]), sector);
        match asked.0 {
            VIRTIO_BLK_T_IN => self.read(chain, sector, mem, backend),
            VIRTIO_BLK_T_OUT => self.write(chain, sector, mem, backend),
            VIRTIO_BLK_T_FLUSH => {
                let done = self.ask(BlockOperation::Flush, 0, || backend.flush());
                Ok(if done { Outcome::Done(0) } else { Outcome::Failed })
            }
            VIRTIO_BLK_T_GET_ID => {
                let len = usize::try_from(chain.writable.left()).unwrap_or(ID_SIZE).min(ID_SIZE);
                chain.writable.write(mem, &self.state.id[..len])?;
                Ok(Outcome::Done(u32::try_from(len).unwrap_or(0)))
            }
            kind => match Zeroing::of(kind, features) {
                Some(zeroing) => self.zero(chain, zeroing, mem, backend),
                None => Ok(Outcome::Unsupported),
            },
        }
    }

    /// Whether `len` bytes from `sector` on are whole sectors of the disk. A backend of another size than the
    /// configured one has none.
    fn in_range(&self, sector: u64, len: u64, backend: &dyn BlockBackend) -> bool {
        let sector_size = SECTOR_SIZE as u64;
        let end = sector.checked_add(len / sector_size);
        let sectors = self.state.sectors.min(backend.sectors());
        len.is_multiple_of(sector_size) && end.is_some_and(|end| end <= sectors)
    }

    fn read<M: GuestMemory>(
        &mut self,
        chain: &mut Chain,
        mut sector: u64,
        mem: &M,
        backend: &mut dyn BlockBackend,
    ) -> Result<Outcome, Fault> {
        let len = chain.writable.left();
        if !self.in_range(sector, len, backend) {
            return Ok(Outcome::Failed);
        }
        let mut chunk = chunk_for(len);
        while chain.writable.left() > 0 {
            let len = usize::try_from(chain.writable.left()).unwrap_or(CHUNK_SIZE).min(CHUNK_SIZE);
            let piece = &mut chunk[..len];
            if !self.ask(BlockOperation::Read, sector, || backend.read_at(sector, piece)) {
                return Ok(Outcome::Failed);
            }
            chain.writable.write(mem, piece)?;
            sector = sector.saturating_add((len / SECTOR_SIZE) as u64);
        }
        Ok(Outcome::Done(u32::try_from(len).unwrap_or(u32::MAX)))
    }

    fn write<M: GuestMemory>(
        &mut self,
        chain: &mut Chain,
        mut sector: u64,
        mem: &M,
        backend: &mut dyn BlockBackend,
    ) -> Result<Outcome, Fault> {
        let len = chain.readable.left();
        if self.state.read_only || !self.in_range(sector, len, backend) {
            return Ok(Outcome::Failed);
        }
        let mut chunk = chunk_for(len);
        while chain.readable.left() > 0 {
            let len = usize::try_from(chain.readable.left()).unwrap_or(CHUNK_SIZE).min(CHUNK_SIZE);
            let piece = &mut chunk[..len];
            chain.readable.read(mem, piece)?;
            if !self.ask(BlockOperation::Write, sector, || backend.write_at(sector, piece)) {
                return Ok(Outcome::Failed);
            }
            sector = sector.saturating_add((len / SECTOR_SIZE) as u64);
        }
        Ok(Outcome::Done(0))
    }
}

/// A buffer for data of `len` bytes, moved piece by piece.
fn chunk_for(len: u64) -> Vec<u8> {
    vec![0; usize::try_from(len).unwrap_or(CHUNK_SIZE).min(CHUNK_SIZE)]
}

impl<P: Profile> VirtioDevice for Blk<P> {
    const DEVICE_ID: u32 = VIRTIO_ID_BLOCK;
    const QUEUE_SIZES: &'static [u16] = &[QUEUE_SIZE];
    type Host = dyn BlockBackend;

    fn features(&self) -> u64 {
        let read_only = if self.state.read_only { 1 << VIRTIO_BLK_F_RO } else { 0 };
        P::FEATURES | read_only
    }

    fn read_config(&self, offset: u64, bytes: &mut [u8]) {
        read_fields(&P::config(&self.state), offset, bytes);
    }

    fn reset(&mut self) {}

    fn notify<M: GuestMemory>(
        &mut self,
        _index: usize,
        queue: &mut Queue,
        features: u64,
        mem: &M,
        backend: &mut (dyn BlockBackend + 'static),
    ) -> Result<bool, Fault> {
        self.operations = 0;
        let count = queue::available(queue, mem)?;
        for _ in 0..count {
            let chain = queue::next_chain(queue, mem)?;
            let head = chain.head;
            let written = self.serve(chain, features, mem, backend)?;
            queue::give_back(queue, mem, head, written)?;
        }
        Ok(count > 0 && queue::wants_interrupt(queue, mem)?)
    }
}

impl<P: Profile> Snapshot for Blk<P> {
    const KIND: &'static str = "virtio-blk";
    const VERSION: u16 = P::VERSION;
    type State = BlkState;

    fn save(&self) -> BlkState {
        self.state.clone()
    }

    fn restore(&mut self, state: BlkState) -> Result<(), RestoreError> {
        require_same(Self::KIND, "size in sectors", &state.sectors, &self.state.sectors)?;
        require_same(Self::KIND, "read-only flag", &state.read_only, &self.state.read_only)?;
        require_same(Self::KIND, "identification", &state.id, &self.state.id)
    }
}
