//! Adding, finding, loading, removing, thinning, compacting.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use proptest::prelude::*;
use scribe_log::Position;
use scribe_log::snapshots::{
    MAX_PARTS, MAX_PARTS_BYTES, NewSnapshot, Origin, PAGE_NUMBERS, Part, SnapshotError, is_kept,
};

use crate::common::{self, at};
use crate::machine::*;

#[test]
fn what_was_added_comes_back() {
    let place = Place::new();
    let mut snapshots = place.open();
    assert!(snapshots.list().is_empty() && snapshots.verify().is_empty());
    let mut machine = Machine::busy(1);
    machine.disk.insert(70, page(0));
    let info = add(&mut snapshots, 100, Origin::Asked, &machine);
    assert_eq!((info.position, info.guest_time, info.origin), (at(100), 200_000, Origin::Asked));
    assert_eq!(info.pages, FRAMES / 2 + 7);
    for snapshots in [snapshots, place.open()] {
        assert_eq!(snapshots.list(), std::slice::from_ref(&info));
        assert_loads(&snapshots, 100, &machine);
        assert_eq!(snapshots.parts(&info).unwrap(), machine.at(100, Origin::Asked).parts);
        assert!(snapshots.damaged().is_empty() && snapshots.verify().is_empty());
    }
}

#[test]
fn durable_ones_are_no_others() {
    let places = [false, true].map(|durable| {
        let place = Place::new();
        let mut snapshots = place.open();
        snapshots.set_durable(durable);
        add(&mut snapshots, 1, Origin::Recorded, &Machine::small(1));
        add(&mut snapshots, 2, Origin::Recorded, &Machine::small(2));
        place
    });
    let contents =
        |place: &Place| place.names().iter().map(|name| fs::read(place.path(name)).unwrap()).collect();
    let [quick, durable]: [Vec<Vec<u8>>; 2] = [contents(&places[0]), contents(&places[1])];
    assert!(quick == durable);
}

#[test]
fn a_machine_of_nothing_comes_back() {
    let place = Place::new();
    let mut snapshots = place.open();
    let nothing = NewSnapshot { position: at(0), guest_time: 0, origin: Origin::Recorded, parts: vec![] };
    let info = snapshots.add(&nothing, &mut Machine::default()).unwrap();
    assert_eq!((info.pages, snapshots.usage().unwrap().unused), (0, 0));
    let mut back = Machine::default();
    assert_eq!(place.open().load(&info, &mut back).unwrap(), vec![]);
    assert!(back == Machine::default());
    assert_eq!(snapshots.compact().unwrap(), 0);
    assert!(snapshots.verify().is_empty());
}

#[test]
fn the_nearest_before_is_found() {
    let place = Place::new();
    let mut snapshots = place.open();
    let machine = Machine::small(1);
    let between = Position { exit: 20, branches: 5, steps: 1 };
    for (position, guest_time) in [(at(20), 500), (at(10), 200), (between, 600), (at(30), 600)] {
        let new = NewSnapshot { position, guest_time, ..machine.at(1, Origin::Asked) };
        snapshots.add(&new, &mut machine.clone()).unwrap();
    }
    let positions: Vec<Position> = snapshots.list().iter().map(|info| info.position).collect();
    assert_eq!(positions, [at(10), at(20), between, at(30)]);
    let before = |position| snapshots.before(position).map(|info| info.position);
    assert_eq!([before(at(9)), before(at(10)), before(at(19))], [None, Some(at(10)), Some(at(10))]);
    assert_eq!(before(Position { exit: 20, branches: 5, steps: 0 }), Some(at(20)));
    assert_eq!([before(between), before(at(29))], [Some(between); 2]);
    assert_eq!(before(at(u64::MAX)), Some(at(30)));
    let before = |time| snapshots.before_time(time).map(|info| info.position);
    assert_eq!([before(199), before(200), before(599)], [None, Some(at(10)), Some(at(20))]);
    assert_eq!(before(600), Some(at(30)));
    assert_eq!(snapshots.at(between).unwrap().position, between);
    assert!(snapshots.at(at(21)).is_none());
}

