//! Making a complete recording smaller: dropping what only people read.

use std::path::Path;

use crate::bookmarks::encode;
use crate::canonical;
use crate::edit::{self, EditError};
use crate::event::{Body, Event};
use crate::header::{Header, Level};
use crate::reader::{Recording, State};
use crate::swap;
use crate::{BOOKMARKS_FILE, BOOKMARKS_NEW_FILE, EVENTS_NEW_FILE, HEADER_NEW_FILE, Sizes};

/// What goes with the markers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShrinkOptions {
    /// All bookmarks, the guest's too.
    pub drop_bookmarks: bool,
}

/// What shrinking a recording amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shrunk {
    /// Bytes before.
    pub before: Sizes,
    /// Bytes after.
    pub after: Sizes,
    /// Events dropped.
    pub events: u64,
}

/// Drops all markers of the complete recording in `dir` ([`Body::is_marker`]), and with them what its header's level says;
/// it is then the recording that would have been made at [`Level::Inputs`]. Events of kinds that this program does not know
/// and may skip are dropped too. A kill or a loss of power at any moment leaves a recording that can be read, as it was or
/// as it is to be.
///
/// Waits for another program that changes the recording. Whoever has it open keeps what it was.
///
/// # Errors
/// If the recording is damaged anywhere, not complete, or cannot be written. It is as it was then, or, if files could be
/// written and not renamed, as it is to be.
pub fn shrink(dir: &Path, options: ShrinkOptions) -> Result<Shrunk, EditError> {
    let (_lock, recording) = edit::open(dir)?;
    if recording.state() != State::Complete {
        return Err(EditError::Crashed { path: dir.to_owned() });
    }
    let before = recording.sizes();
    let (events, bookmarks) = write_new(dir, &recording, options).inspect_err(|_| {
        let _ = swap::clean(dir);
    })?;
    if !bookmarks {
        edit::remove(&dir.join(BOOKMARKS_FILE))?;
    }
    swap::swap(dir, bookmarks)?;
    let after = Recording::open(dir)?.sizes();
    Ok(Shrunk { before, after, events })
}

/// Writes the new files. Gives the number of events dropped, and whether there are bookmarks.
fn write_new(dir: &Path, recording: &Recording, options: ShrinkOptions) -> Result<(u64, bool), EditError> {
    let path = dir.join(HEADER_NEW_FILE);
    let header = Header { level: Level::Inputs, ..recording.header().clone() };
    let (bytes, header_crc) = header.encode_with_crc()?;
    edit::write_new(&path, &bytes)?;

    let mut dropped = 0;
    let kept = recording.events().filter(|event| {
        let drop = event.as_ref().is_ok_and(|event| drops(event, options));
        dropped += u64::from(drop);
        !drop
    });
    let kept = kept.map(|event| event.map_err(EditError::from));
    canonical::write(&dir.join(EVENTS_NEW_FILE), header_crc, header.start().position, true, kept)?;

    let (_, bookmarks) = recording.bookmarks_apart()?;
    if options.drop_bookmarks || bookmarks.is_empty() {
        return Ok((dropped, false));
    }
    let path = dir.join(BOOKMARKS_NEW_FILE);
    let bytes = encode(header_crc, &bookmarks).map_err(EditError::io("write", &path))?;
    edit::write_new(&path, &bytes)?;
    Ok((dropped, true))
}

fn drops(event: &Event, options: ShrinkOptions) -> bool {
    event.body.is_marker() || options.drop_bookmarks && matches!(event.body, Body::Bookmark { .. })
}
