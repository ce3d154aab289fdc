//! Single steps: the guest goes on by one instruction, or one iteration of REP, and notices nothing.
//!
//! KVM steps by setting RFLAGS.TF. A guest can see that bit where RFLAGS is pushed (PUSHF, SYSCALL, INT n, exceptions),
//! and clears or loads it; a handler of an exception would run unseen to its IRET, since a gate clears TF. So:
//! * The instruction is decoded first. The few that would see TF, those in an interrupt shadow or that cast one, and all
//!   while something waits to be delivered or the guest debugs itself, are executed by the soft CPU, over the same RAM.
//! * The others KVM steps over, with the limit of the IDT as 0. One that faults cannot be delivered then, nor can the #GP
//!   that follows or the double fault: instead of running a handler the guest shuts down, with nothing changed (faults are
//!   precise), and the state from before comes back. The soft CPU executes the instruction once more and delivers its
//!   fault. It has to agree that there is one.
//! * An instruction that makes an exit is left to KVM: the exit is served and finished as always.
//!
//! What a step is: docs/determinism.md, section 1. Hardware breakpoints would make long ways short, but emulated
//! processors have none.

mod class;

use kvm_bindings::{KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, kvm_guest_debug};
use scribe_soft_cpu::Behaviour;

use super::{Kvm, ioctl, shadow, state};
use crate::engine::cpu::{CpuState, DescriptorTable, PendingEvents, Registers};
use crate::engine::soft::Soft;
use crate::engine::{Engine, EngineError, Exit, Fault, Progress, Stop};
use crate::host::kick;
use crate::machine::cpuid;
use class::{Class, Hardware, Next};

const RCX: usize = 1;

/// What has come of a single step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stepped {
    /// One step has retired, whatever had to be delivered before it.
    Retired {
        /// it was a conditional branch, as positions count them
        branch: bool,
    },
    /// Nothing has retired: this came first. Interrupts and exceptions may have been delivered.
    Stop(Stop),
}

/// What single steps need from one to the next.
#[derive(Default)]
pub(super) struct Stepper {
    /// made with the first step that needs it
    soft: Option<Soft>,
    /// memory may have changed since the soft CPU decoded what it knows
    stale: bool,
    /// the vCPU's state as of the last step, so that KVM need not be asked for all of it. x87 and SSE may be older
    known: Option<CpuState>,
    /// they are not
    fpu_known: bool,
    /// KVM is set to step: the guest's own IDTR, whose limit KVM has as 0
    own_idt: Option<DescriptorTable>,
    /// RIP where the instructions began that have been executed one behind the other up to here
    block: Option<u64>,
    /// a kick came where the step could not be left
    kicked: bool,
    /// conditional branches that the soft CPU has executed: the processor has not counted them
    software_branches: u64,
}

impl Stepper {
    /// True while KVM is set to step.
    pub(super) fn is_armed(&self) -> bool {
        self.own_idt.is_some()
    }

    /// True if an interrupt shadow holds behind the last step.
    pub(super) fn is_in_shadow(&self) -> bool {
        self.known.as_ref().is_some_and(|known| known.events.shadow != 0)
    }

    /// Puts into what KVM says of the vCPU's state what is known better: the guest's own IDTR, and which of the two
    /// instructions has cast a shadow, which kvm_amd does not tell apart.
    pub(super) fn correct(&self, state: &mut CpuState) {
        if let Some(idt) = self.own_idt {
            state.idt = idt;
        }
        if let Some(known) = &self.known {
            state.events.shadow = known.events.shadow;
        }
    }

    /// Conditional branches executed in software so far, which no counter of the processor knows of.
    pub(super) fn software_branches(&self) -> u64 {
        self.software_branches
    }

    /// The guest is somewhere else than behind the last step.
    pub(super) fn moved(&mut self) {
        self.block = None;
        self.forget();
    }

    /// What is known of the state is out of date.
    pub(super) fn forget(&mut self) {
        self.known = None;
        self.stale = true;
    }

