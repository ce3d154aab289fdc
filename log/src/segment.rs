//! Segments: runs of events with a checksummed header, chained to one another.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::codec::{self, EncodeError, Track};
use crate::event::Event;
use crate::position::Position;

pub(crate) const MAGIC: [u8; 8] = *b"SCRSEGM1";
pub(crate) const HEADER_BYTES: usize = size_of::<RawHeader>();
/// Most bytes of events in one segment, before compression.
pub(crate) const MAX_RAW: usize = 16 * 1024 * 1024;
/// No event takes more: 2 + 6 varints of at most 10 bytes, a payload of 64 KiB of data and less than 512 other bytes, or
/// of 256 registers of at most 50 bytes and 4096 pages of at most 18.
pub(crate) const MAX_EVENT: usize = 96 * 1024;
/// Shorter payloads are not worth compressing.
const COMPRESS_FROM: usize = 128;
const ZSTD_LEVEL: i32 = 3;
const CODEC_RAW: u8 = 0;
const CODEC_ZSTD: u8 = 1;
/// Bytes of the header that its own checksum covers.
const CHECKED_BYTES: usize = HEADER_BYTES - 4;

// Frozen: recordings exist.
const _: () = assert!(matches!(&MAGIC, b"SCRSEGM1"));
const _: () = assert!(HEADER_BYTES == 60);
const _: () = assert!(CODEC_RAW == 0 && CODEC_ZSTD == 1);
const _: () = assert!(MAX_RAW == 16_777_216);

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 8],
    serial: U64,
    start_exit: U64,
    end_exit: U64,
    events: U32,
    raw_length: U32,
    stored_length: U32,
    codec: u8,
    zero: [u8; 3],
    previous: U32,
    payload_crc: U32,
    header_crc: U32,
}

const _: () = assert!(std::mem::offset_of!(RawHeader, serial) == 8);
const _: () = assert!(std::mem::offset_of!(RawHeader, start_exit) == 16);
const _: () = assert!(std::mem::offset_of!(RawHeader, end_exit) == 24);
const _: () = assert!(std::mem::offset_of!(RawHeader, events) == 32);
const _: () = assert!(std::mem::offset_of!(RawHeader, raw_length) == 36);
const _: () = assert!(std::mem::offset_of!(RawHeader, stored_length) == 40);
const _: () = assert!(std::mem::offset_of!(RawHeader, codec) == 44);
const _: () = assert!(std::mem::offset_of!(RawHeader, previous) == 48);
const _: () = assert!(std::mem::offset_of!(RawHeader, payload_crc) == 52);
const _: () = assert!(std::mem::offset_of!(RawHeader, header_crc) == 56);

/// What ties a segment to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    /// Serial number of the next segment.
    pub(crate) serial: u64,
    /// Header checksum of the segment before it; checksum of the header file for the first.
    pub(crate) previous: u32,
    /// Exit of vCPU 0 at which it starts; for the first, exit at which the recording starts.
    pub(crate) start_exit: u64,
}

impl Link {
    pub(crate) fn first(header_crc: u32, start: Position) -> Link {
        Link { serial: 0, previous: header_crc, start_exit: start.exit }
    }

    /// The link behind a segment, if that segment fits this link.
    pub(crate) fn follow(&self, head: &Head) -> Result<Link, &'static str> {
        if head.serial != self.serial {
            return Err("the segment's serial number is wrong: a segment is missing, doubled or moved");
        }
        if head.previous != self.previous {
            return Err("the segment does not belong behind the one before it");
        }
        if head.start_exit != self.start_exit || head.end_exit < head.start_exit {
            return Err("the segment does not start where the one before it ended");
        }
        Ok(Link { serial: self.serial.wrapping_add(1), previous: head.crc, start_exit: head.end_exit })
    }
}

/// A segment's header, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) serial: u64,
    pub(crate) start_exit: u64,
    pub(crate) end_exit: u64,
    pub(crate) events: u32,
    pub(crate) previous: u32,
    pub(crate) crc: u32,
}

/// A segment read back.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) head: Head,
    /// The events' bytes.
    pub(crate) raw: Vec<u8>,
    /// Where in the file the next segment starts.
    pub(crate) next: u64,
}

