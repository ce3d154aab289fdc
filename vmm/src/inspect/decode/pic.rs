//! The 8259A pair (data sheet, Intel order number 231468) and the edge/level control registers.

use super::{Field, Meaning, Named};

use Field::{Bit, Choice, Clear};

const ICW1: &[Field] =
    &[Choice(3, 1, &["edge", "level"]), Choice(1, 1, &["cascade", "single"]), Bit(0, "ICW4 follows")];
const ICW4: &[Field] =
    &[Clear(0, "8080 mode"), Bit(1, "automatic end of interrupt"), Bit(4, "special fully nested")];
const OCW3: &[Field] = &[
    Choice(0, 2, &["", "", "read IRR", "read ISR"]),
    Bit(2, "poll"),
    Choice(5, 2, &["", "", "clear special mask", "set special mask"]),
];

/// What the next write to a chip's data port is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Next {
    #[default]
    Mask,
    Icw2,
    Icw3,
    Icw4,
}

/// What is known of one chip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Chip {
    next: Next,
    single: bool,
    icw4: bool,
    isr: bool,
    poll: bool,
}

/// What is known of the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Pair([Chip; 2]);

impl Pair {
    /// A byte written to one of the pair's ports.
    pub(super) fn write(&mut self, port: u16, value: u8) -> Named {
        let second = port & 0x80 != 0;
        let chip = &mut self.0[usize::from(second)];
        match port {
            0x4d0 | 0x4d1 => elcr(port, value),
            0x20 | 0xa0 => chip.command(value),
            _ => chip.data(value, if second { 8 } else { 0 }),
        }
    }

    /// A byte read from one of the pair's ports.
    pub(super) fn read(&mut self, port: u16, value: u8) -> Named {
        let second = port & 0x80 != 0;
        let first = if second { 8 } else { 0 };
        let chip = &mut self.0[usize::from(second)];
        if matches!(port, 0x4d0 | 0x4d1) {
            return elcr(port, value);
        }
        if std::mem::take(&mut chip.poll) {
            let line = Meaning::Number("line", u64::from(first + (value & 7)));
            return Named("poll", if value & 0x80 != 0 { line } else { Meaning::Phrase("nothing") });
        }
        match (port & 1, chip.isr) {
            (1, _) => Named("IMR", Meaning::Lines("masks", first, value)),
            (_, true) => Named("ISR", Meaning::Lines("in service:", first, value)),
            (_, false) => Named("IRR", Meaning::Lines("requested:", first, value)),
        }
    }
}

/// Ends of interrupts and rotation of priorities.
fn ocw2(value: u8) -> Meaning {
    let line = u64::from(value & 7);
    match value >> 5 {
        0b000 => Meaning::Phrase("stop rotating at automatic end of interrupt"),
        0b001 => Meaning::Phrase("end of interrupt"),
        0b010 => Meaning::Phrase("nothing"),
        0b011 => Meaning::Number("end of interrupt, line", line),
        0b100 => Meaning::Phrase("rotate at automatic end of interrupt"),
        0b101 => Meaning::Phrase("end of interrupt, rotate"),
        0b110 => Meaning::Number("lowest priority, line", line),
        _ => Meaning::Number("end of interrupt, rotate, line", line),
    }
}

fn elcr(port: u16, value: u8) -> Named {
    let (name, first) = if port == 0x4d0 { ("ELCR1", 0) } else { ("ELCR2", 8) };
    Named(name, Meaning::Lines("level:", first, value))
}

impl Chip {
    fn command(&mut self, value: u8) -> Named {
        let bits = value.into();
        if value & 0x10 != 0 {
            let (single, icw4) = (value & 2 != 0, value & 1 != 0);
            *self = Self { next: Next::Icw2, single, icw4, ..Self::default() };
            return Named("ICW1", Meaning::Fields(ICW1, bits));
        }
        if value & 0x08 != 0 {
            self.poll |= value & 4 != 0;
            if value & 2 != 0 {
                self.isr = value & 1 != 0;
            }
            return Named("OCW3", Meaning::Fields(OCW3, bits));
        }
        Named("OCW2", ocw2(value))
    }

