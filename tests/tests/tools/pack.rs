//! Recordings as one file: sent, used as they are, unpacked.

use std::fs;

use scribe_tests::lab::{KICKS, Lab, MEMORY, Outcome, image, in_checkout, text};

use crate::{call, digest, json, sleeper};

/// Records a guest with an image, or a kernel too, that is then taken away.
fn lost(lab: &Lab, name: &str, kernel: bool) -> Outcome {
    let (disk, vmlinux) = (lab.path("disk.img"), lab.path("vmlinux"));
    fs::copy(image(), &disk).unwrap();
    let mut arguments =
        vec!["record", "--engine", "soft", MEMORY, "--pace", "max", "--image", text(&disk), "-o", name];
    if kernel {
        fs::copy(in_checkout("target/guest/vmlinux"), &vmlinux).unwrap();
        arguments.extend(["--kernel", text(&vmlinux)]);
    }
    arguments.extend(["--", "sh", "-c", "bookmark mine; echo one; sleep 2; echo two"]);
    let recorded = call(lab, &arguments).ends_with(0).shows("two");
    fs::rename(disk, lab.path("moved.img")).unwrap();
    if kernel {
        fs::rename(vmlinux, lab.path("moved-vmlinux")).unwrap();
    }
    recorded
}

fn unpacked(lab: &Lab) -> usize {
    fs::read_dir(lab.path("home/.unpacked")).map_or(0, Iterator::count)
}

#[test]
fn a_pack_with_its_image_opens_anywhere() {
    let Some(lab) = Lab::on_soft("a_pack_with_its_image_opens_anywhere") else { return };
    let recorded = lost(&lab, "a", true);
    let pack = ["pack", "a", "--image", "--image-at", "moved.img", "-o", "a.scribe"];
    call(&lab, &pack).ends_with(4).says_one_line().says("vmlinux: it is gone; ");
    let pack = [&pack[..], &["--kernel-at", "moved-vmlinux"]].concat();
    call(&lab, &pack).ends_with(0).says("packed a into a.scribe: ");
    call(&lab, &pack).ends_with(1).says_one_line().says("--overwrite");
    let bytes = fs::read(lab.path("a.scribe")).unwrap();
    call(&lab, &[&pack[..], &["--overwrite"]].concat()).ends_with(0);
    assert!(fs::read(lab.path("a.scribe")).unwrap() == bytes, "the same recording is the same pack");
    for gone in ["moved-vmlinux", "moved.img"] {
        fs::remove_file(lab.path(gone)).unwrap();
    }
    fs::remove_dir_all(lab.path("a")).unwrap();

    lab.replays("a.scribe", &recorded, &KICKS);
    assert_eq!(unpacked(&lab), 1);
    let there = digest(&lab, "a.scribe", "1s", &[]);
    call(&lab, &["info", "a.scribe"]).ends_with(0).shows("bookmarks  1: 1 guest");
    call(&lab, &["log", "a.scribe"]).ends_with(0).shows("mine");
    call(&lab, &["verify", "a.scribe"]).ends_with(0).shows("verified: ");
    call(&lab, &["bookmark", "list", "a.scribe"]).ends_with(0).shows("mine");
    call(&lab, &["live", "a.scribe", "--from", "mine", "-o", "b", "-q", "--pace", "max"])
        .ends_with(0)
        .shows("two");
    for change in [
        &["bookmark", "add", "x", "a.scribe", "--at", "1s"][..],
        &["bookmark", "rm", "x", "a.scribe"],
        &["snapshot", "add", "a.scribe", "--at", "1s"],
        &["snapshot", "rm", "a.scribe", "--all"],
        &["shrink", "a.scribe"],
    ] {
        call(&lab, change).ends_with(1).says_one_line().says("unpack it first");
    }
    assert_eq!(unpacked(&lab), 1, "all of them use the same");
    assert!(fs::read(lab.path("a.scribe")).unwrap() == bytes);
    assert_eq!(
        json(&lab, &["ls"])["recordings"].as_array().unwrap().len(),
        1,
        "the branch, which is the latest"
    );

    call(&lab, &["unpack", "a.scribe", "-o", "c"]).ends_with(0).says("unpacked c");
    call(&lab, &["unpack", "a.scribe", "-o", "c"]).ends_with(1).says_one_line().says("something already");
    fs::remove_file(lab.path("a.scribe")).unwrap();
    lab.replays("c", &recorded, &[]);
    assert_eq!(digest(&lab, "c", "1s", &[]), there);
    call(&lab, &["bookmark", "add", "x", "c", "--at", "1s"]).ends_with(0);
    call(&lab, &["diff", "c", "c"]).ends_with(0);
    // Packed again it has its image still.
    call(&lab, &["pack", "c", "--image", "-o", "d.scribe"]).ends_with(0);
    call(&lab, &["diff", "c", "d.scribe"]).ends_with(0);
    // Another recording in its place does not get the old one's image.
    let guest = ["record", "--engine", "soft", MEMORY, "--pace", "max", "-o", "c", "--overwrite", "--image"];
    let other = call(&lab, &[&guest[..], &[text(&image()), "--", "echo", "other"]].concat()).ends_with(0);
    lab.replays("c", &other, &[]);
}

