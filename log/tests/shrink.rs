//! A recording made smaller is the one that would have been made without its markers, and readable at every moment.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use common::*;
use scribe_log::header::{Level, Start};
use scribe_log::snapshots::{NewSnapshot, Origin, PageSource, Snapshots, Visit};
use scribe_log::{
    Body, Bookmark, BookmarkList, BookmarkOrigin, Bookmarks, EditError, EndCause, Event, Header, OpenError,
    Position, Recording, ShrinkOptions, State, Writer, shrink,
};
use tempfile::{TempDir, tempdir};

const KEEP: ShrinkOptions = ShrinkOptions { drop_bookmarks: false };
const DROP: ShrinkOptions = ShrinkOptions { drop_bookmarks: true };

/// Inputs with markers between them, several segments long.
fn all_events() -> Vec<Event> {
    let bodies = markers().into_iter().map(|event| event.body).cycle();
    let big = Body::ConsoleOutput { bytes: vec![b'o'; 30_000] };
    let name = |exit| Body::Bookmark { name: format!("guest-{exit}") };
    (1u64..)
        .zip(bodies.take(60))
        .flat_map(|(exit, marker)| {
            let extra = match exit % 10 {
                0 => big.clone(),
                5 => name(exit),
                _ => input(exit, &[b'i'; 2000]).body,
            };
            [marker, extra].map(|body| Event::new(at(exit * 2), body))
        })
        .collect()
}

fn without(events: Vec<Event>, dropped: impl Fn(&Body) -> bool) -> Vec<Event> {
    events.into_iter().filter(|event| !dropped(&event.body)).collect()
}

fn make(header: &Header, events: &[Event], bookmarks: bool) -> TempDir {
    let dir = tempdir().unwrap();
    let mut writer = Writer::create(dir.path(), header, false).unwrap();
    events.iter().for_each(|event| writer.append(event).unwrap());
    if bookmarks {
        for exit in [3, 40, 40] {
            let (name, position) = ("key".to_owned(), at(exit));
            let origin = BookmarkOrigin::Key;
            writer.bookmark(Bookmark { name, position, guest_time: Some(exit), origin }).unwrap();
        }
    }
    writer.close(&end(200, EndCause::Reset)).unwrap();
    dir
}

fn with_level(level: Level) -> Header {
    Header { level, ..header() }
}

/// Name and content of each file.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}

fn content(dir: &Path) -> (Vec<Event>, BookmarkList) {
    let recording = Recording::open(dir).unwrap();
    assert_eq!(recording.state(), State::Complete);
    (recording.events().map(Result::unwrap).collect(), recording.bookmarks().unwrap())
}

#[test]
fn what_is_left_is_what_would_have_been_recorded() {
    for (options, bookmarks) in [(KEEP, true), (KEEP, false), (DROP, true), (DROP, false)] {
        let dir = make(&with_level(Level::Exits), &all_events(), bookmarks);
        let snapshot = dir.path().join("snapshots/1");
        fs::create_dir_all(&snapshot).unwrap();
        let open = Recording::open(dir.path()).unwrap();
        let before = open.sizes();
        let shrunk = shrink(dir.path(), options).unwrap();

        let kept = without(all_events(), |body| {
            body.is_marker() || options.drop_bookmarks && matches!(body, Body::Bookmark { .. })
        });
        assert_eq!(shrunk.events, (all_events().len() - kept.len()) as u64);
        let expected = make(&header(), &kept, bookmarks && !options.drop_bookmarks);
        assert!(snapshot.exists(), "not its business");
        fs::remove_dir_all(dir.path().join("snapshots")).unwrap();
        assert!(files(dir.path()) == files(expected.path()), "{options:?}");
        assert_eq!(shrunk.before, before);
        assert_eq!(shrunk.after, Recording::open(dir.path()).unwrap().sizes());
        assert!(shrunk.after.total() < shrunk.before.total());
        assert_eq!(Recording::open(dir.path()).unwrap().header().level, Level::Inputs);
        // What was open stays what it was.
        assert_eq!(open.events().count(), all_events().len() + 1);
        assert_eq!(open.bookmarks().unwrap().len(), 12 / 2 + if bookmarks { 3 } else { 0 });
    }
}

#[test]
fn what_is_small_stays_as_it_is() {
    let dir = make(&header(), &without(all_events(), Body::is_marker), true);
    let before = files(dir.path());
    let shrunk = shrink(dir.path(), KEEP).unwrap();
    assert_eq!((shrunk.events, shrunk.before), (0, shrunk.after));
    assert!(files(dir.path()) == before);
}

