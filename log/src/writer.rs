//! Writing a recording: sealed segment by segment while it runs, rewritten in its one canonical form when it is closed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::append::AppendFile;
use crate::bookmarks::file::Encoder;
use crate::bookmarks::{Bookmark, BookmarkError, MAX_BOOKMARKS};
use crate::canonical;
use crate::codec::Track;
use crate::directory;
use crate::edit::{self, Locked};
use crate::error::OpenError;
use crate::event::{Body, Event};
use crate::header::Header;
use crate::lock::{self, Lock};
use crate::position::Position;
use crate::segment::{self, Builder, MAX_EVENT, MAX_RAW};
use crate::walk::{self, SegmentEvents};
use crate::write_error::{WriteError, refused};
use crate::{BOOKMARKS_FILE, EVENTS_FILE, EVENTS_NEW_FILE, HEADER_FILE, INCOMPLETE_FILE, Sizes};

/// How a recording is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// A recording that is there is replaced, at once; files that are no part of a recording stay.
    pub overwrite: bool,
    /// What was sealed survives a loss of power too: each seal waits for the disk. Without, it survives everything but that.
    pub durable: bool,
}

/// A recording being made. Dropped without [`Writer::close`] it is left as a killed recorder leaves it.
#[derive(Debug)]
pub struct Writer {
    dir: PathBuf,
    builder: Builder,
    events: AppendFile,
    header_crc: u32,
    header_bytes: u64,
    start: Position,
    vcpus: u32,
    durable: bool,
    book: Book,
    _lock: Lock,
}

impl Writer {
    /// As [`Writer::create_with`], not durable.
    ///
    /// # Errors
    /// As there.
    pub fn create(dir: &Path, header: &Header, overwrite: bool) -> Result<Writer, WriteError> {
        Writer::create_with(dir, header, WriteOptions { overwrite, durable: false })
    }

    /// What [`Writer::create_with`] would say now of what is in `dir`, which is not touched: for those who work long before
    /// they come to record.
    ///
    /// # Errors
    /// As there.
    pub fn check(dir: &Path, overwrite: bool) -> Result<(), WriteError> {
        directory::admit(dir, overwrite, false)
    }

