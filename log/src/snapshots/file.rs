//! Snapshot files: a head that says where in the recording it belongs, and the compressed body.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::body::Body;
use super::chunk::Digest;
use super::error::{self, SnapshotError};
use super::{Origin, SnapshotInfo};
use crate::position::Position;

const MAGIC: [u8; 8] = *b"SCRSNAP1";
/// The version of snapshot files that this program writes, and the newest it reads.
pub(super) const VERSION: u32 = 1;
const HEAD_BYTES: usize = size_of::<RawHead>();
const CHECKED_BYTES: usize = HEAD_BYTES - 4;
/// Most bytes of a body, before compression.
pub(super) const MAX_BODY: usize = 256 * 1024 * 1024;
const ZSTD_LEVEL: i32 = 3;
const CODEC_RAW: u8 = 0;
const CODEC_ZSTD: u8 = 1;
const NAME: &str = "exit-";
/// What a file is called until it is whole.
pub(super) const TEMPORARY: &str = ".new";

// Frozen: snapshots exist.
const _: () = assert!(matches!(&MAGIC, b"SCRSNAP1"));
const _: () = assert!(VERSION == 1 && HEAD_BYTES == 152 && MAX_BODY == 268_435_456);
const _: () = assert!(CODEC_RAW == 0 && CODEC_ZSTD == 1);

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHead {
    magic: [u8; 8],
    version: U32,
    generation: U32,
    exit: U64,
    branches: U64,
    steps: U64,
    guest_time: U64,
    ordinal: U64,
    pages: U64,
    pack_end: U64,
    raw_length: U32,
    stored_length: U32,
    origin: u8,
    codec: u8,
    zero: [u8; 2],
    recording: Digest,
    stored_digest: Digest,
    crc: U32,
}

const _: () = assert!(std::mem::offset_of!(RawHead, version) == 8);
const _: () = assert!(std::mem::offset_of!(RawHead, generation) == 12);
const _: () = assert!(std::mem::offset_of!(RawHead, exit) == 16);
const _: () = assert!(std::mem::offset_of!(RawHead, branches) == 24);
const _: () = assert!(std::mem::offset_of!(RawHead, steps) == 32);
const _: () = assert!(std::mem::offset_of!(RawHead, guest_time) == 40);
const _: () = assert!(std::mem::offset_of!(RawHead, ordinal) == 48);
const _: () = assert!(std::mem::offset_of!(RawHead, pages) == 56);
const _: () = assert!(std::mem::offset_of!(RawHead, pack_end) == 64);
const _: () = assert!(std::mem::offset_of!(RawHead, raw_length) == 72);
const _: () = assert!(std::mem::offset_of!(RawHead, stored_length) == 76);
const _: () = assert!(std::mem::offset_of!(RawHead, origin) == 80);
const _: () = assert!(std::mem::offset_of!(RawHead, codec) == 81);
const _: () = assert!(std::mem::offset_of!(RawHead, zero) == 82);
const _: () = assert!(std::mem::offset_of!(RawHead, recording) == 84);
const _: () = assert!(std::mem::offset_of!(RawHead, stored_digest) == 116);
const _: () = assert!(std::mem::offset_of!(RawHead, crc) == 148);

/// What a snapshot file's head says, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) info: SnapshotInfo,
    /// The pack its chunks are in.
    pub(super) generation: u32,
    /// Bytes of the pack behind which it refers to nothing.
    pub(super) pack_end: u64,
}

/// Name of the file of a snapshot at `position`.
pub(super) fn name(position: Position) -> String {
    // The position as it is written, without the signs that shells and other systems make something of.
    position.to_string().replace([':', '+'], "-")
}

/// The position of a snapshot whose file is called `text`.
pub(super) fn position(text: &str) -> Option<Position> {
    let mut numbers = text.strip_prefix(NAME)?.splitn(3, '-').map(str::parse);
    let mut next = || numbers.next().unwrap_or(Ok(0)).ok();
    let position = Position { exit: next()?, branches: next()?, steps: next()? };
    (name(position) == text).then_some(position)
}

/// The bytes of a snapshot file, and its head.
pub(super) fn encode(
    recording: &Digest,
    position: Position,
    guest_time: u64,
    origin: Origin,
    generation: u32,
    body: &Body,
) -> Result<(Vec<u8>, Head), SnapshotError> {
    let raw = body.encode();
    let too_large = || SnapshotError::TooLarge {
        what: format!("{} bytes of parts and page numbers", raw.len()),
        limit: MAX_BODY as u64,
    };
    let failed = SnapshotError::io("pack", Path::new("a snapshot"));
    let raw_length = u32::try_from(raw.len()).ok().filter(|_| raw.len() <= MAX_BODY).ok_or_else(too_large)?;
    let packed = Some(zstd::bulk::compress(&raw, ZSTD_LEVEL).map_err(failed)?)
        .filter(|packed| packed.len() < raw.len());
    let (codec, stored) = match &packed {
        Some(packed) => (CODEC_ZSTD, packed),
        None => (CODEC_RAW, &raw),
    };
    let (origin_code, ordinal) = origin.encode();
    let mut head = RawHead {
        magic: MAGIC,
        version: VERSION.into(),
        generation: generation.into(),
        exit: position.exit.into(),
        branches: position.branches.into(),
        steps: position.steps.into(),
        guest_time: guest_time.into(),
        ordinal: ordinal.into(),
        pages: body.pages().into(),
        pack_end: body.pack_end().into(),
        raw_length: raw_length.into(),
        stored_length: u32::try_from(stored.len()).map_err(|_| too_large())?.into(),
        origin: origin_code,
        codec,
        zero: [0; 2],
        recording: *recording,
        stored_digest: *blake3::hash(stored).as_bytes(),
        crc: 0.into(),
    };
    head.crc = crc32fast::hash(&head.as_bytes()[..CHECKED_BYTES]).into();
    let bytes = [head.as_bytes(), stored].concat();
    let pages = body.pages();
    let info = SnapshotInfo { position, guest_time, origin, bytes: bytes.len() as u64, pages };
    Ok((bytes, Head { info, generation, pack_end: body.pack_end() }))
}

