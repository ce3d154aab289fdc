//! What goes down to the disk, and when: a thread whose fsync or fdatasync the kernel refuses shows who asks for it.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::*;
use scribe_log::{
    Bookmark, BookmarkOrigin, Bookmarks, EditError, EndCause, Recording, State, WriteError, WriteOptions,
    Writer,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use tempfile::tempdir;

const DURABLE: WriteOptions = WriteOptions { overwrite: false, durable: true };

/// From now on these system calls fail in this thread, as on a broken disk.
fn refuse(calls: &[i64]) {
    let rules: BTreeMap<_, _> = calls.iter().map(|call| (*call, vec![])).collect();
    let refused = SeccompAction::Errno(libc::EIO.cast_unsigned());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, TargetArch::x86_64).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

/// Runs `test` in a thread of its own, since a filter stays.
fn in_thread(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| scope.spawn(test).join().unwrap());
}

fn key(exit: u64) -> Bookmark {
    let (name, position) = (format!("at-{exit}"), at(exit));
    Bookmark { name, position, guest_time: None, origin: BookmarkOrigin::Key }
}

/// A whole life with everything in it.
fn live(mut writer: Writer) -> Result<(), WriteError> {
    writer.append(&input(5, b"x"))?;
    writer.bookmark(key(5))?;
    writer.seal(&seal(6))?;
    writer.append(&input(7, b"y"))?;
    writer.bookmark(key(8))?;
    writer.close(&end(9, EndCause::Reset)).map(|_| ())
}

#[track_caller]
fn assert_refused(error: &WriteError, what: &str) {
    let text = chain(error);
    assert!(text.starts_with(what) && text.ends_with("Input/output error (os error 5)"), "{text}");
}

#[test]
fn nothing_waits_for_the_disk_by_default() {
    in_thread(|| {
        refuse(&[libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_sync_file_range]);
        let home = tempdir().unwrap();
        let dir = home.path().join("a/b");
        live(Writer::create(&dir, &header(), false).unwrap()).unwrap();
        assert_eq!(read_all(&dir).unwrap().len(), 3);
        // But the refusal works.
        let error = Writer::create_with(&dir.join("c"), &header(), DURABLE).unwrap_err();
        assert_refused(&error, "cannot write the header to ");
    });
}

#[test]
fn a_durable_recording_is_the_same_recording() {
    let (one, other) = (tempdir().unwrap(), tempdir().unwrap());
    live(Writer::create(one.path(), &header(), false).unwrap()).unwrap();
    live(Writer::create_with(other.path(), &header(), DURABLE).unwrap()).unwrap();
    for name in ["header", "events", "bookmarks"] {
        assert!(fs::read(one.path().join(name)).unwrap() == fs::read(other.path().join(name)).unwrap());
    }
}

#[test]
fn the_entries_of_what_was_made_are_synced() {
    in_thread(|| {
        refuse(&[libc::SYS_fsync]);
        let home = tempdir().unwrap();
        let error = Writer::create_with(&home.path().join("a"), &header(), DURABLE).unwrap_err();
        assert_refused(&error, "cannot write to the disk to ");
    });
}

#[test]
fn each_seal_waits_for_the_disk() {
    in_thread(|| {
        let dir = tempdir().unwrap();
        let mut writer = Writer::create_with(dir.path(), &header(), DURABLE).unwrap();
        writer.append(&input(5, b"x")).unwrap();
        writer.bookmark(key(5)).unwrap();
        writer.seal(&seal(6)).unwrap();
        let sealed = read_all(dir.path()).unwrap();
        refuse(&[libc::SYS_fdatasync]);
        writer.append(&input(7, b"y")).unwrap();
        assert_refused(&writer.seal(&seal(8)).unwrap_err(), "cannot write exits 6 to 8 to ");
        assert!(matches!(writer.seal(&seal(9)).unwrap_err(), WriteError::Broken { .. }));
        drop(writer);
        assert_eq!(read_all(dir.path()).unwrap(), sealed);
        assert_eq!(Recording::open(dir.path()).unwrap().bookmarks().unwrap().len(), 1);
    });
}

#[test]
fn closing_waits_for_the_disk() {
    let close = |refused: i64| {
        let dir = tempdir().unwrap();
        let mut writer = Writer::create_with(dir.path(), &header(), DURABLE).unwrap();
        writer.append(&input(5, b"x")).unwrap();
        writer.seal(&seal(6)).unwrap();
        refuse(&[refused]);
        (writer.close(&end(9, EndCause::Reset)), dir)
    };
    // The segment with the end is not safe: as if the end had not come.
    in_thread(|| {
        let (result, dir) = close(libc::SYS_fdatasync);
        assert_refused(&result.unwrap_err(), "cannot write exits 6 to 9 to ");
        assert_eq!(read_all(dir.path()).unwrap(), [input(5, b"x"), seal(6)]);
    });
    // The new events are in place, but may not stay there: `incomplete` is not removed before them.
    in_thread(|| {
        let (result, dir) = close(libc::SYS_fsync);
        assert_refused(&result.unwrap_err(), "cannot write to the disk to ");
        let recording = Recording::open(dir.path()).unwrap();
        assert_eq!((recording.state(), recording.last()), (State::Crashed, Some(&end(9, EndCause::Reset))));
    });
}

#[test]
fn bookmarks_are_never_put_at_risk() {
    in_thread(|| {
        let dir = tempdir().unwrap();
        live(Writer::create(dir.path(), &header(), false).unwrap()).unwrap();
        let mut bookmarks = Bookmarks::open(dir.path()).unwrap();
        let before = fs::read(dir.path().join("bookmarks")).unwrap();
        refuse(&[libc::SYS_fsync, libc::SYS_fdatasync]);
        let error = bookmarks.add(Bookmark { name: "new".to_owned(), ..key(1) }).unwrap_err();
        assert!(matches!(error, EditError::Io { action: "write", .. }), "{error}");
        assert!(chain(&error).contains("bookmarks.new: Input/output error"), "{}", chain(&error));
        assert_eq!(bookmarks.list().len(), 2);
        let names = |dir: &Path| fs::read_dir(dir).unwrap().count();
        assert_eq!((fs::read(dir.path().join("bookmarks")).unwrap(), names(dir.path())), (before, 3));
    });
}
