//! Why a snapshot cannot be taken, found or put back.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::error::OpenError;
use crate::position::Position;

/// Why snapshots cannot be read or written. Every message is one line.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Another process is adding, removing or compacting. Whoever adds snapshots unasked can go on without.
    #[error("{}: another scribe-vmm is writing snapshots there; try again when it has ended", dir.display())]
    Busy {
        /// The directory of the snapshots.
        dir: PathBuf,
    },
    /// The host does not let this process write there. Whoever adds snapshots unasked can go on without.
    #[error("{}: snapshots cannot be written there: no permission, or a read-only file system", dir.display())]
    ReadOnly {
        /// The directory of the snapshots.
        dir: PathBuf,
        /// The host's reason.
        source: io::Error,
    },
    /// There is none, or there is none any more.
    #[error("{}: no snapshot at {position}", dir.display())]
    Missing {
        /// The directory of the snapshots.
        dir: PathBuf,
        /// Where one was wanted.
        position: Position,
    },
    /// It is the state that the recording starts from.
    #[error("{}: the recording starts from the snapshot at {position}: it is neither removed nor replaced", dir.display())]
    Needed {
        /// The directory of the snapshots.
        dir: PathBuf,
        /// Where it is.
        position: Position,
    },
    /// It was made with a later version of the format.
    #[error("{}: snapshot format version {found}, this program reads up to {supported}: made by a newer scribe-vmm", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its format version.
        found: u32,
        /// The newest that can be read.
        supported: u32,
    },
    /// It was copied here from another recording.
    #[error("{}: belongs to another recording; remove it", path.display())]
    OtherRecording {
        /// The file.
        path: PathBuf,
    },
    /// The recording was replaced.
    #[error("{}: there is another recording by now", dir.display())]
    Replaced {
        /// The recording's directory.
        dir: PathBuf,
    },
    /// The recording's header cannot be read, so its snapshots cannot be told from others.
    #[error("cannot tell which recording the snapshots belong to")]
    Recording(#[source] Box<OpenError>),
    /// Bytes are missing or have changed.
    #[error("{}: corrupt at byte {offset}: {what}", file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// Where in it: the start of the damaged part, in bytes.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// What was to be added is more than the format takes.
    #[error("a snapshot with {what}: at most {limit}")]
    TooLarge {
        /// What there is too much of, with its number.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// A part of a new snapshot has no name, or that of another.
    #[error("a snapshot with a part of kind {kind:?}, which is empty or there twice")]
    PartName {
        /// Their kind.
        kind: String,
    },
    /// The machine could not give its pages.
    #[error("cannot take the pages of a snapshot")]
    Source(#[source] io::Error),
    /// The machine could not take its pages back.
    #[error("cannot put back the pages of a snapshot")]
    Sink(#[source] io::Error),
    /// The host could not do it.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What failed: "open", "read", "write", "rename".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The host's reason.
        source: io::Error,
    },
}

impl SnapshotError {
    /// True if what is in the files is not what was written there by a program like this.
    pub fn is_damage(&self) -> bool {
        match self {
            SnapshotError::Recording(error) => !matches!(**error, OpenError::Io { .. }),
            SnapshotError::Missing { .. }
            | SnapshotError::TooNew { .. }
            | SnapshotError::OtherRecording { .. }
            | SnapshotError::Replaced { .. }
            | SnapshotError::Corrupt { .. } => true,
            _ => false,
        }
    }

    pub(super) fn corrupt(file: &Path, offset: u64, what: impl Into<String>) -> SnapshotError {
        SnapshotError::Corrupt { file: file.to_owned(), offset, what: what.into() }
    }

    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SnapshotError {
        move |source| SnapshotError::Io { action, path: path.to_owned(), source }
    }

    /// For what is done to make or change files in `dir`: tells a directory that is not to be written from other failures.
    pub(super) fn writing(
        action: &'static str,
        path: &Path,
        dir: &Path,
    ) -> impl FnOnce(io::Error) -> SnapshotError {
        move |source| match source.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                SnapshotError::ReadOnly { dir: dir.to_owned(), source }
            }
            _ => SnapshotError::Io { action, path: path.to_owned(), source },
        }
    }
}

/// Opens the file `path` of the directory `dir`. `None`: there is none. What is no file is not opened: a pipe would make
/// this process wait.
pub(super) fn open(path: &Path, dir: &Path, write: bool) -> Result<Option<File>, SnapshotError> {
    let opened = fs::metadata(path).and_then(|metadata| match metadata.is_file() {
        true => OpenOptions::new().read(true).write(write).open(path).map(Some),
        false => Ok(None),
    });
    match opened {
        Ok(Some(file)) => Ok(Some(file)),
        Ok(None) => Err(SnapshotError::corrupt(path, 0, "it is not a file")),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) if write => Err(SnapshotError::writing("open", path, dir)(error)),
        Err(error) => Err(SnapshotError::io("open", path)(error)),
    }
}
