//! A machine that takes its inputs from the host: `run` and `record`.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use scribe_log::header::Pace;
use scribe_log::{
    Body, Bookmark, BookmarkOrigin, DeviceInput, EndCause, MAX_DATA, Position, StopReason,
    check_bookmark_name,
};

use super::capture::{Captures, Need, Report};
use super::hold::Hold;
use super::journal::Journal;
use super::marks::Marks;
use super::network::{self, Entropy, Network};
use super::{Flow, Place, Policy, SessionError};
use crate::engine::Progress;
use crate::host::clock;
use crate::host::events::{HostEvent, HostLoop, MarkSource};
use crate::machine::Machine;

/// Bytes of an input file that the serial port is offered at a time.
const FILE_CHUNK: usize = 4096;

/// How far (ns) guest time may fall behind the host's before the difference is forgotten: a guest that lags catches up on
/// short delays, and one that has computed for long does not sleep too short ever after.
const MOST_LAG: u64 = 100_000_000;

/// What a live machine takes besides what the host loop delivers.
#[derive(Debug)]
pub struct Inputs {
    /// its bytes are offered to the serial port as fast as it takes them
    pub file: Option<File>,
    /// the host loop may deliver console bytes
    pub open: bool,
    /// whether idle time passes on the host too
    pub pace: Pace,
    /// guest time (ns) at which the run ends
    pub guest_limit: Option<u64>,
    /// what is noted every so often
    pub marks: Marks,
    /// what comes late, and how late: the file's bytes, and those that the host loop delivers
    pub holds: [Hold; 2],
    /// when sync points are captured
    pub captures: Captures,
    /// what the guest's network is connected to
    pub network: Network,
    /// where the entropy device's bytes come from
    pub entropy: Entropy,
}

/// Takes inputs from the host, stamps them, and has `J` note them.
pub struct Live<J> {
    journal: J,
    host: HostLoop,
    /// console bytes that have arrived and are not admitted yet
    typed: VecDeque<u8>,
    /// more may come from a terminal, pipe or socket
    open: bool,
    stop: Option<StopReason>,
    file: Option<File>,
    /// under chaos: the next of its bytes, until they come in
    held: Vec<u8>,
    hold_file: Hold,
    hold_typed: Hold,
    pace: Pace,
    guest_limit: Option<u64>,
    marks: Marks,
    network: Network,
    entropy: Entropy,
    /// a bookmark set by a key, until it has its name, and those set since: they are noted in order
    unnamed: Option<Bookmark>,
    unnoted: Vec<Bookmark>,
    /// bookmarks set by signals and keys so far
    counts: [u64; 2],
    /// the recording is to end, and the guest to live on
    go_live: bool,
    /// host time (ns) that corresponds to guest time 0, modulo 2^64
    origin: u64,
    /// guest time when the machine came to its position
    arrived: u64,
    /// something waits for the guest, which computes: the next place will do
    ahead: Option<Position>,
    /// the place last asked for: a guest that faults for ever never comes to the next
    asked: Option<Position>,
    captures: Captures,
    /// they are made where the guest is now
    capturing: bool,
    /// the machine is coming to one that was captured at this host time (ns)
    captured: Option<u64>,
}

impl<J: Journal> Live<J> {
    /// For a machine whose guest time is `now` (ns); from here on it passes as the host's does.
    pub fn new(journal: J, host: HostLoop, inputs: Inputs, now: u64) -> Self {
        let Inputs { file, open, pace, guest_limit, marks, holds, captures, network, entropy } = inputs;
        let [hold_file, hold_typed] = holds;
        Self {
            journal,
            host,
            typed: VecDeque::new(),
            open,
            stop: None,
            file,
            held: Vec::new(),
            hold_file,
            hold_typed,
            pace,
            guest_limit,
            marks,
            network,
            entropy,
            unnamed: None,
            unnoted: Vec::new(),
            counts: [0; 2],
            go_live: false,
            origin: clock::monotonic_ns().wrapping_sub(now),
            arrived: now,
            ahead: None,
            asked: None,
            captures,
            capturing: false,
            captured: None,
        }
    }

