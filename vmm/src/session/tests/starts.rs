//! Which snapshot a replay starts from.

use std::path::Path;

use scribe_log::header::Start;
use scribe_log::snapshots::{self, NewSnapshot, PageSource, SnapshotInfo, Snapshots, Visit};

use super::*;
use crate::session::choice::Wish;
use crate::session::config::Moved;
use crate::session::player::{self, Wanted};
use crate::session::replay::Target;
use crate::session::start::StartError;

struct NoPages;

impl PageSource for NoPages {
    fn spaces(&self) -> Vec<u32> {
        Vec::new()
    }
    fn pages(&mut self, _: u32, _: &mut Visit<'_>) -> std::io::Result<()> {
        Ok(())
    }
}

/// A recording with this start and a snapshot at each of these places.
fn recording(start: Option<Start>, places: &[(Position, u64, snapshots::Origin)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let writer = Writer::create(directory.path(), &Header { start, ..header() }, true).unwrap();
    let mut snapshots = Snapshots::open(directory.path(), writer.header_crc()).unwrap();
    for &(position, guest_time, origin) in places {
        snapshots
            .add(&NewSnapshot { position, guest_time, origin, parts: Vec::new() }, &mut NoPages)
            .unwrap();
    }
    let cause = EndCause::Reset;
    let end = scribe_log::End { cause, registers: 0, full: None, exits: 9, guest_time: 18_000, inputs: 0 };
    writer.close(&Event::new(Position::exit(9), Body::End(end))).unwrap();
    directory
}

fn chosen(directory: &Path, target: Option<Target>) -> Result<Option<SnapshotInfo>, StartError> {
    let recording = Recording::open(directory).unwrap();
    let snapshots = Snapshots::open(directory, recording.header_crc()).unwrap();
    let wanted =
        Wanted { moved: Moved::default(), engine: Wish::Soft, behaviour: None, quiet: true, snapshots: true };
    player::start(&recording, &snapshots, &wanted, target)
}

#[test]
fn the_nearest_before_the_place_is_taken() {
    let later = Position { exit: 5, branches: 2, steps: 7 };
    let asked = snapshots::Origin::Asked;
    let directory = recording(None, &[(Position::exit(3), 6_000, asked), (later, 10_016, asked)]);
    let at = |target| chosen(directory.path(), Some(target)).unwrap().map(|info| info.position);
    assert_eq!(at(Target::Position(Position { steps: 8, ..later })), Some(later));
    assert_eq!(at(Target::Time(10_017)), Some(later));
    // The first place of that time is 7 instructions before the snapshot.
    assert_eq!(at(Target::Time(10_016)), Some(Position::exit(3)));
    assert_eq!(at(Target::Time(5_999)), None);
    assert_eq!(chosen(directory.path(), None).unwrap(), None);
}

#[test]
fn a_branch_starts_where_its_header_says_or_not_at_all() {
    let start = Start { position: Position::exit(4), guest_time: 8_000 };
    let first = |position, time| (position, time, snapshots::Origin::Start);
    let good = recording(Some(start), &[first(start.position, start.guest_time)]);
    assert_eq!(chosen(good.path(), None).unwrap().unwrap().position, start.position);
    for (position, time) in [(Position::exit(5), 8_000), (start.position, 8_001)] {
        let bad = recording(Some(start), &[first(position, time)]);
        assert!(matches!(chosen(bad.path(), None), Err(StartError::NoStart(_))), "{position} {time}");
    }
}
