//! What the header says of a recording that does not begin at power-on, of chaos in it, and of how much was noted.

use std::path::PathBuf;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::lossless;
use crate::position::Position;

/// How much was noted in a recording, least first. Each level has all of those before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Inputs and digests: what a replay needs. Not written to the header.
    #[default]
    Inputs,
    /// Also [`crate::Body::State`] at each checkpoint.
    State,
    /// Also interrupts, disk requests and console output.
    Devices,
    /// Also every exit.
    Exits,
}

impl Level {
    /// All of them, by number.
    pub const ALL: [Level; 4] = [Level::Inputs, Level::State, Level::Devices, Level::Exits];

    /// Its number, 0 to 3.
    pub fn number(self) -> u8 {
        match self {
            Level::Inputs => 0,
            Level::State => 1,
            Level::Devices => 2,
            Level::Exits => 3,
        }
    }

    /// The level of that number, if there is one.
    pub fn from_number(number: u8) -> Option<Level> {
        Level::ALL.get(usize::from(number)).copied()
    }

    pub(super) fn is_default(&self) -> bool {
        *self == Level::default()
    }
}

// Frozen: recordings exist.
const _: () = assert!(matches!(Level::ALL, [Level::Inputs, Level::State, Level::Devices, Level::Exits]));

impl Serialize for Level {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(self.number())
    }
}

impl<'de> Deserialize<'de> for Level {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Level, D::Error> {
        match Level::from_number(u8::deserialize(deserializer)?) {
            // One configuration is one header: what is the default is not there.
            Some(Level::Inputs) => Err(D::Error::custom("level 0 is written by leaving it out")),
            Some(level) => Ok(level),
            None => Err(D::Error::custom("there is no such level")),
        }
    }
}

/// Interrupts and inputs came late, as a seed said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chaos {
    /// Which numbers come of a seed.
    pub version: u32,
    /// The seed.
    pub seed: u64,
}

/// The recording that this one branched off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parent {
    /// Its path, as it was given.
    #[serde(with = "lossless::path")]
    pub path: PathBuf,
    /// Its [`crate::Header::identity`]; 64 hex digits in the file.
    #[serde(with = "lossless::hex32")]
    pub header: [u8; 32],
    /// Where this one left it; as text in the file.
    #[serde(with = "position_text")]
    pub at: Position,
}

/// Where a recording begins. The machine's state there is in the recording's snapshot of that position, except for that at
/// power-on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// Where vCPU 0 was.
    #[serde(with = "position_numbers")]
    pub position: Position,
    /// Guest time there, in nanoseconds.
    pub guest_time: u64,
}

/// An optional key that is there: `null` is no value of it.
pub(super) fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

mod position_text {
    use super::Position;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(position: &Position, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(position)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Position, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

mod position_numbers {
    use super::Position;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Numbers {
        exit: u64,
        branches: u64,
        steps: u64,
    }

    pub(super) fn serialize<S: Serializer>(position: &Position, serializer: S) -> Result<S::Ok, S::Error> {
        let Position { exit, branches, steps } = *position;
        Numbers { exit, branches, steps }.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Position, D::Error> {
        let Numbers { exit, branches, steps } = Numbers::deserialize(deserializer)?;
        Ok(Position { exit, branches, steps })
    }
}
