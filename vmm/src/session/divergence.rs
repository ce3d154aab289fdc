//! A replay that is not what was recorded: located and explained.
//!
//! Where it is found it is described by what was compared ([`Divergence::new`]). The player adds what it takes more to know:
//! the [`guest`] there, what two further replays of the interval come to ([`passes`], [`verdict`]), how recording and replay
//! differ, and from all of that the likely [`causes`]. [`text`] is the report for people; `Serialize` is that for scripts.

pub mod causes;
pub mod guest;
pub mod open;
pub mod passes;
#[cfg(test)]
mod tests;
pub mod text;
pub mod verdict;

use scribe_log::{Event, Position};
use serde::{Serialize, Serializer};

use crate::machine::Machine;
use causes::Cause;
use guest::Guest;
use verdict::Verdict;

/// What differs, where, and what came before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Divergence {
    /// last position at which replay and recording agreed
    #[serde(serialize_with = "position")]
    pub agreed: Position,
    /// the last exit that was equal, if each was compared
    #[serde(serialize_with = "optional_position")]
    pub last_exit: Option<Position>,
    /// position at which they were found to differ
    #[serde(serialize_with = "position")]
    pub found_at: Position,
    /// what was compared
    pub what: String,
    /// its recorded value
    #[serde(rename = "recorded")]
    pub expected: String,
    /// its value in the replay
    #[serde(rename = "replayed")]
    pub found: String,
    /// what two further replays of the interval say; `None`: there were none
    pub verdict: Option<Verdict>,
    /// how the replay differs from the recording before it begins
    pub differences: Vec<Difference>,
    /// why this may have happened, the likeliest first
    pub causes: Vec<Cause>,
    /// the guest where it was found
    pub guest: Option<Guest>,
    /// the last events of the log, oldest first
    pub events: Vec<String>,
    /// the last exits of the replay, oldest first
    pub exits: Vec<String>,
    /// commands to go on with
    pub commands: Vec<Command>,
}

/// Something that was one thing when the recording was made and is another now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// what
    pub what: &'static str,
    /// then
    pub recorded: String,
    /// now
    pub here: String,
}

/// A command and what it is good for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Command {
    /// as it is typed
    pub command: String,
    /// what it does
    pub purpose: String,
}

impl Divergence {
    /// Describes a difference found at the machine's position.
    pub fn new(
        machine: &Machine,
        agreed: Position,
        events: impl IntoIterator<Item = Event>,
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self {
            agreed,
            last_exit: None,
            found_at: machine.position(),
            what: what.into(),
            expected: expected.into(),
            found: found.into(),
            verdict: None,
            differences: Vec::new(),
            causes: Vec::new(),
            guest: None,
            events: events.into_iter().map(|event| event.to_string()).collect(),
            exits: machine.trace().iter().map(ToString::to_string).collect(),
            commands: Vec::new(),
        }
    }
}

/// A position as it is written everywhere.
fn position<S: Serializer>(position: &Position, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(position)
}

fn optional_position<S: Serializer>(position: &Option<Position>, serializer: S) -> Result<S::Ok, S::Error> {
    match position {
        Some(position) => serializer.collect_str(position),
        None => serializer.serialize_none(),
    }
}
