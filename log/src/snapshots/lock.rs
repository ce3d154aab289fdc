//! One writer at a time: a lock on the file `lock`, held while something is added, removed or compacted.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::Path;

use super::error::SnapshotError;

const NAME: &str = "lock";

/// Held until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// Locks the directory `dir`, and makes it if it is not there.
pub(super) fn acquire(dir: &Path) -> Result<Lock, SnapshotError> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        // A read-only file system says so even if the directory is there.
        Err(_) if dir.is_dir() => {}
        other => other.map_err(SnapshotError::writing("make", dir, dir))?,
    }
    let path = dir.join(NAME);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(SnapshotError::writing("make", &path, dir))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock { _file: file }),
        Err(TryLockError::WouldBlock) => Err(SnapshotError::Busy { dir: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(SnapshotError::io("lock", &path)(error)),
    }
}
