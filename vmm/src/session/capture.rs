//! Captured sync points in a session: when one is made, at what cost, and how a replay takes one from its log.

use scribe_log::{Body, Capture, CapturePages, Event, Events, Position};

use super::SessionError;
use crate::engine::Progress;
use crate::machine::Machine;
use crate::machine::capture::{CaptureError, MOST_STORED};
use crate::machine::confirm::Confirmed;

/// Host time (ns) without an exit after which a guest is captured, if nothing else is said.
pub const AFTER: u64 = 10_000_000;
/// Host time (ns) between two harvests of written pages, at least.
const HARVEST_EVERY: u64 = 500_000_000;
/// A capture costs the guest at most one part in so many of its time.
const BUDGET: u64 = 10;
/// Host time (ns) until another capture is tried, after one that was too large for the log.
const TOO_LARGE_PAUSE: u64 = 1_000_000_000;
/// What 100 captures a second may take each, of a second.
const HUNDREDTH: u64 = 10_000_000;

/// When captured sync points are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// after so much host time (ns) without an exit; 0: never
    pub after: u64,
    /// also where the guest's time does not depend on the host's: such a run does not repeat any more
    pub always: bool,
}

impl Default for Wish {
    fn default() -> Self {
        Self { after: AFTER, always: false }
    }
}

impl Wish {
    /// None are made.
    pub const NEVER: Self = Self { after: 0, always: false };
}

/// What a capture put into the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// pages
    pub pages: u64,
    /// bytes that they are stored in
    pub bytes: u64,
}

/// Why the guest should come to a sync point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// something waits for it
    Now,
    /// a device does something at this guest time (ns)
    At(u64),
    /// for nothing
    None,
}

/// Decides when the guest is captured: not before it has computed for long enough, and not so often that it costs more than
/// its share.
#[derive(Debug)]
pub struct Captures {
    wish: Wish,
    /// a capture costs the guest at most one part in so many of its time
    budget: u64,
    /// what the first write to a page costs the guest (ns), once writes are watched
    first_write: u64,
    /// writes are watched
    watching: bool,
    /// host time when the guest came to run, and from which on the budget allows another capture
    came: u64,
    allowed: u64,
    /// host time at which written pages are harvested next
    harvest: u64,
    told_too_large: bool,
    costs: Costs,
}

impl Captures {
    /// As `wish` says.
    pub fn new(wish: Wish) -> Self {
        Self {
            wish,
            budget: BUDGET,
            first_write: 0,
            watching: false,
            came: 0,
            allowed: 0,
            harvest: 0,
            told_too_large: false,
            costs: Costs::default(),
        }
    }

    /// Captures may cost what they will.
    #[cfg(test)]
    pub(crate) fn at_any_cost(wish: Wish) -> Self {
        Self { budget: 0, ..Self::new(wish) }
    }

    /// True if captures are made for a guest that is `paced` by the host, or not.
    pub fn are_made(&self, paced: bool) -> bool {
        self.wish.after > 0 && (paced || self.wish.always)
    }

    /// The guest comes to run, or goes on, at host time `now`. Gives when a capture may be due.
    pub fn comes(&mut self, now: u64) -> u64 {
        self.came = now;
        now.saturating_add(self.wish.after).max(self.allowed)
    }

    /// Host time (ns) that the guest has computed since it came.
    pub fn computed(&self, now: u64) -> u64 {
        now.saturating_sub(self.came)
    }

    /// When a guest whose time was `guest_time` when it came is to be captured, on the host's clock (ns).
    pub fn due(&self, need: Need, guest_time: u64) -> Option<u64> {
        let least = self.came.saturating_add(self.wish.after).max(self.allowed);
        match need {
            Need::Now => Some(least),
            Need::At(time) => Some(self.came.saturating_add(time.saturating_sub(guest_time)).max(least)),
            Need::None => None,
        }
    }

    /// When to look again at a guest that needs nothing.
    pub fn later(&self, now: u64) -> u64 {
        now.saturating_add(self.wish.after)
    }

    /// A capture that began at `began` was done at `now`.
    pub fn made(&mut self, taken: Taken, began: u64, now: u64) {
        let cost = now.saturating_sub(began).saturating_add(taken.pages.saturating_mul(self.first_write));
        self.allowed = now.saturating_add(cost.saturating_mul(self.budget));
        self.costs.add(taken, cost);
    }

