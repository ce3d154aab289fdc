//! Flipped bits anywhere in any file of a recording: found by whoever reads that file, never taken for other contents, and
//! never a panic.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests, also outside of test functions")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use scribe_log::snapshots::{PageMap, PageSink, SnapshotError, SnapshotInfo, Snapshots};
use scribe_log::{Bookmark, BookmarkOrigin, Bookmarks, Event, Header, Listed, Position, Recording, State};
use scribe_tests::bench::Bench;
use scribe_tests::engines::{self, Under};
use scribe_tests::guests;
use scribe_tests::lab::{Chance, Lab, MEMORY, count, figure};
use scribe_tests::tiny;
use scribe_vmm::session::files::of_bytes;
use scribe_vmm::session::journal::Noting;
use scribe_vmm::session::replay::Target;
use scribe_vmm::session::start::Connections;

/// A digest of all pages of a snapshot.
#[derive(Default)]
struct Pages(BTreeMap<(u32, u64), Vec<u8>>);

impl PageSink for Pages {
    fn begin(&mut self, _pages: &PageMap) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, space: u32, first_page: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.insert((space, first_page), bytes.to_vec());
        Ok(())
    }
}

impl Pages {
    /// Runs come in any order and size.
    fn digest(&self) -> [u8; 32] {
        let mut all = Vec::new();
        for ((space, first), bytes) in &self.0 {
            for (page, bytes) in (*first..).zip(bytes.chunks(4096)) {
                all.extend_from_slice(&space.to_le_bytes());
                all.extend_from_slice(&page.to_le_bytes());
                all.extend_from_slice(bytes);
            }
        }
        of_bytes(&all)
    }
}

/// Everything a recording holds but for its snapshots.
#[derive(Debug, PartialEq)]
struct Contents {
    header: Header,
    state: State,
    events: Vec<Event>,
    bookmarks: Vec<Listed>,
}

fn read(directory: &Path) -> Result<Contents, String> {
    let text = |error: scribe_log::OpenError| error.to_string();
    let recording = Recording::open(directory).map_err(text)?;
    let events = recording.events().collect::<Result<Vec<Event>, _>>().map_err(text)?;
    let bookmarks = recording.bookmarks().map_err(text)?.iter().cloned().collect();
    Ok(Contents { header: recording.header().clone(), state: recording.state(), events, bookmarks })
}

fn snapshots(directory: &Path) -> Result<Snapshots, String> {
    let recording = Recording::open(directory).map_err(|error| error.to_string())?;
    let snapshots = Snapshots::open(directory, recording.header_crc()).map_err(|error| error.to_string())?;
    match snapshots.damaged().first() {
        Some(error) => Err(error.to_string()),
        None => Ok(snapshots),
    }
}

/// What is in a snapshot, as a digest, with what there is to say of it.
fn snapshot(snapshots: &Snapshots, info: &SnapshotInfo) -> Result<(SnapshotInfo, Vec<u8>, [u8; 32]), String> {
    let mut pages = Pages::default();
    let parts = snapshots.load(info, &mut pages).map_err(|error| error.to_string())?;
    let parts = parts.into_iter().flat_map(|part| [part.kind.as_bytes(), &part.bytes].concat()).collect();
    Ok((info.clone(), parts, pages.digest()))
}

/// A snapshot: what it is, its parts, and a digest of its pages.
type Held = (SnapshotInfo, Vec<u8>, [u8; 32]);

/// All snapshots, and what whoever verifies them finds.
fn all_snapshots(directory: &Path) -> Result<Vec<Held>, String> {
    let snapshots = snapshots(directory)?;
    if let Some(error) = snapshots.verify().first() {
        return Err(error.to_string());
    }
    snapshots.list().iter().map(|info| snapshot(&snapshots, info)).collect()
}

