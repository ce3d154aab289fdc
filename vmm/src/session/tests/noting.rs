//! What a recorder notes besides what a replay needs never costs the recording.

use std::fs;

use scribe_log::{Bookmark, BookmarkOrigin};

use super::*;
use crate::session::Place;
use crate::session::journal::Noting;

fn recorder(directory: &tempfile::TempDir) -> Recorder {
    Recorder::new(Writer::create(directory.path(), &header(), true).unwrap(), 0, 0)
}

fn mark(name: &str, position: Position) -> Bookmark {
    Bookmark { name: name.into(), position, guest_time: None, origin: BookmarkOrigin::Signal }
}

#[test]
fn a_snapshot_that_cannot_be_kept_does_not_end_the_recording() {
    let directory = tempfile::tempdir().unwrap();
    let mut recorder = recorder(&directory);
    let snapshots = directory.path().join("snapshots");
    fs::create_dir(&snapshots).unwrap();
    // A replay that keeps one of its own at this moment.
    let other = fs::File::create(snapshots.join("lock")).unwrap();
    other.lock().unwrap();
    let mut live = echo();
    live.step(None, None).unwrap();
    recorder.snapshot(&live).unwrap();
    let number = || fs::read_dir(&snapshots).unwrap().count();
    assert_eq!(number(), 1, "the lock");
    drop(other);
    recorder.snapshot(&live).unwrap();
    assert!(number() > 1);
    let cause = EndCause::Reset;
    recorder.end(&mut live, &cause, Place::Position).unwrap();
    assert!(recorder.summary().is_some());
}

#[test]
fn a_bookmark_that_cannot_be_noted_does_not_end_the_recording() {
    let directory = tempfile::tempdir().unwrap();
    let mut recorder = recorder(&directory);
    recorder.bookmark(mark("2.5s", Position::START)).unwrap();
    // Of a guest that computed, and then crashed before it came to another sync point.
    recorder.bookmark(mark("late", Position { exit: 0, branches: 5, steps: 1 })).unwrap();
    recorder.end(&mut echo(), &EndCause::Reset, Place::Beyond).unwrap();
    let recording = Recording::open(directory.path()).unwrap();
    let found = recording.bookmarks().unwrap();
    let found: Vec<_> = found.iter().map(|it| (it.bookmark.name.clone(), it.bookmark.position)).collect();
    assert_eq!(found, [("late".to_owned(), Position::START)]);
}

/// Counts the bookmarks and snapshots that it is given once nothing is recorded.
#[derive(Default)]
struct Deaf(usize);

impl Journal for Deaf {
    fn sync_point(&mut self, _: &mut Machine, _: bool) -> Result<(), SessionError> {
        Ok(())
    }
    fn input(&mut self, _: &Machine, _: Body) -> Result<(), SessionError> {
        Ok(())
    }
    fn seal(&mut self, _: &Machine) -> Result<(), SessionError> {
        Ok(())
    }
    fn records(&self) -> bool {
        false
    }
    fn bookmark(&mut self, _: Bookmark) -> Result<(), SessionError> {
        self.0 += 1;
        Ok(())
    }
    fn snapshot(&mut self, _: &Machine) -> Result<(), SessionError> {
        self.0 += 1;
        Ok(())
    }
    fn end(&mut self, _: &mut Machine, _: &EndCause, _: Place) -> Result<(), SessionError> {
        Ok(())
    }
}

#[test]
fn periods_are_over_in_silence_when_the_recording_is() {
    let (host, _sender) = HostLoop::by_hand();
    let mut machine = echo();
    let noting = Noting { bookmark_every: Some(2_000), snapshot_every: Some(2_000), ..Noting::default() };
    let marks = Marks::new(&noting, &machine);
    let inputs = Inputs { marks, ..nothing_more(false, Some(1_000_000)) };
    let mut policy = Live::new(Deaf::default(), host, inputs, 0);
    drive(&mut machine, &mut policy, &mut Console::quiet()).unwrap();
    assert!(machine.exits() > 5);
    assert_eq!(policy.into_journal().0, 0);
}
