//! Two vCPUs with the same guest, one on KVM and one in software, that go on step by step: after each they must be the same.

use scribe_soft_cpu::Behaviour;
use scribe_vmm::engine::cpu::{CpuState, Registers};
use scribe_vmm::engine::kvm::Kvm;
use scribe_vmm::engine::soft::Soft;
use scribe_vmm::engine::{Answer, Engine, Exit, Progress, Stop};
use scribe_vmm::machine::boot::{self, SEED_BYTES};
use scribe_vmm::machine::cpuid;
use scribe_vmm::machine::kernel::{Blob, BootFiles};
use scribe_vmm::machine::memory::GuestRam;
use scribe_vmm::session::start::prepare_process;

use crate::ring0::Case;
use crate::tiny::{self, Emitted};
use iced_x86::code_asm::CodeAssembler;

/// Page-table A and D, which depend on the TLB.
const ACCESSED_DIRTY: u64 = 0b110_0000;

/// One of the two.
struct One {
    engine: Box<dyn Engine>,
    ram: GuestRam,
}

/// The same guest twice.
pub struct Pair {
    kvm: One,
    soft: One,
    /// steps so far
    pub steps: u64,
    /// conditional branches so far
    pub branches: u64,
    /// exits so far
    pub exits: Vec<Exit>,
}

/// How a guest's course ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// a HLT with interrupts off
    Halted,
    /// a fault, the same on both
    Fault(String),
    /// it would go on
    Going,
}

/// The behaviour of the processor under this host's KVM.
pub fn behaviour() -> Behaviour {
    if std::env::var_os("SCRIBE_LAB").is_some() { Behaviour::Tcg } else { Behaviour::Zen }
}

impl Pair {
    /// At the first instruction of the guest that `emit` assembles.
    pub fn tiny(emit: impl FnOnce(&mut CodeAssembler) -> Emitted) -> Self {
        let kernel = Blob { source: "tiny".into(), bytes: tiny::kernel(emit) };
        let files = BootFiles { kernel, initrd: None };
        Self::new(|ram| boot::load(ram, None, &files, "", &[0; SEED_BYTES]).unwrap())
    }

    /// At the start of a case of [`crate::ring0`].
    pub fn ring0(case: &Case) -> Self {
        Self::new(|ram| case.set_up(ram).clone())
    }

    fn new(set_up: impl Fn(&GuestRam) -> CpuState) -> Self {
        prepare_process().unwrap();
        let one = |make: &dyn Fn(&GuestRam) -> Box<dyn Engine>| {
            let ram = GuestRam::new(tiny::RAM).unwrap();
            let start = set_up(&ram);
            let mut engine = make(&ram);
            engine.set_state(&start).unwrap();
            engine.track_dirty_pages().unwrap();
            One { engine, ram }
        };
        Self {
            kvm: one(&|ram| Box::new(Kvm::new(ram).unwrap())),
            soft: one(&|ram| Box::new(Soft::new(ram, &cpuid::PROFILES[0], behaviour()))),
            steps: 0,
            branches: 0,
            exits: Vec::new(),
        }
    }

    /// Goes on by at most `most` steps, and compares everything after each.
    ///
    /// # Errors
    /// What differs.
    pub fn run(&mut self, most: u64) -> Result<Ended, String> {
        while self.steps < most {
            let at = self.soft.engine.progress();
            let until = Some(Progress { steps: at.steps + 1, ..at });
            let place = format!("step {} at {:x?}", self.steps, self.soft.engine.registers().rip);
            let kvm = run(&mut self.kvm, until).map_err(|e| format!("{place}: {e}"))?;
            let soft = run(&mut self.soft, until).map_err(|e| format!("{place}: {e}"))?;
            let same = match (&kvm, &soft) {
                (Stop::Fault(kvm), Stop::Fault(soft)) => {
                    std::mem::discriminant(kvm) == std::mem::discriminant(soft)
                }
                (kvm, soft) => kvm == soft,
            };
            if !same {
                return Err(format!("{place}: KVM came to {kvm:?}, soft to {soft:?}"));
            }
            match soft {
                Stop::Reached => {
                    self.steps += 1;
                    self.branches += self.soft.engine.progress().branches - at.branches;
                }
                Stop::InterruptWindow => {}
                Stop::Fault(fault) => return Ok(Ended::Fault(format!("{fault:?}"))),
                Stop::Exit(exit) => {
                    let halted = self.serve(exit, &place)?;
                    if halted && !self.soft.engine.registers().interrupts_enabled() {
                        self.compare(&place)?;
                        return Ok(Ended::Halted);
                    }
                }
                Stop::Kicked => return Err(format!("{place}: kicked")),
            }
            self.compare(&place)?;
        }
        Ok(Ended::Going)
    }

    /// Injects an interrupt into both, if both can take it, which they must agree on.
    pub fn inject(&mut self, vector: u8) -> bool {
        let can = self.soft.engine.can_inject();
        assert_eq!(self.kvm.engine.can_inject(), can);
        if can {
            self.kvm.engine.inject(vector).unwrap();
            self.soft.engine.inject(vector).unwrap();
        }
        can
    }

    /// KVM's vCPU becomes another one, of a VM of its own, with the state and the place of this one.
    pub fn replace(&mut self) {
        let state = self.kvm.engine.state().unwrap();
        let ram = GuestRam::new(tiny::RAM).unwrap();
        let mut bytes = vec![0; usize::try_from(tiny::RAM).unwrap()];
        self.kvm.ram.read(0, &mut bytes).unwrap();
        ram.write(0, &bytes).unwrap();
        let mut engine = Box::new(Kvm::new(&ram).unwrap());
        engine.set_state(&state).unwrap();
        engine.set_progress(self.kvm.engine.progress()).unwrap();
        engine.track_dirty_pages().unwrap();
        self.kvm = One { engine, ram };
    }

