//! What the processor keeps beyond the engine-neutral state, and the whole of both: enough to go on exactly, from any
//! place where it can stop.
//!
//! Not in it is what the guest cannot see: decoded blocks, fast tags, which pages were written.

use scribe_types::cpu::CpuState;
use serde::{Deserialize, Serialize};

use crate::block::{Behind, LONGEST};
use crate::cpu::Cpu;
use crate::flags::{ARITHMETIC, Arithmetic, Flags, RF};
use crate::mmu::saved::SavedTlb;
use crate::state::SYSENTER_EIP;
use crate::{Behaviour, SoftCpu, StateError};

/// No count comes so far.
const MOST: u64 = 1 << 62;

/// All that the processor's future depends on, RAM and what the machine does apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SoftState {
    /// what every engine has
    pub cpu: CpuState,
    /// what this processor has besides
    pub private: SoftPrivate,
}

/// What the processor keeps beyond [`CpuState`]. Equal processors have equal ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SoftPrivate {
    /// RFLAGS.RF
    resume: bool,
    flags: Arithmetics,
    /// all of it; the neutral state has 32 bits
    sysenter_eip: u64,
    /// conditional branches since the last exit
    branches: u64,
    /// instructions since the last of them
    steps: u64,
    /// instructions since power-on
    instructions: u64,
    /// guest time at the last exit, and what a branch adds, ns
    clock: (u64, u64),
    /// an open interrupt window is a stop
    window: bool,
    /// see [`Behind`]
    behind: Option<(u8, u8)>,
    tlb: SavedTlb,
}

/// Where the arithmetic flags come from. What follows from it is in RFLAGS; how it does matters to `tcg`'s BT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Arithmetics {
    /// number of an [`Arithmetic`]
    operation: u8,
    width: u8,
    carry: bool,
    result: u64,
    source: u64,
}

impl Arithmetics {
    /// What does not count is 0.
    fn of(flags: &Flags) -> Self {
        let known = flags.op == Arithmetic::Known;
        let carries = matches!(flags.op, Arithmetic::Adc | Arithmetic::Sbb);
        Self {
            operation: flags.op as u8,
            width: if known { 0 } else { flags.width },
            carry: carries && flags.carry,
            result: if known { 0 } else { flags.dst },
            source: flags.src,
        }
    }

    /// Flags with `rflags` for their value, as they follow from this; `None` if they do not.
    fn flags(self, rflags: u64) -> Option<Flags> {
        let op = *Arithmetic::ALL.get(usize::from(self.operation))?;
        if self.width > 3 {
            return None;
        }
        let mut flags = Flags::default();
        flags.set_value(rflags);
        (flags.op, flags.width, flags.carry) = (op, self.width, self.carry);
        (flags.dst, flags.src) = (self.result, self.source);
        (Self::of(&flags) == self && flags.arithmetic() == rflags & ARITHMETIC).then_some(flags)
    }
}

impl SoftPrivate {
    /// Name of this state in recordings.
    pub const KIND: &'static str = "soft-cpu";
    /// Version of its encoding; any change of its shape or meaning is a new version.
    pub const VERSION: u16 = 1;

    /// Whether a processor with this neutral state can hold it.
    fn check(&self, cpu: &Cpu, state: &CpuState) -> Result<(), StateError> {
        let tcg = cpu.profile.behaviour == Behaviour::Tcg;
        let refuse = |what: &str| Err(StateError(format!("private state: {what}")));
        if self.flags.flags(state.registers.rflags).is_none() {
            return refuse("the arithmetic flags are not those of RFLAGS");
        }
        let low = state.msrs.iter().find(|(index, _)| *index == SYSENTER_EIP).map_or(0, |(_, value)| *value);
        if self.sysenter_eip & 0xffff_ffff != low || (!tcg && self.sysenter_eip != low) {
            return refuse("SYSENTER_EIP is another than that of the state");
        }
        if self.branches > MOST || self.instructions > MOST || self.steps > self.instructions {
            return refuse("a count is impossible");
        }
        let (instructions, flags) = self.behind.unwrap_or_default();
        let flags_fit = flags == 0 || (tcg && flags <= 4 && instructions > 0);
        if usize::from(instructions) >= LONGEST || !flags_fit {
            return refuse("the block that goes on is impossible");
        }
        cpu.mmu.check_tlb(&self.tlb)
    }
}

impl SoftCpu {
    /// All that the future depends on, RAM apart. At any stop but an exit that has not been finished.
    ///
    /// # Errors
    /// An exit is being served, or the guest cannot go on.
    pub fn save(&self) -> Result<SoftState, StateError> {
        Ok(SoftState { cpu: self.state(), private: self.save_private()? })
    }

    /// Replaces all of it: the processor goes on exactly as the one that was saved, over a copy of its RAM. What is cached
    /// of RAM's old contents must be told to [`invalidate`](Self::invalidate), as ever.
    ///
    /// # Errors
    /// A state that no processor over this RAM, with this profile, can be in. Nothing has changed then.
    pub fn restore(&mut self, state: &SoftState) -> Result<(), StateError> {
        self.cpu.check(&state.cpu)?;
        state.private.check(&self.cpu, &state.cpu)?;
        self.set_state(&state.cpu)?;
        self.apply(&state.private);
        Ok(())
    }

    /// What the processor keeps beyond [`state`](Self::state). Where [`save`](Self::save) may be called.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub fn save_private(&self) -> Result<SoftPrivate, StateError> {
        let cpu = &self.cpu;
        if cpu.wanted.is_some() || self.exiting.is_some() || !cpu.accesses.is_idle() {
            return Err(StateError(
                "an exit is being served; it must be finished before anything is saved".into(),
            ));
        }
        if self.deferred.is_some() {
            return Err(StateError("the guest cannot go on from here; there is nothing to save".into()));
        }
        Ok(SoftPrivate {
            resume: cpu.flags.system & RF != 0,
            flags: Arithmetics::of(&cpu.flags),
            sysenter_eip: cpu.msrs.sysenter_eip,
            branches: cpu.branches,
            steps: self.steps(),
            instructions: cpu.instructions,
            clock: cpu.clock,
            window: self.window,
            behind: self.behind.map(|behind| (behind.instructions, behind.flags)),
            tlb: cpu.mmu.save_tlb(),
        })
    }

    /// Adds it to the state that [`set_state`](Self::set_state) has set.
    ///
    /// # Errors
    /// It does not go with that state, or no processor over this RAM can hold it. Nothing has changed then.
    pub fn restore_private(&mut self, private: &SoftPrivate) -> Result<(), StateError> {
        private.check(&self.cpu, &self.state())?;
        self.apply(private);
        Ok(())
    }

    /// What has been checked.
    fn apply(&mut self, private: &SoftPrivate) {
        let cpu = &mut self.cpu;
        if let Some(flags) = private.flags.flags(cpu.flags.value()) {
            cpu.flags = flags;
        }
        cpu.flags.system = cpu.flags.system & !RF | if private.resume { RF } else { 0 };
        cpu.msrs.sysenter_eip = private.sysenter_eip;
        cpu.branches = private.branches;
        cpu.instructions = private.instructions;
        cpu.clock = private.clock;
        cpu.mmu.restore_tlb(&private.tlb);
        cpu.update_careful();
        self.mark = private.instructions.saturating_sub(private.steps);
        self.window = private.window;
        self.behind = private.behind.map(|(instructions, flags)| Behind { instructions, flags });
    }
}
