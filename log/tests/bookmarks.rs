//! Bookmarks: set while recording, by the guest, and in the finished recording; their file's damage is never passed over.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::path::Path;

use common::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use scribe_log::{
    Bookmark, BookmarkOrigin, Bookmarks, EditError, EndCause, Event, OpenError, Position, Recording, State,
    WriteError, Writer,
};
use tempfile::{TempDir, tempdir};

fn bookmark(name: &str, exit: u64, origin: BookmarkOrigin) -> Bookmark {
    Bookmark { name: name.to_owned(), position: at(exit), guest_time: Some(exit * 2000), origin }
}

/// Set while it is recorded.
fn live() -> Vec<Bookmark> {
    vec![
        bookmark("start", 0, BookmarkOrigin::Key),
        Bookmark {
            position: Position { exit: 3, branches: 700, steps: 2 },
            guest_time: None,
            ..bookmark("usr2", 0, BookmarkOrigin::Signal)
        },
        bookmark("every", 1000, BookmarkOrigin::Every),
        bookmark("every", 2000, BookmarkOrigin::Every),
    ]
}

fn guests(exit: u64, name: &str) -> Event {
    Event::new(at(exit), scribe_log::Body::Bookmark { name: name.to_owned() })
}

/// A recording with bookmarks of every origin; its recorder is killed unless it is closed.
fn recording(close: bool) -> TempDir {
    let dir = tempdir().unwrap();
    let mut writer = Writer::create(dir.path(), &header(), false).unwrap();
    let mut live = live().into_iter();
    writer.bookmark(live.next().unwrap()).unwrap();
    writer.append(&input(3, b"ls\n")).unwrap();
    writer.bookmark(live.next().unwrap()).unwrap();
    writer.seal(&seal(500)).unwrap();
    writer.append(&guests(1000, "every")).unwrap();
    live.for_each(|bookmark| writer.bookmark(bookmark).unwrap());
    writer.append(&guests(1500, "every")).unwrap();
    writer.seal(&seal(2000)).unwrap();
    writer.append(&guests(2500, "caf\u{e9}")).unwrap();
    if close {
        writer.close(&end(3000, EndCause::Reset)).unwrap();
    }
    dir
}

/// Label, position and origin of each.
fn lines(dir: &Path) -> Vec<String> {
    let list = Recording::open(dir).unwrap().bookmarks().unwrap();
    list.iter()
        .map(|it| format!("{} {} {}", it.label(), it.bookmark.position, it.bookmark.origin.name()))
        .collect()
}

const LINES: [&str; 7] = [
    "start exit:0 key",
    "usr2 exit:3+700+2 signal",
    "every exit:1000 guest",
    "every#2 exit:1000 every",
    "every#3 exit:1500 guest",
    "every#4 exit:2000 every",
    "caf\u{e9} exit:2500 guest",
];

#[test]
fn all_are_listed_in_order() {
    let dir = recording(true);
    assert_eq!(lines(dir.path()), LINES);
    let recording = Recording::open(dir.path()).unwrap();
    let list = recording.bookmarks().unwrap();
    let own: Vec<Bookmark> = list
        .iter()
        .map(|it| it.bookmark.clone())
        .filter(|bookmark| bookmark.origin != BookmarkOrigin::Guest)
        .collect();
    assert_eq!(own, live());
    assert_eq!(list.find("every#3").unwrap().bookmark.position, at(1500));
    assert_eq!(recording.sizes().bookmarks, fs::metadata(dir.path().join("bookmarks")).unwrap().len());

    // The same recording is the same bytes, wherever it was sealed.
    let other = tempdir().unwrap();
    let mut writer = Writer::create(other.path(), &header(), false).unwrap();
    writer.append(&input(3, b"ls\n")).unwrap();
    for event in [guests(1000, "every"), guests(1500, "every"), guests(2500, "caf\u{e9}")] {
        writer.append(&event).unwrap();
    }
    live().into_iter().for_each(|bookmark| writer.bookmark(bookmark).unwrap());
    let sizes = writer.close(&end(3000, EndCause::Reset)).unwrap();
    assert_eq!(sizes, recording.sizes());
    for name in ["header", "events", "bookmarks"] {
        let bytes = |dir: &Path| fs::read(dir.join(name)).unwrap();
        assert!(bytes(dir.path()) == bytes(other.path()), "{name}");
    }
}

