//! The `kvm` engine: one vCPU on the host's KVM, without in-kernel interrupt controllers or timers.
//!
//! Rules that shape it (docs/design.md, "Rules for KVM"):
//! * KVM_INTERRUPT never refuses, so [`Kvm::inject`] checks `ready_for_interrupt_injection` itself.
//! * An exit is unfinished until KVM_RUN has been entered again: [`Kvm::finish`] does that with `immediate_exit`.
//! * Kicks use a signal that is blocked everywhere but inside KVM_RUN (KVM_SET_SIGNAL_MASK), so none is lost between
//!   looking and running.

mod counter;
mod exits;
mod first_write;
mod fpu;
mod ioctls;
mod setup;
mod shadow;
mod state;
mod step;

pub use step::Stepped;

use std::collections::BTreeSet;

pub(super) use ioctls::set_signal_mask;

use counter::Counting;
use exits::Pending;
use step::Stepper;

use kvm_ioctls::{SyncReg, VcpuExit, VcpuFd, VmFd};

use scribe_log::snapshots::Part;

use super::cpu::{CpuState, Registers};
use super::{Answer, Engine, EngineError, Exit, Fault, Progress, Stop};
use crate::host::kick;
use crate::machine::memory::GuestRam;

/// One vCPU on the host's KVM.
pub struct Kvm {
    vcpu: VcpuFd,
    vm: VmFd,
    memory: GuestRam,
    /// the exit being served, and what its answer must be written to
    pending: Pending,
    /// as of the last return from KVM_RUN, or the last injection: a second one would silently replace the first
    ready: bool,
    registers: Registers,
    /// what came up while an instruction was being retired, for the next run to report
    deferred: Option<Stop>,
    /// a single step came to its end
    stepped: bool,
    tracking: bool,
    stepper: Stepper,
    /// how far the guest is from its last exit, if it has come all the way in single steps
    progress: Option<Progress>,
    /// with a counter: that knows how far it is
    counting: Option<Counting>,
}

fn ioctl(operation: &'static str) -> impl Fn(vmm_sys_util::errno::Error) -> EngineError {
    move |source| EngineError::Ioctl { operation, source: source.into() }
}

impl Kvm {
    /// Opens /dev/kvm and makes a VM with one vCPU over `memory`, CPU profile `scribe-v1`.
    ///
    /// # Errors
    /// [`EngineError::Unsuitable`] names what this host lacks.
    pub fn new(memory: &GuestRam) -> Result<Self, EngineError> {
        let (vm, mut vcpu) = setup::create(memory)?;
        vcpu.set_sync_valid_reg(SyncReg::Register);
        Ok(Self {
            vcpu,
            vm,
            memory: memory.clone(),
            pending: Pending::None,
            ready: false,
            registers: Registers::default(),
            deferred: None,
            stepped: false,
            tracking: false,
            stepper: Stepper::default(),
            progress: Some(Progress::NONE),
            counting: None,
        })
    }

    /// Enters KVM_RUN once. `None`: EINTR, or a single step.
    fn enter(&mut self) -> Result<Option<Stop>, EngineError> {
        let stop = self.enter_once();
        self.registers = state::registers(&self.vcpu.sync_regs().regs);
        self.ready = exits::ready_for_injection(self.vcpu.get_kvm_run());
        stop
    }

    fn enter_once(&mut self) -> Result<Option<Stop>, EngineError> {
        let exit = loop {
            match self.vcpu.run() {
                // The guest has lowered CR8, and the instruction is done. It means nothing on a machine without an APIC.
                Ok(VcpuExit::SetTpr) if self.stepper.is_armed() => {
                    self.stepped = true; // this stop stands for that of the step
                    return Ok(None);
                }
                Ok(VcpuExit::SetTpr) => {}
                exit => break exit,
            }
        };
        let stop = match exit {
            Ok(VcpuExit::Hlt) => {
                self.pending = Pending::Nothing;
                Stop::Exit(Exit::Halt)
            }
            Ok(
                VcpuExit::IoIn(..)
                | VcpuExit::IoOut(..)
                | VcpuExit::MmioRead(..)
                | VcpuExit::MmioWrite(..)
                | VcpuExit::X86Rdmsr(..)
                | VcpuExit::X86Wrmsr(..),
            ) => {
                let (pending, exit) = exits::decode(self.vcpu.get_kvm_run());
                self.pending = pending;
                Stop::Exit(exit)
            }
            Ok(VcpuExit::IrqWindowOpen) => Stop::InterruptWindow,
            Ok(VcpuExit::Shutdown) => Stop::Fault(Fault::TripleFault),
            Ok(VcpuExit::InternalError) => Stop::Fault(self.refused("KVM cannot emulate it")),
            Ok(VcpuExit::FailEntry(reason, _)) => {
                let detail = format!("the processor refused to enter the guest (reason {reason:#x})");
                Stop::Fault(self.refused(&detail))
            }
            Ok(VcpuExit::Intr) => return Ok(None),
            Ok(VcpuExit::Debug(_)) => {
                self.stepped = true;
                return Ok(None);
            }
            Ok(other) => return Err(EngineError::Unexpected(format!("{other:?}"))),
            Err(error) => match error.errno() {
                libc::EINTR | libc::EAGAIN => return Ok(None),
                _ => return Err(ioctl("KVM_RUN")(error)),
            },
        };
        Ok(Some(stop))
    }

