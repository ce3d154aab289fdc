//! The disk behind virtio-blk: the image, never changed, under a copy-on-write overlay in an unlinked file.
//!
//! Replay starts from an empty overlay and rebuilds it, so the overlay is never part of a recording.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use scribe_devices::virtio::blk::{BlockBackend, BlockError, SECTOR_SIZE as SECTOR_BYTES};

const SECTOR_SIZE: u64 = SECTOR_BYTES as u64;
/// Unit of copy-on-write, bytes.
const CLUSTER: u64 = CLUSTER_BYTES as u64;
/// The same, for those who read [clusters](Disk::written).
pub const CLUSTER_BYTES: usize = 4096;

/// Why a disk image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It cannot be opened or measured.
    #[error("{path}: cannot be read: {source}")]
    Open {
        /// the image
        path: PathBuf,
        /// errno
        source: io::Error,
    },
    /// Its size is no whole number of sectors, or nothing.
    #[error("{path}: {size} bytes are not a whole number of 512-byte sectors; a raw disk image is needed")]
    Size {
        /// the image
        path: PathBuf,
        /// its size
        size: u64,
    },
    /// It is no file.
    #[error("{0}: not a regular file; a raw disk image is needed")]
    Kind(PathBuf),
    /// Another session uses it, and one of the two writes.
    #[error("{0}: in use by another program (it is locked), and one of the two would write it")]
    Locked(PathBuf),
    /// The overlay's file cannot be made.
    #[error("{directory}: no temporary file for the disk's overlay: {source}")]
    Overlay {
        /// where it was tried
        directory: PathBuf,
        /// errno
        source: io::Error,
    },
    /// Writing the overlay back failed.
    #[error("{path}: committing the disk's changes: {source}; the image may hold some of them")]
    Commit {
        /// the image
        path: PathBuf,
        /// errno
        source: io::Error,
    },
}

/// Opens and locks an image for a session: shared, or for writing and for nobody else. Before it is hashed, so that what
/// is hashed is what the guest gets.
///
/// # Errors
/// It is no regular file, cannot be opened, or is locked.
pub fn lock(path: &Path, for_writing: bool) -> Result<File, DiskError> {
    let error = |source| DiskError::Open { path: path.to_owned(), source };
    if !std::fs::metadata(path).map_err(error)?.is_file() {
        return Err(DiskError::Kind(path.to_owned()));
    }
    let file = File::options().read(true).write(for_writing).open(path).map_err(error)?;
    let locked = if for_writing { file.try_lock() } else { file.try_lock_shared() };
    locked.map_err(|_| DiskError::Locked(path.to_owned()))?;
    Ok(file)
}

/// An open image with an empty overlay. The session holds a [`lock`] on the image.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    image: File,
    size: u64,
    overlay: File,
    /// clusters that the overlay holds
    written: BTreeSet<u64>,
}