/// A machine without memory.
struct NoPages;

impl PageSource for NoPages {
    fn spaces(&self) -> Vec<u32> {
        vec![]
    }

    fn pages(&mut self, _: u32, _: &mut Visit<'_>) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_branch_keeps_its_start() {
    let start = Start { position: Position { exit: 1, branches: 5, steps: 5 }, guest_time: 7 };
    let branch = Header { start: Some(start), ..with_level(Level::Devices) };
    let dir = make(&branch, &all_events(), false);
    let old = Recording::open(dir.path()).unwrap().header_crc();
    let mut snapshots = Snapshots::open(dir.path(), old).unwrap();
    let Start { position, guest_time } = start;
    let snapshot = NewSnapshot { position, guest_time, origin: Origin::Start, parts: vec![] };
    snapshots.add(&snapshot, &mut NoPages).unwrap();
    shrink(dir.path(), KEEP).unwrap();
    let recording = Recording::open(dir.path()).unwrap();
    assert_eq!(recording.start(), start);
    assert_ne!(recording.header_crc(), old);
    let snapshots = Snapshots::open(dir.path(), recording.header_crc()).unwrap();
    assert_eq!(snapshots.start().map(|info| info.position), Some(position));
    assert!(snapshots.damaged().is_empty());
    assert_eq!(recording.header().identity().unwrap(), branch.identity().unwrap());
    let kept = without(content(dir.path()).0, |body| matches!(body, Body::End(_)));
    assert_eq!(kept, without(all_events(), Body::is_marker));
}

/// Each state that a kill can leave, made by hand from the files of before and of after.
#[test]
fn a_kill_at_any_moment_leaves_a_readable_recording() {
    let before = make(&with_level(Level::Exits), &all_events(), true);
    let after = make(&with_level(Level::Exits), &all_events(), true);
    shrink(after.path(), KEEP).unwrap();
    let (old, new) = (content(before.path()), content(after.path()));
    assert!(old.0 != new.0 && old.1 == new.1);
    type Files<'a> = &'a [(&'a str, &'a Path, &'a str)];
    let (a, b) = (before.path(), after.path());
    let states: [(&str, Files<'_>, bool); 6] = [
        ("a header", &[("header.new", b, "header")], false),
        ("events", &[("header.new", b, "header"), ("events.new", b, "events")], false),
        (
            "all is written",
            &[("header.new", b, "header"), ("events.new", b, "events"), ("bookmarks.new", b, "bookmarks")],
            false,
        ),
        (
            "new events",
            &[("header.new", b, "header"), ("events", b, "events"), ("bookmarks.new", b, "bookmarks")],
            true,
        ),
        (
            "new bookmarks",
            &[("header.new", b, "header"), ("events", b, "events"), ("bookmarks", b, "bookmarks")],
            true,
        ),
        (
            "new header",
            &[("header", b, "header"), ("events", b, "events"), ("bookmarks", b, "bookmarks")],
            true,
        ),
    ];
    for (name, changed, is_new) in states {
        let make = || {
            let dir = tempdir().unwrap();
            for file in ["header", "events", "bookmarks"] {
                fs::copy(a.join(file), dir.path().join(file)).unwrap();
            }
            for (to, from, file) in changed {
                fs::copy(from.join(file), dir.path().join(to)).unwrap();
            }
            dir
        };
        let expected = if is_new { &new } else { &old };
        let dir = make();
        assert!(content(dir.path()) == *expected, "{name}");
        // Whoever changes it next ends what was begun.
        let mut bookmarks = Bookmarks::open(dir.path()).unwrap();
        let names: Vec<String> = files(dir.path()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["bookmarks", "events", "header"], "{name}");
        let added = Bookmark {
            name: "new".to_owned(),
            position: at(9),
            guest_time: None,
            origin: BookmarkOrigin::Added,
        };
        bookmarks.add(added).unwrap();
        bookmarks.remove("new").unwrap();
        drop(bookmarks);
        assert!(content(dir.path()) == *expected, "{name}");
        let dir = make();
        shrink(dir.path(), KEEP).unwrap();
        assert!(files(dir.path()) == files(b), "{name}");
        let dir = make();
        Writer::create(dir.path(), &header(), true).unwrap().close(&end(1, EndCause::Reset)).unwrap();
        assert_eq!(files(dir.path()).len(), 2, "{name}");
    }
    // A part of a file is not taken for the whole.
    for (name, other) in [("header.new", "header"), ("bookmarks.new", "bookmarks")] {
        let bytes = fs::read(b.join(other)).unwrap();
        for length in 0..bytes.len() {
            fs::write(a.join(name), &bytes[..length]).unwrap();
            assert_eq!(Recording::open(a).unwrap().header().level, Level::Exits);
        }
        assert!(content(a) == old);
        fs::remove_file(a.join(name)).unwrap();
    }
}

/// Damage of one of the files in the state in which two of them count is an error still.
#[test]
fn damage_is_seen_while_a_header_is_not_in_its_place() {
    let before = make(&with_level(Level::Exits), &all_events()[..10], true);
    let after = make(&with_level(Level::Exits), &all_events()[..10], true);
    shrink(after.path(), KEEP).unwrap();
    let dir = before.path();
    for (to, file) in [("header.new", "header"), ("events", "events"), ("bookmarks.new", "bookmarks")] {
        fs::copy(after.path().join(file), dir.join(to)).unwrap();
    }
    let expected = content(after.path());
    let read = || -> Result<(Vec<Event>, BookmarkList), OpenError> {
        let recording = Recording::open(dir)?;
        Ok((recording.events().collect::<Result<_, _>>()?, recording.bookmarks()?))
    };
    assert!(read().unwrap() == expected);
    for name in ["header.new", "events", "bookmarks.new"] {
        let file = dir.join(name);
        let bytes = fs::read(&file).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            assert!(with(&file, &changed, read).is_err(), "{name}, byte {at}");
        }
    }
    // The old header no longer counts, but for what it must be to be a recording's.
    let file = dir.join("header");
    let mut changed = fs::read(&file).unwrap();
    let last = changed.len() - 1;
    changed[last] ^= 1;
    assert!(with(&file, &changed, read).is_err());
}

#[test]
fn readers_see_one_or_the_other() {
    let before = make(&with_level(Level::Exits), &all_events(), true);
    let after = make(&with_level(Level::Exits), &all_events(), true);
    shrink(after.path(), KEEP).unwrap();
    let (old, new) = (content(before.path()), content(after.path()));
    let done = AtomicBool::new(false);
    let dir = tempdir().unwrap();
    std::thread::scope(|scope| {
        let put = |from: &Path| {
            for file in ["header", "events", "bookmarks"] {
                fs::copy(from.join(file), dir.path().join(file)).unwrap();
            }
        };
        for _ in 0..10 {
            put(before.path());
            done.store(false, Ordering::Release);
            let reader = scope.spawn(|| {
                let mut seen = [0, 0];
                while !done.load(Ordering::Acquire) {
                    let found = content(dir.path());
                    assert!(found == old || found == new);
                    seen[usize::from(found == new)] += 1;
                }
                seen
            });
            shrink(dir.path(), KEEP).unwrap();
            done.store(true, Ordering::Release);
            reader.join().unwrap();
            assert!(content(dir.path()) == new);
        }
    });
}

#[test]
fn what_cannot_be_made_smaller_stays_as_it_is() {
    let dir = tempdir().unwrap();
    let writer = Writer::create(dir.path(), &header(), false).unwrap();
    assert!(matches!(shrink(dir.path(), KEEP).unwrap_err(), EditError::Running { .. }));
    drop(writer);
    let before = files(dir.path());
    assert!(matches!(shrink(dir.path(), KEEP).unwrap_err(), EditError::Crashed { .. }));
    assert!(files(dir.path()) == before);
    assert!(matches!(shrink(&dir.path().join("x"), KEEP).unwrap_err(), EditError::Open(_)));

    // Damage in the middle: found before anything is replaced, and nothing is left.
    let dir = make(&with_level(Level::Exits), &all_events(), true);
    let file = dir.path().join("events");
    let mut bytes = fs::read(&file).unwrap();
    bytes[100] ^= 1;
    fs::write(&file, bytes).unwrap();
    let before = files(dir.path());
    assert!(matches!(shrink(dir.path(), KEEP).unwrap_err(), EditError::Open(OpenError::Corrupt { .. })));
    assert!(files(dir.path()) == before);

    // No room: something is where the new events are to be.
    let dir = make(&with_level(Level::Exits), &all_events(), true);
    fs::create_dir(dir.path().join("events.new")).unwrap();
    let text = shrink(dir.path(), KEEP).unwrap_err().to_string();
    assert!(text.starts_with("cannot remove ") && text.ends_with("events.new"), "{text}");
    assert_eq!(content(dir.path()).0.len(), all_events().len() + 1);
}
