//! The life of a recording: running, closed, killed, overwritten, and what is refused on the way.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::*;
use scribe_log::{
    Body, Bookmark, BookmarkOrigin, Bookmarks, EditError, End, EndCause, Event, MAX_PAGES, OpenError,
    Position, Recording, Register, State, WriteError, Writer,
};
use tempfile::tempdir;

#[test]
fn running_then_complete() {
    let home = tempdir().unwrap();
    let dir = home.path().join("not/there/yet");
    let mut writer = Writer::create(&dir, &header(), false).unwrap();
    let recording = Recording::open(&dir).unwrap();
    assert_eq!((recording.state(), recording.sealed_end()), (State::Running, None));
    assert_eq!(recording.end_time(), None);
    assert_eq!(recording.events().count(), 0);

    writer.append(&input(5, b"x")).unwrap();
    assert_eq!(Recording::open(&dir).unwrap().events().count(), 0, "nothing is written before the seal");
    assert!(writer.unsealed() > 0);
    writer.seal(&seal(6)).unwrap();
    assert_eq!(writer.unsealed(), 0);
    let running = Recording::open(&dir).unwrap();
    assert_eq!((running.state(), running.header()), (State::Running, &header()));
    assert_eq!(running.sealed_end(), Some((at(6), 0x2000_0000_0000_0006)));
    let Body::Seal { guest_time, .. } = seal(6).body else { panic!() };
    assert_eq!(running.end_time(), Some(guest_time));
    let sizes = running.sizes();
    assert_eq!((sizes.header + sizes.events, sizes.torn), (writer.bytes_written(), 0));

    let last = end(7, EndCause::HaltedForever);
    let sizes = writer.close(&last).unwrap();
    let complete = Recording::open(&dir).unwrap();
    assert_eq!((complete.state(), complete.sizes(), complete.last()), (State::Complete, sizes, Some(&last)));
    let Body::End(End { guest_time, .. }) = &last.body else { panic!() };
    assert_eq!(complete.end_time(), Some(*guest_time));
    assert_eq!(complete.events().map(Result::unwrap).collect::<Vec<_>>(), [input(5, b"x"), last]);
    assert_eq!(fs::metadata(dir.join("events")).unwrap().len(), sizes.events);
    let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["events", "header"]);
    // What was opened before keeps what it had.
    assert_eq!(running.events().map(Result::unwrap).collect::<Vec<_>>(), [input(5, b"x"), seal(6)]);
}

#[test]
fn a_recorder_keeps_others_out_while_it_lives() {
    let dir = tempdir().unwrap();
    let writer = Writer::create(dir.path(), &header(), false).unwrap();
    for overwrite in [false, true] {
        let error = Writer::create(dir.path(), &header(), overwrite).unwrap_err();
        assert!(matches!(error, WriteError::Locked { .. }), "{error}");
    }
    drop(writer);
    assert_eq!(Recording::open(dir.path()).unwrap().state(), State::Crashed);
    let error = Writer::create(dir.path(), &header(), false).unwrap_err();
    assert!(matches!(error, WriteError::Exists { .. }), "{error}");
    assert_eq!(Recording::open(dir.path()).unwrap().state(), State::Crashed);
    let writer = Writer::create(dir.path(), &header(), true).unwrap();
    writer.close(&end(1, EndCause::Reset)).unwrap();
    let error = Writer::create(dir.path(), &header(), false).unwrap_err();
    assert!(matches!(error, WriteError::Exists { .. }), "{error}");
    assert_eq!(Recording::open(dir.path()).unwrap().state(), State::Complete);
}

#[test]
fn overwriting_leaves_nothing_of_the_old_recording_and_touches_nothing_else() {
    let dir = tempdir().unwrap();
    write_closed(dir.path(), &events(), &end(131_072, EndCause::Reset));
    for name in ["bookmarks", "overlay", "events.new", "notes.txt"] {
        fs::write(dir.path().join(name), "old").unwrap();
    }
    fs::create_dir_all(dir.path().join("snapshots/1")).unwrap();
    // Of one that was unpacked: they are the old recording's.
    fs::create_dir(dir.path().join("files")).unwrap();
    fs::write(dir.path().join("files/image"), "old").unwrap();
    let writer = Writer::create(dir.path(), &header(), true).unwrap();
    drop(writer);
    let mut names: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["events", "header", "incomplete", "notes.txt"]);
    assert_eq!(Recording::open(dir.path()).unwrap().events().count(), 0);
}

