//! Recordings made smaller, which are the same recordings.

use std::fs;

use scribe_tests::lab::{KICKS, Lab};

use crate::{call, json, sleeper};

const EVERYTHING: [&str; 6] = ["--log-level", "3", "--snapshot-every", "1s", "--bookmark-every", "1s"];

#[test]
fn what_is_left_is_what_would_have_been_recorded() {
    let Some(lab) = Lab::on_soft("what_is_left_is_what_would_have_been_recorded") else { return };
    let recorded = sleeper(&lab, "a", &EVERYTHING);
    let plain = sleeper(&lab, "plain", &["--bookmark-every", "1s"]);
    assert!(plain.stdout == recorded.stdout);
    let identity = json(&lab, &["info", "a"])["identity"].clone();
    let shrunk = call(&lab, &["shrink", "a"]).ends_with(0);
    let shrunk = shrunk.shows("events ").shows(" exit, ").shows("dropped 3 snapshots").shows("in all ");
    let lines: Vec<String> = shrunk.console().lines().map(str::to_owned).collect();
    assert!(lines[1].starts_with("bookmarks ") && lines[1].ends_with(": dropped nothing"), "{lines:?}");
    for file in ["header", "events", "bookmarks"] {
        let read = |name: &str| fs::read(lab.path(name).join(file)).unwrap();
        assert!(read("a") == read("plain"), "{file}");
    }
    assert_eq!(json(&lab, &["info", "a"])["identity"], identity);
    assert_eq!(json(&lab, &["snapshot", "list", "a"])["usage"]["packs"], 0);
    lab.replays("a", &recorded, &KICKS);
    // Once more changes nothing.
    let again = call(&lab, &["shrink", "a"]).ends_with(0).console();
    assert_eq!(again.matches("dropped nothing").count(), 3, "{again}");
    // The guest sets its bookmarks still, and nobody minds.
    call(&lab, &["shrink", "a", "--bookmarks"])
        .ends_with(0)
        .shows("2 bookmarks of the guest")
        .shows("dropped 3 bookmarks");
    assert!(!lab.path("a/bookmarks").exists());
    assert_eq!(json(&lab, &["bookmark", "list", "a"])["bookmarks"].as_array().unwrap().len(), 0);
    lab.replays("a", &recorded, &KICKS);
    call(&lab, &["verify", "a"]).ends_with(0);
}

#[test]
fn a_branch_is_shrunk_to_what_it_starts_from() {
    let Some(lab) = Lab::on_soft("a_branch_is_shrunk_to_what_it_starts_from") else { return };
    sleeper(&lab, "a", &EVERYTHING);
    let live = ["live", "a", "--from", "1.5s", "-o", "b", "--pace", "max", "-q"];
    let branch = call(&lab, &[&live, &EVERYTHING[..]].concat()).ends_with(0).shows("two");
    let origins = |name: &str| {
        let document = json(&lab, &["snapshot", "list", name]);
        let all = document["snapshots"].as_array().unwrap().clone();
        all.iter().map(|it| it["origin"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(origins("b"), ["start", "recorded", "recorded"]);
    lab.copy_recording("b", "killed");
    call(&lab, &["shrink", "b"]).ends_with(0).shows("dropped 2 snapshots");
    assert_eq!(origins("b"), ["start"]);
    assert_eq!(json(&lab, &["info", "b"])["level"], 0);
    // Neither the branch nor what branches off it has lost anything: its parent is known by what it was.
    lab.replays("b", &branch, &KICKS);
    let parent = json(&lab, &["info", "b"])["header"]["parent"]["header"].clone();
    call(&lab, &["shrink", "a"]).ends_with(0);
    assert_eq!(json(&lab, &["info", "a"])["identity"], parent);
    call(&lab, &["verify", "b"]).ends_with(0);
    // Killed when the events were in their place and the header was not: it starts from its snapshot all the same.
    for (from, to) in [("b/header", "killed/header.new"), ("b/events", "killed/events")] {
        fs::copy(lab.path(from), lab.path(to)).unwrap();
    }
    fs::copy(lab.path("b/bookmarks"), lab.path("killed/bookmarks.new")).unwrap();
    lab.replays("killed", &branch, &[]);
    assert_eq!(origins("killed"), ["start", "recorded", "recorded"]);
    call(&lab, &["shrink", "killed"]).ends_with(0).shows("dropped 2 snapshots");
    for file in ["header", "events", "bookmarks"] {
        let read = |name: &str| fs::read(lab.path(name).join(file)).unwrap();
        assert!(read("killed") == read("b"), "{file}");
    }
    lab.replays("killed", &branch, &["--no-snapshots"]);
}

#[test]
fn what_cannot_be_shrunk_stays_as_it_is() {
    let Some(lab) = Lab::on_soft("what_cannot_be_shrunk_stays_as_it_is") else { return };
    sleeper(&lab, "a", &EVERYTHING);
    let files = || {
        let list =
            |folder: &str| fs::read_dir(lab.path(folder)).unwrap().map(|it| it.unwrap().path()).collect();
        let mut all: Vec<std::path::PathBuf> = list("a");
        all.extend::<Vec<_>>(list("a/snapshots"));
        all.sort();
        all.into_iter().filter(|it| it.is_file()).map(|it| (fs::read(&it).unwrap(), it)).collect::<Vec<_>>()
    };
    let good = fs::read(lab.path("a/events")).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    fs::write(lab.path("a/events"), bad).unwrap();
    let before = files();
    call(&lab, &["shrink", "a"]).ends_with(4).says_one_line();
    assert!(files() == before);
    fs::write(lab.path("a/events"), good).unwrap();
    fs::write(lab.path("a/incomplete"), "").unwrap();
    let before = files();
    call(&lab, &["shrink", "a"]).ends_with(1).says_one_line().says("its recorder was killed");
    assert!(files() == before);
}
