//! A recording as one file, with what it needs to be replayed anywhere.
//!
//! A pack is one zstd frame of a tar archive (POSIX ustar), and a skippable frame (RFC 8878, 3.1.2) that holds the BLAKE3
//! digest of all bytes before it; `zstd -dc` and `tar` read it. Its first entry is `scribe-pack.json`: the
//! format's version and name, size and BLAKE3 digest of every further entry, in order. Those are the files of the
//! recording's directory, and, if they were asked for, the files that it names, as `files/image`, `files/kernel` and
//! `files/initrd`. Unpacked, it is a recording's directory again; a replay finds the files inside it.
//!
//! A pack may come from anywhere: nothing is written but plain files of known names below one new directory, none longer
//! than announced, and all of them are checked before the directory gets its name.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use scribe_log::header::Origin as FileOrigin;
use scribe_log::snapshots::{SNAPSHOTS_DIR, SnapshotError, Snapshots};
use scribe_log::{Header, OpenError, Recording, State};
use serde::{Deserialize, Serialize};

use crate::session::config::Moved;
use crate::session::files::{self, Digest};

/// Name of the first entry.
const CONTENTS: &str = "scribe-pack.json";
/// Version of the format.
const FORMAT: u32 = 1;
/// Most bytes of the first entry.
const MOST_CONTENTS: u64 = 16 << 20;
/// Where a recording's directory holds the files of its host.
const FILES: &str = "files";
const LEVEL: i32 = 3;
/// What a zstd frame starts with (RFC 8878, 3.1.1).
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// How the skippable frame with the digest starts: magic and length.
const SEAL: [u8; 8] = [0x50, 0x2a, 0x4d, 0x18, 32, 0, 0, 0];
/// Bytes of that frame.
const SEAL_BYTES: u64 = 40;
/// Runs of zeros of this many bytes are left out of files on disk.
const HOLE: usize = 4096;

/// Why a recording cannot be packed or a pack not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// It is being made.
    #[error("{0}: it is being recorded; pack it when it has ended")]
    Running(String),
    /// It cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its snapshots cannot be read.
    #[error(transparent)]
    Snapshots(#[from] SnapshotError),
    /// A file that is to be in the pack is not what it was when the recording was made.
    #[error("{path}: it has changed since the recording was made; without it the pack would be of no use")]
    Changed {
        /// the file
        path: String,
    },
    /// There is something already.
    #[error("{path}: there is something already; --overwrite replaces a file")]
    Exists {
        /// where
        path: String,
    },
    /// It is no pack.
    #[error("{path}: not a packed recording")]
    NotAPack {
        /// the file
        path: String,
    },
    /// A newer program has made it.
    #[error("{path}: pack format version {found}, this program reads {FORMAT}: made by a newer scribe-vmm")]
    TooNew {
        /// the file
        path: String,
        /// its version
        found: u32,
    },
    /// Bytes are missing or have changed.
    #[error("{path}: damaged: {what}")]
    Damaged {
        /// the file
        path: String,
        /// what is wrong
        what: String,
    },
    /// The host could not do it.
    #[error("{path}: {what}: {source}")]
    Io {
        /// the file or directory
        path: String,
        /// what was tried
        what: &'static str,
        /// errno
        source: io::Error,
    },
}

impl PackError {
    /// True if the pack or the recording is at fault, not the host or the request.
    pub fn is_damage(&self) -> bool {
        use PackError::{Changed, Damaged, NotAPack, Open, Snapshots, TooNew};
        matches!(
            self,
            Changed { .. } | Damaged { .. } | NotAPack { .. } | Open(_) | Snapshots(_) | TooNew { .. }
        )
    }
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PackError {
    move |source| PackError::Io { path: path.display().to_string(), what, source }
}

/// What is packed besides the recording's own files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PackOptions {
    /// the image, and kernel and initrd if they came from the host
    pub image: bool,
    /// all snapshots, not only the one that a branch starts from
    pub snapshots: bool,
    /// a file that is there is replaced
    pub overwrite: bool,
}