#[test]
fn a_directory_that_is_no_recording_is_never_written_to() {
    let dir = tempdir().unwrap();
    let files =
        [("thesis.txt", "years of work"), ("header", "<html>"), ("incomplete", "list of things to do")];
    for (name, text) in files {
        let dir = dir.path().join(name);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join(name), text).unwrap();
        if name == "incomplete" {
            fs::write(dir.join("other"), text).unwrap();
        }
        for overwrite in [false, true] {
            let error = Writer::create(&dir, &header(), overwrite).unwrap_err();
            assert!(matches!(error, WriteError::NotARecording { .. }), "{error}");
        }
        assert_eq!(fs::read_to_string(dir.join(name)).unwrap(), text);
        assert!(!dir.join("events").exists());
    }
    let file = dir.path().join("thesis.txt/thesis.txt");
    let error = Writer::create(&file, &header(), true).unwrap_err();
    assert!(matches!(error, WriteError::NotARecording { .. }), "{error}");
    // Empty ones are welcome.
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    Writer::create(&empty, &header(), false).unwrap();
}

#[test]
fn what_is_no_recording_is_named() {
    let dir = tempdir().unwrap();
    let open = |path: &Path| Recording::open(path).unwrap_err();
    assert!(matches!(open(&dir.path().join("nothing")), OpenError::Missing { .. }));
    assert!(matches!(open(dir.path()), OpenError::NotARecording { .. }));
    fs::write(dir.path().join("header"), "<html>").unwrap();
    assert!(matches!(open(dir.path()), OpenError::NotARecording { .. }));
    assert!(matches!(open(&dir.path().join("header")), OpenError::NotARecording { .. }));
    let killed = dir.path().join("killed");
    fs::create_dir(&killed).unwrap();
    fs::write(killed.join("incomplete"), "").unwrap();
    assert!(matches!(open(&killed), OpenError::Corrupt { .. }));
    // Such a rest holds nothing, so it may be written to.
    Writer::create(&killed, &header(), false).unwrap();
}

#[test]
fn a_recorder_killed_between_its_end_and_its_closing_lost_nothing() {
    let dir = tempdir().unwrap();
    let mut writer = Writer::create(dir.path(), &header(), false).unwrap();
    writer.append(&input(5, b"x")).unwrap();
    writer.seal(&seal(6)).unwrap();
    // Closing fails behind the seal of the end.
    fs::create_dir(dir.path().join("events.new")).unwrap();
    let last = end(7, EndCause::Reset);
    let error = writer.close(&last).unwrap_err();
    assert!(matches!(error, WriteError::Io { .. }), "{error}");
    let recording = Recording::open(dir.path()).unwrap();
    assert_eq!((recording.state(), recording.last()), (State::Crashed, Some(&last)));
    let all = [input(5, b"x"), seal(6), last];
    assert_eq!(recording.events().map(Result::unwrap).collect::<Vec<_>>(), all);

    // Killed behind the renaming: the canonical events, and `incomplete`.
    let other = tempdir().unwrap();
    write_closed(other.path(), &all[..1], &all[2]);
    fs::write(other.path().join("incomplete"), "").unwrap();
    let recording = Recording::open(other.path()).unwrap();
    assert_eq!((recording.state(), recording.last()), (State::Crashed, Some(&all[2])));
    assert_eq!(recording.events().count(), 2);
}

