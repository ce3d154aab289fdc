//! The file `incomplete`: there until a recording is closed, locked while its recorder lives.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What the file says to a person who looks into it.
pub(crate) const TEXT: &[u8] = b"This recording is being written, or its recorder was killed.\n";

/// Whether a recorder lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// There is no such file: the recording is closed.
    NoFile,
    Dead,
    Alive,
}

/// Looks at the file at `path` without changing anything.
pub(crate) fn holder(path: &Path) -> io::Result<Holder> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Holder::NoFile),
        other => other?,
    };
    // Shared, so that readers do not take each other for recorders; given back at once.
    match file.try_lock_shared() {
        Ok(()) => Ok(Holder::Dead),
        Err(TryLockError::WouldBlock) => Ok(Holder::Alive),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// A lock held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
    /// Whether the file was not there before.
    pub(crate) created: bool,
}

/// Makes and locks the file at `path`. `None` if another recorder holds it.
pub(crate) fn acquire(path: &Path) -> io::Result<Option<Lock>> {
    loop {
        let (mut file, created) = match OpenOptions::new().read(true).write(true).create_new(true).open(path)
        {
            Ok(file) => (file, true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                match OpenOptions::new().read(true).write(true).open(path) {
                    Ok(file) => (file, false),
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // The holder may have closed its recording, and so removed the file, between our open and our lock.
        let ours = file.metadata()?;
        match path.metadata() {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => {}
            Ok(_) => continue,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        }
        if ours.len() == 0 {
            file.write_all(TEXT)?;
        }
        return Ok(Some(Lock { _file: file, created }));
    }
}
