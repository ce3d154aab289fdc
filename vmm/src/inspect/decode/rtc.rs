//! The MC146818 real-time clock and its CMOS memory: an index port and a data port.

use super::{Field, Meaning, Named};

use Field::{Bit, Choice, Number};

const REGISTER_A: &[Field] = &[Bit(7, "update in progress"), Number(4, 3, "divider"), Number(0, 4, "rate")];
const REGISTER_B: &[Field] = &[
    Bit(7, "set"),
    Bit(6, "periodic interrupt"),
    Bit(5, "alarm interrupt"),
    Bit(4, "update interrupt"),
    Bit(3, "square wave"),
    Choice(2, 1, &["BCD", "binary"]),
    Choice(1, 1, &["12 hours", "24 hours"]),
    Bit(0, "daylight saving"),
];
const REGISTER_C: &[Field] = &[Bit(7, "interrupt"), Bit(6, "periodic"), Bit(5, "alarm"), Bit(4, "update")];
const REGISTER_D: &[Field] = &[Choice(7, 1, &["memory lost", "valid"])];

/// The registers' names, from 0 on.
const NAMES: [&str; 14] = [
    "seconds",
    "seconds alarm",
    "minutes",
    "minutes alarm",
    "hours",
    "hours alarm",
    "day of week",
    "day",
    "month",
    "year",
    "register A",
    "register B",
    "register C",
    "register D",
];
const SHUTDOWN: u8 = 0x0f;
const CENTURY: u8 = 0x32;

/// What is known of the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Rtc {
    index: u8,
}

impl Rtc {
    /// Port 0x70 or 0x71, and what was read or written there.
    pub(super) fn access(&mut self, port: u16, value: u8, write: bool) -> Named {
        if port == 0x70 {
            let index = value & 0x7f;
            if !write {
                return Named("index", Meaning::None);
            }
            self.index = index;
            let meaning = name(index).map_or(Meaning::Hex("CMOS memory", index.into()), Meaning::Phrase);
            return Named("index", meaning);
        }
        let table = match self.index {
            0x0a => REGISTER_A,
            0x0b => REGISTER_B,
            0x0c => REGISTER_C,
            0x0d => REGISTER_D,
            index => {
                let memory = Named("CMOS memory", Meaning::Hex("byte", index.into()));
                return name(index).map_or(memory, |name| Named(name, Meaning::None));
            }
        };
        Named(name(self.index).unwrap_or_default(), Meaning::Fields(table, value.into()))
    }
}

fn name(index: u8) -> Option<&'static str> {
    match index {
        SHUTDOWN => Some("shutdown status"),
        CENTURY => Some("century"),
        _ => NAMES.get(usize::from(index)).copied(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_names_the_data() {
        let mut rtc = Rtc::default();
        let mut select = |index, value| {
            let Named(_, chosen) = rtc.access(0x70, index, true);
            let Named(name, meaning) = rtc.access(0x71, value, false);
            (chosen.to_string(), name, meaning.to_string())
        };
        assert_eq!(select(0x09, 0x26), ("year".into(), "year", String::new()));
        assert_eq!(select(0x8a, 0x26), ("register A".into(), "register A", "divider 2, rate 6".into()));
        assert_eq!(select(0x0b, 0x82).2, "set, BCD, 24 hours");
        assert_eq!(select(0x0c, 0x90).2, "interrupt, update");
        assert_eq!(select(0x0d, 0x80).2, "valid");
        assert_eq!(select(0x0f, 0).1, "shutdown status");
        assert_eq!(select(0x32, 0x20), ("century".into(), "century", String::new()));
        assert_eq!(select(0x40, 7), ("CMOS memory 0x40".into(), "CMOS memory", "byte 0x40".into()));
    }

    #[test]
    fn reading_the_index_selects_nothing() {
        let mut rtc = Rtc::default();
        assert_eq!(rtc.access(0x70, 0xff, false), Named("index", Meaning::None));
        assert_eq!(rtc.access(0x71, 0xff, true).0, "seconds");
    }
}