/// One file of a pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    size: u64,
    #[serde(with = "hex")]
    blake3: Digest,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    format: u32,
    files: Vec<Entry>,
}

/// Only the version, which is looked at before anything else.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

/// Packs `recording` into the file `to`. `moved`: where its files lie now. Gives the pack's size in bytes.
///
/// # Errors
/// Something cannot be read or written, or is not what it was. Then there is no pack.
pub fn pack(recording: &Recording, moved: &Moved, to: &Path, options: PackOptions) -> Result<u64, PackError> {
    if recording.state() == State::Running {
        return Err(PackError::Running(recording.dir().display().to_string()));
    }
    if to.exists() && !options.overwrite {
        return Err(PackError::Exists { path: to.display().to_string() });
    }
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // A copy, so that what is packed does not change meanwhile, and unasked snapshots can be dropped.
    let copy = tempfile::tempdir_in(parent).map_err(io_error("no temporary directory there", parent))?;
    let mut sources = copy_recording(recording, copy.path(), options)?;
    if options.image {
        sources.extend(host_files(recording.header(), moved));
    }
    let mut entries = Vec::new();
    for (name, path) in &sources {
        let size = fs::metadata(path).map_err(io_error("cannot be read", path))?.len();
        let blake3 = files::of_file(path).map_err(io_error("cannot be read", path))?;
        if recorded_digest(recording.header(), name).is_some_and(|recorded| recorded != blake3) {
            return Err(PackError::Changed { path: path.display().to_string() });
        }
        entries.push(Entry { name: name.clone(), size, blake3 });
    }
    let contents = Contents { format: FORMAT, files: entries };
    let failed = |source| PackError::Io { path: to.display().to_string(), what: "cannot be written", source };
    let file = tempfile::Builder::new().permissions(mode(0o666)).tempfile_in(parent).map_err(failed)?;
    write(file.as_file(), &contents, &sources).and_then(|()| seal(file.path())).map_err(failed)?;
    let file = match options.overwrite {
        true => file.persist(to),
        false => file.persist_noclobber(to),
    }
    .map_err(|error| failed(error.error))?;
    file.metadata().map(|metadata| metadata.len()).map_err(failed)
}

/// What the user's umask leaves of it is what a new file or directory usually has.
fn mode(mode: u32) -> fs::Permissions {
    fs::Permissions::from_mode(mode)
}

/// Names in the pack, and where the files lie.
type Sources = Vec<(String, PathBuf)>;

fn copy_recording(recording: &Recording, to: &Path, options: PackOptions) -> Result<Sources, PackError> {
    let from = recording.dir();
    let mut sources = Vec::new();
    let mut copy = |name: String| -> Result<(), PackError> {
        let (source, target) = (from.join(&name), to.join(&name));
        fs::copy(&source, &target).map_err(io_error("cannot be copied", &source))?;
        sources.push((name, target));
        Ok(())
    };
    for name in ["header", "events", "bookmarks", "incomplete"] {
        if from.join(name).is_file() {
            copy(name.to_owned())?;
        }
    }
    let snapshots = from.join(SNAPSHOTS_DIR);
    if snapshots.is_dir() {
        let target = to.join(SNAPSHOTS_DIR);
        fs::create_dir(&target).map_err(io_error("cannot be made", &target))?;
        for name in names_in(&snapshots)? {
            copy(format!("{SNAPSHOTS_DIR}/{name}"))?;
        }
        if !options.snapshots {
            let mut copied = Snapshots::open(to, recording.header_crc())?;
            copied.clear()?;
            copied.compact()?;
        }
        sources.retain(|(name, _)| !name.starts_with(SNAPSHOTS_DIR));
        let left = names_in(&target)?.into_iter().map(|name| format!("{SNAPSHOTS_DIR}/{name}"));
        sources.extend(left.map(|name| (name.clone(), to.join(name))));
    }
    Ok(sources)
}

