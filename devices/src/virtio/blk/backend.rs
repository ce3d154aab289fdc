//! What is behind a block device, and what it says when it fails.

use std::error::Error as StdError;

use thiserror::Error;

use super::SECTOR_SIZE;

/// The disk behind a block device. Accesses are whole sectors within the disk, at most
/// [`CHUNK_SIZE`](super::CHUNK_SIZE) bytes.
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

    /// Makes `count` sectors from `sector` on read as zeros, however many that are. A backend that can do so without
    /// storing zeros has its own way.
    ///
    /// # Errors
    /// [`BlockError`] if the host cannot.
    fn zero_at(&mut self, sector: u64, count: u64) -> Result<(), BlockError> {
        const ZEROS: [u8; 16 * SECTOR_SIZE] = [0; 16 * SECTOR_SIZE];
        let mut done = 0;
        while done < count {
            let sectors = (count - done).min(16);
            let bytes = usize::try_from(sectors).unwrap_or(16) * SECTOR_SIZE;
            self.write_at(sector + done, ZEROS.get(..bytes).unwrap_or(&ZEROS))?;
            done += sectors;
        }
        Ok(())
    }
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
    /// [`BlockBackend::zero_at`]
    Zero,
}

/// An operation that the host failed.
#[derive(Debug, Error)]
#[error("{operation:?} of the disk failed at sector {sector}")]
pub struct BackendError {
    /// The operation.
    pub operation: BlockOperation,
    /// Its first sector; 0 for a flush.
    pub sector: u64,
    /// Which operation of its notification it was, from 0: a function of what the guest asked for, so that a replay
    /// can fail the same one ([`Blk::fail_operations`](super::Blk::fail_operations)).
    pub number: u64,
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
