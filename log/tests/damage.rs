//! No damage goes unnoticed: changed, missing, doubled and moved bytes, and files that are whole but say nonsense.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::path::Path;

use common::*;
use scribe_log::{
    Body, BookmarkList, EndCause, Event, ExitAnswer, ExitKind, Header, OpenError, Recording, Register, State,
    Writer,
};
use tempfile::{TempDir, tempdir};

/// A small closed recording and its events.
fn closed() -> (TempDir, Vec<Event>) {
    let dir = tempdir().unwrap();
    let end = end(131_072, EndCause::PowerOff { status: 0 });
    write_closed(dir.path(), &events(), &end);
    let all = read_all(dir.path()).unwrap();
    assert_eq!(all, [events(), vec![end]].concat());
    (dir, all)
}

/// A closed recording of several segments.
fn closed_large() -> (TempDir, Vec<Event>) {
    let dir = tempdir().unwrap();
    let events: Vec<Event> = (0..5).map(|exit| input(exit, &[b'x'; 60_000])).collect();
    let end = end(9, EndCause::Reset);
    write_closed(dir.path(), &events, &end);
    let all = read_all(dir.path()).unwrap();
    assert_eq!(all, [events, vec![end]].concat());
    (dir, all)
}

#[test]
fn every_changed_byte_is_an_error() {
    for (dir, _) in [closed(), closed_large()] {
        for name in ["header", "events"] {
            let file = dir.path().join(name);
            let bytes = fs::read(&file).unwrap();
            for at in 0..bytes.len() {
                for mask in [0x01, 0x20, 0x80, 0xff] {
                    let mut changed = bytes.clone();
                    changed[at] ^= mask;
                    let read = with(&file, &changed, || read_all(dir.path()));
                    assert!(read.is_err(), "{name}, byte {at} ^ {mask:#x}");
                }
            }
        }
        read_all(dir.path()).unwrap();
    }
}

/// What is skipped is not read; what is behind it is checked as ever.
#[test]
fn damage_is_seen_from_the_position_that_it_is_behind() {
    let (dir, all) = closed_large();
    let file = dir.path().join("events");
    let bytes = fs::read(&file).unwrap();
    let bounds = segment_bounds(&bytes);
    let from = all[3].position;
    assert_eq!(bounds.len(), 4, "events 0 and 1, 2 and 3, 4 and the end");
    let read =
        || -> Result<Vec<Event>, OpenError> { Recording::open(dir.path())?.events_from(from)?.collect() };
    assert_eq!(read().unwrap(), all[3..]);
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        match with(&file, &changed, read) {
            // Only the first segment is skipped, and its header is looked at.
            Ok(events) => assert!((60..bounds[1]).contains(&at) && events == all[3..], "byte {at}"),
            Err(error) => assert!(!(60..bounds[1]).contains(&at), "byte {at}: {error}"),
        }
    }
    let swapped = [&bytes[bounds[1]..bounds[2]], &bytes[..bounds[1]], &bytes[bounds[2]..]].concat();
    with(&file, &swapped, read).unwrap_err();
}

/// All that a recording says, or the first error.
fn read_everything(dir: &Path) -> Result<(Header, Vec<Event>, BookmarkList), OpenError> {
    let recording = Recording::open(dir)?;
    let events = recording.events().collect::<Result<_, _>>()?;
    Ok((recording.header().clone(), events, recording.bookmarks()?))
}

/// A copy of a golden recording.
fn golden(name: &str) -> TempDir {
    let stored = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let dir = tempdir().unwrap();
    for entry in fs::read_dir(stored).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

/// Every bit of recordings that hold every kind of event, every key of a header and bookmarks.
#[test]
fn every_flipped_bit_is_an_error() {
    for name in ["v1-markers", "v1-branch", "v1-notices", "v1-captures"] {
        let dir = golden(name);
        let before = read_everything(dir.path()).unwrap();
        for entry in fs::read_dir(dir.path()).unwrap() {
            let file = entry.unwrap().path();
            let bytes = fs::read(&file).unwrap();
            for bit in 0..bytes.len() * 8 {
                let mut changed = bytes.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                let read = with(&file, &changed, || read_everything(dir.path()));
                assert!(read.is_err(), "{}, bit {bit}", file.display());
            }
            for length in 0..bytes.len() {
                let read = with(&file, &bytes[..length], || read_everything(dir.path()));
                assert!(read.is_err(), "{}, cut to {length}", file.display());
            }
        }
        assert!(read_everything(dir.path()).unwrap() == before);
    }
}

/// Any number of changes, anywhere.
#[test]
fn many_changed_bytes_are_an_error() {
    let dir = golden("v1-markers");
    let mut random = 1u64;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(random >> 33).unwrap() % below
    };
    for round in 0..3000 {
        let file = dir.path().join(["header", "events", "bookmarks"][round % 3]);
        let bytes = fs::read(&file).unwrap();
        let mut changed = bytes.clone();
        for _ in 0..=next(8) {
            let (at, value) = (next(bytes.len()), next(256));
            changed[at] = u8::try_from(value).unwrap();
        }
        if changed != bytes {
            let read = with(&file, &changed, || read_everything(dir.path()));
            assert!(read.is_err(), "{}, round {round}", file.display());
        }
    }
}

