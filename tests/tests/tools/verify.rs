//! Recordings that are what they say, and others that are found out.

use std::fs;
use std::io;
use std::path::Path;

use scribe_log::snapshots::{
    NewSnapshot, Origin, PageMap, PageSink, PageSource, RAM, SnapshotInfo, Snapshots, Visit,
};
use scribe_log::{Body, Event, Header, Recording, Writer};
use scribe_tests::lab::{Lab, image};

use crate::{call, sleeper};

/// All pages of a snapshot: space, number, contents.
#[derive(Default)]
struct Pages(std::collections::BTreeMap<(u32, u64), Vec<u8>>);

impl PageSink for Pages {
    fn begin(&mut self, _pages: &PageMap) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, space: u32, first: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.extend((first..).zip(bytes.chunks(4096)).map(|(page, bytes)| ((space, page), bytes.to_vec())));
        Ok(())
    }
}

impl PageSource for Pages {
    fn spaces(&self) -> Vec<u32> {
        vec![0, 1]
    }

    fn pages(&mut self, space: u32, visit: &mut Visit<'_>) -> io::Result<()> {
        self.0.range((space, 0)..(space + 1, 0)).try_for_each(|((_, page), bytes)| visit(*page, bytes))
    }
}

/// Replaces the first snapshot of the recording in `dir` by one with other contents, its checksums right.
fn forge(dir: &Path, change: impl FnOnce(&mut NewSnapshot, &mut Pages)) -> SnapshotInfo {
    let crc = Recording::open(dir).unwrap().header_crc();
    let mut snapshots = Snapshots::open(dir, crc).unwrap();
    let info = snapshots.list()[0].clone();
    let mut pages = Pages::default();
    let parts = snapshots.load(&info, &mut pages).unwrap();
    let mut new =
        NewSnapshot { position: info.position, guest_time: info.guest_time, origin: Origin::Asked, parts };
    change(&mut new, &mut pages);
    assert!(snapshots.remove(info.position).unwrap());
    snapshots.add(&new, &mut pages).unwrap()
}

fn verify(lab: &Lab, arguments: &[&str]) -> scribe_tests::lab::Outcome {
    call(lab, &[&["verify"], arguments].concat())
}

#[test]
fn a_good_recording_is_verified() {
    let Some(lab) = Lab::on_soft("a_good_recording_is_verified") else { return };
    let recorded =
        sleeper(&lab, "a", &["--snapshot-every", "1s", "--log-level", "3", "--digest-every", "256"]);
    for place in ["exit:900+2", "1.5s"] {
        call(&lab, &["snapshot", "add", "a", "--at", place]).ends_with(0);
    }
    let before = fs::read_dir(lab.path("a/snapshots")).unwrap().count();
    for jobs in ["1", "2", "9"] {
        let outcome = verify(&lab, &["a", "--jobs", jobs]).ends_with(0).shows("verified: a\n");
        let console = outcome.shows("; the guest powered off with status 0").console();
        let stretches = console.lines().filter(|line| line.starts_with("replayed from its snapshot exit:"));
        assert_eq!(stretches.count(), 5, "{console}");
        assert!(console.contains("snapshot exit:900+2 to exit:"), "{console}");
    }
    let sums = verify(&lab, &["a", "--checksums"]).ends_with(0).shows("verified: a (checksums)");
    assert!(!sums.console().contains("replayed"), "{sums}");
    // Nothing is kept.
    assert_eq!(fs::read_dir(lab.path("a/snapshots")).unwrap().count(), before);
    // A branch, and what is left of a killed recorder.
    call(&lab, &["live", "a", "--from", "1.5s", "-o", "b", "--pace", "max", "-q"]).ends_with(0);
    call(&lab, &["snapshot", "add", "b", "--at", "2.5s"]).ends_with(0);
    verify(&lab, &["b"]).ends_with(0).shows("verified: b").shows("replayed from its snapshot");
    lab.replays("a", &recorded, &[]);
}

#[test]
fn what_is_left_of_a_killed_recorder_is_verified() {
    let Some(lab) = Lab::on_soft("what_is_left_of_a_killed_recorder_is_verified") else { return };
    let running = lab.recorder("a", &["--memory=64M", "--bookmark-every", "1s"]).typed().start();
    running.waits_for("# ");
    let sealed = || Recording::open(&lab.path("a")).is_ok_and(|recording| recording.sealed_end().is_some());
    assert!(scribe_tests::lab::wait_until(60, sealed), "nothing sealed");
    running.signal("KILL");
    running.finish();
    verify(&lab, &["a"]).ends_with(0).shows("verified: a, up to where it was last sealed");
}

