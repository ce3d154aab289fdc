//! One event with everything that is known of it.

use scribe_log::header::Level;
use scribe_log::{Body, Bookmark, BookmarkOrigin, Event};

use super::decode::{Decoded, Decoder, Device};
use super::markers::{answer_of, exit_of};

/// An event, decoded.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// the event
    pub event: &'a Event,
    /// guest time (ns), if it is known
    pub time: Option<u64>,
    /// who it is of
    pub device: Device,
    /// the exit, if it is one that this machine can make
    pub exit: Option<Decoded>,
    /// who set it, if it is a bookmark
    pub origin: BookmarkOrigin,
}

/// Makes rows of events, shown to it in their order.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    decoder: Decoder,
}

impl Rows {
    /// A row. `time`: guest time as a machine tells it; what the event itself says goes before.
    pub fn row<'a>(&mut self, event: &'a Event, time: Option<u64>) -> Row<'a> {
        let mut exit = None;
        let device = match &event.body {
            Body::Exit { what, address, size, value, answer, .. } => {
                let known = exit_of(*what, *address, *size, *value);
                exit = known.map(|known| self.decoder.exit(&known, answer_of(*answer)));
                exit.map_or(Device::Unmapped, |decoded| decoded.device)
            }
            Body::ConsoleInput { .. } | Body::ConsoleOutput { .. } => Device::Uart,
            Body::TimeAdjust { .. } | Body::Checkpoint { .. } | Body::Seal { .. } | Body::End(_) => {
                Device::Machine
            }
            Body::CapturePages(_) | Body::Capture(_) => Device::Cpu,
            Body::Bookmark { .. } | Body::Branch { .. } => Device::Guest,
            Body::Interrupt { irq, .. } => Device::of_irq(Some(*irq)),
            Body::State { .. } => Device::Cpu,
            Body::DiskRequest { .. } => Device::Disk,
            Body::Device { .. } => Device::Virtio,
        };
        let time = time_in(&event.body).or(time);
        Row { event, time, device, exit, origin: BookmarkOrigin::Guest }
    }

    /// A row for a bookmark that is no event of the recording, but is told as one.
    pub fn mark<'a>(&self, event: &'a Event, mark: &Bookmark) -> Row<'a> {
        Row { event, time: mark.guest_time, device: Device::Host, exit: None, origin: mark.origin }
    }
}

/// The guest time that an event itself says, ns.
pub fn time_in(body: &Body) -> Option<u64> {
    match body {
        Body::Checkpoint { full, .. } => full.map(|full| full.guest_time),
        Body::Seal { guest_time, .. } => Some(*guest_time),
        Body::End(end) => Some(end.guest_time),
        _ => None,
    }
}

/// The lowest level whose recordings have events of this kind.
pub fn level_of(body: &Body) -> Level {
    match body {
        Body::Exit { .. } => Level::Exits,
        Body::Interrupt { .. } | Body::DiskRequest { .. } | Body::ConsoleOutput { .. } => Level::Devices,
        Body::State { .. } => Level::State,
        _ => Level::Inputs,
    }
}

/// Names of all kinds, in the order of the format's numbers.
pub const KINDS: [&str; 14] = [
    "console-input",
    "time-adjust",
    "checkpoint",
    "seal",
    "end",
    "bookmark",
    "interrupt",
    "state",
    "exit",
    "disk-request",
    "console-output",
    "branch",
    "capture-pages",
    "capture",
];