#[test]
fn pages_that_are_shared_are_stored_once() {
    let place = Place::new();
    let mut snapshots = place.open();
    let mut machine = Machine::busy(1);
    add(&mut snapshots, 1, Origin::Asked, &machine);
    let first = snapshots.usage().unwrap();
    assert!(first.packs > 256 * 1500, "pages compress less than that: {first:?}");

    add(&mut snapshots, 2, Origin::Asked, &machine);
    assert_eq!(snapshots.usage().unwrap().packs, first.packs, "an equal machine adds no page");

    // Also one that was elsewhere, or on the disk, and one that is there many times.
    let moved = machine.ram.remove(&0).unwrap();
    machine.ram.insert(500, moved.clone());
    machine.disk.insert(900, moved);
    (300..330).for_each(|frame| drop(machine.ram.insert(frame, page(77))));
    (1000..1100).for_each(|cluster| drop(machine.disk.insert(cluster, page(0))));
    let changed = [16, 17, 200];
    changed.iter().for_each(|frame| drop(machine.ram.insert(*frame, page(frame + 9000))));
    add(&mut snapshots, 3, Origin::Asked, &machine);
    let third = snapshots.usage().unwrap();
    let added = third.packs - first.packs;
    assert!(added < 5 * 4096 + 500, "five new pages, {added} bytes");
    assert_eq!(third.unused, 0);
    assert_loads(&snapshots, 3, &machine);
    assert_loads(&snapshots, 1, &Machine::busy(1));

    // Another process, whose index is not in memory.
    add(&mut place.open(), 4, Origin::Asked, &machine);
    snapshots.refresh().unwrap();
    assert_eq!(snapshots.usage().unwrap().packs, third.packs);
    assert!(snapshots.verify().is_empty());
}

/// Snapshots that each keep a few pages of everything that was before must not make the last one slow to load.
#[test]
fn chunks_of_which_little_is_needed_are_not_referred_to() {
    let place = Place::new();
    let mut snapshots = place.open();
    let old = Machine::busy(1);
    add(&mut snapshots, 1, Origin::Asked, &old);
    let first = snapshots.usage().unwrap().packs;
    // Every sixteenth page stays, so one or two of each old chunk.
    let mut machine = Machine::busy(2);
    let stays = |frame: &u64| frame.is_multiple_of(16);
    old.ram.iter().filter(|(frame, _)| stays(frame)).for_each(|(frame, content)| {
        machine.ram.insert(*frame, content.clone());
    });
    add(&mut snapshots, 2, Origin::Asked, &machine);
    assert_loads(&snapshots, 2, &machine);
    assert!(snapshots.remove(at(1)).unwrap());
    // Nothing of the first is needed, as the second has those pages once more.
    assert_eq!(snapshots.usage().unwrap().unused, first - 20);
    assert!(snapshots.verify().is_empty());
}

