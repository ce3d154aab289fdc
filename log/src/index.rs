//! The index at the end of a closed recording's events: where each segment is.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::segment::Head;

pub(crate) const MAGIC: [u8; 8] = *b"SCRINDEX";
const ENTRY_BYTES: usize = size_of::<RawEntry>();
const TRAILER_BYTES: usize = size_of::<Trailer>();
/// Bytes of the trailer that the checksum covers, after the entries.
const CHECKED_BYTES: usize = 12;

// Frozen: recordings exist.
const _: () = assert!(matches!(&MAGIC, b"SCRINDEX"));
const _: () = assert!(ENTRY_BYTES == 32 && TRAILER_BYTES == 24);

/// One segment of the events file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// Where it starts in the file, in bytes.
    pub offset: u64,
    /// Exits of vCPU 0 before its first event.
    pub start_exit: u64,
    /// Exits of vCPU 0 at its last event.
    pub end_exit: u64,
    /// Events in it.
    pub events: u64,
}

impl IndexEntry {
    pub(crate) fn new(offset: u64, head: &Head) -> IndexEntry {
        IndexEntry {
            offset,
            start_exit: head.start_exit,
            end_exit: head.end_exit,
            events: u64::from(head.events),
        }
    }
}

/// Whether each segment starts at the exit where the one before it ended, the first at `start_exit`, so that a position can
/// be searched for. The offset of one that does not otherwise.
pub(crate) fn check(entries: &[IndexEntry], mut start_exit: u64) -> Result<(), u64> {
    for entry in entries {
        if entry.start_exit != start_exit || entry.end_exit < start_exit {
            return Err(entry.offset);
        }
        start_exit = entry.end_exit;
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEntry {
    offset: U64,
    start_exit: U64,
    end_exit: U64,
    events: U64,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Trailer {
    segments: U64,
    last_crc: U32,
    crc: U32,
    magic: [u8; 8],
}

const _: () = assert!(std::mem::offset_of!(Trailer, last_crc) == 8);
const _: () = assert!(std::mem::offset_of!(Trailer, crc) == CHECKED_BYTES);
const _: () = assert!(std::mem::offset_of!(Trailer, magic) == 16);

/// An index read back.
#[derive(Debug)]
pub(crate) struct Footer {
    pub(crate) entries: Vec<IndexEntry>,
    /// Header checksum of the last segment.
    pub(crate) last_crc: u32,
    /// Where the segments end and the index begins.
    pub(crate) start: u64,
}

/// The index as bytes.
pub(crate) fn encode(entries: &[IndexEntry], last_crc: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * ENTRY_BYTES + TRAILER_BYTES);
    for entry in entries {
        let raw = RawEntry {
            offset: entry.offset.into(),
            start_exit: entry.start_exit.into(),
            end_exit: entry.end_exit.into(),
            events: entry.events.into(),
        };
        out.extend_from_slice(raw.as_bytes());
    }
    let mut trailer = Trailer {
        segments: (entries.len() as u64).into(),
        last_crc: last_crc.into(),
        crc: 0.into(),
        magic: MAGIC,
    };
    out.extend_from_slice(&trailer.as_bytes()[..CHECKED_BYTES]);
    trailer.crc = crc32fast::hash(&out).into();
    out.extend_from_slice(&trailer.as_bytes()[CHECKED_BYTES..]);
    out
}

/// The index at the end of a file of `length` bytes; `None` if there is none or it is damaged.
pub(crate) fn read(file: &File, length: u64) -> io::Result<Option<Footer>> {
    let Some(trailer_at) = length.checked_sub(TRAILER_BYTES as u64) else {
        return Ok(None);
    };
    let mut trailer = Trailer::new_zeroed();
    file.read_exact_at(trailer.as_mut_bytes(), trailer_at)?;
    if trailer.magic != MAGIC {
        return Ok(None);
    }
    let segments = trailer.segments.get();
    let Some(start) =
        segments.checked_mul(ENTRY_BYTES as u64).and_then(|bytes| trailer_at.checked_sub(bytes))
    else {
        return Ok(None);
    };
    // One entry at a time, each further into the file than the one before: memory stays in proportion to real segments.
    let mut crc = crc32fast::Hasher::new();
    let mut entries: Vec<IndexEntry> = Vec::new();
    for at in (start..trailer_at).step_by(ENTRY_BYTES) {
        let mut raw = RawEntry::new_zeroed();
        file.read_exact_at(raw.as_mut_bytes(), at)?;
        crc.update(raw.as_bytes());
        let offset = raw.offset.get();
        let in_order = entries.last().map_or(offset == 0, |last| offset > last.offset);
        if !in_order || offset >= start {
            return Ok(None);
        }
        entries.push(IndexEntry {
            offset,
            start_exit: raw.start_exit.get(),
            end_exit: raw.end_exit.get(),
            events: raw.events.get(),
        });
    }
    crc.update(&trailer.as_bytes()[..CHECKED_BYTES]);
    if crc.finalize() != trailer.crc.get() || entries.is_empty() {
        return Ok(None);
    }
    Ok(Some(Footer { entries, last_crc: trailer.last_crc.get(), start }))
}