#[test]
fn a_killed_recording_has_those_up_to_its_end() {
    let dir = recording(false);
    assert_eq!(lines(dir.path()), LINES[..6]);
    let file = dir.path().join("bookmarks");
    let bytes = fs::read(&file).unwrap();
    let mut kept = Vec::new();
    for length in 0..=bytes.len() {
        fs::write(&file, &bytes[..length]).unwrap();
        let list = Recording::open(dir.path()).unwrap().bookmarks().unwrap();
        kept.push(list.len());
    }
    // Two are in the segments; a whole record adds one.
    assert_eq!((kept[0], kept[bytes.len() - 1], kept[bytes.len()]), (2, 5, 6));
    assert!(kept.is_sorted());

    // Bookmarks behind the last whole segment are not there yet.
    let events = dir.path().join("events");
    let segments = fs::read(&events).unwrap();
    fs::write(&events, &segments[..segment_bounds(&segments)[1]]).unwrap();
    assert_eq!(lines(dir.path()), LINES[..2]);
    fs::write(&events, "").unwrap();
    assert_eq!(lines(dir.path()), [""; 0]);
}

#[test]
fn no_bookmark_no_file() {
    let dir = tempdir().unwrap();
    write_closed(dir.path(), &events(), &end(131_072, EndCause::Reset));
    let file = dir.path().join("bookmarks");
    assert!(!file.exists());
    assert_eq!(lines(dir.path()), ["boot-done \u{e9} exit:1000 guest"]);
    let mut bookmarks = Bookmarks::open(dir.path()).unwrap();
    bookmarks.add(bookmark("one", 5, BookmarkOrigin::Added)).unwrap();
    assert!(file.exists());
    bookmarks.remove("one").unwrap();
    assert!(!file.exists());
}

#[test]
fn bookmarks_of_a_finished_recording_come_and_go() {
    for closed in [true, false] {
        let dir = recording(closed);
        let mut bookmarks = Bookmarks::open(dir.path()).unwrap();
        bookmarks.add(bookmark("here", 1000, BookmarkOrigin::Added)).unwrap();
        bookmarks.add(bookmark("first", 0, BookmarkOrigin::Added)).unwrap();
        bookmarks.add(bookmark("last", 2000, BookmarkOrigin::Added)).unwrap();
        let removed = bookmarks.remove("every#2").unwrap();
        assert_eq!(removed, live()[2]);
        let list = bookmarks.list();
        drop(bookmarks);
        assert_eq!(Recording::open(dir.path()).unwrap().bookmarks().unwrap(), list);
        let expected = [
            "start exit:0 key",
            "first exit:0 added",
            "usr2 exit:3+700+2 signal",
            "every exit:1000 guest",
            "here exit:1000 added",
            "every#2 exit:1500 guest",
            "every#3 exit:2000 every",
            "last exit:2000 added",
        ];
        assert_eq!(lines(dir.path())[..8], expected);
        let mut names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        let all = ["bookmarks", "events", "header", "incomplete"];
        assert_eq!(names, if closed { &all[..3] } else { &all });
    }
}

