//! Decoding one segment's events, in order, with every check that needs no other segment.

use std::path::Path;

use crate::bytes::Input;
use crate::codec::{self, DecodeError, Track};
use crate::error::OpenError;
use crate::event::{Body, Event};
use crate::segment::{Fault, Segment};

/// The events of one segment.
#[derive(Debug)]
pub(crate) struct SegmentEvents {
    segment: Segment,
    /// Where the segment is in its file.
    offset: u64,
    /// Bytes of events used.
    used: usize,
    /// Events taken, skipped ones included.
    taken: u32,
    /// The last event taken.
    last: Last,
    /// Whether the file is closed: then there are no seals, and a segment may end with any event.
    closed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Other,
    Checkpoint,
    End,
}

impl SegmentEvents {
    pub(crate) fn new(segment: Segment, offset: u64, closed: bool) -> SegmentEvents {
        SegmentEvents { segment, offset, used: 0, taken: 0, last: Last::Other, closed }
    }

    /// Where the next segment starts.
    pub(crate) fn next_offset(&self) -> u64 {
        self.segment.next
    }

    /// Whether the recording's end was among the events taken.
    pub(crate) fn ended(&self) -> bool {
        self.last == Last::End
    }

    /// The next event that need not be skipped; `None` when all were taken and the segment's header agrees.
    pub(crate) fn next(&mut self, track: &mut Track, file: &Path) -> Result<Option<Event>, OpenError> {
        loop {
            let mut input = Input::new(&self.segment.raw[self.used..]);
            if input.len() == 0 {
                return self.finish(track, file).map(|()| None);
            }
            if self.ended() {
                return Err(self.corrupt(file, "an event follows the end"));
            }
            let decoded = codec::decode(track, &mut input).map_err(|error| match error {
                DecodeError::Malformed(malformed) => self.corrupt(file, malformed.0),
                DecodeError::Unknown { kind, position } => {
                    OpenError::UnknownEvent { file: file.to_owned(), kind, position }
                }
            })?;
            self.used = self.segment.raw.len() - input.len();
            self.taken = self.taken.saturating_add(1);
            self.last = match decoded.as_ref().map(|event| &event.body) {
                Some(Body::End(_)) => Last::End,
                Some(Body::Checkpoint { .. }) => Last::Checkpoint,
                Some(Body::Seal { .. }) if self.closed => {
                    return Err(self.corrupt(file, "it is a seal, in a closed recording"));
                }
                Some(Body::Seal { .. }) => Last::Checkpoint,
                _ => Last::Other,
            };
            if decoded.is_some() {
                return Ok(decoded);
            }
        }
    }

    fn finish(&self, track: &Track, file: &Path) -> Result<(), OpenError> {
        let head = &self.segment.head;
        if self.taken != head.events {
            return Err(OpenError::corrupt(file, self.offset, "the segment's number of events is wrong"));
        }
        if track.exit() != head.end_exit {
            return Err(OpenError::corrupt(file, self.offset, "the segment does not end where it says"));
        }
        if !self.closed && self.last == Last::Other {
            return Err(OpenError::corrupt(file, self.offset, "the segment does not end with a checkpoint"));
        }
        Ok(())
    }

    fn corrupt(&self, file: &Path, what: &str) -> OpenError {
        let what = format!("event {} of segment {}: {what}", self.taken, self.segment.head.serial);
        OpenError::corrupt(file, self.offset, what)
    }
}

/// The error for a segment that should be whole.
pub(crate) fn fault(file: &Path, offset: u64, fault: Fault) -> OpenError {
    match fault {
        Fault::Torn(what) | Fault::Wrong(what) => OpenError::corrupt(file, offset, what),
        Fault::Io(error) => OpenError::io("read", file)(error),
    }
}