impl Disk {
    /// Opens `path`; the overlay's file goes into `scratch`, and has no name.
    ///
    /// # Errors
    /// Says which file and why.
    pub fn open(path: &Path, scratch: &Path) -> Result<Self, DiskError> {
        let error = |source| DiskError::Open { path: path.to_owned(), source };
        let image = File::open(path).map_err(error)?;
        let size = image.metadata().map_err(error)?.len();
        if size == 0 || !size.is_multiple_of(SECTOR_SIZE) {
            return Err(DiskError::Size { path: path.to_owned(), size });
        }
        let overlay = tempfile::tempfile_in(scratch)
            .map_err(|source| DiskError::Overlay { directory: scratch.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), image, size, overlay, written: BTreeSet::new() })
    }

    /// Writes the overlay into the image, which `image` has open for writing. The machine must have ended.
    ///
    /// # Errors
    /// The image cannot be written.
    pub fn commit(self, image: &File) -> Result<(), DiskError> {
        let error = |source| DiskError::Commit { path: self.path.clone(), source };
        let mut bytes = [0; CLUSTER_BYTES];
        for &cluster in &self.written {
            let used = self.used(cluster);
            self.overlay.read_exact_at(&mut bytes[..used], cluster * CLUSTER).map_err(error)?;
            image.write_all_at(&bytes[..used], cluster * CLUSTER).map_err(error)?;
        }
        image.sync_all().map_err(error)
    }

    /// The clusters that differ from the image, ascending.
    pub fn written(&self) -> impl Iterator<Item = u64> + '_ {
        self.written.iter().copied()
    }

    /// Contents of one of the [`written`](Self::written) clusters; what lies behind the disk's end is 0.
    ///
    /// # Errors
    /// The overlay cannot be read.
    pub fn read_cluster(&self, cluster: u64) -> io::Result<[u8; CLUSTER_BYTES]> {
        let mut bytes = [0; CLUSTER_BYTES];
        let used = self.used(cluster);
        self.overlay.read_exact_at(&mut bytes[..used], cluster * CLUSTER)?;
        Ok(bytes)
    }

    /// Replaces clusters from `first` on with `bytes`, as after so many writes of the guest.
    ///
    /// # Errors
    /// They are not all on the disk, or the overlay cannot be written.
    pub fn write_clusters(&mut self, first: u64, bytes: &[u8]) -> io::Result<()> {
        for (cluster, bytes) in (first..).zip(bytes.chunks(CLUSTER_BYTES)) {
            let used = self.used(cluster);
            if used == 0 || used > bytes.len() {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "clusters outside the disk"));
            }
            self.overlay.write_all_at(&bytes[..used], cluster * CLUSTER)?;
            self.written.insert(cluster);
        }
        Ok(())
    }

    /// True if this cluster is on the disk.
    pub fn has_cluster(&self, cluster: u64) -> bool {
        self.used(cluster) > 0
    }

    /// Bytes of a cluster that are on the disk.
    fn used(&self, cluster: u64) -> usize {
        let start = cluster.saturating_mul(CLUSTER);
        usize::try_from(self.size.saturating_sub(start).min(CLUSTER)).unwrap_or(0)
    }

    /// Splits `length` bytes at `offset` into pieces that lie in one cluster each: offset, start and end in the buffer.
    fn pieces(offset: u64, length: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
        let mut done = 0;
        std::iter::from_fn(move || {
            let at = offset + done as u64;
            let room = usize::try_from(CLUSTER - at % CLUSTER).unwrap_or(usize::MAX);
            let start = done;
            done += room.min(length - done);
            (start < length).then_some((at, start..done))
        })
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        for (at, range) in Self::pieces(offset, buffer.len()) {
            let file = if self.written.contains(&(at / CLUSTER)) { &self.overlay } else { &self.image };
            file.read_exact_at(&mut buffer[range], at)?;
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, buffer: &[u8]) -> io::Result<()> {
        for (at, range) in Self::pieces(offset, buffer.len()) {
            let cluster = at / CLUSTER;
            if !self.written.contains(&cluster) {
                let start = cluster * CLUSTER;
                let used = self.used(cluster);
                if range.len() < used {
                    let mut bytes = [0; CLUSTER_BYTES];
                    self.image.read_exact_at(&mut bytes[..used], start)?;
                    self.overlay.write_all_at(&bytes[..used], start)?;
                }
            }
            self.overlay.write_all_at(&buffer[range], at)?;
            self.written.insert(cluster);
        }
        Ok(())
    }

    /// Byte offset of `sector`, if `length` bytes from there are inside the disk.
    fn offset(&self, sector: u64, length: usize) -> Option<u64> {
        let offset = sector.checked_mul(SECTOR_SIZE)?;
        (offset.checked_add(length as u64)? <= self.size).then_some(offset)
    }
}

impl BlockBackend for Disk {
    fn sectors(&self) -> u64 {
        self.size / SECTOR_SIZE
    }

    fn read_at(&mut self, sector: u64, buffer: &mut [u8]) -> Result<(), BlockError> {
        let offset = self.offset(sector, buffer.len()).ok_or_else(outside)?;
        self.read(offset, buffer).map_err(BlockError::new)
    }

    fn write_at(&mut self, sector: u64, buffer: &[u8]) -> Result<(), BlockError> {
        let offset = self.offset(sector, buffer.len()).ok_or_else(outside)?;
        self.write(offset, buffer).map_err(BlockError::new)
    }

    fn flush(&mut self) -> Result<(), BlockError> {
        Ok(()) // the overlay lives no longer than the process
    }
}

/// The device checks sectors before it asks; a backend checks again.
fn outside() -> BlockError {
    BlockError::new("sectors outside the disk")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(bytes: &[u8]) -> (tempfile::TempDir, PathBuf, Disk) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, bytes).unwrap();
        let disk = Disk::open(&path, dir.path()).unwrap();
        (dir, path, disk)
    }

    #[test]
    fn writes_go_to_the_overlay_only_and_commit_brings_them_home() {
        let original: Vec<u8> = (0..20 * 512_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let (_dir, path, mut disk) = disk(&original);
        let mut expected = original.clone();
        // one sector inside a cluster, a span over cluster edges, the last (short) cluster
        for (sector, count, value) in [(1, 1, 1_u8), (7, 3, 2), (19, 1, 3)] {
            disk.write_at(sector, &vec![value; count * 512]).unwrap();
            let at = usize::try_from(sector).unwrap() * 512;
            expected[at..at + count * 512].fill(value);
        }
        let mut read = vec![0; original.len()];
        disk.read_at(0, &mut read).unwrap();
        assert_eq!(read, expected);
        assert_eq!(std::fs::read(&path).unwrap(), original, "the image never changes");
        disk.commit(&lock(&path, true).unwrap()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), expected);
    }

    #[test]
    fn nothing_outside_the_disk_is_reached() {
        let (_dir, _path, mut disk) = disk(&[0; 1024]);
        assert!(disk.read_at(1, &mut [0; 1024]).is_err());
        assert!(disk.write_at(2, &[0; 512]).is_err());
        assert!(disk.read_at(u64::MAX, &mut [0; 512]).is_err());
    }

    #[test]
    fn odd_sizes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, [0; 700]).unwrap();
        assert!(matches!(Disk::open(&path, dir.path()), Err(DiskError::Size { size: 700, .. })));
    }
}