    pub(super) fn track_dirty_pages(&mut self) -> Result<(), EngineError> {
        self.soft.as_mut().map_or(Ok(()), Engine::track_dirty_pages)
    }

    pub(super) fn take_dirty_pages(&mut self) -> Result<Vec<u64>, EngineError> {
        self.soft.as_mut().map_or(Ok(Vec::new()), Engine::take_dirty_pages)
    }
}

impl Kvm {
    /// Goes on by one step. Where [`run`](Engine::run) may be called, and with the same stops, which the caller treats in
    /// the same way; behind a kick the next step is the one that was wanted.
    ///
    /// # Errors
    /// Failures of the host; an instruction that nobody can step over.
    pub fn step_once(&mut self) -> Result<Stepped, EngineError> {
        self.refuse_unfinished()?;
        if self.ready && self.vcpu.get_kvm_run().request_interrupt_window != 0 {
            return Ok(Stepped::Stop(Stop::InterruptWindow));
        }
        self.step_windowless()
    }

    /// As [`step_once`](Self::step_once), but no wish for an interrupt window is listened to.
    pub(super) fn step_windowless(&mut self) -> Result<Stepped, EngineError> {
        if kick::is_up() || std::mem::take(&mut self.stepper.kicked) {
            kick::take();
            return Ok(Stepped::Stop(Stop::Kicked));
        }
        if let Some(stop) = self.deferred.take() {
            return Ok(Stepped::Stop(stop));
        }
        let wanted = std::mem::take(&mut self.vcpu.get_kvm_run().request_interrupt_window);
        let stepped = self.step();
        self.vcpu.get_kvm_run().request_interrupt_window = wanted;
        if let (Ok(Stepped::Retired { branch }), Some(progress)) = (&stepped, &mut self.progress) {
            *progress = match branch {
                true => Progress { branches: progress.branches + 1, steps: 0 },
                false => Progress { steps: progress.steps + 1, ..*progress },
            };
        }
        stepped
    }

    /// Steps to `until`, counted from the last exit.
    pub(super) fn step_to(&mut self, until: Progress) -> Result<Stop, EngineError> {
        loop {
            match self.progress {
                None => {
                    return Err(EngineError::Unsupported(
                        "the kvm engine has no counter: it comes to a place between two exits only step by step from the \
                         exit before it, and the guest has run on since",
                    ));
                }
                Some(progress) if progress >= until => return Ok(Stop::Reached),
                Some(_) => {}
            }
            if let Stepped::Stop(stop) = self.step_once()? {
                return Ok(stop);
            }
        }
    }

    fn step(&mut self) -> Result<Stepped, EngineError> {
        let next = self.next()?;
        let rip = self.known_state()?.registers.rip;
        let begun = self.stepper.block.unwrap_or(rip);
        let stepped = match next.class {
            Class::Hardware(how) => self.step_hardware(how)?,
            Class::Halt => Stepped::Stop(self.make_exit(Exit::Halt)?),
            Class::Software => {
                let held = self.whole_state()?;
                let mut state = held.clone();
                self.stepper.correct(&mut state);
                self.step_software(&state, &held, next.tests_bit.then_some(begun))?.0
            }
        };
        let now = self.registers.rip;
        self.stepper.block = next.behind.filter(|behind| now == *behind || now == rip).map(|_| begun);
        Ok(stepped)
    }

    /// What comes next, and who executes it.
    fn next(&mut self) -> Result<Next, EngineError> {
        self.known_state()?;
        let Some(state) = &self.stepper.known else { return Ok(Next::EVENT) };
        let PendingEvents { interrupt, exception, shadow, .. } = state.events;
        let due = interrupt.is_some() || exception.is_some() || shadow != 0;
        if due || state.registers.is_traced() || state.dr7 & 0xff != 0 {
            return Ok(Next::EVENT);
        }
        Ok(class::of(state, &self.memory, shadow::is_tcg()))
    }

