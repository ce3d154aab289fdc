//! A machine that takes its inputs from a recording, and is compared with it all the way.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use scribe_log::{Body, End, EndCause, Event, Events, FullDigest, Position, State, StopReason};

use super::capture::{self, Confirm};
use super::divergence::Divergence;
use super::drive::{Phase, Stand};
use super::snapshot::SnapError;
use super::{Flow, Place, Policy, SessionError};
use crate::engine::Progress;
use crate::host::events::{HostEvent, HostLoop, Shared};
use crate::inspect::check::Checker;
use crate::inspect::state::Difference;
use crate::machine::notice::NoticeError;
use crate::machine::state::StateError;
use crate::machine::{Machine, MachineError};

/// Log events kept for reports.
const KEPT: usize = 8;

/// What a replay came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// it reached the recording's end, and everything compared was equal
    Complete(End),
    /// the recorder was killed: it reached the last sealed position, and everything compared was equal
    SealedEnd(Position),
    /// it was stopped from outside before the end; so far everything compared was equal
    Interrupted(Position),
}

/// How far a replay goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// to the recording's end
    End,
    /// until the guest comes to this position
    Position(Position),
    /// until guest time (ns) comes to this; a guest that sleeps through it is paused where it went to sleep
    Time(u64),
}

/// Feeds a recording back.
pub struct Replay {
    events: std::iter::Peekable<Events>,
    state: State,
    host: HostLoop,
    recent: VecDeque<Event>,
    /// position of the last check that was equal
    agreed: Position,
    /// position of the last at which the whole machine was equal, or where the replay began
    whole: Position,
    /// the last exit that was equal, if exits are compared
    last_exit: Option<Position>,
    /// guest time when the machine came to its position
    arrived: u64,
    /// where events were last taken, and how many there, markers not counted
    taken: (Position, u64),
    checks: u64,
    /// compares markers, if the recording has them
    checker: Option<Checker>,
    /// bookmarks that the guest has set at the position and the log has not shown yet
    bookmarks: Vec<String>,
    outcome: Option<Outcome>,
    stopped: bool,
    target: Target,
    /// where the guest has last slept
    slept: Option<Position>,
    /// the machine is to be paused at the next place where it can go live
    leave: bool,
    /// work ([`Machine::work`]) after which the driver is to pause at the next sync point, and whether it did
    work_limit: Option<u64>,
    worked: bool,
    /// executes the ways to captured sync points too
    confirm: Option<Confirm>,
}

impl Replay {
    /// Replays `events` of a recording in state `state` on `machine`, which is where the first of them is still to come;
    /// `host` delivers the wish to stop.
    pub fn new(events: Events, state: State, host: HostLoop, machine: &Machine) -> Self {
        Self {
            events: events.peekable(),
            state,
            host,
            recent: VecDeque::new(),
            agreed: machine.position(),
            whole: machine.position(),
            last_exit: None,
            arrived: machine.guest_time(),
            taken: (machine.position(), 0),
            checks: 0,
            checker: None,
            bookmarks: Vec::new(),
            outcome: None,
            stopped: false,
            target: Target::End,
            slept: None,
            leave: false,
            work_limit: None,
            worked: false,
            confirm: None,
        }
    }

    /// Also compares the recording's markers, as `checker` does.
    pub fn check_markers(mut self, checker: Option<Checker>) -> Self {
        self.checker = checker;
        self
    }

    /// For a machine whose driver stood so when a snapshot was taken: what had been taken at its position does not come
    /// again.
    ///
    /// # Errors
    /// The log cannot be read, or never had that.
    pub fn resume(mut self, machine: &Machine, stand: Stand) -> Result<Self, SessionError> {
        let here = machine.position();
        // The capture that brought the machine here is done.
        while let Some(Ok(Event { position, body: Body::CapturePages(_) | Body::Capture(_), .. })) =
            self.events.peek()
            && *position == here
        {
            self.events.next();
        }
        if stand.phase == Phase::Arrived {
            return Ok(self);
        }
        self.arrived = stand.arrived;
        while let Some(Ok(event)) = self.events.peek()
            && event.position == here
            && (event.body.is_marker() || self.taken.1 < stand.taken)
        {
            self.taken.1 += u64::from(!event.body.is_marker());
            self.events.next();
        }
        if self.taken.1 == stand.taken {
            return Ok(self);
        }
        if let Some(Err(error)) = self.events.next() {
            return Err(error.into());
        }
        let reason = format!("{} events were taken at {here}, and the log has fewer", stand.taken);
        Err(SnapError::from(StateError::Malformed { kind: "driver".into(), reason }).into())
    }

