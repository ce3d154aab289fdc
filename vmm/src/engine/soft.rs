//! The `soft` engine: [`scribe_soft_cpu`]'s processor over guest RAM. It counts branches and steps, and stops anywhere.
#![allow(unsafe_code)] // guest RAM is handed to the processor as addresses

use scribe_log::snapshots::Part;
use scribe_soft_cpu::{Behaviour, Profile, Ram, RamRegion, SoftCpu, SoftPrivate};

use super::cpu::{CpuState, Registers};
use super::{Answer, BlockSink, Engine, EngineError, Exit, PRIVATE_KINDS, Progress, Stop};
use crate::host::kick;
use crate::machine::cpuid;
use crate::machine::memory::GuestRam;

/// The behaviour of this name, as in recordings and on the command line.
pub fn behaviour(name: &str) -> Option<Behaviour> {
    [Behaviour::Zen, Behaviour::Tcg].into_iter().find(|behaviour| self::name(*behaviour) == name)
}

/// The behaviour's name.
pub fn name(behaviour: Behaviour) -> &'static str {
    match behaviour {
        Behaviour::Zen => "zen",
        Behaviour::Tcg => "tcg",
    }
}

/// One vCPU in software.
pub struct Soft {
    cpu: SoftCpu,
    /// keeps the mapping that `cpu` reaches by address
    _memory: GuestRam,
}

impl Soft {
    /// A vCPU over `memory`.
    pub fn new(memory: &GuestRam, profile: &cpuid::Profile, behaviour: Behaviour) -> Self {
        let regions =
            memory.regions().map(|r| RamRegion { start: r.start, size: r.size, host: r.host }).collect();
        // SAFETY: the regions are mapped readable and writable as long as the clone of `memory` beside the processor
        // lives. The thread that owns the machine runs the processor and is the only writer of guest memory.
        let ram = unsafe { Ram::new(regions) };
        let profile = Profile { cpuid: profile.table, tsc: profile.tsc, behaviour };
        Self { cpu: SoftCpu::new(ram, profile), _memory: memory.clone() }
    }
}

impl Engine for Soft {
    fn run(&mut self, until: Option<Progress>) -> Result<Stop, EngineError> {
        let stop = kick::with_flag(|flag| self.cpu.run(until, flag));
        if stop == Stop::Kicked {
            kick::take();
        }
        Ok(stop)
    }

    fn counts(&self) -> bool {
        true
    }

    fn progress(&self) -> Progress {
        self.cpu.progress()
    }

    fn instructions(&self) -> Option<u64> {
        Some(self.cpu.instructions())
    }

    fn invalidate(&mut self, frames: &[u64]) {
        self.cpu.invalidate(frames);
    }

    fn set_clock(&mut self, now: u64, ns_per_branch: u64) {
        self.cpu.set_clock(now, ns_per_branch);
    }

    fn answer(&mut self, answer: Answer) {
        self.cpu.answer(answer);
    }

    fn finish(&mut self) -> Result<Option<Exit>, EngineError> {
        Ok(self.cpu.finish())
    }

    fn registers(&self) -> Registers {
        self.cpu.registers()
    }

    fn can_inject(&self) -> bool {
        self.cpu.can_inject()
    }

    fn inject(&mut self, vector: u8) -> Result<(), EngineError> {
        if !self.cpu.can_inject() {
            return Err(EngineError::Unexpected(format!(
                "interrupt {vector:#x} injected where none can be taken"
            )));
        }
        self.cpu.inject(vector);
        Ok(())
    }

    fn request_window(&mut self, wanted: bool) {
        self.cpu.request_window(wanted);
    }

    fn state(&self) -> Result<CpuState, EngineError> {
        Ok(self.cpu.state())
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), EngineError> {
        Ok(self.cpu.set_state(state)?)
    }

    fn save_private(&self) -> Result<Vec<Part>, EngineError> {
        let (kind, version) = (SoftPrivate::KIND.into(), SoftPrivate::VERSION);
        match postcard::to_stdvec(&self.cpu.save_private()?) {
            Ok(bytes) => Ok(vec![Part { kind, version, bytes }]),
            Err(error) => Err(EngineError::Private { kind, reason: error.to_string() }),
        }
    }

    fn private_kinds(&self) -> &'static [&'static str] {
        &PRIVATE_KINDS
    }

    fn restore_private(&mut self, part: &Part) -> Result<(), EngineError> {
        let wrong = |reason: String| EngineError::Private { kind: part.kind.clone(), reason };
        if part.kind != SoftPrivate::KIND {
            return Err(wrong("the soft engine has no such part".into()));
        }
        if part.version != SoftPrivate::VERSION {
            let (found, known) = (part.version, SoftPrivate::VERSION);
            return Err(wrong(format!("it has version {found}; this program knows version {known}")));
        }
        match postcard::take_from_bytes::<SoftPrivate>(&part.bytes) {
            Ok((private, [])) => Ok(self.cpu.restore_private(&private)?),
            Ok((_, rest)) => Err(wrong(format!("{} bytes too many", rest.len()))),
            Err(error) => Err(wrong(error.to_string())),
        }
    }

    fn trace_blocks(&mut self, sink: Option<BlockSink>) -> Result<(), EngineError> {
        self.cpu.trace_blocks(sink);
        Ok(())
    }

    fn track_dirty_pages(&mut self) -> Result<(), EngineError> {
        self.cpu.track_dirty_pages();
        Ok(())
    }

    fn take_dirty_pages(&mut self) -> Result<Vec<u64>, EngineError> {
        Ok(self.cpu.take_dirty_pages())
    }
}