#[test]
fn a_pack_without_its_image_asks_for_it() {
    let Some(lab) = Lab::on_soft("a_pack_without_its_image_asks_for_it") else { return };
    let recorded = lost(&lab, "a", false);
    call(&lab, &["pack", "a", "-o", "a.scribe"]).ends_with(0);
    assert!(fs::metadata(lab.path("a.scribe")).unwrap().len() < 4096);
    lab.replay("a.scribe", &[]).ends_with(4).says_one_line().says("disk.img");
    lab.replays("a.scribe", &recorded, &["--image", "moved.img"]);
    fs::write(lab.path("other.img"), vec![0; 1 << 20]).unwrap();
    call(&lab, &["pack", "a", "--image", "--image-at", "other.img", "-o", "b.scribe"])
        .ends_with(4)
        .says_one_line()
        .says("it has changed since the recording was made");
    assert!(!lab.path("b.scribe").exists());
}

#[test]
fn a_branch_is_packed_with_what_it_starts_from() {
    let Some(lab) = Lab::on_soft("a_branch_is_packed_with_what_it_starts_from") else { return };
    sleeper(&lab, "a", &[]);
    let live = ["live", "a", "--from", "1.5s", "-o", "b", "--pace", "max", "-q", "--snapshot-every", "1s"];
    let branch = call(&lab, &live).ends_with(0).shows("two");
    call(&lab, &["pack", "b", "-o", "b.scribe"]).ends_with(0);
    call(&lab, &["pack", "b", "--snapshots", "-o", "all.scribe"]).ends_with(0);
    let origins = |name: &str| {
        let document = json(&lab, &["snapshot", "list", name]);
        let all = document["snapshots"].as_array().unwrap().clone();
        all.iter().map(|it| it["origin"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(origins("b.scribe"), ["start"]);
    assert_eq!(origins("all.scribe"), origins("b"));
    for gone in ["a", "b"] {
        fs::remove_dir_all(lab.path(gone)).unwrap();
    }
    lab.replays("b.scribe", &branch, &KICKS);
    lab.replays("all.scribe", &branch, &[]);
}

#[test]
fn two_at_once_use_what_one_of_them_unpacks() {
    let Some(lab) = Lab::on_soft("two_at_once_use_what_one_of_them_unpacks") else { return };
    let recorded = sleeper(&lab, "a", &[]);
    call(&lab, &["pack", "a", "--image", "-o", "a.scribe"]).ends_with(0);
    let all: Vec<_> = (0..4).map(|_| lab.call(&["replay", "a.scribe"]).start()).collect();
    for running in all {
        let outcome = running.finish().ends_with(0);
        assert!(outcome.stdout == recorded.stdout, "{outcome}");
    }
    assert_eq!(unpacked(&lab), 1);
}

#[test]
fn a_damaged_pack_is_4_and_leaves_nothing() {
    let Some(lab) = Lab::on_soft("a_damaged_pack_is_4_and_leaves_nothing") else { return };
    sleeper(&lab, "a", &[]);
    call(&lab, &["pack", "a", "--image", "-o", "a.scribe"]).ends_with(0);
    let good = fs::read(lab.path("a.scribe")).unwrap();
    for at in [4, 5, 1000, good.len() / 2, good.len() - 41, good.len() - 40, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(lab.path("bad.scribe"), bad).unwrap();
        lab.replay("bad.scribe", &["-q"]).ends_with(4).says_one_line().says("bad.scribe: damaged: ");
        call(&lab, &["unpack", "bad.scribe", "-o", "b"]).ends_with(4).says_one_line();
        assert!(!lab.path("b").exists());
    }
    fs::write(lab.path("bad.scribe"), &good[..good.len() - 1]).unwrap();
    lab.replay("bad.scribe", &["-q"]).ends_with(4).says_one_line();
    fs::write(lab.path("bad.scribe"), [&good[..], b"x"].concat()).unwrap();
    lab.replay("bad.scribe", &["-q"]).ends_with(4).says_one_line();
    fs::write(lab.path("bad.scribe"), "something else").unwrap();
    lab.replay("bad.scribe", &["-q"]).ends_with(4).says_one_line().says("not a recording");
    call(&lab, &["unpack", "bad.scribe"]).ends_with(4).says_one_line().says("not a packed recording");
    call(&lab, &["unpack", "nothing.scribe"]).ends_with(4).says_one_line().says("no such file");
    let recordings = fs::read_dir(lab.path("home/.unpacked")).unwrap();
    let whole = recordings.filter(|place| place.as_ref().unwrap().path().join("recording").exists());
    assert_eq!(whole.count(), 0);
    assert!(fs::read_dir(lab.path("home")).unwrap().all(|it| it.unwrap().file_name() != "bad-1"));
    lab.replay("a.scribe", &["-q"]).ends_with(0);
}
