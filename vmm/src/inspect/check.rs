//! A replay compared with the markers of its recording: every exit, and registers and pages at each checkpoint.
//!
//! The rolling digest finds each difference too, but only says that there is one. This names it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use scribe_log::header::{Engine, Level};
use scribe_log::{Body, Event, Header, MAX_PAGES, Position, Register};

use super::decode::Decoder;
use super::markers::{Markers, answer_of, exit_of};
use super::state::{Difference, compare, compare_pages};
use crate::machine::observe::{Moment, Observer};
use crate::machine::{Machine, MachineError};

/// Compares a machine with the markers of the recording that it replays.
pub struct Checker {
    /// exits and states that the machine has told of, oldest first
    told: Rc<RefCell<VecDeque<Event>>>,
    /// where the machine was when it was first watched: of what the recording has up to there it has not told
    since: Position,
    /// what has changed in the machine since the last state of the recording is known
    pages_known: bool,
    /// pages that have changed in the machine and are to be compared with further markers at this place
    changed: Vec<(u64, u64)>,
    decoder: Decoder,
    /// recorder or replayer counts branches only at exits
    without_steps: bool,
}

impl Checker {
    /// Watches `machine`, which is to replay the recording with this header from where it is on. `None` if that has nothing
    /// to compare.
    ///
    /// # Errors
    /// Failures of the host.
    pub fn attach(machine: &mut Machine, header: &Header) -> Result<Option<Self>, MachineError> {
        if header.level < Level::State {
            return Ok(None);
        }
        let told = Rc::new(RefCell::new(VecDeque::new()));
        let queue = Rc::clone(&told);
        let markers = Box::new(Markers::new(header.level, move |_: Moment, event: Event| {
            if matches!(event.body, Body::Exit { .. } | Body::State { .. }) {
                queue.borrow_mut().push_back(event);
            }
        }));
        attach(machine, markers)?;
        let since = machine.position();
        let pages_known = since == header.start().position;
        let (changed, decoder) = (Vec::new(), Decoder::default());
        let without_steps = header.engine == Engine::Kvm || !machine.counts_steps();
        Ok(Some(Self { told, since, pages_known, changed, decoder, without_steps }))
    }

    /// Compares a marker of the recording, at or before the machine's position, with what the machine has told. `None`: it
    /// does not differ.
    ///
    /// # Errors
    /// Failures of the host.
    pub fn compare(
        &mut self,
        machine: &mut Machine,
        marker: &Event,
    ) -> Result<Option<Difference>, MachineError> {
        match &marker.body {
            Body::Exit { .. } if marker.position > self.since => Ok(self.exit(marker)),
            Body::State { registers, pages } => self.state(machine, registers, pages),
            _ => Ok(None),
        }
    }

    fn exit(&mut self, marker: &Event) -> Option<Difference> {
        let found = self.told.borrow_mut().pop_front();
        let same = found.as_ref().is_some_and(|found| self.known(found) == self.known(marker));
        if !same {
            let recorded = self.text(marker);
            let found = found.map_or_else(|| "no such exit".into(), |event| self.text(&event));
            return Some(Difference { what: "an exit".into(), recorded, found });
        }
        if let Body::Exit { what, address, size, value, answer, .. } = marker.body
            && let Some(exit) = exit_of(what, address, size, value)
        {
            // What a later exit is can depend on this one.
            self.decoder.exit(&exit, answer_of(answer));
        }
        None
    }

    /// An exit as far as both know of it.
    fn known(&self, event: &Event) -> Event {
        let mut event = event.clone();
        if let (true, Body::Exit { steps, .. }) = (self.without_steps, &mut event.body) {
            *steps = 0;
        }
        event
    }

    /// An exit for people, as the next one.
    fn text(&self, event: &Event) -> String {
        let Event { position, body, .. } = event;
        let Body::Exit { what, address, size, value, answer, branches, steps } = *body else {
            return format!("{position}: {}", body.name());
        };
        let Some(exit) = exit_of(what, address, size, value) else { return format!("{position}: {body}") };
        let decoded = { self.decoder }.exit(&exit, answer_of(answer));
        let way = match (branches, steps) {
            (0, 0) => String::new(),
            _ => format!(", {branches} branches and {steps} steps behind the exit before"),
        };
        format!("{position}: {decoded}{way}")
    }

    fn state(
        &mut self,
        machine: &mut Machine,
        registers: &[Register],
        pages: &[(u64, u64)],
    ) -> Result<Option<Difference>, MachineError> {
        let mut difference = None;
        if !registers.is_empty() {
            machine.tell_state()?;
            let told = std::mem::take(&mut *self.told.borrow_mut());
            self.changed.clear();
            for event in told {
                match event.body {
                    Body::State { registers: found, pages } => {
                        if !found.is_empty() {
                            difference = difference.or_else(|| compare(registers, &found));
                        }
                        self.changed.extend(pages);
                    }
                    _ => {
                        let (what, recorded) = ("an exit".into(), "no such exit".into());
                        difference = Some(Difference { what, recorded, found: self.text(&event) });
                    }
                }
            }
        }
        // As far as this marker goes: there is another behind a full one.
        let reach = if pages.len() < MAX_PAGES { None } else { pages.last().map(|(frame, _)| *frame) };
        let within = self.changed.partition_point(|(frame, _)| reach.is_none_or(|last| *frame <= last));
        let changed: Vec<(u64, u64)> = self.changed.drain(..within).collect();
        let known = self.pages_known;
        self.pages_known |= reach.is_none();
        let found = |frame| machine.page_hash(frame);
        Ok(difference.or_else(|| compare_pages(pages, known.then_some(&*changed), found)))
    }
}

/// Lets `observer` watch `machine`, and the machine its pages, if the observer wants to be told of state.
///
/// # Errors
/// Failures of the host.
pub fn attach(machine: &mut Machine, observer: Box<dyn Observer>) -> Result<(), MachineError> {
    let wants_state = observer.wants_state();
    machine.observe(observer);
    if wants_state { machine.watch_pages() } else { Ok(()) }
}
