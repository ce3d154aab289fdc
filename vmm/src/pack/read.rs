//! Unpacking.
//!
//! A pack may come from anywhere. Nothing is written but plain files of known names below one new directory, none longer
//! than announced, none there twice; what is written is bounded by the pack's own size, and read in pieces. All of it is
//! checked before the directory gets its name.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use scribe_log::{BOOKMARKS_FILE, HEADER_FILE, INCOMPLETE_FILE, header};
use serde::Deserialize;

use super::{
    CONTENTS, Contents, Entry, FORMAT, PackError, SEAL, SEAL_BYTES, ZSTD_MAGIC, io_error, may_be, mode,
    parent_of,
};
use crate::session::files::Digest;

/// Most bytes of the first entry, and most entries behind it.
const MOST_CONTENTS: u64 = 16 << 20;
const MOST_FILES: usize = 10_000;
/// Most bytes of a file whose limit follows from nothing else: 1 TiB.
const MOST_BYTES: u64 = 1 << 40;
/// What a pack may take on disk, holes not counted: so much, and for each of its own bytes so much more. Of what a guest
/// or its users keep on disks hardly anything is packed better than 100 to 1, but for zeros.
const ROOM: u64 = 1 << 30;
const ROOM_PER_BYTE: u64 = 1000;
/// Runs of zeros of this many bytes are left out of files on disk.
const HOLE: usize = 4096;

/// True if the file at `path` may be a pack: it starts as a zstd frame does.
pub fn is_pack(path: &Path) -> bool {
    let mut magic = [0; 4];
    path.is_file()
        && File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok()
        && magic == ZSTD_MAGIC
}

/// Unpacks the file `from` into the new directory `to`.
///
/// # Errors
/// It is no pack, it is damaged, or the directory is there or cannot be made. Then nothing is left behind.
pub fn unpack(from: &Path, to: &Path) -> Result<(), PackError> {
    let length = match fs::metadata(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(PackError::Missing { path: from.display().to_string() });
        }
        other => other.map_err(io_error("cannot be read", from))?.len(),
    };
    unpack_within(from, to, ROOM.saturating_add(length.saturating_mul(ROOM_PER_BYTE)))
}

/// As [`unpack`]; `room`: most bytes that it may take on disk.
pub(super) fn unpack_within(from: &Path, to: &Path, room: u64) -> Result<(), PackError> {
    let path = from.display().to_string();
    let exists = || PackError::DirectoryExists { path: to.display().to_string() };
    if to.exists() {
        return Err(exists());
    }
    if !is_pack(from) {
        return Err(PackError::NotAPack { path });
    }
    let parent = parent_of(to);
    fs::create_dir_all(&parent).map_err(io_error("cannot be made", &parent))?;
    let scratch = tempfile::Builder::new().permissions(mode(0o777)).tempdir_in(&parent);
    let scratch = scratch.map_err(io_error("no temporary directory there", &parent))?;
    let decoder = zstd::Decoder::new(sealed(from)?).map_err(io_error("cannot be read", from))?;
    Unpacking { path: &path, to: scratch.path(), room }.read(decoder)?;
    // Only over nothing: a rename replaces an empty directory, and that is what the others may have made.
    if to.exists() {
        return Err(exists());
    }
    let scratch = scratch.keep();
    fs::rename(&scratch, to).map_err(|source| {
        let _ = fs::remove_dir_all(&scratch);
        PackError::Io { path: to.display().to_string(), what: "cannot be made", source }
    })
}

/// The archive of a pack whose digest is right.
fn sealed(path: &Path) -> Result<impl Read + use<>, PackError> {
    let damaged = |what: &str| PackError::Damaged { path: path.display().to_string(), what: what.into() };
    let failed = || io_error("cannot be read", path);
    let mut file = File::open(path).map_err(failed())?;
    let length = file.metadata().map_err(failed())?.len();
    let Some(archive) = length.checked_sub(SEAL_BYTES) else { return Err(damaged("it is cut short")) };
    let mut hasher = blake3::Hasher::new();
    let hashed = io::copy(&mut (&mut file).take(archive), &mut hasher);
    hashed.map_err(failed())?;
    let mut seal = Vec::new();
    (&mut file).take(SEAL_BYTES).read_to_end(&mut seal).map_err(failed())?;
    if seal != [SEAL.as_slice(), hasher.finalize().as_bytes()].concat() {
        return Err(damaged("its digest is wrong, or it is cut short"));
    }
    file.seek(SeekFrom::Start(0)).map_err(failed())?;
    Ok(file.take(archive))
}

/// Only the version, which is looked at before anything else.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

struct Unpacking<'a> {
    /// the pack's, for messages
    path: &'a str,
    to: &'a Path,
    /// bytes that may still be written
    room: u64,
}

