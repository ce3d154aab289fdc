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
        Self::new(|ram| boot::load(ram, &files, "", &[0; SEED_BYTES]).unwrap())
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
        let mut written = [Vec::new(), Vec::new()];
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
                        self.compare(&place, &mut written)?;
                        return Ok(Ended::Halted);
                    }
                }
                Stop::Kicked => return Err(format!("{place}: kicked")),
            }
            self.compare(&place, &mut written)?;
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
        let mut written = [Vec::new(), Vec::new()];
        self.compare("running freely", &mut written)?;
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

    fn compare(&mut self, place: &str, written: &mut [Vec<u64>; 2]) -> Result<(), String> {
        let (kvm, soft) = (state(&mut self.kvm), state(&mut self.soft));
        if kvm != soft {
            return Err(format!(
                "{place}: states differ\nkvm  {}\nsoft {}",
                text(&kvm, &soft),
                text(&soft, &kvm)
            ));
        }
        let (kvm, soft) = (self.kvm.engine.as_ref(), self.soft.engine.as_ref());
        if kvm.progress() != soft.progress() {
            return Err(format!("{place}: {:?} on KVM, {:?} on soft", kvm.progress(), soft.progress()));
        }
        if kvm.can_inject() != soft.can_inject() {
            return Err(format!("{place}: an interrupt could be injected into one alone"));
        }
        for (one, written) in [&mut self.kvm, &mut self.soft].into_iter().zip(written.iter_mut()) {
            *written = one.engine.take_dirty_pages().unwrap();
        }
        let [kvm, soft] = [&self.kvm, &self.soft].map(|one| ram(&one.ram));
        if kvm != soft {
            let at = kvm.iter().zip(&soft).position(|(kvm, soft)| kvm != soft).unwrap_or(0);
            return Err(format!(
                "{place}: at {:#x} is {:#x} on KVM, {:#x} on soft",
                at * 8,
                kvm[at],
                soft[at]
            ));
        }
        // Each frame that the soft engine has written, KVM's side has to know of; of page tables it may know less.
        if let Some(frame) = written[1].iter().find(|frame| !written[0].contains(frame)) {
            let is_table = self.is_table(*frame);
            if !is_table {
                return Err(format!(
                    "{place}: frame {frame:#x} is not among the written on KVM: {written:x?}"
                ));
            }
        }
        Ok(())
    }

    /// True if all of a frame's words look like entries of page tables.
    fn is_table(&self, frame: u64) -> bool {
        let mut bytes = vec![0; 4096];
        self.soft.ram.read(frame * 4096, &mut bytes).unwrap();
        bytes.chunks(8).all(|word| {
            let word = u64::from_le_bytes(word.try_into().unwrap());
            word == 0 || word & 1 == 1
        })
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

/// All words of RAM, without A and D.
fn ram(ram: &GuestRam) -> Vec<u64> {
    let mut bytes = vec![0; usize::try_from(tiny::RAM).unwrap()];
    ram.read(0, &mut bytes).unwrap();
    bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()) & !ACCESSED_DIRTY).collect()
}

/// The lines of a state that another has not.
fn text(state: &CpuState, other: &CpuState) -> String {
    let (state, other) = (format!("{state:#x?}"), format!("{other:#x?}"));
    let differ: Vec<&str> =
        state.lines().zip(other.lines()).filter(|(a, b)| a != b).map(|(a, _)| a.trim()).collect();
    differ.join(" ")
}
