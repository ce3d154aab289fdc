//! What a machine tells, as events of a log: the same while it is recorded and when a replay tells it again.

use scribe_devices::virtio::blk::RequestRecord;
use scribe_log::header::Level;
use scribe_log::{Body, Event, ExitAnswer, ExitKind, SPURIOUS};

use super::state;
use crate::engine::cpu::CpuState;
use crate::engine::{Answer, Exit, Progress};
use crate::machine::observe::{Moment, Observer};

/// Most bytes of console output in one event. A line that is longer is several.
const LINE: usize = 1024;
/// Number of the machine's disk.
const DISK: u8 = 0;

/// Turns what a machine tells into events, at most those of a level, in the order in which a recorder notes them. In a
/// replay the recording's other events are among them, so that all of them together are what a recording of that level has.
///
/// Console output is collected to lines: an event ends with a line feed, at 1024 bytes, or because the guest halts or
/// the recording ends. All of these follow from the guest alone. Its position is that of its last exit, where it was noted.
pub struct Markers<S> {
    level: Level,
    sink: S,
    /// the exit told of next is so far from the one before
    progress: Progress,
    /// console output of an unfinished line
    line: Vec<u8>,
}

impl<S: FnMut(Moment, Event)> Markers<S> {
    /// `sink` gets each event, and where and when it happened.
    pub fn new(level: Level, sink: S) -> Self {
        Self { level, sink, progress: Progress::NONE, line: Vec::new() }
    }

    fn note(&mut self, at: Moment, body: Body) {
        (self.sink)(at, Event::new(at.position, body));
    }

    fn end_line(&mut self, at: Moment) {
        if !self.line.is_empty() {
            let bytes = std::mem::take(&mut self.line);
            self.note(at, Body::ConsoleOutput { bytes });
        }
    }
}

impl<S: FnMut(Moment, Event)> Observer for Markers<S> {
    fn before_exit(&mut self, _at: Moment, progress: Progress) {
        self.progress = progress;
    }

    fn exit(&mut self, at: Moment, exit: &Exit, answer: Answer) {
        if *exit == Exit::Halt {
            self.end_line(at);
        }
        let progress = std::mem::take(&mut self.progress);
        if self.level >= Level::Exits {
            self.note(at, exit_body(exit, answer, progress));
        }
    }

    fn disk_request(&mut self, at: Moment, request: &RequestRecord) {
        if self.level >= Level::Devices {
            let RequestRecord { kind, sector, bytes, status } = *request;
            self.note(at, Body::DiskRequest { device: DISK, request: kind, sector, bytes, status });
        }
    }

    fn console(&mut self, at: Moment, bytes: &[u8]) {
        if self.level < Level::Devices {
            return;
        }
        for byte in bytes {
            self.line.push(*byte);
            if *byte == b'\n' || self.line.len() >= LINE {
                self.end_line(at);
            }
        }
    }

    fn interrupt(&mut self, at: Moment, vector: u8, irq: Option<u8>) {
        if self.level >= Level::Devices {
            self.note(at, Body::Interrupt { vector, irq: irq.unwrap_or(SPURIOUS) });
        }
    }

    fn wants_state(&self) -> bool {
        self.level >= Level::State
    }

    fn state(&mut self, at: Moment, state: &CpuState, halted: bool, pages: &[(u64, u64)]) {
        if self.level >= Level::State {
            for body in Body::states(state::registers(state, halted), pages) {
                self.note(at, body);
            }
        }
    }

    fn ending(&mut self, at: Moment) {
        self.end_line(at);
    }

    /// What a recording's own markers say is told by the machine, too.
    fn event(&mut self, at: Moment, event: &Event) {
        if !event.body.is_marker() {
            (self.sink)(at, event.clone());
        }
    }
}

/// An exit as the log has it.
pub fn exit_body(exit: &Exit, answer: Answer, progress: Progress) -> Body {
    let (what, address, size, value) = match *exit {
        Exit::PortRead { port, size } => (ExitKind::PortRead, port.into(), size, 0),
        Exit::PortWrite { port, size, value } => (ExitKind::PortWrite, port.into(), size, value.into()),
        Exit::MmioRead { address, size } => (ExitKind::MmioRead, address, size, 0),
        Exit::MmioWrite { address, size, value } => (ExitKind::MmioWrite, address, size, value),
        Exit::Halt => (ExitKind::Halt, 0, 0, 0),
        Exit::MsrRead { index } => (ExitKind::MsrRead, index.into(), 8, 0),
        Exit::MsrWrite { index, value } => (ExitKind::MsrWrite, index.into(), 8, value),
    };
    let answer = match answer {
        Answer::Done => ExitAnswer::Done,
        Answer::Value(value) => ExitAnswer::Value(value),
        Answer::GeneralProtection => ExitAnswer::GeneralProtection,
    };
    let Progress { branches, steps } = progress;
    Body::Exit { what, address, size, value, answer, branches, steps }
}

/// An exit of a log as the machine has it. `None` if no machine makes such an exit.
pub fn exit_of(what: ExitKind, address: u64, size: u8, value: u64) -> Option<Exit> {
    Some(match what {
        ExitKind::PortRead => Exit::PortRead { port: address.try_into().ok()?, size },
        ExitKind::PortWrite => {
            Exit::PortWrite { port: address.try_into().ok()?, size, value: value.try_into().ok()? }
        }
        ExitKind::MmioRead => Exit::MmioRead { address, size },
        ExitKind::MmioWrite => Exit::MmioWrite { address, size, value },
        ExitKind::Halt => Exit::Halt,
        ExitKind::MsrRead => Exit::MsrRead { index: address.try_into().ok()? },
        ExitKind::MsrWrite => Exit::MsrWrite { index: address.try_into().ok()?, value },
    })
}