    /// How many events were taken at the machine's position, markers not counted, and guest time when it came there.
    pub fn taken(&self, machine: &Machine) -> (u64, u64) {
        let (position, count) = self.taken;
        (if position == machine.position() { count } else { 0 }, self.arrived)
    }

    /// From now on the ways to captured sync points are executed too.
    pub fn confirm_captures(&mut self) {
        self.confirm.get_or_insert_default();
    }

    /// What came of that: how many were confirmed, and how many there were.
    pub fn confirmed(&self) -> Option<(u64, u64)> {
        self.confirm.as_ref().map(Confirm::counts)
    }

    /// Sets where the driver is to pause.
    pub fn set_target(&mut self, target: Target) {
        self.target = target;
    }

    /// Sets after how much work the driver is to pause at a sync point.
    pub fn set_work_limit(&mut self, work: Option<u64>) {
        self.work_limit = work;
    }

    /// True, once, if the driver has paused because the work is done.
    pub fn take_work_is_done(&mut self) -> bool {
        std::mem::take(&mut self.worked)
    }

    /// What another thread can watch of the machine's progress.
    pub fn shared(&self) -> Arc<Shared> {
        self.host.shared.clone()
    }

    /// True if the machine is to go live here: that was asked for from outside.
    pub fn leaves(&self) -> bool {
        self.leave
    }

    /// Guest time (ns) when the machine came to the sync point that it came to last.
    pub fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Where the whole machine was last equal to the recording's, or where the replay began.
    pub fn whole(&self) -> Position {
        self.whole
    }

    /// Gives the connection to the host away for `other`.
    pub fn replace_host(&mut self, other: HostLoop) -> HostLoop {
        std::mem::replace(&mut self.host, other)
    }

    /// The connection to the host, when the replay is over.
    pub fn into_host(self) -> HostLoop {
        self.host
    }

    /// What it came to; `None` before the end.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// Digests compared so far.
    pub fn checks(&self) -> u64 {
        self.checks
    }

    /// The next event, if it is at the machine's position. An event at an earlier position was missed.
    fn peek(&mut self, machine: &Machine) -> Result<Option<Body>, SessionError> {
        let here = machine.position();
        match self.events.peek() {
            None => Ok(None),
            Some(Err(_)) => match self.events.next() {
                Some(Err(error)) => Err(error.into()),
                _ => Ok(None),
            },
            Some(Ok(event)) if event.position > here => Ok(None),
            Some(Ok(event)) if event.position == here => Ok(Some(event.body.clone())),
            Some(Ok(event)) => {
                let expected = format!("{event}");
                Err(self.diverged(
                    machine,
                    "an event that the replay did not come to",
                    expected,
                    "nothing there",
                ))
            }
        }
    }

    fn next(&mut self, machine: &mut Machine) {
        if let Some(Ok(event)) = self.events.next() {
            self.took(machine, event);
        }
    }

    fn took(&mut self, machine: &mut Machine, event: Event) {
        // What brought the machine to its position was no event there when it came.
        if !event.body.is_marker() && !matches!(event.body, Body::CapturePages(_) | Body::Capture(_)) {
            let before = if self.taken.0 == event.position { self.taken.1 } else { 0 };
            self.taken = (event.position, before + 1);
        }
        machine.tell(|observer, at| observer.event(at, &event));
        if matches!(event.body, Body::CapturePages(_)) {
            return; // large, and says nothing to people
        }
        if self.recent.len() == KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back(event);
    }

    /// Takes the markers up to the machine's position, which no replay depends on, and compares them.
    fn take_markers(&mut self, machine: &mut Machine) -> Result<(), SessionError> {
        let here = machine.position();
        while let Some(Ok(event)) = self.events.peek()
            && event.body.is_marker()
            && event.position <= here
        {
            let exit = matches!(event.body, Body::Exit { .. }).then_some(event.position);
            let difference = match &mut self.checker {
                Some(checker) => checker.compare(machine, event)?,
                None => None,
            };
            if difference.is_none() && self.checker.is_some() {
                self.last_exit = exit.or(self.last_exit);
            }
            self.next(machine);
            if let Some(Difference { what, recorded, found }) = difference {
                return Err(self.diverged(machine, what, recorded, found));
            }
        }
        Ok(())
    }

