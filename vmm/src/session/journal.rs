//! What is written down while the machine is live: nothing (`run`), or a recording (`record`).

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

use scribe_log::header::Level;
use scribe_log::snapshots::{Origin, Snapshots};
use scribe_log::{Body, Bookmark, End, EndCause, Event, Position, Sizes, WriteError, Writer};

use super::capture::Taken;
use super::drive::Stand;
use super::snapshot::{self, SnapError};
use super::{Place, SessionError};
use crate::inspect::check;
use crate::inspect::markers::Markers;
use crate::machine::Machine;
use crate::machine::observe::Moment;

/// Bytes of events after which a segment is sealed, so that no more than a few of them are in memory.
const SEAL_BYTES: usize = 4 << 20;

/// Exits between two stored values of the rolling digest.
pub const CHECKPOINT_EVERY: u64 = 1024;

/// Where a live session notes what a replay needs.
pub trait Journal {
    /// At every sync point, before its inputs. `seal`: what was written so far should become safe now.
    ///
    /// # Errors
    /// The recording cannot be written, or the machine not be digested.
    fn sync_point(&mut self, machine: &mut Machine, seal: bool) -> Result<(), SessionError>;

    /// An input at the machine's position.
    ///
    /// # Errors
    /// The recording cannot be written.
    fn input(&mut self, machine: &Machine, body: Body) -> Result<(), SessionError>;

    /// Makes a sync point of the place where the guest is, `nanoseconds` behind the last one, and notes what a replay needs
    /// to come there. `None`: that is too much, and the guest is where it was.
    ///
    /// # Errors
    /// The recording cannot be written, or the machine not be looked at.
    fn capture(&mut self, machine: &mut Machine, nanoseconds: u64) -> Result<Option<Taken>, SessionError> {
        machine.arrive_uncaptured(nanoseconds);
        Ok(Some(Taken::default()))
    }

    /// The guest has been away from sync points for a while: make safe what there is.
    ///
    /// # Errors
    /// The recording cannot be written.
    fn seal(&mut self, machine: &Machine) -> Result<(), SessionError>;

    /// True if what is noted can be read later.
    fn records(&self) -> bool;

    /// A bookmark that somebody has set.
    ///
    /// # Errors
    /// It cannot be written.
    fn bookmark(&mut self, mark: Bookmark) -> Result<(), SessionError>;

    /// A snapshot of the machine, which has just come to a sync point.
    ///
    /// # Errors
    /// It cannot be taken or written.
    fn snapshot(&mut self, machine: &Machine) -> Result<(), SessionError>;

    /// The end of what is noted; whatever comes after it is not. The machine may live on.
    ///
    /// # Errors
    /// The recording cannot be written, or the machine not be digested.
    fn end(&mut self, machine: &mut Machine, cause: &EndCause, place: Place) -> Result<(), SessionError>;
}

/// Notes nothing: `run`.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoJournal;

impl Journal for NoJournal {
    fn sync_point(&mut self, machine: &mut Machine, _seal: bool) -> Result<(), SessionError> {
        machine.take_bookmarks();
        Ok(())
    }

    fn input(&mut self, _machine: &Machine, _body: Body) -> Result<(), SessionError> {
        Ok(())
    }

    fn seal(&mut self, _machine: &Machine) -> Result<(), SessionError> {
        Ok(())
    }

    fn records(&self) -> bool {
        false
    }

    fn bookmark(&mut self, mark: Bookmark) -> Result<(), SessionError> {
        say!("nothing is recorded, so there is no bookmark {}", mark.name);
        Ok(())
    }

    fn snapshot(&mut self, _machine: &Machine) -> Result<(), SessionError> {
        Ok(())
    }

    fn end(&mut self, _machine: &mut Machine, _cause: &EndCause, _place: Place) -> Result<(), SessionError> {
        Ok(())
    }
}

/// How much is noted, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Noting {
    /// guest time (ns) between two bookmarks
    pub bookmark_every: Option<u64>,
    /// guest time (ns) between two snapshots
    pub snapshot_every: Option<u64>,
    /// what is sealed is on the host's disk
    pub durable: bool,
    /// what is noted besides what replay needs
    pub level: Level,
}

/// What a finished recording amounts to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// its end
    pub end: End,
    /// bytes on disk
    pub sizes: Sizes,
}

