//! Changing a recording that nobody writes any more: one at a time, and whole at every moment.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::HEADER_FILE;
use crate::bookmarks::BookmarkError;
use crate::error::OpenError;
use crate::header::EncodeHeaderError;
use crate::position::Position;
use crate::reader::{Recording, State};
use crate::swap;
use crate::write_error::WriteError;

/// Why a recording cannot be changed. It is as it was then.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// It cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its recorder lives.
    #[error("{}: it is being recorded: change it when it is finished", path.display())]
    Running {
        /// The directory.
        path: PathBuf,
    },
    /// Its recorder was killed, and this takes a closed one.
    #[error("{}: its recorder was killed, and only a complete recording can be made smaller", path.display())]
    Crashed {
        /// The directory.
        path: PathBuf,
    },
    /// There cannot be such a bookmark.
    #[error(transparent)]
    Bookmark(#[from] BookmarkError),
    /// There is one of that name.
    #[error("there is a bookmark {name} already, at {position}")]
    NameTaken {
        /// The name.
        name: String,
        /// Where the first of that name is.
        position: Position,
    },
    /// The guest set it.
    #[error(
        "bookmark {name} was set by the guest: it is an event of the recording and cannot be removed by itself (scribe-vmm \
         shrink --bookmarks drops all)"
    )]
    SetByGuest {
        /// Its name.
        name: String,
    },
    /// There is none of that name.
    #[error("{}: no bookmark {name}", path.display())]
    NoSuchBookmark {
        /// The directory.
        path: PathBuf,
        /// What was asked for.
        name: String,
    },
    /// The position is not in the recording.
    #[error("{position} is not in the recording: it goes from {start} to {end}")]
    OutOfRange {
        /// What was asked for.
        position: Position,
        /// Where the recording begins.
        start: Position,
        /// Where it ends.
        end: Position,
    },
    /// The new events, or the new header, could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The new header cannot be.
    #[error(transparent)]
    Header(#[from] EncodeHeaderError),
    /// The host could not write.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What failed: "write", "replace", "lock", ...
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The host's reason.
        source: io::Error,
    },
}

impl EditError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EditError {
        move |source| EditError::Io { action, path: path.to_owned(), source }
    }
}

/// Keeps others from changing a recording until it is dropped: an exclusive lock on its header.
#[derive(Debug)]
pub(crate) struct EditLock {
    _file: File,
}

/// What came of locking a recording.
#[derive(Debug)]
pub(crate) enum Locked {
    ByUs(EditLock),
    /// Only if it was not to be waited for.
    ByAnother,
    /// There is no header.
    Nothing,
}

/// Opens the recording in `dir` to change it; waits for another program that does.
pub(crate) fn open(dir: &Path) -> Result<(EditLock, Recording), EditError> {
    // First, since it knows best what is no recording.
    let readable = || match Recording::open(dir)? {
        running if running.state() == State::Running => Err(EditError::Running { path: dir.to_owned() }),
        recording => Ok(recording),
    };
    readable()?;
    let path = dir.join(HEADER_FILE);
    loop {
        let Locked::ByUs(lock) = lock(&path, true).map_err(EditError::io("lock", &path))? else {
            return Err(OpenError::Missing { path: dir.to_owned() }.into());
        };
        let recording = readable()?;
        if !recording.is_pending() {
            swap::clean(dir)?;
            return Ok((lock, recording));
        }
        // Replaces the header, and so ends the lock.
        swap::settle(dir, recording.header_crc())?;
    }
}

/// Locks the recording with the header file at `path`; waits for whoever changes it now, if `wait`.
pub(crate) fn lock(path: &Path, wait: bool) -> io::Result<Locked> {
    loop {
        // For writing, though it is never written to: some network file systems lock no others.
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Locked::Nothing),
            other => other?,
        };
        if wait {
            file.lock()?;
        } else {
            match file.try_lock() {
                Err(fs::TryLockError::WouldBlock) => return Ok(Locked::ByAnother),
                other => other?,
            }
        }
        // Whoever had it before may have replaced the header.
        let ours = file.metadata()?;
        match path.metadata() {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => {
                return Ok(Locked::ByUs(EditLock { _file: file }));
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes a file that is to replace another one, down to the disk: what is there already is never put at risk.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), EditError> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|source| {
        let _ = fs::remove_file(path);
        EditError::io("write", path)(source)
    })
}

/// Puts the file `from` in place of `to`, in one step, down to the disk.
pub(crate) fn replace(from: &Path, to: &Path) -> Result<(), EditError> {
    fs::rename(from, to).and_then(|()| sync_parent(to)).map_err(EditError::io("replace", to))
}

/// Removes a file that may not be there, down to the disk.
pub(crate) fn remove(path: &Path) -> Result<(), EditError> {
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path).map_err(EditError::io("remove", path)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(EditError::io("remove", path)(error)),
    }
}

/// Makes the entries of the directory that `path` is in safe.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    };
    File::open(parent)?.sync_all()
}
