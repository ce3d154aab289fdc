//! Whatever happens to the files: an error or the truth, never another state, never a panic.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use scribe_log::shrink;
use scribe_log::snapshots::{Origin, SnapshotError, Snapshots};

use crate::common::{self, at};
use crate::machine::*;

/// Snapshots of `machines`, at exits 1, 2, ...
fn filled(machines: &[Machine]) -> Place {
    let place = Place::new();
    let mut snapshots = place.open();
    for (exit, machine) in (1..).zip(machines) {
        add(&mut snapshots, exit, Origin::Asked, machine);
    }
    assert!(snapshots.verify().is_empty());
    place
}

/// Two small machines that share a page.
fn two() -> Vec<Machine> {
    let mut second = Machine::small(2);
    second.ram.extend(Machine::small(1).ram.into_iter().take(1));
    vec![Machine::small(1), second]
}

/// Loads everything. What can be loaded is right; gives what is wrong with the rest.
fn load_all(place: &Place, machines: &[Machine]) -> BTreeMap<u64, SnapshotError> {
    let snapshots = place.open();
    let mut errors = BTreeMap::new();
    for (exit, machine) in (1..).zip(machines) {
        match snapshots.at(at(exit)) {
            None => {
                let error = SnapshotError::Missing { dir: PathBuf::new(), position: at(exit) };
                errors.insert(exit, error);
            }
            Some(_) => match load(&snapshots, exit) {
                Ok(back) => assert!(back.ram == machine.ram && back.disk == machine.disk, "another state"),
                Err(error) => drop(errors.insert(exit, error)),
            },
        }
    }
    for error in snapshots.damaged().iter().chain(errors.values()) {
        let text = common::chain(error);
        assert!(!text.contains('\n') && text.len() < 300, "{text}");
    }
    errors
}

/// Does something with a changed file, and puts the file back.
fn with<T>(path: &Path, changed: &[u8], action: impl FnOnce() -> T) -> T {
    let old = fs::read(path).unwrap();
    fs::write(path, changed).unwrap();
    let result = action();
    fs::write(path, old).unwrap();
    result
}

#[test]
fn a_changed_byte_anywhere_is_noticed() {
    let machines = two();
    let place = filled(&machines);
    assert_eq!(place.names(), ["exit-1", "exit-2", "lock", "pages-0"]);
    for (name, may_fail) in [("exit-1", vec![1]), ("exit-2", vec![2]), ("pages-0", vec![1, 2])] {
        let path = place.path(name);
        let bytes = fs::read(&path).unwrap();
        let mut changed = bytes.clone();
        for offset in 0..bytes.len() {
            // One bit, another one at each place; and all bits.
            for change in [1 << (offset % 8), 0xff] {
                changed[offset] = bytes[offset] ^ change;
                with(&path, &changed, || {
                    let errors = load_all(&place, &machines);
                    assert!(!errors.is_empty(), "{name} at {offset}");
                    assert!(
                        errors.keys().all(|exit| may_fail.contains(exit)),
                        "{name} at {offset}: {errors:?}"
                    );
                    assert!(!place.open().verify().is_empty(), "{name} at {offset}");
                });
            }
            changed[offset] = bytes[offset];
        }
    }
}

