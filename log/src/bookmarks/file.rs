//! The file `bookmarks`: a head that ties it to its recording, records each chained to the one before, and in a closed
//! recording an empty record at the end.
//!
//! Each checksum covers the one before it, so nothing can be changed, removed, doubled or moved; the end covers all.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Bookmark, BookmarkOrigin, MAX_BOOKMARK_NAME, MAX_BOOKMARKS, check_bookmark_name};
use crate::bytes::{Input, Malformed, put_varint};
use crate::error::OpenError;
use crate::position::Position;
use crate::{BOOKMARKS_FILE, BOOKMARKS_NEW_FILE};

pub(crate) const MAGIC: [u8; 8] = *b"SCRBOOK1";
const HEAD_BYTES: usize = size_of::<Head>();
/// Before a record's payload: its length, the complement of that, a checksum.
const RECORD_BYTES: usize = 6;
/// Most bytes of a payload: origin, flags, four varints, a name.
const MAX_PAYLOAD: usize = 2 + 4 * 10 + MAX_BOOKMARK_NAME;

const KEY: u8 = 0;
const SIGNAL: u8 = 1;
const EVERY: u8 = 2;
const ADDED: u8 = 3;

const HAS_GUEST_TIME: u8 = 1;

// Frozen: recordings exist.
const _: () = assert!(matches!(&MAGIC, b"SCRBOOK1"));
const _: () = assert!(HEAD_BYTES == 16 && RECORD_BYTES == 6);
const _: () = assert!(KEY == 0 && SIGNAL == 1 && EVERY == 2 && ADDED == 3);
const _: () = assert!(HAS_GUEST_TIME == 1);
const _: () = assert!(MAX_BOOKMARK_NAME == 64 && MAX_BOOKMARKS == 1_048_576);

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Head {
    magic: [u8; 8],
    /// Checksum of the recording's header.
    recording: U32,
    crc: U32,
}

const _: () = assert!(std::mem::offset_of!(Head, recording) == 8);
const _: () = assert!(std::mem::offset_of!(Head, crc) == 12);

/// The file's bytes as they are made.
#[derive(Debug)]
pub(crate) struct Encoder {
    /// Checksum of what was made last.
    previous: u32,
    /// What was made and not taken yet.
    pub(crate) out: Vec<u8>,
}

impl Encoder {
    /// Starts the file of the recording whose header has that checksum.
    pub(crate) fn new(recording: u32) -> Encoder {
        let mut head = Head { magic: MAGIC, recording: recording.into(), crc: 0.into() };
        let crc = crc32fast::hash(&head.as_bytes()[..HEAD_BYTES - 4]);
        head.crc = crc.into();
        Encoder { previous: crc, out: head.as_bytes().to_vec() }
    }

    /// Adds a bookmark that was checked.
    pub(crate) fn push(&mut self, bookmark: &Bookmark) -> io::Result<()> {
        let Bookmark { name, position, guest_time, origin } = bookmark;
        let origin = match origin {
            BookmarkOrigin::Key => KEY,
            BookmarkOrigin::Signal => SIGNAL,
            BookmarkOrigin::Every => EVERY,
            BookmarkOrigin::Added => ADDED,
            BookmarkOrigin::Guest => return Err(io::Error::other("a guest's bookmark is an event")),
        };
        let mut payload = vec![origin, if guest_time.is_some() { HAS_GUEST_TIME } else { 0 }];
        for number in [position.exit, position.branches, position.steps].into_iter().chain(*guest_time) {
            put_varint(&mut payload, number);
        }
        payload.extend_from_slice(name.as_bytes());
        self.record(&payload)
    }

    /// Adds the end: nothing follows.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        self.record(&[])
    }

    fn record(&mut self, payload: &[u8]) -> io::Result<()> {
        let length = u8::try_from(payload.len()).map_err(|_| io::Error::other("a bookmark is too long"))?;
        let crc = checksum(self.previous, length, payload);
        self.out.extend_from_slice(&[length, !length]);
        self.out.extend_from_slice(&crc.to_le_bytes());
        self.out.extend_from_slice(payload);
        self.previous = crc;
        Ok(())
    }
}

fn checksum(previous: u32, length: u8, payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&previous.to_le_bytes());
    crc.update(&[length, !length]);
    crc.update(payload);
    crc.finalize()
}

/// An open bookmarks file and its name.
#[derive(Debug)]
pub(crate) struct BookFile {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
}

/// The bookmarks of the recording in `dir` whose header has checksum `recording`, if it has any.
///
/// Where a file of that name belongs to another header, the one that is to replace it may be the right one: the recording
/// was killed while its markers were dropped.
pub(crate) fn find(dir: &Path, recording: u32) -> Result<Option<BookFile>, OpenError> {
    let Some(found) = open(dir.join(BOOKMARKS_FILE))? else {
        return Ok(None);
    };
    if !belongs_to_another(&found, recording)? {
        return Ok(Some(found));
    }
    match open(dir.join(BOOKMARKS_NEW_FILE))? {
        Some(new) if !belongs_to_another(&new, recording)? => Ok(Some(new)),
        _ => Ok(Some(found)),
    }
}

