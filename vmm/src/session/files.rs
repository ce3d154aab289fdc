//! The files a guest is made of, identified by their BLAKE3 digests.
//!
//! Hashing an image takes seconds, so its digest is remembered under its device, inode, size and times. A file that is
//! changed in place without any of those changing is taken for the same file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A digest of a file.
pub type Digest = [u8; 32];

/// Digest of bytes.
pub fn of_bytes(bytes: &[u8]) -> Digest {
    *blake3::hash(bytes).as_bytes()
}

/// Digest of the file at `path`, all of it read.
///
/// # Errors
/// It cannot be read.
pub fn of_file(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(*hasher.finalize().as_bytes()),
            count => hasher.update(&buffer[..count]),
        };
    }
}

/// What a remembered digest depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    /// modification and change time: seconds and nanoseconds each
    times: [i64; 4],
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    identity: Identity,
    digest: Digest,
}

/// Digests remembered in a file of the recordings' home.
#[derive(Debug)]
pub struct DigestCache {
    path: PathBuf,
    /// what is remembered is not believed
    fresh: bool,
}

impl DigestCache {
    /// Most files remembered.
    const MOST: usize = 64;

    /// The cache in directory `home`. A cache that cannot be read or written only costs time.
    pub fn new(home: &Path) -> Self {
        Self { path: home.join("image-digests.json"), fresh: false }
    }

    /// The same cache for those who want every file read, whatever is remembered of it.
    pub fn fresh(&self) -> Self {
        Self { path: self.path.clone(), fresh: true }
    }

    /// Digest of the file at `path`, remembered or computed.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn of_file(&self, path: &Path) -> io::Result<Digest> {
        let name = path.canonicalize()?.to_string_lossy().into_owned();
        let identity = identity(path)?;
        let mut entries = self.load();
        if let Some(entry) = entries.get(&name).filter(|entry| entry.identity == identity && !self.fresh) {
            return Ok(entry.digest);
        }
        let digest = of_file(path)?;
        // A file that changed while it was read has no digest worth remembering.
        if identity == self::identity(path)? {
            if entries.len() >= Self::MOST {
                entries.clear();
            }
            entries.insert(name, Entry { identity, digest });
            self.store(&entries);
        }
        Ok(digest)
    }

    fn load(&self) -> BTreeMap<String, Entry> {
        std::fs::read(&self.path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    fn store(&self, entries: &BTreeMap<String, Entry>) {
        let write = || -> io::Result<()> {
            let directory = self.path.parent().unwrap_or(Path::new("."));
            std::fs::create_dir_all(directory)?;
            let file = tempfile::NamedTempFile::new_in(directory)?;
            serde_json::to_writer(&file, entries)?;
            file.persist(&self.path)?;
            Ok(())
        };
        if let Err(error) = write() {
            tracing::debug!("{}: {error}", self.path.display());
        }
    }
}

fn identity(path: &Path) -> io::Result<Identity> {
    let m = std::fs::metadata(path)?;
    Ok(Identity {
        device: m.dev(),
        inode: m.ino(),
        size: m.size(),
        times: [m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_remembered_until_the_file_changes() {
        let dir = tempfile::tempdir().unwrap();
        let cache = DigestCache::new(dir.path());
        let path = dir.path().join("image");
        std::fs::write(&path, b"one").unwrap();
        assert_eq!(cache.of_file(&path).unwrap(), of_bytes(b"one"));
        assert_eq!(cache.load().len(), 1);
        assert_eq!(cache.of_file(&path).unwrap(), of_bytes(b"one"));
        std::fs::write(&path, b"other").unwrap();
        assert_eq!(cache.of_file(&path).unwrap(), of_bytes(b"other"));
        std::fs::write(dir.path().join("image-digests.json"), b"garbage").unwrap();
        assert_eq!(cache.of_file(&path).unwrap(), of_bytes(b"other"));
        assert!(cache.of_file(&dir.path().join("none")).is_err());
        // Nobody has changed the file, but what is remembered is wrong.
        let mut entries = cache.load();
        entries.values_mut().for_each(|entry| entry.digest = [0; 32]);
        cache.store(&entries);
        assert_eq!(cache.of_file(&path).unwrap(), [0; 32]);
        assert_eq!(cache.fresh().of_file(&path).unwrap(), of_bytes(b"other"));
        assert_eq!(cache.of_file(&path).unwrap(), of_bytes(b"other"));
    }
}