/// The plain files in a directory, sorted: the same recording is the same pack.
fn names_in(directory: &Path) -> Result<Vec<String>, PackError> {
    let failed = || io_error("cannot be read", directory);
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let plain = entry.file_type().map_err(failed())?.is_file();
        names.extend(entry.file_name().into_string().ok().filter(|name| plain && is_snapshot_name(name)));
    }
    names.sort();
    Ok(names)
}

/// The files of the host that a recording with this header needs.
fn host_files(header: &Header, moved: &Moved) -> Sources {
    let on_host =
        |file: &scribe_log::header::BootFile| (file.origin == FileOrigin::Host).then(|| file.path.clone());
    let image = header.image.as_ref().map(|image| image.path.clone());
    let files = [
        ("image", moved.image.clone().or(image)),
        ("kernel", moved.kernel.clone().or_else(|| on_host(&header.kernel))),
        ("initrd", moved.initrd.clone().or_else(|| header.initrd.as_ref().and_then(on_host))),
    ];
    files.into_iter().filter_map(|(name, path)| Some((format!("{FILES}/{name}"), path?))).collect()
}

/// The digest that the header has of a file of the host.
fn recorded_digest(header: &Header, name: &str) -> Option<Digest> {
    match name.strip_prefix(FILES)? {
        "/image" => header.image.as_ref().map(|image| image.blake3),
        "/kernel" => Some(header.kernel.blake3),
        "/initrd" => header.initrd.as_ref().map(|file| file.blake3),
        _ => None,
    }
}

fn write(file: &File, contents: &Contents, sources: &Sources) -> io::Result<()> {
    let encoder = zstd::Encoder::new(BufWriter::new(file), LEVEL)?;
    let mut archive = tar::Builder::new(encoder);
    let json = serde_json::to_vec(contents).map_err(io::Error::other)?;
    append(&mut archive, CONTENTS, json.len() as u64, json.as_slice())?;
    for (entry, (name, path)) in contents.files.iter().zip(sources) {
        append(&mut archive, name, entry.size, BufReader::new(File::open(path)?).take(entry.size))?;
    }
    archive.into_inner()?.finish()?.flush()
}

/// Appends the digest of what is there.
fn seal(path: &Path) -> io::Result<()> {
    let digest = files::of_file(path)?;
    let mut file = File::options().append(true).open(path)?;
    file.write_all(&[SEAL.as_slice(), &digest].concat())
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

fn append<W: Write>(archive: &mut tar::Builder<W>, name: &str, size: u64, from: impl Read) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    archive.append_data(&mut header, name, from)
}

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
    let path = from.display().to_string();
    if to.exists() {
        return Err(PackError::Exists { path: to.display().to_string() });
    }
    if !is_pack(from) {
        return Err(PackError::NotAPack { path });
    }
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(io_error("cannot be made", parent))?;
    let scratch = tempfile::Builder::new().permissions(mode(0o777)).tempdir_in(parent);
    let scratch = scratch.map_err(io_error("no temporary directory there", parent))?;
    let decoder = zstd::Decoder::new(sealed(from)?).map_err(io_error("cannot be read", from))?;
    read(decoder, &path, scratch.path())?;
    let scratch = scratch.keep();
    fs::rename(&scratch, to).map_err(|source| {
        let _ = fs::remove_dir_all(&scratch);
        PackError::Io { path: to.display().to_string(), what: "cannot be made", source }
    })
}

