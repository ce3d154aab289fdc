//! The virtio block device (section 5.2): one queue, requests served while the driver's notification is handled.
//!
//! The disk itself is the machine's [`BlockBackend`], passed to each call. Requests: IN, OUT, FLUSH and GET_ID;
//! others are answered UNSUPP. A request that makes no sense (a sector beyond the end, a length that is no multiple
//! of a sector, a write to a read-only disk) is answered IOERR. A chain that leaves no room for a status is a
//! [`Fault`].
//!
//! An error of the host is answered IOERR as well, but unlike the others it is not a function of guest state: a
//! recording that contained it could not replay. It is kept for the machine, which must stop on it.

use std::error::Error as StdError;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_ID_BYTES,
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_queue::Queue;
use vm_memory::{Bytes, GuestMemory};

use super::queue::{self, Chain};
use super::{Fault, VirtioDevice};
use crate::snapshot::{RestoreError, Snapshot, require_same};

#[cfg(test)]
mod tests;

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

/// The disk behind a block device. Accesses are whole sectors within the disk, at most [`CHUNK_SIZE`] bytes.
pub trait BlockBackend {
    /// Size of the disk in sectors. It does not change.
    fn sectors(&self) -> u64;

    /// Fills `buf` from `sector` on.
    ///
    /// # Errors
    /// [`BlockError`] if the host cannot.
    fn read_at(&mut self, sector: u64, buf: &mut [u8]) -> Result<(), BlockError>;

    /// Stores `buf` from `sector` on.
    ///
    /// # Errors
    /// [`BlockError`] if the host cannot.
    fn write_at(&mut self, sector: u64, buf: &[u8]) -> Result<(), BlockError>;

    /// Makes what was written durable, as far as the machine promises that.
    ///
    /// # Errors
    /// [`BlockError`] if the host cannot.
    fn flush(&mut self) -> Result<(), BlockError>;
}

/// An error of a [`BlockBackend`].
#[derive(Debug, Error)]
#[error(transparent)]
pub struct BlockError(Box<dyn StdError + Send + Sync>);

impl BlockError {
    /// Wraps the backend's own error.
    pub fn new(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        BlockError(source.into())
    }
}

/// What the device wanted of its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockOperation {
    /// [`BlockBackend::read_at`]
    Read,
    /// [`BlockBackend::write_at`]
    Write,
    /// [`BlockBackend::flush`]
    Flush,
}

/// An operation that the host failed.
#[derive(Debug, Error)]
#[error("{operation:?} of the disk failed at sector {sector}")]
pub struct BackendError {
    /// The operation.
    pub operation: BlockOperation,
    /// Its first sector; 0 for a flush.
    pub sector: u64,
    /// The backend's error.
    pub source: BlockError,
}

/// A request that was served, for those who watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestRecord {
    /// Type of the request: one of VIRTIO_BLK_T_*.
    pub kind: u32,
    /// First sector; what the driver wrote there for requests that have none.
    pub sector: u64,
    /// Bytes of data, to or from the guest.
    pub bytes: u64,
    /// What the driver was answered: one of VIRTIO_BLK_S_*.
    pub status: u8,
}

