//! How many events of each kind a log has for each device, and how many bytes they moved.

use std::collections::BTreeMap;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use scribe_log::{Body, Position};
use serde::Serialize;

use super::decode::Device;
use super::row::Row;

/// One line of the summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Line {
    count: u64,
    bytes: u64,
    first: Position,
    last: Position,
}

/// A summary in the making.
#[derive(Debug, Clone, Default)]
pub struct Summary(BTreeMap<(Device, &'static str), Line>);

/// A line for scripts.
#[derive(Serialize)]
struct Object {
    device: &'static str,
    kind: &'static str,
    count: u64,
    bytes: u64,
    first: String,
    last: String,
}

impl Summary {
    /// Counts an event.
    pub fn add(&mut self, row: &Row) {
        self.count(row.device, row.event.body.name(), row.event.position, bytes(&row.event.body));
    }

    /// Counts something of this kind.
    pub fn count(&mut self, device: Device, kind: &'static str, here: Position, bytes: u64) {
        let new = Line { count: 0, bytes: 0, first: here, last: here };
        let line = self.0.entry((device, kind)).or_insert(new);
        line.count += 1;
        line.bytes = line.bytes.saturating_add(bytes);
        line.last = here;
    }

    /// The lines, most events first.
    fn lines(&self) -> Vec<(Device, &'static str, Line)> {
        let mut lines: Vec<_> = self.0.iter().map(|((device, kind), line)| (*device, *kind, *line)).collect();
        lines.sort_by_key(|(_, _, line)| std::cmp::Reverse(line.count));
        lines
    }

    /// A table for people, with a total below.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(NOTHING);
        table.set_header(["% events", "events", "bytes", "first", "last", "device", "kind"]);
        let lines = self.lines();
        let total: u64 = lines.iter().map(|(_, _, line)| line.count).sum();
        for (device, kind, line) in &lines {
            let Line { count, bytes, first, last } = *line;
            // In hundredths of a percent: whole numbers are the same on every host.
            let share = u128::from(count) * 10_000 / u128::from(total.max(1));
            table.add_row([
                format!("{}.{:02}", share / 100, share % 100),
                count.to_string(),
                bytes.to_string(),
                first.to_string(),
                last.to_string(),
                device.name().to_owned(),
                (*kind).to_owned(),
            ]);
        }
        let bytes = lines.iter().fold(0_u64, |sum, (_, _, line)| sum.saturating_add(line.bytes));
        let first = lines.iter().map(|(_, _, line)| line.first).min();
        let last = lines.iter().map(|(_, _, line)| line.last).max();
        let place = |position: Option<Position>| position.map_or_else(|| "-".into(), |it| it.to_string());
        table.add_row([
            "100.00".to_owned(),
            total.to_string(),
            bytes.to_string(),
            place(first),
            place(last),
            String::new(),
            "total".to_owned(),
        ]);
        for column in table.column_iter_mut().take(3) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
        lines.concat()
    }

    /// A JSON object a line.
    pub fn json(&self) -> String {
        let mut text = String::new();
        for (device, kind, Line { count, bytes, first, last }) in self.lines() {
            let (first, last) = (first.to_string(), last.to_string());
            let object = Object { device: device.name(), kind, count, bytes, first, last };
            // Numbers and strings can always be written.
            text += &serde_json::to_string(&object).unwrap_or_default();
            text.push('\n');
        }
        text
    }
}

/// Bytes that an event moved in or out of the guest.
fn bytes(body: &Body) -> u64 {
    match body {
        Body::ConsoleInput { bytes } | Body::ConsoleOutput { bytes } => bytes.len() as u64,
        Body::DiskRequest { bytes, .. } => *bytes,
        Body::CapturePages(pages) => pages.stored.len() as u64,
        Body::Device { input, .. } => input.len() as u64,
        Body::Exit { size, .. } => (*size).into(),
        _ => 0,
    }
}
