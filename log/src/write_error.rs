//! Why a recording cannot be written.

use std::io;
use std::path::PathBuf;

use crate::bookmarks::BookmarkError;
use crate::codec::EncodeError;
use crate::error::OpenError;
use crate::event::Event;
use crate::header::EncodeHeaderError;
use crate::payload::Unfit;
use crate::position::Position;

/// Why a recording cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// There is a recording already.
    #[error("{}: there is a recording already; --overwrite replaces it", path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// There is something that is not a recording, so it is never replaced.
    #[error("{}: not empty and not a recording: not touched", path.display())]
    NotARecording {
        /// What is there.
        path: PathBuf,
    },
    /// Another recorder is writing there.
    #[error("{}: a recording is being made there", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The configuration does not fit into a header.
    #[error("cannot make the header")]
    Header(#[from] EncodeHeaderError),
    /// An event is before the one before it.
    #[error("{kind} of vCPU {vcpu} at {position} comes after an event at {last}")]
    Backwards {
        /// Its kind.
        kind: &'static str,
        /// Its vCPU.
        vcpu: u32,
        /// Its position.
        position: Position,
        /// Position of the vCPU's event before it.
        last: Position,
    },
    /// The data of an event is too long.
    #[error("{kind} at {position} holds {length} bytes, the limit is {limit}")]
    TooLong {
        /// Its kind.
        kind: &'static str,
        /// Its position.
        position: Position,
        /// Bytes in it.
        length: usize,
        /// Most bytes.
        limit: usize,
    },
    /// The format cannot say what an event says.
    #[error("{kind} at {position} cannot be written: {what}")]
    Invalid {
        /// Its kind.
        kind: &'static str,
        /// Its position.
        position: Position,
        /// What is wrong with it.
        what: &'static str,
    },
    /// There cannot be such a bookmark.
    #[error(transparent)]
    Bookmark(#[from] BookmarkError),
    /// The header announces fewer vCPUs.
    #[error("an event of vCPU {vcpu}, of {vcpus}")]
    NoSuchVcpu {
        /// The event's.
        vcpu: u32,
        /// The header's number.
        vcpus: u32,
    },
    /// This kind of event goes through another method.
    #[error("a recording cannot {method} with {kind}")]
    Misplaced {
        /// The method called: "append", "seal" or "close".
        method: &'static str,
        /// The event's kind.
        kind: &'static str,
    },
    /// More than 16 MiB of events were appended and not sealed.
    #[error("too many events since the last seal")]
    Full,
    /// An earlier write failed; the recording ends at the last position sealed before.
    #[error("{}: an earlier write failed", path.display())]
    Broken {
        /// The directory.
        path: PathBuf,
    },
    /// The host could not write. What was sealed before can be read.
    #[error("cannot write {what} to {}", path.display())]
    Io {
        /// What could not be written.
        what: String,
        /// The file or directory.
        path: PathBuf,
        /// The host's reason.
        source: io::Error,
    },
    /// Closing could not read back what was sealed.
    #[error("cannot read back what was recorded")]
    ReadBack(#[source] Box<OpenError>),
}

/// Why an event was not taken.
pub(crate) fn refused(event: &Event, error: EncodeError) -> WriteError {
    let (kind, position) = (event.body.name(), event.position);
    match error {
        EncodeError::Backwards { last } => WriteError::Backwards { kind, vcpu: event.vcpu, position, last },
        EncodeError::Unfit(Unfit::TooLong { length, limit }) => {
            WriteError::TooLong { kind, position, length, limit }
        }
        EncodeError::Unfit(Unfit::Invalid(what)) => WriteError::Invalid { kind, position, what },
    }
}