    /// The journal, when the run is over.
    pub fn into_journal(self) -> J {
        self.journal
    }

    /// What the captured sync points came to, if there were any.
    pub fn captures(&self) -> Option<Report> {
        self.captures.report()
    }

    /// True if something from the host waits for the guest to come to a sync point.
    fn waits(&self, machine: &mut Machine) -> bool {
        let due = |time| time <= machine.guest_time();
        // What is held under chaos has a place of its own.
        let typed = match machine.is_counted() && self.hold_typed.is_active() {
            true => false,
            false => self.typed_fits(machine) && self.hold_typed.due().is_none_or(due),
        };
        let network = self.network.ready(machine).is_some_and(|time| time <= machine.guest_time());
        self.stop.is_some() || self.go_live || typed || network
    }

    /// True if the next part of the file waits. Its place must not depend on the host's kicks where that can be helped.
    fn file_waits(&self, machine: &Machine) -> bool {
        match self.held.is_empty() {
            true => self.file.is_some() && machine.console_backlog() < FILE_CHUNK,
            false => {
                self.held_fits(machine) && self.hold_file.due().is_none_or(|due| due <= machine.guest_time())
            }
        }
    }

    /// At a sync point: the guest computes from here on, perhaps to a captured one.
    fn prepare_captures(&mut self, machine: &mut Machine) -> Result<(), SessionError> {
        let captured = self.captured.take();
        let capturing = self.captures.are_made(self.paced()) && !machine.is_counted();
        if capturing != std::mem::replace(&mut self.capturing, capturing) {
            self.host.shared.captures.store(capturing, Ordering::Relaxed);
            self.host.shared.capture_at.store(0, Ordering::Relaxed);
        }
        if capturing {
            let now = clock::monotonic_ns();
            match self.journal.records() {
                true => self.captures.keep_small(machine, now, clock::monotonic_ns)?,
                false => self.captures.forget(machine),
            }
            self.run_from(captured.unwrap_or(now));
        }
        Ok(())
    }

    /// The guest computes from host time `now` (ns) on.
    fn run_from(&mut self, now: u64) {
        let due = self.captures.comes(now);
        self.host.shared.capture_at.store(due, Ordering::Relaxed);
    }

    /// `place`: where the guest is, and its time there.
    fn take(&mut self, event: HostEvent, place: (Position, u64)) -> Result<(), SessionError> {
        match event {
            HostEvent::Console(bytes) => self.typed.extend(bytes),
            HostEvent::ConsoleClosed => self.open = false,
            HostEvent::Frame(frame) => self.network.frame(frame),
            HostEvent::NetLost(why) => self.network.lost(&why, place.1),
            HostEvent::Stop(reason) => self.stop = self.stop.or(Some(reason)),
            HostEvent::GoLive => {
                self.go_live = self.journal.records();
                if !self.go_live {
                    say!("nothing is recorded, so there is no recording to end");
                }
            }
            HostEvent::Mark(source) => return self.mark(source, place),
            HostEvent::MarkName(name) => {
                return self.name_mark(name.as_deref());
            }
        }
        Ok(())
    }

    fn mark(
        &mut self,
        source: MarkSource,
        (position, guest_time): (Position, u64),
    ) -> Result<(), SessionError> {
        let (index, word, origin) = match source {
            MarkSource::Signal => (0, "signal", BookmarkOrigin::Signal),
            MarkSource::Key => (1, "key", BookmarkOrigin::Key),
        };
        self.counts[index] += 1;
        let name = format!("{word}-{}", self.counts[index]);
        let mark = Bookmark { name, position, guest_time: Some(guest_time), origin };
        match source {
            MarkSource::Signal => self.note(mark)?,
            MarkSource::Key => {
                self.name_mark(Some(""))?;
                self.unnamed = Some(mark);
            }
        }
        Ok(())
    }