    fn diverged(
        &self,
        machine: &Machine,
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> SessionError {
        let recent = self.recent.iter().cloned();
        let divergence = Divergence::new(machine, self.agreed, recent, what, expected, found);
        SessionError::Diverged(Box::new(Divergence { last_exit: self.last_exit, ..divergence }))
    }

    fn check_rolling(&mut self, machine: &Machine, expected: u64) -> Result<(), SessionError> {
        let found = machine.rolling();
        if expected != found {
            let what = "the rolling digest of exits and registers";
            return Err(self.diverged(machine, what, format!("{expected:016x}"), format!("{found:016x}")));
        }
        self.checks += 1;
        Ok(())
    }

    fn check_full(
        &mut self,
        machine: &mut Machine,
        expected: Option<FullDigest>,
    ) -> Result<(), SessionError> {
        let Some(expected) = expected else { return Ok(()) };
        let found = machine.full_digest()?;
        let differs = [
            ("guest time", expected.guest_time.to_string(), found.guest_time.to_string()),
            ("the CPU's state", format!("{:016x}", expected.cpu), format!("{:016x}", found.cpu)),
            ("the devices' state", format!("{:016x}", expected.devices), format!("{:016x}", found.devices)),
            ("RAM", format!("{:032x}", expected.ram), format!("{:032x}", found.ram)),
        ];
        if let Some((what, expected, found)) =
            differs.into_iter().find(|(_, expected, found)| expected != found)
        {
            return Err(self.diverged(machine, what, expected, found));
        }
        self.checks += 1;
        Ok(())
    }

    /// Takes the events at the machine's position, up to a sleep or the end.
    fn take_events(&mut self, machine: &mut Machine) -> Result<Flow, SessionError> {
        loop {
            self.take_markers(machine)?;
            let Some(body) = self.peek(machine)? else { break };
            match body {
                Body::TimeAdjust { .. } => return Ok(Flow::Continue),
                Body::ConsoleInput { bytes } => machine.console_input(&bytes),
                Body::Device { slot, input } => {
                    if let Err(error) = machine.device_input(slot, &input) {
                        return Err(self.diverged(
                            machine,
                            "an input",
                            format!("{input:?}"),
                            error.to_string(),
                        ));
                    }
                }
                Body::Branch { seed, wall_clock } => self.notify_branch(machine, seed, wall_clock)?,
                Body::Checkpoint { registers, full } => {
                    machine.tell_state()?;
                    self.check_rolling(machine, registers)?;
                    if full.is_some() {
                        self.check_full(machine, full)?;
                        machine.track_dirty_pages()?;
                        self.whole = machine.position();
                    }
                    self.agreed = machine.position();
                }
                Body::Seal { registers, .. } => {
                    self.check_rolling(machine, registers)?;
                    self.agreed = machine.position();
                }
                Body::Bookmark { name } => match self.bookmarks.iter().position(|set| *set == name) {
                    Some(index) => drop(self.bookmarks.remove(index)),
                    None => {
                        return Err(self.diverged(machine, "a bookmark", name, self.bookmarks.join(", ")));
                    }
                },
                Body::CapturePages(_) | Body::Capture(_) => {
                    let found = "a replay that executed the way to it";
                    return Err(self.diverged(machine, "a captured sync point", body.to_string(), found));
                }
                Body::Interrupt { .. }
                | Body::State { .. }
                | Body::Exit { .. }
                | Body::DiskRequest { .. }
                | Body::ConsoleOutput { .. } => {}
                Body::End(end) => {
                    // The guest's own ends come out of the machine; this one came from outside.
                    return Ok(match end.cause {
                        EndCause::Stopped { .. } => Flow::End(end.cause),
                        _ => Flow::Continue,
                    });
                }
            }
            self.next(machine);
        }
        Ok(self.at_end_of_log(machine))
    }

    /// A branch's first input.
    fn notify_branch(
        &self,
        machine: &mut Machine,
        seed: Option<[u8; 32]>,
        wall_clock: Option<u64>,
    ) -> Result<(), SessionError> {
        match machine.notify_branch(seed.as_ref(), wall_clock) {
            Ok(()) => Ok(()),
            Err(NoticeError::Memory(error)) => Err(MachineError::from(error).into()),
            Err(NoticeError::NotAskedFor) => {
                Err(self.diverged(machine, "the guest's wish for notices", "yes", "no"))
            }
        }
    }

    /// A killed recording just ends.
    fn at_end_of_log(&mut self, machine: &Machine) -> Flow {
        if self.events.peek().is_some() || self.state == State::Complete {
            return Flow::Continue;
        }
        self.outcome = Some(Outcome::SealedEnd(machine.position()));
        Flow::End(EndCause::Stopped { reason: StopReason::Signal })
    }

    fn stop_requested(&mut self) -> bool {
        while let Ok(event) = self.host.events.try_recv() {
            match event {
                HostEvent::Stop(_) => self.stopped = true,
                HostEvent::GoLive => self.leave = true,
                _ => {}
            }
        }
        self.stopped |= self.host.shared.force_stop.load(Ordering::Relaxed);
        self.stopped
    }

    fn interrupt(&mut self, machine: &Machine) -> Flow {
        self.outcome = Some(Outcome::Interrupted(machine.position()));
        Flow::End(EndCause::Stopped { reason: StopReason::User })
    }
}

impl Policy for Replay {
    fn at_sync_point(&mut self, machine: &mut Machine) -> Result<Flow, SessionError> {
        self.host.shared.exits.store(machine.exits(), Ordering::Relaxed);
        self.host.shared.guest_time.store(machine.guest_time(), Ordering::Relaxed);
        self.host.shared.running.store(true, Ordering::Relaxed);
        if self.stop_requested() {
            return Ok(self.interrupt(machine));
        }
        if self.leave {
            return Ok(Flow::Pause);
        }
        if self.work_limit.is_some_and(|limit| machine.work() >= limit) {
            self.worked = true;
            return Ok(Flow::Pause);
        }
        self.bookmarks = machine.take_bookmarks();
        machine.take_frames(); // a replay has nobody to send them to
        self.arrived = machine.guest_time();
        self.take_events(machine)
    }

