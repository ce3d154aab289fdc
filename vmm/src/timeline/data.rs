//! What the picture shows: collected from a machine while it is replayed.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use scribe_devices::virtio::blk::RequestRecord;
use scribe_log::{Body, BookmarkList, Event, Position};

use super::classify;
use super::lane::{Entry, Kind, Lane, Measure};
use super::text::{Text, clean};
use crate::engine::{Answer, Exit};
use crate::inspect::decode::Decoder;
use crate::machine::observe::{Moment, Observer};
use crate::session::replay::describe;

/// Bytes shown of an input.
const INPUT_SHOWN: usize = 96;
/// Characters shown of a text from the recording.
const WORDS_SHOWN: usize = 400;

/// What was seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// by name
    pub lanes: BTreeMap<String, Lane>,
    /// the console
    pub text: Text,
    /// the first moment
    pub begin: Moment,
    /// the last one
    pub end: Moment,
    /// exits, accesses of one instruction one by one
    pub exits: u64,
    /// how the guest ended, if it did
    pub ending: Option<String>,
    /// bookmarks that the machine has not come to
    ahead: VecDeque<Ahead>,
}

#[derive(Debug)]
struct Ahead {
    position: Position,
    /// guest time, ns, if it is known
    time: Option<u64>,
    label: String,
    origin: &'static str,
}

/// The observer; what it sees is shared with who made it.
pub struct Collector {
    seen: Rc<RefCell<Seen>>,
    decoder: Decoder,
}

impl Collector {
    /// A collector that starts at `begin`, and what it will have seen.
    pub fn new(begin: Moment, bookmarks: &BookmarkList) -> (Self, Rc<RefCell<Seen>>) {
        let ahead = bookmarks.iter().map(|listed| Ahead {
            position: listed.bookmark.position,
            time: listed.bookmark.guest_time,
            label: words(&listed.label().to_string()),
            origin: listed.bookmark.origin.name(),
        });
        let seen = Seen { begin, end: begin, ahead: ahead.collect(), ..Seen::default() };
        let seen = Rc::new(RefCell::new(seen));
        (Self { seen: seen.clone(), decoder: Decoder::default() }, seen)
    }
}

impl Seen {
    /// Takes note of a moment: the picture ends with the last, and bookmarks up to it have been come to.
    fn at(&mut self, at: Moment) {
        while let Some(mark) = self.ahead.pop_front_if(|mark| mark.position <= at.position) {
            self.bookmark(&mark, at);
        }
        if at.guest_time >= self.end.guest_time {
            self.end = at;
        }
    }

    /// A bookmark at or shortly before `at`.
    fn bookmark(&mut self, mark: &Ahead, at: Moment) {
        let (earliest, latest) = (self.end.guest_time, at.guest_time.max(self.end.guest_time));
        let guessed = if mark.position == at.position { latest } else { earliest };
        let guest_time = mark.time.map_or(guessed, |time| time.clamp(earliest, latest));
        let name = format!("bookmark: {}", mark.origin);
        self.mark("bookmark", name, Moment { position: mark.position, guest_time }, &mark.label);
    }

    /// Nothing comes any more.
    pub fn finish(&mut self) {
        while let Some(mark) = self.ahead.pop_front() {
            self.bookmark(&mark, self.end);
        }
    }

    fn lane(&mut self, name: &str, measure: Measure) -> &mut Lane {
        // Looked up before it is inserted: a name is made into a String only once.
        if !self.lanes.contains_key(name) {
            self.lanes.insert(name.to_owned(), Lane::new(measure));
        }
        self.lanes.entry(name.to_owned()).or_insert_with(|| Lane::new(measure))
    }

    fn mark(&mut self, lane: &str, name: impl Into<Cow<'static, str>>, at: Moment, text: &str) {
        let kind = Kind { verb: "", name: name.into(), write: true };
        self.lane(lane, Measure::Events).push(kind, Entry { text, ..entry(at) });
    }
}

fn entry(at: Moment) -> Entry<'static> {
    Entry { time: at.guest_time, span: 0, position: at.position, address: 0, value: 0, text: "" }
}

impl Observer for Collector {
    fn exit(&mut self, at: Moment, exit: &Exit, answer: Answer) {
        let mut seen = self.seen.borrow_mut();
        seen.at(at);
        seen.exits += 1;
        if let Some(exit) = classify::exit(&mut self.decoder, exit, answer) {
            let classify::Seen { lane, kind, address, value, text } = exit;
            seen.lane(lane, Measure::Events).push(kind, Entry { address, value, text: &text, ..entry(at) });
        }
    }

    fn disk_request(&mut self, at: Moment, request: &RequestRecord) {
        let entry = Entry { address: request.sector, value: request.bytes, ..entry(at) };
        self.seen.borrow_mut().lane("disk", Measure::Bytes).push(classify::request(request), entry);
    }

    fn console(&mut self, at: Moment, bytes: &[u8]) {
        self.seen.borrow_mut().text.push(at, bytes);
    }

    fn interrupt(&mut self, at: Moment, vector: u8, irq: Option<u8>) {
        let mut seen = self.seen.borrow_mut();
        seen.at(at);
        let lane = irq.map_or_else(|| "spurious".to_owned(), |irq| format!("irq{irq}"));
        let kind = Kind { verb: "", name: format!("vector {vector:#04x}").into(), write: true };
        seen.lane(&lane, Measure::Events).push(kind, entry(at));
    }

    fn idle(&mut self, at: Moment, until: u64) {
        let mut seen = self.seen.borrow_mut();
        seen.at(at);
        seen.at(Moment { guest_time: until, ..at });
        let span = until.saturating_sub(at.guest_time);
        let lane = seen.lane("vcpu", Measure::Time);
        if span > 0 && !lane.prolong(at.position, at.guest_time, until) {
            let kind = Kind { verb: "", name: "idle".into(), write: false };
            lane.push(kind, Entry { span, value: span, ..entry(at) });
        }
    }

    fn event(&mut self, at: Moment, event: &Event) {
        let mut seen = self.seen.borrow_mut();
        seen.at(at);
        match &event.body {
            Body::ConsoleInput { bytes } => {
                let shown = &bytes[..bytes.len().min(INPUT_SHOWN)];
                let more = if shown.len() < bytes.len() { "..." } else { "" };
                let text = format!("\"{}\"{more}", shown.escape_ascii());
                let kind = Kind { verb: "", name: "console input".into(), write: true };
                let value = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                seen.lane("input", Measure::Bytes).push(kind, Entry { value, text: &text, ..entry(at) });
            }
            Body::Capture(_) => seen.mark("captured", "sync point", at, &words(&event.body.to_string())),
            Body::Branch { .. } => {
                seen.mark("branch", "told to the guest", at, &words(&event.body.to_string()))
            }
            Body::Checkpoint { full, .. } => {
                let name = if full.is_some() { "digest of the whole state" } else { "digest of registers" };
                seen.mark("check", name, at, &words(&event.body.to_string()));
            }
            Body::Seal { .. } => seen.mark("check", "seal", at, &words(&event.body.to_string())),
            Body::End(end) => {
                let ending = words(&describe(&end.cause));
                seen.mark("check", "end", at, &ending);
                seen.ending = Some(ending);
            }
            _ => {}
        }
    }
}

/// Words from a recording, for people: harmless and of bearable length.
fn words(text: &str) -> String {
    clean(text.as_bytes()).chars().take(WORDS_SHOWN).collect()
}
