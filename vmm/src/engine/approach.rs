//! Reaching a counted place with a counter that overruns: run until shortly before it, then step.
//!
//! A processor's counter says exactly how many conditional branches have retired, but its overflow interrupt comes late, by
//! up to a number of branches that depends on the processor: the skid. So the overflow is asked for a skid before the
//! place, the guest runs, and what is left is stepped over, one instruction at a time. The count is read again whenever the
//! guest comes back, whatever brought it back: overflows are late, early, or lost, and none of them is believed.
//!
//! While the guest runs nobody counts instructions, so how many there were since the last branch is not known until a step
//! goes over the next branch. A guest that comes back from a run at the place's branch or behind it may have passed the
//! place: [`EngineError::Overshoot`]. The counter and the steps must agree: [`EngineError::Miscounted`].
//!
//! This knows nothing of KVM and of how counting is done: [`Counted`] is a processor with a counter, which in tests is
//! the soft one with a counter that behaves badly.

use super::{EngineError, Progress, Stop};

/// A processor and its counter of retired conditional branches.
pub trait Counted {
    /// Conditional branches retired since the last exit was finished, as the counter says now.
    ///
    /// # Errors
    /// The counter cannot be read, or does not count any more.
    fn count(&mut self) -> Result<u64, EngineError>;

    /// From now on an overflow is to interrupt the guest once, after so many more branches (at least 1).
    ///
    /// # Errors
    /// Host-side failures only.
    fn arm(&mut self, branches: u64) -> Result<(), EngineError>;

    /// No overflow is to come any more; one that is on its way may.
    ///
    /// # Errors
    /// Host-side failures only.
    fn disarm(&mut self) -> Result<(), EngineError>;

    /// Runs the guest until a stop, or until something interrupts it, an overflow among others.
    ///
    /// # Errors
    /// Host-side failures only.
    fn go(&mut self) -> Result<Went, EngineError>;

    /// Executes one instruction, or one iteration of a REP instruction. Events that are delivered before it (an interrupt
    /// that was injected, a fault and its handler's beginning) belong to it.
    ///
    /// # Errors
    /// Host-side failures only.
    fn step(&mut self) -> Result<Stepped, EngineError>;

    /// True, once, if the host has kicked the vCPU: what interrupted it was not the counter alone.
    fn take_kick(&mut self) -> bool;
}

/// How a run came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Went {
    /// with a stop. [`Stop::Exit`]: the instruction that exits has not retired
    Stop(Stop),
    /// because of a signal; the guest is between two instructions
    Interrupted,
}

/// How a step came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stepped {
    /// one instruction or iteration has retired
    Retired {
        /// it is a conditional branch, as [`Progress::branches`] counts them
        branch: bool,
    },
    /// none has
    Stop(Stop),
}

/// Steps without a branch after which a place that is to come behind the next branch is given up: between two branches
/// there are some ten instructions, or one REP instruction with up to 2^32 iterations.
const MOST_STEPS: u64 = 1000;

/// Where a guest is, and how it gets to a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approach {
    /// branches by which an overflow may come late
    skid: u64,
    /// branches since the last exit, as of the last stop
    branches: u64,
    /// instructions since the last of them; `None`: the guest has run, and nobody knows
    steps: Option<u64>,
    /// steps since the last branch or run, known or not where that began
    straight: u64,
    /// no branch came in [`MOST_STEPS`] steps
    gave_up: bool,
    armed: bool,
}

impl Approach {
    /// For a vCPU right behind an exit, whose overflows come at most `skid` branches late.
    pub fn new(skid: u64) -> Self {
        Self { skid, branches: 0, steps: Some(0), straight: 0, gave_up: false, armed: false }
    }

    /// An exit was finished, or a state loaded, which is `at` so far behind an exit: counting begins anew.
    pub fn restart(&mut self, at: Progress) {
        let Progress { branches, steps } = at;
        *self = Self { armed: self.armed, branches, steps: Some(steps), ..Self::new(self.skid) };
    }

    /// How far the guest has come since its last exit. Where only the branches are known, no steps.
    pub fn progress(&self) -> Progress {
        Progress { branches: self.branches, steps: self.steps.unwrap_or(0) }
    }

    /// True if [`progress`](Self::progress) has the steps too.
    pub fn is_exact(&self) -> bool {
        self.steps.is_some()
    }

