//! The recording: its format, writer, reader, index, and the place where recordings live.
//!
//! A recording is a directory holding `header` (the configuration), `events` (everything that came from outside, each
//! with its [`Position`], and digests to compare) and, until it is closed, `incomplete`. The bytes are described in
//! docs/log-format.md. This crate knows nothing of KVM, reads no clock and uses no randomness.

pub mod header;
pub mod snapshots;
pub mod store;

mod append;
mod bookmarks;
mod bytes;
mod canonical;
mod codec;
mod directory;
mod edit;
mod error;
mod event;
mod events;
mod index;
mod lock;
mod payload;
mod position;
mod reader;
mod segment;
mod shrink;
mod swap;
mod text;
mod walk;
mod write_error;
mod writer;

pub use bookmarks::{
    Bookmark, BookmarkError, BookmarkList, BookmarkOrigin, Bookmarks, Listed, MAX_BOOKMARK_NAME,
    MAX_BOOKMARKS, check_bookmark_name,
};
pub use directory::remove as remove_recording;
pub use edit::EditError;
pub use error::OpenError;
pub use event::{
    Body, Capture, CapturePages, DeviceInput, End, EndCause, Event, ExitAnswer, ExitKind, FullDigest,
    GeneralRegisters, MAX_CAPTURE_PAGES, MAX_CAPTURE_STATE, MAX_DATA, MAX_ENTROPY, MAX_FRAME,
    MAX_INSTRUCTION, MAX_PAGES, MAX_REGISTER_NAME, MAX_REGISTERS, MIN_FRAME, PageCodec, Register, SPURIOUS,
    StopReason, UnpackError,
};
pub use events::Events;
pub use header::Header;
pub use index::IndexEntry;
pub use position::{ParsePositionError, Position};
pub use reader::{Recording, State};
pub use shrink::{ShrinkOptions, Shrunk, shrink};
pub use store::{Store, StoreError};
pub use write_error::WriteError;
pub use writer::{WriteOptions, Writer};

/// Name of the file with the configuration, in a recording's directory.
pub const HEADER_FILE: &str = "header";
/// Name under which a changed header is written before it replaces [`HEADER_FILE`].
pub const HEADER_NEW_FILE: &str = "header.new";
/// Name of the file with the events, in a recording's directory.
pub const EVENTS_FILE: &str = "events";
/// Name under which the canonical events are written before they replace [`EVENTS_FILE`].
pub const EVENTS_NEW_FILE: &str = "events.new";
/// Name of the file with the bookmarks that are no events, in a recording's directory.
pub const BOOKMARKS_FILE: &str = "bookmarks";
/// Name under which changed bookmarks are written before they replace [`BOOKMARKS_FILE`].
pub const BOOKMARKS_NEW_FILE: &str = "bookmarks.new";
/// Name of the directory with copies of the host's files that a recording needs, in the directory of one that was unpacked.
pub const FILES_DIR: &str = "files";
/// Name of the file that is there, and locked by the recorder, until the recording is closed.
pub const INCOMPLETE_FILE: &str = "incomplete";

/// How many bytes a recording takes, by file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes of the header file.
    pub header: u64,
    /// Bytes of the events file that hold sealed segments and the index.
    pub events: u64,
    /// Bytes of the bookmarks file.
    pub bookmarks: u64,
    /// Bytes behind the events that a killed recorder left half written; ignored. 0 in a complete recording.
    pub torn: u64,
}

impl Sizes {
    /// All together.
    pub fn total(&self) -> u64 {
        self.header + self.events + self.bookmarks + self.torn
    }
}