/// The block device.
#[derive(Debug)]
pub struct Blk {
    state: BlkState,
    /// Requests served since they were last taken, if anybody watches. Not part of the state.
    served: Option<Vec<RequestRecord>>,
    /// Not part of the state: it ends the recording.
    backend_error: Option<BackendError>,
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

impl Blk {
    /// A disk of `sectors` sectors, which must be the size of the backend it will be used with. Of `id`, the first
    /// [`ID_SIZE`] bytes count.
    pub fn new(sectors: u64, read_only: bool, id: &[u8]) -> Self {
        let mut padded = [0; ID_SIZE];
        for (to, from) in padded.iter_mut().zip(id) {
            *to = *from;
        }
        Blk { state: BlkState { sectors, read_only, id: padded }, served: None, backend_error: None }
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

    /// The first error of the backend since the last call. The guest saw it as IOERR, and nothing in the guest's
    /// state explains it: a recording must stop here.
    pub fn take_backend_error(&mut self) -> Option<BackendError> {
        self.backend_error.take()
    }

    fn backend_failed(&mut self, operation: BlockOperation, sector: u64, source: BlockError) -> Outcome {
        if self.backend_error.is_none() {
            self.backend_error = Some(BackendError { operation, sector, source });
        }
        Outcome::Failed
    }

    /// Serves one request; gives the number of bytes written to it.
    fn serve<M: GuestMemory>(
        &mut self,
        mut chain: Chain,
        mem: &M,
        backend: &mut dyn BlockBackend,
    ) -> Result<u32, Fault> {
        let status = chain.writable.split_last_byte().ok_or(Fault::Chain)?;
        // The used length counts bytes from the start of the writable part, and the status is its last byte: it
        // counts when everything before it has been written.
        let only_status = u32::from(chain.writable.left() == 0);
        let data = (chain.readable.left() + chain.writable.left()).saturating_sub(HEADER_SIZE as u64);
        let mut asked = (u32::MAX, 0);
        let (code, written) = match self.request(&mut chain, mem, backend, &mut asked)? {
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
            VIRTIO_BLK_T_FLUSH => Ok(match backend.flush() {
                Ok(()) => Outcome::Done(0),
                Err(source) => self.backend_failed(BlockOperation::Flush, 0, source),
            }),
            VIRTIO_BLK_T_GET_ID => {
                let len = usize::try_from(chain.writable.left()).unwrap_or(ID_SIZE).min(ID_SIZE);
                chain.writable.write(mem, &self.state.id[..len])?;
                Ok(Outcome::Done(u32::try_from(len).unwrap_or(0)))
            }
            _ => Ok(Outcome::Unsupported),
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
            if let Err(source) = backend.read_at(sector, piece) {
                return Ok(self.backend_failed(BlockOperation::Read, sector, source));
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
            if let Err(source) = backend.write_at(sector, piece) {
                return Ok(self.backend_failed(BlockOperation::Write, sector, source));
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

impl VirtioDevice for Blk {
    const DEVICE_ID: u32 = VIRTIO_ID_BLOCK;
    const QUEUE_SIZES: &'static [u16] = &[QUEUE_SIZE];
    type Host = dyn BlockBackend;

    fn features(&self) -> u64 {
        let read_only = if self.state.read_only { 1 << VIRTIO_BLK_F_RO } else { 0 };
        1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_BLK_SIZE | 1 << VIRTIO_BLK_F_FLUSH | read_only
    }

    /// `struct virtio_blk_config` (section 5.2.4): capacity, seg_max and blk_size; the other fields are 0.
    fn read_config(&self, offset: u64, bytes: &mut [u8]) {
        let mut config = [0; 24];
        config[..8].copy_from_slice(&self.state.sectors.to_le_bytes());
        config[12..16].copy_from_slice(&SEG_MAX.to_le_bytes());
        config[20..].copy_from_slice(&BLOCK_SIZE.to_le_bytes());
        let rest = usize::try_from(offset).ok().and_then(|offset| config.get(offset..)).unwrap_or(&[]);
        for (to, from) in bytes.iter_mut().zip(rest) {
            *to = *from;
        }
    }

    fn reset(&mut self) {}

    fn notify<M: GuestMemory>(
        &mut self,
        _index: usize,
        queue: &mut Queue,
        _features: u64,
        mem: &M,
        backend: &mut (dyn BlockBackend + 'static),
    ) -> Result<bool, Fault> {
        let count = queue::available(queue, mem)?;
        for _ in 0..count {
            let chain = queue::next_chain(queue, mem)?;
            let head = chain.head;
            let written = self.serve(chain, mem, backend)?;
            queue::give_back(queue, mem, head, written)?;
        }
        Ok(count > 0 && queue::wants_interrupt(queue, mem)?)
    }
}

impl Snapshot for Blk {
    const KIND: &'static str = "virtio-blk";
    const VERSION: u16 = 1;
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
