//! Processes that add, remove and compact snapshots, and are killed.
//!
//! A program of its own: a process that is being started holds the locks of the one that starts it for a moment, and so
//! makes tests beside it find a directory busy.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;
#[path = "snapshots/machine.rs"]
#[allow(dead_code, reason = "not every test uses everything")]
mod machine;

use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use machine::*;
use scribe_log::snapshots::{Origin, PageSource, Visit};

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
        .args(["--exact", "killed_process", "--nocapture", "--test-threads=1"])
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