    /// The next place at which the guest can be stopped: right behind the next branch, or, if none comes for long, one
    /// instruction on. `None`: none comes, and where the guest is has no name.
    pub fn place_ahead(&self) -> Option<Progress> {
        if !self.gave_up {
            return Some(Progress { branches: self.branches.saturating_add(1), steps: 0 });
        }
        let steps = self.steps?.saturating_add(1);
        Some(Progress { branches: self.branches, steps })
    }

    /// Runs the guest to `until`, counted from the last exit, as [`Engine::run`](super::Engine::run) promises.
    ///
    /// # Errors
    /// [`EngineError::Overshoot`] if it may have gone past, [`EngineError::Miscounted`] if counter and steps say different
    /// things, and failures of the host. Where the guest is then is not known.
    pub fn run(&mut self, cpu: &mut impl Counted, until: Option<Progress>) -> Result<Stop, EngineError> {
        loop {
            if let Some(place) = until
                && self.has_reached(place)?
            {
                return Ok(Stop::Reached);
            }
            let stop = match until.map(|place| (place, self.room_before(place))) {
                None => self.go(cpu, None)?,
                Some((place, Some(room))) => self.go(cpu, Some((place, room)))?,
                Some((place, None)) => self.step(cpu, place)?,
            };
            if let Some(stop) = stop {
                return Ok(stop);
            }
        }
    }

    /// True if the guest is at `place` or behind it.
    fn has_reached(&self, place: Progress) -> Result<bool, EngineError> {
        match self.steps {
            Some(_) => Ok(self.progress() >= place),
            None if self.branches < place.branches => Ok(false),
            None => Err(self.overshoot(place)),
        }
    }

    /// Branches that the guest may run before an overflow is due, if it may run at all.
    fn room_before(&self, place: Progress) -> Option<u64> {
        let left = place.branches.saturating_sub(self.branches);
        // Even the latest overflow is to come before the last branch: how many steps there are behind a branch is known
        // only of one that was stepped over.
        left.checked_sub(self.skid.saturating_add(1)).filter(|room| *room > 0)
    }

    fn overshoot(&self, wanted: Progress) -> EngineError {
        EngineError::Overshoot { wanted, branches: self.branches, skid: self.skid }
    }

    /// Lets the guest run, to an overflow if there is a place ahead.
    fn go(
        &mut self,
        cpu: &mut impl Counted,
        ahead: Option<(Progress, u64)>,
    ) -> Result<Option<Stop>, EngineError> {
        match ahead {
            Some((_, room)) => {
                cpu.arm(room)?;
                self.armed = true;
            }
            None => self.disarm(cpu)?,
        }
        let went = cpu.go()?;
        let count = cpu.count()?;
        if count < self.branches {
            return Err(EngineError::Miscounted { counter: count, stepped: self.branches });
        }
        if count > self.branches {
            self.gave_up = false;
        }
        (self.branches, self.steps, self.straight) = (count, None, 0);
        if let Some((place, _)) = ahead
            && count >= place.branches
        {
            return Err(self.overshoot(place));
        }
        Ok(match went {
            Went::Stop(stop) => Some(stop),
            Went::Interrupted => cpu.take_kick().then_some(Stop::Kicked),
        })
    }

    /// One step towards `place`.
    fn step(&mut self, cpu: &mut impl Counted, place: Progress) -> Result<Option<Stop>, EngineError> {
        self.disarm(cpu)?;
        let stepped = cpu.step()?;
        match stepped {
            Stepped::Retired { branch: true } => {
                self.branches = self.branches.saturating_add(1);
                (self.steps, self.straight, self.gave_up) = (Some(0), 0, false);
            }
            Stepped::Retired { branch: false } => {
                self.steps = self.steps.map(|steps| steps.saturating_add(1));
                self.straight = self.straight.saturating_add(1);
            }
            Stepped::Stop(_) => {}
        }
        let counter = cpu.count()?;
        if counter != self.branches {
            return Err(EngineError::Miscounted { counter, stepped: self.branches });
        }
        if let Stepped::Stop(stop) = stepped {
            return Ok(Some(stop));
        }
        // At the place nothing else is to happen, not even a kick.
        if self.has_reached(place)? {
            return Ok(None);
        }
        let is_next = place == Progress { branches: self.branches.saturating_add(1), steps: 0 };
        if is_next && self.straight >= MOST_STEPS && !self.gave_up {
            self.gave_up = true;
            return Ok(Some(Stop::Kicked));
        }
        Ok(cpu.take_kick().then_some(Stop::Kicked))
    }

    fn disarm(&mut self, cpu: &mut impl Counted) -> Result<(), EngineError> {
        if std::mem::take(&mut self.armed) {
            cpu.disarm()?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