    fn idle(&mut self, machine: &mut Machine, deadline: Option<u64>) -> Result<Flow, SessionError> {
        if self.stop_requested() {
            return Ok(self.interrupt(machine));
        }
        if self.leave {
            return Ok(Flow::Pause);
        }
        // A branch can begin while the guest sleeps.
        while let Some(Body::Branch { seed, wall_clock }) = self.peek(machine)? {
            self.notify_branch(machine, seed, wall_clock)?;
            self.next(machine);
        }
        self.slept = Some(machine.position());
        let target = self.target;
        let sleeps_through = |until| matches!(target, Target::Time(target) if target < until);
        if let Some(Body::TimeAdjust { nanoseconds }) = self.peek(machine)? {
            let until = self.arrived.saturating_add(nanoseconds);
            if deadline.is_none_or(|deadline| deadline > until) {
                if sleeps_through(until) {
                    return Ok(Flow::Pause);
                }
                self.next(machine);
                machine.jump(until);
                return self.take_events(machine);
            }
        }
        let Some(deadline) = deadline else {
            return Ok(Flow::End(EndCause::HaltedForever));
        };
        if sleeps_through(deadline) {
            return Ok(Flow::Pause);
        }
        machine.jump(deadline);
        Ok(Flow::Continue)
    }

    fn pause(&mut self, machine: &Machine) -> Option<Position> {
        let here = machine.position();
        let ahead = Position { steps: here.steps.saturating_add(1), ..here };
        match self.target {
            Target::End => None,
            Target::Position(position) => Some(position),
            Target::Time(time) if machine.guest_time() < time => {
                let Progress { branches, steps } = machine.place_of(time)?;
                Some(Position { branches, steps, ..here })
            }
            // Where it woke is behind its position's first moment: the next place will do.
            Target::Time(_) if self.slept == Some(here) => Some(ahead),
            Target::Time(_) => Some(here),
        }
    }

    fn leap(&mut self, machine: &mut Machine) -> Result<bool, SessionError> {
        let position = Position::exit(machine.exits().saturating_add(1));
        let Some(events) = capture::take(&mut self.events, position)? else { return Ok(false) };
        if let Some(confirm) = &mut self.confirm {
            let (host, stopped) = (&self.host, &mut self.stopped);
            confirm.confirm(machine, &events, &mut || {
                *stopped |= host.shared.force_stop.load(Ordering::Relaxed);
                *stopped |= host.events.try_iter().any(|event| matches!(event, HostEvent::Stop(_)));
                !*stopped
            })?;
        }
        capture::apply(machine, &events)?;
        events.into_iter().for_each(|event| self.took(machine, event));
        Ok(true)
    }

