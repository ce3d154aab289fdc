//! Reading a recording, and telling a closed one from a running, a killed and a damaged one.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::codec::Track;
use crate::error::OpenError;
use crate::event::{Body, Event};
use crate::header::{self, Header, Start};
use crate::index::{self, IndexEntry};
use crate::lock::{self, Holder};
use crate::position::Position;
use crate::segment::{self, Fault, Link};
use crate::walk::{self, SegmentEvents};
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
    sizes: Sizes,
    last: Option<Event>,
    shared: Arc<Shared>,
}

/// What the iterators need.
#[derive(Debug)]
struct Shared {
    path: PathBuf,
    file: File,
    index: Vec<IndexEntry>,
    /// Where the last whole segment ends.
    end: u64,
    /// Whether there is an index in the file: it was written by closing.
    closed: bool,
    /// Where vCPU 0 starts.
    start: Position,
    first: Link,
    /// Header checksum of the last segment, or of the header file if there is none.
    last_crc: u32,
    vcpus: u32,
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
        let (header, header_crc, header_length) = match header::read(&header_path) {
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
        let last = last_event(&shared)?;
        if shared.closed && !last.as_ref().is_some_and(|event| matches!(event.body, Body::End(_))) {
            return Err(OpenError::corrupt(&shared.path, shared.end, "the end is missing"));
        }
        Ok(Recording {
            dir: dir.to_owned(),
            state,
            header,
            sizes: Sizes { header: header_length, events: extent.used, torn: length - extent.used },
            last,
            shared: Arc::new(shared),
        })
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
        Events {
            shared: Arc::clone(&self.shared),
            segment: None,
            number: 0,
            offset: 0,
            link: self.shared.first,
            track: Track::new(self.shared.start),
            ended: false,
            done: false,
        }
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

/// The last event, from the last segment alone.
fn last_event(shared: &Shared) -> Result<Option<Event>, OpenError> {
    let Some(entry) = shared.index.last() else {
        return Ok(None);
    };
    let segment = segment::read(&shared.file, entry.offset, shared.end)
        .map_err(|fault| walk::fault(&shared.path, entry.offset, fault))?;
    let mut track = Track::alone(segment.head.start_exit);
    let mut events = SegmentEvents::new(segment, entry.offset, shared.closed);
    let mut last = None;
    while let Some(event) = events.next(&mut track, &shared.path)? {
        last = Some(event);
    }
    Ok(last)
}

/// The events of a recording, in order.
///
/// Checks everything on the way: checksums, the chain and the serial numbers of the segments, the index, that no position
/// goes backwards and that the end is the last event. After an error there is nothing more.
#[derive(Debug)]
pub struct Events {
    shared: Arc<Shared>,
    segment: Option<SegmentEvents>,
    /// Segments opened so far.
    number: usize,
    /// Where the next segment starts.
    offset: u64,
    link: Link,
    track: Track,
    ended: bool,
    done: bool,
}

impl Events {
    fn advance(&mut self) -> Result<Option<Event>, OpenError> {
        let shared = &*self.shared;
        loop {
            if let Some(segment) = &mut self.segment {
                if let Some(event) = segment.next(&mut self.track, &shared.path)? {
                    if event.vcpu >= shared.vcpus {
                        let what = format!("an event of vCPU {}, of {}", event.vcpu, shared.vcpus);
                        return Err(OpenError::corrupt(&shared.path, self.offset, what));
                    }
                    return Ok(Some(event));
                }
                self.ended = segment.ended();
                self.offset = segment.next_offset();
                self.segment = None;
            }
            let corrupt = |what: &str| OpenError::corrupt(&shared.path, self.offset, what);
            let Some(entry) = shared.index.get(self.number) else {
                if self.offset != shared.end || self.link.previous != shared.last_crc {
                    return Err(corrupt("the index does not end where the segments do"));
                }
                if shared.closed && !self.ended {
                    return Err(corrupt("the end is missing"));
                }
                return Ok(None);
            };
            if self.ended {
                return Err(corrupt("a segment follows the end"));
            }
            let segment = segment::read(&shared.file, self.offset, shared.end)
                .map_err(|fault| walk::fault(&shared.path, self.offset, fault))?;
            self.link = self.link.follow(&segment.head).map_err(corrupt)?;
            if *entry != IndexEntry::new(self.offset, &segment.head) {
                return Err(corrupt("the index does not fit the segment"));
            }
            self.number += 1;
            self.track.start_segment();
            self.segment = Some(SegmentEvents::new(segment, self.offset, shared.closed));
        }
    }
}

impl Iterator for Events {
    type Item = Result<Event, OpenError>;

    fn next(&mut self) -> Option<Result<Event, OpenError>> {
        if self.done {
            return None;
        }
        let next = self.advance().transpose();
        self.done = !matches!(next, Some(Ok(_)));
        next
    }
}