#[test]
fn misplaced_events_are_refused_and_change_nothing() {
    let dir = tempdir().unwrap();
    let mut writer = Writer::create(dir.path(), &header(), false).unwrap();
    writer.append(&input(5, b"x")).unwrap();
    let misplaced = |error| matches!(error, WriteError::Misplaced { .. });
    assert!(misplaced(writer.append(&seal(5)).unwrap_err()));
    assert!(misplaced(writer.append(&end(5, EndCause::Reset)).unwrap_err()));
    assert!(misplaced(writer.seal(&input(5, b"")).unwrap_err()));
    let error = writer.append(&input(4, b"x")).unwrap_err();
    assert_eq!(error.to_string(), "console-input of vCPU 0 at exit:4 comes after an event at exit:5");
    let error = writer.append(&input(5, &[0; 65_537])).unwrap_err();
    assert_eq!(error.to_string(), "console-input at exit:5 holds 65537 bytes, the limit is 65536");
    let error = writer.append(&Event { vcpu: 4, ..input(5, b"") }).unwrap_err();
    assert_eq!(error.to_string(), "an event of vCPU 4, of 4");
    // Positions of different vCPUs are not compared.
    let of_other = Event { vcpu: 1, position: Position::START, body: Body::TimeAdjust { nanoseconds: 1 } };
    writer.append(&of_other).unwrap();
    writer.seal(&seal(5)).unwrap();
    assert!(matches!(writer.append(&input(4, b"")).unwrap_err(), WriteError::Backwards { .. }));
    writer.close(&end(5, EndCause::Reset)).unwrap();
    assert_eq!(read_all(dir.path()).unwrap(), [input(5, b"x"), of_other, end(5, EndCause::Reset)]);

    let mut writer = Writer::create(dir.path(), &header(), true).unwrap();
    assert!(misplaced(
        Writer::create(&dir.path().join("x"), &header(), false).unwrap().close(&seal(1)).unwrap_err()
    ));
    let mut appended = 0;
    let error = loop {
        match writer.append(&input(1, &[0; 65_536])) {
            Ok(()) => appended += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, WriteError::Full));
    writer.seal(&seal(1)).unwrap();
    assert_eq!(read_all(dir.path()).unwrap().len(), appended + 1);
}

#[test]
fn markers_that_the_format_cannot_say_are_refused_and_change_nothing() {
    let dir = tempdir().unwrap();
    let mut writer = Writer::create(dir.path(), &header(), false).unwrap();
    let named = |name: &str| vec![Register::u64(name, 1)];
    let wide = |bytes, value| vec![Register { name: "x".to_owned(), bytes, value }];
    let many: Vec<(u64, u64)> = (0..=MAX_PAGES as u64).map(|frame| (frame, 0)).collect();
    for (registers, pages, what) in [
        (vec![Register::u64("rax", 1); 257], vec![], "more than 256 registers"),
        (vec![], many, "more than 4096 pages"),
        (named(""), vec![], "name is not"),
        (named("a b"), vec![], "name is not"),
        (named("\u{e9}"), vec![], "name is not"),
        (named(&"x".repeat(33)), vec![], "name is not"),
        (wide(0, 0), vec![], "does not fit"),
        (wide(17, 0), vec![], "does not fit"),
        (wide(1, 256), vec![], "does not fit"),
        (wide(15, 1 << 120), vec![], "does not fit"),
        (vec![], vec![(1, 0), (1, 0)], "ascending order"),
        (vec![], vec![(2, 0), (1, 0)], "ascending order"),
    ] {
        let error = writer.append(&Event::new(at(1), Body::State { registers, pages })).unwrap_err();
        assert!(matches!(error, WriteError::Invalid { .. }), "{error}");
        assert!(error.to_string().starts_with("state at exit:1 cannot be written: "), "{error}");
        assert!(error.to_string().contains(what), "{what}: {error}");
    }
    let widest = Body::State {
        registers: vec![Register { name: "x".repeat(32), bytes: 16, value: u128::MAX }; 256],
        pages: (0..MAX_PAGES as u64).map(|at| (at << 52, at)).collect(),
    };
    let events = [Event::new(at(1), widest), end(1, EndCause::Reset)];
    writer.append(&events[0]).unwrap();
    assert!(writer.unsealed() < 96 * 1024);
    writer.close(&events[1]).unwrap();
    assert_eq!(read_all(dir.path()).unwrap(), events);
}

#[test]
fn markers_are_told_from_the_rest() {
    assert!(markers().iter().all(|event| event.body.is_marker()));
    let others = [events(), vec![seal(1), end(1, EndCause::Reset)]].concat();
    let markers: Vec<&str> =
        others.iter().filter(|event| event.body.is_marker()).map(|event| event.body.name()).collect();
    assert_eq!(markers, ["interrupt"; 2]);
}

const FULL_DISK: &str = "SCRIBE_LOG_FULL_DISK";

