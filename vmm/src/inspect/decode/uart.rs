//! The 16550A serial port (PC16550D data sheet, section 8).

use super::{Field, Meaning, Named};

use Field::{Bit, Choice};

const IER: &[Field] =
    &[Bit(0, "received data"), Bit(1, "transmitter empty"), Bit(2, "line status"), Bit(3, "modem status")];
const IIR: &[Field] = &[
    Choice(
        0,
        4,
        &[
            "modem status",
            "none",
            "transmitter empty",
            "",
            "received data",
            "",
            "line status",
            "",
            "",
            "",
            "",
            "",
            "character timeout",
        ],
    ),
    Choice(6, 2, &["", "", "FIFO unusable", "FIFO"]),
];
const FCR: &[Field] = &[
    Choice(0, 1, &["FIFO off", "FIFO on"]),
    Bit(1, "clear receive FIFO"),
    Bit(2, "clear transmit FIFO"),
    Bit(3, "DMA mode 1"),
    Choice(6, 2, &["trigger 1", "trigger 4", "trigger 8", "trigger 14"]),
];
const LCR: &[Field] = &[
    Choice(0, 2, &["5 bits", "6 bits", "7 bits", "8 bits"]),
    Choice(
        3,
        3,
        &["no parity", "odd parity", "no parity", "even parity", "no parity", "mark", "no parity", "space"],
    ),
    Choice(2, 1, &["1 stop bit", "2 stop bits"]),
    Bit(6, "break"),
    Bit(7, "DLAB"),
];
const MCR: &[Field] = &[Bit(0, "DTR"), Bit(1, "RTS"), Bit(2, "OUT1"), Bit(3, "OUT2"), Bit(4, "loopback")];
const LSR: &[Field] = &[
    Bit(0, "data ready"),
    Bit(1, "overrun"),
    Bit(2, "parity error"),
    Bit(3, "framing error"),
    Bit(4, "break"),
    Bit(5, "THR empty"),
    Bit(6, "transmitter empty"),
    Bit(7, "FIFO error"),
];
const MSR: &[Field] = &[
    Bit(0, "CTS changed"),
    Bit(1, "DSR changed"),
    Bit(2, "RI changed"),
    Bit(3, "DCD changed"),
    Bit(4, "CTS"),
    Bit(5, "DSR"),
    Bit(6, "RI"),
    Bit(7, "DCD"),
];

/// What is known of the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Uart {
    /// the divisor latch is in place of the data and interrupt enable registers
    divisor: bool,
}

impl Uart {
    /// The register at `offset`, and what was read or written there.
    pub(super) fn access(&mut self, offset: u16, value: u8, write: bool) -> Named {
        let bits = value.into();
        match (offset, write) {
            (0, _) if self.divisor => Named("DLL", Meaning::None),
            (1, _) if self.divisor => Named("DLM", Meaning::None),
            (0, true) => Named("THR", Meaning::Text(bits, 1)),
            (0, false) => Named("RBR", Meaning::Text(bits, 1)),
            (1, _) if value & 0xf == 0 => Named("IER", Meaning::Phrase("none")),
            (1, _) => Named("IER", Meaning::Fields(IER, bits)),
            (2, true) => Named("FCR", Meaning::Fields(FCR, bits)),
            (2, false) => Named("IIR", Meaning::Fields(IIR, bits)),
            (3, _) => {
                self.divisor = if write { value & 0x80 != 0 } else { self.divisor };
                Named("LCR", Meaning::Fields(LCR, bits))
            }
            (4, _) => Named("MCR", Meaning::Fields(MCR, bits)),
            (5, _) => Named("LSR", Meaning::Fields(LSR, bits)),
            (6, _) => Named("MSR", Meaning::Fields(MSR, bits)),
            _ => Named("SCR", Meaning::None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(uart: &mut Uart, offset: u16, value: u8, write: bool) -> String {
        let Named(name, meaning) = uart.access(offset, value, write);
        format!("{name}: {meaning}")
    }

    #[test]
    fn registers_are_decoded() {
        let mut uart = Uart::default();
        for (offset, value, write, expected) in [
            (0, b'A', true, r#"THR: "A""#),
            (0, b'\n', false, r#"RBR: "\n""#),
            (1, 0, true, "IER: none"),
            (1, 5, true, "IER: received data, line status"),
            (2, 0xc7, true, "FCR: FIFO on, clear receive FIFO, clear transmit FIFO, trigger 14"),
            (2, 0xc4, false, "IIR: received data, FIFO"),
            (2, 0x01, false, "IIR: none"),
            (2, 0xcc, false, "IIR: character timeout, FIFO"),
            (3, 0x13, true, "LCR: 8 bits, no parity, 1 stop bit"),
            (3, 0x1e, true, "LCR: 7 bits, even parity, 2 stop bits"),
            (4, 0x0b, true, "MCR: DTR, RTS, OUT2"),
            (5, 0x61, false, "LSR: data ready, THR empty, transmitter empty"),
            (6, 0xb0, false, "MSR: CTS, DSR, DCD"),
            (7, 0x5a, true, "SCR: "),
        ] {
            assert_eq!(text(&mut uart, offset, value, write), expected);
        }
    }

    #[test]
    fn the_divisor_latch_hides_two_registers() {
        let mut uart = Uart::default();
        assert_eq!(text(&mut uart, 3, 0x83, true), "LCR: 8 bits, no parity, 1 stop bit, DLAB");
        assert_eq!(text(&mut uart, 0, 1, true), "DLL: ");
        assert_eq!(text(&mut uart, 1, 0, false), "DLM: ");
        assert_eq!(text(&mut uart, 3, 0x83, false), "LCR: 8 bits, no parity, 1 stop bit, DLAB");
        text(&mut uart, 3, 0x03, true);
        assert_eq!(text(&mut uart, 1, 1, true), "IER: received data");
    }
}
