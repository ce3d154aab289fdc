//! The 8254 timer (data sheet, Intel order number 231164) and port 0x61.

use super::{Field, Meaning, Named};

use Field::{Bit, Choice, Clear, Number};

const MODES: &[&str] = &["mode 0", "mode 1", "mode 2", "mode 3", "mode 4", "mode 5", "mode 2", "mode 3"];
const CONTROL: &[Field] = &[
    Number(6, 2, "counter"),
    Choice(4, 2, &["latch", "low byte", "high byte", "low and high byte"]),
    Choice(1, 3, MODES),
    Bit(0, "BCD"),
];
const LATCH: &[Field] = &[Number(6, 2, "latch counter")];
const READ_BACK: &[Field] = &[
    Clear(5, "latch count"),
    Clear(4, "latch status"),
    Bit(1, "counter 0"),
    Bit(2, "counter 1"),
    Bit(3, "counter 2"),
];
const PORT_61: &[Field] = &[
    Bit(0, "gate of counter 2"),
    Bit(1, "speaker"),
    Bit(2, "SERR off"),
    Bit(3, "IOCHK off"),
    Bit(4, "refresh"),
    Bit(5, "OUT of counter 2"),
];

/// A port of the timer, or 0x61, and what was read or written there.
pub(super) fn access(port: u16, value: u8, write: bool) -> Named {
    let bits = value.into();
    match port {
        0x40 => Named("counter 0", Meaning::None),
        0x41 => Named("counter 1", Meaning::None),
        0x42 => Named("counter 2", Meaning::None),
        0x61 => Named("port B", Meaning::Fields(PORT_61, bits)),
        _ if !write => Named("control", Meaning::None),
        _ if value >> 6 == 3 => Named("read-back", Meaning::Fields(READ_BACK, bits)),
        _ if value & 0x30 == 0 => Named("control", Meaning::Fields(LATCH, bits)),
        _ => Named("control", Meaning::Fields(CONTROL, bits)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_words() {
        let text = |value| {
            let Named(name, meaning) = access(0x43, value, true);
            format!("{name}: {meaning}")
        };
        assert_eq!(text(0x34), "control: counter 0, low and high byte, mode 2");
        assert_eq!(text(0xb1), "control: counter 2, low and high byte, mode 0, BCD");
        assert_eq!(text(0x9e), "control: counter 2, low byte, mode 3");
        assert_eq!(text(0x40), "control: latch counter 1");
        assert_eq!(text(0xe2), "read-back: latch status, counter 0");
        assert_eq!(text(0xce), "read-back: latch count, latch status, counter 0, counter 1, counter 2");
    }

    #[test]
    fn counters_and_port_b() {
        assert_eq!(access(0x40, 9, true), Named("counter 0", Meaning::None));
        assert_eq!(access(0x42, 9, false), Named("counter 2", Meaning::None));
        assert_eq!(access(0x43, 0x34, false), Named("control", Meaning::None));
        let Named(name, meaning) = access(0x61, 0x31, false);
        assert_eq!((name, &*meaning.to_string()), ("port B", "gate of counter 2, refresh, OUT of counter 2"));
    }
}
