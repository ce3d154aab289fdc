//! A log printed as its events come: filtered, a line each, or counted.

use std::collections::VecDeque;
use std::io::{self, Write};

use scribe_log::{Body, Bookmark, Event, Position};

use super::blocks;
use super::decode::Device;
use super::filter::Filter;
use super::row::{Row, Rows};
use super::summary::Summary;
use super::{json, text};

/// Bytes of lines that are written at once.
const BLOCK: usize = 64 * 1024;

/// How a log is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// for people
    Text,
    /// for scripts
    Json,
}

/// Prints the events of a log, shown to it in their order.
pub struct Listing<W> {
    rows: Rows,
    filter: Filter,
    form: Form,
    /// counts instead of lines
    summary: Option<Summary>,
    /// bookmarks that are no events, by position
    marks: VecDeque<Bookmark>,
    out: W,
    /// lines not written yet
    block: Vec<u8>,
    past: bool,
}

impl<W: Write> Listing<W> {
    /// Prints to `out` what passes `filter`. `count`: only a summary at the end. `marks`: bookmarks that are no events, by
    /// position.
    pub fn new(out: W, form: Form, count: bool, filter: Filter, marks: Vec<Bookmark>) -> Self {
        Self {
            rows: Rows::default(),
            filter,
            form,
            summary: count.then(Summary::default),
            marks: marks.into(),
            out,
            block: Vec::with_capacity(BLOCK + 4096),
            past: false,
        }
    }

    /// The next event; `time`: guest time (ns) there, if a machine tells it.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn event(&mut self, event: &Event, time: Option<u64>) -> io::Result<()> {
        self.set_marks(Some(event.position))?;
        self.past |= self.filter.is_past(event, time);
        let row = self.rows.row(event, time);
        Self::show(&self.filter, self.form, &mut self.summary, &mut self.block, &row);
        self.write_block(BLOCK)
    }

    /// An executed block.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn block(&mut self, row: &blocks::Row) -> io::Result<()> {
        if !self.filter.shows_block(row.at) {
            return Ok(());
        }
        self.set_marks(Some(row.at.position))?;
        match (&mut self.summary, self.form) {
            (Some(summary), _) => summary.count(Device::Cpu, blocks::KIND, row.at.position, 0),
            (None, Form::Text) => blocks::text_line(&mut self.block, row),
            (None, Form::Json) => blocks::json_line(&mut self.block, row),
        }
        self.write_block(BLOCK)
    }

    /// True if no further event is shown.
    pub fn is_past(&self) -> bool {
        self.past
    }

    /// The last event was the last; prints what is left.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn finish(&mut self) -> io::Result<()> {
        self.set_marks(None)?;
        if let Some(summary) = self.summary.take() {
            let text = match self.form {
                Form::Text => summary.table(),
                Form::Json => summary.json(),
            };
            self.block.extend_from_slice(text.as_bytes());
        }
        self.write_block(1)?;
        self.out.flush()
    }

    /// Bookmarks before the events at a position, or all that are left.
    fn set_marks(&mut self, before: Option<Position>) -> io::Result<()> {
        let passed = |mark: &mut Bookmark| before.is_none_or(|position| mark.position < position);
        while let Some(mark) = self.marks.pop_front_if(passed) {
            let event = Event::new(mark.position, Body::Bookmark { name: mark.name.clone() });
            let row = self.rows.mark(&event, &mark);
            Self::show(&self.filter, self.form, &mut self.summary, &mut self.block, &row);
            self.write_block(BLOCK)?;
        }
        Ok(())
    }

    fn show(filter: &Filter, form: Form, summary: &mut Option<Summary>, block: &mut Vec<u8>, row: &Row) {
        if !filter.shows(row) {
            return;
        }
        match (summary, form) {
            (Some(summary), _) => summary.add(row),
            (None, Form::Text) => text::line(block, row),
            (None, Form::Json) => json::line(block, row),
        }
    }

    /// Writes the block if it has come to `enough` bytes.
    fn write_block(&mut self, enough: usize) -> io::Result<()> {
        if self.block.len() >= enough {
            self.out.write_all(&self.block)?;
            self.block.clear();
        }
        Ok(())
    }
}
