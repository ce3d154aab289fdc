//! Replacing header, events and bookmarks of a recording together, when a header changes.
//!
//! Three renames cannot be one step, so the order makes each moment readable. The new files are whole, as `header.new`,
//! `events.new` and `bookmarks.new`, before the first rename. Then `events` is replaced: from now on its first link names the
//! new header, and a reader that finds another one in `header` takes `header.new`. Then `bookmarks`, which names its header
//! too, and `header` last.

use std::fs::File;
use std::path::Path;

use crate::bookmarks::file::{self, BookFile};
use crate::edit::{self, EditError};
use crate::error::OpenError;
use crate::header::{self, HeaderFile};
use crate::segment;
use crate::{BOOKMARKS_FILE, BOOKMARKS_NEW_FILE, EVENTS_FILE, EVENTS_NEW_FILE, HEADER_FILE, HEADER_NEW_FILE};

/// How the header that was found goes with the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// It is theirs, or there is no event to tell.
    Whole,
    /// It is theirs, but not in its place yet: whoever replaced them was killed in between.
    Pending,
    /// It is another one. Someone may just be replacing them.
    Not,
}

/// The header that the events in `events`, of `length` bytes, belong to: the one that was found, or the one that is to
/// replace it.
pub(crate) fn choose(dir: &Path, found: HeaderFile, events: &File, length: u64) -> (HeaderFile, Fit) {
    // A first segment that cannot be read is for others to tell.
    let Ok(head) = segment::read_head(events, 0, length) else {
        return (found, Fit::Whole);
    };
    if head.previous == found.crc {
        return (found, Fit::Whole);
    }
    match header::read(&dir.join(HEADER_NEW_FILE)) {
        Ok(new) if new.crc == head.previous => (new, Fit::Pending),
        _ => (found, Fit::Not),
    }
}

/// Ends what a killed process began, in a recording whose header is [`Fit::Pending`] and has that checksum.
pub(crate) fn settle(dir: &Path, header_crc: u32) -> Result<(), EditError> {
    let new = dir.join(BOOKMARKS_NEW_FILE);
    if let Some(BookFile { path, .. }) = file::find(dir, header_crc)?
        && path == new
    {
        edit::replace(&new, &dir.join(BOOKMARKS_FILE))?;
    }
    edit::replace(&dir.join(HEADER_NEW_FILE), &dir.join(HEADER_FILE))
}

/// Puts the new files in place of the old ones. `bookmarks`: whether there is a new file of them; if not there is no old one
/// either.
pub(crate) fn swap(dir: &Path, bookmarks: bool) -> Result<(), EditError> {
    edit::replace(&dir.join(EVENTS_NEW_FILE), &dir.join(EVENTS_FILE))?;
    if bookmarks {
        edit::replace(&dir.join(BOOKMARKS_NEW_FILE), &dir.join(BOOKMARKS_FILE))?;
    }
    edit::replace(&dir.join(HEADER_NEW_FILE), &dir.join(HEADER_FILE))
}

/// Removes new files that will not replace anything: a killed process left them.
pub(crate) fn clean(dir: &Path) -> Result<(), EditError> {
    [HEADER_NEW_FILE, EVENTS_NEW_FILE, BOOKMARKS_NEW_FILE]
        .iter()
        .try_for_each(|name| edit::remove(&dir.join(name)))
}

/// Whether a bookmarks file is the one of that recording, as far as its head tells.
pub(crate) fn fits(book: Option<&BookFile>, header_crc: u32) -> Result<bool, OpenError> {
    match book {
        Some(book) => Ok(!file::belongs_to_another(book, header_crc)?),
        None => Ok(true),
    }
}
