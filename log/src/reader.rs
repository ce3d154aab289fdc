//! Reading a recording, and telling a closed one from a running, a killed and a damaged one.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::bookmarks::file::BookFile;
use crate::bookmarks::{self, Bookmark, BookmarkList};
use crate::error::OpenError;
use crate::event::{Body, Event};
use crate::events::{self, Events, Shared};
use crate::header::{self, Header, HeaderFile, Start};
use crate::index::{self, IndexEntry};
use crate::lock::{self, Holder};
use crate::position::Position;
use crate::segment::{self, Fault, Link};
use crate::swap::{self, Fit};
use crate::walk;
use crate::{EVENTS_FILE, HEADER_FILE, INCOMPLETE_FILE, Sizes};

/// Whether a recording is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It was closed.
    Complete,
    /// Its recorder was killed: it ends at the last sealed position.
    Crashed,
    /// Its recorder lives: what was sealed when it was opened can be read.
    Running,
}

/// A recording, open for reading. It keeps what it had when it was opened, even if the files are replaced.
#[derive(Debug)]
pub struct Recording {
    dir: PathBuf,
    state: State,
    header: Header,
    header_crc: u32,
    /// Whether its header is not in its place yet.
    pending: bool,
    book: Option<BookFile>,
    sizes: Sizes,
    last: Option<Event>,
    shared: Arc<Shared>,
}

/// What a walk over the segments found.
struct Extent {
    index: Vec<IndexEntry>,
    end: u64,
    last_crc: u32,
    closed: bool,
    /// Bytes of the file that count.
    used: u64,
}

impl Recording {
    /// Opens the recording in directory `dir`.
    ///
    /// Reads the index and the last segment of a closed recording, all segments' checksums of another. What is between
    /// is checked by [`Recording::events`].
    ///
    /// # Errors
    /// A variant of [`OpenError`] for each way in which it is no recording that this program can read.
    pub fn open(dir: &Path) -> Result<Recording, OpenError> {
        // What one sees of a recording whose files are being replaced can be of before and of after.
        let mut left = 3;
        loop {
            left -= 1;
            let (recording, whole) = Recording::look(dir)?;
            if whole || left == 0 {
                return Ok(recording);
            }
        }
    }

