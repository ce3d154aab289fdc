//! A replay that is not what was recorded: located and explained.

use std::fmt;

use scribe_log::{Event, Position};

use crate::machine::Machine;

/// What differs, where, and what came before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Divergence {
    /// last position at which replay and recording agreed
    pub agreed: Position,
    /// position at which they were found to differ
    pub found_at: Position,
    /// what was compared
    pub what: String,
    /// its recorded value
    pub expected: String,
    /// its value in the replay
    pub found: String,
    /// the last exits of the replay, oldest first
    pub exits: Vec<String>,
    /// the last events of the log, oldest first
    pub events: Vec<String>,
    /// facts about hosts that differ between recording and replay
    pub hosts: Vec<String>,
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
            found_at: machine.position(),
            what: what.into(),
            expected: expected.into(),
            found: found.into(),
            exits: machine.trace().iter().map(ToString::to_string).collect(),
            events: events.into_iter().map(|event| event.to_string()).collect(),
            hosts: Vec::new(),
        }
    }
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "the replay diverged between {} and {}: {} differs",
            self.agreed, self.found_at, self.what
        )?;
        writeln!(f, "  recorded: {}", self.expected)?;
        writeln!(f, "  replayed: {}", self.found)?;
        if !self.events.is_empty() {
            writeln!(f, "last events of the recording:")?;
            self.events.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        }
        if !self.exits.is_empty() {
            writeln!(f, "last exits of the replay:")?;
            self.exits.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        }
        for line in &self.hosts {
            writeln!(f, "note: {line}")?;
        }
        write!(
            f,
            "likely causes: the guest read something that is not recorded (docs/determinism.md), the host's processor \
             or KVM differs from the recording's, or a bug in scribe-vmm"
        )
    }
}