impl Unpacking<'_> {
    fn damaged(&self, what: impl Into<String>) -> PackError {
        PackError::Damaged { path: self.path.to_owned(), what: what.into() }
    }

    fn read(&mut self, decoder: impl Read) -> Result<(), PackError> {
        let not_one = || PackError::NotAPack { path: self.path.to_owned() };
        let mut archive = tar::Archive::new(decoder);
        // Raw: what other archives have beside files (long names, attributes) is read into memory whatever its length.
        let mut entries = archive.entries().map_err(|error| self.damaged(error.to_string()))?.raw(true);
        let Some(Ok(first)) = entries.next() else { return Err(not_one()) };
        if first.path_bytes().as_ref() != CONTENTS.as_bytes() || first.size() > MOST_CONTENTS {
            return Err(not_one());
        }
        let mut json = Vec::new();
        let read = first.take(MOST_CONTENTS).read_to_end(&mut json);
        read.map_err(|error| self.damaged(error.to_string()))?;
        let version: Version = serde_json::from_slice(&json).map_err(|_| not_one())?;
        if version.format > FORMAT {
            return Err(PackError::TooNew { path: self.path.to_owned(), found: version.format });
        }
        let contents: Contents =
            serde_json::from_slice(&json).map_err(|error| self.damaged(error.to_string()))?;
        self.check(&contents)?;
        let mut expected = contents.files.iter();
        for entry in entries {
            let entry = entry.map_err(|error| self.damaged(error.to_string()))?;
            let Some(wanted) = expected.next() else { return Err(self.damaged("a file too many")) };
            let name = &wanted.name;
            let plain = entry.header().entry_type().is_file();
            if !plain || entry.path_bytes().as_ref() != name.as_bytes() || entry.size() != wanted.size {
                return Err(self.damaged(format!("there is something else where {name} should be")));
            }
            self.file(wanted, entry)?;
        }
        match expected.next() {
            None => Ok(()),
            Some(missing) => Err(self.damaged(format!("{} is missing", missing.name))),
        }
    }

    /// What is announced must be what a pack can hold.
    fn check(&self, contents: &Contents) -> Result<(), PackError> {
        if contents.format == 0 || contents.files.len() > MOST_FILES {
            return Err(self.damaged("it announces what no pack has"));
        }
        let mut names = BTreeSet::new();
        for Entry { name, size, .. } in &contents.files {
            if !may_be(name) || *size > most(name) || !names.insert(name) {
                let name = name.escape_debug();
                return Err(self.damaged(format!("a file that cannot be in a pack, or not so large: {name}")));
            }
        }
        Ok(())
    }

    fn file(&mut self, wanted: &Entry, from: impl Read) -> Result<(), PackError> {
        let target = self.to.join(&wanted.name);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(io_error("cannot be made", parent))?;
        }
        let found = self.store(from, &target)?;
        if found != (wanted.size, wanted.blake3) {
            return Err(self.damaged(format!("{} is not what was packed", wanted.name)));
        }
        Ok(())
    }

    /// Writes what `from` gives to a new file, without its zeros; gives size and digest.
    fn store(&mut self, mut from: impl Read, to: &Path) -> Result<(u64, Digest), PackError> {
        let mut file = File::create_new(to).map_err(io_error("cannot be written", to))?;
        let (mut hasher, mut size, mut buffer) = (blake3::Hasher::new(), 0, vec![0; 64 * HOLE]);
        loop {
            let mut filled = 0;
            while filled < buffer.len() {
                match from.read(&mut buffer[filled..]) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(self.damaged(error.to_string())),
                }
            }
            if filled == 0 {
                break;
            }
            hasher.update(&buffer[..filled]);
            size += filled as u64;
            for piece in buffer[..filled].chunks(HOLE) {
                self.piece(&mut file, piece, to)?;
            }
        }
        file.set_len(size).map_err(io_error("cannot be written", to))?;
        Ok((size, *hasher.finalize().as_bytes()))
    }

    /// Writes a piece of a file, or leaves a hole.
    fn piece(&mut self, file: &mut File, piece: &[u8], to: &Path) -> Result<(), PackError> {
        let failed = io_error("cannot be written", to);
        let length = piece.len() as u64;
        if piece.iter().all(|byte| *byte == 0) {
            let length = i64::try_from(length).map_err(io::Error::other);
            return length
                .and_then(|length| file.seek(SeekFrom::Current(length)).map(|_| ()))
                .map_err(failed);
        }
        self.room = self.room.checked_sub(length).ok_or_else(|| {
            self.damaged(format!("it would take more than {ROOM_PER_BYTE} times its own size on disk"))
        })?;
        file.write_all(piece).map_err(failed)
    }
}

/// Most bytes of the file of that name.
fn most(name: &str) -> u64 {
    match name {
        HEADER_FILE => header::MAX_BODY as u64 + 64,
        BOOKMARKS_FILE => 256 << 20,
        INCOMPLETE_FILE => 4096,
        _ => MOST_BYTES,
    }
}
