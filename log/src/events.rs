//! Going through a recording's events, from its start or from any position.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use crate::codec::Track;
use crate::error::OpenError;
use crate::event::Event;
use crate::index::IndexEntry;
use crate::position::Position;
use crate::segment::{self, Link};
use crate::walk::{self, SegmentEvents};

/// What the iterators need.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    pub(crate) index: Vec<IndexEntry>,
    /// Where the last whole segment ends.
    pub(crate) end: u64,
    /// Whether there is an index in the file: it was written by closing.
    pub(crate) closed: bool,
    /// Where vCPU 0 starts.
    pub(crate) start: Position,
    pub(crate) first: Link,
    /// Header checksum of the last segment, or of the header file if there is none.
    pub(crate) last_crc: u32,
    pub(crate) vcpus: u32,
}

/// The last event, from the last segment alone.
pub(crate) fn last_event(shared: &Shared) -> Result<Option<Event>, OpenError> {
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
/// goes backwards and that the end is the last event. After an error there is nothing more. From a position in the middle
/// the same, but for what only the segments before it can show: their own bytes, and for each vCPU its first event's
/// order and that it is not before one of those.
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
    /// Events before the first one of vCPU 0 that is at or behind this are not given.
    from: Option<Position>,
    ended: bool,
    done: bool,
}

impl Events {
    /// All events.
    pub(crate) fn all(shared: &Arc<Shared>) -> Events {
        let track = Track::new(shared.start);
        Events {
            shared: Arc::clone(shared),
            segment: None,
            number: 0,
            offset: 0,
            link: shared.first,
            track,
            from: None,
            ended: false,
            done: false,
        }
    }

    /// Those from the first event of vCPU 0 at or behind `from`. Segments that end before it are not read.
    pub(crate) fn from(shared: &Arc<Shared>, from: Position) -> Result<Events, OpenError> {
        let mut events = Events { from: Some(from), ..Events::all(shared) };
        let number = shared.index.partition_point(|entry| entry.end_exit < from.exit);
        // Without a segment that reaches it nothing is to be given, and the last one says so.
        let number = number.min(shared.index.len().saturating_sub(1));
        let Some((entry, before)) = shared.index.get(number).zip(shared.index[..number].last()) else {
            return Ok(events);
        };
        // The header of the segment before is enough to go on with the chain.
        let head = segment::read_head(&shared.file, before.offset, shared.end)
            .map_err(|fault| walk::fault(&shared.path, before.offset, fault))?;
        events.number = number;
        events.offset = entry.offset;
        events.link = Link { serial: number as u64, previous: head.crc, start_exit: entry.start_exit };
        events.track = Track::alone(entry.start_exit);
        Ok(events)
    }

    fn advance(&mut self) -> Result<Option<Event>, OpenError> {
        let shared = &*self.shared;
        loop {
            if let Some(segment) = &mut self.segment {
                if let Some(event) = segment.next(&mut self.track, &shared.path)? {
                    if event.vcpu >= shared.vcpus {
                        let what = format!("an event of vCPU {}, of {}", event.vcpu, shared.vcpus);
                        return Err(OpenError::corrupt(&shared.path, self.offset, what));
                    }
                    if self.from.is_some_and(|from| event.vcpu != 0 || event.position < from) {
                        continue;
                    }
                    self.from = None;
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
