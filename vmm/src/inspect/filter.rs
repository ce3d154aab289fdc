//! Which events of a log are shown.

use std::collections::BTreeSet;

use scribe_log::header::Level;
use scribe_log::{Event, Position};

use super::blocks;
use super::decode::Device;
use super::row::{Row, level_of};
use crate::machine::observe::Moment;

/// An edge of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// this position
    Position(Position),
    /// this guest time, ns
    Time(u64),
}

/// What is shown: all that passes every part of it.
#[derive(Debug, Clone)]
pub struct Filter {
    /// devices; empty: all
    pub devices: BTreeSet<Device>,
    /// names of kinds; empty: all
    pub kinds: BTreeSet<&'static str>,
    /// the highest level
    pub level: Level,
    /// from here on
    pub from: Option<Edge>,
    /// to here, that included
    pub to: Option<Edge>,
}

impl Default for Filter {
    fn default() -> Self {
        let (devices, kinds) = (BTreeSet::new(), BTreeSet::new());
        Self { devices, kinds, level: Level::Exits, from: None, to: None }
    }
}

impl Filter {
    /// True if the event is shown.
    pub fn shows(&self, row: &Row) -> bool {
        let body = &row.event.body;
        level_of(body) <= self.level
            && (self.kinds.is_empty() || self.kinds.contains(body.name()))
            && (self.devices.is_empty() || self.devices.contains(&row.device))
            && self.from.is_none_or(|from| compare(row, from).is_none_or(|order| order.is_ge()))
            && self.to.is_none_or(|to| compare(row, to).is_none_or(|order| order.is_le()))
    }

    /// True if an executed block is shown.
    pub fn shows_block(&self, at: Moment) -> bool {
        let beyond = |edge: &Edge| match *edge {
            Edge::Position(position) => at.position.cmp(&position),
            Edge::Time(time) => at.guest_time.cmp(&time),
        };
        (self.kinds.is_empty() || self.kinds.contains(blocks::KIND))
            && (self.devices.is_empty() || self.devices.contains(&Device::Cpu))
            && self.from.as_ref().is_none_or(|from| beyond(from).is_ge())
            && self.to.as_ref().is_none_or(|to| beyond(to).is_le())
    }

    /// True if neither this event nor a later one is shown.
    pub fn is_past(&self, event: &Event, time: Option<u64>) -> bool {
        match self.to {
            Some(Edge::Position(to)) => event.position > to,
            Some(Edge::Time(to)) => time.is_some_and(|time| time > to),
            None => false,
        }
    }
}

/// How the row lies to an edge; `None` if that is not known.
fn compare(row: &Row, edge: Edge) -> Option<std::cmp::Ordering> {
    match edge {
        Edge::Position(position) => Some(row.event.position.cmp(&position)),
        Edge::Time(time) => Some(row.time?.cmp(&time)),
    }
}