/// All files of a recording that hold anything.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in [directory.to_owned(), directory.join("snapshots")] {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        found.extend(entries.filter(|path| path.is_file() && path.metadata().unwrap().len() > 0));
    }
    found.sort();
    found
}

fn is_snapshots(path: &Path) -> bool {
    path.parent().unwrap().ends_with("snapshots")
}

/// A file with bits that can be flipped and flipped back.
struct Flips {
    path: PathBuf,
    good: Vec<u8>,
}

impl Flips {
    fn of(path: &Path) -> Self {
        Self { path: path.to_owned(), good: fs::read(path).unwrap() }
    }

    fn flip(&self, at: usize, bit: usize) {
        self.write(at, self.good[at] ^ 1 << bit);
    }

    fn restore(&self, at: usize) {
        self.write(at, self.good[at]);
    }

    fn write(&self, at: usize, byte: u8) {
        use std::os::unix::fs::FileExt;
        let file = fs::File::options().write(true).open(&self.path).unwrap();
        file.write_all_at(&[byte], at as u64).unwrap();
    }
}

/// Expects that `read` fails while bit `bit` of byte `at` is flipped.
#[track_caller]
fn is_found<T>(flips: &Flips, at: usize, bit: usize, read: impl FnOnce() -> Result<T, String>) {
    flips.flip(at, bit);
    let place = format!("{}, byte {at}, bit {bit}", flips.path.display());
    match catch_unwind(AssertUnwindSafe(read)) {
        Err(_) => panic!("{place}: a panic"),
        Ok(Ok(_)) => panic!("{place}: not found"),
        Ok(Err(error)) => assert!(error.lines().count() == 1 && !error.is_empty(), "{place}: {error}"),
    }
    flips.restore(at);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "optimised only: scripts/test.sh")]
fn a_flipped_bit_in_a_small_recording_is_found() {
    engines::on(Under::Counted, "a_flipped_bit_in_a_small_recording_is_found", || {
        let bench = Bench::new();
        let guest = bench.guest(|a| {
            tiny::message(a, "begun")?;
            tiny::ask(a, 0x28, 0)?;
            guests::ticks(a, 100)
        });
        let noting = Noting {
            bookmark_every: Some(200_000_000),
            snapshot_every: Some(300_000_000),
            ..Noting::default()
        };
        let recorded = bench.record_noting("a", &guest, Connections::none(), noting);
        let directory = bench.path("a");
        let mut player = bench.theatre("a").player(Some(Target::Time(500_000_000)), Default::default());
        player.run(Target::Time(500_000_000), &mut scribe_vmm::session::console::Console::quiet()).unwrap();
        player.take_snapshot(scribe_log::snapshots::Origin::Asked).unwrap();
        let added = Bookmark {
            name: "added".into(),
            position: Position::exit(50),
            guest_time: None,
            origin: BookmarkOrigin::Added,
        };
        Bookmarks::open(&directory).unwrap().add(added).unwrap();

        let good = read(&directory).unwrap();
        let held = all_snapshots(&directory).unwrap();
        assert!(good.bookmarks.len() >= 6 && held.len() >= 4, "{:?}, {}", good.bookmarks, held.len());
        let step = count("SCRIBE_TEST_STEP", 3);
        let mut bytes = 0;
        for path in files(&directory) {
            let flips = Flips::of(&path);
            let step = if is_snapshots(&path) { step } else { 1 };
            for at in (0..flips.good.len()).step_by(step) {
                if is_snapshots(&path) {
                    is_found(&flips, at, at % 8, || all_snapshots(&directory));
                } else {
                    is_found(&flips, at, at % 8, || read(&directory));
                }
                bytes += 1;
            }
        }
        assert_eq!(read(&directory).unwrap(), good);
        assert!(all_snapshots(&directory).unwrap() == held);
        bench.replay_equal("a", &recorded, 1);
        figure(
            "flipped bits of a small recording",
            format!("one in each of {bytes} bytes of {} files: found each time", files(&directory).len()),
        );
    });
}

