//! A lane of the picture: what happened to one device along guest time, in bounded memory.
//!
//! Every event is a record until there are too many of them. Then events of the same kind within a stretch of time (the
//! lane's quantum) become one record with a count, and the quantum grows until they fit: a lane of a long recording is
//! coarse, not missing.

use std::borrow::Cow;
use std::collections::BTreeMap;

use scribe_log::Position;

/// Most records of a lane.
const RECORDS_MAX: usize = 100_000;
/// Most different texts of a lane. Events beyond them keep their numbers only.
const TEXTS_MAX: usize = 4096;
/// Most kinds of a lane. What comes beyond them is one kind: a guest must not make of kinds what records cannot be.
const KINDS_MAX: usize = 1024;
/// The first quantum, ns: less than two exits are apart.
const QUANTUM_MIN: u64 = 1024;

/// What the height of a lane says, and what becomes of the value of records that are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// how many events; of merged ones the first value stays
    Events,
    /// how many bytes: the sum of the values
    Bytes,
    /// how much time (ns): the sum of the values, which are intervals
    Time,
}

impl Measure {
    /// As the page is told.
    pub fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Bytes => "bytes",
            Self::Time => "time",
        }
    }
}

/// A sort of event in a lane.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// what is done, such as `in8` or `store32`; empty for what has only a name
    pub verb: &'static str,
    /// the register, or what it is
    pub name: Cow<'static, str>,
    /// from the guest: drawn above the line
    pub write: bool,
}

/// One event, or several of the same kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// guest time, ns
    pub time: u64,
    /// from the first to the last event, or the length of an interval, ns
    pub span: u64,
    /// index in the lane's kinds
    pub kind: u32,
    /// position of the first event
    pub position: Position,
    /// events, at least 1
    pub count: u64,
    /// where, of the first event: port, address, sector
    pub address: u64,
    /// what was moved there, by the lane's measure
    pub value: u64,
    /// one more than the index in the lane's texts, of the first event; 0: there is none
    pub text: u32,
}

/// One event as a lane takes it.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// guest time, ns
    pub time: u64,
    /// length of an interval, ns
    pub span: u64,
    /// where it happened
    pub position: Position,
    /// port, address, sector
    pub address: u64,
    /// by the lane's measure
    pub value: u64,
    /// the event in words; empty where its numbers say it
    pub text: &'a str,
}

/// A lane.
#[derive(Debug)]
pub struct Lane {
    /// what its values are
    pub measure: Measure,
    /// ns within which events of a kind are one record; 0: each is one
    quantum: u64,
    kinds: Vec<Kind>,
    kind_ids: BTreeMap<Kind, u32>,
    texts: Vec<String>,
    text_ids: BTreeMap<String, u32>,
    records: Vec<Record>,
    /// per kind, the record that takes further events
    open: Vec<Option<usize>>,
}

impl Lane {
    /// An empty one.
    pub fn new(measure: Measure) -> Self {
        Self {
            measure,
            quantum: 0,
            kinds: Vec::new(),
            kind_ids: BTreeMap::new(),
            texts: Vec::new(),
            text_ids: BTreeMap::new(),
            records: Vec::new(),
            open: Vec::new(),
        }
    }

    /// The sorts of events in it.
    pub fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    /// Its texts.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// Its records, in order of time.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// How coarse it is, ns; 0: every event has its record.
    pub fn quantum(&self) -> u64 {
        self.quantum
    }

    /// Adds an event. Times never go backwards.
    pub fn push(&mut self, kind: Kind, entry: Entry<'_>) {
        let kind = self.kind_id(kind);
        let text = self.text_id(entry.text);
        let Entry { time, span, position, address, value, .. } = entry;
        // What a text says need not be said in numbers too: the page is smaller without.
        let (address, value) =
            if text == 0 || self.measure != Measure::Events { (address, value) } else { (0, 0) };
        self.add(Record { time, span, kind, position, count: 1, address, value, text });
        while self.records.len() > RECORDS_MAX {
            self.coarsen();
        }
    }

    /// Makes the last interval longer, if it ends where this one begins and nothing was between them.
    pub fn prolong(&mut self, position: Position, from: u64, to: u64) -> bool {
        match self.records.last_mut() {
            Some(last)
                if last.count == 1
                    && last.position == position
                    && last.time.saturating_add(last.span) == from
                    && to >= from =>
            {
                last.span = to - last.time;
                last.value = last.span;
                true
            }
            _ => false,
        }
    }

    fn kind_id(&mut self, kind: Kind) -> u32 {
        let full = self.kinds.len() >= KINDS_MAX && !self.kind_ids.contains_key(&kind);
        let kind = if full { Kind { verb: "other", name: "".into(), ..kind } } else { kind };
        if let Some(id) = self.kind_ids.get(&kind) {
            return *id;
        }
        let id = u32::try_from(self.kinds.len()).unwrap_or(u32::MAX);
        self.kinds.push(kind.clone());
        self.kind_ids.insert(kind, id);
        self.open.push(None);
        id
    }