    /// Asks both for an interrupt window.
    pub fn request_window(&mut self, wanted: bool) {
        self.kvm.engine.request_window(wanted);
        self.soft.engine.request_window(wanted);
    }

    /// Runs both freely to the next stop, which must be the same.
    ///
    /// # Errors
    /// What differs.
    pub fn free(&mut self) -> Result<Stop, String> {
        let kvm = run(&mut self.kvm, None)?;
        let soft = run(&mut self.soft, None)?;
        if kvm != soft {
            return Err(format!("KVM came to {kvm:?}, soft to {soft:?}"));
        }
        if let Stop::Exit(exit) = soft {
            self.serve(exit, "running freely")?;
        }
        self.compare("running freely")?;
        Ok(soft)
    }

    /// Registers at the last stop.
    pub fn registers(&self) -> Registers {
        self.soft.engine.registers()
    }

    fn serve(&mut self, exit: Exit, place: &str) -> Result<bool, String> {
        let mut next = Some(exit);
        let mut halted = false;
        while let Some(exit) = next {
            halted |= exit == Exit::Halt;
            let number = self.exits.len() as u64;
            let answer = match exit {
                Exit::MsrRead { .. } | Exit::MsrWrite { .. } => Answer::GeneralProtection,
                Exit::PortRead { .. } | Exit::MmioRead { .. } => {
                    Answer::Value(0x0101_0101_0101_0101 * number)
                }
                _ => Answer::Done,
            };
            self.exits.push(exit);
            let [kvm, soft] = [&mut self.kvm, &mut self.soft].map(|one| {
                one.engine.answer(answer);
                one.engine.finish().unwrap()
            });
            if kvm != soft {
                return Err(format!("{place}: behind {exit:?} KVM goes on with {kvm:?}, soft with {soft:?}"));
            }
            next = soft;
        }
        Ok(halted)
    }

    /// State, counts, what has been written, and all that was.
    fn compare(&mut self, place: &str) -> Result<(), String> {
        let (kvm, soft) = (state(&mut self.kvm), state(&mut self.soft));
        if kvm != soft {
            let (kvm, soft) = (text(&kvm, &soft), text(&soft, &kvm));
            return Err(format!("{place}: states differ\nkvm  {kvm}\nsoft {soft}"));
        }
        let (kvm, soft) = (self.kvm.engine.as_ref(), self.soft.engine.as_ref());
        if kvm.progress() != soft.progress() {
            return Err(format!("{place}: {:?} on KVM, {:?} on soft", kvm.progress(), soft.progress()));
        }
        if kvm.can_inject() != soft.can_inject() {
            return Err(format!("{place}: an interrupt could be injected into one alone"));
        }
        let kvm = self.kvm.engine.take_dirty_pages().unwrap();
        let soft = self.soft.engine.take_dirty_pages().unwrap();
        // Of page tables, whose A and D bits depend on the TLB, either side may write more.
        if let Some(frame) = soft.iter().find(|frame| !kvm.contains(frame) && !self.is_table(**frame)) {
            return Err(format!("{place}: frame {frame:#x} is not among the written on KVM: {kvm:x?}"));
        }
        for frame in kvm.into_iter().chain(soft) {
            let [kvm, soft] = [&self.kvm, &self.soft].map(|one| page(&one.ram, frame));
            if let Some(n) = (0..kvm.len()).find(|n| kvm[*n] != soft[*n]) {
                let at = frame * 4096 + 8 * n as u64;
                return Err(format!("{place}: at {at:#x} is {:#x} on KVM, {:#x} on soft", kvm[n], soft[n]));
            }
        }
        Ok(())
    }

    /// Compares all of RAM.
    ///
    /// # Errors
    /// What differs.
    pub fn compare_all(&self) -> Result<(), String> {
        let differs = |frame: &u64| page(&self.kvm.ram, *frame) != page(&self.soft.ram, *frame);
        match (0..tiny::RAM / 4096).find(differs) {
            Some(frame) => Err(format!("frame {frame:#x} differs at the end")),
            None => Ok(()),
        }
    }

    /// True if all of a frame's words look like entries of page tables.
    fn is_table(&self, frame: u64) -> bool {
        page(&self.soft.ram, frame).iter().all(|word| *word == 0 || word & 1 == 1)
    }
}

fn run(one: &mut One, until: Option<Progress>) -> Result<Stop, String> {
    loop {
        match one.engine.run(until).map_err(|e| e.to_string())? {
            Stop::Kicked => {}
            stop => return Ok(stop),
        }
    }
}

/// Without RF, which no digest covers.
fn state(one: &mut One) -> CpuState {
    let mut state = one.engine.state().unwrap();
    assert_eq!(
        one.engine.registers().rflags & !Registers::RF,
        state.registers.rflags & !Registers::RF,
        "RFLAGS as told and as saved"
    );
    state.registers.rflags &= !Registers::RF;
    state
}

/// The words of a page, without A and D.
fn page(ram: &GuestRam, frame: u64) -> Vec<u64> {
    let mut bytes = vec![0; 4096];
    ram.read(frame * 4096, &mut bytes).unwrap();
    bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()) & !ACCESSED_DIRTY).collect()
}

/// The lines of a state that another has not.
fn text(state: &CpuState, other: &CpuState) -> String {
    let (state, other) = (format!("{state:#x?}"), format!("{other:#x?}"));
    let differ: Vec<&str> =
        state.lines().zip(other.lines()).filter(|(a, b)| a != b).map(|(a, _)| a.trim()).collect();
    differ.join(" ")
}