/// Where the chunks of a pack begin.
fn chunks(pack: &[u8]) -> BTreeSet<usize> {
    let magic = b"SCRCHNK1";
    (0..pack.len() - magic.len()).filter(|at| &pack[*at..*at + magic.len()] == magic).collect()
}

/// Flips bits in many chunks at once: each of them must be named. Gives how many.
fn flip_in_chunks(directory: &Path, flips: &Flips, chance: &mut Chance, most: usize) -> usize {
    let chunks = chunks(&flips.good);
    let chunk_of = |at: usize| chunks.range(..=at).next_back().copied();
    let mut flipped: BTreeMap<usize, usize> = BTreeMap::new();
    for _ in 0..most {
        let at = chance.below(flips.good.len());
        // The pack's own head is for the single ones.
        let Some(chunk) = chunk_of(at) else { continue };
        flipped.entry(chunk).or_insert(at);
    }
    flipped.values().for_each(|at| flips.flip(*at, chance.below(8)));
    let snapshots = snapshots(directory).unwrap();
    let found: BTreeSet<usize> = catch_unwind(AssertUnwindSafe(|| snapshots.verify()))
        .unwrap_or_else(|_| panic!("a panic: {flipped:?}"))
        .iter()
        .map(|error| match error {
            SnapshotError::Corrupt { offset, .. } => usize::try_from(*offset).unwrap(),
            other => panic!("{other}"),
        })
        .collect();
    let wanted: BTreeSet<usize> = flipped.keys().copied().collect();
    assert_eq!(found, wanted, "{flipped:?}");
    let any = &snapshots.list()[chance.below(snapshots.list().len())];
    let loaded = snapshot(&snapshots, any);
    flipped.values().for_each(|at| flips.restore(*at));
    if let Ok(loaded) = loaded {
        assert!(loaded == snapshot(&snapshots, any).unwrap(), "{flipped:?}: {} is another", any.position);
    }
    flipped.len()
}

#[test]
#[cfg_attr(debug_assertions, ignore = "optimised only: scripts/test.sh")]
fn a_flipped_bit_in_a_big_recording_is_found() {
    const NAME: &str = "a_flipped_bit_in_a_big_recording_is_found";
    let Some(lab) = Lab::on_soft(NAME) else { return };
    let noted = ["--log-level", "3", "--bookmark-every", "10ms", "--snapshot-every", "500ms"];
    lab.record("big", &[&noted[..], &[MEMORY, "--pace", "max", "--", "/bin/demo"]].concat());
    let directory = lab.path("big");
    let good = read(&directory).unwrap();
    let held = all_snapshots(&directory).unwrap();
    assert!(good.events.len() > 30_000 && good.bookmarks.len() > 50 && held.len() > 1);
    let mut chance = Chance::new(NAME);
    let wanted = count("SCRIBE_TEST_FLIPS", 200);
    let all: Vec<Flips> = files(&directory).iter().map(|path| Flips::of(path)).collect();
    let is_pack = |flips: &&Flips| flips.good.starts_with(b"SCRPAGES");
    let pack = all.iter().find(is_pack).unwrap();
    let others: Vec<&Flips> = all.iter().filter(|flips| !is_pack(flips)).collect();
    // Half of them anywhere, which is in the pages, half in the rest, by bytes; each file is met.
    let total: usize = others.iter().map(|flips| flips.good.len()).sum();
    let mut found = BTreeMap::new();
    for number in 0..wanted / 2 {
        let mut at = chance.below(total);
        let mut file = 0;
        while at >= others[file].good.len() {
            at -= others[file].good.len();
            file += 1;
        }
        if number % 4 == 0 {
            file = (number / 4) % others.len();
            at = chance.below(others[file].good.len());
        }
        let flips = others[file];
        if is_snapshots(&flips.path) {
            is_found(flips, at, chance.below(8), || {
                let snapshots = snapshots(&directory)?;
                snapshots
                    .list()
                    .iter()
                    .map(|info| snapshots.parts(info))
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|e| e.to_string())
            });
        } else {
            is_found(flips, at, chance.below(8), || read(&directory));
        }
        *found.entry(flips.path.file_name().unwrap().to_owned()).or_insert(0) += 1;
    }
    for at in 0..20 {
        is_found(pack, at, at % 8, || all_snapshots(&directory));
    }
    let mut in_pages = 20;
    while in_pages < wanted / 2 {
        in_pages += flip_in_chunks(&directory, pack, &mut chance, 50.min(wanted / 2 - in_pages));
    }
    assert_eq!(read(&directory).unwrap(), good);
    assert!(all_snapshots(&directory).unwrap() == held);
    let bytes: usize = all.iter().map(|flips| flips.good.len()).sum();
    figure(
        "flipped bits of a big recording",
        format!(
            "{} random places of {bytes} bytes ({} events, {} bookmarks, {} snapshots), {in_pages} of them in pages: \
             found each time",
            in_pages + found.values().sum::<usize>(),
            good.events.len(),
            good.bookmarks.len(),
            held.len()
        ),
    );
}

