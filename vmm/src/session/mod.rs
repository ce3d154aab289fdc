//! Record, replay, run: the only place that knows which of them is happening.
//!
//! [`drive`] takes the machine from sync point to sync point and asks a [`Policy`] what comes from outside there:
//! [`live`] takes it from the host (and, when recording, has a [`journal`] write it down), [`replay`] from the log.

pub mod choice;
pub mod config;
pub mod console;
pub mod divergence;
pub mod files;
pub mod journal;
pub mod live;
pub mod replay;
pub mod start;
#[cfg(test)]
mod tests;

use scribe_log::{EndCause, OpenError, WriteError};

use crate::engine::Progress;
use crate::machine::{Machine, MachineError, Step};
use console::Console;
use divergence::Divergence;

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

    /// The engine was kicked while the guest ran.
    ///
    /// # Errors
    /// The session cannot go on.
    fn kicked(&mut self, machine: &mut Machine) -> Result<Flow, SessionError>;

    /// The machine has ended.
    ///
    /// # Errors
    /// The end could not be written, or is not the recorded one.
    fn finish(&mut self, machine: &mut Machine, cause: &EndCause, place: Place) -> Result<(), SessionError>;
}

/// Runs `machine` under `policy` to its end.
///
/// # Errors
/// Failures of the host or of the log, and divergences.
pub fn drive(
    machine: &mut Machine,
    policy: &mut dyn Policy,
    console: &mut Console,
) -> Result<EndCause, SessionError> {
    let ended = until_end(machine, policy, console);
    // What happened to the guest matters more than what happened to its console.
    let shown = console.write(&machine.take_output()).and_then(|()| console.flush());
    let (cause, place) = ended?;
    policy.finish(machine, &cause, place)?;
    shown?;
    Ok(cause)
}

fn until_end(
    machine: &mut Machine,
    policy: &mut dyn Policy,
    console: &mut Console,
) -> Result<(EndCause, Place), SessionError> {
    loop {
        if let Flow::End(cause) = policy.at_sync_point(machine)? {
            return Ok((cause, Place::Position));
        }
        machine.settle()?;
        while machine.is_halted() {
            if !machine.can_wake() {
                return Ok((EndCause::HaltedForever, Place::Position));
            }
            console.flush()?;
            if let Flow::End(cause) = policy.idle(machine, machine.next_wake())? {
                return Ok((cause, Place::Position));
            }
            machine.settle()?;
        }
        loop {
            match machine.step(policy.until(machine))? {
                Step::SyncPoint => break,
                Step::Kicked => {
                    if let Flow::End(cause) = policy.kicked(machine)? {
                        return Ok((cause, Place::Beyond));
                    }
                }
                Step::Ended(cause) => return Ok((cause.clone(), place_of(&cause))),
            }
        }
        console.write(&machine.take_output())?;
    }
}

/// A guest that ends itself by an exit is at that exit's position; a fault comes somewhere behind the last one.
fn place_of(cause: &EndCause) -> Place {
    match cause {
        EndCause::TripleFault { .. } | EndCause::RefusedInstruction { .. } => Place::Beyond,
        _ => Place::Position,
    }
}