    /// The place of the next event, if the guest comes there before its next exit.
    fn until(&mut self, machine: &Machine) -> Option<Progress> {
        let here = machine.position();
        let Some(Ok(Event { position, .. })) = self.events.peek() else { return None };
        (position.exit == here.exit && *position > here)
            .then_some(Progress { branches: position.branches, steps: position.steps })
    }

    fn kicked(&mut self, machine: &mut Machine) -> Result<Flow, SessionError> {
        // Where it stops is of no account, so with a counter it need not wait for a sync point.
        let stopped = machine.is_counted() && self.stop_requested();
        if self.leave {
            // Not where it is: an interrupt may just have been injected there.
            self.target = machine.place_ahead().map_or(self.target, Target::Position);
        }
        if stopped || self.host.shared.force_stop.load(Ordering::Relaxed) {
            return Ok(self.interrupt(machine));
        }
        Ok(Flow::Continue)
    }

    fn finish(&mut self, machine: &mut Machine, cause: &EndCause, place: Place) -> Result<(), SessionError> {
        self.host.shared.running.store(false, Ordering::Relaxed); // digests take their time, the guest does not
        if self.outcome.is_some() {
            return Ok(());
        }
        if place == Place::Position {
            machine.tell_state()?;
        }
        machine.tell(|observer, at| observer.ending(at));
        self.take_markers(machine)?;
        let end = match self.events.next() {
            Some(Ok(Event { vcpu, position, body: Body::End(end) })) if position == machine.position() => {
                let event = Event { vcpu, position, body: Body::End(end.clone()) };
                machine.tell(|observer, at| observer.event(at, &event));
                end
            }
            Some(Ok(event)) => {
                let what = "the end of the guest";
                return Err(self.diverged(machine, what, format!("it goes on to {event}"), describe(cause)));
            }
            Some(Err(error)) => return Err(error.into()),
            None => {
                self.outcome = Some(Outcome::SealedEnd(machine.position()));
                return Ok(());
            }
        };
        if end.cause != *cause {
            return Err(self.diverged(
                machine,
                "the end of the guest",
                describe(&end.cause),
                describe(cause),
            ));
        }
        self.check_rolling(machine, end.registers)?;
        if place == Place::Position {
            self.check_full(machine, end.full)?;
        }
        // A guest that was stopped in the middle of its work may have slept at the position before; its time then is not
        // the position's, and nothing of it can be compared.
        let beyond = end.full.is_none() && matches!(end.cause, EndCause::Stopped { .. });
        let time = if beyond { end.guest_time } else { machine.guest_time() };
        let counted = (machine.exits(), time);
        if (end.exits, end.guest_time) != counted {
            let text = |(exits, time): (u64, u64)| format!("{exits} exits, {time} ns");
            let expected = text((end.exits, end.guest_time));
            return Err(self.diverged(machine, "the end's count", expected, text(counted)));
        }
        // Reads past the end, so that what follows it is checked too.
        if let Some(Err(error)) = self.events.next() {
            return Err(SessionError::Read(error));
        }
        self.outcome = Some(Outcome::Complete(end));
        Ok(())
    }
}

/// An end for people, on one line: what "the guest" did.
pub fn describe(cause: &EndCause) -> String {
    match cause {
        EndCause::PowerOff { status } => format!("powered off with status {status}"),
        EndCause::Reset => "reset the machine".into(),
        EndCause::Panic { message } => format!("panicked: {}", message.trim().escape_debug()),
        EndCause::TripleFault { rip, .. } => format!("triple-faulted; its last exit was at rip {rip:#x}"),
        EndCause::RefusedInstruction { rip, bytes } => {
            let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let bytes = if bytes.is_empty() { "bytes unknown".into() } else { bytes.join(" ") };
            format!("came to an instruction that the host's KVM refuses, at rip {rip:#x}: {bytes}")
        }
        EndCause::HaltedForever => "halted, and nothing can wake it".into(),
        EndCause::Stopped { reason } => match reason {
            StopReason::User => "was stopped by the user".into(),
            StopReason::HostTime => "was stopped: the limit on host time".into(),
            StopReason::GuestTime => "was stopped: the limit on guest time".into(),
            StopReason::Silence => "was stopped: no exit for too long".into(),
            StopReason::Signal => "was stopped by a signal".into(),
        },
    }
}
