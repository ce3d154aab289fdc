//! What subcommands print on standard output when they are asked for data: tables for people, JSON for scripts.

use std::io::Write;

use anyhow::Context;
use comfy_table::presets;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use super::exit::Failure;
use crate::session::place::seconds;

/// Version of the JSON documents, in their key `format`. Fields are only ever added.
pub(super) const FORMAT: u32 = 1;

/// Prints one JSON object on one line.
pub(super) fn json(document: &impl Serialize) -> Result<u8, Failure> {
    let text = serde_json::to_string(document).context("making JSON")?;
    Ok(print(&format!("{text}\n")))
}

/// Prints `text`; a reader that has gone away is no error. Gives the exit code.
pub(super) fn print(text: &str) -> u8 {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    0
}

/// Rows below a line of titles, in columns, each line with its end. Columns whose title starts with `>` are numbers.
pub(super) fn table(titles: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(titles.iter().map(|title| title.trim_start_matches('>')));
    table.add_rows(rows);
    for (column, title) in table.column_iter_mut().zip(titles) {
        column.set_padding((0, 2));
        if title.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().fold(String::new(), |text, line| text + line.trim_end() + "\n")
}

/// Any text on one line, without what a terminal would make something of.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_debug().to_string() } else { c.to_string() }).collect()
}

/// Guest time, if it is known.
pub(super) fn time(nanoseconds: Option<u64>) -> String {
    nanoseconds.map_or_else(|| "-".to_owned(), seconds)
}

/// A number of bytes for people.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let Some(power) = count.checked_ilog2().map(|bits| bits / 10).filter(|power| *power > 0) else {
        return format!("{count} B");
    };
    let unit = UNITS[power as usize - 1..].first().unwrap_or(&"EiB");
    // In tenths, rounded; never more than a few thousand of them.
    let tenths = (u128::from(count) * 10 + (1 << (10 * power - 1))) >> (10 * power);
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// A number of things: `1 snapshot`, `2 snapshots`.
pub(super) fn counted(count: u64, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_columns_and_no_blanks_at_the_end() {
        let rows = [["a", "1", "x"], ["long name", "12345", ""]];
        let text = table(&["NAME", ">SIZE", "WHAT"], rows.map(|row| row.map(str::to_owned).to_vec()));
        assert_eq!(text, "NAME        SIZE  WHAT\na              1  x\nlong name  12345\n");
    }

    #[test]
    fn bytes_are_told_in_four_digits() {
        let told = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (12_493_159, "11.9 MiB"),
            (1 << 30, "1.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (count, text) in told {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn control_characters_are_shown_not_sent() {
        assert_eq!(plain("a\u{1b}[2Jb\n\u{e9}"), "a\\u{1b}[2Jb\\n\u{e9}");
    }
}