/// A snapshot file, open, its head checked.
pub(super) struct SnapshotFile<'a> {
    path: &'a Path,
    file: File,
    raw: RawHead,
    pub(super) head: Head,
}

impl<'a> SnapshotFile<'a> {
    /// Opens the file `path`, which must be the snapshot at `position` of the recording with identity `recording`. `None`: there is no such file.
    pub(super) fn open(
        path: &'a Path,
        dir: &Path,
        position: Position,
        recording: &Digest,
    ) -> Result<Option<SnapshotFile<'a>>, SnapshotError> {
        let corrupt = |offset, what: &str| Err(SnapshotError::corrupt(path, offset, what));
        let Some(mut file) = error::open(path, dir, false)? else { return Ok(None) };
        let length = file.metadata().map_err(SnapshotError::io("read", path))?.len();
        let mut bytes = [0; HEAD_BYTES];
        match file.read_exact(&mut bytes) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                return corrupt(0, "the snapshot's head is cut short");
            }
            other => other.map_err(SnapshotError::io("read", path))?,
        }
        let raw: RawHead = zerocopy::transmute!(bytes);
        if raw.magic != MAGIC {
            return corrupt(0, "it is no snapshot");
        }
        let found = raw.version.get();
        if found > VERSION {
            return Err(SnapshotError::TooNew { path: path.to_owned(), found, supported: VERSION });
        }
        if found == 0 || crc32fast::hash(&bytes[..CHECKED_BYTES]) != raw.crc.get() {
            return corrupt(0, "the snapshot's head has a wrong checksum");
        }
        if raw.recording != *recording {
            return Err(SnapshotError::OtherRecording { path: path.to_owned() });
        }
        let Some(origin) = Origin::decode(raw.origin, raw.ordinal.get()) else {
            return corrupt(80, "the snapshot's origin is unknown: made by a newer scribe-vmm");
        };
        if raw.zero != [0; 2] || raw.codec > CODEC_ZSTD {
            return corrupt(81, "the snapshot is packed in an unknown way: made by a newer scribe-vmm");
        }
        let (raw_length, stored) = (raw.raw_length.get(), raw.stored_length.get());
        let fits = if raw.codec == CODEC_RAW { stored == raw_length } else { stored < raw_length };
        if !fits || raw_length as usize > MAX_BODY {
            return corrupt(72, "the snapshot's lengths are impossible");
        }
        if length != HEAD_BYTES as u64 + u64::from(stored) {
            return corrupt(HEAD_BYTES as u64, "the snapshot is cut short, or something follows it");
        }
        let there = Position { exit: raw.exit.get(), branches: raw.branches.get(), steps: raw.steps.get() };
        if there != position {
            return corrupt(16, &format!("it is the snapshot at {there}"));
        }
        let info = SnapshotInfo {
            position,
            guest_time: raw.guest_time.get(),
            origin,
            bytes: length,
            pages: raw.pages.get(),
        };
        let head = Head { info, generation: raw.generation.get(), pack_end: raw.pack_end.get() };
        Ok(Some(SnapshotFile { path, file, raw, head }))
    }

    /// Reads and checks the rest.
    pub(super) fn body(&mut self) -> Result<Body, SnapshotError> {
        let corrupt = |what: &str| SnapshotError::corrupt(self.path, HEAD_BYTES as u64, what);
        let mut stored = vec![0; self.raw.stored_length.get() as usize];
        self.file.read_exact(&mut stored).map_err(SnapshotError::io("read", self.path))?;
        if blake3::hash(&stored).as_bytes() != &self.raw.stored_digest {
            return Err(corrupt("the snapshot has a wrong digest"));
        }
        let raw_length = self.raw.raw_length.get() as usize;
        let raw = match self.raw.codec {
            CODEC_RAW => stored,
            _ => match zstd::bulk::decompress(&stored, raw_length) {
                Ok(raw) if raw.len() == raw_length => raw,
                _ => return Err(corrupt("the snapshot does not unpack")),
            },
        };
        let body = Body::decode(&raw).map_err(|malformed| corrupt(malformed.0))?;
        if (body.pages(), body.pack_end()) != (self.head.info.pages, self.head.pack_end) {
            return Err(corrupt("the snapshot's head and body do not go together"));
        }
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_positions() {
        for (at, text) in [
            (Position::exit(7), "exit-7"),
            (Position { exit: 7, branches: 3, steps: 0 }, "exit-7-3"),
            (Position { exit: u64::MAX, branches: 0, steps: 9 }, "exit-18446744073709551615-0-9"),
        ] {
            assert_eq!((name(at).as_str(), position(text)), (text, Some(at)));
        }
        for text in
            ["exit-", "exit-07", "exit-7-0", "exit-7-3-0", "exit-7-3-1-1", "exit-7.new", "exit:7", "exit-+7"]
        {
            assert_eq!(position(text), None, "{text}");
        }
    }
}