    /// Runs the guest until a stop. `None`: a signal came, which is still pending.
    fn run_freely(&mut self) -> Result<Option<Stop>, EngineError> {
        self.progress = None;
        if let Some(stop) = self.deferred.take() {
            return Ok(Some(stop));
        }
        if shadow::is_tcg()
            && self.stepper.is_in_shadow()
            && let Stepped::Stop(stop) = self.step_once()?
        {
            return Ok(Some(stop)); // the shadow would not come along
        }
        self.leave_steps()?;
        self.stepper.moved();
        while let Some(stop) = self.enter()? {
            if stop != Stop::InterruptWindow || !shadow::is_tcg() || !self.is_behind_sti() {
                return Ok(Some(stop));
            }
            match self.step_windowless()? {
                Stepped::Stop(stop) => return Ok(Some(stop)),
                Stepped::Retired { .. } if self.ready => return Ok(Some(Stop::InterruptWindow)),
                Stepped::Retired { .. } => self.leave_steps()?, // interrupts are off again: no window yet
            }
        }
        Ok(None)
    }

    /// Enters KVM_RUN without running the guest: an exit's instruction retires, and KVM says what can be done next.
    fn enter_at_once(&mut self) -> Result<Option<Stop>, EngineError> {
        self.vcpu.set_kvm_immediate_exit(1);
        let entered = self.enter();
        self.vcpu.set_kvm_immediate_exit(0);
        entered
    }

    /// Half an exit is in no saved state: the other half is in KVM, which applies it whatever is loaded in between.
    fn refuse_unfinished(&self) -> Result<(), EngineError> {
        match self.pending {
            Pending::None => Ok(()),
            _ => Err(EngineError::Unsupported("a vCPU's state is asked for while its exit is being served")),
        }
    }

    /// Describes the instruction at RIP that the host would not execute.
    fn refused(&mut self, detail: &str) -> Fault {
        let rip = self.vcpu.sync_regs().regs.rip;
        let bytes = exits::refused_bytes(self.vcpu.get_kvm_run())
            .unwrap_or_else(|| state::instruction_bytes(&self.vcpu, &self.memory, rip));
        let detail = format!("{detail} ({})", exits::internal_error(self.vcpu.get_kvm_run()));
        Fault::Refused { rip, bytes, detail }
    }
}

impl Engine for Kvm {
    fn run(&mut self, until: Option<Progress>) -> Result<Stop, EngineError> {
        if let Some(mut counting) = self.counting.take() {
            let stop = self.run_counted(&mut counting, until);
            self.counting = Some(counting);
            return stop;
        }
        if let Some(until) = until {
            return self.step_to(until);
        }
        if let Some(stop) = self.run_freely()? {
            return Ok(stop);
        }
        // The kick's signal is still pending, since it is blocked outside KVM_RUN: take it, or KVM_RUN would never
        // run the guest again.
        kick::take();
        Ok(Stop::Kicked)
    }

    fn counts(&self) -> bool {
        self.counting.is_some()
    }

    fn counts_steps(&self) -> bool {
        false
    }

    fn can_step(&self) -> bool {
        true
    }

    fn progress(&self) -> Progress {
        match &self.counting {
            Some(counting) => counting.approach.progress(),
            None => self.progress.unwrap_or(Progress::NONE),
        }
    }

    fn place_ahead(&self) -> Option<Progress> {
        self.counting.as_ref()?.approach.place_ahead()
    }

    fn stop_counting(&mut self) {
        self.counting = None;
    }

    fn set_progress(&mut self, at: Progress) -> Result<(), EngineError> {
        self.restart_counting(at)
    }

