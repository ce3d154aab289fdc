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

    /// Forgets all code that it has decoded: somebody else may have written anywhere.
    pub fn forget_code(&mut self) {
        self.cpu.forget_code();
    }

    /// See [`SoftCpu::continues_from`].
    pub fn continues_from(&mut self, start: u64) {
        self.cpu.continues_from(start);
    }

    /// Interrupts and exceptions that were delivered so far, but those by INT n and its kind.
    pub fn deliveries(&self) -> u64 {
        self.cpu.deliveries()
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

    fn set_progress(&mut self, at: Progress) -> Result<(), EngineError> {
        self.cpu.set_progress(at);
        Ok(())
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::engine::cpu::{Fpu, Segment};

    /// Real mode over 2 MiB: `inc ax; push ax; jmp` back to both.
    fn counting() -> (Soft, GuestRam) {
        let ram = GuestRam::new(2 << 20).unwrap();
        ram.write(0x1000, &[0x40, 0x50, 0xeb, 0xfc]).unwrap();
        let mut soft = Soft::new(&ram, cpuid::profile(cpuid::SCRIBE_V1).unwrap(), Behaviour::Zen);
        let segment = Segment { base: 0, limit: 0xffff, selector: 0, attributes: 0x93 };
        let ldt = Segment { attributes: 1 << 16, ..Segment::default() };
        let tss = Segment { limit: 0x67, attributes: 0x8b, ..Segment::default() };
        let [a, b, c, d, e, f] = [segment; 6];
        let mut registers = Registers { rip: 0x1000, rflags: 2, ..Registers::default() };
        registers.general[4] = 0x9000;
        let fpu = Fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Fpu::default() };
        let segments = [a, b, c, d, e, f, ldt, tss];
        let state = CpuState {
            registers,
            segments,
            cr0: 0x10,
            dr6: 0xffff_0ff0,
            dr7: 0x400,
            fpu,
            ..Default::default()
        };
        soft.set_state(&state).unwrap();
        (soft, ram)
    }

    fn run(soft: &mut Soft, steps: u64) {
        let at = soft.progress();
        let until = Progress { steps: at.steps + steps, ..at };
        assert_eq!(soft.run(Some(until)).unwrap(), Stop::Reached);
    }

    #[test]
    fn a_saved_processor_goes_on_where_it_was() {
        let (mut soft, ram) = counting();
        run(&mut soft, 7);
        let (state, parts) = (soft.state().unwrap(), soft.save_private().unwrap());
        let mut page = vec![0; 2 << 20];
        ram.read(0, &mut page).unwrap();
        run(&mut soft, 5);

        let (mut other, ram) = counting();
        ram.write(0, &page).unwrap();
        other.set_state(&state).unwrap();
        assert_eq!(other.progress(), Progress::NONE);
        for part in &parts {
            assert!(other.private_kinds().contains(&part.kind.as_str()));
            other.restore_private(part).unwrap();
        }
        run(&mut other, 5);
        assert_eq!((other.progress().steps, other.instructions()), (12, Some(12)));
        assert_eq!(other.state().unwrap(), soft.state().unwrap());
        assert_eq!(other.save_private().unwrap(), soft.save_private().unwrap());
    }

    #[test]
    fn parts_that_are_not_its_own_are_refused() {
        let (mut soft, _ram) = counting();
        run(&mut soft, 3);
        let part = soft.save_private().unwrap().remove(0);
        let refused = |soft: &mut Soft, part: Part| soft.restore_private(&part).unwrap_err().to_string();
        let newer = Part { version: part.version + 1, ..part.clone() };
        assert!(refused(&mut soft, newer).contains("version 2"));
        assert!(refused(&mut soft, Part { kind: "other".into(), ..part.clone() }).contains("no such part"));
        let longer = Part { bytes: [part.bytes.as_slice(), &[0]].concat(), ..part.clone() };
        assert!(refused(&mut soft, longer).contains("1 bytes too many"));
        for length in 0..part.bytes.len() {
            refused(&mut soft, Part { bytes: part.bytes[..length].to_vec(), ..part.clone() });
        }
        assert_eq!(soft.save_private().unwrap(), [part]);
    }

    #[test]
    fn executed_blocks_are_told() {
        let (mut soft, _ram) = counting();
        let told = Rc::new(RefCell::new(Vec::new()));
        let sink = Rc::clone(&told);
        soft.trace_blocks(Some(Box::new(move |block| {
            sink.borrow_mut().push((block.start, block.instructions))
        })))
        .unwrap();
        run(&mut soft, 7);
        soft.trace_blocks(None).unwrap();
        run(&mut soft, 3);
        assert_eq!(*told.borrow(), [(0x1000, 3), (0x1000, 3), (0x1000, 1)]);
    }
}