#[test]
fn several_are_removed_by_the_labels_they_had_together() {
    let dir = recording(true);
    let mut bookmarks = Bookmarks::open(dir.path()).unwrap();
    let removed = bookmarks.remove_all(&["every#4", "every#2", "every#4", "start"]).unwrap();
    let names: Vec<_> = removed.iter().map(|it| (it.name.as_str(), it.position.exit)).collect();
    assert_eq!(names, [("every", 2000), ("every", 1000), ("start", 0)]);
    let mut left = vec!["usr2 exit:3+700+2 signal", "every exit:1000 guest"];
    left.extend(["every#2 exit:1500 guest"]);
    assert_eq!(lines(dir.path())[..3], left);
    assert!(bookmarks.remove_all::<&str>(&[]).unwrap().is_empty());
    drop(bookmarks);
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let dir = recording(true);
    let before = fs::read(dir.path().join("bookmarks")).unwrap();
    let mut bookmarks = Bookmarks::open(dir.path()).unwrap();
    let mut refused =
        |name: &str, exit, origin| bookmarks.add(bookmark(name, exit, origin)).unwrap_err().to_string();
    let added = BookmarkOrigin::Added;
    assert_eq!(refused("start", 7, added), "there is a bookmark start already, at exit:0");
    assert_eq!(refused("every", 7, added), "there is a bookmark every already, at exit:1000");
    assert_eq!(
        refused("x", 3001, added),
        "exit:3001 is not in the recording: it goes from exit:0 to exit:3000"
    );
    assert!(refused("every#9", 7, added).starts_with("\"every#9\" is no name for a bookmark: "));
    assert_eq!(refused("x", 7, BookmarkOrigin::Guest), "bookmark x is the guest's: those are events");
    for labels in [&["every#3"][..], &["start", "every#3"]] {
        let error = bookmarks.remove_all(labels).unwrap_err();
        assert!(matches!(error, EditError::SetByGuest { .. }), "{error}");
    }
    for labels in [&["nothing"][..], &["start", "nothing"]] {
        let error = bookmarks.remove_all(labels).unwrap_err();
        assert!(error.to_string().ends_with(": no bookmark nothing"), "{error}");
    }
    assert!(fs::read(dir.path().join("bookmarks")).unwrap() == before);

    let error = Bookmarks::open(&dir.path().join("x")).unwrap_err();
    assert!(matches!(error, EditError::Open(OpenError::Missing { .. })), "{error}");
}

#[test]
fn a_recorder_refuses_what_cannot_be_and_goes_on() {
    let dir = tempdir().unwrap();
    let mut writer = Writer::create(dir.path(), &header(), false).unwrap();
    let key = |name, exit| bookmark(name, exit, BookmarkOrigin::Key);
    assert!(matches!(writer.bookmark(key("1", 5)), Err(WriteError::Bookmark(_))));
    let guests = bookmark("x", 5, BookmarkOrigin::Guest);
    assert!(matches!(writer.bookmark(guests), Err(WriteError::Bookmark(_))));
    writer.bookmark(key("a", 5)).unwrap();
    let error = writer.bookmark(key("b", 4)).unwrap_err();
    assert_eq!(error.to_string(), "bookmark of vCPU 0 at exit:4 comes after an event at exit:5");
    assert!(matches!(Bookmarks::open(dir.path()).unwrap_err(), EditError::Running { .. }));
    // It waits for a seal that is not before it.
    writer.seal(&seal(4)).unwrap();
    assert_eq!(lines(dir.path()), [""; 0]);
    writer.seal(&seal(5)).unwrap();
    assert_eq!(lines(dir.path()), ["a exit:5 key"]);
    writer.bookmark(key("b", 9)).unwrap();
    writer.close(&end(9, EndCause::Reset)).unwrap();
    assert_eq!(lines(dir.path()), ["a exit:5 key", "b exit:9 key"]);

    let mut writer = Writer::create(dir.path(), &header(), true).unwrap();
    assert!(!dir.path().join("bookmarks").exists());
    writer.bookmark(key("b", 9)).unwrap();
    let error = writer.close(&end(8, EndCause::Reset)).unwrap_err();
    assert!(matches!(error, WriteError::Backwards { kind: "end", .. }), "{error}");
}

#[test]
fn another_recordings_bookmarks_are_refused() {
    let (dir, other) = (recording(true), tempdir().unwrap());
    let mut changed = header();
    changed.seed[0] ^= 1;
    Writer::create(other.path(), &changed, false).unwrap().close(&end(3000, EndCause::Reset)).unwrap();
    fs::copy(dir.path().join("bookmarks"), other.path().join("bookmarks")).unwrap();
    let recording = Recording::open(other.path()).unwrap();
    assert_eq!(recording.state(), State::Complete);
    let error = recording.bookmarks().unwrap_err().to_string();
    assert!(error.ends_with("bookmarks: corrupt at byte 8: it belongs to another recording"), "{error}");
    assert!(matches!(Bookmarks::open(other.path()).unwrap_err(), EditError::Open(_)));
}