/// In an unclosed recording a change at the end of the events looks as if less had been written, and nothing else.
#[test]
fn a_flipped_bit_of_a_killed_recording_is_an_error_or_an_earlier_end() {
    let dir = golden("v1-bookmarks-crashed");
    let (header, events, bookmarks) = read_everything(dir.path()).unwrap();
    let mut earlier = 0;
    for name in ["header", "events", "bookmarks"] {
        let file = dir.path().join(name);
        let bytes = fs::read(&file).unwrap();
        // Half a bookmark is at the end: what is of it counts for nothing, if its length is not wrong.
        let counts = if name == "bookmarks" { bytes.len() - 15 } else { bytes.len() };
        for bit in 0..counts * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            match with(&file, &changed, || read_everything(dir.path())) {
                Err(_) => {}
                Ok((same, fewer, marks)) => {
                    assert!(name == "events" && same == header, "{name}, bit {bit}");
                    assert_eq!((&fewer[..], marks.len()), (&events[..2], bookmarks.len() - 1));
                    earlier += 1;
                }
            }
        }
    }
    assert!(earlier > 0);
}

#[test]
fn every_truncation_and_extension_of_a_closed_recording_is_an_error() {
    for (dir, _) in [closed(), closed_large()] {
        for name in ["header", "events"] {
            let file = dir.path().join(name);
            let bytes = fs::read(&file).unwrap();
            for length in 0..bytes.len() {
                assert!(with(&file, &bytes[..length], || read_all(dir.path())).is_err(), "{name}, {length}");
            }
            for extra in [&[0][..], &[0xff; 100], &bytes] {
                let longer = [&bytes[..], extra].concat();
                assert!(with(&file, &longer, || read_all(dir.path())).is_err(), "{name}, {extra:?}");
            }
        }
    }
}

#[test]
fn truncation_at_a_segments_edge_is_told_from_a_crash() {
    let (dir, _) = closed_large();
    let file = dir.path().join("events");
    let bytes = fs::read(&file).unwrap();
    let bounds = segment_bounds(&bytes);
    assert!(bounds.len() > 3);
    for bound in bounds {
        let error = with(&file, &bytes[..bound], || read_all(dir.path())).unwrap_err();
        assert!(error.to_string().ends_with("the file is truncated: its index is missing"), "{error}");
    }
}

#[test]
fn segments_removed_swapped_or_doubled_are_an_error() {
    let dir = tempdir().unwrap();
    write_crashed(dir.path(), 3);
    let (closed, _) = closed_large();
    for dir in [dir.path(), closed.path()] {
        let file = dir.join("events");
        let bytes = fs::read(&file).unwrap();
        let bounds = segment_bounds(&bytes);
        let segments: Vec<&[u8]> = bounds.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
        let tail = &bytes[*bounds.last().unwrap()..];
        let (first, second, third) = (segments[0], segments[1], segments[2]);
        for wrong in [
            vec![second, third],
            vec![first, third],
            vec![second, first, third],
            vec![first, third, second],
            vec![first, first, second, third],
            vec![first, second, second, third],
            vec![first, second, third, third],
            vec![first, second, third, first],
        ] {
            let wrong = [&wrong.concat()[..], tail].concat();
            let error = with(&file, &wrong, || read_all(dir)).unwrap_err();
            assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
        }
    }
}

#[test]
fn segments_of_another_recording_are_an_error() {
    let (one, other) = (tempdir().unwrap(), tempdir().unwrap());
    write_crashed(one.path(), 2);
    let mut changed = header();
    changed.seed[0] ^= 1;
    let mut writer = Writer::create(other.path(), &changed, false).unwrap();
    writer.seal(&seal(1)).unwrap();
    fs::copy(one.path().join("events"), other.path().join("events")).unwrap();
    let error = read_all(other.path()).unwrap_err();
    assert!(error.to_string().contains("does not belong behind the one before it"), "{error}");
}