/// A writer that finds damage does not build upon it: what it adds can be loaded, or it says what is wrong.
#[test]
fn nothing_is_added_on_top_of_damage() {
    let machines = two();
    let place = filled(&machines);
    let path = place.path("pages-0");
    let bytes = fs::read(&path).unwrap();
    let mut refused = 0;
    for offset in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[offset] ^= 1 << (offset % 8);
        fs::write(&path, changed).unwrap();
        let mut snapshots = place.open();
        match snapshots.add(&machines[0].at(3, Origin::Asked), &mut machines[0].clone()) {
            Ok(_) => assert_loads(&snapshots, 3, &machines[0]),
            Err(SnapshotError::Corrupt { .. } | SnapshotError::TooNew { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
        snapshots.remove(at(3)).unwrap();
        fs::write(&path, &bytes).unwrap();
    }
    // The first machine's chunk is half of the pack.
    assert!(refused > bytes.len() / 3, "{refused} of {}", bytes.len());
}

#[test]
fn a_file_cut_anywhere_is_noticed() {
    let machines = two();
    let place = filled(&machines);
    for name in ["exit-1", "exit-2", "pages-0"] {
        let path = place.path(name);
        let bytes = fs::read(&path).unwrap();
        for length in 0..bytes.len() {
            with(&path, &bytes[..length], || {
                assert!(!load_all(&place, &machines).is_empty(), "{name} of {length}");
                assert!(!place.open().verify().is_empty(), "{name} of {length}");
            });
        }
        let more = [&bytes[..], &[0]].concat();
        let errors = with(&path, &more, || load_all(&place, &machines));
        // Behind the chunks there may be what a killed writer left.
        assert_eq!(errors.is_empty(), name == "pages-0");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn random_bits_of_larger_ones_are_noticed(file in 0usize..3, at: prop::sample::Index, bit in 0u8..8) {
        use std::sync::OnceLock;
        static PLACE: OnceLock<(Place, Vec<Machine>)> = OnceLock::new();
        let (place, machines) = PLACE.get_or_init(|| {
            let machines = vec![Machine::busy(1), Machine::busy(2)];
            (filled(&machines), machines)
        });
        let path = place.path(["exit-1", "exit-2", "pages-0"][file]);
        let mut bytes = fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        with(&path, &bytes, || {
            prop_assert!(!load_all(place, machines).is_empty());
            prop_assert!(!place.open().verify().is_empty());
            Ok(())
        })?;
    }
}

#[test]
fn exchanged_files_are_noticed() {
    let machines = two();
    let place = filled(&machines);
    let other = filled(&[Machine::small(3), Machine::small(4)]);
    let bytes = |place: &Place, name: &str| fs::read(place.path(name)).unwrap();
    let one = |changed: &str, with_what: &[u8]| {
        let errors = with(&place.path(changed), with_what, || {
            let mut texts: Vec<String> =
                place.open().damaged().iter().map(|error| common::chain(error)).collect();
            texts.extend(load_all(&place, &machines).values().map(|error| common::chain(error)));
            assert!(!place.open().verify().is_empty());
            texts
        });
        errors.join("; ")
    };
    // Under another position, of an older or another pack; a pack of an equal recording.
    assert!(one("exit-1", &bytes(&place, "exit-2")).contains("it is the snapshot at exit:2"));
    assert!(one("exit-1", &bytes(&other, "exit-1")).contains("another chunk than the one that was stored"));
    assert!(one("pages-0", &bytes(&other, "pages-0")).contains("another chunk than the one that was stored"));
    assert!(one("pages-0", &bytes(&place, "exit-1")).contains("it is no pack of pages"));
    assert!(one("exit-1", &bytes(&place, "pages-0")).contains("it is no snapshot"));
    fs::rename(place.path("pages-0"), place.path("pages-1")).unwrap();
    assert!(load_all(&place, &machines)[&1].to_string().contains("the pack is missing"));
    fs::copy(place.path("pages-1"), place.path("pages-0")).unwrap();
    assert!(load_all(&place, &machines).is_empty());
    assert!(place.open().verify()[0].to_string().contains("it is the pack of another name"));
}

#[test]
fn snapshots_of_another_recording_are_told_apart() {
    let machines = two();
    let place = filled(&machines);
    let mut header = common::header();
    header.seed = [0x44; 32];
    let stranger = Place::new();
    fs::write(stranger.dir.path().join("header"), header.encode().unwrap()).unwrap();
    fs::create_dir(stranger.path("")).unwrap();
    for name in place.names() {
        fs::copy(place.path(&name), stranger.path(&name)).unwrap();
    }
    let mut snapshots = stranger.open();
    assert!(snapshots.list().is_empty());
    let strange = |error: &SnapshotError| matches!(error, SnapshotError::OtherRecording { .. });
    assert!(snapshots.damaged().len() == 2 && snapshots.damaged().iter().all(strange));
    assert_eq!(snapshots.verify().len(), 2);
    // A snapshot can be added, but nothing is dropped that may be needed.
    add(&mut snapshots, 9, Origin::Asked, &machines[0]);
    assert!(matches!(snapshots.compact(), Err(SnapshotError::OtherRecording { .. })));
    assert_eq!(snapshots.clear().unwrap(), 3);
    assert_eq!(stranger.names(), ["lock"]);
}

#[test]
fn a_replaced_recording_gets_nothing_of_the_old() {
    let machines = two();
    let place = filled(&machines);
    let mut snapshots = place.open();
    let mut header = common::header();
    header.seed = [0x44; 32];
    fs::write(place.dir.path().join("header"), header.encode().unwrap()).unwrap();
    let error = snapshots.add(&machines[0].at(3, Origin::Asked), &mut machines[0].clone()).unwrap_err();
    assert!(matches!(error, SnapshotError::Replaced { .. }), "{error}");
    assert!(matches!(snapshots.remove(at(1)), Err(SnapshotError::Replaced { .. })));
    let crc = u32::from_le_bytes(common::header().encode().unwrap()[16..20].try_into().unwrap());
    assert!(matches!(Snapshots::open(place.dir.path(), crc), Err(SnapshotError::Replaced { .. })));
    fs::write(place.dir.path().join("header"), "nothing").unwrap();
    assert!(matches!(snapshots.clear(), Err(SnapshotError::Recording(_))));
    assert_eq!(place.names(), ["exit-1", "exit-2", "lock", "pages-0"]);
}

/// Dropping the markers changes the header, and not what the recording is.
#[test]
fn snapshots_outlive_the_markers() {
    let dir = tempfile::tempdir().unwrap();
    common::write_closed(
        dir.path(),
        &common::events(),
        &common::end(131_075, common::causes().swap_remove(0)),
    );
    let mut header = scribe_log::Header::read(&dir.path().join("header")).unwrap();
    header.level = scribe_log::header::Level::Exits;
    let place = Place { dir };
    // As it was recorded at a level with markers.
    fs::remove_dir_all(place.dir.path()).unwrap();
    let mut writer = scribe_log::Writer::create(place.dir.path(), &header, false).unwrap();
    common::events().iter().for_each(|event| writer.append(event).unwrap());
    writer.close(&common::end(131_075, common::causes().swap_remove(0))).unwrap();
    let before = fs::read(place.dir.path().join("header")).unwrap();

    let mut snapshots = place.open();
    add(&mut snapshots, 1000, Origin::Start, &Machine::small(1));
    shrink(place.dir.path(), scribe_log::ShrinkOptions::default()).unwrap();
    assert_ne!(fs::read(place.dir.path().join("header")).unwrap(), before);
    assert_loads(&place.open(), 1000, &Machine::small(1));
    // Also for whoever had it open.
    add(&mut snapshots, 2000, Origin::Asked, &Machine::small(2));
    assert_loads(&place.open(), 2000, &Machine::small(2));
}

#[test]
fn newer_versions_are_refused_by_name() {
    let machines = two();
    let place = filled(&machines);
    for name in ["exit-1", "pages-0"] {
        let mut bytes = fs::read(place.path(name)).unwrap();
        bytes[8] = 2;
        with(&place.path(name), &bytes, || {
            let errors = load_all(&place, &machines);
            let snapshots = place.open();
            let error = snapshots.damaged().first().or(errors.get(&1)).unwrap();
            assert!(matches!(error, SnapshotError::TooNew { found: 2, supported: 1, .. }), "{error}");
            assert!(error.to_string().contains("version 2, this program reads up to 1"), "{error}");
        });
    }
    // What this program cannot read may be the start of the recording: it is not cleared away.
    let mut bytes = fs::read(place.path("exit-1")).unwrap();
    bytes[8] = 2;
    fs::write(place.path("exit-1"), bytes).unwrap();
    let mut snapshots = place.open();
    assert!(matches!(snapshots.clear(), Err(SnapshotError::TooNew { .. })));
    assert!(matches!(snapshots.compact(), Err(SnapshotError::TooNew { .. })));
    assert_eq!(place.names(), ["exit-1", "exit-2", "lock", "pages-0"]);
}

/// What cannot be read may need any pack.
#[test]
fn no_pack_is_removed_while_a_snapshot_cannot_be_read() {
    let machines = two();
    let place = filled(&machines);
    let newer = fs::read(place.path("exit-1")).unwrap();
    let pack = fs::read(place.path("pages-0")).unwrap();
    let mut snapshots = place.open();
    assert!(snapshots.remove(at(1)).unwrap() && snapshots.compact().unwrap() > 0);
    assert_eq!(place.names(), ["exit-2", "lock", "pages-1"]);
    // As if it had been killed before the end.
    fs::write(place.path("pages-0"), &pack).unwrap();
    let mut changed = newer.clone();
    changed[8] = 2;
    fs::write(place.path("exit-1"), &changed).unwrap();
    let mut snapshots = place.open();
    add(&mut snapshots, 3, Origin::Asked, &machines[1]);
    assert_eq!(place.names(), ["exit-1", "exit-2", "exit-3", "lock", "pages-0", "pages-1"]);
    fs::write(place.path("exit-1"), &newer).unwrap();
    assert!(load_all(&place, &machines).is_empty());
    assert!(snapshots.remove(at(3)).unwrap() && snapshots.remove(at(1)).unwrap());
    assert!(!snapshots.remove(at(1)).unwrap());
    assert_eq!(place.names(), ["exit-2", "lock", "pages-1"]);
}

#[test]
fn what_is_no_file_is_not_opened() {
    let machines = two();
    let place = filled(&machines);
    fs::create_dir(place.path("exit-5")).unwrap();
    fs::create_dir(place.path("pages-7")).unwrap();
    fs::write(place.path("notes"), "of somebody").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(place.path("exit-6")).unwrap();
    assert!(load_all(&place, &machines).is_empty());
    let mut snapshots = place.open();
    assert_eq!(snapshots.damaged().len(), 2);
    assert_eq!(snapshots.verify().len(), 3);
    let error = snapshots.add(&machines[0].at(3, Origin::Asked), &mut machines[0].clone()).unwrap_err();
    assert!(error.to_string().contains("it is not a file"), "{error}");
}
