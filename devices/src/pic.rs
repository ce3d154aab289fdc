//! The two cascaded 8259A interrupt controllers of a PC, with their edge/level control registers.
//!
//! Ports 0x20/0x21 and 0xa0/0xa1 (8259A data sheet, Intel order number 231468), 0x4d0/0x4d1 (ELCR: Intel 82371AB
//! data sheet, section 4.2.8). Inputs are edge-triggered until ELCR says otherwise; IRQ 0, 1, 2, 8 and 13 always
//! are. The second chip's INT drives the first one's IR2 directly, so IR2 is never left requested with nothing
//! behind it.

use serde::{Deserialize, Serialize};

use crate::snapshot::{RestoreError, Snapshot, require};

mod chip;
#[cfg(test)]
mod tests;

pub use chip::{ChipState, InitStep};

/// The input of the first chip that the second one hangs on.
const CASCADE: u8 = 2;
/// Inputs of the first chip that ELCR can make level-triggered: IRQ 3 to 7.
const ELCR_PRIMARY: u8 = 0xf8;
/// Inputs of the second chip that ELCR can make level-triggered: IRQ 9 to 12, 14 and 15.
const ELCR_SECONDARY: u8 = 0xde;

/// The pair of interrupt controllers.
#[derive(Clone, Debug)]
pub struct PicPair {
    state: PicState,
}

/// State of [`PicPair`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PicState {
    /// IRQ 0 to 7.
    pub primary: ChipState,
    /// IRQ 8 to 15.
    pub secondary: ChipState,
}

impl PicPair {
    /// Both chips as after power-on: nothing requested, nothing masked, vector base 0. The guest initialises them.
    pub fn new() -> Self {
        PicPair { state: PicState { primary: ChipState::new(), secondary: ChipState::new() } }
    }

    /// Reads a port. Ports that are not the pair's give all ones. A read may be a poll, which acknowledges.
    pub fn read(&mut self, port: u16) -> u8 {
        let value = match port {
            0x20 | 0x21 => self.state.primary.read(port & 1 != 0, Some(CASCADE)),
            0xa0 | 0xa1 => self.state.secondary.read(port & 1 != 0, None),
            0x4d0 => self.state.primary.elcr,
            0x4d1 => self.state.secondary.elcr,
            _ => 0xff,
        };
        self.update_cascade();
        value
    }

    /// Writes a port. Ports that are not the pair's are ignored.
    pub fn write(&mut self, port: u16, value: u8) {
        match port {
            0x20 => self.state.primary.write_command(value),
            0x21 => self.state.primary.write_data(value),
            0xa0 => self.state.secondary.write_command(value),
            0xa1 => self.state.secondary.write_data(value),
            0x4d0 => self.state.primary.write_elcr(value, ELCR_PRIMARY),
            0x4d1 => self.state.secondary.write_elcr(value, ELCR_SECONDARY),
            _ => {}
        }
        self.update_cascade();
    }

    /// Drives line `irq`, 0..16. Setting a level that the line already has changes nothing. IRQ 2 is the cascade
    /// and cannot be driven; it and numbers above 15 are ignored.
    pub fn set_line(&mut self, irq: u8, level: bool) {
        match irq {
            CASCADE => {}
            0..8 => self.state.primary.set_line(irq, level),
            8..16 => self.state.secondary.set_line(irq - 8, level),
            _ => {}
        }
        self.update_cascade();
    }

    /// One rising edge on line `irq`: low, then high.
    pub fn pulse(&mut self, irq: u8) {
        self.set_line(irq, false);
        self.set_line(irq, true);
    }

    /// True if a request on `irq`, 0..16, cannot get through: it is masked, or the cascade it needs is.
    pub fn is_masked(&self, irq: u8) -> bool {
        let (primary, secondary) = (&self.state.primary, &self.state.secondary);
        match irq {
            0..8 => primary.imr >> irq & 1 == 1,
            8..16 => secondary.imr >> (irq - 8) & 1 == 1 || primary.imr >> CASCADE & 1 == 1,
            _ => true,
        }
    }

    /// INTR: an interrupt waits to be acknowledged.
    pub fn pending(&self) -> bool {
        self.state.primary.highest(Some(CASCADE)).is_some()
    }

    /// The IRQ, 0..16, that [`acknowledge`](Self::acknowledge) would give the vector of. `None` if it would be
    /// spurious.
    pub fn highest(&self) -> Option<u8> {
        match self.state.primary.highest(Some(CASCADE))? {
            CASCADE => self.state.secondary.highest(None).map(|line| line + 8),
            line => Some(line),
        }
    }

    /// The processor's interrupt acknowledge cycle; gives the vector. With no request left it is the vector of
    /// IRQ 7 or 15, and no in-service bit is set ("spurious interrupt").
    pub fn acknowledge(&mut self) -> u8 {
        let PicState { primary, secondary } = &mut self.state;
        let vector = match primary.highest(Some(CASCADE)) {
            None => primary.spurious(),
            Some(CASCADE) => {
                primary.acknowledge(CASCADE);
                match secondary.highest(None) {
                    Some(line) => secondary.acknowledge(line),
                    None => secondary.spurious(),
                }
            }
            Some(line) => primary.acknowledge(line),
        };
        self.update_cascade();
        vector
    }

    fn update_cascade(&mut self) {
        let requested = self.state.secondary.highest(None).is_some();
        self.state.primary.set_request(CASCADE, requested);
    }
}

impl Default for PicPair {
    fn default() -> Self {
        PicPair::new()
    }
}

impl Snapshot for PicPair {
    const KIND: &'static str = "i8259a-pair";
    const VERSION: u16 = 1;
    type State = PicState;

    fn save(&self) -> PicState {
        self.state.clone()
    }

    fn restore(&mut self, state: PicState) -> Result<(), RestoreError> {
        let chips = [(&state.primary, ELCR_PRIMARY), (&state.secondary, ELCR_SECONDARY)];
        for (chip, writable) in chips {
            require(chip.top < 8, Self::KIND, "top", chip.top, "an input, 0 to 7")?;
            require(chip.base & 7 == 0, Self::KIND, "base", chip.base, "a multiple of 8")?;
            require(
                chip.elcr & !writable == 0,
                Self::KIND,
                "elcr",
                chip.elcr,
                "limited to the inputs that can be level-triggered",
            )?;
            require(
                chip.irr & chip.elcr == chip.lines & chip.elcr,
                Self::KIND,
                "irr",
                chip.irr,
                "equal to the lines of level-triggered inputs",
            )?;
        }
        let requested = state.secondary.highest(None).is_some();
        require(
            (state.primary.irr & 1 << CASCADE != 0) == requested,
            Self::KIND,
            "irr",
            state.primary.irr,
            "requesting IR2 exactly while the second chip has a request",
        )?;
        self.state = state;
        Ok(())
    }
}