    /// A capture was too large to be made. Gives when to try again.
    pub fn too_large(&mut self, now: u64) -> u64 {
        if !std::mem::replace(&mut self.told_too_large, true) {
            say!(
                "the guest has written more than {} MiB since its last exit: too much to capture; until its next exit \
                 neither time nor input reaches it",
                MOST_STORED >> 20
            );
        }
        self.allowed = now.saturating_add(TOO_LARGE_PAUSE);
        self.allowed
    }

    /// At a sync point of a guest for which captures are made and recorded: sees to it that what it writes is known, and
    /// that not too much of it has to be captured. `clock` tells host time (ns).
    ///
    /// # Errors
    /// Failures of the host.
    pub fn keep_small(
        &mut self,
        machine: &mut Machine,
        now: u64,
        clock: impl Fn() -> u64,
    ) -> Result<(), SessionError> {
        if !std::mem::replace(&mut self.watching, true) {
            self.first_write = machine.first_write_ns();
            machine.watch_writes()?;
            self.harvest = now.saturating_add(HARVEST_EVERY);
        }
        if now >= self.harvest {
            let pages = u64::try_from(machine.harvest()?).unwrap_or(u64::MAX);
            let cost = clock().saturating_sub(now).saturating_add(pages.saturating_mul(self.first_write));
            self.harvest = now.saturating_add(HARVEST_EVERY.max(cost.saturating_mul(BUDGET)));
        }
        Ok(())
    }

    /// What is not recorded need not be known.
    pub fn forget(&mut self, machine: &mut Machine) {
        if std::mem::take(&mut self.watching) {
            machine.unwatch_writes();
        }
    }

    /// What the captures came to, if there were any.
    pub fn report(&self) -> Option<Report> {
        self.costs.report()
    }
}

/// What the captures of a recording came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// how many
    pub count: u64,
    /// what one cost in the middle: host time, ns, the first writes behind it included
    pub median: u64,
    /// pages of all of them
    pub pages: u64,
    /// bytes that these are stored in
    pub bytes: u64,
    /// pages that a guest may write between two captures and still have 100 of them a second, as far as can be told
    pub working_set: u64,
}

/// Costs of captures, most of them kept.
#[derive(Debug, Default)]
struct Costs {
    count: u64,
    pages: u64,
    bytes: u64,
    /// pages and cost (ns) of the last ones
    last: std::collections::VecDeque<(u64, u64)>,
}

/// How many are kept.
const KEPT: usize = 4096;

impl Costs {
    fn add(&mut self, taken: Taken, cost: u64) {
        self.count += 1;
        self.pages = self.pages.saturating_add(taken.pages);
        self.bytes = self.bytes.saturating_add(taken.bytes);
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back((taken.pages, cost));
    }

    fn report(&self) -> Option<Report> {
        let mut costs: Vec<u64> = self.last.iter().map(|(_, cost)| *cost).collect();
        costs.sort_unstable();
        let median = *costs.get(costs.len() / 2)?;
        let Self { count, pages, bytes, .. } = *self;
        Some(Report { count, median, pages, bytes, working_set: self.working_set() })
    }

    /// Pages whose capture takes what one of 100 a second may take: by the straight line through the medians of the cheaper
    /// and the dearer half, if there are two different ones.
    fn working_set(&self) -> u64 {
        let may = HUNDREDTH / (BUDGET + 1);
        let mut by_pages: Vec<(u64, u64)> = self.last.iter().copied().collect();
        by_pages.sort_unstable();
        let (less, more) = by_pages.split_at(by_pages.len() / 2);
        let (Some(less), Some(more)) = (middle(less), middle(more).or(middle(less))) else {
            return by_pages.first().map_or(0, |(pages, cost)| share(*pages, may, *cost));
        };
        match (more.0.checked_sub(less.0), more.1.checked_sub(less.1)) {
            // Nothing is told about other numbers of pages: each as dear as these, all in all.
            (None | Some(0), _) | (_, None | Some(0)) => share(more.0, may, more.1),
            (Some(pages), Some(cost)) => {
                let base = less.1.saturating_sub(share(less.0, cost, pages));
                share(may.saturating_sub(base), pages, cost)
            }
        }
    }
}