#[test]
fn a_killed_recording_is_read_up_to_its_last_whole_segment() {
    let dir = tempdir().unwrap();
    write_crashed(dir.path(), 3);
    let all = read_all(dir.path()).unwrap();
    let file = dir.path().join("events");
    let bytes = fs::read(&file).unwrap();
    let bounds = segment_bounds(&bytes);
    assert_eq!((all.len(), bounds.len()), (9, 4));
    for length in 0..=bytes.len() {
        let whole = bounds.iter().filter(|bound| **bound <= length).count() - 1;
        with(&file, &bytes[..length], || {
            let recording = Recording::open(dir.path()).unwrap();
            assert_eq!(recording.state(), State::Crashed);
            assert_eq!(recording.index().len(), whole);
            assert_eq!(recording.sizes().torn, (length - bounds[whole]) as u64);
            let events: Vec<Event> = recording.events().map(Result::unwrap).collect();
            assert_eq!(events, all[..whole * 3]);
            let last = events.last().map(|event| (event.position, event.body.registers().unwrap()));
            assert_eq!(recording.sealed_end(), last);
        });
    }
    for garbage in [vec![0; 4096], vec![0xff; 70_000], b"SCRSEGM1".repeat(20_000)] {
        let torn = [&bytes[..], &garbage].concat();
        assert_eq!(with(&file, &torn, || read_all(dir.path())).unwrap(), all);
    }
}

#[test]
fn damage_before_the_last_segment_is_no_torn_tail() {
    let dir = tempdir().unwrap();
    write_crashed(dir.path(), 3);
    let all = read_all(dir.path()).unwrap();
    let file = dir.path().join("events");
    let bytes = fs::read(&file).unwrap();
    let bounds = segment_bounds(&bytes);
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        let read = with(&file, &changed, || read_all(dir.path()));
        if at < bounds[2] {
            assert!(matches!(read, Err(OpenError::Corrupt { .. })), "byte {at}");
        } else {
            assert_eq!(read.unwrap(), all[..6], "byte {at}");
        }
    }
}

/// One event as bytes: `kind`, no flags, exit delta, payload.
fn raw_event(kind: u8, delta: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, 0, delta, u8::try_from(payload.len()).unwrap()][..], payload].concat()
}

fn raw_end(delta: u8) -> Vec<u8> {
    raw_event(0x85, delta, &[1, 1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 10, 11])
}

/// Reads a closed recording with these events' bytes.
fn read_forged(
    events: &[Vec<u8>],
    end_exit: u64,
    change: impl FnOnce(&mut Forged),
) -> Result<Vec<Event>, OpenError> {
    let (dir, _) = closed();
    let count = u32::try_from(events.len()).unwrap();
    let mut forged = Forged::first(dir.path(), count, end_exit, &events.concat());
    change(&mut forged);
    fs::write(dir.path().join("events"), forged.closed()).unwrap();
    read_all(dir.path())
}

#[test]
fn the_description_of_the_format_is_enough_to_write_it() {
    let events = read_forged(&[raw_event(0x81, 5, b"hi"), raw_end(2)], 7, |_| {}).unwrap();
    assert_eq!(events[0], input(5, b"hi"));
    assert_eq!(events[1].position, at(7));
    let Body::End(end) = &events[1].body else { panic!("{events:?}") };
    assert_eq!((end.registers, end.exits, end.guest_time, end.inputs), (0x0807_0605_0403_0201, 9, 10, 11));
}

#[test]
fn unknown_events_are_skipped_or_refused() {
    let unknown = raw_event(0x7f, 5, b"from the future");
    assert_eq!(read_forged(&[unknown, raw_end(2)], 7, |_| {}).unwrap().len(), 1);
    let unknown = raw_event(0xff, 5, b"from the future");
    let error = read_forged(&[unknown, raw_end(2)], 7, |_| {}).unwrap_err();
    assert!(matches!(error, OpenError::UnknownEvent { kind: 0xff, position, .. } if position == at(5)));
    assert!(error.to_string().contains("unknown event kind 0xff at exit:5: made by a newer scribe-vmm"));
}

