//! How long a million events take. `cargo test --release -p scribe-vmm million -- --ignored --nocapture`

use scribe_log::header::Level;
use scribe_log::{Header, Recording, Writer};

use super::*;
use crate::host::clock;

const EVENTS: u64 = 1_000_000;
const LIMIT_NS: u64 = 2_000_000_000;

/// A recording of `count` exits, as a guest makes them that uses its disk and its console.
fn recording(directory: &std::path::Path, count: u64) -> Recording {
    let header = Header { level: Level::Exits, ..crate::session::tests::header() };
    let mut writer = Writer::create(directory, &header, true).unwrap();
    for number in 1..=count {
        let event = match number % 8 {
            0 => exit(number, ExitKind::MmioWrite, 0xd000_0050, 4, 0, ExitAnswer::Done),
            1 => {
                let body =
                    Body::DiskRequest { device: 0, request: 0, sector: number, bytes: 4096, status: 0 };
                Event::new(Position::exit(number), body)
            }
            2 => Event::new(Position::exit(number), Body::Interrupt { vector: 0x35, irq: 5 }),
            3 => exit(number, ExitKind::PortRead, 0x3fd, 1, 0, ExitAnswer::Value(0x60)),
            4 => out(number, 0x20, 0x65),
            5 => {
                let bytes = b"[    0.123456] a line as a kernel prints it\r\n".to_vec();
                Event::new(Position::exit(number), Body::ConsoleOutput { bytes })
            }
            _ => out(number, 0x3f8, number % 95 + 32),
        };
        writer.append(&event).unwrap();
        if number % 100_000 == 0 {
            let body = Body::Checkpoint { registers: number, full: None };
            writer.seal(&Event::new(Position::exit(number), body)).unwrap();
        }
    }
    writer.close(&end(count, EndCause::HaltedForever)).unwrap();
    Recording::open(directory).unwrap()
}

/// Prints all of it; nanoseconds that took.
fn print(recording: &Recording, form: Form, count: bool) -> u64 {
    let begun = clock::monotonic_ns();
    let sink = std::fs::File::options().write(true).open("/dev/null").unwrap();
    let mut listing = Listing::new(sink, form, count, Filter::default(), Vec::new());
    let mut events = 0;
    for event in recording.events() {
        listing.event(&event.unwrap(), None).unwrap();
        events += 1;
    }
    listing.finish().unwrap();
    assert!(events > EVENTS);
    clock::monotonic_ns() - begun
}

#[test]
#[ignore = "says how fast it is, in a release build"]
fn a_million_events_are_printed_in_less_than_two_seconds() {
    let directory = tempfile::tempdir().unwrap();
    let recording = recording(directory.path(), EVENTS);
    for (name, form, count) in
        [("text", Form::Text, false), ("json", Form::Json, false), ("summary", Form::Text, true)]
    {
        let took = print(&recording, form, count);
        println!("{EVENTS} events as {name}: {} ms", took / 1_000_000);
        assert!(cfg!(debug_assertions) || took < LIMIT_NS, "{name}: {took} ns");
    }
}