#[test]
#[cfg_attr(debug_assertions, ignore = "optimised only: scripts/test.sh")]
fn a_damaged_recording_is_never_replayed_wrongly() {
    const NAME: &str = "a_damaged_recording_is_never_replayed_wrongly";
    let Some(lab) = Lab::on_soft(NAME) else { return };
    let noted = ["--bookmark-every", "10ms", "--snapshot-every", "10ms"];
    let guest = [MEMORY, "--pace", "max", "--", "sh", "-c", "forks; entropy; floats"];
    lab.record("a", &[&noted[..], &guest].concat());
    let place = format!("exit:{}+5", lab.end("a").exits - 40);
    let whole = ["--digest"];
    let seek = ["--to", &place, "--digest"];
    let mark = ["--to", "every-2", "--digest"];
    let runs = [&whole[..], &seek, &mark];
    // Replays that keep no new snapshots, for there are enough.
    let expected = runs.map(|options| lab.replay("a", options).ends_with(0));
    let digest = |text: &str| text.lines().find(|line| line.contains("digest at")).map(str::to_owned);
    let mut chance = Chance::new(NAME);
    let mut codes: BTreeMap<i32, usize> = BTreeMap::new();
    let samples = count("SCRIBE_TEST_SAMPLES", 30);
    for number in 0..samples {
        let files = files(&lab.path("a"));
        let flips = Flips::of(&files[number % files.len()]);
        let at = chance.below(flips.good.len());
        let (options, expected) = (runs[number % 3], &expected[number % 3]);
        flips.flip(at, chance.below(8));
        let outcome = lab.replay("a", options);
        flips.restore(at);
        let place = format!("{}, byte {at}, {options:?}: {outcome}", flips.path.display());
        *codes.entry(outcome.code).or_default() += 1;
        match outcome.code {
            4 => {
                assert!(outcome.stdout.is_empty() || options == whole, "{place}");
                assert!(digest(&outcome.stderr).is_none(), "{place}");
                outcome.says_one_line();
            }
            // It does not read what was damaged, or says that it does without.
            0 => {
                assert_eq!(digest(&outcome.stderr), digest(&expected.stderr), "{place}");
                assert!(
                    expected.stdout.ends_with(&outcome.stdout) || outcome.stdout.ends_with(&expected.stdout),
                    "{place}"
                );
            }
            _ => panic!("{place}"),
        }
    }
    assert!(codes.get(&4).is_some_and(|count| *count >= samples / 4), "{codes:?}");
    figure(
        "damaged recordings replayed by the program",
        format!("{samples}; exit codes {codes:?}, never other contents"),
    );
}
