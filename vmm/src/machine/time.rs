//! Guest time: nanoseconds the guest has lived, a function of position plus adjustments. Never the host's clock.

use super::platform::NS_PER_EXIT;

/// The guest's clock, without a branch counter (k1 = 0): it moves at exits, and jumps while the guest is idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GuestClock {
    exits: u64,
    adjustments: u64,
}

impl GuestClock {
    /// Guest time in nanoseconds since power-on.
    pub fn now(&self) -> u64 {
        self.exits.saturating_mul(NS_PER_EXIT).saturating_add(self.adjustments)
    }

    /// Exits served since power-on.
    pub fn exits(&self) -> u64 {
        self.exits
    }

    /// Counts one exit.
    pub fn count_exit(&mut self) {
        self.exits += 1;
    }

    /// Moves time forward to `to` (ns); earlier times are ignored, time never goes back.
    pub fn jump(&mut self, to: u64) {
        self.adjustments = self.adjustments.saturating_add(to.saturating_sub(self.now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_exits_and_jumps() {
        let mut clock = GuestClock::default();
        clock.count_exit();
        assert_eq!(clock.now(), 2_000);
        clock.jump(10_000_000);
        assert_eq!(clock.now(), 10_000_000);
        clock.jump(5);
        assert_eq!(clock.now(), 10_000_000);
        clock.count_exit();
        assert_eq!(clock.now(), 10_002_000);
        clock.jump(u64::MAX);
        clock.count_exit();
        assert_eq!(clock.now(), u64::MAX, "saturates");
    }
}
