//! Packs: files of chunks that are only ever appended to. Snapshots refer to their chunks.
//!
//! Whole chunks never leave a pack: a pack with too much in it that nobody refers to is replaced by one of the next
//! generation, under another name. So a reader without any lock finds what its snapshot refers to, or no file at all.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::chunk::{self, Codec, DIGEST_BYTES, Digest, HEADER_BYTES, MAX_RECORD};
use super::error::{self, SnapshotError};
use super::pages::PAGE_BYTES;

const MAGIC: [u8; 8] = *b"SCRPAGES";
/// The version of packs that this program writes, and the newest it reads.
pub(super) const VERSION: u32 = 1;
const HEAD_BYTES: usize = size_of::<RawHead>();
/// Where the first chunk starts.
pub(super) const FIRST_CHUNK: u64 = HEAD_BYTES as u64;
const NAME: &str = "pages-";

// Frozen: snapshots exist.
const _: () = assert!(matches!(&MAGIC, b"SCRPAGES"));
const _: () = assert!(VERSION == 1 && HEAD_BYTES == 20);

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHead {
    magic: [u8; 8],
    version: U32,
    generation: U32,
    crc: U32,
}

const _: () = assert!(std::mem::offset_of!(RawHead, version) == 8);
const _: () = assert!(std::mem::offset_of!(RawHead, generation) == 12);
const _: () = assert!(std::mem::offset_of!(RawHead, crc) == 16);

/// Where a chunk is, and which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChunkRef {
    pub(super) offset: u64,
    /// Bytes, header and table included.
    pub(super) length: u32,
    pub(super) pages: u32,
    pub(super) id: Digest,
}

impl ChunkRef {
    /// Where the chunk ends.
    pub(super) fn end(&self) -> u64 {
        self.offset.saturating_add(u64::from(self.length))
    }
}

/// Path of the pack `generation`.
pub(super) fn path(dir: &Path, generation: u32) -> PathBuf {
    dir.join(format!("{NAME}{generation}"))
}

/// The generation of a pack named `name`.
pub(super) fn generation(name: &str) -> Option<u32> {
    let number = name.strip_prefix(NAME)?.parse().ok()?;
    (format!("{NAME}{number}") == name).then_some(number)
}

/// A pack, open.
#[derive(Debug)]
pub(super) struct Pack {
    pub(super) file: File,
    pub(super) path: PathBuf,
}

impl Pack {
    /// Opens the pack `generation` and checks its head. `None`: there is none.
    pub(super) fn open(dir: &Path, generation: u32, write: bool) -> Result<Option<Pack>, SnapshotError> {
        let path = path(dir, generation);
        let Some(file) = error::open(&path, dir, write)? else { return Ok(None) };
        let mut head = RawHead::new_zeroed();
        match file.read_exact_at(head.as_mut_bytes(), 0) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                return Err(SnapshotError::corrupt(&path, 0, "the pack's head is cut short"));
            }
            other => other.map_err(SnapshotError::io("read", &path))?,
        }
        if head.magic != MAGIC {
            return Err(SnapshotError::corrupt(&path, 0, "it is no pack of pages"));
        }
        let found = head.version.get();
        if found > VERSION {
            return Err(SnapshotError::TooNew { path, found, supported: VERSION });
        }
        if found == 0 || crc32fast::hash(&head.as_bytes()[..HEAD_BYTES - 4]) != head.crc.get() {
            return Err(SnapshotError::corrupt(&path, 0, "the pack's head has a wrong checksum"));
        }
        if head.generation.get() != generation {
            return Err(SnapshotError::corrupt(&path, 12, "it is the pack of another name"));
        }
        Ok(Some(Pack { file, path }))
    }

    /// Makes an empty pack, in place of any that is there.
    pub(super) fn create(dir: &Path, generation: u32) -> Result<Pack, SnapshotError> {
        let path = path(dir, generation);
        let mut head =
            RawHead { magic: MAGIC, version: VERSION.into(), generation: generation.into(), crc: 0.into() };
        head.crc = crc32fast::hash(&head.as_bytes()[..HEAD_BYTES - 4]).into();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(SnapshotError::writing("make", &path, dir))?;
        file.write_all_at(head.as_bytes(), 0).map_err(SnapshotError::io("write", &path))?;
        Ok(Pack { file, path })
    }

    pub(super) fn length(&self) -> Result<u64, SnapshotError> {
        Ok(self.file.metadata().map_err(SnapshotError::io("read", &self.path))?.len())
    }

    /// Writes a chunk at `offset`, where the pack ends. If that fails it ends there still.
    pub(super) fn append(
        &self,
        offset: u64,
        codec: &mut Codec,
        raw: &[u8],
        digests: &[Digest],
    ) -> Result<ChunkRef, SnapshotError> {
        let failed = || SnapshotError::io("write", &self.path);
        let too_large = |_| failed()(io::Error::other("a chunk is too large"));
        let (record, id) = codec.encode(raw, digests).map_err(failed())?;
        if let Err(error) = self.file.write_all_at(&record, offset) {
            // Only tidies up: the next writer cuts off half a chunk.
            let _ = self.file.set_len(offset);
            return Err(failed()(error));
        }
        let length = u32::try_from(record.len()).map_err(too_large)?;
        let pages = u32::try_from(digests.len()).map_err(too_large)?;
        Ok(ChunkRef { offset, length, pages, id })
    }

    /// Reads the bytes of a chunk, unchecked, into `record`.
    pub(super) fn read(&self, chunk: &ChunkRef, record: &mut Vec<u8>) -> Result<(), SnapshotError> {
        // Its limit has been checked where the reference was decoded.
        record.resize(chunk.length as usize, 0);
        match self.file.read_exact_at(record, chunk.offset) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                Err(SnapshotError::corrupt(&self.path, chunk.offset, "the pack ends before the chunk does"))
            }
            other => other.map_err(SnapshotError::io("read", &self.path)),
        }
    }

    /// Reads a chunk, checks every byte of it, and unpacks its pages into `raw`. `record` is room for its bytes.
    pub(super) fn unpack(
        &self,
        codec: &mut Codec,
        chunk: &ChunkRef,
        record: &mut Vec<u8>,
        raw: &mut Vec<u8>,
    ) -> Result<(), SnapshotError> {
        self.read(chunk, record)?;
        let wrong = |what| SnapshotError::corrupt(&self.path, chunk.offset, what);
        codec.decode(record, &chunk.id, raw).map_err(wrong)?;
        if raw.len() != chunk.pages as usize * PAGE_BYTES {
            return Err(wrong("the chunk has another number of pages than its snapshot says"));
        }
        Ok(())
    }
}