    /// The vCPU's state, but perhaps x87 and SSE; the IDTR is the guest's own.
    fn known_state(&mut self) -> Result<&CpuState, EngineError> {
        let known = match self.stepper.known.take() {
            Some(known) => known,
            None => {
                let state = self.state()?;
                self.stepper.fpu_known = true;
                state
            }
        };
        Ok(self.stepper.known.insert(known))
    }

    /// The vCPU's whole state as KVM has it.
    fn whole_state(&mut self) -> Result<CpuState, EngineError> {
        let mut state = self.known_state()?.clone();
        if !self.stepper.fpu_known {
            state.fpu = state::read_fpu(&self.vcpu)?;
        }
        if self.stepper.is_armed() {
            state.idt.limit = 0;
        }
        Ok(state)
    }

    fn step_hardware(&mut self, how: Hardware) -> Result<Stepped, EngineError> {
        let before = self.known_state()?.registers;
        loop {
            self.arm()?;
            self.stepped = false;
            match self.enter()? {
                None if !std::mem::take(&mut self.stepped) => {
                    kick::take();
                    if self.registers.rip == before.rip && self.registers.general == before.general {
                        return Ok(Stepped::Stop(Stop::Kicked));
                    }
                    self.stepper.kicked = true;
                }
                None if is_last_iteration(how, &before, &self.registers)? => {}
                None => {
                    self.retired(how);
                    return Ok(Stepped::Retired { branch: how.branch });
                }
                Some(Stop::Fault(Fault::TripleFault)) => {
                    // On kvm_amd the vCPU has been reset; x87 and SSE stay as they are at an INIT (SDM vol. 3, 10.1.1).
                    let held = state::read(&self.vcpu)?;
                    let mut state = self.known_state()?.clone();
                    state.registers = before;
                    state.fpu = held.fpu.clone();
                    let (stepped, delivered) = self.step_software(&state, &held, None)?;
                    if !delivered && matches!(stepped, Stepped::Retired { .. }) {
                        return Err(EngineError::Unexpected(format!(
                            "the processor raises an exception at {:#x}, the soft CPU does not",
                            before.rip
                        )));
                    }
                    return Ok(stepped);
                }
                Some(stop) => {
                    self.leave_steps()?;
                    return Ok(Stepped::Stop(stop));
                }
            }
        }
    }

    /// KVM has stepped over an instruction.
    fn retired(&mut self, how: Hardware) {
        self.stepper.stale = true;
        self.stepper.fpu_known = false;
        match &mut self.stepper.known {
            Some(known) if !how.changes_state => {
                known.registers = self.registers;
                known.events = PendingEvents { nmi_masked: known.events.nmi_masked, ..Default::default() };
            }
            known => *known = None,
        }
    }

    /// One step from `state` by the soft CPU. KVM, which has `held`, gets what comes of it. True: an interrupt or an
    /// exception has been delivered. `begun`: where the block began, if that counts.
    fn step_software(
        &mut self,
        state: &CpuState,
        held: &CpuState,
        begun: Option<u64>,
    ) -> Result<(Stepped, bool), EngineError> {
        let stale = std::mem::take(&mut self.stepper.stale);
        let soft = match self.stepper.soft.take() {
            Some(soft) => soft,
            None => {
                let behaviour = if shadow::is_tcg() { Behaviour::Tcg } else { Behaviour::Zen };
                let mut soft = Soft::new(&self.memory, &cpuid::PROFILES[0], behaviour);
                if self.tracking {
                    soft.track_dirty_pages()?;
                }
                soft
            }
        };
        let soft = self.stepper.soft.insert(soft);
        if stale {
            soft.forget_code();
        }
        let delivered = soft.deliveries();
        soft.set_state(state)?;
        if let Some(begun) = begun {
            soft.continues_from(begun);
        }
        let stop = soft.run(Some(Progress { branches: 0, steps: 1 }))?;
        let delivered = soft.deliveries() != delivered;
        let branch = soft.progress().branches != 0;
        self.stepper.software_branches += soft.progress().branches;
        let after = soft.state()?;
        if let Stop::Fault(Fault::Refused { rip, detail, .. }) = &stop {
            return Err(EngineError::Unexpected(format!(
                "nobody can step over the instruction at {rip:#x}: {detail}"
            )));
        }
        if after.registers.is_traced() && self.stepper.own_idt.take().is_some() {
            self.debug(false)?; // under KVM's own single step the guest's could not be told from it
        }
        let mut masked = after.clone();
        if self.stepper.is_armed() {
            self.stepper.own_idt = Some(after.idt);
            masked.idt.limit = 0;
        }
        state::write(&mut self.vcpu, &masked, Some(held))?;
        self.registers = after.registers;
        self.ready = can_take_interrupt(&after);
        self.stepper.known = Some(after);
        self.stepper.fpu_known = true;
        let stepped = match stop {
            Stop::Reached => Stepped::Retired { branch },
            Stop::Exit(exit) => Stepped::Stop(self.make_exit(exit)?),
            stop => Stepped::Stop(stop),
        };
        Ok((stepped, delivered))
    }

