//! Console text by lines, each with the moment of its first byte; what a guest sends is made harmless and kept in bounds.

use std::collections::VecDeque;

use crate::machine::observe::Moment;

/// Most of the text's beginning that is kept.
const HEAD_MAX: usize = 1 << 20;
/// Most of its end that is kept, where the beginning is full.
const TAIL_MAX: usize = 1 << 20;
/// What a line costs beside its text.
const LINE_COST: usize = 32;
/// Bytes after which a line is cut.
const LINE_MAX: usize = 2048;

/// A line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// when its first byte was sent
    pub at: Moment,
    /// without control characters
    pub text: String,
}

/// The text.
#[derive(Debug, Default)]
pub struct Text {
    head: Vec<Line>,
    head_cost: usize,
    tail: VecDeque<Line>,
    tail_cost: usize,
    /// the line that has not ended
    current: Option<(Moment, Vec<u8>)>,
    left_out: u64,
}

impl Text {
    /// Takes bytes the guest has sent.
    pub fn push(&mut self, at: Moment, bytes: &[u8]) {
        for byte in bytes {
            if *byte == b'\n' {
                let (at, line) = self.current.take().unwrap_or((at, Vec::new()));
                self.line(at, &line);
                continue;
            }
            let (_, line) = self.current.get_or_insert_with(|| (at, Vec::new()));
            line.push(*byte);
            if line.len() == LINE_MAX
                && let Some((at, line)) = self.current.take()
            {
                self.line(at, &line);
            }
        }
    }

    /// All that is kept, and how many lines were left out after the first of the two.
    pub fn finish(mut self) -> (Vec<Line>, u64, Vec<Line>) {
        if let Some((at, line)) = self.current.take() {
            self.line(at, &line);
        }
        (self.head, self.left_out, self.tail.into())
    }

    fn line(&mut self, at: Moment, bytes: &[u8]) {
        let line = Line { at, text: clean(bytes) };
        let cost = line.text.len() + LINE_COST;
        if self.tail.is_empty() && self.head_cost + cost <= HEAD_MAX {
            self.head_cost += cost;
            self.head.push(line);
            return;
        }
        self.tail_cost += cost;
        self.tail.push_back(line);
        while self.tail_cost > TAIL_MAX
            && let Some(gone) = self.tail.pop_front()
        {
            self.tail_cost -= gone.text.len() + LINE_COST;
            self.left_out += 1;
        }
    }
}

/// A line's bytes as text that shows what is there: no escape sequence acts, nothing changes the direction of writing.
pub fn clean(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len());
    let mut rest = text.trim_end_matches('\r');
    while let Some(first) = rest.chars().next() {
        if let Some(behind) = behind_sequence(rest) {
            rest = behind;
            continue;
        }
        show(first, &mut out);
        rest = &rest[first.len_utf8()..];
    }
    out
}

/// What follows a control sequence (ECMA-48, 5.4: CSI, parameters, a final byte), such as a colour.
fn behind_sequence(text: &str) -> Option<&str> {
    let rest = text.strip_prefix("\x1b[")?;
    let last = rest.find(|c: char| !matches!(c, ' '..='?'))?;
    matches!(rest.as_bytes()[last], b'@'..=b'~').then(|| &rest[last + 1..])
}

fn show(c: char, out: &mut String) {
    match c {
        '\t' => out.push_str("    "),
        // as a terminal echoes them: ^[ for escape
        '\0'..='\x1f' | '\x7f' => {
            out.push('^');
            out.extend(char::from_u32(u32::from(c) ^ 0x40));
        }
        // C1 controls, and characters that are invisible or change the direction of what is around them
        '\u{80}'..='\u{9f}'
        | '\u{61c}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}' => out.extend(c.escape_unicode()),
        _ => out.push(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scribe_log::Position;

    fn at(exit: u64) -> Moment {
        Moment { position: Position::exit(exit), guest_time: exit * 2000 }
    }

    #[test]
    fn a_line_is_where_its_first_byte_was() {
        let mut text = Text::default();
        for (exit, byte) in (5..).zip(b"one\r\n\ntwo") {
            text.push(at(exit), &[*byte]);
        }
        let (lines, left_out, tail) = text.finish();
        let seen: Vec<_> = lines.iter().map(|line| (line.at.position.exit, line.text.as_str())).collect();
        assert_eq!(seen, [(5, "one"), (10, ""), (11, "two")]);
        assert_eq!((left_out, tail.len()), (0, 0));
    }

    #[test]
    fn nothing_in_a_line_acts() {
        for (bytes, shown) in [
            (&b"\x1b[1;31mred\x1b[0m"[..], "red"),
            (b"a\x1b]0;title\x07b", "a^[]0;title^Gb"),
            (b"a\x1b[", "a^[["),
            (b"a\x1b[\xe2\x82\xac", "a^[[\u{20ac}"),
            (b"tab\there", "tab    here"),
            (b"\0\x7f", "^@^?"),
            (b"\xff", "\u{fffd}"),
            ("\u{202e}evil\u{2028}".as_bytes(), "\\u{202e}evil\\u{2028}"),
            ("\u{85}\u{feff}".as_bytes(), "\\u{85}\\u{feff}"),
            (b"</script>", "</script>"),
        ] {
            assert_eq!(clean(bytes), shown);
        }
    }

    #[test]
    fn beginning_and_end_of_endless_text_are_kept() {
        let mut text = Text::default();
        let lines = 200_000;
        for exit in 0..lines {
            text.push(at(exit), format!("line {exit}\n").as_bytes());
        }
        let (head, left_out, tail) = text.finish();
        assert_eq!(head.first().unwrap().text, "line 0");
        assert_eq!(tail.last().unwrap().text, format!("line {}", lines - 1));
        assert_eq!(head.len() as u64 + left_out + tail.len() as u64, lines);
        let cost = |lines: &[Line]| lines.iter().map(|line| line.text.len() + LINE_COST).sum::<usize>();
        assert!(cost(&head) <= HEAD_MAX && cost(&tail) <= TAIL_MAX);
    }

    #[test]
    fn an_endless_line_is_cut() {
        let mut text = Text::default();
        text.push(at(1), &[b'x'; 3 * LINE_MAX + 1]);
        let (lines, _, _) = text.finish();
        assert_eq!(
            lines.iter().map(|line| line.text.len()).collect::<Vec<_>>(),
            [LINE_MAX, LINE_MAX, LINE_MAX, 1]
        );
    }
}