#[test]
fn nonsense_with_right_checksums_is_refused() {
    let hi = || raw_event(0x81, 5, b"hi");
    let ends = || vec![hi(), raw_end(2)];
    let event = |bytes: &[u8]| vec![bytes.to_vec(), raw_end(0)];
    type Change = fn(&mut Forged);
    let nothing: Change = |_| {};
    let cases: [(&str, Vec<Vec<u8>>, u64, Change); 26] = [
        ("serial number", ends(), 7, |forged| forged.serial = 1),
        ("does not belong", ends(), 7, |forged| forged.previous ^= 1),
        ("does not start where", ends(), 8, |forged| forged.start_exit = 1),
        ("does not end where it says", ends(), 8, nothing),
        ("number of events", ends(), 7, |forged| forged.events = 3),
        ("lengths are impossible", ends(), 7, |forged| forged.events = 0),
        ("lengths are impossible", ends(), 7, |forged| forged.raw_length = Some(1)),
        ("lengths are impossible", ends(), 7, |forged| {
            (forged.codec, forged.raw_length) = (1, Some(u32::MAX))
        }),
        ("does not unpack", ends(), 7, |forged| (forged.codec, forged.raw_length) = (1, Some(1 << 24))),
        ("unknown way", ends(), 7, |forged| forged.codec = 2),
        ("the end is missing", vec![hi()], 5, nothing),
        ("an event follows the end", vec![raw_end(2), hi()], 7, nothing),
        ("a seal, in a closed recording", event(&raw_event(0x84, 0, &[0; 9])), 0, nothing),
        ("flags are unknown", event(&[0x81, 0x10, 0, 0]), 0, nothing),
        ("a field is written though it is 0", event(&[0x81, 1, 0, 0, 0]), 0, nothing),
        ("order at this position", event(&[0x81, 8, 0, 1, 0]), 0, nothing),
        ("order at this position", vec![hi(), raw_end(0)], 5, nothing),
        ("of vCPU 4, of 4", vec![vec![0x81, 1, 4, 0, 0], raw_end(0)], 0, nothing),
        ("vCPU is above", event(&[0x81, 1, 0xff, 0xff, 0xff, 0xff, 0x1f, 0, 0]), 0, nothing),
        ("ends too early", event(&[0x81, 0, 0, 0xff, 0xff, 3]), 0, nothing),
        ("longer than it needs", event(&[0x81, 0, 0x80, 0, 0]), 0, nothing),
        ("payload is too long", event(&raw_event(0x82, 0, &[1, 1])), 0, nothing),
        ("not UTF-8", event(&raw_event(0x06, 0, &[0xff])), 0, nothing),
        (
            "digest is of an unknown form",
            event(&raw_event(0x83, 0, &[0, 0, 0, 0, 0, 0, 0, 0, 2])),
            0,
            nothing,
        ),
        ("cause is unknown", event(&raw_event(0x85, 0, &[7])), 0, nothing),
        ("stop reason is unknown", event(&raw_event(0x85, 0, &[6, 5])), 0, nothing),
    ];
    for (expected, events, end_exit, change) in cases {
        let error = read_forged(&events, end_exit, change).unwrap_err();
        assert!(matches!(error, OpenError::Corrupt { .. }), "{expected}: {error}");
        assert!(error.to_string().contains(expected), "{expected}: {error}");
    }
    // A position can only go backwards by its branches: the exit is a delta.
    let backwards = [vec![0x81, 2, 5, 9, 0], vec![0x81, 2, 0, 8, 0], raw_end(2)];
    let error = read_forged(&backwards, 7, |_| {}).unwrap_err();
    assert!(error.to_string().contains("before the previous one"), "{error}");
}

