//! Two recordings compared: their headers by key, and the first event that differs.

use std::collections::VecDeque;
use std::iter::Peekable;

use scribe_log::header::Level;
use scribe_log::{Body, Event, Header, OpenError};
use serde_json::Value;

use super::row::{Rows, level_of};
use super::state::{self, Difference};

/// A key of the header whose values differ; `null` where it is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// its name; of an object's key with the object's name before it, such as `host.microcode`
    pub name: String,
    /// its value in the first recording
    pub a: Value,
    /// its value in the second
    pub b: Value,
}

/// An event, and what is known of those before it.
#[derive(Debug, Clone)]
pub struct Placed {
    /// the event
    pub event: Event,
    /// makes its row
    pub rows: Rows,
}

/// Where the events of two recordings part.
#[derive(Debug, Clone)]
pub struct Parting {
    /// the last equal events
    pub before: Vec<Placed>,
    /// the first event of the first recording that differs, and some after it; empty if it ends there
    pub a: Vec<Placed>,
    /// the same of the second recording
    pub b: Vec<Placed>,
    /// what differs in the two, if they are states
    pub detail: Option<Difference>,
}

/// What a comparison of events came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// events that are equal before the first that differs
    pub equal: u64,
    /// where they part, if they do
    pub parting: Option<Parting>,
}

/// The keys that differ, in the order of the names.
pub fn headers(a: &Header, b: &Header) -> Vec<Key> {
    let mut keys = Vec::new();
    // A header can always be written as JSON: that is what it was read from.
    let value = |header: &Header| serde_json::to_value(header).unwrap_or(Value::Null);
    values("", value(a), value(b), &mut keys);
    keys.sort_by(|a, b| a.name.cmp(&b.name));
    keys
}

fn values(name: &str, a: Value, b: Value, keys: &mut Vec<Key>) {
    match (a, b) {
        (a, b) if a == b => {}
        (Value::Object(a), Value::Object(mut b)) => {
            let dot = if name.is_empty() { "" } else { "." };
            for (key, a) in a {
                let b = b.remove(&key).unwrap_or(Value::Null);
                values(&format!("{name}{dot}{key}"), a, b, keys);
            }
            for (key, b) in b {
                values(&format!("{name}{dot}{key}"), Value::Null, b, keys);
            }
        }
        (a, b) => keys.push(Key { name: name.to_owned(), a, b }),
    }
}

/// Compares events up to the first that differs, with up to `context` events before and after it. Seals are left out, for
/// where they are depends on the host's clock, and markers above `level`, which the other recording may not have.
///
/// # Errors
/// One of the recordings cannot be read on.
pub fn events<A, B>(a: A, b: B, level: Level, context: usize) -> Result<Outcome, OpenError>
where
    A: Iterator<Item = Result<Event, OpenError>>,
    B: Iterator<Item = Result<Event, OpenError>>,
{
    let counts = move |event: &Result<Event, OpenError>| match event {
        Ok(event) => !matches!(event.body, Body::Seal { .. }) && level_of(&event.body) <= level,
        Err(_) => true,
    };
    let (mut a, mut b) = (a.filter(counts).peekable(), b.filter(counts).peekable());
    let mut rows = Rows::default();
    let mut before = VecDeque::new();
    let mut equal = 0;
    while let (Some(Ok(ours)), Some(Ok(theirs))) = (a.peek(), b.peek())
        && ours == theirs
    {
        let (Some(event), _) = (a.next().transpose()?, b.next().transpose()?) else { break };
        equal += 1;
        if before.len() == context {
            before.pop_front();
        }
        let placed = Placed { event, rows: rows.clone() };
        rows.row(&placed.event, None);
        if context > 0 {
            before.push_back(placed);
        }
    }
    if a.peek().is_none() && b.peek().is_none() {
        return Ok(Outcome { equal, parting: None });
    }
    let (a, b) = (some(a, rows.clone(), context)?, some(b, rows, context)?);
    let detail = detail(a.first(), b.first());
    Ok(Outcome { equal, parting: Some(Parting { before: before.into(), a, b, detail }) })
}

/// The next event and `context` more.
fn some<I>(events: Peekable<I>, mut rows: Rows, context: usize) -> Result<Vec<Placed>, OpenError>
where
    I: Iterator<Item = Result<Event, OpenError>>,
{
    let place = |event: Result<Event, OpenError>| {
        let placed = Placed { event: event?, rows: rows.clone() };
        rows.row(&placed.event, None);
        Ok(placed)
    };
    events.take(context.saturating_add(1)).map(place).collect()
}

/// The first register or page in which two states differ.
fn detail(a: Option<&Placed>, b: Option<&Placed>) -> Option<Difference> {
    let (Some(a), Some(b)) = (a, b) else { return None };
    let (Body::State { registers, pages }, Body::State { registers: others, pages: found }) =
        (&a.event.body, &b.event.body)
    else {
        return None;
    };
    state::compare(registers, others).or_else(|| state::compare_changes(pages, found))
}
