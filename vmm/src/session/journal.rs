//! What is written down while the machine is live: nothing (`run`), or a recording (`record`).

use std::cell::RefCell;
use std::rc::Rc;

use scribe_log::header::Level;
use scribe_log::{Body, End, EndCause, Event, Position, Sizes, Writer};

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

    /// The guest has been away from sync points for a while: make safe what there is.
    ///
    /// # Errors
    /// The recording cannot be written.
    fn seal(&mut self, machine: &Machine) -> Result<(), SessionError>;

    /// The end.
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

    fn end(&mut self, _machine: &mut Machine, _cause: &EndCause, _place: Place) -> Result<(), SessionError> {
        Ok(())
    }
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
    /// what the machine has told and is not written yet
    told: Rc<RefCell<Vec<Event>>>,
}

impl Recorder {
    /// Writes to `writer`; RAM is digested every `digest_every` exits (0: only at the end).
    pub fn new(writer: Writer, digest_every: u64) -> Self {
        Self {
            writer: Some(writer),
            digest_every,
            next_checkpoint: CHECKPOINT_EVERY,
            next_full: if digest_every == 0 { u64::MAX } else { digest_every },
            inputs: 0,
            sealed_at: None,
            summary: None,
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
        if matches!(body, Body::ConsoleInput { .. }) {
            self.inputs += 1;
        }
        self.append(machine, body)
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

    fn end(&mut self, machine: &mut Machine, cause: &EndCause, place: Place) -> Result<(), SessionError> {
        let full = match place {
            Place::Position => {
                machine.tell_state()?;
                Some(machine.full_digest()?)
            }
            Place::Beyond => None,
        };
        machine.tell(|observer, at| observer.ending(at));
        self.note_told(machine)?;
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
