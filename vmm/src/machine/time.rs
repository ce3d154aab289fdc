//! Guest time: nanoseconds the guest has lived, a function of position plus adjustments. Never the host's clock.

use scribe_log::header::TimeConstants;

use super::platform::NS_PER_EXIT;
use crate::engine::Progress;

/// Without a branch counter: time moves at exits only.
pub const WITHOUT_COUNTER: TimeConstants = TimeConstants { ns_per_branch: 0, ns_per_exit: NS_PER_EXIT };

/// The guest's clock: exits and branches, each worth a constant, and jumps while the guest is idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestClock {
    constants: TimeConstants,
    exits: u64,
    /// conditional branches up to the last exit
    branches: u64,
    /// how far the guest has come since that exit
    progress: Progress,
    adjustments: u64,
}

impl GuestClock {
    /// The clock at power-on.
    pub fn new(constants: TimeConstants) -> Self {
        Self { constants, exits: 0, branches: 0, progress: Progress::NONE, adjustments: 0 }
    }

    /// The clock of a machine that has come so far: `branches` up to the last exit, `progress` since, `adjustments` (ns)
    /// by jumps.
    pub fn restored(
        constants: TimeConstants,
        exits: u64,
        branches: u64,
        progress: Progress,
        adjustments: u64,
    ) -> Self {
        Self { constants, exits, branches, progress, adjustments }
    }

    /// Branches up to the last exit, and adjustments (ns): what [`restored`](Self::restored) needs besides the place.
    pub fn parts(&self) -> (u64, u64) {
        (self.branches, self.adjustments)
    }

    /// Guest time in nanoseconds since power-on.
    pub fn now(&self) -> u64 {
        self.at_exit().saturating_add(self.progress.branches.saturating_mul(self.constants.ns_per_branch))
    }

    /// Guest time at the last exit, adjustments since included.
    pub fn at_exit(&self) -> u64 {
        let branches = self.branches.saturating_mul(self.constants.ns_per_branch);
        let exits = self.exits.saturating_mul(self.constants.ns_per_exit);
        exits.saturating_add(branches).saturating_add(self.adjustments)
    }

    /// What each branch and each exit is worth.
    pub fn constants(&self) -> TimeConstants {
        self.constants
    }

    /// Exits served since power-on.
    pub fn exits(&self) -> u64 {
        self.exits
    }

    /// Where the guest is since the last exit.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// The guest has come to `progress` behind the last exit.
    pub fn set_progress(&mut self, progress: Progress) {
        self.progress = progress;
    }

    /// Counts one exit, `progress` behind the one before.
    pub fn count_exit(&mut self, progress: Progress) {
        self.exits += 1;
        self.branches = self.branches.saturating_add(progress.branches);
        self.progress = Progress::NONE;
    }

    /// Moves time forward to `to` (ns); earlier times are ignored, time never goes back.
    pub fn jump(&mut self, to: u64) {
        self.adjustments = self.adjustments.saturating_add(to.saturating_sub(self.now()));
    }

    /// The first place behind the last exit at which guest time is at least `time`. `None` if that is not ahead, or if
    /// branches take no time.
    pub fn place_of(&self, time: u64) -> Option<Progress> {
        if time <= self.now() || self.constants.ns_per_branch == 0 {
            return None;
        }
        let branches = (time - self.at_exit()).div_ceil(self.constants.ns_per_branch);
        Some(Progress { branches, steps: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_exits_and_jumps() {
        let mut clock = GuestClock::new(WITHOUT_COUNTER);
        clock.count_exit(Progress { branches: 7, steps: 0 });
        assert_eq!(clock.now(), 2_000);
        clock.jump(10_000_000);
        assert_eq!(clock.now(), 10_000_000);
        clock.jump(5);
        assert_eq!(clock.now(), 10_000_000);
        assert_eq!(clock.place_of(20_000_000), None, "no branch comes nearer");
        clock.count_exit(Progress::NONE);
        assert_eq!(clock.now(), 10_002_000);
        clock.jump(u64::MAX);
        clock.count_exit(Progress::NONE);
        assert_eq!(clock.now(), u64::MAX, "saturates");
    }

    #[test]
    fn branches_take_time_and_deadlines_are_branches() {
        let mut clock = GuestClock::new(TimeConstants { ns_per_branch: 8, ns_per_exit: 2_000 });
        clock.count_exit(Progress { branches: 10, steps: 3 });
        assert_eq!((clock.now(), clock.at_exit()), (2_080, 2_080));
        let at = |branches| Some(Progress { branches, steps: 0 });
        assert_eq!(clock.place_of(2_080), None);
        assert_eq!(clock.place_of(2_081), at(1));
        assert_eq!(clock.place_of(2_088), at(1));
        assert_eq!(clock.place_of(2_089), at(2));
        clock.set_progress(Progress { branches: 2, steps: 1 });
        assert_eq!(clock.now(), 2_096);
        assert_eq!(clock.place_of(2_096), None);
        assert_eq!(clock.place_of(2_097), at(3));
        assert!(clock.place_of(u64::MAX).is_some());
        clock.jump(3_000);
        assert_eq!((clock.now(), clock.at_exit()), (3_000, 2_984));
    }
}