/// A limit on the size of files stands for a full disk: the write that reaches it is cut short, the next one fails.
fn with_a_full_disk(test: &str) {
    let dir = tempdir().unwrap();
    let script = "trap '' XFSZ; ulimit -f 64; exec \"$0\" --exact \"$1\" --ignored";
    let child = Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .env(FULL_DISK, dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn a_full_disk_leaves_what_was_sealed() {
    with_a_full_disk("full_disk_child");
    with_a_full_disk("full_disk_for_bookmarks_child");
}

#[test]
#[ignore = "run by a_full_disk_leaves_what_was_sealed"]
fn full_disk_for_bookmarks_child() {
    let Some(dir) = std::env::var_os(FULL_DISK) else {
        return;
    };
    let dir = Path::new(&dir);
    let mut writer = Writer::create(dir, &header(), false).unwrap();
    let mut sealed = 0;
    let error = loop {
        for number in 0..100 {
            writer
                .bookmark(Bookmark {
                    name: format!("{}-{number}", "x".repeat(50)),
                    position: at(sealed),
                    guest_time: Some(sealed),
                    origin: BookmarkOrigin::Every,
                })
                .unwrap();
        }
        match writer.seal(&seal(sealed)) {
            Ok(()) => sealed += 1,
            Err(error) => break error,
        }
    };
    assert!(sealed > 2);
    let text = chain(&error);
    assert!(
        text.starts_with("cannot write bookmarks to ") && text.ends_with("File too large (os error 27)"),
        "{text}"
    );
    assert!(matches!(writer.seal(&seal(1 << 40)).unwrap_err(), WriteError::Broken { .. }));
    drop(writer);
    let recording = Recording::open(dir).unwrap();
    // The last segment was written, its bookmarks were not.
    assert_eq!(recording.events().count() as u64, sealed + 1);
    assert_eq!(recording.bookmarks().unwrap().len() as u64, sealed * 100);
    // Changing them needs room too; without it they stay as they are.
    drop(recording);
    let mut bookmarks = Bookmarks::open(dir).unwrap();
    let list = bookmarks.list();
    let name = |number: usize| format!("{}-{number}", "y".repeat(50));
    let error = (0..).find_map(|number| {
        let added = Bookmark { name: name(number), ..list.iter().next().unwrap().bookmark.clone() };
        bookmarks.add(added).err().map(|error| (number, error))
    });
    let (added, error) = error.unwrap();
    assert!(matches!(error, EditError::Io { action: "write", .. }), "{error}");
    assert!(added > 1 && !dir.join("bookmarks.new").exists());
    let left = Recording::open(dir).unwrap().bookmarks().unwrap().len() as u64;
    assert_eq!(left, sealed * 100 + added as u64);
}

#[test]
#[ignore = "run by a_full_disk_leaves_what_was_sealed"]
fn full_disk_child() {
    let Some(dir) = std::env::var_os(FULL_DISK) else {
        return;
    };
    let dir = Path::new(&dir);
    let mut writer = Writer::create(dir, &header(), false).unwrap();
    let mut sealed = Vec::new();
    let mut noise = 1u64;
    let error = loop {
        let bytes = std::iter::repeat_with(|| {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (noise >> 56) as u8
        });
        let exit = sealed.len() as u64;
        let pair = [input(exit, &bytes.take(3000).collect::<Vec<u8>>()), seal(exit)];
        writer.append(&pair[0]).unwrap();
        match writer.seal(&pair[1]) {
            Ok(()) => sealed.extend(pair),
            Err(error) => break error,
        }
    };
    assert!(sealed.len() > 4);
    let text = chain(&error);
    assert!(
        text.starts_with("cannot write exits ") && text.ends_with("File too large (os error 27)"),
        "{text}"
    );
    assert!(text.contains(dir.to_str().unwrap()), "{text}");
    assert!(matches!(writer.seal(&seal(1 << 40)).unwrap_err(), WriteError::Broken { .. }));
    drop(writer);
    let recording = Recording::open(dir).unwrap();
    assert_eq!((recording.state(), recording.sizes().torn), (State::Crashed, 0));
    assert_eq!(recording.events().map(Result::unwrap).collect::<Vec<_>>(), sealed);
}
