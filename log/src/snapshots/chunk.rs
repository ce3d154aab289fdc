//! Chunks: a few pages, compressed together, with the digest of each, at a place in a pack.

use twox_hash::XxHash3_128;
use zerocopy::little_endian::{U32, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::pages::PAGE_BYTES;

/// A BLAKE3 digest.
pub(super) type Digest = [u8; DIGEST_BYTES];
pub(super) const DIGEST_BYTES: usize = 32;

pub(super) const MAGIC: [u8; 8] = *b"SCRCHNK1";
pub(super) const HEADER_BYTES: usize = size_of::<RawHeader>();
/// Most pages of a chunk.
pub(super) const MAX_PAGES: usize = 256;
/// Most bytes of a chunk in a pack.
pub(super) const MAX_RECORD: usize = HEADER_BYTES + MAX_PAGES * (DIGEST_BYTES + PAGE_BYTES);
/// Measured with RAM of Linux guests: level 1 is 10 % smaller and takes 1.5 times as long to unpack; LZ4 is 12 to 19 %
/// larger and takes two thirds of the time, which is not worth another crate: reading, checking and page faults remain.
const ZSTD_LEVEL: i32 = -1;
const CODEC_RAW: u8 = 0;
const CODEC_ZSTD: u8 = 1;
const CHECKED_BYTES: usize = HEADER_BYTES - 4;

// Frozen: snapshots exist.
const _: () = assert!(matches!(&MAGIC, b"SCRCHNK1"));
const _: () = assert!(HEADER_BYTES == 40 && DIGEST_BYTES == 32 && MAX_PAGES == 256);
const _: () = assert!(CODEC_RAW == 0 && CODEC_ZSTD == 1);

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 8],
    pages: U32,
    stored_length: U32,
    codec: u8,
    zero: [u8; 3],
    stored_hash: U128,
    crc: U32,
}

const _: () = assert!(std::mem::offset_of!(RawHeader, pages) == 8);
const _: () = assert!(std::mem::offset_of!(RawHeader, stored_length) == 12);
const _: () = assert!(std::mem::offset_of!(RawHeader, codec) == 16);
const _: () = assert!(std::mem::offset_of!(RawHeader, stored_hash) == 20);
const _: () = assert!(std::mem::offset_of!(RawHeader, crc) == 36);

/// What is wrong with a chunk, as a phrase.
pub(super) type Fault = &'static str;

/// A chunk's header and table of digests, checked.
#[derive(Debug)]
pub(super) struct Head {
    /// One for each page.
    pub(super) digests: Vec<Digest>,
    /// Bytes of the whole chunk in the pack.
    pub(super) length: u32,
    /// Names the chunk: digest of the header and the table, which hold the digests of the pages.
    pub(super) id: Digest,
}

/// Bytes of header and table, if `header` can be the start of a chunk.
pub(super) fn head_length(header: &[u8; HEADER_BYTES]) -> Option<usize> {
    let (header, _) = RawHeader::ref_from_prefix(header).ok()?;
    let pages = header.pages.get() as usize;
    (header.magic == MAGIC && (1..=MAX_PAGES).contains(&pages)).then_some(HEADER_BYTES + pages * DIGEST_BYTES)
}

/// Checks a header and its table. `bytes` may have more behind them.
pub(super) fn head(bytes: &[u8]) -> Result<Head, Fault> {
    let (header, rest) = RawHeader::ref_from_prefix(bytes).map_err(|_| "the chunk's header is cut short")?;
    if header.magic != MAGIC {
        return Err("no chunk starts here");
    }
    let pages = header.pages.get() as usize;
    if !(1..=MAX_PAGES).contains(&pages) {
        return Err("the chunk's number of pages is impossible");
    }
    let table_bytes = pages * DIGEST_BYTES;
    let table = rest.get(..table_bytes).ok_or("the chunk's table is cut short")?;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header.as_bytes()[..CHECKED_BYTES]);
    crc.update(table);
    if crc.finalize() != header.crc.get() {
        return Err("the chunk's header has a wrong checksum");
    }
    if header.zero != [0; 3] || header.codec > CODEC_ZSTD {
        return Err("the chunk is packed in an unknown way: made by a newer scribe-vmm");
    }
    let (stored, raw) = (header.stored_length.get() as usize, pages * PAGE_BYTES);
    if stored > raw || (stored == raw) != (header.codec == CODEC_RAW) {
        return Err("the chunk's lengths are impossible");
    }
    let length = HEADER_BYTES + table_bytes + stored;
    Ok(Head {
        digests: table.as_chunks().0.to_vec(),
        length: u32::try_from(length).map_err(|_| "the chunk's lengths are impossible")?,
        id: *blake3::hash(&bytes[..HEADER_BYTES + table_bytes]).as_bytes(),
    })
}

