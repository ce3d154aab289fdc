//! Writers that are killed, at any moment.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use scribe_log::snapshots::{Origin, PageSource, Visit};

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

const VARIABLE: &str = "SNAPSHOTS_TO_BE_KILLED";

/// Not a test: the process that [`real_processes`] kills. It says before each block of pages and after each snapshot where it is.
#[test]
fn killed_process() {
    let Some(dir) = std::env::var_os(VARIABLE) else { return };
    struct Talking(Machine);
    impl PageSource for Talking {
        fn spaces(&self) -> Vec<u32> {
            self.0.spaces()
        }
        fn pages(&mut self, space: u32, visit: &mut Visit<'_>) -> io::Result<()> {
            self.0.pages(space, &mut |first, bytes| {
                writeln!(io::stderr(), "block")?;
                visit(first, bytes)
            })
        }
    }
    let dir = PathBuf::from(dir);
    let mut snapshots = open(&dir);
    for exit in 0.. {
        snapshots.add(&nth(exit).at(exit, Origin::Asked), &mut Talking(nth(exit))).unwrap();
        writeln!(io::stderr(), "added {exit}").unwrap();
        if exit >= 3 {
            snapshots.remove(scribe_log::Position::exit(exit - 3)).unwrap();
            writeln!(io::stderr(), "removed {}", exit - 3).unwrap();
            snapshots.compact().unwrap();
        }
    }
}

fn nth(exit: u64) -> Machine {
    let mut machine = Machine::busy(1);
    (0..100).for_each(|frame| drop(machine.ram.insert(frame, page((exit << 40) + frame + 1))));
    machine
}

fn run_and_kill(dir: &Path, lines: usize) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "killed::killed_process", "--nocapture", "--test-threads=1"])
        .env(VARIABLE, dir)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut heard: Vec<String> = said.by_ref().take(lines).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    heard.extend(said);
    heard
}

#[test]
fn real_processes() {
    for round in 0..24 {
        let place = Place::new();
        // About 14 lines a snapshot; a prime, so that it is killed at another place of the work each time.
        let heard = run_and_kill(place.dir.path(), 1 + round * 5);
        assert!(heard.iter().all(|line| !line.contains("panicked")), "{heard:?}");
        let last =
            |what: &str| heard.iter().rev().find_map(|line| line.strip_prefix(what)?.parse::<u64>().ok());
        let mut snapshots = place.open();
        assert!(snapshots.damaged().is_empty(), "{:?}", snapshots.damaged());
        assert!(snapshots.verify().is_empty(), "{:?}", snapshots.verify());
        let found: Vec<u64> = snapshots.list().iter().map(|info| info.position.exit).collect();
        let expected = last("removed ").map_or(0, |exit| exit + 1)..last("added ").map_or(0, |exit| exit + 1);
        // One more may have been added or removed before it could say so.
        assert!(expected.clone().skip(1).all(|exit| found.contains(&exit)), "{heard:?}: {found:?}");
        assert!(
            found.iter().all(|exit| *exit >= expected.start && *exit <= expected.end),
            "{heard:?}: {found:?}"
        );
        found.iter().for_each(|exit| assert_loads(&snapshots, *exit, &nth(*exit)));
        add(&mut snapshots, 1000, Origin::Asked, &nth(1000));
        found.iter().chain(&[1000]).for_each(|exit| assert_loads(&place.open(), *exit, &nth(*exit)));
        assert!(place.open().verify().is_empty());
    }
}