/// Why a segment cannot be read.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It is cut short or its checksums are wrong: at the end of an unclosed file, what a killed recorder left.
    Torn(&'static str),
    /// Its checksums are right but it says something impossible.
    Wrong(&'static str),
    Io(io::Error),
}

/// Collects events and makes segments of them.
#[derive(Debug)]
pub(crate) struct Builder {
    raw: Vec<u8>,
    events: u32,
    track: Track,
    link: Link,
}

impl Builder {
    /// For a recording with that checksum of its header, which starts at `start`.
    pub(crate) fn new(header_crc: u32, start: Position) -> Builder {
        let (track, link) = (Track::new(start), Link::first(header_crc, start));
        Builder { raw: Vec::new(), events: 0, track, link }
    }

    /// Adds an event; nothing changes on an error.
    pub(crate) fn push(&mut self, event: &Event) -> Result<(), EncodeError> {
        codec::encode(&mut self.track, event, &mut self.raw)?;
        self.events += 1;
        Ok(())
    }

    /// Bytes of the events collected, before compression.
    pub(crate) fn raw_length(&self) -> usize {
        self.raw.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// Links behind the last finished segment.
    pub(crate) fn link(&self) -> Link {
        self.link
    }

    /// The segment of the events collected, as bytes, and its header. The next event starts a new one.
    pub(crate) fn finish(&mut self) -> io::Result<(Vec<u8>, Head)> {
        let packed = if self.raw.len() < COMPRESS_FROM {
            None
        } else {
            Some(zstd::bulk::compress(&self.raw, ZSTD_LEVEL)?).filter(|packed| packed.len() < self.raw.len())
        };
        let (codec, stored) = match &packed {
            Some(packed) => (CODEC_ZSTD, packed),
            None => (CODEC_RAW, &self.raw),
        };
        let too_large = |_| io::Error::other("a segment is above 4 GiB");
        let mut header = RawHeader {
            magic: MAGIC,
            serial: self.link.serial.into(),
            start_exit: self.link.start_exit.into(),
            end_exit: self.track.exit().into(),
            events: self.events.into(),
            raw_length: u32::try_from(self.raw.len()).map_err(too_large)?.into(),
            stored_length: u32::try_from(stored.len()).map_err(too_large)?.into(),
            codec,
            zero: [0; 3],
            previous: self.link.previous.into(),
            payload_crc: crc32fast::hash(stored).into(),
            header_crc: 0.into(),
        };
        header.header_crc = crc32fast::hash(&header.as_bytes()[..CHECKED_BYTES]).into();
        let head = header.head();
        let mut bytes = Vec::with_capacity(HEADER_BYTES + stored.len());
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(stored);

        self.link =
            Link { serial: head.serial.wrapping_add(1), previous: head.crc, start_exit: head.end_exit };
        self.track.start_segment();
        self.raw.clear();
        self.events = 0;
        Ok((bytes, head))
    }
}

impl RawHeader {
    fn head(&self) -> Head {
        Head {
            serial: self.serial.get(),
            start_exit: self.start_exit.get(),
            end_exit: self.end_exit.get(),
            events: self.events.get(),
            previous: self.previous.get(),
            crc: self.header_crc.get(),
        }
    }

    fn check(&self) -> Result<(), Fault> {
        if self.magic != MAGIC {
            return Err(Fault::Torn("no segment starts here"));
        }
        if crc32fast::hash(&self.as_bytes()[..CHECKED_BYTES]) != self.header_crc.get() {
            return Err(Fault::Torn("the segment's header has a wrong checksum"));
        }
        if self.zero != [0; 3] || self.codec > CODEC_ZSTD {
            return Err(Fault::Wrong("the segment is packed in an unknown way: made by a newer scribe-vmm"));
        }
        let (raw, stored) = (self.raw_length.get(), self.stored_length.get());
        let fits = if self.codec == CODEC_RAW { stored == raw } else { stored < raw };
        if !fits || raw as usize > MAX_RAW || self.events.get() == 0 {
            return Err(Fault::Wrong("the segment's lengths are impossible"));
        }
        Ok(())
    }
}

fn read_header(file: &File, offset: u64, left: u64) -> Result<RawHeader, Fault> {
    let mut header = RawHeader::new_zeroed();
    if left < HEADER_BYTES as u64 {
        return Err(Fault::Torn("the segment's header is cut short"));
    }
    file.read_exact_at(header.as_mut_bytes(), offset).map_err(Fault::Io)?;
    header.check()?;
    Ok(header)
}

/// Reads the header of the segment at `offset` of a file whose segments end at `end`, and nothing of its contents.
pub(crate) fn read_head(file: &File, offset: u64, end: u64) -> Result<Head, Fault> {
    read_header(file, offset, end.saturating_sub(offset)).map(|header| header.head())
}

/// Reads the segment at `offset` of a file whose segments end at `end`. Takes at most twice [`MAX_RAW`] of memory.
pub(crate) fn read(file: &File, offset: u64, end: u64) -> Result<Segment, Fault> {
    let left = end.saturating_sub(offset);
    let header = read_header(file, offset, left)?;
    let stored_length = header.stored_length.get();
    if left - (HEADER_BYTES as u64) < u64::from(stored_length) {
        return Err(Fault::Torn("the segment is cut short"));
    }
    let mut stored = vec![0; stored_length as usize];
    file.read_exact_at(&mut stored, offset + HEADER_BYTES as u64).map_err(Fault::Io)?;
    if crc32fast::hash(&stored) != header.payload_crc.get() {
        return Err(Fault::Torn("the segment has a wrong checksum"));
    }
    let raw_length = header.raw_length.get() as usize;
    let raw = match header.codec {
        CODEC_RAW => stored,
        _ => match zstd::bulk::decompress(&stored, raw_length) {
            Ok(raw) if raw.len() == raw_length => raw,
            _ => return Err(Fault::Wrong("the segment does not unpack")),
        },
    };
    let next = offset + HEADER_BYTES as u64 + u64::from(stored_length);
    Ok(Segment { head: header.head(), raw, next })
}

/// Where in `offset..end` a whole segment with a serial number of at least `serial` starts, if any does.
pub(crate) fn find(file: &File, offset: u64, end: u64, serial: u64) -> io::Result<Option<u64>> {
    const STEP: usize = 64 * 1024;
    let mut window = vec![0; STEP + MAGIC.len() - 1];
    let mut at = offset;
    while at < end {
        let length = usize::try_from(end - at).unwrap_or(usize::MAX).min(window.len());
        let window = &mut window[..length];
        file.read_exact_at(window, at)?;
        for (found, _) in window.windows(MAGIC.len()).enumerate().filter(|(_, bytes)| *bytes == MAGIC) {
            let candidate = at + found as u64;
            match read(file, candidate, end) {
                Ok(segment) if segment.head.serial >= serial => return Ok(Some(candidate)),
                Err(Fault::Io(error)) => return Err(error),
                _ => {}
            }
        }
        at += STEP as u64;
    }
    Ok(None)
}