    fn note(&mut self, mark: Bookmark) -> Result<(), SessionError> {
        if self.unnamed.is_some() {
            self.unnoted.push(mark);
            return Ok(());
        }
        if mark.origin != BookmarkOrigin::Every && self.journal.records() {
            say!("bookmark {} at {}", mark.name, mark.position);
        }
        self.journal.bookmark(mark)
    }

    /// The bookmark set by a key gets its name: the one it was set with if `name` is empty or none; `None` drops it.
    fn name_mark(&mut self, name: Option<&str>) -> Result<(), SessionError> {
        let mark = self.unnamed.take();
        if let (Some(mut mark), Some(name)) = (mark, name) {
            match check_bookmark_name(name) {
                Ok(()) => name.clone_into(&mut mark.name),
                Err(_) if name.is_empty() => {}
                Err(error) => say!("{error}; it is {} instead", mark.name),
            }
            self.note(mark)?;
        }
        std::mem::take(&mut self.unnoted).into_iter().try_for_each(|mark| self.note(mark))
    }

    /// What is noted here because so much guest time has passed.
    fn mark_time(&mut self, machine: &mut Machine) -> Result<(), SessionError> {
        if !self.journal.records() {
            return Ok(());
        }
        let now = machine.guest_time();
        if self.marks.snapshot.as_mut().and_then(|every| every.due(now)).is_some() {
            self.journal.snapshot(machine)?;
        }
        if let Some(count) = self.marks.bookmark.as_mut().and_then(|every| every.due(now)) {
            let (position, guest_time) = (machine.position(), Some(now));
            let (name, origin) = (format!("every-{count}"), BookmarkOrigin::Every);
            self.note(Bookmark { name, position, guest_time, origin })?;
        }
        Ok(())
    }

    fn take_all(&mut self, place: (Position, u64)) -> Result<(), SessionError> {
        while let Ok(event) = self.host.events.try_recv() {
            self.take(event, place)?;
        }
        Ok(())
    }

    /// Ends the recording if that was asked for; the guest notices nothing.
    fn detach(&mut self, machine: &mut Machine) -> Result<(), SessionError> {
        if !std::mem::take(&mut self.go_live) {
            return Ok(());
        }
        let cause = EndCause::Stopped { reason: StopReason::User };
        self.name_mark(Some(""))?;
        self.journal.end(machine, &cause, Place::Position)?;
        say!("the recording ends at {}; the guest lives on, unrecorded", machine.position());
        Ok(())
    }

    /// True if something has been typed and the machine has room for some of it.
    fn typed_fits(&self, machine: &Machine) -> bool {
        !self.typed.is_empty() && machine.console_room() > 0
    }

    /// Admits what has been typed, as far as the machine has room.
    fn admit_typed(&mut self, machine: &mut Machine) -> Result<bool, SessionError> {
        let count = self.typed.len().min(machine.console_room()).min(MAX_DATA);
        if count == 0 {
            return Ok(false);
        }
        let bytes: Vec<u8> = self.typed.drain(..count).collect();
        self.hold_typed.done();
        if self.typed.is_empty() {
            self.host.shared.queued.store(0, Ordering::Relaxed);
        }
        self.admit(machine, bytes)?;
        Ok(true)
    }

    fn admit(&mut self, machine: &mut Machine, bytes: Vec<u8>) -> Result<(), SessionError> {
        machine.console_input(&bytes);
        tracing::debug!(
            target: "input",
            "{} bytes at {}, {} ns of guest time, host time {} ns",
            bytes.len(),
            machine.position(),
            machine.guest_time(),
            clock::unix_ns()
        );
        self.journal.input(machine, Body::ConsoleInput { bytes })
    }

    /// Admits what there is for devices besides the serial port; true if anything was.
    fn admit_devices(&mut self, machine: &mut Machine) -> Result<bool, SessionError> {
        self.network.send(machine);
        let mut admitted = self.network.admit(machine, &mut self.journal, &self.host.shared)?;
        // One request an exit: a guest that always asks must come back for more.
        if let Some((slot, count)) = machine.entropy_wanted() {
            let bytes = self.entropy.take(count)?;
            network::input(machine, &mut self.journal, slot, DeviceInput::Entropy(bytes))?;
            admitted = true;
        }
        Ok(admitted)
    }

