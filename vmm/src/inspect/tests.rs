//! Logs printed: lines for people and scripts, filters, counts, and how long a million events take.

mod bench;
mod diff;
mod lines;

use scribe_log::{
    Body, Bookmark, BookmarkOrigin, End, EndCause, Event, ExitAnswer, ExitKind, FullDigest, Position,
    Register, StopReason,
};

use super::filter::Filter;
use super::list::{Form, Listing};

fn exit(number: u64, what: ExitKind, address: u64, size: u8, value: u64, answer: ExitAnswer) -> Event {
    let body = Body::Exit { what, address, size, value, answer, branches: number % 3, steps: number % 2 };
    Event::new(Position::exit(number), body)
}

fn out(number: u64, port: u64, value: u64) -> Event {
    exit(number, ExitKind::PortWrite, port, 1, value, ExitAnswer::Done)
}

fn end(number: u64, cause: EndCause) -> Event {
    let full = Some(FullDigest { cpu: 1, ram: 2, devices: 3, guest_time: 5_000_000_000 });
    let body = End { cause, registers: 0xabc, full, exits: number, guest_time: 5_000_000_000, inputs: 1 };
    Event::new(Position::exit(number), Body::End(body))
}

/// One of each kind.
fn sample() -> Vec<Event> {
    let full = Some(FullDigest { cpu: 0x11, ram: 0x22, devices: 0x33, guest_time: 2_000_000_000 });
    let counted = Position { exit: 6, branches: 12, steps: 3 };
    vec![
        out(1, 0x3fb, 0x83),
        out(2, 0x3f8, 1),
        exit(3, ExitKind::MmioRead, 0xd000_0070, 4, 0, ExitAnswer::Value(7)),
        exit(4, ExitKind::MsrRead, 0x1b, 8, 0, ExitAnswer::GeneralProtection),
        Event::new(
            Position::exit(4),
            Body::DiskRequest { device: 0, request: 1, sector: 8, bytes: 4096, status: 0 },
        ),
        exit(5, ExitKind::PortRead, 0x1_0000, 1, 0, ExitAnswer::Value(1)),
        exit(6, ExitKind::Halt, 0, 0, 0, ExitAnswer::Done),
        Event::new(Position::exit(6), Body::TimeAdjust { nanoseconds: 1_500 }),
        Event::new(Position::exit(6), Body::ConsoleInput { bytes: b"ls\n\xff".to_vec() }),
        Event::new(counted, Body::Interrupt { vector: 0x34, irq: 4 }),
        Event::new(counted, Body::Interrupt { vector: 0x37, irq: 255 }),
        Event::new(Position::exit(7), Body::ConsoleOutput { bytes: b"a \"b\"\r\n".to_vec() }),
        Event::new(Position::exit(7), Body::Bookmark { name: "over\nthere".into() }),
        Event::new(
            Position::exit(8),
            Body::State {
                registers: vec![Register::u64("rip", 0x1000), Register::u64("rsp", 0x2000)],
                pages: vec![(1, 0xaa), (2, 0xbb)],
            },
        ),
        Event::new(Position::exit(8), Body::Checkpoint { registers: 0xdef, full }),
        Event::new(Position::exit(9), Body::Seal { registers: 0xdef, guest_time: 3_000_000_001 }),
        end(9, EndCause::Stopped { reason: StopReason::User }),
    ]
}

fn mark(name: &str, exit: u64, origin: BookmarkOrigin) -> Bookmark {
    Bookmark { name: name.into(), position: Position::exit(exit), guest_time: Some(77), origin }
}

fn printed(events: &[Event], form: Form, count: bool, filter: Filter, marks: Vec<Bookmark>) -> String {
    let mut bytes = Vec::new();
    let mut listing = Listing::new(&mut bytes, form, count, filter, marks);
    for event in events {
        listing.event(event, None).unwrap();
        if listing.is_past() {
            break;
        }
    }
    listing.finish().unwrap();
    drop(listing);
    String::from_utf8(bytes).unwrap()
}
