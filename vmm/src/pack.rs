//! A recording as one file, with what it needs to be replayed anywhere.
//!
//! A pack is one zstd frame of a tar archive (POSIX ustar), and a skippable frame (RFC 8878, 3.1.2) that holds the BLAKE3
//! digest of all bytes before it; `zstd -dc` and `tar` read it. Its first entry is `scribe-pack.json`: the
//! format's version and name, size and BLAKE3 digest of every further entry, in order. Those are the files of the
//! recording's directory, and, if they were asked for, the files that it names, as `files/image`, `files/kernel` and
//! `files/initrd`. Unpacked, it is a recording's directory again; a replay finds the files inside it.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use scribe_log::snapshots::{SNAPSHOTS_DIR, SnapshotError};
use scribe_log::{EditError, FILES_DIR, OpenError};
use serde::{Deserialize, Serialize};

use crate::session::config::Moved;
use crate::session::files::Digest;

mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::{is_pack, unpack};
pub use write::pack;

/// Name of the first entry.
const CONTENTS: &str = "scribe-pack.json";
/// Version of the format.
const FORMAT: u32 = 1;
/// What a zstd frame starts with (RFC 8878, 3.1.1).
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// How the skippable frame with the digest starts: magic and length.
const SEAL: [u8; 8] = [0x50, 0x2a, 0x4d, 0x18, 32, 0, 0, 0];
/// Bytes of that frame.
const SEAL_BYTES: u64 = 40;
/// Most bytes of a name in a pack: what the first field for names of a ustar header holds.
const MOST_NAME: usize = 100;

// Frozen: packs exist.
const _: () = assert!(FORMAT == 1 && SEAL_BYTES == 40 && MOST_NAME == 100);
const _: () = assert!(matches!(SEAL, [0x50, 0x2a, 0x4d, 0x18, 32, 0, 0, 0]));

/// Why a recording cannot be packed or a pack not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// It is being made.
    #[error("{0}: it is being recorded; pack it when it has ended")]
    Running(String),
    /// It cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its snapshots cannot be read.
    #[error(transparent)]
    Snapshots(#[from] SnapshotError),
    /// The copy of it cannot be put in order.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// It is a branch that has lost its first snapshot.
    #[error("{0}: a branch's recording without the snapshot that it starts from")]
    NoStart(String),
    /// Others change it all the time.
    #[error("{0}: it is being changed; try again")]
    Busy(String),
    /// A file that is to be in the pack is not what it was when the recording was made.
    #[error("{path}: it has changed since the recording was made; without it the pack would be of no use")]
    Changed {
        /// the file
        path: String,
    },
    /// A file that is to be in the pack is not where it was.
    #[error("{path}: it is gone; --image-at, --kernel-at and --initrd-at say where such files lie now")]
    Gone {
        /// the file
        path: String,
    },
    /// There is a file already.
    #[error("{path}: there is something already; --overwrite replaces a file")]
    Exists {
        /// where
        path: String,
    },
    /// There is a directory already.
    #[error("{path}: there is something already; -o names another directory")]
    DirectoryExists {
        /// where
        path: String,
    },
    /// There is no such file.
    #[error("{path}: no such file")]
    Missing {
        /// the file
        path: String,
    },
    /// It is no pack.
    #[error("{path}: not a packed recording")]
    NotAPack {
        /// the file
        path: String,
    },
    /// A newer program has made it.
    #[error("{path}: pack format version {found}, this program reads {FORMAT}: made by a newer scribe-vmm")]
    TooNew {
        /// the file
        path: String,
        /// its version
        found: u32,
    },
    /// Bytes are missing or have changed, or were never good.
    #[error("{path}: damaged: {what}")]
    Damaged {
        /// the file
        path: String,
        /// what is wrong
        what: String,
    },
    /// The host could not do it.
    #[error("{path}: {what}: {source}")]
    Io {
        /// the file or directory
        path: String,
        /// what was tried
        what: &'static str,
        /// errno
        source: io::Error,
    },
}

impl PackError {
    /// True if the pack or the recording is at fault, not the host or the request.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Open(error) | Self::Edit(EditError::Open(error)) => !matches!(error, OpenError::Io { .. }),
            Self::Snapshots(error) => error.is_damage(),
            Self::NoStart(_)
            | Self::Changed { .. }
            | Self::Gone { .. }
            | Self::Damaged { .. }
            | Self::Missing { .. }
            | Self::NotAPack { .. }
            | Self::TooNew { .. } => true,
            Self::Running(_)
            | Self::Edit(_)
            | Self::Busy(_)
            | Self::Exists { .. }
            | Self::DirectoryExists { .. }
            | Self::Io { .. } => false,
        }
    }
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PackError {
    move |source| PackError::Io { path: path.display().to_string(), what, source }
}

/// What is packed besides the recording's own files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PackOptions {
    /// the image, and kernel and initrd if they came from the host
    pub image: bool,
    /// all snapshots, not only the one that a branch starts from
    pub snapshots: bool,
    /// a file that is there is replaced
    pub overwrite: bool,
}

/// One file of a pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    size: u64,
    #[serde(with = "hex")]
    blake3: Digest,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    format: u32,
    files: Vec<Entry>,
}

/// Names that a pack can hold.
fn may_be(name: &str) -> bool {
    match name.split_once('/') {
        None => matches!(name, "header" | "events" | "bookmarks" | "incomplete"),
        Some((FILES_DIR, name)) => matches!(name, "image" | "kernel" | "initrd"),
        Some((SNAPSHOTS_DIR, name)) => is_snapshot_name(name),
        Some(_) => false,
    }
}

fn is_snapshot_name(name: &str) -> bool {
    SNAPSHOTS_DIR.len() + 1 + name.len() <= MOST_NAME
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Where the files of an unpacked recording are: in its directory, unless the user says otherwise.
pub fn beside(directory: &Path, moved: Moved) -> Moved {
    let inside = |name: &str| Some(directory.join(FILES_DIR).join(name)).filter(|path| path.is_file());
    Moved {
        image: moved.image.or_else(|| inside("image")),
        kernel: moved.kernel.or_else(|| inside("kernel")),
        initrd: moved.initrd.or_else(|| inside("initrd")),
    }
}

/// Where a file of that name is to be made.
fn parent_of(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new(".")).to_owned()
}

/// What the user's umask leaves of it is what a new file or directory usually has.
fn mode(mode: u32) -> fs::Permissions {
    fs::Permissions::from_mode(mode)
}

mod hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Digest;

    pub(super) fn serialize<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&blake3::Hash::from_bytes(*digest))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        blake3::Hash::from_hex(&text).map(Into::into).map_err(D::Error::custom)
    }
}
