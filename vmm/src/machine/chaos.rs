//! Chaos: interrupts and inputs that come late, as a seed says, to provoke what a guest gets wrong about them.
//!
//! A machine without chaos takes an interrupt at the first moment it can: a timer's lands right behind the conditional
//! branch at which its time has come, and two instructions without a branch between them are never torn apart. Hardware
//! promises nothing of the kind. Under chaos the line to the processor is slow: between the moment the interrupt
//! controller asks for an interrupt and the moment the processor hears of it lie some guest time and some instructions,
//! drawn anew for each request. Nothing comes early, nothing is lost, devices and clocks are what they always are.
//!
//! All of it follows from the seed and from what the guest does, so nothing is logged: a replay draws the same numbers.
//! That makes the numbers part of the recording's format. What is drawn by [`VERSION`] 1 stays as it is; another way to
//! draw is another version.

use scribe_log::header::TimeConstants;
use serde::{Deserialize, Serialize};

use super::time::GuestClock;
use crate::engine::Progress;

/// How the numbers are drawn: what a recording's header names beside the seed.
pub const VERSION: u32 = 1;

/// The longest lag, ns: most of a tick of a kernel that has 100 of them in a second.
pub const LONGEST: u64 = 8_000_000;

/// Streams of numbers that come from one seed and have nothing to do with each other.
const SPEED: u64 = 0x5350_4545_4431;
const INTERRUPTS: u64 = 0x4952_5153_3031;

/// What a conditional branch can be worth, ns: the platform's 8, and processors from twice as fast to eight times as slow.
const SPEEDS: [u64; 5] = [4, 8, 16, 32, 64];

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014): one word of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Random(u64);

impl Random {
    /// The stream `stream` of `seed`.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut random = Self(seed);
        Self(random.bits() ^ stream)
    }

    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }

    /// A number below `limit`; 0 if that is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        let product = u128::from(self.bits()) * u128::from(limit);
        u64::try_from(product >> 64).unwrap_or(0) // it is below `limit`
    }

    /// A number below 2 to the power of `bits` (at most 63), each order of magnitude as likely as the others.
    pub fn magnitude(&mut self, bits: u64) -> u64 {
        let bits = self.below(bits.min(63) + 1);
        self.below(1 << bits)
    }

    fn one_of<const N: usize>(&mut self, values: [u64; N]) -> u64 {
        let index = self.below(N as u64);
        usize::try_from(index).ok().and_then(|index| values.get(index)).copied().unwrap_or(values[0])
    }
}

/// What branches and exits are worth under `seed`, of a machine in which they are worth `time`.
pub fn time_constants(seed: u64, time: TimeConstants) -> TimeConstants {
    match time.ns_per_branch {
        0 => time, // branches are not counted
        _ => TimeConstants { ns_per_branch: Random::new(seed, SPEED).one_of(SPEEDS), ..time },
    }
}

/// True if a machine in which branches and exits are worth `time` could have come to `found` by some seed.
pub fn is_possible(found: TimeConstants, time: TimeConstants) -> bool {
    found == time
        || (time.ns_per_branch != 0
            && found.ns_per_exit == time.ns_per_exit
            && SPEEDS.contains(&found.ns_per_branch))
}

/// Something that waits for a place to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delay {
    /// for this guest time (ns), and then for so many instructions; they count from the branch at which the time comes
    Time {
        /// guest time, ns
        due: u64,
        /// instructions
        steps: u64,
    },
    /// for a place behind this exit, or for the next exit
    Place {
        /// the exit
        exit: u64,
        /// conditional branches since
        branches: u64,
        /// instructions since the last of them
        steps: u64,
    },
}

/// Where a machine is.
#[derive(Debug, Clone, Copy)]
pub struct Here<'a> {
    /// its clock
    pub clock: &'a GuestClock,
    /// how far the guest is behind the last exit
    pub progress: Progress,
    /// it has places between two exits
    pub counted: bool,
    /// its processor is: no instruction comes
    pub halted: bool,
}

impl Delay {
    /// True if it is over. A time that has come with an exit or while the guest slept becomes a place.
    pub fn is_over(&mut self, here: Here<'_>) -> bool {
        if let Self::Time { due, steps } = *self {
            let now = here.clock.now();
            if !here.counted || here.halted {
                return now >= due;
            }
            if due > here.clock.at_exit() {
                return self.place(here.clock).is_some_and(|place| here.progress >= place);
            }
            let Progress { branches, steps: before } = here.progress;
            *self = Self::Place { exit: here.clock.exits(), branches, steps: before.saturating_add(steps) };
        }
        match *self {
            Self::Place { exit, branches, steps } => {
                here.halted || here.clock.exits() != exit || here.progress >= Progress { branches, steps }
            }
            Self::Time { .. } => false,
        }
    }