/// Makes chunks, or reads them: keeps what the compressor needs.
pub(super) struct Codec {
    compressor: zstd::bulk::Compressor<'static>,
    decompressor: zstd::bulk::Decompressor<'static>,
}

impl Codec {
    pub(super) fn new() -> std::io::Result<Codec> {
        Ok(Codec {
            compressor: zstd::bulk::Compressor::new(ZSTD_LEVEL)?,
            decompressor: zstd::bulk::Decompressor::new()?,
        })
    }

    /// The chunk of pages `raw` with digests `digests`, as bytes for the pack, and its id.
    pub(super) fn encode(&mut self, raw: &[u8], digests: &[Digest]) -> std::io::Result<(Vec<u8>, Digest)> {
        let too_large = |_| std::io::Error::other("a chunk is too large");
        let packed = Some(self.compressor.compress(raw)?).filter(|packed| packed.len() < raw.len());
        let (codec, stored) = match &packed {
            Some(packed) => (CODEC_ZSTD, packed.as_slice()),
            None => (CODEC_RAW, raw),
        };
        let mut header = RawHeader {
            magic: MAGIC,
            pages: u32::try_from(digests.len()).map_err(too_large)?.into(),
            stored_length: u32::try_from(stored.len()).map_err(too_large)?.into(),
            codec,
            zero: [0; 3],
            stored_hash: XxHash3_128::oneshot(stored).into(),
            crc: 0.into(),
        };
        let mut crc = crc32fast::Hasher::new();
        crc.update(&header.as_bytes()[..CHECKED_BYTES]);
        crc.update(digests.as_flattened());
        header.crc = crc.finalize().into();
        let mut bytes = Vec::with_capacity(HEADER_BYTES + size_of_val(digests) + stored.len());
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(digests.as_flattened());
        let id = *blake3::hash(&bytes).as_bytes();
        bytes.extend_from_slice(stored);
        Ok((bytes, id))
    }

    /// Checks that `record` is the whole chunk `id`, every byte of it, and unpacks its pages into `raw`.
    pub(super) fn decode(&mut self, record: &[u8], id: &Digest, raw: &mut Vec<u8>) -> Result<(), Fault> {
        raw.clear();
        let (header, stored) = parse(record, id)?;
        let length = header.pages.get() as usize * PAGE_BYTES;
        if header.codec == CODEC_RAW {
            raw.extend_from_slice(stored);
            return Ok(());
        }
        raw.reserve_exact(length);
        // Writes into the room that was reserved, never more.
        match self.decompressor.decompress_to_buffer(stored, raw) {
            Ok(unpacked) if unpacked == length && raw.len() == length => Ok(()),
            _ => Err("the chunk does not unpack"),
        }
    }
}

/// Checks that `record` is the whole chunk `id`, every byte of it, without unpacking it.
pub(super) fn check(record: &[u8], id: &Digest) -> Result<(), Fault> {
    parse(record, id).map(|_| ())
}

fn parse<'a>(record: &'a [u8], id: &Digest) -> Result<(&'a RawHeader, &'a [u8]), Fault> {
    let head = head(record)?;
    if head.id != *id {
        return Err("there is another chunk than the one that was stored");
    }
    let (header, rest) = RawHeader::ref_from_prefix(record).map_err(|_| "the chunk's header is cut short")?;
    let stored = &rest[size_of_val(head.digests.as_slice())..];
    if record.len() != head.length as usize {
        return Err("the chunk has another length than the one that was stored");
    }
    if XxHash3_128::oneshot(stored) != header.stored_hash.get() {
        return Err("the chunk has a wrong checksum");
    }
    Ok((header, stored))
}