#[test]
fn what_is_removed_takes_nothing_else_with_it() {
    let place = Place::new();
    let mut snapshots = place.open();
    let machines: Vec<Machine> = (1..=4)
        .map(|seed| {
            let mut machine = Machine::busy(1);
            (0..60).for_each(|frame| drop(machine.ram.insert(frame, page(seed * 1000 + frame))));
            machine
        })
        .collect();
    for (exit, machine) in (1..).zip(&machines) {
        add(&mut snapshots, exit, Origin::Asked, machine);
    }
    assert!(snapshots.remove(at(2)).unwrap());
    assert!(!snapshots.remove(at(2)).unwrap());
    let mut other = place.open();
    let before = other.usage().unwrap();
    assert!(before.unused > 50 * 1500, "{before:?}");
    let freed = other.compact().unwrap();
    let after = other.usage().unwrap();
    assert_eq!(freed, before.packs + before.snapshots - after.packs - after.snapshots);
    assert!(freed >= before.unused && after.unused == 0, "{before:?} {after:?}");
    assert_eq!(other.compact().unwrap(), 0);
    // Whoever had it open before finds it all the same, and goes on adding.
    let mut removed = None;
    for exit in [1, 3, 4] {
        for snapshots in [&snapshots, &other, &place.open()] {
            let machine = &machines[usize::try_from(exit).unwrap() - 1];
            assert_loads(snapshots, exit, machine);
            removed = Some(machine);
        }
    }
    add(&mut snapshots, 5, Origin::Asked, removed.unwrap());
    assert_eq!(snapshots.usage().unwrap().packs, after.packs);
    assert!(snapshots.verify().is_empty());
    assert_eq!(place.names(), ["exit-1", "exit-3", "exit-4", "exit-5", "lock", "pages-1"]);
}

#[test]
fn a_removed_snapshot_is_missing() {
    let place = Place::new();
    let mut snapshots = place.open();
    let info = add(&mut snapshots, 7, Origin::Asked, &Machine::small(1));
    assert!(place.open().remove(at(7)).unwrap());
    let error = snapshots.load(&info, &mut Machine::default()).unwrap_err();
    assert!(matches!(error, SnapshotError::Missing { position, .. } if position == at(7)), "{error}");
    snapshots.refresh().unwrap();
    assert!(snapshots.list().is_empty());
}

#[test]
fn the_start_of_a_recording_stays() {
    let place = Place::new();
    let mut snapshots = place.open();
    let machine = Machine::small(1);
    add(&mut snapshots, 50, Origin::Start, &machine);
    add(&mut snapshots, 60, Origin::Asked, &Machine::small(2));
    for (exit, origin) in [(50, Origin::Asked), (50, Origin::Start), (60, Origin::Start)] {
        let error = snapshots.add(&machine.at(exit, origin), &mut machine.clone()).unwrap_err();
        assert!(matches!(error, SnapshotError::Needed { position, .. } if position == at(50)), "{error}");
    }
    let error = snapshots.remove(at(50)).unwrap_err();
    assert!(matches!(error, SnapshotError::Needed { .. }), "{error}");
    assert_eq!(snapshots.clear().unwrap(), 1);
    assert_eq!(snapshots.list(), [snapshots.start().unwrap().clone()]);
    assert!(snapshots.compact().unwrap() > 0);
    assert_loads(&place.open(), 50, &machine);
}

#[test]
fn clearing_leaves_no_pages() {
    let place = Place::new();
    let mut snapshots = place.open();
    add(&mut snapshots, 1, Origin::Recorded, &Machine::small(1));
    add(&mut snapshots, 2, Origin::Automatic { ordinal: 0 }, &Machine::small(2));
    fs::write(place.path("exit-3"), "damaged").unwrap();
    snapshots.refresh().unwrap();
    assert_eq!((snapshots.list().len(), snapshots.damaged().len()), (2, 1));
    assert_eq!(snapshots.clear().unwrap(), 3);
    assert_eq!(place.names(), ["lock"]);
    add(&mut snapshots, 3, Origin::Asked, &Machine::small(3));
    assert_loads(&place.open(), 3, &Machine::small(3));
}

#[test]
fn of_two_at_a_position_the_later_stays_with_the_stronger_origin() {
    let place = Place::new();
    let mut snapshots = place.open();
    let automatic = Origin::Automatic { ordinal: 3 };
    let steps = [
        (automatic, automatic),
        (Origin::Automatic { ordinal: 4 }, Origin::Automatic { ordinal: 4 }),
        (Origin::Recorded, Origin::Recorded),
        (automatic, Origin::Recorded),
        (Origin::Asked, Origin::Asked),
        (Origin::Recorded, Origin::Asked),
    ];
    for (seed, (origin, expected)) in (1..).zip(steps) {
        let machine = Machine::small(seed);
        assert_eq!(add(&mut snapshots, 9, origin, &machine).origin, expected);
        assert_eq!(snapshots.list().len(), 1);
        assert_loads(&snapshots, 9, &machine);
    }
}

