//! Exit codes, and what comes to which.

use scribe_log::snapshots::SnapshotError;
use scribe_log::{EditError, EndCause, OpenError, StoreError};

use crate::engine::EngineError;
use crate::host::net::NetError;
use crate::machine::MachineError;
use crate::session::SessionError;
use crate::session::config::ConfigError;
use crate::session::place::PlaceError;
use crate::session::start::StartError;

/// An error: bad image, disk full, unsupported feature.
pub(super) const ERROR: u8 = 1;
/// Wrong usage.
pub(super) const USAGE: u8 = 2;
/// The replay is not what was recorded.
pub(super) const DIVERGED: u8 = 3;
/// The recording is missing, corrupt or too new, or its image has changed.
pub(super) const RECORDING: u8 = 4;
/// This host cannot do it.
pub(super) const HOST: u8 = 5;
/// The guest crashed.
pub(super) const GUEST: u8 = 6;
/// `chaos`: a run failed.
pub(super) const CAUGHT: u8 = 7;
/// `chaos`: no run failed, but not all came to their end.
pub(super) const UNFINISHED: u8 = 8;
/// Under `--return` our own errors start here: 125 + code.
const RETURN_BASE: u8 = 124;

/// A message for stderr and an exit code.
#[derive(Debug)]
pub(super) struct Failure {
    code: u8,
    error: anyhow::Error,
}

impl Failure {
    /// An error with its code.
    pub(super) fn new(code: u8, error: impl Into<anyhow::Error>) -> Self {
        Self { code, error: error.into() }
    }

    /// The same, and where it happened.
    pub(super) fn within(self, place: String) -> Self {
        Self { error: self.error.context(place), ..self }
    }

    pub(super) fn code(&self) -> u8 {
        self.code
    }

    /// The whole chain on one line, each part once.
    pub(super) fn message(&self) -> String {
        one_line(self.error.chain())
    }
}

/// The whole chain of an error on one line, each part once.
pub(super) fn one_line<'a>(chain: impl Iterator<Item = &'a (dyn std::error::Error + 'static)>) -> String {
    let mut text = String::new();
    for part in chain.map(ToString::to_string) {
        if !text.ends_with(&part) {
            if !text.is_empty() {
                text += ": ";
            }
            text += &part;
        }
    }
    text
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { code: ERROR, error }
    }
}

impl From<NetError> for Failure {
    fn from(error: NetError) -> Self {
        Self::new(HOST, error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let code = match error {
            StoreError::Missing { .. } | StoreError::NoLatest { .. } | StoreError::LatestGone { .. } => {
                RECORDING
            }
            StoreError::NoHome | StoreError::Io { .. } => ERROR,
        };
        Self::new(code, error)
    }
}

impl From<PlaceError> for Failure {
    fn from(error: PlaceError) -> Self {
        let code = match error {
            PlaceError::Read(_) => RECORDING,
            _ => ERROR,
        };
        Self::new(code, error)
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        Self::new(RECORDING, error)
    }
}

impl From<EditError> for Failure {
    fn from(error: EditError) -> Self {
        let code = match error {
            EditError::Open(_) => RECORDING,
            _ => ERROR,
        };
        Self::new(code, error)
    }
}

impl From<SnapshotError> for Failure {
    fn from(error: SnapshotError) -> Self {
        let code = match &error {
            // Nothing is wrong with the recording: it was asked for what it has not.
            SnapshotError::Missing { .. } => ERROR,
            error if error.is_damage() => RECORDING,
            _ => ERROR,
        };
        Self::new(code, error)
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let code = match &error {
            StartError::Open(_)
            | StartError::Session(SessionError::Read(_) | SessionError::Capture { .. }) => RECORDING,
            StartError::NoStart(_) | StartError::BadSnapshot { .. } => RECORDING,
            StartError::Snapshot(error) | StartError::Session(SessionError::Snapshot(error))
                if error.is_damage() =>
            {
                RECORDING
            }
            StartError::Session(SessionError::Diverged(_)) => DIVERGED,
            StartError::Config(ConfigError::Changed { .. }) => RECORDING,
            StartError::Config(
                ConfigError::KernelWithoutNote(_) | ConfigError::Engine(EngineError::Unsuitable(_)),
            )
            | StartError::Session(SessionError::Machine(MachineError::Engine(EngineError::Unsuitable(_)))) => {
                HOST
            }
            _ => ERROR,
        };
        Self::new(code, error)
    }
}

/// The program's exit code for a guest's end.
pub(super) fn of_end(cause: &EndCause) -> u8 {
    match cause {
        EndCause::Panic { .. } | EndCause::TripleFault { .. } => GUEST,
        EndCause::RefusedInstruction { .. } => HOST,
        _ => 0,
    }
}

/// Under `--return` our own codes move out of the way of the guest's.
pub(super) fn under_return(code: u8) -> u8 {
    RETURN_BASE.saturating_add(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_each_cause_once() {
        let source = std::io::Error::other("no space");
        let failure = Failure::new(ERROR, anyhow::Error::new(source).context("writing x"));
        assert_eq!(failure.message(), "writing x: no space");
    }

    #[test]
    fn our_errors_stay_above_124_under_return() {
        assert_eq!(under_return(ERROR), 125);
        assert_eq!(under_return(GUEST), 130);
    }
}