    /// The place behind the last exit at which it is over, unless that is behind another.
    pub fn place(&self, clock: &GuestClock) -> Option<Progress> {
        match *self {
            Self::Time { due, steps } => {
                let worth = clock.constants().ns_per_branch;
                let ahead = due.saturating_sub(clock.at_exit());
                (ahead > 0 && worth > 0).then(|| Progress { branches: ahead.div_ceil(worth), steps })
            }
            Self::Place { exit, branches, steps } => {
                (exit == clock.exits()).then_some(Progress { branches, steps })
            }
        }
    }

    /// The guest time (ns) it waits for, if it waits for one.
    pub fn due(&self) -> Option<u64> {
        match *self {
            Self::Time { due, .. } => Some(due),
            Self::Place { .. } => None,
        }
    }
}

/// How hard a run is shaken: so that different seeds look for different things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Regime {
    /// how many of 16 interrupts come as they would without chaos
    calm: u64,
    /// lags are below 2 to this power, ns
    bits: u64,
    /// instructions behind the branch are below 2 to this power
    steps: u64,
}

impl Regime {
    fn draw(random: &mut Random) -> Self {
        Self {
            calm: random.one_of([0, 2, 8, 14]),
            bits: random.one_of([0, 11, 15, 18, 21]),
            steps: random.one_of([2, 4, 6]),
        }
    }

    /// A lag in ns, at most `room`, and in instructions.
    fn lag(&self, random: &mut Random, room: u64) -> (u64, u64) {
        if random.below(16) < self.calm {
            return (0, 0);
        }
        let steps = random.magnitude(self.steps);
        let time = match random.below(64) {
            0 => random.below(LONGEST),
            _ => random.magnitude(self.bits),
        };
        (time.min(room), steps)
    }
}

/// What stands between the interrupt controller and the processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chaos {
    seed: u64,
    regime: Regime,
    random: Random,
    waiting: Waiting,
}

/// How far the interrupt that the controller asks for has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Waiting {
    /// it asks for none
    Nothing,
    /// on its way
    Lag(Delay),
    /// the processor knows of it, and takes it as soon as it can
    Heard,
}

/// What is saved of it: the rest follows from the seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChaosState {
    random: u64,
    waiting: Waiting,
}

impl Chaos {
    /// As at power-on.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed, INTERRUPTS);
        let regime = Regime::draw(&mut random);
        Self { seed, regime, random, waiting: Waiting::Nothing }
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// True if the processor hears of an interrupt here; `pending`: the controller asks for one. `next_tick`: guest time (ns)
    /// at which the timer's next is due, which this one must not run into, for the controller would make one of the two.
    pub fn hears(&mut self, pending: bool, here: Here<'_>, next_tick: Option<u64>) -> bool {
        if !pending {
            self.waiting = Waiting::Nothing;
            return false;
        }
        if self.waiting == Waiting::Nothing {
            let now = here.clock.now();
            let room = next_tick.map_or(LONGEST, |tick| tick.saturating_sub(now) / 4 * 3);
            let (time, steps) = self.regime.lag(&mut self.random, room);
            self.waiting = Waiting::Lag(Delay::Time { due: now.saturating_add(time), steps });
        }
        if let Waiting::Lag(delay) = &mut self.waiting
            && delay.is_over(here)
        {
            self.waiting = Waiting::Heard;
        }
        self.waiting == Waiting::Heard
    }

    /// The processor has taken it.
    pub fn taken(&mut self) {
        self.waiting = Waiting::Nothing;
    }

    /// True if the processor waits until it can take an interrupt that it has heard of.
    pub fn is_heard(&self) -> bool {
        self.waiting == Waiting::Heard
    }

    /// What the interrupt that is on its way waits for.
    pub fn delay(&self) -> Option<Delay> {
        match self.waiting {
            Waiting::Lag(delay) => Some(delay),
            Waiting::Nothing | Waiting::Heard => None,
        }
    }

    /// For a snapshot.
    pub fn save(&self) -> ChaosState {
        ChaosState { random: self.random.0, waiting: self.waiting }
    }

    /// As it was when `state` was saved, in a machine whose guest time is `now` (ns).
    ///
    /// # Errors
    /// What is impossible in it.
    pub fn restore(&mut self, state: ChaosState, now: u64, counted: bool) -> Result<(), &'static str> {
        match state.waiting {
            Waiting::Lag(Delay::Time { due, .. }) if due > now.saturating_add(LONGEST) => {
                return Err("an interrupt lags longer than any can");
            }
            Waiting::Lag(Delay::Place { .. }) if !counted => {
                return Err("an interrupt waits for an instruction, and this machine counts none");
            }
            _ => {}
        }
        self.random = Random(state.random);
        self.waiting = state.waiting;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
