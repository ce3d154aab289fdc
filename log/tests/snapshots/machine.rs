//! A machine to take snapshots of: RAM and a disk's clusters, and places to keep the snapshots in.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use scribe_log::snapshots::{
    NewSnapshot, Origin, PAGE_BYTES, PageMap, PageSink, PageSource, Part, RAM, SnapshotError, SnapshotInfo,
    Snapshots, Visit,
};
use tempfile::TempDir;

use crate::common;

/// The space of the machine's disk.
pub(crate) const DISK: u32 = 1;
/// Frames of RAM: enough for chunks by the dozen.
pub(crate) const FRAMES: u64 = 512;

/// Pages by number. In RAM there are only those that are not zero.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Machine {
    pub(crate) ram: BTreeMap<u64, Vec<u8>>,
    pub(crate) disk: BTreeMap<u64, Vec<u8>>,
    /// What was said to come, when it is restored.
    pub(crate) expected: PageMap,
}

/// A page that compresses a little, different for each `seed`; 0 is a page of zeros.
pub(crate) fn page(seed: u64) -> Vec<u8> {
    if seed == 0 {
        return vec![0; PAGE_BYTES];
    }
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = vec![0; PAGE_BYTES];
    for word in bytes.as_chunks_mut().0 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *word = (state & 0x00ff_0000_ffff_0000).to_le_bytes();
    }
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes
}

/// A page of almost nothing, so that files can be changed at every byte.
fn light(seed: u64) -> Vec<u8> {
    [&page(seed)[..16], &page(0)[16..]].concat()
}

impl Machine {
    /// A machine with half of its RAM in use.
    pub(crate) fn busy(seed: u64) -> Machine {
        let mut machine = Machine::default();
        for frame in (0..FRAMES).filter(|frame| frame / 8 % 2 == 0) {
            machine.ram.insert(frame, page((seed << 32) + frame + 1));
        }
        (3..9).for_each(|cluster| {
            drop(machine.disk.insert(cluster, page((seed << 32) + 0x1000_0000 + cluster)))
        });
        machine
    }

    /// A few pages with little in them: its files are small.
    pub(crate) fn small(seed: u64) -> Machine {
        let ram = [0, 1, 2, 9].map(|frame| (frame, light((seed << 32) + frame + 1)));
        let disk = [(5, page(0)), (6, light(seed))];
        Machine { ram: ram.into(), disk: disk.into(), expected: PageMap::default() }
    }

    /// What to add of it at `exit`.
    pub(crate) fn at(&self, exit: u64, origin: Origin) -> NewSnapshot {
        let parts = vec![
            Part { kind: "cpu".to_owned(), version: 1, bytes: exit.to_le_bytes().to_vec() },
            Part { kind: "devices".to_owned(), version: 3, bytes: vec![7; 300] },
            Part { kind: "nothing".to_owned(), version: 0, bytes: vec![] },
        ];
        NewSnapshot { position: common::at(exit), guest_time: exit * 2000, origin, parts }
    }
}

impl PageSource for Machine {
    fn spaces(&self) -> Vec<u32> {
        vec![RAM, DISK]
    }

    fn pages(&mut self, space: u32, visit: &mut Visit<'_>) -> io::Result<()> {
        if space == RAM {
            let mut run = vec![0; 64 * PAGE_BYTES];
            for first in (0..FRAMES).step_by(64) {
                run.fill(0);
                for (frame, content) in self.ram.range(first..first + 64) {
                    let at = usize::try_from(frame - first).unwrap() * PAGE_BYTES;
                    run[at..at + PAGE_BYTES].copy_from_slice(content);
                }
                visit(first, &run)?;
            }
            return Ok(());
        }
        self.disk.iter().try_for_each(|(cluster, bytes)| visit(*cluster, bytes))
    }
}

impl PageSink for Machine {
    fn begin(&mut self, pages: &PageMap) -> io::Result<()> {
        assert_eq!(self.expected, PageMap::default());
        self.expected = pages.clone();
        Ok(())
    }

    fn write(&mut self, space: u32, first_page: u64, bytes: &[u8]) -> io::Result<()> {
        let pages = if space == RAM { &mut self.ram } else { &mut self.disk };
        let (contents, []) = bytes.as_chunks::<PAGE_BYTES>() else { panic!("not whole pages") };
        for (number, content) in (first_page..).zip(contents) {
            assert!(pages.insert(number, content.to_vec()).is_none(), "page {number} comes twice");
        }
        Ok(())
    }
}

/// The directory of a recording that has no events.
pub(crate) struct Place {
    pub(crate) dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("header"), common::header().encode().unwrap()).unwrap();
        Place { dir }
    }

    pub(crate) fn open(&self) -> Snapshots {
        open(self.dir.path())
    }

    /// Names of the files of its snapshots.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("")).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("snapshots").join(name)
    }
}

/// Adds a snapshot of `machine` at `exit`.
pub(crate) fn add(snapshots: &mut Snapshots, exit: u64, origin: Origin, machine: &Machine) -> SnapshotInfo {
    snapshots.add(&machine.at(exit, origin), &mut machine.clone()).unwrap()
}

/// The snapshots of the recording in `dir`.
pub(crate) fn open(dir: &Path) -> Snapshots {
    let header = fs::read(dir.join("header")).unwrap();
    Snapshots::open(dir, u32::from_le_bytes(header[16..20].try_into().unwrap())).unwrap()
}

/// Loads the snapshot at `exit` and compares it with what it was made of.
pub(crate) fn assert_loads(snapshots: &Snapshots, exit: u64, machine: &Machine) {
    let back = load(snapshots, exit).unwrap();
    assert!(back.ram == machine.ram && back.disk == machine.disk, "exit {exit}");
}

/// Loads the snapshot at `exit`; its parts are as [`Machine::at`] makes them.
pub(crate) fn load(snapshots: &Snapshots, exit: u64) -> Result<Machine, SnapshotError> {
    let info = snapshots.at(common::at(exit)).unwrap();
    let mut back = Machine::default();
    let parts = snapshots.load(info, &mut back)?;
    assert_eq!(parts, back.at(exit, info.origin).parts);
    let held = back.ram.len() + back.disk.len();
    assert_eq!((back.expected.pages(), info.pages), (held as u64, held as u64));
    for (space, pages) in [(RAM, &back.ram), (DISK, &back.disk)] {
        assert!(back.expected.runs(space).iter().cloned().flatten().eq(pages.keys().copied()));
    }
    Ok(back)
}