/// Writes a recording.
pub struct Recorder {
    writer: Option<Writer>,
    digest_every: u64,
    next_checkpoint: u64,
    next_full: u64,
    inputs: u64,
    /// position of the last seal, so that a guest that makes no exits is not sealed again and again
    sealed_at: Option<Position>,
    summary: Option<Summary>,
    snapshots: Option<Snapshots>,
    directory: PathBuf,
    header_crc: u32,
    /// bookmarks behind the last sync point: the guest may end before it comes to another
    ahead: Vec<Bookmark>,
    /// what the machine has told and is not written yet
    told: Rc<RefCell<Vec<Event>>>,
}

impl Recorder {
    /// Writes to `writer`; RAM is digested every `digest_every` exits (0: only at the end). `exits`: where the machine is.
    pub fn new(writer: Writer, digest_every: u64, exits: u64) -> Self {
        Self {
            directory: writer.dir().to_owned(),
            header_crc: writer.header_crc(),
            ahead: Vec::new(),
            writer: Some(writer),
            digest_every,
            next_checkpoint: next_multiple(exits, CHECKPOINT_EVERY),
            next_full: if digest_every == 0 { u64::MAX } else { next_multiple(exits, digest_every) },
            inputs: 0,
            sealed_at: None,
            summary: None,
            snapshots: None,
            told: Rc::default(),
        }
    }

    /// From now on also notes what `machine` does, as far as `level` says.
    ///
    /// # Errors
    /// Failures of the host.
    pub fn watch(&mut self, machine: &mut Machine, level: Level) -> Result<(), SessionError> {
        if level > Level::Inputs {
            let told = Rc::clone(&self.told);
            let markers = Markers::new(level, move |_: Moment, event| told.borrow_mut().push(event));
            check::attach(machine, Box::new(markers))?;
        }
        Ok(())
    }

    /// Writes what the machine has told since the last time.
    fn note_told(&mut self, machine: &Machine) -> Result<(), SessionError> {
        let told = std::mem::take(&mut *self.told.borrow_mut());
        for event in told {
            let Some(writer) = &mut self.writer else { return Ok(()) };
            if writer.unsealed() > SEAL_BYTES && event.position == machine.position() {
                self.write_seal(machine)?;
            }
            self.write(&event)?;
        }
        Ok(())
    }

    fn write(&mut self, event: &Event) -> Result<(), SessionError> {
        if let Some(writer) = &mut self.writer {
            writer.append(event)?;
        }
        self.sealed_at = None;
        Ok(())
    }

    fn write_seal(&mut self, machine: &Machine) -> Result<(), SessionError> {
        let body = Body::Seal { registers: machine.rolling(), guest_time: machine.guest_time() };
        if let Some(writer) = &mut self.writer {
            writer.seal(&Event::new(machine.position(), body))?;
        }
        Ok(())
    }

    fn keep_snapshot(&mut self, machine: &Machine) -> Result<(), SnapError> {
        let snapshots = match &mut self.snapshots {
            Some(open) => open,
            none => none.insert(Snapshots::open(&self.directory, self.header_crc)?),
        };
        let stand = Stand::arrived(machine.guest_time());
        snapshot::take(snapshots, machine, stand, Origin::Recorded)?;
        Ok(())
    }

    /// Hands on the bookmarks that the guest has come to. A guest that has ended without coming to a further sync point
    /// has ended at its last one, and so does the recording: there the rest of them are.
    fn set_bookmarks(&mut self, machine: &Machine) -> Result<(), SessionError> {
        let (here, now) = (machine.position(), machine.guest_time());
        for mark in self.ahead.drain(..) {
            let behind = mark.position > here;
            let mark = if behind { Bookmark { position: here, guest_time: Some(now), ..mark } } else { mark };
            if let Some(writer) = &mut self.writer {
                let name = mark.name.clone();
                match writer.bookmark(mark) {
                    Err(WriteError::Bookmark(error)) => say!("no bookmark {name}: {error}"),
                    other => other?,
                }
            }
        }
        Ok(())
    }

    /// What ties the recording's other files to it.
    pub fn header_crc(&self) -> u32 {
        self.header_crc
    }

    /// What was recorded; `None` unless the recording was closed.
    pub fn summary(&self) -> Option<&Summary> {
        self.summary.as_ref()
    }

    fn append(&mut self, machine: &Machine, body: Body) -> Result<(), SessionError> {
        self.note_told(machine)?;
        self.write(&Event::new(machine.position(), body))
    }
}

