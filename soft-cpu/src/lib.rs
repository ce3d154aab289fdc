//! A deterministic x86-64 processor in software: no I/O, no host clock, no threads.
//!
//! [`SoftCpu`] runs over guest RAM until an exit, a place counted in branches and instructions, or a kick, and gives the
//! same [`Stop`]s as KVM does.

// Registers, offsets and widths are cut to size all over a processor; where a cut could lose something, it is the
// guest's own arithmetic.
#![allow(clippy::cast_possible_truncation, reason = "a processor cuts values to operand sizes")]

mod access;
mod block;
mod cpu;
#[cfg(test)]
mod exact;
mod executed;
mod flags;
#[cfg(test)]
mod found;
mod fpu;
mod int;
mod lower;
mod mmu;
mod op;
#[cfg(test)]
mod places;
mod private;
mod ram;
mod run;
mod sse;
mod state;
mod string;
mod system;
#[cfg(test)]
mod testing;
mod word;
mod x87;

pub use private::{SoftPrivate, SoftState};
pub use ram::{Ram, RamRegion};

use block::{Behind, Cache};
use cpu::Cpu;
use mmu::Mmu;
use scribe_types::cpu::{CpuState, Registers};
use scribe_types::executed::BlockSink;
use scribe_types::stop::Stop;

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
///
/// [`run`](Self::run) until a stop; an exit is served by [`answer`](Self::answer) and [`finish`](Self::finish).
pub struct SoftCpu {
    cpu: Cpu,
    cache: Cache,
    /// an open interrupt window is a stop
    window: bool,
    /// instructions retired at the last exit or conditional branch
    mark: u64,
    /// the instruction whose exit is being served
    exiting: Option<run::One>,
    /// the instruction of an exit is being retired
    finishing: bool,
    /// what has run of the block that goes on at RIP, if one does
    behind: Option<Behind>,
    /// a stop that came up while an instruction was being retired
    deferred: Option<Stop>,
    /// who is told of executed blocks
    sink: Option<BlockSink>,
    /// events delivered between instructions
    deliveries: u64,
}

impl SoftCpu {
    /// A processor over `ram`; [`set_state`](Self::set_state) comes next.
    pub fn new(ram: Ram, profile: Profile) -> Self {
        Self {
            cpu: Cpu::new(Mmu::new(ram), profile),
            cache: Cache::new(),
            window: false,
            mark: 0,
            exiting: None,
            finishing: false,
            behind: None,
            deferred: None,
            sink: None,
            deliveries: 0,
        }
    }

    /// General registers, RIP, RFLAGS at the last stop.
    pub fn registers(&self) -> Registers {
        self.cpu.registers()
    }

    /// An external interrupt, delivered by the next [`run`](Self::run). Only where [`can_inject`](Self::can_inject).
    pub fn inject(&mut self, vector: u8) {
        self.cpu.interrupt = Some(vector);
        self.cpu.update_careful();
    }

    /// Asks for [`Stop::InterruptWindow`] as soon as the guest can take an interrupt; `false` takes that back.
    pub fn request_window(&mut self, wanted: bool) {
        self.window = wanted;
    }

    /// The whole state. Only between instructions.
    pub fn state(&self) -> CpuState {
        self.cpu.save()
    }

    /// Replaces the whole state. What was counted since the last exit is forgotten, and the TLB is empty.
    ///
    /// # Errors
    /// A state that no such processor can be in. Nothing has changed then.
    pub fn set_state(&mut self, state: &CpuState) -> Result<(), StateError> {
        self.cpu.check(state)?;
        self.cpu.restore(state);
        self.cpu.branches = 0;
        self.mark = self.cpu.instructions;
        self.deferred = None;
        self.exiting = None;
        self.behind = None;
        Ok(())
    }

    /// What RDTSC reads: `now` at the last exit, and so much more for each conditional branch since (guest ns).
    pub fn set_clock(&mut self, now: u64, ns_per_branch: u64) {
        self.cpu.clock = (now, ns_per_branch);
    }

    /// From now on `sink` is told of each block of instructions that has retired; `None`: nobody is. At each stop it has
    /// been told of all [`instructions`](Self::instructions) since. The guest sees nothing of it.
    pub fn trace_blocks(&mut self, sink: Option<BlockSink>) {
        self.sink = sink;
    }

    /// Starts tracking written pages. Idempotent.
    pub fn track_dirty_pages(&mut self) {
        self.cpu.mmu.track();
    }

    /// Guest frames the processor has written since the last call, ascending. Empty unless tracking.
    pub fn take_dirty_pages(&mut self) -> Vec<u64> {
        self.cpu.mmu.take_written()
    }

    /// Somebody else has written these guest frames: code in them is decoded anew.
    pub fn invalidate(&mut self, frames: &[u64]) {
        for &frame in frames {
            self.cache.page_overwritten(&mut self.cpu, frame);
        }
    }

    /// Empties the cache of blocks, as happens when it is full. For those who cannot say which frames somebody else has
    /// written.
    pub fn forget_code(&mut self) {
        self.cache.clear(&mut self.cpu);
    }

    /// Interrupts and exceptions delivered since the processor was made, but those by INT n and its kind.
    pub fn deliveries(&self) -> u64 {
        self.deliveries
    }

    /// Instructions retired since the processor was made, each iteration of REP counted.
    pub fn instructions(&self) -> u64 {
        self.cpu.instructions
    }
}
