//! The keyboard controller, reduced to what a PC without keyboard needs: the reset command.
//!
//! Status (port 0x64) and data (port 0x60) read 0: no output waiting, no input pending, so a guest that waits for
//! the controller before it sends the reset command finds it ready. `vm_superio::I8042Device` does the same but
//! reports the reset through a trigger object; a return value suits a pure device better.

use serde::{Deserialize, Serialize};

use crate::snapshot::{RestoreError, Snapshot};

/// Data port.
const DATA: u16 = 0x60;
/// Status and command port.
const COMMAND: u16 = 0x64;
/// "Pulse output line 0": the processor's reset line.
const PULSE_RESET: u8 = 0xfe;

/// The guest asked for the processor to be reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResetRequest;

/// The keyboard controller.
#[derive(Clone, Debug, Default)]
pub struct I8042;

/// State of [`I8042`]: it has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct I8042State;

impl I8042 {
    /// A controller with nothing attached.
    pub fn new() -> Self {
        I8042
    }

    /// Reads a port: 0, and all ones for a port that is not the controller's.
    pub fn read(&mut self, port: u16) -> u8 {
        match port {
            DATA | COMMAND => 0,
            _ => 0xff,
        }
    }

    /// Writes a port; all but the reset command is ignored.
    pub fn write(&mut self, port: u16, value: u8) -> Option<ResetRequest> {
        (port == COMMAND && value == PULSE_RESET).then_some(ResetRequest)
    }
}

impl Snapshot for I8042 {
    const KIND: &'static str = "i8042";
    const VERSION: u16 = 1;
    type State = I8042State;

    fn save(&self) -> I8042State {
        I8042State
    }

    fn restore(&mut self, _state: I8042State) -> Result<(), RestoreError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_reset_command_asks_for_a_reset() {
        let mut controller = I8042::new();
        assert_eq!((controller.read(0x60), controller.read(0x64), controller.read(0x61)), (0, 0, 0xff));
        for value in 0..=255 {
            assert_eq!(controller.write(0x64, value).is_some(), value == 0xfe);
            assert_eq!(controller.write(0x60, value), None);
        }
        controller.restore(controller.save()).unwrap();
    }
}