impl Journal for Recorder {
    fn sync_point(&mut self, machine: &mut Machine, seal: bool) -> Result<(), SessionError> {
        self.note_told(machine)?;
        self.set_bookmarks(machine)?;
        for name in machine.take_bookmarks() {
            self.append(machine, Body::Bookmark { name })?;
        }
        let exits = machine.exits();
        if exits >= self.next_checkpoint || exits >= self.next_full {
            let mut full = None;
            if exits >= self.next_full {
                full = Some(machine.full_digest()?);
                machine.track_dirty_pages()?;
                self.next_full = next_multiple(exits, self.digest_every);
            }
            self.next_checkpoint = next_multiple(exits, CHECKPOINT_EVERY);
            // Before the digest, so that a replay that differs is told by names.
            machine.tell_state()?;
            self.append(machine, Body::Checkpoint { registers: machine.rolling(), full })?;
        }
        if seal {
            self.seal(machine)?;
        }
        Ok(())
    }

    fn input(&mut self, machine: &Machine, body: Body) -> Result<(), SessionError> {
        if matches!(body, Body::ConsoleInput { .. } | Body::Device { .. }) {
            self.inputs += 1;
        }
        self.append(machine, body)
    }

    fn capture(&mut self, machine: &mut Machine, nanoseconds: u64) -> Result<Option<Taken>, SessionError> {
        let Some(writer) = &self.writer else {
            return NoJournal.capture(machine, nanoseconds);
        };
        let full = writer.unsealed() > SEAL_BYTES;
        let Some(prepared) = machine.prepare_capture(nanoseconds)? else { return Ok(None) };
        self.note_told(machine)?;
        if full {
            self.write_seal(machine)?; // all of a capture goes into one segment
        }
        let (pages, capture) = machine.arrive_captured(prepared)?;
        let taken = Taken { pages: capture.pages, bytes: capture.bytes };
        let bodies = pages.into_iter().map(Body::CapturePages).chain([Body::Capture(capture)]);
        for body in bodies {
            self.write(&Event::new(machine.position(), body))?;
        }
        Ok(Some(taken))
    }

    fn seal(&mut self, machine: &Machine) -> Result<(), SessionError> {
        self.note_told(machine)?;
        let here = machine.position();
        if self.sealed_at == Some(here) {
            return Ok(());
        }
        self.write_seal(machine)?;
        self.sealed_at = Some(here);
        Ok(())
    }

    fn records(&self) -> bool {
        self.writer.is_some()
    }

    fn bookmark(&mut self, mark: Bookmark) -> Result<(), SessionError> {
        match self.writer {
            Some(_) => self.ahead.push(mark),
            None => say!("the recording has ended, so there is no bookmark {}", mark.name),
        }
        Ok(())
    }

    fn snapshot(&mut self, machine: &Machine) -> Result<(), SessionError> {
        if self.writer.is_none() {
            return Ok(());
        }
        match self.keep_snapshot(machine) {
            // The recording is worth more than its snapshots: a replay that keeps one at the same time, or a disk without
            // room for this one, does not end it. A replay can take them all later.
            Err(SnapError::Files(error)) => {
                say!("no snapshot at {}: {error}; the recording goes on", machine.position());
                Ok(())
            }
            other => Ok(other?),
        }
    }

    fn end(&mut self, machine: &mut Machine, cause: &EndCause, place: Place) -> Result<(), SessionError> {
        if self.writer.is_none() {
            return Ok(());
        }
        let full = match place {
            Place::Position => {
                machine.tell_state()?;
                Some(machine.full_digest()?)
            }
            Place::Beyond => None,
        };
        machine.tell(|observer, at| observer.ending(at));
        machine.take_observer();
        self.note_told(machine)?;
        self.set_bookmarks(machine)?;
        let end = End {
            cause: cause.clone(),
            registers: machine.rolling(),
            full,
            exits: machine.exits(),
            guest_time: machine.guest_time(),
            inputs: self.inputs,
        };
        if let Some(writer) = self.writer.take() {
            let sizes = writer.close(&Event::new(machine.position(), Body::End(end.clone())))?;
            self.summary = Some(Summary { end, sizes });
        }
        Ok(())
    }
}

/// The next multiple of `step` above `value`.
fn next_multiple(value: u64, step: u64) -> u64 {
    (value / step).saturating_add(1).saturating_mul(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiples() {
        assert_eq!(next_multiple(0, 1024), 1024);
        assert_eq!(next_multiple(1024, 1024), 2048);
        assert_eq!(next_multiple(1025, 1024), 2048);
        assert_eq!(next_multiple(u64::MAX, 2), u64::MAX);
    }
}
