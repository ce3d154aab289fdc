//! A simulated host: the soft processor, whose counter is exact and whose overflows are not.

use super::super::{Counted, Stepped, Went};
use crate::engine::soft::Soft;
use crate::engine::{Engine, EngineError, Progress, Stop};

/// How the host behaves. Chances are in 256.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Manners {
    /// most branches by which an overflow is late
    pub(super) late: u64,
    /// chance that an overflow comes before it is due
    pub(super) early: u8,
    /// chance that an overflow does not come at all
    pub(super) lost: u8,
    /// chance of a kick at each return
    pub(super) kicks: u8,
}

/// The host.
pub(super) struct Sim {
    pub(super) soft: Soft,
    manners: Manners,
    random: u64,
    armed: Option<u64>,
    /// an overflow is on its way, though nothing is armed any more
    stray: bool,
    kicked: bool,
    /// what the counter says too much
    pub(super) excess: u64,
    /// how often the guest was stepped
    pub(super) steps: u64,
    /// how often it ran
    pub(super) runs: u64,
}

impl Sim {
    pub(super) fn new(soft: Soft, manners: Manners, seed: u64) -> Self {
        let random = seed | 1;
        let (armed, stray, kicked) = (None, false, false);
        Self { soft, manners, random, armed, stray, kicked, excess: 0, steps: 0, runs: 0 }
    }

    /// The next run is over after a few instructions, with a kick.
    pub(super) fn interrupt_soon(&mut self) {
        (self.stray, self.kicked) = (true, true);
    }

    /// Below `most`, which is not 0.
    fn below(&mut self, most: u64) -> u64 {
        // xorshift64* (Marsaglia 2003, Vigna 2016)
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % most
    }

    fn chance(&mut self, of_256: u8) -> bool {
        self.below(256) < of_256.into()
    }
}

impl Counted for Sim {
    fn count(&mut self) -> Result<u64, EngineError> {
        Ok(self.soft.progress().branches + self.excess)
    }

    fn arm(&mut self, branches: u64) -> Result<(), EngineError> {
        assert!(branches > 0, "an overflow after no branch at all");
        self.armed = Some(branches);
        Ok(())
    }

    fn disarm(&mut self) -> Result<(), EngineError> {
        self.stray |= self.armed.take().is_some() && self.below(4) == 0;
        Ok(())
    }

    fn go(&mut self) -> Result<Went, EngineError> {
        self.runs += 1;
        let here = self.soft.progress();
        // A host has other reasons to interrupt a guest, and looks after one that is silent for long.
        let mut after = 70_000 + self.below(20_000);
        let mut kick = self.chance(self.manners.kicks);
        if kick || self.chance(self.manners.early) {
            after = self.below(after);
        }
        if let Some(armed) = self.armed {
            let early = self.chance(self.manners.early);
            let due = if early { self.below(armed) } else { armed + self.below(self.manners.late + 1) };
            if !self.chance(self.manners.lost) && due <= after {
                (after, kick) = (due, self.chance(self.manners.kicks));
            }
        }
        if std::mem::take(&mut self.stray) {
            after = 0;
        }
        let begun = if after == 0 { here.steps } else { 0 };
        // Between two branches of these guests there is another instruction at least.
        let until = Progress { branches: here.branches + after, steps: begun + self.below(2) };
        match self.soft.run(Some(until))? {
            Stop::Reached => {
                self.kicked |= kick;
                Ok(Went::Interrupted)
            }
            stop => {
                self.stray = self.armed.is_some() && self.below(8) == 0;
                Ok(Went::Stop(stop))
            }
        }
    }

    fn step(&mut self) -> Result<Stepped, EngineError> {
        self.steps += 1;
        assert!(self.armed.is_none(), "an overflow while the guest is stepped");
        if self.chance(self.manners.kicks) && self.below(16) == 0 {
            self.kicked = true;
            if self.below(2) == 0 {
                return Ok(Stepped::Stop(Stop::Kicked));
            }
        }
        let here = self.soft.progress();
        match self.soft.run(Some(Progress { steps: here.steps + 1, ..here }))? {
            Stop::Reached => Ok(Stepped::Retired { branch: self.soft.progress().branches != here.branches }),
            stop => Ok(Stepped::Stop(stop)),
        }
    }

    fn take_kick(&mut self) -> bool {
        std::mem::take(&mut self.kicked)
    }
}
