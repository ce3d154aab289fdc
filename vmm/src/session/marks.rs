//! What a live session notes by itself as guest time passes: a bookmark, a snapshot, every so often.

use super::journal::Noting;
use crate::machine::Machine;

/// A period of guest time, and when it is next over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Every {
    period: u64,
    next: u64,
    count: u64,
}

impl Every {
    /// Every `period` ns of guest time from `now` on, on multiples of it. `None` for a period of 0.
    pub fn new(period: u64, now: u64) -> Option<Self> {
        let next = now.checked_div(period)?.saturating_add(1).saturating_mul(period);
        Some(Self { period, next, count: 0 })
    }

    /// If a period is over at `now`: how many have been, this one included. Periods that the guest has slept through are
    /// over once, together.
    pub fn due(&mut self, now: u64) -> Option<u64> {
        if now < self.next {
            return None;
        }
        *self = Self { count: self.count + 1, ..Self::new(self.period, now)? };
        Some(self.count)
    }
}

/// What is noted, and how often.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks {
    /// bookmarks
    pub bookmark: Option<Every>,
    /// snapshots
    pub snapshot: Option<Every>,
}

impl Marks {
    /// As asked for, from where `machine` is.
    pub fn new(noting: &Noting, machine: &Machine) -> Self {
        let every = |period: Option<u64>| period.and_then(|period| Every::new(period, machine.guest_time()));
        Self { bookmark: every(noting.bookmark_every), snapshot: every(noting.snapshot_every) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_over_once() {
        let mut every = Every::new(10, 25).unwrap();
        assert_eq!(every.due(29), None);
        assert_eq!(every.due(30), Some(1));
        assert_eq!(every.due(30), None);
        assert_eq!(every.due(77), Some(2), "40 to 70, together");
        assert_eq!(every.due(80), Some(3));
        assert_eq!(Every::new(0, 5), None);
    }

    #[test]
    fn the_end_of_time_is_no_accident() {
        let mut every = Every::new(u64::MAX, 1).unwrap();
        assert_eq!(every.due(u64::MAX - 1), None);
        assert_eq!(every.due(u64::MAX), Some(1));
    }
}