#[test]
fn every_changed_bit_and_every_cut_is_an_error() {
    for closed in [true, false] {
        let dir = recording(closed);
        let file = dir.path().join("bookmarks");
        let bytes = fs::read(&file).unwrap();
        let read = |changed: &[u8]| with(&file, changed, || Recording::open(dir.path()).unwrap().bookmarks());
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let error = read(&changed).expect_err("a flipped bit");
            assert!(matches!(error, OpenError::Corrupt { .. }), "bit {bit}: {error}");
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] = !changed[at];
            read(&changed).unwrap_err();
        }
        if closed {
            for length in 0..bytes.len() {
                read(&bytes[..length]).unwrap_err();
            }
            read(&[&bytes[..], &[0]].concat()).unwrap_err();
            read(&[&bytes[..], &bytes[bytes.len() - 6..]].concat()).unwrap_err();
        }
        assert!(!read(&bytes).unwrap().is_empty());
    }
}

/// A file made by hand, with right checksums, from docs/log-format.md alone.
fn forge(dir: &Path, payloads: &[&[u8]]) -> Result<usize, OpenError> {
    let mut out = b"SCRBOOK1".to_vec();
    out.extend(&fs::read(dir.join("header")).unwrap()[16..20]);
    let mut previous = crc32fast::hash(&out).to_le_bytes();
    out.extend(previous);
    for payload in payloads {
        let length = u8::try_from(payload.len()).unwrap();
        previous = crc32fast::hash(&[&previous[..], &[length, !length], payload].concat()).to_le_bytes();
        out.extend([&[length, !length][..], &previous, payload].concat());
    }
    fs::write(dir.join("bookmarks"), out).unwrap();
    Recording::open(dir)?.bookmarks().map(|list| list.len())
}

#[test]
fn nonsense_with_right_checksums_is_refused() {
    let dir = tempdir().unwrap();
    write_closed(dir.path(), &[], &end(3000, EndCause::Reset));
    let good: &[u8] = b"\x00\x01\x05\x00\x00\x07a";
    assert_eq!(forge(dir.path(), &[good, b"\x03\x00\x80\x02\x00\x00bc-d", b""]).unwrap(), 2);
    assert_eq!(forge(dir.path(), &[b""]).unwrap(), 0);
    let long = [&b"\x00\x00\x05\x00\x00"[..], &[b'x'; 65]].concat();
    let longer = [&b"\x00\x00\x05\x00\x00"[..], &[b'x'; 102]].concat();
    for (payloads, what) in [
        (&[good][..], "cut short"),
        (&[b"", good], "something follows the end"),
        (&[b"", b""], "something follows the end"),
        (&[b"\x04\x00\x05\x00\x00a", b""], "origin is unknown"),
        (&[b"\x00\x02\x05\x00\x00a", b""], "flags are unknown"),
        (&[b"\x00\x00\x05\x00\x00", b""], "impossible name"),
        (&[b"\x00\x00\x05\x00\x001", b""], "impossible name"),
        (&[b"\x00\x00\x05\x00\x00\xff", b""], "impossible name"),
        (&[&long, b""], "impossible name"),
        (&[&longer, b""], "length is wrong"),
        (&[b"\x00\x00\x80\x00\x00\x00a", b""], "longer than it needs"),
        (&[b"\x00\x01\x05\x00", b""], "ends too early"),
        (&[good, b"\x00\x00\x04\x00\x00b", b""], "before the previous one"),
        (&[b"\x00\x00\xb9\x17\x00\x00b", b""], "bookmark b is at exit:3001, outside the recording"),
    ] {
        let error = forge(dir.path(), payloads).unwrap_err();
        assert!(matches!(error, OpenError::Corrupt { .. }), "{what}: {error}");
        assert!(error.to_string().contains(what), "{what}: {error}");
    }
}