    /// Starts a recording in directory `dir`, which is made, with its parents, if it is not there.
    ///
    /// # Errors
    /// [`WriteError::Exists`], [`WriteError::NotARecording`] and [`WriteError::Locked`] say that something is in the way
    /// and was not touched.
    pub fn create_with(dir: &Path, header: &Header, options: WriteOptions) -> Result<Writer, WriteError> {
        let WriteOptions { overwrite, durable } = options;
        let (encoded, header_crc) = header.encode_with_crc()?;
        let io = |what: &str, path: &Path| {
            let (what, path) = (what.to_owned(), path.to_owned());
            move |source| WriteError::Io { what, path, source }
        };
        directory::admit(dir, overwrite, false)?;
        let made = directory::missing(dir);
        fs::create_dir_all(dir).map_err(io("a recording", dir))?;
        let incomplete = dir.join(INCOMPLETE_FILE);
        let lock = lock::acquire(&incomplete)
            .map_err(io("the lock", &incomplete))?
            .ok_or_else(|| WriteError::Locked { path: dir.to_owned() })?;
        // Again, now that nobody else writes here: a whole recording may have been made in between. And nobody must change
        // the old one meanwhile.
        let header_path = dir.join(HEADER_FILE);
        let ours = || {
            directory::admit(dir, overwrite, true)?;
            match edit::lock(&header_path, false).map_err(io("the lock", &header_path))? {
                Locked::ByAnother => Err(WriteError::Locked { path: dir.to_owned() }),
                locked => Ok(locked),
            }
        };
        let _old = ours().inspect_err(|_| {
            if lock.created {
                let _ = fs::remove_file(&incomplete);
            }
        })?;
        directory::clear(dir).map_err(io("a recording in place of the old one", dir))?;

        AppendFile::create(header_path, "the header", durable)?.write("the header", &encoded)?;
        let events = AppendFile::create(dir.join(EVENTS_FILE), "events", durable)?;
        if durable {
            // The files' entries, then those of the directories that were made. Others may have made `dir` for us.
            sync(&incomplete)?;
            sync(dir)?;
            made.iter().try_for_each(|dir| sync(dir))?;
        }
        Ok(Writer {
            dir: dir.to_owned(),
            builder: Builder::new(header_crc, header.start().position),
            events,
            header_crc,
            header_bytes: encoded.len() as u64,
            start: header.start().position,
            vcpus: header.vcpus,
            durable,
            book: Book { last: header.start().position, ..Book::default() },
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

    /// Bytes written to header, events and bookmarks so far.
    pub fn bytes_written(&self) -> u64 {
        self.header_bytes + self.events.length + self.book.length()
    }

    /// Checksum of the header file: what ties the recording's other files to it.
    pub fn header_crc(&self) -> u32 {
        self.header_crc
    }

    /// Adds a bookmark, to be written with the next seal that is not before it. Positions of bookmarks do not go backwards.
    ///
    /// # Errors
    /// If there cannot be such a bookmark. It is not added then, and the writer can go on.
    pub fn bookmark(&mut self, bookmark: Bookmark) -> Result<(), WriteError> {
        bookmark.check()?;
        if bookmark.position < self.book.last {
            let (position, last) = (bookmark.position, self.book.last);
            return Err(WriteError::Backwards { kind: "bookmark", vcpu: 0, position, last });
        }
        if self.book.count >= MAX_BOOKMARKS {
            return Err(BookmarkError::Full.into());
        }
        self.book.count += 1;
        self.book.last = bookmark.position;
        self.book.waiting.push(bookmark);
        Ok(())
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
        self.events.write_segment(&mut self.builder)?;
        self.book.write(&self.dir, self.header_crc, self.durable, event.position, false)
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
        if event.vcpu == 0 && event.position < self.book.last {
            let (kind, position, last) = (event.body.name(), event.position, self.book.last);
            return Err(WriteError::Backwards { kind, vcpu: 0, position, last });
        }
        self.push(event)?;
        self.events.write_segment(&mut self.builder)?;
        self.book.write(&self.dir, self.header_crc, self.durable, event.position, true)?;

        let path = self.dir.join(EVENTS_NEW_FILE);
        let canonical = self.rewrite(&path).inspect_err(|_| {
            let _ = fs::remove_file(&path);
        })?;
        fs::rename(&path, &self.events.path).map_err(|source| WriteError::Io {
            what: "the events in their final form".to_owned(),
            path: self.events.path.clone(),
            source,
        })?;
        // Else the recording could come back without `incomplete` and with the events as they were.
        if self.durable {
            sync(&self.events.path)?;
        }
        let incomplete = self.dir.join(INCOMPLETE_FILE);
        fs::remove_file(&incomplete).map_err(|source| WriteError::Io {
            what: "that the recording is complete".to_owned(),
            path: incomplete.clone(),
            source,
        })?;
        if self.durable {
            sync(&incomplete)?;
        }
        let (header, bookmarks) = (self.header_bytes, self.book.length());
        Ok(Sizes { header, events: canonical, bookmarks, torn: 0 })
    }

    fn push(&mut self, event: &Event) -> Result<(), WriteError> {
        if self.events.broken || self.book.broken() {
            return Err(WriteError::Broken { path: self.dir.clone() });
        }
        if event.vcpu >= self.vcpus {
            return Err(WriteError::NoSuchVcpu { vcpu: event.vcpu, vcpus: self.vcpus });
        }
        self.builder.push(event).map_err(|error| refused(event, error))
    }

    /// Writes the canonical form of what was sealed to `path`; gives its length in bytes.
    fn rewrite(&self, path: &Path) -> Result<u64, WriteError> {
        let events = Sealed::new(&self.events, self.start);
        canonical::write(path, self.header_crc, self.start, self.durable, events)
    }
}

/// The bookmarks of a recording being made. There is no file before there is a bookmark.
#[derive(Debug, Default)]
struct Book {
    file: Option<(AppendFile, Encoder)>,
    /// Those set since the last seal, and those behind it.
    waiting: Vec<Bookmark>,
    /// Position of the last one, or the recording's start.
    last: Position,
    /// How many were set.
    count: usize,
}

impl Book {
    fn length(&self) -> u64 {
        self.file.as_ref().map_or(0, |(file, _)| file.length)
    }

    fn broken(&self) -> bool {
        self.file.as_ref().is_some_and(|(file, _)| file.broken)
    }

    /// Writes those up to `sealed`, and the end of the file, if it is the `end`.
    fn write(
        &mut self,
        dir: &Path,
        header_crc: u32,
        durable: bool,
        sealed: Position,
        end: bool,
    ) -> Result<(), WriteError> {
        let ready = self.waiting.partition_point(|bookmark| bookmark.position <= sealed);
        if ready == 0 && !(end && self.file.is_some()) {
            return Ok(());
        }
        let (file, encoder) = match &mut self.file {
            Some(open) => open,
            none => {
                let file = AppendFile::create(dir.join(BOOKMARKS_FILE), "bookmarks", durable)?;
                if durable {
                    sync(&file.path)?;
                }
                none.insert((file, Encoder::new(header_crc)))
            }
        };
        let mut encode = || {
            self.waiting.drain(..ready).try_for_each(|bookmark| encoder.push(&bookmark))?;
            if end { encoder.end() } else { Ok(()) }
        };
        encode().map_err(|source| WriteError::Io {
            what: "a bookmark".to_owned(),
            path: file.path.clone(),
            source,
        })?;
        file.write("bookmarks", &std::mem::take(&mut encoder.out))
    }
}

/// Makes the entry of `path` in its directory safe.
fn sync(path: &Path) -> Result<(), WriteError> {
    edit::sync_parent(path).map_err(|source| WriteError::Io {
        what: "to the disk".to_owned(),
        path: path.to_owned(),
        source,
    })
}

/// What was sealed, read back, without the seals.
struct Sealed<'a> {
    from: &'a AppendFile,
    track: Track,
    segment: Option<SegmentEvents>,
    offset: u64,
}

impl<'a> Sealed<'a> {
    fn new(from: &'a AppendFile, start: Position) -> Sealed<'a> {
        Sealed { from, track: Track::new(start), segment: None, offset: 0 }
    }

    fn advance(&mut self) -> Result<Option<Event>, OpenError> {
        let AppendFile { file, path, length, .. } = self.from;
        loop {
            if let Some(segment) = &mut self.segment {
                match segment.next(&mut self.track, path)? {
                    Some(Event { body: Body::Seal { .. }, .. }) => continue,
                    Some(event) => return Ok(Some(event)),
                    None => self.offset = segment.next_offset(),
                }
            }
            if self.offset >= *length {
                return Ok(None);
            }
            let segment = segment::read(file, self.offset, *length)
                .map_err(|fault| walk::fault(path, self.offset, fault))?;
            self.track.start_segment();
            self.segment = Some(SegmentEvents::new(segment, self.offset, false));
        }
    }
}

impl Iterator for Sealed<'_> {
    type Item = Result<Event, WriteError>;

    fn next(&mut self) -> Option<Result<Event, WriteError>> {
        self.advance().map_err(|error| WriteError::ReadBack(Box::new(error))).transpose()
    }
}
