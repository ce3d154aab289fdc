//! Where recordings live when the user names no directory.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

/// Name of the symbolic link to the newest recording.
pub const LATEST: &str = "latest";

/// Why no place for recordings, or no recording, was found.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing says where the home of recordings is.
    #[error("no place for recordings: neither $SCRIBE_VMM_HOME nor $HOME is set")]
    NoHome,
    /// No recording was made yet.
    #[error("no recording in {} yet", home.display())]
    NoLatest {
        /// The home of recordings.
        home: PathBuf,
    },
    /// The newest recording was removed.
    #[error("the latest recording, {}, is gone", path.display())]
    LatestGone {
        /// What the link points to.
        path: PathBuf,
    },
    /// There is no recording of that name.
    #[error("{}: no such recording, nor in {}", name.display(), home.display())]
    Missing {
        /// The name that was given.
        name: PathBuf,
        /// The home of recordings.
        home: PathBuf,
    },
    /// The host refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What failed.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The host's reason.
        source: io::Error,
    },
}

/// The home of recordings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    home: PathBuf,
}

impl Store {
    /// The home: `explicit` if given, else `$SCRIBE_VMM_HOME`, else `~/.local/share/scribe-vmm`. An empty variable counts
    /// as not set. `env` looks a variable up; the program passes `|name| std::env::var_os(name)`. Nothing is made.
    ///
    /// # Errors
    /// [`StoreError::NoHome`].
    pub fn locate(
        explicit: Option<&Path>,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Store, StoreError> {
        let set = |name| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = explicit
            .map(Path::to_owned)
            .or_else(|| set("SCRIBE_VMM_HOME"))
            .or_else(|| set("HOME").map(|home| home.join(".local/share/scribe-vmm")))
            .ok_or(StoreError::NoHome)?;
        Ok(Store { home })
    }

    /// The home of recordings.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Makes an empty directory for a new recording of `image`: `STEM-N` in the home, N one above the highest there,
    /// counted from 1. Two callers at once get two directories.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn reserve(&self, image: &Path) -> Result<PathBuf, StoreError> {
        fs::create_dir_all(&self.home).map_err(self.io("create", &self.home))?;
        let mut prefix = image.file_stem().unwrap_or(OsStr::new("recording")).to_owned();
        prefix.push("-");
        let mut highest = 0u64;
        for entry in fs::read_dir(&self.home).map_err(self.io("read", &self.home))? {
            let name = entry.map_err(self.io("read", &self.home))?.file_name();
            let number = name.as_encoded_bytes().strip_prefix(prefix.as_encoded_bytes());
            let number =
                number.and_then(|digits| str::from_utf8(digits).ok()).and_then(|digits| digits.parse().ok());
            highest = highest.max(number.unwrap_or(0));
        }
        loop {
            highest = highest.saturating_add(1);
            let mut name = prefix.clone();
            name.push(highest.to_string());
            let path = self.home.join(name);
            match fs::create_dir(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists && highest < u64::MAX => {}
                other => return other.map_err(self.io("create", &path)).map(|()| path),
            }
        }
    }

    /// Points `latest` to `recording`, in one step: at no time is the link missing or half written.
    ///
    /// # Errors
    /// If the link cannot be made.
    pub fn set_latest(&self, recording: &Path) -> Result<(), StoreError> {
        let latest = self.home.join(LATEST);
        fs::create_dir_all(&self.home).map_err(self.io("create", &self.home))?;
        let target = match recording.strip_prefix(&self.home) {
            // Relative, so that the home can be moved.
            Ok(inside) if !inside.as_os_str().is_empty() => inside.to_owned(),
            _ => std::path::absolute(recording).map_err(self.io("find", recording))?,
        };
        // A name of this process's own; one that is there is the rest of a killed process of the same number.
        let temporary = self.home.join(format!(".{LATEST}-{}", std::process::id()));
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => other.map_err(self.io("remove", &temporary))?,
        }
        symlink(target, &temporary).map_err(self.io("create", &temporary))?;
        fs::rename(&temporary, &latest).map_err(|source| {
            let _ = fs::remove_file(&temporary);
            StoreError::Io { action: "replace", path: latest, source }
        })
    }

    /// The directory of the recording the user means: `latest` for `None`; else that path, or the recording of that name
    /// in the home. Whether it is a recording is for [`crate::Recording::open`] to say.
    ///
    /// # Errors
    /// If there is none.
    pub fn resolve(&self, name: Option<&Path>) -> Result<PathBuf, StoreError> {
        let Some(name) = name else { return self.latest() };
        let in_home = self.home.join(name);
        let mut components = name.components();
        let bare = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
        if !name.is_dir() && bare && in_home.is_dir() {
            return Ok(in_home);
        }
        // Not exists(): a path that may not be looked at should be reported as that, by the one who opens it.
        match name.symlink_metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(StoreError::Missing { name: name.to_owned(), home: self.home.clone() })
            }
            _ => Ok(name.to_owned()),
        }
    }

    fn latest(&self) -> Result<PathBuf, StoreError> {
        let link = self.home.join(LATEST);
        let target = match fs::read_link(&link) {
            Ok(target) => self.home.join(target),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(StoreError::NoLatest { home: self.home.clone() });
            }
            Err(source) => {
                return Err(StoreError::Io { action: "read", path: link, source });
            }
        };
        if target.is_dir() { Ok(target) } else { Err(StoreError::LatestGone { path: target }) }
    }

    fn io(&self, action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError + use<> {
        let path = path.to_owned();
        move |source| StoreError::Io { action, path, source }
    }
}