    /// Offers the next part of the input file once the port has taken all but a chunk of the last. What the port has
    /// taken depends on the guest alone, so these positions repeat.
    fn admit_file(&mut self, machine: &mut Machine) -> Result<(), SessionError> {
        if self.held.is_empty() {
            if machine.console_backlog() >= FILE_CHUNK {
                return Ok(());
            }
            let Some(file) = &mut self.file else { return Ok(()) };
            let piece = self.hold_file.piece(FILE_CHUNK);
            file.take(piece as u64)
                .read_to_end(&mut self.held)
                .map_err(|source| SessionError::Io { what: "reading the console's input file", source })?;
            if self.held.is_empty() {
                self.file = None; // end of file is not a stop
                return Ok(());
            }
        }
        if self.held_fits(machine) && self.hold_file.lets(machine) {
            return self.admit_held(machine);
        }
        Ok(())
    }

    /// True if bytes of the file are held and the machine has room for them.
    fn held_fits(&self, machine: &Machine) -> bool {
        !self.held.is_empty() && machine.console_room() >= self.held.len()
    }

    fn admit_held(&mut self, machine: &mut Machine) -> Result<(), SessionError> {
        self.hold_file.done();
        let bytes = std::mem::take(&mut self.held);
        self.admit(machine, bytes)
    }

    /// While idle: lets bytes of the file in that are held, if their time comes before anything else does. `None` if it
    /// does not.
    fn idle_held(
        &mut self,
        machine: &mut Machine,
        deadline: Option<u64>,
    ) -> Result<Option<Flow>, SessionError> {
        let Some(due) = self.hold_file.due().filter(|_| self.held_fits(machine)) else { return Ok(None) };
        if [deadline, self.guest_limit].into_iter().flatten().any(|first| first <= due) {
            return Ok(None);
        }
        if !self.paced() || self.wait(machine, Some(due))? {
            self.sleep_until(machine, due)?;
            self.admit_held(machine)?;
        }
        Ok(Some(Flow::Continue))
    }

    /// While idle: moves guest time from the position's arrival to `to` and notes it, so that what follows happens
    /// there in replay too.
    fn sleep_until(&mut self, machine: &mut Machine, to: u64) -> Result<(), SessionError> {
        machine.jump(to);
        let nanoseconds = machine.guest_time() - self.arrived;
        self.journal.input(machine, Body::TimeAdjust { nanoseconds })
    }

    /// Forgets what the guest lags behind the host beyond [`MOST_LAG`].
    fn limit_lag(&mut self, guest_time: u64) {
        let lag = self.host_now().saturating_sub(guest_time);
        self.origin = self.origin.wrapping_add(lag.saturating_sub(MOST_LAG));
    }

    /// Guest time that corresponds to the host's now.
    fn host_now(&self) -> u64 {
        clock::monotonic_ns().wrapping_sub(self.origin)
    }

    /// Ends the idle guest, if that was asked for.
    fn idle_stop(&mut self, machine: &mut Machine) -> Result<Option<Flow>, SessionError> {
        let Some(reason) = self.stop else { return Ok(None) };
        self.sleep_until(machine, machine.guest_time())?;
        Ok(Some(Flow::End(EndCause::Stopped { reason })))
    }

    /// The event loop has ended: nothing could stop this run any more, so it ends.
    fn lost_host(&mut self) {
        self.open = false;
        self.stop = self.stop.or(Some(StopReason::Signal));
    }

