//! Record, replay, run: the only place that knows which of them is happening.
//!
//! A [`Driver`](drive::Driver) takes the machine from sync point to sync point and asks a [`Policy`] what comes from outside there:
//! [`live`] takes it from the host (and, when recording, has a [`journal`] write it down), [`replay`] from the log.

pub mod branch;
pub mod capture;
pub mod choice;
pub mod config;
pub mod console;
pub mod divergence;
pub mod drive;
pub mod files;
pub mod hold;
pub mod journal;
pub mod live;
pub mod marks;
pub mod network;
pub mod place;
pub mod player;
pub mod replay;
pub mod snapshot;
pub mod start;
#[cfg(test)]
pub(crate) mod tests;
pub mod verify;

use scribe_log::{EndCause, OpenError, Position, WriteError};

use crate::engine::Progress;
use crate::machine::capture::CaptureError;
use crate::machine::{Machine, MachineError};
use divergence::Divergence;
use snapshot::SnapError;

/// Why a session ended without an outcome.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The machine failed on the host's side.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The recording cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The recording cannot be read.
    #[error(transparent)]
    Read(#[from] OpenError),
    /// The replay is not what was recorded.
    #[error("{0}")]
    Diverged(Box<Divergence>),
    /// A snapshot cannot be taken.
    #[error(transparent)]
    Snapshot(#[from] SnapError),
    /// A captured sync point of the recording cannot be used.
    #[error("{position}: the captured sync point in the recording cannot be used: {source}")]
    Capture {
        /// where it is
        position: Position,
        /// why not
        source: CaptureError,
    },
    /// Reading console input or writing the console failed.
    #[error("{what}: {source}")]
    Io {
        /// what was read or written
        what: &'static str,
        /// errno
        source: std::io::Error,
    },
}

/// What a policy decides at a sync point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flow {
    /// go on
    Continue,
    /// the machine ends here
    End(EndCause),
    /// the driver gives the machine back as it is
    Pause,
}

/// Where the machine's state is when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// at the position: everything can be digested
    Position,
    /// somewhere behind the position, in the middle of what the guest did: only what is known of the position counts
    Beyond,
}

/// Where inputs come from, and where events go.
pub trait Policy {
    /// At a sync point, before time passes there: inputs, checks, notes.
    ///
    /// # Errors
    /// The session cannot go on.
    fn at_sync_point(&mut self, machine: &mut Machine) -> Result<Flow, SessionError>;

    /// The guest is halted and no interrupt is pending. Moves time to `deadline` (the next thing a device does by
    /// itself), or to an input that comes before it, or ends.
    ///
    /// # Errors
    /// The session cannot go on.
    fn idle(&mut self, machine: &mut Machine, deadline: Option<u64>) -> Result<Flow, SessionError>;

    /// A place behind the last exit at which the guest must stop, if it comes there before its next exit. There is an event
    /// at that position, so that a replay stops there too.
    fn until(&mut self, machine: &Machine) -> Option<Progress>;

    /// Where to pause, if that is ahead: the guest is stopped as it comes there, before anything happens, and notices
    /// nothing.
    fn pause(&mut self, _machine: &Machine) -> Option<Position> {
        None
    }

    /// The engine was kicked while the guest ran.
    ///
    /// # Errors
    /// The session cannot go on.
    fn kicked(&mut self, machine: &mut Machine) -> Result<Flow, SessionError>;

    /// Brings the machine, which is about to run from its sync point, to the next one, if that is a captured one of a
    /// recording. True if it is there.
    ///
    /// # Errors
    /// The session cannot go on.
    fn leap(&mut self, _machine: &mut Machine) -> Result<bool, SessionError> {
        Ok(false)
    }

    /// After a kick: makes a sync point of the place where the guest is, if one is due there. True if it has.
    ///
    /// # Errors
    /// The session cannot go on.
    fn capture(&mut self, _machine: &mut Machine) -> Result<bool, SessionError> {
        Ok(false)
    }

    /// The machine has ended.
    ///
    /// # Errors
    /// The end could not be written, or is not the recorded one.
    fn finish(&mut self, machine: &mut Machine, cause: &EndCause, place: Place) -> Result<(), SessionError>;
}
