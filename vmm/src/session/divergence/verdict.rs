//! What several replays of the same interval say about a divergence.

use scribe_log::{FullDigest, Position, Register};
use serde::Serialize;

use super::{optional_position, position};
use crate::inspect::state::{self, registers};
use crate::machine::Machine;
use crate::machine::memory::PAGE_SIZE;
use crate::session::divergence::Divergence;

/// Guests with more RAM (bytes) are not compared page by page.
const MOST_RAM: u64 = 8 << 30;

/// What a replay came to that differs from its recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// position at which it was found
    pub found_at: Position,
    /// what was compared, and its value in the replay
    pub found: (String, String),
    /// rolling digest there
    pub rolling: u64,
    /// digest of the whole machine there, if it can be had
    pub full: Option<FullDigest>,
    /// the processor there, if it can be had
    pub registers: Vec<Register>,
    /// frame numbers and hashes of all pages of RAM; none if there are too many
    pub pages: Vec<(u64, u64)>,
}

impl Seen {
    /// Looks at `machine`, whose replay has ended in `divergence`.
    pub fn new(machine: &mut Machine, divergence: &Divergence) -> Self {
        // In the middle of something the machine may not have a state that can be told: what was compared is all then.
        let full = machine.full_digest().ok();
        let state = machine.cpu_state().ok();
        let registers = state.map_or_else(Vec::new, |state| registers(&state, machine.is_halted()));
        let frames = machine.ram().regions().flat_map(|region| {
            let first = region.start / PAGE_SIZE;
            first..first + region.size / PAGE_SIZE
        });
        let small = full.is_some() && machine.ram().size() <= MOST_RAM;
        let pages = frames.filter(|_| small).filter_map(|frame| Some((frame, machine.page_hash(frame)?)));
        let pages = pages.collect();
        Self {
            found_at: divergence.found_at,
            found: (divergence.what.clone(), divergence.found.clone()),
            rolling: machine.rolling(),
            full,
            registers,
            pages,
        }
    }

    /// The first register or page that differs, by name and with both values.
    fn differs_in(&self, other: &Self) -> Option<state::Difference> {
        if self.found_at != other.found_at {
            return None;
        }
        let register = state::compare(&self.registers, &other.registers);
        let pages = || {
            let frames: Vec<(u64, u64)> = self
                .pages
                .iter()
                .zip(&other.pages)
                .filter(|(a, b)| a != b)
                .map(|(a, _)| *a)
                .take(1)
                .collect();
            let found = |frame| {
                let at = other.pages.binary_search_by_key(&frame, |(frame, _)| *frame).ok()?;
                other.pages.get(at).map(|(_, hash)| *hash)
            };
            state::compare_pages(&frames, None, found)
        };
        register.or_else(pages)
    }
}

/// What a replay of the interval came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// it differs from the recording
    Differs(Box<Seen>),
    /// it got past the place without any difference
    Passed,
}

/// A replay of the interval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pass {
    /// where it began
    pub from: Position,
    /// it began with a snapshot that is no part of the recording
    pub from_snapshot: bool,
    /// what it came to
    pub end: End,
    /// rolling digests at sync points behind the last that was equal to the recording's, as far as they were kept
    pub trail: Vec<(Position, u64)>,
}

/// What several replays of the interval say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum Verdict {
    /// all come to the same: it is not what the recording says
    Recording {
        /// where the further ones began
        #[serde(serialize_with = "position")]
        from: Position,
    },
    /// they come to different things
    Unstable {
        /// what each came to, for people
        passes: Vec<String>,
        /// the first place at which two of them are known to differ
        #[serde(serialize_with = "optional_position")]
        first_at: Option<Position>,
        /// the first register or page that differs between two of them where they were found to differ from the recording
        differs: Option<String>,
    },
    /// the first began with a snapshot, and that is not what the recording is at its place
    Snapshot {
        /// its place
        #[serde(serialize_with = "position")]
        at: Position,
        /// what the replay from the recording's start came to, for people
        without: String,
    },
    /// it could not be found out
    Unknown {
        /// why
        reason: String,
    },
}

/// What `first`, in which the divergence was found, and further replays of the same interval say.
pub fn judge(first: &Pass, further: &[Pass]) -> Verdict {
    let Some(second) = further.first() else {
        return Verdict::Unknown { reason: "the interval was not replayed again".into() };
    };
    if further.iter().all(|pass| pass.end == first.end) {
        return Verdict::Recording { from: second.from };
    }
    let all = || std::iter::once(first).chain(further);
    let same = |mut passes: Box<dyn Iterator<Item = &Pass> + '_>| passes.all(|pass| pass.end == first.end);
    let from_snapshots = all().filter(|pass| pass.from_snapshot);
    let from_start: Vec<&Pass> = all().filter(|pass| !pass.from_snapshot).collect();
    if let (true, [other, rest @ ..]) = (first.from_snapshot, from_start.as_slice())
        && same(Box::new(from_snapshots))
        && rest.iter().all(|pass| pass.end == other.end)
    {
        return Verdict::Snapshot { at: first.from, without: other.end.describe() };
    }
    unstable(&all().collect::<Vec<_>>())
}

fn unstable(passes: &[&Pass]) -> Verdict {
    let pairs = || {
        passes
            .iter()
            .enumerate()
            .flat_map(|(number, one)| passes[number + 1..].iter().map(move |other| (*one, *other)))
    };
    let differs = pairs().find_map(|(one, other)| match (&one.end, &other.end) {
        (End::Differs(one), End::Differs(other)) if one != other => one.differs_in(other),
        _ => None,
    });
    let first_at = pairs().filter_map(|(one, other)| fork(&one.trail, &other.trail)).min();
    Verdict::Unstable {
        passes: passes.iter().map(|pass| pass.end.describe()).collect(),
        first_at,
        differs: differs.map(|state::Difference { what, recorded, found }| {
            format!("{what}: {recorded} in one replay, {found} in another")
        }),
    }
}

/// The first sync point at which two replays differ, if it is among those that were kept of both.
fn fork(one: &[(Position, u64)], other: &[(Position, u64)]) -> Option<Position> {
    one.iter().zip(other).find(|(a, b)| a != b).map(|(a, b)| a.0.min(b.0))
}

impl End {
    fn describe(&self) -> String {
        match self {
            Self::Passed => "no difference".into(),
            Self::Differs(seen) => {
                let Seen { found_at, found: (what, found), .. } = seen.as_ref();
                format!("{what} differs at {found_at}: {found}")
            }
        }
    }
}
