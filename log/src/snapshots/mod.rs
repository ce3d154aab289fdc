//! Snapshots: whole states of the machine at positions of a recording, from which a replay can start.
//!
//! They are in the recording's directory `snapshots`: a file for each, and a pack of compressed pages that they share,
//! each page once (docs/snapshot-format.md). This module knows nothing of processors and devices: a snapshot is a
//! position, a guest time, an [`Origin`], named [`Part`]s with versions, and pages in numbered spaces.
//!
//! A recording does not need its snapshots, with one exception: [`Origin::Start`]. All others can be removed at any time.
//! Any number of processes may read while one writes.

mod add;
mod body;
mod chunk;
mod compact;
mod error;
mod file;
mod identity;
mod list;
mod load;
mod lock;
mod pack;
mod pages;
mod store;
mod thin;
mod verify;

use std::path::{Path, PathBuf};

use crate::position::Position;
use chunk::Digest;
use list::Listing;
use pack::Index;

pub use error::SnapshotError;
pub use pages::{MAX_PAGES, PAGE_BYTES, PAGE_NUMBERS, PageMap, PageSink, PageSource, RAM, Visit};
pub use thin::{is_kept, superseded};

/// Name of the directory of the snapshots, in a recording's directory.
pub const SNAPSHOTS_DIR: &str = "snapshots";
/// Most parts of a snapshot.
pub const MAX_PARTS: usize = 1024;
/// Most bytes of all parts of a snapshot together.
pub const MAX_PARTS_BYTES: usize = 64 * 1024 * 1024;
/// Most bytes of the name of a part's kind.
pub const MAX_KIND: usize = 64;

// Frozen: snapshots exist.
const _: () = assert!(MAX_PARTS == 1024 && MAX_PARTS_BYTES == 67_108_864 && MAX_KIND == 64);

/// Why a snapshot was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The recording starts from it, not from power-on: it cannot be removed or replaced.
    Start,
    /// Taken while recording.
    Recorded,
    /// Added to the recording because somebody asked for it.
    Asked,
    /// Taken while replaying because it may come to use.
    Automatic {
        /// Its number in the grid that the automatic ones are taken on; see [`is_kept`].
        ordinal: u64,
    },
}

impl Origin {
    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Origin::Start => "start",
            Origin::Recorded => "recorded",
            Origin::Asked => "asked",
            Origin::Automatic { .. } => "automatic",
        }
    }

    fn encode(self) -> (u8, u64) {
        match self {
            Origin::Start => (0, 0),
            Origin::Recorded => (1, 0),
            Origin::Asked => (2, 0),
            Origin::Automatic { ordinal } => (3, ordinal),
        }
    }

    fn decode(code: u8, ordinal: u64) -> Option<Origin> {
        match (code, ordinal) {
            (0, 0) => Some(Origin::Start),
            (1, 0) => Some(Origin::Recorded),
            (2, 0) => Some(Origin::Asked),
            (3, ordinal) => Some(Origin::Automatic { ordinal }),
            _ => None,
        }
    }
}

/// A snapshot of a recording, without its contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Where in the execution it was taken.
    pub position: Position,
    /// Guest time there, nanoseconds.
    pub guest_time: u64,
    /// Why it was taken.
    pub origin: Origin,
    /// Bytes of its own file. The pages are in the pack, where several snapshots share them.
    pub bytes: u64,
    /// Number of pages it holds: in RAM those that are not zero.
    pub pages: u64,
}

/// A piece of state that is not made of pages. What its bytes mean is up to whoever made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its name, at most [`MAX_KIND`] bytes. No two parts of a snapshot have the same.
    pub kind: String,
    /// Version of the meaning of its bytes.
    pub version: u16,
    /// The state.
    pub bytes: Vec<u8>,
}

/// What a new snapshot is made of, besides its pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSnapshot {
    /// Where in the execution the machine is.
    pub position: Position,
    /// Guest time there, nanoseconds.
    pub guest_time: u64,
    /// Why it is taken.
    pub origin: Origin,
    /// At most [`MAX_PARTS`], with at most [`MAX_PARTS_BYTES`] together.
    pub parts: Vec<Part>,
}

/// How many bytes the snapshots of a recording take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of the files of the snapshots themselves.
    pub snapshots: u64,
    /// Bytes of all packs.
    pub packs: u64,
    /// Bytes of the packs that no snapshot needs: about what [`Snapshots::compact`] frees.
    pub unused: u64,
}

/// The snapshots of a recording.
#[derive(Debug)]
pub struct Snapshots {
    recording: PathBuf,
    dir: PathBuf,
    identity: Digest,
    listing: Listing,
    index: Option<Index>,
    durable: bool,
}

impl Snapshots {
    /// Looks what snapshots the recording in directory `recording` has, whose header has the checksum `header_crc`.
    ///
    /// Reads the head of each snapshot. One that is damaged does not make the others unusable: it is in
    /// [`Snapshots::damaged`].
    ///
    /// # Errors
    /// There is another recording by now, or the directory of the snapshots is there and cannot be read.
    pub fn open(recording: &Path, header_crc: u32) -> Result<Snapshots, SnapshotError> {
        let identity = identity::of(recording, |file| file.crc == header_crc)?;
        let dir = recording.join(SNAPSHOTS_DIR);
        let listing = list::read(&dir, &identity)?;
        let recording = recording.to_owned();
        Ok(Snapshots { recording, dir, identity, listing, index: None, durable: false })
    }

    /// Whether what is added is to survive a loss of the host's power, at the price of waiting for its disk. Without it,
    /// a snapshot that did not reach the disk may be found damaged, never different.
    pub fn set_durable(&mut self, durable: bool) {
        self.durable = durable;
    }

    /// Looks again: another process may have added or removed some.
    ///
    /// # Errors
    /// The directory is there and cannot be read.
    pub fn refresh(&mut self) -> Result<(), SnapshotError> {
        self.listing = list::read(&self.dir, &self.identity)?;
        Ok(())
    }

    /// The snapshots, ascending by position.
    pub fn list(&self) -> &[SnapshotInfo] {
        &self.listing.snapshots
    }

    /// What is wrong with each of those that are not in the list.
    pub fn damaged(&self) -> &[SnapshotError] {
        &self.listing.damaged
    }

    /// The snapshot at `position`.
    pub fn at(&self, position: Position) -> Option<&SnapshotInfo> {
        let list = self.list();
        list.binary_search_by_key(&position, |info| info.position).ok().and_then(|at| list.get(at))
    }

    /// The last snapshot at or before `position`.
    pub fn before(&self, position: Position) -> Option<&SnapshotInfo> {
        self.list()[..self.list().partition_point(|info| info.position <= position)].last()
    }

    /// The last snapshot at or before guest time `nanoseconds`.
    pub fn before_time(&self, nanoseconds: u64) -> Option<&SnapshotInfo> {
        // Guest time does not go backwards while positions go forwards, but a file may say otherwise.
        self.list().iter().rev().find(|info| info.guest_time <= nanoseconds)
    }

    /// The snapshot that the recording starts from, if it does not start from power-on.
    pub fn start(&self) -> Option<&SnapshotInfo> {
        self.list().iter().find(|info| info.origin == Origin::Start)
    }

    fn path(&self, position: Position) -> PathBuf {
        self.dir.join(file::name(position))
    }
}
