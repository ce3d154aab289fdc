//! What is in the directory of the snapshots.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::SnapshotInfo;
use super::chunk::Digest;
use super::error::SnapshotError;
use super::file::{self, Head, SnapshotFile};
use super::pack;

/// The files of the directory. Those of other names are nobody's business.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Ascending by position.
    pub(super) snapshots: Vec<SnapshotInfo>,
    /// Of each snapshot: generation of its pack, and bytes of it behind which it refers to nothing.
    pub(super) needs: Vec<(u32, u64)>,
    pub(super) damaged: Vec<SnapshotError>,
    /// Paths of what is in `damaged`.
    pub(super) unreadable: Vec<PathBuf>,
    /// Generations of the packs, ascending.
    pub(super) packs: Vec<u32>,
    /// What killed writers left.
    pub(super) temporary: Vec<PathBuf>,
}

/// Reads the directory `dir`; without one there are no snapshots.
pub(super) fn read(dir: &Path, recording: &Digest) -> Result<Listing, SnapshotError> {
    let mut listing = Listing::default();
    let failed = || SnapshotError::io("read", dir);
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(listing),
        other => other.map_err(failed())?,
    };
    let mut heads: Vec<Head> = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed())?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some(generation) = pack::generation(name) {
            listing.packs.push(generation);
        } else if name.strip_suffix(file::TEMPORARY).is_some_and(|name| file::position(name).is_some()) {
            listing.temporary.push(entry.path());
        } else if let Some(position) = file::position(name) {
            let path = entry.path();
            match SnapshotFile::open(&path, dir, position, recording) {
                Ok(Some(file)) => heads.push(file.head),
                // Removed since the directory was read.
                Ok(None) => {}
                Err(error) => {
                    listing.damaged.push(error);
                    listing.unreadable.push(path);
                }
            }
        }
    }
    heads.sort_by_key(|head| head.info.position);
    listing.needs = heads.iter().map(|head| (head.generation, head.pack_end)).collect();
    listing.snapshots = heads.into_iter().map(|head| head.info).collect();
    listing.packs.sort_unstable();
    Ok(listing)
}