    /// Waits for the host, at most until `guest_time` on the host's clock. True if it waited to the end.
    fn wait(&mut self, machine: &Machine, guest_time: Option<u64>) -> Result<bool, SessionError> {
        let place = (machine.position(), machine.guest_time());
        let Some(guest_time) = guest_time else {
            match self.host.events.recv() {
                Ok(event) => self.take(event, place)?,
                Err(_) => self.lost_host(),
            }
            return Ok(false);
        };
        let left = guest_time.saturating_sub(self.host_now());
        match self.host.events.recv_timeout(Duration::from_nanos(left)) {
            Ok(event) => self.take(event, place)?,
            Err(RecvTimeoutError::Timeout) => return Ok(true),
            Err(RecvTimeoutError::Disconnected) => self.lost_host(),
        }
        Ok(false)
    }

    fn idle_while_waiting(
        &mut self,
        machine: &mut Machine,
        deadline: Option<u64>,
    ) -> Result<Flow, SessionError> {
        loop {
            self.take_all((machine.position(), machine.guest_time()))?;
            if let Some(flow) = self.idle_stop(machine)? {
                return Ok(flow);
            }
            if self.go_live {
                self.sleep_until(machine, machine.guest_time())?;
                self.detach(machine)?;
            }
            if self.typed_fits(machine) {
                // Before the deadline, so that replay has one order of the two.
                let latest = deadline.map_or(u64::MAX, |deadline| deadline.saturating_sub(1));
                let now = machine.guest_time();
                let wanted = self.host_now().max(self.hold_typed.due().unwrap_or(0));
                self.sleep_until(machine, wanted.min(latest).max(now))?;
                self.admit_typed(machine)?;
                return Ok(Flow::Continue);
            }
            if let Some(flow) = self.idle_held(machine, deadline)? {
                return Ok(flow);
            }
            if let Some(ready) = self.network.ready(machine) {
                let latest = deadline.map_or(u64::MAX, |deadline| deadline.saturating_sub(1));
                let (now, host) = (machine.guest_time(), self.host_now());
                if ready <= host || !self.paced() {
                    let at = ready.max(host);
                    let limit = self.guest_limit.unwrap_or(u64::MAX);
                    if ready <= latest.min(limit) {
                        self.sleep_until(machine, at.min(latest).min(limit).max(now))?;
                        self.admit_devices(machine)?;
                        return Ok(Flow::Continue);
                    }
                } else if deadline.is_none_or(|deadline| ready < deadline) {
                    self.wait(machine, Some(ready))?;
                    continue;
                }
            }
            if let (Some(limit), true) =
                (self.guest_limit, deadline.is_none_or(|d| Some(d) > self.guest_limit))
            {
                // The limit comes before anything else can happen, unless an input does. A deadline at the same time
                // comes first, as it does in replay.
                if !self.paced() || self.wait(machine, Some(limit))? {
                    self.sleep_until(machine, limit)?;
                    return Ok(Flow::End(EndCause::Stopped { reason: StopReason::GuestTime }));
                }
                continue;
            }
            match deadline {
                None if !self.open && !self.network.is_open() => {
                    return Ok(Flow::End(EndCause::HaltedForever));
                }
                None => {
                    self.wait(machine, None)?;
                }
                Some(deadline) => {
                    if !self.paced() || self.wait(machine, Some(deadline))? {
                        machine.jump(deadline);
                        return Ok(Flow::Continue);
                    }
                }
            }
        }
    }

    /// True if recorded time must not run ahead of the host's.
    fn paced(&self) -> bool {
        self.pace == Pace::Real || self.open || self.network.is_open()
    }
}

impl<J: Journal> Policy for Live<J> {
    fn at_sync_point(&mut self, machine: &mut Machine) -> Result<Flow, SessionError> {
        let shared = &self.host.shared;
        shared.exits.store(machine.exits(), Ordering::Relaxed);
        shared.running.store(true, Ordering::Relaxed);
        let seal = shared.seal_due.load(Ordering::Relaxed) && shared.seal_due.swap(false, Ordering::Relaxed);
        self.arrived = machine.guest_time();
        self.mark_time(machine)?;
        self.journal.sync_point(machine, seal)?;
        self.take_all((machine.position(), machine.guest_time()))?;
        self.detach(machine)?;
        self.prepare_captures(machine)?;
        if let Some(reason) = self.stop {
            return Ok(Flow::End(EndCause::Stopped { reason }));
        }
        if self.guest_limit.is_some_and(|limit| self.arrived >= limit) {
            return Ok(Flow::End(EndCause::Stopped { reason: StopReason::GuestTime }));
        }
        self.admit_file(machine)?;
        if self.typed_fits(machine) && self.hold_typed.lets(machine) {
            self.admit_typed(machine)?;
        }
        self.admit_devices(machine)?;
        Ok(Flow::Continue)
    }

