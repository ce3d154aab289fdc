//! Writers that are killed, at each byte that they write.

use std::fs;

use scribe_log::snapshots::Origin;

use crate::machine::*;

/// A copy of the recording, without whatever is written later.
fn copy(place: &Place) -> Place {
    let copy = Place::new();
    if place.path("").exists() {
        fs::create_dir(copy.path("")).unwrap();
        for name in place.names() {
            fs::copy(place.path(&name), copy.path(&name)).unwrap();
        }
    }
    copy
}

/// What was there before can be loaded, a further snapshot added; and nothing that the killed one left is in the way.
fn assert_usable(place: &Place, there: &[(u64, &Machine)]) {
    let mut snapshots = place.open();
    assert!(snapshots.damaged().is_empty() && snapshots.verify().is_empty());
    assert!(snapshots.list().iter().map(|info| info.position.exit).eq(there.iter().map(|(exit, _)| *exit)));
    let next = Machine::small(9);
    add(&mut snapshots, 1000, Origin::Asked, &next);
    for snapshots in [&snapshots, &place.open()] {
        for (exit, machine) in there.iter().copied().chain([(1000, &next)]) {
            assert_loads(snapshots, exit, machine);
        }
        assert!(snapshots.verify().is_empty());
    }
    assert!(!place.names().iter().any(|name| name.ends_with(".new")));
}

/// Adds the second of two snapshots and stops at every byte that it writes.
fn killed_at_every_byte(before: &Place, there: &[(u64, &Machine)]) {
    let second = Machine::small(2);
    let after = copy(before);
    add(&mut after.open(), 2, Origin::Asked, &second);
    let pack = fs::read(after.path("pages-0")).unwrap();
    let file = fs::read(after.path("exit-2")).unwrap();
    let written = fs::read(before.path("pages-0")).map_or(0, |bytes| bytes.len());
    for length in written..=pack.len() {
        let place = copy(before);
        fs::create_dir_all(place.path("")).unwrap();
        fs::write(place.path("pages-0"), &pack[..length]).unwrap();
        assert_usable(&place, there);
    }
    for length in 0..=file.len() {
        let place = copy(before);
        fs::create_dir_all(place.path("")).unwrap();
        fs::write(place.path("pages-0"), &pack).unwrap();
        fs::write(place.path("exit-2.new"), &file[..length]).unwrap();
        assert_usable(&place, there);
        // The pages need not be written again.
        add(&mut place.open(), 2, Origin::Asked, &second);
        assert!(fs::read(place.path("pages-0")).unwrap().starts_with(&pack));
        assert_loads(&place.open(), 2, &second);
    }
}

#[test]
fn adding_the_first() {
    killed_at_every_byte(&Place::new(), &[]);
}

#[test]
fn adding_another() {
    let place = Place::new();
    let first = Machine::small(1);
    add(&mut place.open(), 1, Origin::Asked, &first);
    killed_at_every_byte(&place, &[(1, &first)]);
}

#[test]
fn compacting() {
    let before = Place::new();
    let mut snapshots = before.open();
    let (first, second) = (Machine::small(1), Machine::small(2));
    add(&mut snapshots, 1, Origin::Asked, &first);
    add(&mut snapshots, 3, Origin::Asked, &Machine::small(3));
    add(&mut snapshots, 2, Origin::Start, &second);
    assert!(snapshots.remove(scribe_log::Position::exit(3)).unwrap());
    let there = [(1, &first), (2, &second)];
    let after = copy(&before);
    assert!(after.open().compact().unwrap() > 0);
    assert_eq!(after.names(), ["exit-1", "exit-2", "lock", "pages-1"]);
    let pack = fs::read(after.path("pages-1")).unwrap();
    for length in 0..pack.len() {
        let place = copy(&before);
        fs::write(place.path("pages-1"), &pack[..length]).unwrap();
        assert_usable(&place, &there);
    }
    // Neither, one or both snapshots replaced, with a part of the next; the old pack there or not.
    let names = ["exit-1", "exit-2"];
    for replaced in 0..=2 {
        let place = copy(&before);
        fs::write(place.path("pages-1"), &pack).unwrap();
        for name in &names[..replaced] {
            fs::copy(after.path(name), place.path(name)).unwrap();
        }
        if let Some(next) = names.get(replaced) {
            fs::write(place.path(&format!("{next}.new")), "SCRSNAP1").unwrap();
        }
        let again = copy(&place);
        assert_usable(&place, &there);
        let mut snapshots = again.open();
        snapshots.compact().unwrap();
        assert_eq!(snapshots.usage().unwrap().unused, 0);
        assert_usable(&again, &there);
    }
}
