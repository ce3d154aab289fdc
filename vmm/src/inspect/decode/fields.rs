//! What the bits of a register mean, as tables, and one way to print them.

use std::fmt;

/// A part of a register's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// a bit, named where it is set
    Bit(u8, &'static str),
    /// a bit, named where it is clear
    Clear(u8, &'static str),
    /// so many bits from a bit on choose a name; an empty name prints nothing
    Choice(u8, u8, &'static [&'static str]),
    /// so many bits from a bit on are a number, after a word
    Number(u8, u8, &'static str),
}

/// What a value means, beyond its digits. It prints as nothing, or as a phrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// no more than the number
    None,
    /// a phrase
    Phrase(&'static str),
    /// fields of a register, in the order of the table
    Fields(&'static [Field], u64),
    /// so many bytes of text, the first in the lowest bits
    Text(u64, u8),
    /// a number after a word
    Number(&'static str, u64),
    /// an address or an index after a word, in hexadecimal
    Hex(&'static str, u64),
    /// lines of interrupt controllers, from this IRQ on: those whose bit is set, after a word
    Lines(&'static str, u8, u8),
}

impl Meaning {
    /// True if there is nothing to print.
    pub fn is_empty(&self) -> bool {
        match *self {
            Self::None => true,
            Self::Fields(table, value) => !table.iter().any(|field| field.speaks(value)),
            _ => false,
        }
    }
}

/// `length` bits of `value` from bit `first` on.
fn part(value: u64, first: u8, length: u8) -> u64 {
    let shifted = value.checked_shr(first.into()).unwrap_or(0);
    shifted & 1_u64.checked_shl(length.into()).map_or(u64::MAX, |above| above - 1)
}

impl Field {
    fn name(&self, value: u64) -> Option<&'static str> {
        let name = match *self {
            Self::Bit(bit, name) if part(value, bit, 1) == 1 => name,
            Self::Clear(bit, name) if part(value, bit, 1) == 0 => name,
            Self::Bit(..) | Self::Clear(..) => "",
            Self::Choice(first, length, names) => {
                let choice = usize::try_from(part(value, first, length)).ok();
                choice.and_then(|choice| names.get(choice)).copied().unwrap_or("")
            }
            Self::Number(_, _, name) => name,
        };
        (!name.is_empty()).then_some(name)
    }

    fn speaks(&self, value: u64) -> bool {
        self.name(value).is_some()
    }
}

impl fmt::Display for Meaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::None => Ok(()),
            Self::Phrase(text) => f.write_str(text),
            Self::Fields(table, value) => fields(f, table, value),
            Self::Text(value, length) => {
                let bytes = value.to_le_bytes();
                let length = usize::from(length).min(bytes.len());
                write!(f, "{}", Quoted(&bytes[..length]))
            }
            Self::Number(word, value) => write!(f, "{word} {value}"),
            Self::Hex(word, value) => write!(f, "{word} {value:#x}"),
            Self::Lines(word, _, 0) => write!(f, "{word} no line"),
            Self::Lines(word, _, 0xff) => write!(f, "{word} all lines"),
            Self::Lines(word, first, set) => {
                f.write_str(word)?;
                let lines = (0..8).filter(|line| set >> line & 1 == 1);
                lines.enumerate().try_for_each(|(number, line)| {
                    write!(f, "{}{}", if number == 0 { " irq " } else { "," }, first.saturating_add(line))
                })
            }
        }
    }
}

fn fields(f: &mut fmt::Formatter<'_>, table: &[Field], value: u64) -> fmt::Result {
    let mut first = true;
    for field in table {
        let Some(name) = field.name(value) else { continue };
        if !std::mem::take(&mut first) {
            f.write_str(", ")?;
        }
        f.write_str(name)?;
        if let Field::Number(bit, length, _) = *field {
            write!(f, " {}", part(value, bit, length))?;
        }
    }
    Ok(())
}

/// Bytes in double quotes: printable ASCII as it is, anything else escaped, so that it stays on its line.
#[derive(Debug, Clone, Copy)]
pub struct Quoted<'a>(pub &'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        f.write_str("\"")?;
        while !rest.is_empty() {
            let plain = rest.iter().take_while(|byte| is_plain(**byte)).count();
            let (text, others) = rest.split_at(plain);
            // Printable ASCII is UTF-8.
            f.write_str(str::from_utf8(text).unwrap_or_default())?;
            let escaped = others.iter().take_while(|byte| !is_plain(**byte)).count();
            write!(f, "{}", others[..escaped].escape_ascii())?;
            rest = &others[escaped..];
        }
        f.write_str("\"")
    }
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Field] = &[
        Field::Choice(0, 2, &["", "one", "two"]),
        Field::Bit(2, "set"),
        Field::Clear(3, "clear"),
        Field::Number(4, 4, "number"),
    ];

    #[test]
    fn fields_are_named_in_the_order_of_their_table() {
        let text = |value| Meaning::Fields(TABLE, value).to_string();
        assert_eq!(text(0b0101_1101), "one, set, number 5");
        assert_eq!(text(0b0000_0010), "two, clear, number 0");
        assert_eq!(text(0b0000_1011), "number 0", "a choice without a name");
        assert!(Meaning::Fields(&TABLE[..2], 0).is_empty());
        assert!(!Meaning::Fields(TABLE, 0).is_empty());
        assert_eq!(Meaning::Fields(&[Field::Bit(70, "x"), Field::Number(0, 64, "n")], 9).to_string(), "n 9");
    }

    #[test]
    fn phrases_numbers_lines_and_text() {
        assert_eq!(Meaning::None.to_string(), "");
        assert_eq!(Meaning::Phrase("a b").to_string(), "a b");
        assert_eq!(Meaning::Number("queue", 3).to_string(), "queue 3");
        assert_eq!(Meaning::Hex("page", 30).to_string(), "page 0x1e");
        assert_eq!(Meaning::Lines("masks", 8, 0b101).to_string(), "masks irq 8,10");
        assert_eq!(Meaning::Lines("masks", 0, 0).to_string(), "masks no line");
        assert_eq!(Meaning::Lines("masks", 0, 0xff).to_string(), "masks all lines");
        assert_eq!(Meaning::Text(0x0a41, 2).to_string(), r#""A\n""#);
        assert_eq!(Meaning::Text(0x41, 200).to_string(), r#""A\x00\x00\x00\x00\x00\x00\x00""#);
    }

    #[test]
    fn quoted_text_stays_on_its_line() {
        let quoted = |bytes: &[u8]| Quoted(bytes).to_string();
        assert_eq!(quoted(b""), r#""""#);
        assert_eq!(quoted(b"it's \"a\" \\ b\r\n\x1b[0m\xff!"), r#""it's \"a\" \\ b\r\n\x1b[0m\xff!""#);
    }
}