/// An answer of a log as the machine has it.
pub fn answer_of(answer: ExitAnswer) -> Answer {
    match answer {
        ExitAnswer::Done => Answer::Done,
        ExitAnswer::Value(value) => Answer::Value(value),
        ExitAnswer::GeneralProtection => Answer::GeneralProtection,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use scribe_log::Position;

    use super::*;

    fn at(exit: u64) -> Moment {
        Moment { position: Position::exit(exit), guest_time: exit * 2_000 }
    }

    /// Tells a bit of everything, and gives what was noted of it.
    fn noted(level: Level) -> Vec<Event> {
        let events = Rc::new(RefCell::new(Vec::new()));
        let mut markers = Markers::new(level, |at: Moment, event: Event| {
            assert_eq!(at.position, event.position);
            events.borrow_mut().push(event);
        });
        let out = Exit::PortWrite { port: 0x3f8, size: 1, value: 0x41 };
        markers.before_exit(at(1), Progress { branches: 3, steps: 2 });
        markers.exit(at(1), &out, Answer::Done);
        markers.console(at(1), b"A");
        markers.exit(at(2), &out, Answer::Done);
        markers.console(at(2), b"\nB");
        if markers.wants_state() {
            let pages: Vec<(u64, u64)> = (0..5000).map(|frame| (frame, 1)).collect();
            markers.state(at(2), &CpuState::default(), false, &pages);
        }
        markers.interrupt(at(2), 0x30, Some(0));
        markers.interrupt(at(2), 0x37, None);
        markers.disk_request(at(3), &RequestRecord { kind: 1, sector: 8, bytes: 512, status: 0 });
        markers.exit(at(3), &Exit::MmioWrite { address: 0xd000_0050, size: 4, value: 0 }, Answer::Done);
        markers.exit(at(4), &Exit::Halt, Answer::Done);
        markers.console(at(5), &[b'x'; LINE + 1]);
        markers.ending(at(6));
        drop(markers);
        Rc::try_unwrap(events).unwrap().into_inner()
    }

    fn names(level: Level) -> Vec<(u64, &'static str)> {
        noted(level).iter().map(|event| (event.position.exit, event.body.name())).collect()
    }

    #[test]
    fn each_level_has_what_the_one_before_has() {
        assert_eq!(names(Level::Inputs), []);
        assert_eq!(names(Level::State), [(2, "state"), (2, "state")]);
        let devices = [
            (2, "console-output"),
            (2, "state"),
            (2, "state"),
            (2, "interrupt"),
            (2, "interrupt"),
            (3, "disk-request"),
            (4, "console-output"),
            (5, "console-output"),
            (6, "console-output"),
        ];
        assert_eq!(names(Level::Devices), devices);
        let all = noted(Level::Exits);
        let without: Vec<Event> = all.iter().filter(|event| event.body.name() != "exit").cloned().collect();
        assert_eq!(without, noted(Level::Devices), "a level is the next one without some of it");
        assert_eq!(all.len(), without.len() + 4);
    }

    #[test]
    fn events_hold_what_was_told() {
        let all = noted(Level::Exits);
        let Body::Exit { what, address, branches, steps, .. } = all[0].body else { panic!("{}", all[0]) };
        assert_eq!((what, address, branches, steps), (ExitKind::PortWrite, 0x3f8, 3, 2));
        let Body::Exit { branches, .. } = all[1].body else { panic!("{}", all[1]) };
        assert_eq!(branches, 0);
        assert_eq!(all[2].body, Body::ConsoleOutput { bytes: b"A\n".to_vec() });
        assert!(all.iter().any(|event| event.body == Body::Interrupt { vector: 0x37, irq: SPURIOUS }));
        assert!(all.iter().any(|event| event.body == Body::ConsoleOutput { bytes: b"B".to_vec() }));
    }

    #[test]
    fn exits_come_back_from_the_log() {
        for exit in [
            Exit::PortRead { port: 0x71, size: 1 },
            Exit::PortWrite { port: 0xffff, size: 4, value: u32::MAX },
            Exit::MmioRead { address: u64::MAX, size: 8 },
            Exit::MmioWrite { address: 1, size: 2, value: 3 },
            Exit::Halt,
            Exit::MsrRead { index: 0xc000_0080 },
            Exit::MsrWrite { index: 0x1b, value: u64::MAX },
        ] {
            for answer in [Answer::Done, Answer::Value(7), Answer::GeneralProtection] {
                let Body::Exit { what, address, size, value, answer: noted, .. } =
                    exit_body(&exit, answer, Progress::NONE)
                else {
                    panic!("{exit:?}")
                };
                assert_eq!(exit_of(what, address, size, value), Some(exit));
                assert_eq!(answer_of(noted), answer);
            }
        }
        assert_eq!(exit_of(ExitKind::PortRead, 0x1_0000, 1, 0), None);
        assert_eq!(exit_of(ExitKind::PortWrite, 1, 1, 1 << 32), None);
    }
}