/// The entry in the middle by cost.
fn middle(entries: &[(u64, u64)]) -> Option<(u64, u64)> {
    let mut entries: Vec<(u64, u64)> = entries.to_vec();
    entries.sort_unstable_by_key(|(pages, cost)| (*cost, *pages));
    entries.get(entries.len() / 2).copied()
}

/// `value` * `part` / `whole`.
fn share(value: u64, part: u64, whole: u64) -> u64 {
    u64::try_from(u128::from(value) * u128::from(part) / u128::from(whole.max(1))).unwrap_or(u64::MAX)
}

/// Takes the events of a capture at `position` out of a log, if they come next.
///
/// # Errors
/// The log cannot be read, or they are not all there.
pub fn take(
    events: &mut std::iter::Peekable<Events>,
    position: Position,
) -> Result<Option<Vec<Event>>, SessionError> {
    let torn = |what| SessionError::Capture { position, source: CaptureError::Torn(what) };
    let mut taken = Vec::new();
    let mut stored = 0;
    loop {
        match events.peek() {
            Some(Ok(event)) if event.position == position => match &event.body {
                Body::CapturePages(pages) => stored += pages.stored.len(),
                Body::Capture(_) => {
                    taken.extend(events.next().transpose()?);
                    return Ok(Some(taken));
                }
                _ if taken.is_empty() => return Ok(None),
                _ => return Err(torn("something else is among them")),
            },
            _ if taken.is_empty() => return Ok(None),
            Some(Err(_)) => {}
            _ => return Err(torn("they end too early")),
        }
        if stored > MOST_STORED {
            return Err(torn("its pages are more than there can be"));
        }
        taken.extend(events.next().transpose()?);
    }
}

/// Brings `machine` to the capture of these events.
///
/// # Errors
/// They do not fit.
pub fn apply(machine: &mut Machine, events: &[Event]) -> Result<(), SessionError> {
    let Some((position, pages, capture)) = parts(events) else { return Ok(()) };
    machine.apply_capture(&pages, capture).map_err(failed(position))
}

/// Position, pages and the rest of the capture of these events.
fn parts(events: &[Event]) -> Option<(Position, Vec<CapturePages>, &Capture)> {
    let pages = |event: &Event| match &event.body {
        Body::CapturePages(pages) => Some(pages.clone()),
        _ => None,
    };
    let (last, before) = events.split_last()?;
    let Body::Capture(capture) = &last.body else { return None };
    Some((last.position, before.iter().filter_map(pages).collect(), capture))
}

fn failed(position: Position) -> impl Fn(CaptureError) -> SessionError {
    move |source| match source {
        CaptureError::Machine(error) => error.into(),
        source => SessionError::Capture { position, source },
    }
}

/// Instructions within which a captured sync point must be met to be confirmed: some seconds.
const MOST_STEPS: u64 = 20_000_000;

/// Executes the ways to captured sync points, and counts those that are met.
#[derive(Debug, Default)]
pub struct Confirm {
    confirmed: u64,
    all: u64,
}

impl Confirm {
    /// How many were confirmed, and how many there were.
    pub fn counts(&self) -> (u64, u64) {
        (self.confirmed, self.all)
    }

    /// Executes the way to the capture of these events, on a machine that is about to run there, and tells what came of it.
    /// The machine is what it was afterwards. `go_on` is asked now and then.
    ///
    /// # Errors
    /// The events do not fit.
    pub fn confirm(
        &mut self,
        machine: &mut Machine,
        events: &[Event],
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<(), SessionError> {
        let Some((position, pages, capture)) = parts(events) else { return Ok(()) };
        let from = machine.position();
        let found = machine.confirm_capture(&pages, capture, MOST_STEPS, go_on).map_err(failed(position))?;
        self.all += 1;
        match found {
            Confirmed::At(Progress { branches, steps }) => {
                self.confirmed += 1;
                let met = Position { branches, steps, ..from };
                say!("the captured sync point {position} is met at {met}, {} pages equal", capture.pages);
            }
            Confirmed::Not(steps) => {
                say!("the captured sync point {position} is not met within {steps} instructions from {from}");
            }
            Confirmed::Ended(steps) => {
                say!(
                    "the captured sync point {position} is not met: {steps} instructions from {from} is an exit"
                );
            }
            Confirmed::Interrupted => {}
        }
        Ok(())
    }
}