fn open(path: PathBuf) -> Result<Option<BookFile>, OpenError> {
    match File::open(&path) {
        Ok(file) => Ok(Some(BookFile { path, file })),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(OpenError::io("open", &path)(error)),
    }
}

/// Whether it has a whole head that names another recording.
pub(crate) fn belongs_to_another(book: &BookFile, recording: u32) -> Result<bool, OpenError> {
    let bytes = contents(book, HEAD_BYTES as u64)?;
    Ok(matches!(head(&bytes), Some(Ok((found, _))) if found != recording))
}

/// At most `limit` bytes from the file's start.
fn contents(book: &BookFile, limit: u64) -> Result<Vec<u8>, OpenError> {
    let read = || {
        let length = book.file.metadata()?.len().min(limit);
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        book.file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    };
    read().map_err(OpenError::io("read", &book.path))
}

/// The recording and the checksum in a head; `None` if it is cut short.
fn head(bytes: &[u8]) -> Option<Result<(u32, u32), &'static str>> {
    let (head, _) = Head::ref_from_prefix(bytes).ok()?;
    if head.magic != MAGIC {
        return Some(Err("this is no bookmarks file"));
    }
    if crc32fast::hash(&head.as_bytes()[..HEAD_BYTES - 4]) != head.crc.get() {
        return Some(Err("its head has a wrong checksum"));
    }
    Some(Ok((head.recording.get(), head.crc.get())))
}

/// All bookmarks in a file, which must be that of `recording`. Unless it must be `closed`, it may end anywhere: a killed
/// recorder left it so, and what is half written is ignored.
pub(crate) fn read(book: &BookFile, recording: u32, closed: bool) -> Result<Vec<Bookmark>, OpenError> {
    let corrupt = |offset: usize, what: &str| OpenError::corrupt(&book.path, offset as u64, what);
    let limit = HEAD_BYTES + (MAX_BOOKMARKS + 1) * (RECORD_BYTES + MAX_PAYLOAD);
    let bytes = contents(book, limit as u64 + 1)?;
    let mut previous = match head(&bytes) {
        Some(Ok((found, crc))) if found == recording => crc,
        Some(Ok(_)) => return Err(corrupt(8, "it belongs to another recording")),
        Some(Err(what)) => return Err(corrupt(0, what)),
        None if closed => return Err(corrupt(0, "it is cut short")),
        None => return Ok(Vec::new()),
    };
    let mut bookmarks: Vec<Bookmark> = Vec::new();
    let mut input = Input::new(&bytes[HEAD_BYTES..]);
    loop {
        let at = bytes.len() - input.len();
        let corrupt = |what: &str| corrupt(at, what);
        let torn = || if closed { Err(corrupt("it is cut short")) } else { Ok(()) };
        let (Ok(length), Ok(complement)) = (input.u8(), input.u8()) else {
            return torn().map(|()| bookmarks);
        };
        if complement != !length || usize::from(length) > MAX_PAYLOAD {
            return Err(corrupt("a bookmark's length is wrong"));
        }
        let (Ok(crc), Ok(payload)) = (input.u32(), input.take(usize::from(length))) else {
            return torn().map(|()| bookmarks);
        };
        if checksum(previous, length, payload) != crc {
            return Err(corrupt(
                "a bookmark has a wrong checksum, or does not belong behind the one before it",
            ));
        }
        if length == 0 {
            return match input.len() {
                0 => Ok(bookmarks),
                _ => Err(corrupt("something follows the end")),
            };
        }
        if bookmarks.len() == MAX_BOOKMARKS {
            return Err(corrupt("there are too many bookmarks"));
        }
        let bookmark = decode(payload).map_err(|malformed| corrupt(malformed.0))?;
        if bookmarks.last().is_some_and(|last| bookmark.position < last.position) {
            return Err(corrupt("a bookmark is before the previous one"));
        }
        bookmarks.push(bookmark);
        previous = crc;
    }
}

fn decode(payload: &[u8]) -> Result<Bookmark, Malformed> {
    let mut input = Input::new(payload);
    let origin = match input.u8()? {
        KEY => BookmarkOrigin::Key,
        SIGNAL => BookmarkOrigin::Signal,
        EVERY => BookmarkOrigin::Every,
        ADDED => BookmarkOrigin::Added,
        _ => return Err(Malformed("a bookmark's origin is unknown: made by a newer scribe-vmm")),
    };
    let has_guest_time = match input.u8()? {
        0 => false,
        HAS_GUEST_TIME => true,
        _ => return Err(Malformed("a bookmark's flags are unknown: made by a newer scribe-vmm")),
    };
    let position = Position { exit: input.varint()?, branches: input.varint()?, steps: input.varint()? };
    let guest_time = if has_guest_time { Some(input.varint()?) } else { None };
    match str::from_utf8(input.rest()) {
        Ok(name) if check_bookmark_name(name).is_ok() => {
            Ok(Bookmark { name: name.to_owned(), position, guest_time, origin })
        }
        _ => Err(Malformed("a bookmark has an impossible name")),
    }
}