#[test]
fn a_wrong_snapshot_is_found() {
    let Some(lab) = Lab::on_soft("a_wrong_snapshot_is_found") else { return };
    sleeper(&lab, "good", &["--snapshot-every", "1s"]);
    type Change = fn(&mut NewSnapshot, &mut Pages);
    let cases: [(&str, i32, Change); 4] = [
        ("RAM differs", 3, |_, pages| {
            let page = pages.0.range_mut((RAM, 2000)..).next().unwrap().1;
            page[99] ^= 1;
        }),
        ("the disk's contents differs", 3, |_, pages| drop(pages.0.insert((1, 7), vec![1; 4096]))),
        // The state of one place under the name of another.
        ("its position is not that of its snapshot", 4, |new, _| new.position.exit += 1),
        ("the saved state has no part", 4, |new, _| new.parts.retain(|part| part.kind != "i8254")),
    ];
    for (at, (words, code, change)) in cases.into_iter().enumerate() {
        let name = format!("bad-{at}");
        lab.copy_recording("good", &name);
        let info = forge(&lab.path(&name), change);
        // Its checksums are right.
        verify(&lab, &[&name, "--checksums"]).ends_with(0);
        let outcome = verify(&lab, &[&name]).ends_with(code).says_one_line().says(words);
        let outcome = outcome.says(&format!("the snapshot at {} is wrong", info.position));
        assert!(!outcome.console().contains("verified"), "{outcome}");
        // It says what to do, and that helps.
        let remove = outcome.stderr.split('`').nth(1).unwrap().to_owned();
        let words: Vec<&str> = remove.split_whitespace().skip(1).collect();
        call(&lab, &words).ends_with(0);
        verify(&lab, &[&name]).ends_with(0);
    }
}

#[test]
fn damage_is_found_wherever_it_is() {
    let Some(lab) = Lab::on_soft("damage_is_found_wherever_it_is") else { return };
    sleeper(&lab, "a", &["--snapshot-every", "1s", "--bookmark-every", "1s"]);
    verify(&lab, &["a", "--checksums"]).ends_with(0);
    let mut files = vec!["header".to_owned(), "events".into(), "bookmarks".into()];
    let snapshots = fs::read_dir(lab.path("a/snapshots")).unwrap();
    files.extend(snapshots.map(|it| format!("snapshots/{}", it.unwrap().file_name().to_str().unwrap())));
    files.retain(|file| file != "snapshots/lock");
    assert!(files.len() >= 6, "{files:?}");
    for file in &files {
        let path = lab.path("a").join(file);
        let good = fs::read(&path).unwrap();
        for part in 0..6 {
            let at = (good.len() - 1) * part / 5;
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            fs::write(&path, bad).unwrap();
            let outcome = verify(&lab, &["a", "--checksums"]).ends_with(4);
            assert!(outcome.stderr.starts_with("scribe-vmm: "), "{file} {at}: {outcome}");
        }
        fs::write(&path, good).unwrap();
    }
    verify(&lab, &["a", "--checksums"]).ends_with(0);
    // Two things at once are both named.
    for file in ["bookmarks", "events"] {
        let path = lab.path("a").join(file);
        let mut bytes = fs::read(&path).unwrap();
        bytes[20] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    verify(&lab, &["a"]).ends_with(4);
}

#[test]
fn a_changed_image_is_found_though_its_digest_is_remembered() {
    let Some(lab) = Lab::on_soft("a_changed_image_is_found_though_its_digest_is_remembered") else { return };
    let copy = lab.path("disk.img");
    fs::copy(image(), &copy).unwrap();
    let guest =
        ["record", "--engine", "soft", "--memory=64M", "--pace", "max", "-o", "a", "--image", "disk.img"];
    call(&lab, &[&guest[..], &["--", "true"]].concat()).ends_with(0);
    verify(&lab, &["a", "--checksums"]).ends_with(0).shows("disk.img");
    // A bit rots: no time of the file changes, so the digest that is remembered is taken for right.
    let metadata = fs::metadata(&copy).unwrap();
    let digests = lab.path("home/image-digests.json");
    let mut bytes = fs::read(&copy).unwrap();
    let at = bytes.len() - 5000;
    bytes[at] ^= 1;
    fs::write(&copy, bytes).unwrap();
    fs::File::options().write(true).open(&copy).unwrap().set_modified(metadata.modified().unwrap()).unwrap();
    let changed = fs::metadata(&copy).unwrap();
    let (old, new) = (times(&metadata), times(&changed));
    let text = fs::read_to_string(&digests).unwrap();
    assert!(text.contains(&old), "{text} {old}");
    fs::write(&digests, text.replace(&old, &new)).unwrap();
    call(&lab, &["replay", "-q", "a"]).ends_with(0);
    verify(&lab, &["a"]).ends_with(4).says_one_line().says("the image's contents have changed");
    call(&lab, &["replay", "-q", "a"]).ends_with(4);
}

/// The times in the form of the remembered digests.
fn times(metadata: &fs::Metadata) -> String {
    use std::os::unix::fs::MetadataExt;
    let m = metadata;
    format!("[{},{},{},{}]", m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec())
}

#[test]
fn a_recording_of_something_else_diverges() {
    let Some(lab) = Lab::on_soft("a_recording_of_something_else_diverges") else { return };
    sleeper(&lab, "good", &["--snapshot-every", "1s"]);
    let mut events = lab.events("good");
    let header = Header::read(&lab.path("good/header")).unwrap();
    let changed = events.iter_mut().find_map(|event| match &mut event.body {
        Body::Checkpoint { registers, .. } => Some(registers),
        _ => None,
    });
    *changed.unwrap() ^= 1;
    let mut writer = Writer::create(&lab.path("bad"), &header, false).unwrap();
    let end: Event = events.pop().unwrap();
    events.iter().for_each(|event| writer.append(event).unwrap());
    writer.close(&end).unwrap();
    verify(&lab, &["bad", "--checksums"]).ends_with(0);
    verify(&lab, &["bad"]).ends_with(3).says("diverged");
}