/// Where a page is stored: the number of its chunk in the pack, and of the page in the chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) chunk: u32,
    pub(super) slot: u16,
}

/// What is in a pack, for a writer. Since whole chunks never leave a pack, an index only ever grows.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) generation: u32,
    pub(super) chunks: Vec<ChunkRef>,
    /// Whether all bytes of the chunk were looked at, or written, by this process.
    pub(super) checked: Vec<bool>,
    pages: BTreeMap<Digest, Place>,
    /// Where the last whole chunk ends.
    pub(super) end: u64,
}

impl Index {
    pub(super) fn new(generation: u32) -> Index {
        Index {
            generation,
            chunks: Vec::new(),
            checked: Vec::new(),
            pages: BTreeMap::new(),
            end: FIRST_CHUNK,
        }
    }

    /// Where a page of this content is.
    pub(super) fn find(&self, digest: &Digest) -> Option<Place> {
        self.pages.get(digest).copied()
    }

    /// Says where pages will be: those of the chunk with number `chunk`.
    pub(super) fn announce(&mut self, chunk: u32, digests: &[Digest]) {
        self.pages.extend((0..).zip(digests).map(|(slot, digest)| (*digest, Place { chunk, slot })));
    }

    /// Adds the chunk that starts at the end.
    pub(super) fn push(&mut self, chunk: ChunkRef, checked: bool) {
        self.end = chunk.end();
        self.chunks.push(chunk);
        self.checked.push(checked);
    }

    /// Reads the headers of all chunks behind the end; gives what is wrong with the bytes behind the last whole one, if
    /// there are any: what a killed writer left, or damage.
    pub(super) fn scan(&mut self, pack: &Pack) -> Result<Option<chunk::Fault>, SnapshotError> {
        let failed = || SnapshotError::io("read", &pack.path);
        let length = pack.length()?;
        let mut bytes = Vec::new();
        while self.end < length {
            let left = usize::try_from(length - self.end).unwrap_or(usize::MAX);
            let mut header = [0; HEADER_BYTES];
            if left < HEADER_BYTES {
                return Ok(Some("the chunk's header is cut short"));
            }
            pack.file.read_exact_at(&mut header, self.end).map_err(failed())?;
            let Some(head_length) = chunk::head_length(&header) else {
                return Ok(Some("no chunk starts here"));
            };
            if left < head_length {
                return Ok(Some("the chunk's table is cut short"));
            }
            bytes.resize(head_length, 0);
            pack.file.read_exact_at(&mut bytes, self.end).map_err(failed())?;
            let head = match chunk::head(&bytes) {
                Ok(head) if left < head.length as usize => return Ok(Some("the chunk is cut short")),
                Ok(head) => head,
                Err(what) => return Ok(Some(what)),
            };
            let number = u32::try_from(self.chunks.len());
            let number = number.map_err(|_| failed()(io::Error::other("it has too many chunks")))?;
            self.announce(number, &head.digests);
            // A chunk has at most 256 pages.
            let pages = u32::try_from(head.digests.len()).unwrap_or(u32::MAX);
            let chunk = ChunkRef { offset: self.end, length: head.length, pages, id: head.id };
            self.push(chunk, false);
        }
        Ok(None)
    }
}

const _: () = assert!(MAX_RECORD == 40 + 256 * (DIGEST_BYTES + 4096));
