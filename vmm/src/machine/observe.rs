//! Watching a machine: what it does is told to an [`Observer`], which can change nothing of it.

use scribe_devices::virtio::blk::RequestRecord;
use scribe_log::{Event, Position};

use super::virtio::Direction;
use crate::engine::cpu::CpuState;
use crate::engine::{Answer, Exit, Progress};

/// Where and when something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moment {
    /// the sync point, or the exit being served
    pub position: Position,
    /// guest time, ns
    pub guest_time: u64,
}

/// Told of everything that happens in a machine, in order. Every method does nothing unless it is overridden.
pub trait Observer {
    /// The guest has come this far, counted from the exit before, to the exit that is told of next.
    fn before_exit(&mut self, _at: Moment, _progress: Progress) {}

    /// An exit was served.
    fn exit(&mut self, _at: Moment, _exit: &Exit, _answer: Answer) {}

    /// The disk has served a request, during the exit that is told of next.
    fn disk_request(&mut self, _at: Moment, _request: &RequestRecord) {}

    /// The guest has sent bytes to its console.
    fn console(&mut self, _at: Moment, _bytes: &[u8]) {}

    /// A frame has come to the guest, or left it during the exit that is told of next.
    fn frame(&mut self, _at: Moment, _direction: Direction, _bytes: &[u8]) {}

    /// The vCPU takes an external interrupt: its vector, and the line of the interrupt controllers; `None` if spurious.
    fn interrupt(&mut self, _at: Moment, _vector: u8, _irq: Option<u8>) {}

    /// The halted vCPU sleeps until this guest time.
    fn idle(&mut self, _at: Moment, _until: u64) {}

    /// A replay has come to this event of the recording.
    fn event(&mut self, _at: Moment, _event: &Event) {}

    /// True if it is to be told of [`state`](Self::state), which costs time.
    fn wants_state(&self) -> bool {
        false
    }

    /// The processor's state at a checkpoint, and whether it is halted; and of the pages that have changed since the last
    /// such call frame number and hash, frames ascending.
    fn state(&mut self, _at: Moment, _state: &CpuState, _halted: bool, _pages: &[(u64, u64)]) {}

    /// The recording, or its replay, is about to end: nothing more is told of the machine.
    fn ending(&mut self, _at: Moment) {}
}

/// Two observers in one: the first is told first.
pub struct Both(pub Box<dyn Observer>, pub Box<dyn Observer>);

impl Observer for Both {
    fn before_exit(&mut self, at: Moment, progress: Progress) {
        self.0.before_exit(at, progress);
        self.1.before_exit(at, progress);
    }

    fn exit(&mut self, at: Moment, exit: &Exit, answer: Answer) {
        self.0.exit(at, exit, answer);
        self.1.exit(at, exit, answer);
    }

    fn disk_request(&mut self, at: Moment, request: &RequestRecord) {
        self.0.disk_request(at, request);
        self.1.disk_request(at, request);
    }

    fn console(&mut self, at: Moment, bytes: &[u8]) {
        self.0.console(at, bytes);
        self.1.console(at, bytes);
    }

    fn frame(&mut self, at: Moment, direction: Direction, bytes: &[u8]) {
        self.0.frame(at, direction, bytes);
        self.1.frame(at, direction, bytes);
    }

    fn interrupt(&mut self, at: Moment, vector: u8, irq: Option<u8>) {
        self.0.interrupt(at, vector, irq);
        self.1.interrupt(at, vector, irq);
    }

    fn idle(&mut self, at: Moment, until: u64) {
        self.0.idle(at, until);
        self.1.idle(at, until);
    }

    fn event(&mut self, at: Moment, event: &Event) {
        self.0.event(at, event);
        self.1.event(at, event);
    }

    fn wants_state(&self) -> bool {
        self.0.wants_state() || self.1.wants_state()
    }

    fn state(&mut self, at: Moment, state: &CpuState, halted: bool, pages: &[(u64, u64)]) {
        self.0.state(at, state, halted, pages);
        self.1.state(at, state, halted, pages);
    }

    fn ending(&mut self, at: Moment) {
        self.0.ending(at);
        self.1.ending(at);
    }
}