    fn text_id(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        if let Some(id) = self.text_ids.get(text) {
            return *id;
        }
        if self.texts.len() == TEXTS_MAX {
            return 0;
        }
        self.texts.push(text.to_owned());
        let id = u32::try_from(self.texts.len()).unwrap_or(0);
        self.text_ids.insert(text.to_owned(), id);
        id
    }

    fn add(&mut self, record: Record) {
        let open = self.open.get_mut(usize::try_from(record.kind).unwrap_or(usize::MAX));
        let Some(open) = open else { return };
        let into = open.filter(|_| self.quantum > 0).and_then(|at| self.records.get_mut(at));
        let span =
            |into: &Record| record.time.saturating_add(record.span).saturating_sub(into.time).max(into.span);
        match into {
            // Intervals longer than the quantum stay what they are.
            Some(into) if span(into) <= self.quantum => {
                into.span = span(into);
                into.count = into.count.saturating_add(record.count);
                if self.measure != Measure::Events {
                    into.value = into.value.saturating_add(record.value);
                }
            }
            _ => {
                *open = Some(self.records.len());
                self.records.push(record);
            }
        }
    }

    fn coarsen(&mut self) {
        self.quantum = self.quantum.saturating_mul(2).max(QUANTUM_MIN);
        self.open.fill(None);
        for record in std::mem::take(&mut self.records) {
            self.add(record);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str) -> Kind {
        Kind { verb: "in8", name: name.to_owned().into(), write: false }
    }

    fn at(exit: u64, text: &str) -> Entry<'_> {
        Entry { time: exit * 2000, span: 0, position: Position::exit(exit), address: 3, value: 10, text }
    }

    #[test]
    fn few_events_are_kept_one_by_one() {
        let mut lane = Lane::new(Measure::Events);
        lane.push(kind("a"), at(1, "one"));
        lane.push(kind("b"), at(2, ""));
        lane.push(kind("a"), at(3, "one"));
        assert_eq!(lane.quantum(), 0);
        assert_eq!(lane.texts(), ["one"]);
        let seen: Vec<_> = lane.records().iter().map(|r| (r.kind, r.text, r.address, r.value)).collect();
        assert_eq!(seen, [(0, 1, 0, 0), (1, 0, 3, 10), (0, 1, 0, 0)]);
    }

    #[test]
    fn many_events_are_merged_and_none_is_lost() {
        for measure in [Measure::Events, Measure::Bytes] {
            let mut lane = Lane::new(measure);
            let count = 1_000_000;
            for exit in 1..=count {
                lane.push(kind(if exit % 3 == 0 { "a" } else { "b" }), at(exit, ""));
            }
            assert!(lane.records().len() <= RECORDS_MAX);
            assert!(lane.records().len() > RECORDS_MAX / 10, "{}", lane.records().len());
            assert!(lane.quantum() >= QUANTUM_MIN);
            assert_eq!(lane.records().iter().map(|r| r.count).sum::<u64>(), count);
            let value: u64 = lane.records().iter().map(|r| r.value).sum();
            assert_eq!(value == 10 * count, measure == Measure::Bytes);
            for pair in lane.records().windows(2) {
                assert!(pair[0].time <= pair[1].time && pair[0].position <= pair[1].position);
            }
            for record in lane.records() {
                assert!(record.span <= lane.quantum());
                assert_eq!(record.time, record.position.exit * 2000, "it is where its first event was");
            }
        }
    }

    #[test]
    fn events_at_the_end_of_time_are_no_panic() {
        let mut lane = Lane::new(Measure::Bytes);
        for _ in 0..2 * RECORDS_MAX {
            let entry = Entry { time: u64::MAX, span: u64::MAX, value: u64::MAX, ..at(1, "") };
            lane.push(kind("a"), entry);
        }
        assert!(lane.records().len() <= RECORDS_MAX);
    }

    #[test]
    fn kinds_are_bounded() {
        let mut lane = Lane::new(Measure::Events);
        for exit in 0..2 * RECORDS_MAX as u64 {
            lane.push(kind(&exit.to_string()), at(exit, ""));
        }
        assert!(lane.kinds().len() <= KINDS_MAX + 2 && lane.records().len() <= RECORDS_MAX);
    }

    #[test]
    fn texts_are_bounded() {
        let mut lane = Lane::new(Measure::Events);
        for exit in 0..=TEXTS_MAX as u64 {
            lane.push(kind("a"), at(exit, &exit.to_string()));
        }
        assert_eq!(lane.texts().len(), TEXTS_MAX);
        let last = lane.records().last().unwrap();
        assert_eq!((last.text, last.value), (0, 10), "its numbers say what its text cannot");
    }

    #[test]
    fn intervals_that_touch_are_one() {
        let mut lane = Lane::new(Measure::Time);
        let here = Position::exit(1);
        let idle = Entry { time: 10, span: 5, position: here, address: 0, value: 5, text: "" };
        lane.push(kind("idle"), idle);
        assert!(lane.prolong(here, 15, 40));
        assert!(!lane.prolong(here, 50, 60), "there is a gap");
        assert!(!lane.prolong(Position::exit(2), 40, 60), "the guest has run");
        let last = lane.records().last().unwrap();
        assert_eq!((last.span, last.value), (30, 30));
    }
}