    /// The next instruction makes `exit`: KVM runs to it.
    fn make_exit(&mut self, exit: Exit) -> Result<Stop, EngineError> {
        let known = self.stepper.known.take();
        self.leave_steps()?;
        match self.enter()? {
            None => {
                kick::take();
                // Nothing has changed, and of an interrupt shadow KVM may know less.
                self.ready = known.as_ref().is_some_and(can_take_interrupt);
                self.stepper.known = known;
                Ok(Stop::Kicked)
            }
            Some(stop) if stop == Stop::Exit(exit) => Ok(stop),
            Some(other) => Err(EngineError::Unexpected(format!("{other:?} where {exit:?} was due"))),
        }
    }

    /// Sets KVM to step. Each time anew: KVM sets TF only while RIP is where it was then.
    fn arm(&mut self) -> Result<(), EngineError> {
        if !self.stepper.is_armed() {
            let idt = self.known_state()?.idt;
            state::set_idt(&self.vcpu, DescriptorTable { limit: 0, ..idt })?;
            self.stepper.own_idt = Some(idt);
        }
        self.debug(true)
    }

    /// Makes KVM run the guest freely again. Before anything but steps, and before an exit is served.
    pub(super) fn leave_steps(&mut self) -> Result<(), EngineError> {
        self.stepper.forget();
        if let Some(idt) = self.stepper.own_idt.take() {
            self.debug(false)?;
            state::set_idt(&self.vcpu, idt)?;
        }
        Ok(())
    }

    fn debug(&self, step: bool) -> Result<(), EngineError> {
        let control = if step { KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP } else { 0 };
        let debug = kvm_guest_debug { control, ..Default::default() };
        self.vcpu.set_guest_debug(&debug).map_err(ioctl("KVM_SET_GUEST_DEBUG"))
    }
}

fn can_take_interrupt(state: &CpuState) -> bool {
    let PendingEvents { interrupt, exception, shadow, .. } = state.events;
    state.registers.interrupts_enabled() && interrupt.is_none() && exception.is_none() && shadow == 0
}

/// True if REP has done its last iteration and RIP has yet to move on, which QEMU's processor takes a step of its own for.
///
/// # Errors
/// More than one iteration was done.
fn is_last_iteration(how: Hardware, before: &Registers, after: &Registers) -> Result<bool, EngineError> {
    let Some(bits) = how.counter else { return Ok(false) };
    let (left, now) = (before.general[RCX] & bits, after.general[RCX] & bits);
    if left.saturating_sub(now) > 1 {
        return Err(EngineError::Unsuitable(format!(
            "it does {} iterations of a string instruction in one step, at {:#x}",
            left - now,
            before.rip
        )));
    }
    Ok(left == 1 && now == 0 && after.rip == before.rip)
}
