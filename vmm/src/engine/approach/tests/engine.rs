//! The approach as a whole engine, over the simulated host: what the kvm engine with a counter is, for tests of sessions.

use std::cell::RefCell;

use scribe_soft_cpu::Behaviour;

use super::super::Approach;
use super::sim::{Manners, Sim};
use crate::engine::cpu::{CpuState, Registers};
use crate::engine::soft::Soft;
use crate::engine::{Answer, Engine, EngineError, Exit, Progress, Stop};
use crate::machine::memory::GuestRam;
use crate::session::choice::Choice;

/// What the simulated hosts of this thread are like, and the skids they were reckoned with, engine by engine.
#[derive(Default)]
struct Hosts {
    late: Option<u64>,
    skids: Vec<u64>,
}

thread_local! {
    static HOSTS: RefCell<Hosts> = RefCell::default();
}

/// From now on in this thread a kvm engine with a counter is a simulated one, whose overflows are up to `late` branches late.
pub(crate) fn simulate(late: u64) {
    HOSTS.with_borrow_mut(|hosts| *hosts = Hosts { late: Some(late), skids: Vec::new() });
}

/// The skids of the engines made since.
pub(crate) fn skids() -> Vec<u64> {
    HOSTS.with_borrow(|hosts| hosts.skids.clone())
}

/// Such an engine, if that was asked for.
pub(crate) fn simulated(ram: &GuestRam, choice: &Choice) -> Option<Box<dyn Engine>> {
    let counter = choice.counter.as_ref()?;
    let (late, seed) = HOSTS.with_borrow_mut(|hosts| {
        let late = hosts.late?;
        hosts.skids.push(counter.skid);
        Some((late, hosts.skids.len() as u64))
    })?;
    let soft = Soft::new(ram, choice.cpu, Behaviour::Zen);
    let manners = Manners { late, early: 4, lost: 0, kicks: 4 };
    Some(Box::new(Simulated {
        approach: Approach::new(counter.skid),
        sim: Sim::new(soft, manners, seed * 977),
    }))
}

struct Simulated {
    approach: Approach,
    sim: Sim,
}

impl Engine for Simulated {
    fn run(&mut self, until: Option<Progress>) -> Result<Stop, EngineError> {
        self.approach.run(&mut self.sim, until)
    }

    fn counts(&self) -> bool {
        true
    }

    fn counts_steps(&self) -> bool {
        false
    }

    fn progress(&self) -> Progress {
        self.approach.progress()
    }

    fn place_ahead(&self) -> Option<Progress> {
        self.approach.place_ahead()
    }

    fn set_progress(&mut self, at: Progress) -> Result<(), EngineError> {
        self.approach.restart(at);
        self.sim.soft.set_progress(at)
    }

    fn invalidate(&mut self, frames: &[u64]) {
        self.sim.soft.invalidate(frames);
    }

    fn answer(&mut self, answer: Answer) {
        self.sim.soft.answer(answer);
    }

    fn finish(&mut self) -> Result<Option<Exit>, EngineError> {
        let next = self.sim.soft.finish()?;
        self.approach.restart(Progress::NONE);
        Ok(next)
    }

    fn registers(&self) -> Registers {
        self.sim.soft.registers()
    }

    fn can_inject(&self) -> bool {
        self.sim.soft.can_inject()
    }

    fn inject(&mut self, vector: u8) -> Result<(), EngineError> {
        self.sim.soft.inject(vector)
    }

    fn request_window(&mut self, wanted: bool) {
        self.sim.soft.request_window(wanted);
    }

    fn state(&self) -> Result<CpuState, EngineError> {
        self.sim.soft.state()
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), EngineError> {
        self.approach.restart(Progress::NONE);
        self.sim.soft.set_state(state)
    }

    fn track_dirty_pages(&mut self) -> Result<(), EngineError> {
        self.sim.soft.track_dirty_pages()
    }

    fn take_dirty_pages(&mut self) -> Result<Vec<u64>, EngineError> {
        self.sim.soft.take_dirty_pages()
    }
}
