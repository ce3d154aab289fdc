//! Packing: a copy of the recording that nobody changes, checked, and its files into one.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use scribe_log::header::{BootFile, Origin as FileOrigin};
use scribe_log::snapshots::{SNAPSHOTS_DIR, Snapshots};
use scribe_log::{
    BOOKMARKS_FILE, BOOKMARKS_NEW_FILE, Bookmarks, EVENTS_FILE, FILES_DIR, HEADER_FILE, HEADER_NEW_FILE,
    Header, INCOMPLETE_FILE, Recording, State,
};

use super::{
    CONTENTS, Contents, Entry, FORMAT, PackError, PackOptions, SEAL, io_error, is_snapshot_name, mode,
    parent_of,
};
use crate::session::config::Moved;
use crate::session::files::{self, Digest};

const LEVEL: i32 = 3;
/// How often a recording is copied anew if somebody changed it meanwhile.
const TRIES: usize = 5;

/// Packs `recording` into the file `to`. `moved`: where its files lie now. Gives the pack's size in bytes.
///
/// # Errors
/// Something cannot be read or written, is damaged, or is not what it was. Then there is no pack.
pub fn pack(recording: &Recording, moved: &Moved, to: &Path, options: PackOptions) -> Result<u64, PackError> {
    if recording.state() == State::Running {
        return Err(PackError::Running(recording.dir().display().to_string()));
    }
    if to.exists() && !options.overwrite {
        return Err(PackError::Exists { path: to.display().to_string() });
    }
    let parent = parent_of(to);
    let copy = tempfile::tempdir_in(&parent).map_err(io_error("no temporary directory there", &parent))?;
    let mut sources = copy_recording(recording, copy.path(), options)?;
    if options.image {
        sources.extend(host_files(recording.header(), moved));
    }
    let mut entries = Vec::new();
    for (name, path) in &sources {
        let size = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(PackError::Gone { path: path.display().to_string() });
            }
            other => other.map_err(io_error("cannot be read", path))?.len(),
        };
        let blake3 = files::of_file(path).map_err(io_error("cannot be read", path))?;
        if recorded_digest(recording.header(), name).is_some_and(|recorded| recorded != blake3) {
            return Err(PackError::Changed { path: path.display().to_string() });
        }
        entries.push(Entry { name: name.clone(), size, blake3 });
    }
    let contents = Contents { format: FORMAT, files: entries };
    let failed = |source| PackError::Io { path: to.display().to_string(), what: "cannot be written", source };
    let file = tempfile::Builder::new().permissions(mode(0o666)).tempfile_in(&parent).map_err(failed)?;
    write(file.as_file(), &contents, &sources).and_then(|()| seal(file.path())).map_err(failed)?;
    let file = match options.overwrite {
        true => file.persist(to),
        false => file.persist_noclobber(to),
    }
    .map_err(|error| failed(error.error))?;
    file.metadata().map(|metadata| metadata.len()).map_err(failed)
}

/// Names in the pack, and where the files lie.
type Sources = Vec<(String, PathBuf)>;

/// Copies what is packed of the recording's own files. What others change meanwhile can be of before and of after: then it
/// is copied anew.
fn copy_recording(recording: &Recording, to: &Path, options: PackOptions) -> Result<Sources, PackError> {
    let mut left = TRIES;
    loop {
        left -= 1;
        let copy = to.join(left.to_string());
        fs::create_dir(&copy).map_err(io_error("cannot be made", &copy))?;
        match copy_once(recording, &copy, options) {
            Err(PackError::Open(_) | PackError::Edit(_) | PackError::Snapshots(_) | PackError::Busy(_))
                if left > 0 => {}
            other => return other,
        }
    }
}

