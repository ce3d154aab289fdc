//! The timer (SDM 11.5.4): one-shot, periodic and TSC-deadline.
//!
//! Nothing counts here: a running timer is the guest time at which it had a count, and everything else follows.

use serde::{Deserialize, Serialize};

use super::{Lapic, MASKED, TIMER};

const NS_PER_MILLISECOND: u128 = 1_000_000;

/// A timer that counts down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counting {
    /// Guest time (ns) at which the count was `from`.
    pub since: u64,
    /// The count then, not 0.
    pub from: u32,
}

/// A deadline that is armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    /// What the guest wrote.
    pub tsc: u64,
    /// First guest time (ns) at which the TSC is at least that.
    pub at: u64,
}

/// How a processor's TSC follows from guest time: `now * khz / 10^6 + offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tsc {
    /// ticks a millisecond
    pub khz: u64,
    /// what the guest has set, modulo 2^64
    pub offset: u64,
}

impl Tsc {
    fn ticks(self, now: u64) -> u128 {
        u128::from(now) * u128::from(self.khz) / NS_PER_MILLISECOND
    }

    /// First guest time (ns), not before `now`, at which the TSC has come to `deadline`; the end of guest time if it
    /// never does.
    fn time_of(self, deadline: u64, now: u64) -> u64 {
        let ticks = self.ticks(now);
        // Modulo 2^64: the TSC wraps, and a deadline is compared with what it reads.
        let low = u64::try_from(ticks & u128::from(u64::MAX)).unwrap_or(0);
        let Some(ahead) = deadline.checked_sub(low.wrapping_add(self.offset)).filter(|ahead| *ahead > 0)
        else {
            return now;
        };
        let Some(target) = ticks.checked_add(u128::from(ahead)) else { return u64::MAX };
        let ns = target
            .checked_mul(NS_PER_MILLISECOND)
            .map(|product| product.div_ceil(u128::from(self.khz.max(1))));
        ns.and_then(|ns| u64::try_from(ns).ok()).unwrap_or(u64::MAX)
    }
}

/// LVT timer bits 18 and 17.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimerMode {
    OneShot,
    Periodic,
    TscDeadline,
    /// Reserved: it does not count.
    Reserved,
}

impl TimerMode {
    pub(super) fn of(lvt: u32) -> Self {
        match lvt >> 17 & 3 {
            0 => TimerMode::OneShot,
            1 => TimerMode::Periodic,
            2 => TimerMode::TscDeadline,
            _ => TimerMode::Reserved,
        }
    }

    pub(super) fn counts(self) -> bool {
        matches!(self, TimerMode::OneShot | TimerMode::Periodic)
    }
}

impl Lapic {
    pub(super) fn timer_mode(&self) -> TimerMode {
        TimerMode::of(self.state.lvt[TIMER])
    }

    /// Nanoseconds for one count: bits 3, 1 and 0 of the divide configuration register.
    fn divisor(&self) -> u64 {
        match self.state.divide & 3 | self.state.divide >> 1 & 4 {
            7 => 1,
            power => 2 << power,
        }
    }

    /// Guest time at which the count that runs is 0; `None` if that is beyond the end of guest time.
    fn end_of_count(&self) -> Option<u64> {
        let Counting { since, from } = self.state.counting?;
        since.checked_add(u64::from(from).checked_mul(self.divisor())?)
    }

    /// Guest time (ns) at which [`advance`](Self::advance) changes what the guest can notice by itself. `None` if there is
    /// no such time: also while the timer's interrupt is masked or the one before waits, for then nothing comes of it.
    /// So a guest that lets a short period run and takes no interrupt does not keep the machine busy.
    pub fn next_wake(&self) -> Option<u64> {
        let entry = self.state.lvt[TIMER];
        if entry & MASKED != 0 || !self.interrupt_would_be_new(entry) {
            return None;
        }
        self.state.deadline.map_or_else(|| self.end_of_count(), |deadline| Some(deadline.at))
    }

    /// Lets time pass up to `now`: a timer whose time has come puts its interrupt into IRR. Several missed periods are one
    /// interrupt. Every access to a register does the same first, so none is early or lost.
    pub fn advance(&mut self, now: u64) {
        if self.state.deadline.is_some_and(|deadline| deadline.at <= now) {
            self.state.deadline = None;
            self.local_interrupt(TIMER);
        }
        let Some(end) = self.end_of_count().filter(|end| *end <= now) else { return };
        let period = u64::from(self.state.initial_count) * self.divisor();
        self.state.counting = match (now - end).checked_div(period) {
            Some(missed) if self.timer_mode() == TimerMode::Periodic => {
                Some(Counting { since: end + missed * period, from: self.state.initial_count })
            }
            _ => None,
        };
        self.local_interrupt(TIMER);
    }

    /// The current count at `now`, which the timer has been advanced to.
    pub(super) fn current_count(&self, now: u64) -> u32 {
        let Some(Counting { since, from }) = self.state.counting else { return 0 };
        let counted = now.saturating_sub(since) / self.divisor();
        u32::try_from(u64::from(from).saturating_sub(counted)).unwrap_or(0)
    }

    /// A write to the initial count register starts the count, or stops it with 0. In TSC-deadline mode it is ignored.
    pub(super) fn set_initial_count(&mut self, count: u32, now: u64) {
        if self.timer_mode() == TimerMode::TscDeadline {
            return;
        }
        self.state.initial_count = count;
        let counts = count > 0 && self.timer_mode().counts();
        self.state.counting = counts.then_some(Counting { since: now, from: count });
    }

    /// A count that runs goes on from where it is, at the new rate.
    pub(super) fn set_divide(&mut self, value: u8, now: u64) {
        let current = self.current_count(now);
        self.state.divide = value & 0xb;
        self.state.counting = self.state.counting.map(|_| Counting { since: now, from: current.max(1) });
    }

    /// The timer's LVT entry: to TSC-deadline mode and back disarms the timer (SDM 11.5.4.1); between one-shot and periodic
    /// the count goes on.
    pub(super) fn set_timer_entry(&mut self, entry: u32) {
        let before = self.timer_mode();
        self.state.lvt[TIMER] = entry;
        let after = self.timer_mode();
        if before != after && !(before.counts() && after.counts()) {
            self.state.counting = None;
            self.state.initial_count = 0;
            self.state.deadline = None;
        }
    }

    /// IA32_TSC_DEADLINE as the guest reads it: 0 unless it is armed.
    pub(super) fn deadline(&self) -> u64 {
        self.state.deadline.map_or(0, |deadline| deadline.tsc)
    }

    /// A write of IA32_TSC_DEADLINE: 0 disarms. Ignored in other modes.
    pub(super) fn set_deadline(&mut self, deadline: u64, now: u64, tsc: Tsc) {
        if self.timer_mode() != TimerMode::TscDeadline {
            return;
        }
        let at = || tsc.time_of(deadline, now);
        self.state.deadline = (deadline != 0).then(|| Deadline { tsc: deadline, at: at() });
        // One that has passed already fires at once.
        self.advance(now);
    }

    /// The guest has set its TSC at `now`: an armed deadline is another time now.
    pub fn set_tsc(&mut self, now: u64, tsc: Tsc) {
        self.advance(now);
        if let Some(Deadline { tsc: deadline, .. }) = self.state.deadline {
            self.set_deadline(deadline, now, tsc);
        }
    }
}
