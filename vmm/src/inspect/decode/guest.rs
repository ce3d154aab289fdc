//! The guest interface (docs/guest-interface.md).

use super::{Meaning, Named};

/// The register at `offset`, and what was read or written there in `size` bytes.
pub(super) fn access(offset: u16, size: u8, value: u64, write: bool) -> Named {
    let with = |meaning| if write { meaning } else { Meaning::None };
    match offset {
        0x00 => Named("MAGIC", Meaning::None),
        0x04 => Named("VERSION", Meaning::None),
        0x08 => Named("TIME_LO", Meaning::None),
        0x0c => Named("TIME_HI", Meaning::None),
        0x10 if value == 0 => Named("CLOCK_PAGE", Meaning::Phrase("no page")),
        0x10 => Named("CLOCK_PAGE", Meaning::Hex("page at", value.wrapping_mul(4096))),
        0x14 => Named("STATUS", Meaning::Number("status", value & 0xff)),
        0x18 => Named("POWER_OFF", Meaning::None),
        0x1c => Named("SYNC", Meaning::None),
        0x20..=0x23 => Named("DATA", Meaning::Text(value, size)),
        0x24 if write => Named(
            "SELECT",
            match value {
                0 => Meaning::Phrase("nothing"),
                1 => Meaning::Phrase("the command"),
                _ => Meaning::Phrase("an empty stream"),
            },
        ),
        0x24 => Named("SELECT", Meaning::Number("bytes left", value)),
        0x28 => Named("BOOKMARK", with(Meaning::Phrase("named by the message"))),
        0x2c => Named("PANIC", with(Meaning::Phrase("the message is the panic's"))),
        _ => Named("between registers", Meaning::None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_decoded() {
        for (offset, size, value, write, expected) in [
            (0x00, 4, 0x4252_4353, false, "MAGIC: "),
            (0x10, 4, 0x1234, true, "CLOCK_PAGE: page at 0x1234000"),
            (0x10, 4, 0, true, "CLOCK_PAGE: no page"),
            (0x14, 4, 0x107, true, "STATUS: status 7"),
            (0x18, 4, 1, true, "POWER_OFF: "),
            (0x20, 4, 0x7370_6f6f, true, r#"DATA: "oops""#),
            (0x20, 1, 0x0a, false, r#"DATA: "\n""#),
            (0x24, 4, 1, true, "SELECT: the command"),
            (0x24, 4, 12, false, "SELECT: bytes left 12"),
            (0x28, 4, 0, true, "BOOKMARK: named by the message"),
            (0x2c, 4, 0, false, "PANIC: "),
            (0x02, 4, 0, false, "between registers: "),
        ] {
            let Named(name, meaning) = access(offset, size, value, write);
            assert_eq!(format!("{name}: {meaning}"), expected);
        }
    }
}
