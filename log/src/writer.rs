//! Writing a recording: sealed segment by segment while it runs, rewritten in its one canonical form when it is closed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::codec::{EncodeError, Track};
use crate::directory;
use crate::error::OpenError;
use crate::event::{Body, Event};
use crate::header::{EncodeHeaderError, Header};
use crate::index::{self, IndexEntry};
use crate::lock::{self, Lock};
use crate::payload::Unfit;
use crate::position::Position;
use crate::segment::{self, Builder, MAX_EVENT, MAX_RAW};
use crate::walk::{self, SegmentEvents};
use crate::{EVENTS_FILE, EVENTS_NEW_FILE, HEADER_FILE, INCOMPLETE_FILE, Sizes};

/// A closed recording's segments end with the event that brings them to this many bytes before compression.
const CANONICAL_RAW: usize = 64 * 1024;
const _: () = assert!(CANONICAL_RAW == 65_536);

/// Why a recording cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// There is a recording already.
    #[error("{}: there is a recording already; --overwrite replaces it", path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// There is something that is not a recording, so it is never replaced.
    #[error("{}: not empty and not a recording: not touched", path.display())]
    NotARecording {
        /// What is there.
        path: PathBuf,
    },
    /// Another recorder is writing there.
    #[error("{}: a recording is being made there", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The configuration does not fit into a header.
    #[error("cannot make the header")]
    Header(#[from] EncodeHeaderError),
    /// An event is before the one before it.
    #[error("{kind} of vCPU {vcpu} at {position} comes after an event at {last}")]
    Backwards {
        /// Its kind.
        kind: &'static str,
        /// Its vCPU.
        vcpu: u32,
        /// Its position.
        position: Position,
        /// Position of the vCPU's event before it.
        last: Position,
    },
    /// The data of an event is too long.
    #[error("{kind} at {position} holds {length} bytes, the limit is {limit}")]
    TooLong {
        /// Its kind.
        kind: &'static str,
        /// Its position.
        position: Position,
        /// Bytes in it.
        length: usize,
        /// Most bytes.
        limit: usize,
    },
    /// The format cannot say what an event says.
    #[error("{kind} at {position} cannot be written: {what}")]
    Invalid {
        /// Its kind.
        kind: &'static str,
        /// Its position.
        position: Position,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The header announces fewer vCPUs.
    #[error("an event of vCPU {vcpu}, of {vcpus}")]
    NoSuchVcpu {
        /// The event's.
        vcpu: u32,
        /// The header's number.
        vcpus: u32,
    },
    /// This kind of event goes through another method.
    #[error("a recording cannot {method} with {kind}")]
    Misplaced {
        /// The method called: "append", "seal" or "close".
        method: &'static str,
        /// The event's kind.
        kind: &'static str,
    },
    /// More than 16 MiB of events were appended and not sealed.
    #[error("too many events since the last seal")]
    Full,
    /// An earlier write failed; the recording ends at the last position sealed before.
    #[error("{}: an earlier write failed", path.display())]
    Broken {
        /// The directory.
        path: PathBuf,
    },
    /// The host could not write. What was sealed before can be read.
    #[error("cannot write {what} to {}", path.display())]
    Io {
        /// What could not be written.
        what: String,
        /// The file or directory.
        path: PathBuf,
        /// The host's reason.
        source: io::Error,
    },
    /// Closing could not read back what was sealed.
    #[error("cannot read back what was recorded")]
    ReadBack(#[source] Box<OpenError>),
}

/// A recording being made. Dropped without [`Writer::close`] it is left as a killed recorder leaves it.
#[derive(Debug)]
pub struct Writer {
    dir: PathBuf,
    builder: Builder,
    events: SegmentFile,
    header_crc: u32,
    header_bytes: u64,
    start: Position,
    vcpus: u32,
    _lock: Lock,
}

impl Writer {
    /// Starts a recording in directory `dir`, which is made, with its parents, if it is not there.
    ///
    /// With `overwrite` a recording that is there is replaced, at once; files that are no part of a recording stay.
    ///
    /// # Errors
    /// [`WriteError::Exists`], [`WriteError::NotARecording`] and [`WriteError::Locked`] say that something is in the way
    /// and was not touched.
    pub fn create(dir: &Path, header: &Header, overwrite: bool) -> Result<Writer, WriteError> {
        let (encoded, header_crc) = header.encode_with_crc()?;
        let io = |what: &str, path: &Path| {
            let (what, path) = (what.to_owned(), path.to_owned());
            move |source| WriteError::Io { what, path, source }
        };
        directory::admit(dir, overwrite, false)?;
        fs::create_dir_all(dir).map_err(io("a recording", dir))?;
        let incomplete = dir.join(INCOMPLETE_FILE);
        let lock = lock::acquire(&incomplete)
            .map_err(io("the lock", &incomplete))?
            .ok_or_else(|| WriteError::Locked { path: dir.to_owned() })?;
        // Again, now that nobody else writes here: a whole recording may have been made in between.
        if let Err(error) = directory::admit(dir, overwrite, true) {
            if lock.created {
                let _ = fs::remove_file(&incomplete);
            }
            return Err(error);
        }
        directory::clear(dir).map_err(io("a recording in place of the old one", dir))?;

        let header_path = dir.join(HEADER_FILE);
        fs::write(&header_path, &encoded).map_err(io("the header", &header_path))?;
        let path = dir.join(EVENTS_FILE);
        let events = SegmentFile::create(path)?;
        Ok(Writer {
            dir: dir.to_owned(),
            builder: Builder::new(header_crc, header.start().position),
            events,
            header_crc,
            header_bytes: encoded.len() as u64,
            start: header.start().position,
            vcpus: header.vcpus,
            _lock: lock,
        })
    }

    /// The directory being written.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bytes of events appended and not sealed yet, before compression.
    pub fn unsealed(&self) -> usize {
        self.builder.raw_length()
    }

    /// Bytes written to header and events so far.
    pub fn bytes_written(&self) -> u64 {
        self.header_bytes + self.events.length
    }

    /// Adds an event to those that the next [`Writer::seal`] writes. Any kind but [`Body::Seal`] and [`Body::End`].
    ///
    /// # Errors
    /// If the event cannot be where it is, or too much was appended since the last seal. The event is not added then, and
    /// the writer can go on.
    pub fn append(&mut self, event: &Event) -> Result<(), WriteError> {
        if matches!(event.body, Body::Seal { .. } | Body::End(_)) {
            return Err(WriteError::Misplaced { method: "append", kind: event.body.name() });
        }
        if self.builder.raw_length() > MAX_RAW - 2 * MAX_EVENT {
            return Err(WriteError::Full);
        }
        self.push(event)
    }

    /// Adds a [`Body::Checkpoint`] or a [`Body::Seal`] and writes all events since the last seal as one segment. What was
    /// sealed is what survives if the recorder is killed.
    ///
    /// # Errors
    /// If the file cannot be written: what was sealed before stays, this writer takes no more.
    pub fn seal(&mut self, event: &Event) -> Result<(), WriteError> {
        if !matches!(event.body, Body::Checkpoint { .. } | Body::Seal { .. }) {
            return Err(WriteError::Misplaced { method: "seal", kind: event.body.name() });
        }
        self.push(event)?;
        self.write_segment()
    }

    /// Adds the [`Body::End`], seals, and puts the recording into its canonical form, which depends on the header and the
    /// events alone and not on where it was sealed.
    ///
    /// # Errors
    /// If files cannot be written. If the end was sealed all events can be read, but the recording is not closed.
    pub fn close(mut self, event: &Event) -> Result<Sizes, WriteError> {
        if !matches!(event.body, Body::End(_)) {
            return Err(WriteError::Misplaced { method: "close", kind: event.body.name() });
        }
        self.push(event)?;
        self.write_segment()?;

        let path = self.dir.join(EVENTS_NEW_FILE);
        let canonical = self.rewrite(&path).inspect_err(|_| {
            let _ = fs::remove_file(&path);
        })?;
        fs::rename(&path, &self.events.path).map_err(|source| WriteError::Io {
            what: "the events in their final form".to_owned(),
            path: self.events.path.clone(),
            source,
        })?;
        let incomplete = self.dir.join(INCOMPLETE_FILE);
        fs::remove_file(&incomplete).map_err(|source| WriteError::Io {
            what: "that the recording is complete".to_owned(),
            path: incomplete,
            source,
        })?;
        Ok(Sizes { header: self.header_bytes, events: canonical, torn: 0 })
    }

    fn push(&mut self, event: &Event) -> Result<(), WriteError> {
        if self.events.broken {
            return Err(WriteError::Broken { path: self.dir.clone() });
        }
        if event.vcpu >= self.vcpus {
            return Err(WriteError::NoSuchVcpu { vcpu: event.vcpu, vcpus: self.vcpus });
        }
        self.builder.push(event).map_err(|error| refused(event, error))
    }

    fn write_segment(&mut self) -> Result<(), WriteError> {
        self.events.write_segment(&mut self.builder).map(|_| ())
    }

    /// Writes the canonical form of what was sealed to `path`; gives its length in bytes.
    fn rewrite(&self, path: &Path) -> Result<u64, WriteError> {
        let read_back = |error| WriteError::ReadBack(Box::new(error));
        let from = &self.events;
        let mut to = SegmentFile::create(path.to_owned())?;
        let mut builder = Builder::new(self.header_crc, self.start);
        let mut entries = Vec::new();
        let mut flush = |builder: &mut Builder, to: &mut SegmentFile| -> Result<(), WriteError> {
            let offset = to.length;
            let head = to.write_segment(builder)?;
            entries.push(IndexEntry::new(offset, &head));
            Ok(())
        };
        let mut track = Track::new(self.start);
        let mut offset = 0;
        while offset < from.length {
            let segment = segment::read(&from.file, offset, from.length)
                .map_err(|fault| read_back(walk::fault(&from.path, offset, fault)))?;
            track.start_segment();
            let mut events = SegmentEvents::new(segment, offset, false);
            while let Some(event) = events.next(&mut track, &from.path).map_err(read_back)? {
                if matches!(event.body, Body::Seal { .. }) {
                    continue;
                }
                builder.push(&event).map_err(|error| refused(&event, error))?;
                if builder.raw_length() >= CANONICAL_RAW {
                    flush(&mut builder, &mut to)?;
                }
            }
            offset = events.next_offset();
        }
        if !builder.is_empty() {
            flush(&mut builder, &mut to)?;
        }
        to.write("the index", &index::encode(&entries, builder.link().previous))?;
        Ok(to.length)
    }
}

fn refused(event: &Event, error: EncodeError) -> WriteError {
    let (kind, position) = (event.body.name(), event.position);
    match error {
        EncodeError::Backwards { last } => WriteError::Backwards { kind, vcpu: event.vcpu, position, last },
        EncodeError::Unfit(Unfit::TooLong { length, limit }) => {
            WriteError::TooLong { kind, position, length, limit }
        }
        EncodeError::Unfit(Unfit::Invalid(what)) => WriteError::Invalid { kind, position, what },
    }
}

/// A file that segments are appended to. After a failed write it holds whole segments still, and takes no more.
#[derive(Debug)]
struct SegmentFile {
    file: File,
    path: PathBuf,
    /// Bytes written.
    length: u64,
    broken: bool,
}

impl SegmentFile {
    fn create(path: PathBuf) -> Result<SegmentFile, WriteError> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
        match file {
            Ok(file) => Ok(SegmentFile { file, path, length: 0, broken: false }),
            Err(source) => Err(WriteError::Io { what: "events".to_owned(), path, source }),
        }
    }

    fn write_segment(&mut self, builder: &mut Builder) -> Result<segment::Head, WriteError> {
        let (bytes, head) = builder.finish().map_err(|source| {
            self.broken = true;
            WriteError::Io { what: "a segment".to_owned(), path: self.path.clone(), source }
        })?;
        self.write(&format!("exits {} to {}", head.start_exit, head.end_exit), &bytes)?;
        Ok(head)
    }

    fn write(&mut self, what: &str, bytes: &[u8]) -> Result<(), WriteError> {
        match self.file.write_all(bytes) {
            Ok(()) => {
                self.length += bytes.len() as u64;
                Ok(())
            }
            Err(source) => {
                self.broken = true;
                // Only tidies up: a reader ignores half a segment at the end.
                let _ = self.file.set_len(self.length);
                Err(WriteError::Io { what: what.to_owned(), path: self.path.clone(), source })
            }
        }
    }
}