fn copy_once(recording: &Recording, to: &Path, options: PackOptions) -> Result<Sources, PackError> {
    let from = recording.dir();
    // Somebody may have been killed while he replaced the first by the second: the copy is put in order.
    let names =
        [HEADER_FILE, HEADER_NEW_FILE, EVENTS_FILE, BOOKMARKS_FILE, BOOKMARKS_NEW_FILE, INCOMPLETE_FILE];
    names.iter().try_for_each(|name| copy_file(&from.join(name), &to.join(name)))?;
    drop(Bookmarks::open(to)?);
    let copy = Recording::open(to)?;
    let identity = |recording: &Recording| recording.header().identity().ok();
    if identity(&copy) != identity(recording) || copy.state() != recording.state() {
        return Err(PackError::Busy(from.display().to_string()));
    }
    copy.events().try_for_each(|event| event.map(|_| ()))?;
    copy.bookmarks()?;
    copy_snapshots(&copy, from, options)?;
    let names = [HEADER_FILE, EVENTS_FILE, BOOKMARKS_FILE, INCOMPLETE_FILE].map(str::to_owned);
    let snapshots = names_in(&to.join(SNAPSHOTS_DIR))?.into_iter();
    let names = names.into_iter().chain(snapshots.map(|name| format!("{SNAPSHOTS_DIR}/{name}")));
    Ok(names.map(|name| (name.clone(), to.join(name))).filter(|(_, path)| path.is_file()).collect())
}

/// Copies a file that may not be there.
fn copy_file(from: &Path, to: &Path) -> Result<(), PackError> {
    match fs::copy(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map(|_| ()).map_err(io_error("cannot be copied", from)),
    }
}

/// Copies the snapshots of the recording in `from` to its copy, as far as they are asked for or needed.
fn copy_snapshots(copy: &Recording, from: &Path, options: PackOptions) -> Result<(), PackError> {
    let (from, to) = (from.join(SNAPSHOTS_DIR), copy.dir().join(SNAPSHOTS_DIR));
    let needed = copy.header().start.is_some();
    if from.is_dir() && (needed || options.snapshots) {
        fs::create_dir(&to).map_err(io_error("cannot be made", &to))?;
        for name in names_in(&from)? {
            copy_file(&from.join(&name), &to.join(&name))?;
        }
    }
    let mut copied = Snapshots::open(copy.dir(), copy.header_crc())?;
    if to.is_dir() && !options.snapshots {
        copied.clear()?;
        copied.compact()?;
    }
    if let Some(error) = copied.verify().into_iter().next() {
        return Err(error.into());
    }
    if needed && copied.start().is_none() {
        return Err(PackError::NoStart(from.display().to_string()));
    }
    Ok(())
}

/// The plain files in a directory, sorted: the same recording is the same pack. Of one that is not there, none.
fn names_in(directory: &Path) -> Result<Vec<String>, PackError> {
    let failed = || io_error("cannot be read", directory);
    let mut names = Vec::new();
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
        entries => entries.map_err(failed())?,
    };
    for entry in entries {
        let entry = entry.map_err(failed())?;
        let plain = entry.file_type().map_err(failed())?.is_file();
        names.extend(entry.file_name().into_string().ok().filter(|name| plain && is_snapshot_name(name)));
    }
    names.sort();
    Ok(names)
}

/// The files of the host that a recording with this header needs.
fn host_files(header: &Header, moved: &Moved) -> Sources {
    let on_host = |file: &BootFile| (file.origin == FileOrigin::Host).then(|| file.path.clone());
    let image = header.image.as_ref().map(|image| image.path.clone());
    let files = [
        ("image", moved.image.clone().or(image)),
        ("kernel", moved.kernel.clone().or_else(|| on_host(&header.kernel))),
        ("initrd", moved.initrd.clone().or_else(|| header.initrd.as_ref().and_then(on_host))),
    ];
    files.into_iter().filter_map(|(name, path)| Some((format!("{FILES_DIR}/{name}"), path?))).collect()
}

/// The digest that the header has of a file of the host.
fn recorded_digest(header: &Header, name: &str) -> Option<Digest> {
    match name.strip_prefix(FILES_DIR)? {
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

pub(super) fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    name: &str,
    size: u64,
    from: impl Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    archive.append_data(&mut header, name, from)
}

/// Appends the digest of what is there.
pub(super) fn seal(path: &Path) -> io::Result<()> {
    let digest = files::of_file(path)?;
    let mut file = File::options().append(true).open(path)?;
    file.write_all(&[SEAL.as_slice(), &digest].concat())
}
