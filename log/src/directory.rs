//! What is in a directory where a recording is to be made.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::lock::{self, Holder};
use crate::snapshots::SNAPSHOTS_DIR;
use crate::write_error::WriteError;
use crate::{
    BOOKMARKS_FILE, BOOKMARKS_NEW_FILE, EVENTS_FILE, EVENTS_NEW_FILE, FILES_DIR, HEADER_FILE,
    HEADER_NEW_FILE, INCOMPLETE_FILE, header,
};

/// Files of a recording that replacing it removes, and directories likewise. The names that only other parts of the
/// program write are here too, so that nothing of an old recording is taken for a part of the new one.
const FILES: [&str; 7] = [
    HEADER_FILE,
    HEADER_NEW_FILE,
    EVENTS_FILE,
    EVENTS_NEW_FILE,
    BOOKMARKS_FILE,
    BOOKMARKS_NEW_FILE,
    "overlay",
];
const DIRECTORIES: [&str; 2] = [SNAPSHOTS_DIR, FILES_DIR];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// Nothing, or nothing that would be lost.
    Empty,
    Recording,
    Other,
}

fn content(dir: &Path) -> io::Result<Content> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Content::Empty),
        Err(error) if error.kind() == ErrorKind::NotADirectory => return Ok(Content::Other),
        Err(error) => return Err(error),
    };
    let mut incomplete = false;
    let mut others = false;
    for entry in entries {
        if entry?.file_name() == INCOMPLETE_FILE {
            incomplete = true;
        } else {
            others = true;
        }
    }
    let ours = starts_with(&dir.join(HEADER_FILE), &header::MAGIC)?
        || incomplete && starts_with(&dir.join(INCOMPLETE_FILE), lock::TEXT)?;
    Ok(match (others, ours) {
        (true, true) => Content::Recording,
        (true, false) => Content::Other,
        // At most a lock: its recorder was killed before it wrote anything, or has just begun.
        (false, _) => Content::Empty,
    })
}

fn starts_with(path: &Path, expected: &[u8]) -> io::Result<bool> {
    let mut found = Vec::new();
    match File::open(path).and_then(|file| file.take(expected.len() as u64).read_to_end(&mut found)) {
        Ok(_) => Ok(found == expected),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::IsADirectory) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a recording may be made in `dir`. `locked`: by the caller.
pub(crate) fn admit(dir: &Path, overwrite: bool, locked: bool) -> Result<(), WriteError> {
    let io = |source| WriteError::Io { what: "a recording".to_owned(), path: dir.to_owned(), source };
    match content(dir).map_err(io)? {
        Content::Empty => Ok(()),
        Content::Other => Err(WriteError::NotARecording { path: dir.to_owned() }),
        Content::Recording if overwrite => Ok(()),
        Content::Recording if locked => Err(WriteError::Exists { path: dir.to_owned() }),
        Content::Recording => Err(match lock::holder(&dir.join(INCOMPLETE_FILE)).map_err(io)? {
            Holder::Alive => WriteError::Locked { path: dir.to_owned() },
            Holder::Dead | Holder::NoFile => WriteError::Exists { path: dir.to_owned() },
        }),
    }
}

/// The directories above `dir` that are not there.
pub(crate) fn missing(dir: &Path) -> Vec<PathBuf> {
    let above = dir.ancestors().skip(1).take_while(|above| !above.as_os_str().is_empty() && !above.exists());
    above.map(Path::to_owned).collect()
}

/// Removes the recording in `dir`, and the directory if nothing else is in it. Of a recording that nobody is making.
///
/// # Errors
/// The host's.
pub fn remove(dir: &Path) -> io::Result<()> {
    clear(dir)?;
    for result in [fs::remove_file(dir.join(INCOMPLETE_FILE)), fs::remove_dir(dir)] {
        match result {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Removes the recording in `dir`, all but its lock.
pub(crate) fn clear(dir: &Path) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    };
    FILES.iter().try_for_each(|name| gone(fs::remove_file(dir.join(name))))?;
    DIRECTORIES.iter().try_for_each(|name| gone(fs::remove_dir_all(dir.join(name))))
}