    fn idle(&mut self, machine: &mut Machine, deadline: Option<u64>) -> Result<Flow, SessionError> {
        self.host.shared.running.store(false, Ordering::Relaxed);
        self.limit_lag(machine.guest_time());
        let flow = self.idle_while_waiting(machine, deadline)?;
        if self.capturing {
            self.run_from(clock::monotonic_ns());
        }
        self.host.shared.running.store(true, Ordering::Relaxed);
        Ok(flow)
    }

    fn until(&mut self, machine: &Machine) -> Option<Progress> {
        if let Some(Position { branches, steps, .. }) = self.ahead.take() {
            return Some(Progress { branches, steps });
        }
        let limit = self.guest_limit.and_then(|limit| machine.place_of(limit));
        // Only where something is to come in: a replay stops nowhere else.
        let file = self.hold_file.place(machine).filter(|_| self.held_fits(machine));
        let typed = self.hold_typed.place(machine).filter(|_| self.typed_fits(machine));
        [limit, file, typed].into_iter().flatten().min()
    }

    fn kicked(&mut self, machine: &mut Machine) -> Result<Flow, SessionError> {
        if self.host.shared.seal_due.swap(false, Ordering::Relaxed) {
            self.journal.seal(machine)?;
        }
        self.take_all(machine.place())?;
        let ahead = machine.place_ahead();
        if let (true, Some(ahead)) = (self.typed_fits(machine) && self.hold_typed.is_active(), ahead) {
            self.hold_typed.interrupt(ahead);
        }
        let waiting = machine.is_counted() && self.waits(machine);
        self.ahead = ahead.filter(|_| waiting);
        let unreachable = self.ahead.is_none() || self.ahead == self.asked;
        self.asked = self.ahead;
        if self.host.shared.force_stop.load(Ordering::Relaxed) && unreachable {
            let reason = self.stop.unwrap_or(StopReason::Signal);
            return Ok(Flow::End(EndCause::Stopped { reason }));
        }
        Ok(Flow::Continue)
    }

    fn capture(&mut self, machine: &mut Machine) -> Result<bool, SessionError> {
        if !self.capturing {
            return Ok(false);
        }
        let now = clock::monotonic_ns();
        let held = [&self.hold_file, &self.hold_typed].map(Hold::due);
        let deadline = held.into_iter().chain([machine.next_wake(), self.guest_limit]).flatten().min();
        let need = match deadline {
            _ if self.waits(machine) || self.file_waits(machine) => Need::Now,
            Some(deadline) => Need::At(deadline),
            None => Need::None,
        };
        let due = self.captures.due(need, machine.guest_time());
        if due.is_none_or(|due| due > now) {
            let later = self.captures.later(now); // an input may come before that
            self.host.shared.capture_at.store(due.map_or(later, |due| due.min(later)), Ordering::Relaxed);
            return Ok(false);
        }
        let computed = self.captures.computed(now);
        let Some(taken) = self.journal.capture(machine, computed)? else {
            let later = self.captures.too_large(now);
            self.host.shared.capture_at.store(later, Ordering::Relaxed);
            return Ok(false);
        };
        self.captures.made(taken, now, clock::monotonic_ns());
        self.captured = Some(now);
        self.host.shared.captured.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    fn finish(&mut self, machine: &mut Machine, cause: &EndCause, place: Place) -> Result<(), SessionError> {
        self.host.shared.running.store(false, Ordering::Relaxed); // digests take their time, the guest does not
        self.name_mark(Some(""))?;
        self.network.send(machine);
        self.journal.end(machine, cause, place)
    }
}