#[test]
fn automatic_ones_are_thinned_and_their_pages_go() {
    let place = Place::new();
    let mut snapshots = place.open();
    add(&mut snapshots, 0, Origin::Recorded, &Machine::busy(1));
    let mut most = 0;
    for ordinal in 0..40 {
        let mut machine = Machine::busy(1);
        (0..100).for_each(|frame| drop(machine.ram.insert(frame, page(1000 * ordinal + frame + 1))));
        add(&mut snapshots, ordinal * 10 + 5, Origin::Automatic { ordinal }, &machine);
        snapshots.thin().unwrap();
        most = most.max(snapshots.usage().unwrap().packs);
        let kept = (0..=ordinal).filter(|at| is_kept(*at, ordinal)).map(|ordinal| ordinal * 10 + 5);
        let expected: Vec<u64> = std::iter::once(0).chain(kept).collect();
        assert_eq!(snapshots.list().iter().map(|info| info.position.exit).collect::<Vec<_>>(), expected);
        assert_loads(&snapshots, ordinal * 10 + 5, &machine);
    }
    assert_loads(&snapshots, 0, &Machine::busy(1));
    assert!(snapshots.verify().is_empty());
    let usage = snapshots.usage().unwrap();
    assert!(usage.unused <= usage.packs / 2, "{usage:?}");
    assert!(most < 40 * 100 * 1500, "{most} bytes, all of them together would be more");
}

/// What a source must not do is an error, and nothing is added.
#[test]
fn sources_are_checked() {
    struct Source(Vec<u32>, Vec<(u64, usize)>, bool);
    impl scribe_log::snapshots::PageSource for Source {
        fn spaces(&self) -> Vec<u32> {
            self.0.clone()
        }
        fn pages(&mut self, _: u32, visit: &mut scribe_log::snapshots::Visit<'_>) -> io::Result<()> {
            let runs = self.1.iter();
            runs.into_iter().try_for_each(|(first, length)| visit(*first, &vec![1; *length]))?;
            if self.2 { Err(io::Error::other("no more memory")) } else { Ok(()) }
        }
    }
    let place = Place::new();
    let mut snapshots = place.open();
    let new = Machine::default().at(1, Origin::Asked);
    let cases = [
        Source(vec![0], vec![(0, 4095)], false),
        Source(vec![0], vec![(0, 8192), (1, 4096)], false),
        Source(vec![0], vec![(PAGE_NUMBERS - 1, 8192)], false),
        Source(vec![0], vec![(u64::MAX, 4096)], false),
        Source(vec![1, 0], vec![], false),
        Source(vec![0, 0], vec![], false),
        Source(vec![0], vec![(0, 4096)], true),
    ];
    for mut source in cases {
        let error = snapshots.add(&new, &mut source).unwrap_err();
        assert!(matches!(error, SnapshotError::Source(_)), "{error}");
        assert!(snapshots.list().is_empty() && place.open().list().is_empty());
    }
    let mut source = Source(vec![0, 3], vec![(0, 4096), (PAGE_NUMBERS - 1, 4096)], false);
    assert_eq!(snapshots.add(&new, &mut source).unwrap().pages, 4);
}

