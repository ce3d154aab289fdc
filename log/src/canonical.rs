//! The one form of a closed recording's events: it depends on the header and the events alone.

use std::path::Path;

use crate::append::AppendFile;
use crate::event::Event;
use crate::index::{self, IndexEntry};
use crate::position::Position;
use crate::segment::Builder;
use crate::write_error::{WriteError, refused};

/// A closed recording's segments end with the event that brings them to this many bytes before compression.
const CANONICAL_RAW: usize = 64 * 1024;
const _: () = assert!(CANONICAL_RAW == 65_536);

/// Writes `events` and their index to a new file at `path`, for a recording with that checksum of its header, which starts
/// at `start`. With `durable` they are on the disk then. Gives the file's length in bytes.
pub(crate) fn write<E: From<WriteError>>(
    path: &Path,
    header_crc: u32,
    start: Position,
    durable: bool,
    events: impl Iterator<Item = Result<Event, E>>,
) -> Result<u64, E> {
    let mut to = AppendFile::create(path.to_owned(), "events", false)?;
    let mut builder = Builder::new(header_crc, start);
    let mut entries = Vec::new();
    let mut flush = |builder: &mut Builder, to: &mut AppendFile| -> Result<(), WriteError> {
        let offset = to.length;
        let head = to.write_segment(builder)?;
        entries.push(IndexEntry::new(offset, &head));
        Ok(())
    };
    for event in events {
        let event = event?;
        builder.push(&event).map_err(|error| refused(&event, error))?;
        if builder.raw_length() >= CANONICAL_RAW {
            flush(&mut builder, &mut to)?;
        }
    }
    if !builder.is_empty() {
        flush(&mut builder, &mut to)?;
    }
    to.write("the index", &index::encode(&entries, builder.link().previous))?;
    if durable {
        to.sync()?;
    }
    Ok(to.length)
}
