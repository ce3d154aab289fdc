//! Checks of a saved local APIC.

use super::interrupts::{ILLEGAL_REGISTER, RECEIVE_ILLEGAL_VECTOR, REMOTE_IRR, SEND_ILLEGAL_VECTOR};
use super::registers::{ICR_LOW_BITS, SVR_BITS};
use super::timer::TimerMode;
use super::{Lapic, LapicConfig, LapicState, MASKED, Mode, SVR_ENABLED, TIMER};
use crate::snapshot::{RestoreError, Snapshot, require, require_same};

const KIND: &str = Lapic::KIND;
const ERRORS: u8 = SEND_ILLEGAL_VECTOR | RECEIVE_ILLEGAL_VECTOR | ILLEGAL_REGISTER;

pub(super) fn check(state: &LapicState, config: &LapicConfig) -> Result<(), RestoreError> {
    require_same(KIND, "configuration", &state.config, config)?;
    let x2apic = state.mode == Mode::X2Apic;
    require(!x2apic || config.x2apic, KIND, "mode", "x2APIC", "one that the processor has")?;
    if state.mode == Mode::Disabled {
        let reset = LapicState { lines: state.lines, mode: state.mode, ..LapicState::at_power_on(*config) };
        require(*state == reset, KIND, "mode", "disabled", "accompanied by registers as after power-on")?;
    }
    require(state.model < 16, KIND, "model", state.model, "four bits")?;
    require(!x2apic || state.model == 15, KIND, "model", state.model, "15 in an x2APIC")?;
    require(!x2apic || state.logical_id == 0, KIND, "logical_id", state.logical_id, "0 in an x2APIC")?;
    require(state.svr & !SVR_BITS == 0, KIND, "svr", state.svr, "ten bits")?;
    for (name, set) in [("isr", &state.isr), ("irr", &state.irr), ("tmr", &state.tmr)] {
        require(set[0] & 0xffff == 0, KIND, name, set[0], "without vectors below 16")?;
    }
    for (name, errors) in [("esr", state.esr), ("errors", state.errors)] {
        require(errors & !ERRORS == 0, KIND, name, errors, "errors that can happen")?;
    }
    let icr_bits = u64::from(ICR_LOW_BITS) | if x2apic { u64::MAX << 32 } else { 0xff << 56 };
    require(state.icr & !icr_bits == 0, KIND, "icr", state.icr, "without reserved bits")?;
    check_lvt(state)?;
    check_timer(state)
}

fn check_lvt(state: &LapicState) -> Result<(), RestoreError> {
    let device = Lapic { state: state.clone() };
    for (index, entry) in state.lvt.into_iter().enumerate() {
        let bits = device.lvt_bits(index) | Lapic::lvt_status_bits(index) & REMOTE_IRR;
        require(entry & !bits == 0, KIND, "lvt", entry, "without bits that the entry does not have")?;
        let masked = entry & MASKED != 0 || state.svr & SVR_ENABLED != 0;
        require(masked, KIND, "lvt", entry, "masked while the local APIC is disabled")?;
        let level = entry & REMOTE_IRR == 0 || entry & 1 << 15 != 0;
        require(level, KIND, "lvt", entry, "level-triggered where it is being handled")?;
    }
    Ok(())
}

fn check_timer(state: &LapicState) -> Result<(), RestoreError> {
    require(state.divide & !0xb == 0, KIND, "divide", state.divide, "bits 3, 1 and 0")?;
    let mode = TimerMode::of(state.lvt[TIMER]);
    if let Some(counting) = state.counting {
        require(counting.from > 0, KIND, "counting", counting.from, "a count that is not 0")?;
        let within = counting.from <= state.initial_count && mode.counts();
        require(within, KIND, "counting", counting.from, "at most the initial count, in a mode that counts")?;
    }
    if let Some(deadline) = state.deadline {
        let armed = mode == TimerMode::TscDeadline && deadline.tsc != 0;
        require(armed, KIND, "deadline", deadline.tsc, "not 0, in TSC-deadline mode")?;
    }
    let none = mode != TimerMode::TscDeadline || state.initial_count == 0;
    require(none, KIND, "initial_count", state.initial_count, "0 in TSC-deadline mode")
}