fn read(decoder: impl Read, path: &str, to: &Path) -> Result<(), PackError> {
    let damaged = |what: String| PackError::Damaged { path: path.to_owned(), what };
    let not_one = || PackError::NotAPack { path: path.to_owned() };
    let mut archive = tar::Archive::new(decoder);
    let mut entries = archive.entries().map_err(|error| damaged(error.to_string()))?;
    let Some(Ok(first)) = entries.next() else { return Err(not_one()) };
    if first.path_bytes().as_ref() != CONTENTS.as_bytes() || first.size() > MOST_CONTENTS {
        return Err(not_one());
    }
    let mut json = Vec::new();
    first.take(MOST_CONTENTS).read_to_end(&mut json).map_err(|error| damaged(error.to_string()))?;
    let version: Version = serde_json::from_slice(&json).map_err(|_| not_one())?;
    if version.format > FORMAT {
        return Err(PackError::TooNew { path: path.to_owned(), found: version.format });
    }
    let contents: Contents = serde_json::from_slice(&json).map_err(|error| damaged(error.to_string()))?;
    let mut expected = contents.files.iter();
    for entry in entries {
        let entry = entry.map_err(|error| damaged(error.to_string()))?;
        let Some(wanted) = expected.next() else { return Err(damaged("a file too many".into())) };
        let name = &wanted.name;
        let plain = entry.header().entry_type().is_file();
        if !plain
            || entry.path_bytes().as_ref() != name.as_bytes()
            || entry.size() != wanted.size
            || !may_be(name)
        {
            return Err(damaged(format!(
                "a file that is not announced, or none that can be: {}",
                name.escape_debug()
            )));
        }
        let target = to.join(name);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(io_error("cannot be made", parent))?;
        }
        let found = store(entry, &target, path)?;
        if found != (wanted.size, wanted.blake3) {
            return Err(damaged(format!("{name} is not what was packed")));
        }
    }
    match expected.next() {
        None => Ok(()),
        Some(missing) => Err(damaged(format!("{} is missing", missing.name.escape_debug()))),
    }
}

/// Names that a pack can hold.
fn may_be(name: &str) -> bool {
    match name.split_once('/') {
        None => matches!(name, "header" | "events" | "bookmarks" | "incomplete"),
        Some((FILES, name)) => matches!(name, "image" | "kernel" | "initrd"),
        Some((SNAPSHOTS_DIR, name)) => is_snapshot_name(name),
        Some(_) => false,
    }
}

fn is_snapshot_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Writes what `from` gives to a new file, without its zeros; gives size and digest. `pack`: for errors.
fn store(mut from: impl Read, to: &Path, pack: &str) -> Result<(u64, Digest), PackError> {
    let mut file = File::create_new(to).map_err(io_error("cannot be written", to))?;
    let (mut hasher, mut size, mut buffer) = (blake3::Hasher::new(), 0, vec![0; 64 * HOLE]);
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match from.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(PackError::Damaged { path: pack.into(), what: error.to_string() }),
            }
        }
        if filled == 0 {
            break;
        }
        hasher.update(&buffer[..filled]);
        size += filled as u64;
        for piece in buffer[..filled].chunks(HOLE) {
            let written = match piece.iter().all(|byte| *byte == 0) {
                true => i64::try_from(piece.len())
                    .map_err(io::Error::other)
                    .and_then(|length| file.seek(SeekFrom::Current(length)).map(|_| ())),
                false => file.write_all(piece),
            };
            written.map_err(io_error("cannot be written", to))?;
        }
    }
    file.set_len(size).map_err(io_error("cannot be written", to))?;
    Ok((size, *hasher.finalize().as_bytes()))
}

/// Where the files of an unpacked recording are: in its directory, unless the user says otherwise.
pub fn beside(directory: &Path, moved: Moved) -> Moved {
    let inside = |name: &str| Some(directory.join(FILES).join(name)).filter(|path| path.is_file());
    Moved {
        image: moved.image.or_else(|| inside("image")),
        kernel: moved.kernel.or_else(|| inside("kernel")),
        initrd: moved.initrd.or_else(|| inside("initrd")),
    }
}

mod hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Digest;

    pub(super) fn serialize<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&blake3::Hash::from_bytes(*digest))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        blake3::Hash::from_hex(&text).map(Into::into).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests;
