//! Packed recordings that are used as they are: unpacked once, below the home, and kept there for the next time.
//!
//! Each is in a directory of its own, named after the pack's digest: `lock`, held by whoever uses it, exclusively by whoever
//! makes or removes it, and `recording`. What was used longest ago is removed when there are many, if nobody uses it.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use scribe_log::Store;

use super::exit::Failure;
use super::guest;
use crate::pack;
use crate::session::files::DigestCache;

/// Name of the directory below the home.
const UNPACKED: &str = ".unpacked";
/// How many are kept.
const KEPT: usize = 8;
const LOCK: &str = "lock";
const RECORDING: &str = "recording";

/// Locks of what this process uses, until it ends.
static USED: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// The directory of the recording packed in `file`.
pub(super) fn directory(store: &Store, file: &Path) -> Result<PathBuf, Failure> {
    let cannot = || format!("{}: cannot be read", guest::show(file));
    let digest = DigestCache::new(store.home()).of_file(file).with_context(cannot)?;
    let name: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let home = store.home().join(UNPACKED);
    let place = home.join(name);
    let recording = place.join(RECORDING);
    let cannot = || format!("{}: no place for what is packed in {}", guest::show(&place), guest::show(file));
    loop {
        let mut shared = lock(&place, false).with_context(cannot)?;
        if recording.is_dir() {
            // When it was used last is the time at which its lock was written.
            shared.write_all(b"x").with_context(cannot)?;
            USED.lock().unwrap_or_else(PoisonError::into_inner).push(shared);
            return Ok(recording);
        }
        drop(shared);
        let _exclusive = lock(&place, true).with_context(cannot)?;
        // Another process may have been first.
        if !recording.is_dir() {
            clear(&place).with_context(cannot)?;
            pack::unpack(file, &recording)?;
            thin(&home, &place);
        }
    }
}

/// Locks `place`, which is made if it is not there; waits for others.
fn lock(place: &Path, exclusive: bool) -> io::Result<File> {
    loop {
        fs::create_dir_all(place)?;
        let path = place.join(LOCK);
        let file = match File::options().write(true).create(true).truncate(false).open(&path) {
            // Removed between these two calls.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            other => other?,
        };
        if exclusive {
            file.lock()?
        } else {
            file.lock_shared()?
        }
        // Whoever had it may have removed it all.
        let ours = file.metadata()?;
        if path.metadata().is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
            return Ok(file);
        }
    }
}

/// Removes what a killed process left half unpacked.
fn clear(place: &Path) -> io::Result<()> {
    for entry in fs::read_dir(place)? {
        let entry = entry?;
        if entry.file_name() != LOCK {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Removes those used longest ago, but for `place` and those in use. What cannot be removed stays.
fn thin(home: &Path, place: &Path) {
    let entries = fs::read_dir(home).into_iter().flatten().flatten();
    let mut others: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path != place)
        .map(|path| (path.join(LOCK).metadata().and_then(|metadata| metadata.modified()).ok(), path))
        .collect();
    others.sort();
    let many = others.len().saturating_sub(KEPT - 1);
    for (_, path) in others.into_iter().take(many) {
        if let Err(error) = remove(&path) {
            tracing::debug!("{}: {error}", path.display());
        }
    }
}

fn remove(place: &Path) -> io::Result<()> {
    let file = match File::open(place.join(LOCK)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return fs::remove_dir(place),
        other => other?,
    };
    match file.try_lock() {
        Ok(()) => fs::remove_dir_all(place),
        Err(TryLockError::WouldBlock) => Ok(()),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(home: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(home).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_newest_are_kept_and_those_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let mut locks = Vec::new();
        for number in 10..22 {
            let place = dir.path().join(number.to_string());
            let file = lock(&place, false).unwrap();
            let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(number);
            file.set_modified(time).unwrap();
            fs::create_dir(place.join(RECORDING)).unwrap();
            fs::write(place.join(RECORDING).join("header"), "x").unwrap();
            if number == 11 {
                locks.push(file);
            }
        }
        thin(dir.path(), &dir.path().join("10"));
        assert_eq!(names(dir.path()), ["10", "11", "15", "16", "17", "18", "19", "20", "21"]);
        locks.clear();
        thin(dir.path(), &dir.path().join("10"));
        assert_eq!(names(dir.path()), ["10", "15", "16", "17", "18", "19", "20", "21"]);
    }

    #[test]
    fn half_of_something_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("a");
        let _lock = lock(&place, true).unwrap();
        fs::create_dir_all(place.join(".tmp123/files")).unwrap();
        clear(&place).unwrap();
        assert_eq!(names(&place), ["lock"]);
    }
}