    fn data(&mut self, value: u8, first: u8) -> Named {
        let last = if self.icw4 { Next::Icw4 } else { Next::Mask };
        match self.next {
            Next::Mask => Named("OCW1", Meaning::Lines("masks", first, value)),
            Next::Icw2 => {
                self.next = if self.single { last } else { Next::Icw3 };
                Named("ICW2", Meaning::Number("vectors from", u64::from(value & 0xf8)))
            }
            Next::Icw3 => {
                self.next = last;
                Named("ICW3", Meaning::None)
            }
            Next::Icw4 => {
                self.next = Next::Mask;
                Named("ICW4", Meaning::Fields(ICW4, value.into()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(named: Named) -> String {
        format!("{} {}", named.0, named.1)
    }

    #[test]
    fn an_initialisation_is_followed() {
        let mut pair = Pair::default();
        let written: Vec<String> = [
            (0x20, 0x11),
            (0xa0, 0x11),
            (0x21, 0x30),
            (0xa1, 0x38),
            (0x21, 4),
            (0xa1, 2),
            (0x21, 1),
            (0xa1, 3),
        ]
        .map(|(port, value)| text(pair.write(port, value)))
        .to_vec();
        assert_eq!(
            written,
            [
                "ICW1 edge, cascade, ICW4 follows",
                "ICW1 edge, cascade, ICW4 follows",
                "ICW2 vectors from 48",
                "ICW2 vectors from 56",
                "ICW3 ",
                "ICW3 ",
                "ICW4 ",
                "ICW4 automatic end of interrupt",
            ]
        );
        assert_eq!(text(pair.write(0x21, 0xfb)), "OCW1 masks irq 0,1,3,4,5,6,7");
        assert_eq!(text(pair.write(0xa1, 0xff)), "OCW1 masks all lines");
        assert_eq!(text(pair.read(0xa1, 0x01)), "IMR masks irq 8");
    }

    #[test]
    fn a_single_chip_without_icw4_has_no_further_words() {
        let mut pair = Pair::default();
        assert_eq!(text(pair.write(0x20, 0x1a)), "ICW1 level, single");
        assert_eq!(text(pair.write(0x21, 0x08)), "ICW2 vectors from 8");
        assert_eq!(text(pair.write(0x21, 0)), "OCW1 masks no line");
    }

    #[test]
    fn commands_and_what_reads_give_after_them() {
        let mut pair = Pair::default();
        let mut write = |value| text(pair.write(0x20, value));
        assert_eq!(write(0x20), "OCW2 end of interrupt");
        assert_eq!(write(0x64), "OCW2 end of interrupt, line 4");
        assert_eq!(write(0xc7), "OCW2 lowest priority, line 7");
        assert_eq!(write(0x00), "OCW2 stop rotating at automatic end of interrupt");
        assert_eq!(write(0x0b), "OCW3 read ISR");
        assert_eq!(text(pair.read(0x20, 1)), "ISR in service: irq 0");
        assert_eq!(text(pair.write(0x20, 0x0a)), "OCW3 read IRR");
        assert_eq!(text(pair.read(0x20, 0x10)), "IRR requested: irq 4");
        assert_eq!(text(pair.write(0xa0, 0x6c)), "OCW3 poll, set special mask");
        assert_eq!(text(pair.read(0xa0, 0x83)), "poll line 11");
        assert_eq!(text(pair.read(0xa0, 0)), "IRR requested: no line");
        assert_eq!(text(pair.write(0x4d0, 0x20)), "ELCR1 level: irq 5");
        assert_eq!(text(pair.read(0x4d1, 0x02)), "ELCR2 level: irq 9");
    }
}