#[test]
fn parts_are_checked() {
    let place = Place::new();
    let mut snapshots = place.open();
    let part = |kind: &str, length| Part { kind: kind.to_owned(), version: 1, bytes: vec![0; length] };
    let many = || (0..=MAX_PARTS).map(|number| part(&number.to_string(), 0)).collect::<Vec<_>>();
    let mut add = |parts: Vec<Part>| {
        snapshots
            .add(&NewSnapshot { parts, ..Machine::default().at(1, Origin::Asked) }, &mut Machine::default())
    };
    let refused = [
        vec![part("a", 1), part("b", 1), part("a", 1)],
        vec![part("", 1)],
        vec![part(&"k".repeat(65), 1)],
        vec![part("a", MAX_PARTS_BYTES), part("b", 1)],
        many(),
    ];
    for parts in refused {
        let error = add(parts).unwrap_err();
        assert!(matches!(error, SnapshotError::PartName { .. } | SnapshotError::TooLarge { .. }), "{error}");
    }
    add(many().split_off(1)).unwrap();
    add(vec![part(&"k".repeat(64), MAX_PARTS_BYTES)]).unwrap();
    let info = snapshots.list()[0].clone();
    assert_eq!(snapshots.parts(&info).unwrap()[0].bytes.len(), MAX_PARTS_BYTES);
}

#[test]
fn a_sink_can_refuse() {
    struct Sink(bool);
    impl scribe_log::snapshots::PageSink for Sink {
        fn begin(&mut self, _: &scribe_log::snapshots::PageMap) -> io::Result<()> {
            if self.0 { Ok(()) } else { Err(io::Error::other("too much for this machine")) }
        }
        fn write(&mut self, _: u32, _: u64, _: &[u8]) -> io::Result<()> {
            assert!(self.0, "written though refused");
            Err(io::Error::other("no such frame"))
        }
    }
    let place = Place::new();
    let mut snapshots = place.open();
    let info = add(&mut snapshots, 1, Origin::Asked, &Machine::busy(1));
    for (begins, what) in [(false, "too much for"), (true, "no such frame")] {
        let error = snapshots.load(&info, &mut Sink(begins)).unwrap_err();
        assert!(common::chain(&error).contains(what), "{error}");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Add { exit: u64, changes: Vec<(u64, u64)> },
    Remove { exit: u64 },
    Compact,
    Reopen,
    Clear,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let changes = proptest::collection::vec((0..FRAMES, 0u64..50), 0..40);
    let step = prop_oneof![
        6 => (0u64..12, changes).prop_map(|(exit, changes)| Step::Add { exit, changes }),
        2 => (0u64..12).prop_map(|exit| Step::Remove { exit }),
        1 => Just(Step::Compact),
        1 => Just(Step::Reopen),
        1 => Just(Step::Clear),
    ];
    proptest::collection::vec(step, 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_order_of_things_keeps_what_it_should(steps in steps()) {
        let place = Place::new();
        let mut snapshots = place.open();
        let mut model: BTreeMap<u64, Machine> = BTreeMap::new();
        let mut machine = Machine::default();
        for step in steps {
            match step {
                Step::Add { exit, changes } => {
                    for (frame, seed) in changes {
                        machine.ram.insert(frame, page(seed));
                        machine.disk.insert(frame * 3, page(seed / 2));
                    }
                    machine.ram.retain(|_, content| *content != page(0));
                    add(&mut snapshots, exit, Origin::Asked, &machine);
                    model.insert(exit, machine.clone());
                }
                Step::Remove { exit } => {
                    prop_assert_eq!(snapshots.remove(at(exit)).unwrap(), model.remove(&exit).is_some());
                }
                Step::Compact => {
                    snapshots.compact().unwrap();
                    prop_assert_eq!(snapshots.usage().unwrap().unused, 0);
                }
                Step::Reopen => snapshots = place.open(),
                Step::Clear => {
                    prop_assert_eq!(snapshots.clear().unwrap(), model.len());
                    model.clear();
                }
            }
            prop_assert!(snapshots.list().iter().map(|info| info.position.exit).eq(model.keys().copied()));
            for (exit, machine) in &model {
                assert_loads(&snapshots, *exit, machine);
            }
        }
        prop_assert!(snapshots.verify().is_empty());
    }
}