    /// Opens it, and tells whether its files go together as far as it looked.
    fn look(dir: &Path) -> Result<(Recording, bool), OpenError> {
        match dir.metadata() {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(OpenError::NotARecording { path: dir.to_owned() }),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(OpenError::Missing { path: dir.to_owned() });
            }
            Err(error) => return Err(OpenError::io("open", dir)(error)),
        }
        // Before the events: a recorder that closes meanwhile replaces those first, then removes this.
        let incomplete = dir.join(INCOMPLETE_FILE);
        let state = match lock::holder(&incomplete).map_err(OpenError::io("lock", &incomplete))? {
            Holder::NoFile => State::Complete,
            Holder::Dead => State::Crashed,
            Holder::Alive => State::Running,
        };
        let header_path = dir.join(HEADER_FILE);
        let header = match header::read(&header_path) {
            Err(OpenError::NotARecording { .. }) => {
                return Err(OpenError::NotARecording { path: dir.to_owned() });
            }
            Err(OpenError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Err(match state {
                    State::Complete => OpenError::NotARecording { path: dir.to_owned() },
                    _ => OpenError::corrupt(&header_path, 0, "it was not written yet"),
                });
            }
            other => other?,
        };
        let path = dir.join(EVENTS_FILE);
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(OpenError::corrupt(&path, 0, "the file is missing"));
            }
            other => other.map_err(OpenError::io("open", &path))?,
        };
        let length = file.metadata().map_err(OpenError::io("read", &path))?.len();
        let (header, fit) = swap::choose(dir, header, &file, length);
        let HeaderFile { header, crc: header_crc, length: header_length } = header;
        let start = header.start().position;
        let first = Link::first(header_crc, start);
        let extent = match index::read(&file, length).map_err(OpenError::io("read", &path))? {
            Some(footer) => Extent {
                index: footer.entries,
                end: footer.start,
                last_crc: footer.last_crc,
                closed: true,
                used: length,
            },
            None if state == State::Complete => {
                return Err(OpenError::corrupt(&path, length, "the file is truncated: its index is missing"));
            }
            None => scan(&file, &path, length, first)?,
        };
        if let Err(offset) = index::check(&extent.index, first.start_exit) {
            return Err(OpenError::corrupt(
                &path,
                offset,
                "a segment does not start where the one before it ended",
            ));
        }
        let shared = Shared {
            path,
            file,
            index: extent.index,
            end: extent.end,
            closed: extent.closed,
            start,
            first,
            last_crc: extent.last_crc,
            vcpus: header.vcpus,
        };
        let last = events::last_event(&shared)?;
        if shared.closed && !last.as_ref().is_some_and(|event| matches!(event.body, Body::End(_))) {
            return Err(OpenError::corrupt(&shared.path, shared.end, "the end is missing"));
        }
        let book = bookmarks::file::find(dir, header_crc)?;
        let whole = fit != Fit::Not && swap::fits(book.as_ref(), header_crc)?;
        let bookmarks = match &book {
            Some(book) => book.file.metadata().map_err(OpenError::io("read", &book.path))?.len(),
            None => 0,
        };
        let recording = Recording {
            dir: dir.to_owned(),
            pending: fit == Fit::Pending,
            state,
            header,
            header_crc,
            book,
            sizes: Sizes {
                header: header_length,
                events: extent.used,
                bookmarks,
                torn: length - extent.used,
            },
            last,
            shared: Arc::new(shared),
        };
        Ok((recording, whole))
    }

    /// The directory it was opened from.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether it was closed when it was opened.
    pub fn state(&self) -> State {
        self.state
    }

    /// Its configuration.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Where it begins, and guest time there. [`Recording::events`] has nothing before it.
    pub fn start(&self) -> Start {
        self.header.start()
    }

    /// All events from its start. Independent of this recording's life; any number may be used at once.
    pub fn events(&self) -> Events {
        Events::all(&self.shared)
    }

    /// The events from the first one of vCPU 0 at or behind `from`, in the order of the file: what a replay that starts
    /// there needs. The index tells where to begin, so it takes as long wherever that is. Events of other vCPUs count as
    /// behind it if they are behind that event in the file.
    ///
    /// What is skipped is not checked: [`Recording::events`] checks all.
    ///
    /// # Errors
    /// If the file cannot be read where the events begin.
    pub fn events_from(&self, from: Position) -> Result<Events, OpenError> {
        Events::from(&self.shared, from)
    }

    /// The last event: [`Body::End`] in a complete recording, else usually the [`Body::Seal`] or [`Body::Checkpoint`]
    /// of the last segment, and `None` if nothing was sealed.
    pub fn last(&self) -> Option<&Event> {
        self.last.as_ref()
    }

    /// Where the recording ends, and the rolling digest of the registers there. `None` if nothing was sealed.
    pub fn sealed_end(&self) -> Option<(Position, u64)> {
        let last = self.last.as_ref()?;
        Some((last.position, last.body.registers()?))
    }

    /// Guest time (ns) where the recording ends. `None` if nothing was sealed, or the last event does not say.
    pub fn end_time(&self) -> Option<u64> {
        match &self.last.as_ref()?.body {
            Body::End(end) => Some(end.guest_time),
            Body::Seal { guest_time, .. } => Some(*guest_time),
            Body::Checkpoint { full, .. } => full.map(|full| full.guest_time),
            _ => None,
        }
    }

    /// All bookmarks: those that the guest set, for which it reads all events, and the others.
    ///
    /// # Errors
    /// As reading the events, and if the bookmarks file is damaged or another recording's.
    pub fn bookmarks(&self) -> Result<BookmarkList, OpenError> {
        let (guests, others) = self.bookmarks_apart()?;
        Ok(BookmarkList::new(&guests, &others))
    }

    /// The guest's bookmarks, and the others.
    pub(crate) fn bookmarks_apart(&self) -> Result<(Vec<Bookmark>, Vec<Bookmark>), OpenError> {
        let mut guests = Vec::new();
        for event in self.events() {
            guests.extend(Bookmark::of_event(event?));
        }
        let Some(book) = &self.book else {
            return Ok((guests, Vec::new()));
        };
        let mut others = bookmarks::file::read(book, self.header_crc, self.state == State::Complete)?;
        let (start, end) = (self.start().position, self.last.as_ref().map(|event| event.position));
        // Bookmarks of a killed recorder can have come to the disk before the events that they are behind.
        if self.state != State::Complete {
            others.retain(|bookmark| end.is_some_and(|end| bookmark.position <= end));
        }
        match others.iter().find(|it| it.position < start || end.is_none_or(|end| it.position > end)) {
            None => Ok((guests, others)),
            Some(Bookmark { name, position, .. }) => {
                let what = format!("bookmark {name} is at {position}, outside the recording");
                Err(OpenError::corrupt(&book.path, 0, what))
            }
        }
    }

    /// Whether someone was killed, or is at work, between replacing its events and its header.
    pub(crate) fn is_pending(&self) -> bool {
        self.pending
    }

    /// Checksum of the header file.
    pub fn header_crc(&self) -> u32 {
        self.header_crc
    }

    /// Bytes on disk.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Its segments, in order.
    pub fn index(&self) -> &[IndexEntry] {
        &self.shared.index
    }
}

/// Walks over the segments of a file without an index.
fn scan(file: &File, path: &Path, length: u64, first: Link) -> Result<Extent, OpenError> {
    let mut link = first;
    let mut index = Vec::new();
    let mut offset = 0;
    while offset < length {
        match segment::read(file, offset, length) {
            Ok(segment) => {
                link = link.follow(&segment.head).map_err(|what| OpenError::corrupt(path, offset, what))?;
                index.push(IndexEntry::new(offset, &segment.head));
                offset = segment.next;
            }
            // At the end of the file that is what a killed recorder leaves. Before a good segment it is damage.
            Err(Fault::Torn(what)) => {
                let good = segment::find(file, offset + 1, length, link.serial);
                match good.map_err(OpenError::io("read", path))? {
                    Some(_) => return Err(OpenError::corrupt(path, offset, what)),
                    None => break,
                }
            }
            Err(other) => return Err(walk::fault(path, offset, other)),
        }
    }
    Ok(Extent { index, end: offset, last_crc: link.previous, closed: false, used: offset })
}