#[test]
fn markers_that_say_nonsense_are_refused() {
    let read = |kind, payload: &[u8]| {
        read_forged(&[raw_event(kind, 1, payload), raw_end(1)], 2, |_| {})
            .map(|mut events| events.remove(0).body)
    };
    let state = read(0x08, b"\x01\x03rip\x02\x34\x12\x02\x05AAAAAAAA\x02BBBBBBBB").unwrap();
    let registers = vec![Register { name: "rip".to_owned(), bytes: 2, value: 0x1234 }];
    let pages = vec![(5, 0x4141_4141_4141_4141), (7, 0x4242_4242_4242_4242)];
    assert_eq!(state, Body::State { registers, pages });
    let exit = read(0x09, b"\x03\xac\x02\x04\x07\x01\x80\x01\x05\x06").unwrap();
    let (what, answer) = (ExitKind::MmioWrite, ExitAnswer::Value(128));
    assert_eq!(exit, Body::Exit { what, address: 300, size: 4, value: 7, answer, branches: 5, steps: 6 });
    let request = read(0x0a, b"\x02\x04\x80\x01\x05\x01").unwrap();
    assert_eq!(request, Body::DiskRequest { device: 2, request: 4, sector: 128, bytes: 5, status: 1 });
    assert_eq!(read(0x0b, b"$ ").unwrap(), Body::ConsoleOutput { bytes: b"$ ".to_vec() });

    let cases: [(u8, &[u8], &str); 19] = [
        (0x08, b"\x81\x02", "counts more than allowed"),
        (0x08, b"\x00\x81\x20", "counts more than allowed"),
        (0x08, b"\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "counts more than allowed"),
        (0x08, b"\x01\x00\x01\x00\x00", "impossible name"),
        (0x08, b"\x01\x02a \x01\x00\x00", "impossible name"),
        (0x08, b"\x01\x02\xc3\xa9\x01\x00\x00", "impossible name"),
        (0x08, b"\x01\x21aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\x01\x00\x00", "impossible name"),
        (0x08, b"\x01\x01a\x00\x00", "impossible width"),
        (0x08, b"\x01\x01a\x11AAAAAAAAAAAAAAAAA\x00", "impossible width"),
        (0x08, b"\x01\x01a\x02\x00", "ends too early"),
        (0x08, b"\x00\x02\x05AAAAAAAA\x00BBBBBBBB", "not in ascending order"),
        (
            0x08,
            b"\x00\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01AAAAAAAA\x01BBBBBBBB",
            "not in ascending order",
        ),
        (0x08, b"\x00\x00\x00", "payload is too long"),
        (0x09, b"\x07\x00\x00\x00\x00\x00\x00\x00", "exit is of an unknown kind"),
        (0x09, b"\x00\x00\x00\x00\x03\x00\x00\x00", "answer is of an unknown kind"),
        (0x09, b"\x00\x00\x00\x00\x02\x01\x00\x00", "answer has a value"),
        (0x09, b"\x00\x00\x00\x00\x00\x00\x00", "ends too early"),
        (0x0a, b"\x00\x80\x80\x80\x80\x10\x00\x00\x00", "above 2^32 - 1"),
        (0x0a, b"\x00\x00\x00\x00\x00\x00", "payload is too long"),
    ];
    for (kind, payload, expected) in cases {
        let error = read(kind, payload).unwrap_err();
        assert!(matches!(error, OpenError::Corrupt { .. }), "{expected}: {error}");
        assert!(error.to_string().contains(expected), "{expected}: {error}");
    }
}

#[test]
fn a_segment_of_an_unclosed_recording_ends_with_a_checkpoint() {
    let dir = tempdir().unwrap();
    write_crashed(dir.path(), 1);
    let forged = Forged::first(dir.path(), 1, 5, &raw_event(0x81, 5, b"hi"));
    fs::write(dir.path().join("events"), forged.encode()).unwrap();
    let error = read_all(dir.path()).unwrap_err();
    assert!(error.to_string().contains("does not end with a checkpoint"), "{error}");
}

#[test]
fn data_above_the_limit_is_refused() {
    let long = |length: usize| {
        let digits = [length & 0x7f | 0x80, length >> 7 & 0x7f | 0x80, length >> 14];
        let varint = digits.map(|digit| u8::try_from(digit).unwrap());
        [&[0x81, 0, 0][..], &varint, &vec![b'x'; length]].concat()
    };
    // The end is at the next exit, so that its order is 0.
    assert!(read_forged(&[long(65_536), raw_end(1)], 1, |_| {}).is_ok());
    let error = read_forged(&[long(65_537), raw_end(1)], 1, |_| {}).unwrap_err();
    assert!(error.to_string().contains("longer than 64 KiB"), "{error}");
}

#[test]
fn a_newer_header_is_refused_by_its_version_and_an_unknown_one_by_its_field() {
    let (dir, _) = closed();
    let file = dir.path().join("header");
    let bytes = fs::read(&file).unwrap();
    let mut newer = bytes.clone();
    newer[8] = 2;
    let error = with(&file, &newer, || read_all(dir.path())).unwrap_err();
    assert!(matches!(error, OpenError::TooNew { found: 2, supported: 1, .. }), "{error}");

    let body = [b"{\"surprise\":1,", &bytes[21..]].concat();
    let mut forged = bytes[..12].to_vec();
    forged.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
    let crc = crc32fast::hash(&[&forged[..], &body].concat());
    forged.extend(crc.to_le_bytes());
    forged.extend(body);
    let error = with(&file, &forged, || read_all(dir.path())).unwrap_err();
    assert!(matches!(error, OpenError::UnknownHeader { .. }), "{error}");
    assert!(error.to_string().contains("surprise"), "{error}");
}
