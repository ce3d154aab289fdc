//! Snapshots of every released version of the format, stored in `tests/golden`, must be read for ever.
//!
//! If one of these tests fails, the format has changed. Do NOT regenerate the stored files to make this pass: a change of
//! the format is a new version with new files, and the old files stay and stay readable.

use std::fs;
use std::path::{Path, PathBuf};

use scribe_log::Position;
use scribe_log::snapshots::{NewSnapshot, Origin, Part, SnapshotInfo, Snapshots};

use crate::common::{self, at};
use crate::machine::*;

fn stored() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1-snapshots")
}

/// Where the second snapshot is.
const COUNTED: Position = Position { exit: 1003, branches: 700, steps: 2 };

/// Pages that compress, pages that do not, one that is there twice, one of zeros on the disk.
fn machines() -> [Machine; 2] {
    let dense = |seed: u64| {
        let words = (0..512u64).map(|word| *blake3::hash(&(seed * 512 + word).to_le_bytes()).as_bytes());
        words.flat_map(|digest| digest[..8].to_vec()).collect::<Vec<u8>>()
    };
    let mut first = Machine::small(1);
    first.ram.insert(20, dense(1));
    first.ram.insert(21, first.ram[&0].clone());
    let mut second = first.clone();
    second.ram.insert(300, dense(2));
    second.ram.remove(&1);
    second.disk.remove(&6);
    [first, second]
}

fn second() -> NewSnapshot {
    let parts = vec![Part { kind: "cpu".to_owned(), version: 65_535, bytes: vec![0xa5; 100] }];
    NewSnapshot {
        position: COUNTED,
        guest_time: u64::MAX,
        origin: Origin::Automatic { ordinal: 1 << 40 },
        parts,
    }
}

/// Writes the golden files if they are not there: run it with `--ignored` when a new version of the format gets its own.
#[test]
#[ignore = "writes files"]
fn write_missing() {
    if stored().exists() {
        return;
    }
    fs::create_dir(stored()).unwrap();
    fs::write(stored().join("header"), common::header().encode().unwrap()).unwrap();
    let [first, mut machine] = machines();
    let mut snapshots = open(&stored());
    add(&mut snapshots, 5, Origin::Recorded, &Machine::small(7));
    add(&mut snapshots, 1000, Origin::Start, &first);
    snapshots.remove(at(5)).unwrap();
    snapshots.compact().unwrap();
    snapshots.add(&second(), &mut machine).unwrap();
}

#[test]
fn the_first_version() {
    let snapshots = open(&stored());
    assert!(snapshots.damaged().is_empty() && snapshots.verify().is_empty());
    let [first, second_machine] = machines();
    let expected = [
        SnapshotInfo {
            position: at(1000),
            guest_time: 2_000_000,
            origin: Origin::Start,
            bytes: fs::metadata(stored().join("snapshots/exit-1000")).unwrap().len(),
            pages: 8,
        },
        SnapshotInfo {
            position: COUNTED,
            guest_time: u64::MAX,
            origin: second().origin,
            bytes: fs::metadata(stored().join("snapshots/exit-1003-700-2")).unwrap().len(),
            pages: 7,
        },
    ];
    assert_eq!(snapshots.list(), expected);
    assert_loads(&snapshots, 1000, &first);
    let mut back = Machine::default();
    assert_eq!(snapshots.load(&expected[1], &mut back).unwrap(), second().parts);
    assert!(back.ram == second_machine.ram && back.disk == second_machine.disk);
    assert_eq!(snapshots.usage().unwrap().unused, 0);
}

/// What was written by the first version can be added to, and its pages are found.
#[test]
fn the_first_version_can_be_added_to() {
    let place = Place::new();
    fs::copy(stored().join("header"), place.dir.path().join("header")).unwrap();
    fs::create_dir(place.path("")).unwrap();
    for name in ["exit-1000", "exit-1003-700-2", "pages-1"] {
        fs::copy(stored().join("snapshots").join(name), place.path(name)).unwrap();
    }
    let mut snapshots: Snapshots = place.open();
    let before = snapshots.usage().unwrap();
    let [first, _] = machines();
    add(&mut snapshots, 2000, Origin::Asked, &first);
    assert_eq!(snapshots.usage().unwrap().packs, before.packs);
    snapshots.remove(COUNTED).unwrap();
    assert!(snapshots.compact().unwrap() > 0);
    for snapshots in [snapshots, place.open()] {
        assert_loads(&snapshots, 1000, &first);
        assert_loads(&snapshots, 2000, &first);
        assert!(snapshots.verify().is_empty());
    }
}