    fn answer(&mut self, answer: Answer) {
        exits::answer(self.vcpu.get_kvm_run(), &mut self.pending, answer);
    }

    fn finish(&mut self) -> Result<Option<Exit>, EngineError> {
        if let Some(next) = exits::next_element(self.vcpu.get_kvm_run(), &mut self.pending) {
            return Ok(Some(next));
        }
        self.pending = Pending::None;
        self.progress = Some(Progress::NONE);
        self.stepper.moved();
        let entered = self.enter_at_once()?;
        self.restart_counting(Progress::NONE)?;
        match entered {
            None => Ok(None),
            Some(Stop::Exit(exit)) => Ok(Some(exit)),
            // KVM's emulator gave up half way, or the instruction faulted for good: the guest ends behind this exit.
            Some(fault @ Stop::Fault(_)) => {
                self.deferred = Some(fault);
                Ok(None)
            }
            Some(other) => {
                Err(EngineError::Unexpected(format!("{other:?} while an instruction was being retired")))
            }
        }
    }

    fn registers(&self) -> Registers {
        self.registers
    }

    fn can_inject(&self) -> bool {
        self.ready
    }

    fn inject(&mut self, vector: u8) -> Result<(), EngineError> {
        if !self.can_inject() {
            return Err(EngineError::Unexpected(format!(
                "interrupt {vector:#x} injected where none can be taken"
            )));
        }
        ioctls::interrupt(&self.vcpu, vector).map_err(ioctl("KVM_INTERRUPT"))?;
        self.ready = false;
        self.stepper.forget();
        Ok(())
    }

    fn request_window(&mut self, wanted: bool) {
        self.vcpu.get_kvm_run().request_interrupt_window = u8::from(wanted);
    }

    fn state(&self) -> Result<CpuState, EngineError> {
        self.refuse_unfinished()?;
        let mut state = state::read(&self.vcpu)?;
        if state.events.shadow == shadow::EITHER {
            state.events.shadow = if self.is_behind_sti() { shadow::STI } else { shadow::MOV_SS };
        }
        self.stepper.correct(&mut state);
        Ok(state)
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), EngineError> {
        self.refuse_unfinished()?;
        self.request_window(false);
        self.deferred = None;
        self.leave_steps()?;
        self.stepper.moved();
        self.progress = Some(Progress::NONE);
        state::write(&mut self.vcpu, state, None)?;
        // Whether an interrupt can be injected here is for KVM to say, as after an exit: a guess that is wrong would move
        // the interrupt to another place than that of the run the state is from.
        if let Some(stop) = self.enter_at_once()? {
            return Err(EngineError::Unexpected(format!("{stop:?} while a state was being loaded")));
        }
        self.registers = state.registers;
        self.restart_counting(Progress::NONE)
    }

    fn save_private(&self) -> Result<Vec<Part>, EngineError> {
        // How far it has stepped is in no state of its vCPU.
        match self.progress {
            None | Some(Progress::NONE) => Ok(Vec::new()),
            Some(_) => Err(EngineError::Unsupported(
                "between two exits the kvm engine cannot be saved; take the snapshot at an exit, or with --engine soft",
            )),
        }
    }

    fn track_dirty_pages(&mut self) -> Result<(), EngineError> {
        if !self.tracking {
            setup::register_memory(&self.vm, &self.memory, true)?;
            self.tracking = true;
            self.stepper.track_dirty_pages()?;
        }
        Ok(())
    }

    fn first_write_ns(&self) -> u64 {
        first_write::nanoseconds()
    }

    fn take_dirty_pages(&mut self) -> Result<Vec<u64>, EngineError> {
        if !self.tracking {
            return Ok(Vec::new());
        }
        let mut frames = BTreeSet::from_iter(self.stepper.take_dirty_pages()?);
        for (slot, region) in self.memory.regions().enumerate() {
            let slot = u32::try_from(slot).unwrap_or(u32::MAX);
            let size = usize::try_from(region.size).map_err(|e| EngineError::Memory(e.to_string()))?;
            let bitmap = self.vm.get_dirty_log(slot, size).map_err(ioctl("KVM_GET_DIRTY_LOG"))?;
            let base = region.start / crate::machine::memory::PAGE_SIZE;
            for (word, bits) in (0u64..).zip(bitmap) {
                frames.extend((0..64).filter(|bit| bits >> bit & 1 == 1).map(|bit| base + word * 64 + bit));
            }
        }
        Ok(frames.into_iter().collect())
    }
}