#[test]
fn two_who_add_at_once_both_do() {
    let dir = recording(true);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let dir = dir.path();
            scope.spawn(move || {
                for number in 0..10 {
                    let name = format!("t{thread}-{number}");
                    let mut bookmarks = Bookmarks::open(dir).unwrap();
                    bookmarks.add(bookmark(&name, thread * 10 + number, BookmarkOrigin::Added)).unwrap();
                }
            });
        }
    });
    assert_eq!(lines(dir.path()).len(), LINES.len() + 40);
}

#[test]
fn nobody_replaces_a_recording_that_is_being_changed() {
    let dir = recording(true);
    let bookmarks = Bookmarks::open(dir.path()).unwrap();
    let error = Writer::create(dir.path(), &header(), true).unwrap_err();
    assert!(matches!(error, WriteError::Locked { .. }), "{error}");
    drop(bookmarks);
    assert_eq!(Recording::open(dir.path()).unwrap().state(), State::Complete);
    Writer::create(dir.path(), &header(), true).unwrap();
}

fn positions() -> impl Strategy<Value = Position> {
    let number = || prop_oneof![3 => 0u64..4, 1 => any::<u64>()];
    (0u64..3000, number(), number()).prop_map(|(exit, branches, steps)| Position { exit, branches, steps })
}

fn any_bookmark() -> impl Strategy<Value = Bookmark> {
    let origins = [BookmarkOrigin::Key, BookmarkOrigin::Signal, BookmarkOrigin::Every, BookmarkOrigin::Added];
    ("[a-c]|[a-zA-Z][-a-zA-Z0-9_.]{0,63}", positions(), option::of(any::<u64>()), select(origins.to_vec()))
        .prop_map(|(name, position, guest_time, origin)| Bookmark { name, position, guest_time, origin })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_set_is_listed(mut set in vec(any_bookmark(), 0..30), seals in vec(any::<bool>(), 30), close: bool) {
        set.sort_by_key(|bookmark| bookmark.position);
        let dir = tempdir().unwrap();
        let mut writer = Writer::create(dir.path(), &header(), false).unwrap();
        let mut sealed = 0;
        for (number, bookmark) in set.iter().enumerate() {
            writer.bookmark(bookmark.clone()).unwrap();
            if seals[number] {
                writer.seal(&Event { position: bookmark.position, ..seal(0) }).unwrap();
                sealed = number + 1;
            }
        }
        if close {
            writer.close(&end(3000, EndCause::Reset)).unwrap();
            sealed = set.len();
        }
        let list = Recording::open(dir.path()).unwrap().bookmarks().unwrap();
        let listed: Vec<&Bookmark> = list.iter().map(|it| &it.bookmark).collect();
        prop_assert_eq!(listed, set[..sealed].iter().collect::<Vec<_>>());
    }

    #[test]
    fn what_is_added_and_removed_is_what_is_left(changes in vec((any::<bool>(), any_bookmark()), 1..20)) {
        let dir = tempdir().unwrap();
        write_closed(dir.path(), &[], &end(3000, EndCause::Reset));
        let mut expected: Vec<Bookmark> = Vec::new();
        for (add, bookmark) in changes {
            let there = expected.iter().position(|other| other.name == bookmark.name);
            let mut bookmarks = Bookmarks::open(dir.path()).unwrap();
            match (add, there) {
                (true, None) => {
                    bookmarks.add(bookmark.clone()).unwrap();
                    expected.push(bookmark);
                    expected.sort_by_key(|bookmark| bookmark.position);
                }
                (true, Some(_)) => prop_assert!(bookmarks.add(bookmark).is_err()),
                (false, Some(at)) => {
                    let removed = expected.remove(at);
                    prop_assert_eq!(bookmarks.remove(&bookmark.name).unwrap(), removed);
                }
                (false, None) => prop_assert!(bookmarks.remove(&bookmark.name).is_err()),
            }
            let list = bookmarks.list();
            prop_assert_eq!(list.iter().map(|it| &it.bookmark).collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>());
            drop(bookmarks);
            prop_assert_eq!(Recording::open(dir.path()).unwrap().bookmarks().unwrap(), list);
        }
    }
}
