//! One processor's local APIC (SDM vol. 3A, chapter 11), as an xAPIC and as an x2APIC.
//!
//! What differs from processors, or is left open by the manual:
//! - The timer's clock has 1 GHz: with divisor 1 the count goes down by one each nanosecond of guest time.
//! - The APIC ID and the base address cannot be changed: WRMSR of another base is #GP.
//! - No suppression of EOI broadcasts, no CMCI, no focus processor checking, no remote read. LVT entries: six.
//! - Level-triggered IPIs are sent as edge-triggered, as all processors since the Pentium 4 do. IPIs that SDM table 11-3
//!   calls invalid are not sent.
//! - An access by MMIO that is not of 4 bytes at a multiple of 16 reads all ones and writes nothing.
//! - A timer interrupt that is due while the one before still waits in IRR is lost, as on a processor.

use serde::{Deserialize, Serialize};

use super::message::Message;
use crate::snapshot::{RestoreError, Snapshot};

mod interrupts;
mod msr;
mod registers;
mod restore;
#[cfg(test)]
mod tests;
mod timer;

pub use interrupts::Interrupt;
pub use msr::{APIC_BASE, GeneralProtection, TSC_DEADLINE, X2APIC_MSRS, is_apic_msr};
pub use timer::{Counting, Deadline, Tsc};

/// Where every xAPIC answers its own processor: 4 KiB from here.
pub const BASE_ADDRESS: u64 = 0xfee0_0000;

/// SVR after reset: vector 0xff, disabled.
const SVR_RESET: u16 = 0xff;
/// SVR: the local APIC is enabled.
const SVR_ENABLED: u16 = 1 << 8;
/// An LVT entry's mask bit.
const MASKED: u32 = 1 << 16;

/// Indices of [`LapicState::lvt`].
const TIMER: usize = 0;
const LINT0: usize = 3;
const LINT1: usize = 4;
const ERROR: usize = 5;

/// How a processor's local APIC is enabled (IA32_APIC_BASE bits 11 and 10; SDM 11.4.3, 11.12.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// It is not there: LINT0 is the processor's INTR, LINT1 its NMI.
    Disabled,
    /// Registers in memory.
    XApic,
    /// Registers are MSRs.
    X2Apic,
}

/// What a local APIC is, from power-on to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LapicConfig {
    /// APIC ID; at most 254 for one that is to be reached in xAPIC mode
    pub id: u32,
    /// it is the bootstrap processor's
    pub bootstrap: bool,
    /// CPUID says x2APIC
    pub x2apic: bool,
    /// CPUID says TSC-deadline timer
    pub tsc_deadline: bool,
}

/// A local APIC.
#[derive(Clone, Debug)]
pub struct Lapic {
    state: LapicState,
}

/// State of [`Lapic`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LapicState {
    /// Which one it is and what it can do.
    pub config: LapicConfig,
    /// How it is enabled.
    pub mode: Mode,
    /// Levels of the pins LINT0 and LINT1.
    pub lines: [bool; 2],
    /// Task priority.
    pub tpr: u8,
    /// Logical APIC ID of an xAPIC.
    pub logical_id: u8,
    /// Model in the destination format register: 15 flat, 0 cluster; others match nothing.
    pub model: u8,
    /// Spurious-interrupt vector register.
    pub svr: u16,
    /// Interrupts in service, a bit a vector.
    pub isr: [u32; 8],
    /// Those of the accepted interrupts that are level-triggered.
    pub tmr: [u32; 8],
    /// Interrupts accepted and not yet taken.
    pub irr: [u32; 8],
    /// Error status as the guest reads it.
    pub esr: u8,
    /// Errors since the guest last wrote the error status register.
    pub errors: u8,
    /// Interrupt command register. Bits 63 to 32: an x2APIC's destination; of an xAPIC's only bits 63 to 56.
    pub icr: u64,
    /// Timer, thermal sensor, performance counters, LINT0, LINT1, error.
    pub lvt: [u32; 6],
    /// The timer's initial count.
    pub initial_count: u32,
    /// The timer's divide configuration register.
    pub divide: u8,
    /// What the timer counts, if it does.
    pub counting: Option<Counting>,
    /// What the timer waits for in TSC-deadline mode, if it is armed.
    pub deadline: Option<Deadline>,
}

/// What a local APIC asks the machine to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Deliver an interprocessor interrupt, which may be for the sender too.
    Send(Message),
    /// Tell the I/O APIC that the handling of a level-triggered interrupt with this vector has ended.
    EndOfInterrupt(u8),
}

impl LapicState {
    fn at_power_on(config: LapicConfig) -> Self {
        LapicState {
            config,
            mode: Mode::XApic,
            lines: [false; 2],
            tpr: 0,
            logical_id: 0,
            model: 0xf,
            svr: SVR_RESET,
            isr: [0; 8],
            tmr: [0; 8],
            irr: [0; 8],
            esr: 0,
            errors: 0,
            icr: 0,
            lvt: [MASKED; 6],
            initial_count: 0,
            divide: 0,
            counting: None,
            deadline: None,
        }
    }
}

impl Lapic {
    /// A local APIC after power-on: an xAPIC, disabled by its spurious-interrupt vector register (SDM 11.4.7.1).
    pub fn new(config: LapicConfig) -> Self {
        Lapic { state: LapicState::at_power_on(config) }
    }

    /// What firmware leaves behind on the bootstrap processor: virtual wire mode, in which LINT0 passes the 8259A's
    /// interrupts on and LINT1 is NMI (MultiProcessor Specification 1.4, 3.6.2.2).
    pub fn set_virtual_wire(&mut self) {
        if self.state.mode == Mode::Disabled {
            return;
        }
        self.state.svr = SVR_RESET | SVR_ENABLED;
        self.state.lvt[LINT0] = 0x700;
        self.state.lvt[LINT1] = 0x400;
    }

    /// How it is enabled.
    pub fn mode(&self) -> Mode {
        self.state.mode
    }

    /// Its ID.
    pub fn id(&self) -> u32 {
        self.state.config.id
    }

    /// True if it takes interrupts: it is there, and enabled by software too (SDM 11.4.7.2).
    pub fn is_enabled(&self) -> bool {
        self.state.mode != Mode::Disabled && self.state.svr & SVR_ENABLED != 0
    }

    /// Everything but the ID, the mode and the pins as after power-on: INIT (SDM 11.4.7.3).
    fn reset(&mut self) {
        let LapicState { config, mode, lines, .. } = self.state;
        self.state = LapicState { mode, lines, ..LapicState::at_power_on(config) };
    }
}

impl Snapshot for Lapic {
    const KIND: &'static str = "lapic";
    const VERSION: u16 = 1;
    type State = LapicState;

    fn save(&self) -> LapicState {
        self.state.clone()
    }

    fn restore(&mut self, state: LapicState) -> Result<(), RestoreError> {
        restore::check(&state, &self.state.config)?;
        self.state = state;
        Ok(())
    }
}
