//! Watching a machine: what it does is told to an [`Observer`], which can change nothing of it.

use scribe_devices::virtio::blk::RequestRecord;
use scribe_log::{Event, Position};

use crate::engine::{Answer, Exit};

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
    /// An exit was served.
    fn exit(&mut self, _at: Moment, _exit: &Exit, _answer: Answer) {}

    /// The disk has served a request, during the exit that is told of next.
    fn disk_request(&mut self, _at: Moment, _request: &RequestRecord) {}

    /// The guest has sent bytes to its console.
    fn console(&mut self, _at: Moment, _bytes: &[u8]) {}

    /// The vCPU takes an external interrupt: its vector, and the line of the interrupt controllers; `None` if spurious.
    fn interrupt(&mut self, _at: Moment, _vector: u8, _irq: Option<u8>) {}

    /// The halted vCPU sleeps until this guest time.
    fn idle(&mut self, _at: Moment, _until: u64) {}

    /// A replay has come to this event of the recording.
    fn event(&mut self, _at: Moment, _event: &Event) {}
}
