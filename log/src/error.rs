//! Why a recording cannot be read.

use std::io;
use std::path::{Path, PathBuf};

use crate::position::Position;

/// Why a recording cannot be opened, or not be read on. Every message is one line.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is nothing of that name.
    #[error("{}: no such recording", path.display())]
    Missing {
        /// What was to be opened.
        path: PathBuf,
    },
    /// It is something else.
    #[error("{}: not a recording", path.display())]
    NotARecording {
        /// What was to be opened.
        path: PathBuf,
    },
    /// It was made with a later version of the format.
    #[error("{}: format version {found}, this program reads up to {supported}: made by a newer scribe-vmm", path.display())]
    TooNew {
        /// The header file.
        path: PathBuf,
        /// The recording's format version.
        found: u32,
        /// The newest that can be read.
        supported: u32,
    },
    /// The header is whole, but says something this program does not know.
    #[error("{}: {what}: made by another scribe-vmm", path.display())]
    UnknownHeader {
        /// The header file.
        path: PathBuf,
        /// What is not known.
        what: String,
    },
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
    /// An event of an unknown kind must not be skipped.
    #[error("{}: unknown event kind {kind:#04x} at {position}: made by a newer scribe-vmm", file.display())]
    UnknownEvent {
        /// The file.
        file: PathBuf,
        /// Its kind, with the must-understand bit.
        kind: u8,
        /// Where it is in the execution.
        position: Position,
    },
    /// The host could not read it.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What failed: "open", "read", "lock".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The host's reason.
        source: io::Error,
    },
}

impl OpenError {
    pub(crate) fn corrupt(file: &Path, offset: u64, what: impl Into<String>) -> OpenError {
        OpenError::Corrupt { file: file.to_owned(), offset, what: what.into() }
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
        move |source| OpenError::Io { action, path: path.to_owned(), source }
    }
}
