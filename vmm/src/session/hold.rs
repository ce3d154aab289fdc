//! Console input that comes late, under chaos: what waits is held for a while that a seed says.
//!
//! When an input comes is the host's affair and stands in the log, so a replay draws none of these numbers. They are a
//! stream of their own: the machine's must be the same in a replay, which has no inputs to hold.

use scribe_log::Position;

use crate::engine::Progress;
use crate::machine::Machine;
use crate::machine::chaos::{Delay, Random};

/// Stream of numbers.
const INPUTS: u64 = 0x494e_5055_5431;
/// Inputs are held for less than 2 to this power, ns: 4 ms.
const BITS: u64 = 22;
/// Instructions that an input comes behind a branch, or behind where a kick found the guest: below 2 to this power.
const STEP_BITS: u64 = 5;
/// Branches behind where a kick found the guest: below 2 to this power.
const BRANCH_BITS: u64 = 4;
/// Pieces of a file are at most 2 to this power bytes.
const PIECE_BITS: u64 = 12;

/// Holds what waits.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hold {
    random: Option<Random>,
    /// until when what waits is held
    delay: Option<Delay>,
}

impl Hold {
    /// For console input `number` of a machine that goes live at `start`, under chaos if there is a seed.
    pub fn new(seed: Option<u64>, start: Position, number: u64) -> Self {
        let mix = |seed: u64| {
            // A branch of a recording goes on with other numbers than the recording began with.
            let at = Random::new(start.exit, start.branches).bits() ^ start.steps;
            Random::new(seed ^ if start == Position::START { 0 } else { at }, INPUTS + number)
        };
        Self { random: seed.map(mix), delay: None }
    }

    /// True if inputs are held at all.
    pub fn is_active(&self) -> bool {
        self.random.is_some()
    }

    /// How many bytes of a file come at a time, at most `most`.
    pub fn piece(&mut self, most: usize) -> usize {
        let piece = self.random.as_mut().map(|random| random.magnitude(PIECE_BITS) + 1);
        piece.map_or(most, |piece| usize::try_from(piece).unwrap_or(most).min(most))
    }

    /// True if what waits may come in at the sync point where the machine is. Asked for the first time, it draws how long
    /// that takes.
    pub fn lets(&mut self, machine: &Machine) -> bool {
        let Some(random) = &mut self.random else { return true };
        let mut delay = self.delay.unwrap_or_else(|| {
            let due = machine.guest_time().saturating_add(random.magnitude(BITS));
            Delay::Time { due, steps: random.magnitude(STEP_BITS) }
        });
        let over = machine.is_over(&mut delay);
        self.delay = (!over).then_some(delay);
        over
    }

    /// What waits has found the guest computing: the next place at which it can come in is `ahead`.
    pub fn interrupt(&mut self, ahead: Position) {
        if let (Some(random), None) = (&mut self.random, self.delay) {
            let branches = ahead.branches.saturating_add(random.magnitude(BRANCH_BITS));
            let steps = random.magnitude(STEP_BITS);
            let steps = if branches == ahead.branches { ahead.steps.saturating_add(steps) } else { steps };
            self.delay = Some(Delay::Place { exit: ahead.exit, branches, steps });
        }
    }

    /// It has come in.
    pub fn done(&mut self) {
        self.delay = None;
    }

    /// The place, since the last exit, at which what waits may come in.
    pub fn place(&self, machine: &Machine) -> Option<Progress> {
        machine.place_of_delay(&self.delay?)
    }

    /// Guest time (ns) at which a guest that sleeps gets what waits.
    pub fn due(&self) -> Option<u64> {
        self.delay?.due()
    }
}
