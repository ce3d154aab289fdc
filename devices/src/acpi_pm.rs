//! The fixed hardware of ACPI, as far as a machine without firmware needs it (ACPI 6.5, chapter 4.8): the PM1 event and
//! control registers, the power button, and the reset register.
//!
//! | offset | size | register |
//! | --- | --- | --- |
//! | 0 | 2 | PM1a status; writing 1 clears a bit |
//! | 2 | 2 | PM1a enable |
//! | 4 | 2 | PM1a control |
//! | 6 | 1 | reset: writing 1 resets |
//!
//! ACPI mode is always on: there is no SMI command port, and SCI_EN reads 1. There is no PM timer, since a kernel that has
//! one reads it to check its other clocks, an exit each time; no general-purpose events; no sleep but S5; nothing to wake
//! from it. Bits of events that this hardware does not have read 0.

use serde::{Deserialize, Serialize};

use crate::snapshot::{RestoreError, Snapshot, require};

/// Ports from the block's base on.
pub const PORTS: u16 = 8;
/// Offset of the control register.
pub const CONTROL: u16 = 4;
/// Offset of the reset register.
pub const RESET: u16 = 6;
/// What is written to the reset register to reset.
pub const RESET_VALUE: u8 = 1;
/// SLP_TYP of S5, soft off: what the DSDT's `_S5` says.
pub const SLEEP_TYPE_S5: u8 = 5;

/// PM1 status and enable: global lock released, power button, RTC alarm. Only the button ever sets its status.
const GLOBAL_LOCK: u16 = 1 << 5;
const POWER_BUTTON: u16 = 1 << 8;
const RTC_ALARM: u16 = 1 << 10;
const ENABLES: u16 = GLOBAL_LOCK | POWER_BUTTON | RTC_ALARM;

/// PM1 control: SCI_EN, BM_RLD, SLP_TYP, SLP_EN. GBL_RLS and SLP_EN read 0.
const SCI_ENABLED: u16 = 1 << 0;
const BUS_MASTER_RELOAD: u16 = 1 << 1;
const SLEEP_TYPE_SHIFT: u16 = 10;
const SLEEP_TYPE: u16 = 7 << SLEEP_TYPE_SHIFT;
const SLEEP_ENABLE: u16 = 1 << 13;

/// What the guest asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerRequest {
    /// Soft off (S5).
    Off,
    /// Reset.
    Reset,
}

/// The fixed hardware.
#[derive(Clone, Debug, Default)]
pub struct AcpiPm {
    state: AcpiPmState,
}

/// State of [`AcpiPm`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcpiPmState {
    /// PM1a status.
    pub status: u16,
    /// PM1a enable.
    pub enable: u16,
    /// PM1a control, without SCI_EN.
    pub control: u16,
}

impl AcpiPm {
    /// The hardware after power-on: nothing has happened, nothing is enabled.
    pub fn new() -> Self {
        AcpiPm::default()
    }

    /// Reads `size` bytes at `offset` from the base: 1 or 2, within a register. Others read all ones.
    pub fn read(&self, offset: u16, size: u8) -> u16 {
        let control = self.state.control | SCI_ENABLED;
        let value = match offset & !1 {
            0 => self.state.status,
            2 => self.state.enable,
            CONTROL => control,
            RESET => 0,
            _ => u16::MAX,
        };
        match (size, offset & 1) {
            (1, odd) => value >> (8 * odd) & 0xff,
            (2, 0) => value,
            _ => u16::MAX,
        }
    }

    /// Writes `size` bytes, as [`read`](Self::read) reads them; others are ignored.
    pub fn write(&mut self, offset: u16, size: u8, value: u16) -> Option<PowerRequest> {
        // Of a register of two bytes one can be written alone.
        let (value, written) = match (size, offset & 1) {
            (1, odd) => ((value & 0xff) << (8 * odd), 0xff << (8 * odd)),
            (2, 0) => (value, u16::MAX),
            _ => return None,
        };
        match offset & !1 {
            0 => self.state.status &= !value,
            2 => self.state.enable = self.state.enable & !written | value & written & ENABLES,
            CONTROL => {
                let kept = SLEEP_TYPE | BUS_MASTER_RELOAD;
                self.state.control = self.state.control & !written | value & written & kept;
                let sleep_type = self.state.control >> SLEEP_TYPE_SHIFT & 7;
                let off = value & SLEEP_ENABLE != 0 && sleep_type == u16::from(SLEEP_TYPE_S5);
                return off.then_some(PowerRequest::Off);
            }
            RESET if value & written == u16::from(RESET_VALUE) => return Some(PowerRequest::Reset),
            _ => {}
        }
        None
    }

