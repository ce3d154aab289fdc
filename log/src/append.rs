//! A file that is only appended to, in wholes: after a failed write it holds what was whole before, and takes no more.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use crate::segment::{self, Builder};
use crate::write_error::WriteError;

/// The file.
#[derive(Debug)]
pub(crate) struct AppendFile {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    /// Bytes written.
    pub(crate) length: u64,
    pub(crate) broken: bool,
    /// Whether each write goes down to the disk.
    durable: bool,
}

impl AppendFile {
    /// Makes it, empty. `what` is to be in it. `durable`: each write goes down to the disk; its entry in the directory is the
    /// caller's.
    pub(crate) fn create(path: PathBuf, what: &str, durable: bool) -> Result<AppendFile, WriteError> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
        match file {
            Ok(file) => Ok(AppendFile { file, path, length: 0, broken: false, durable }),
            Err(source) => Err(WriteError::Io { what: what.to_owned(), path, source }),
        }
    }

    pub(crate) fn write_segment(&mut self, builder: &mut Builder) -> Result<segment::Head, WriteError> {
        let (bytes, head) = builder.finish().map_err(|source| {
            self.broken = true;
            WriteError::Io { what: "a segment".to_owned(), path: self.path.clone(), source }
        })?;
        self.write(&format!("exits {} to {}", head.start_exit, head.end_exit), &bytes)?;
        Ok(head)
    }

    /// Makes safe what was written.
    pub(crate) fn sync(&mut self) -> Result<(), WriteError> {
        self.file.sync_data().map_err(|source| {
            self.broken = true;
            WriteError::Io { what: "to the disk".to_owned(), path: self.path.clone(), source }
        })
    }

    /// Appends `bytes`, which are `what`.
    pub(crate) fn write(&mut self, what: &str, bytes: &[u8]) -> Result<(), WriteError> {
        match self
            .file
            .write_all(bytes)
            .and_then(|()| if self.durable { self.file.sync_data() } else { Ok(()) })
        {
            Ok(()) => {
                self.length += bytes.len() as u64;
                Ok(())
            }
            Err(source) => {
                self.broken = true;
                // Only tidies up: a reader ignores half a segment, or half a bookmark, at the end.
                let _ = self.file.set_len(self.length);
                Err(WriteError::Io { what: what.to_owned(), path: self.path.clone(), source })
            }
        }
    }
}
