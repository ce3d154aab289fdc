//! A deterministic x86-64 processor in software: no I/O, no host clock, no threads.
//!
//! [`SoftCpu`] runs over guest RAM until an exit, a place counted in branches and instructions, or a kick, and gives the
//! same [`Stop`](scribe_types::stop::Stop)s as KVM does.

mod ram;

pub use ram::{Ram, RamRegion};

use scribe_types::cpu::{CpuState, Registers};
use scribe_types::stop::{Answer, Exit, Progress, Stop};
use std::sync::atomic::AtomicBool;

/// What the manuals leave open, decided (docs/determinism.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Behaviour {
    /// as AMD's Zen processors
    #[default]
    Zen,
    /// as QEMU's emulated processor
    Tcg,
}

/// What processor the guest sees.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// CPUID leaves; others read as zero
    pub cpuid: &'static [scribe_types::cpuid::Leaf],
    /// RDTSC and RDTSCP read guest time; otherwise they are #UD
    pub tsc: bool,
    /// open results
    pub behaviour: Behaviour,
}

/// A state that the processor cannot hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("CPU state: {0}")]
pub struct StateError(pub String);

/// One processor.
pub struct SoftCpu {
    _ram: Ram,
    _profile: Profile,
}

#[expect(unused_variables, clippy::missing_errors_doc, reason = "not written yet")]
impl SoftCpu {
    /// A processor over `ram` with all registers zero; [`set_state`](Self::set_state) comes next.
    pub fn new(ram: Ram, profile: Profile) -> Self {
        Self { _ram: ram, _profile: profile }
    }
    /// Runs until an exit, a fault, `until` (counted from the last exit), an open interrupt window that was asked for, or
    /// until `kick` is true (looked at, not cleared).
    pub fn run(&mut self, until: Option<Progress>, kick: &AtomicBool) -> Stop {
        Stop::Kicked
    }
    /// Supplies the answer to the exit being served.
    pub fn answer(&mut self, answer: Answer) {}
    /// Retires the instruction of the exit being served; `Some`: its next exit.
    pub fn finish(&mut self) -> Option<Exit> {
        None
    }
    /// General registers, RIP, RFLAGS at the last stop.
    pub fn registers(&self) -> Registers {
        Registers::default()
    }
    /// Where the processor is since the last exit.
    pub fn progress(&self) -> Progress {
        Progress::NONE
    }
    /// An external interrupt can be taken now.
    pub fn can_inject(&self) -> bool {
        false
    }
    /// An external interrupt, delivered by the next [`run`](Self::run).
    pub fn inject(&mut self, vector: u8) {}
    /// Asks for [`Stop::InterruptWindow`].
    pub fn request_window(&mut self, wanted: bool) {}
    /// The whole state. Only between instructions.
    pub fn state(&self) -> CpuState {
        CpuState::default()
    }
    /// Replaces the whole state.
    pub fn set_state(&mut self, state: &CpuState) -> Result<(), StateError> {
        Ok(())
    }
    /// What RDTSC reads: `now` at the last exit, and so much more for each conditional branch since (guest ns).
    pub fn set_clock(&mut self, now: u64, ns_per_branch: u64) {}
    /// Starts tracking written pages.
    pub fn track_dirty_pages(&mut self) {}
    /// Frames the processor has written since the last call, ascending.
    pub fn take_dirty_pages(&mut self) -> Vec<u64> {
        Vec::new()
    }
    /// Somebody else has written these frames: code in them is decoded anew.
    pub fn invalidate(&mut self, frames: &[u64]) {}
    /// Instructions retired since the processor was made.
    pub fn instructions(&self) -> u64 {
        0
    }
}