    /// Somebody presses the power button.
    pub fn press(&mut self) {
        self.state.status |= POWER_BUTTON;
    }

    /// Level of the system control interrupt, which is level-triggered and active high: an event that is enabled.
    pub fn sci_level(&self) -> bool {
        self.state.status & self.state.enable != 0
    }
}

impl Snapshot for AcpiPm {
    const KIND: &'static str = "acpi-pm";
    const VERSION: u16 = 1;
    type State = AcpiPmState;

    fn save(&self) -> AcpiPmState {
        self.state.clone()
    }

    fn restore(&mut self, state: AcpiPmState) -> Result<(), RestoreError> {
        let AcpiPmState { status, enable, control } = state;
        require(status & !POWER_BUTTON == 0, Self::KIND, "status", status, "the power button's bit or 0")?;
        require(enable & !ENABLES == 0, Self::KIND, "enable", enable, "bits of events that there are")?;
        let kept = SLEEP_TYPE | BUS_MASTER_RELOAD;
        require(control & !kept == 0, Self::KIND, "control", control, "a sleep type and BM_RLD")?;
        self.state = state;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::conforms;

    #[test]
    fn the_power_button_interrupts_until_it_is_cleared() {
        let mut pm = AcpiPm::new();
        pm.press();
        assert_eq!((pm.read(0, 2), pm.sci_level()), (0x100, false), "not enabled");
        pm.write(2, 2, 0x120);
        assert_eq!((pm.read(2, 2), pm.sci_level()), (0x120, true));
        pm.press();
        pm.write(0, 2, 0x20);
        assert!(pm.sci_level());
        pm.write(0, 2, 0x100);
        assert_eq!((pm.read(0, 2), pm.sci_level()), (0, false));
        pm.press();
        pm.write(1, 1, 1);
        assert!(!pm.sci_level(), "by its byte");
    }

    #[test]
    fn linux_powers_off() {
        // `acpi_hw_legacy_sleep`: SLP_TYP first, then again with SLP_EN.
        let mut pm = AcpiPm::new();
        assert_eq!(pm.read(4, 2), 1, "ACPI mode");
        assert_eq!(pm.write(4, 2, 1 | 5 << 10), None);
        assert_eq!(pm.read(4, 2), 1 | 5 << 10);
        assert_eq!(pm.write(4, 2, 1 | 5 << 10 | 1 << 13), Some(PowerRequest::Off));
        assert_eq!(pm.read(4, 2), 1 | 5 << 10, "SLP_EN reads 0");
        assert_eq!(pm.write(4, 2, 3 << 10 | 1 << 13), None, "no S3");
        assert_eq!(pm.write(5, 1, 5 << 2 | 1 << 5), Some(PowerRequest::Off), "by its upper byte");
        assert_eq!(pm.write(4, 1, 0xff), None);
    }

    #[test]
    fn reset_and_what_is_not_there() {
        let mut pm = AcpiPm::new();
        assert_eq!(
            (pm.write(6, 1, 1), pm.write(6, 2, 1)),
            (Some(PowerRequest::Reset), Some(PowerRequest::Reset))
        );
        assert_eq!((pm.write(6, 1, 2), pm.write(7, 1, 1), pm.write(6, 4, 1)), (None, None, None));
        assert_eq!((pm.read(6, 1), pm.read(0, 4), pm.read(1, 2), pm.read(8, 2)), (0, 0xffff, 0xffff, 0xffff));
        pm.write(2, 2, 0xffff);
        pm.write(4, 2, !SLEEP_ENABLE);
        assert_eq!((pm.read(2, 2), pm.read(3, 1), pm.read(4, 2)), (0x520, 5, 0x1c03));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (status, enable, control) in [(0x20, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 1 << 13)] {
            AcpiPm::new().restore(AcpiPmState { status, enable, control }).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn conformance(writes in prop::collection::vec((any::<u16>(), any::<u8>(), any::<u16>()), 0..50)) {
            let mut pm = AcpiPm::new();
            for (offset, size, value) in writes {
                pm.write(offset % 10, size % 5, value);
                pm.read(value % 10, size % 5);
                pm.press();
            }
            conforms(&mut pm, |pm| {
                let enable = pm.state.enable ^ POWER_BUTTON;
                pm.write(2, 2, enable);
            });
        }
    }
}
