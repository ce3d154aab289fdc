//! Several at a time: one writes, the others are refused; readers wait for nobody.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use scribe_log::snapshots::{Origin, PageSource, SnapshotError, Snapshots, Visit};

use crate::common::at;
use crate::machine::*;

#[test]
fn a_second_writer_is_refused() {
    let place = Place::new();
    let machine = Machine::small(1);
    let mut snapshots = place.open();
    add(&mut snapshots, 1, Origin::Asked, &machine);
    let lock = File::open(place.path("lock")).unwrap();
    lock.lock().unwrap();
    let busy = |error: Option<SnapshotError>| matches!(error, Some(SnapshotError::Busy { .. }));
    assert!(busy(snapshots.add(&machine.at(2, Origin::Asked), &mut machine.clone()).err()));
    assert!(busy(snapshots.remove(at(1)).err()));
    assert!(busy(snapshots.clear().err()));
    assert!(busy(snapshots.thin().err()));
    assert!(busy(snapshots.compact().err()));
    assert_loads(&snapshots, 1, &machine);
    assert_loads(&place.open(), 1, &machine);
    drop(lock);
    add(&mut snapshots, 2, Origin::Asked, &machine);
}

/// The lock is held while pages are taken, and given back after an error.
#[test]
fn a_source_that_fails_leaves_no_lock() {
    struct Source<'a>(&'a Place);
    impl PageSource for Source<'_> {
        fn spaces(&self) -> Vec<u32> {
            vec![0]
        }
        fn pages(&mut self, _: u32, visit: &mut Visit<'_>) -> io::Result<()> {
            let machine = Machine::small(2);
            let error = self.0.open().add(&machine.at(2, Origin::Asked), &mut machine.clone()).unwrap_err();
            assert!(matches!(error, SnapshotError::Busy { .. }), "{error}");
            visit(0, &page(1))?;
            Err(io::Error::other("enough"))
        }
    }
    let place = Place::new();
    let mut snapshots = place.open();
    let machine = Machine::small(1);
    let error = snapshots.add(&machine.at(1, Origin::Asked), &mut Source(&place)).unwrap_err();
    assert!(matches!(error, SnapshotError::Source(_)), "{error}");
    add(&mut snapshots, 1, Origin::Asked, &machine);
    assert_loads(&place.open(), 1, &machine);
}

#[test]
fn a_directory_that_is_not_to_be_written_says_so() {
    // Nobody makes directories there, not even root.
    let dir = Path::new("/sys/kernel");
    assert!(dir.is_dir(), "no sysfs here");
    let place = Place::new();
    let machine = Machine::small(1);
    let mut snapshots = place.open();
    fs::remove_file(place.dir.path().join("header")).unwrap();
    fs::remove_dir(place.dir.path()).unwrap();
    std::os::unix::fs::symlink(dir, place.dir.path()).unwrap();
    let error = snapshots.add(&machine.at(1, Origin::Asked), &mut machine.clone()).unwrap_err();
    fs::remove_file(place.dir.path()).unwrap();
    fs::create_dir(place.dir.path()).unwrap();
    assert!(matches!(error, SnapshotError::ReadOnly { .. }), "{error:?}");
}

/// Readers load while a writer adds, removes and compacts. A snapshot is there as it was, or it is missing.
#[test]
fn readers_need_no_lock() {
    const ROUNDS: u64 = 12;
    let place = Place::new();
    let nth = |exit: u64| {
        let mut machine = Machine::busy(1);
        (0..40).for_each(|frame| drop(machine.ram.insert(frame, page(exit * 100 + frame + 1))));
        machine
    };
    let constant = Machine::busy(1);
    add(&mut place.open(), 0, Origin::Start, &constant);
    let done = AtomicBool::new(false);
    let read = || {
        let (mut loads, mut missing) = (0, 0);
        while !done.load(Ordering::Relaxed) {
            let snapshots: Snapshots = place.open();
            assert!(snapshots.damaged().is_empty(), "{:?}", snapshots.damaged());
            for info in snapshots.list() {
                let exit = info.position.exit;
                let mut back = Machine::default();
                match snapshots.load(info, &mut back) {
                    Ok(_) => {
                        assert!(back.ram == if exit == 0 { constant.ram.clone() } else { nth(exit).ram })
                    }
                    Err(SnapshotError::Missing { .. }) => missing += 1,
                    Err(error) => panic!("{error}"),
                }
                loads += 1;
            }
        }
        (loads, missing)
    };
    thread::scope(|scope| {
        let readers = [scope.spawn(read), scope.spawn(read)];
        let mut writer = place.open();
        for exit in 1..=ROUNDS {
            add(&mut writer, exit, Origin::Asked, &nth(exit));
            if exit > 2 {
                assert!(writer.remove(at(exit - 2)).unwrap());
                writer.compact().unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            let (loads, missing) = reader.join().unwrap();
            assert!(loads > missing, "{loads} {missing}");
        }
    });
    assert!(place.open().verify().is_empty());
}
