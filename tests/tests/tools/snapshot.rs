//! Snapshots that somebody asks for, and their end.

use scribe_tests::lab::Lab;
use serde_json::Value;

use crate::{call, digest, json, sleeper};

fn list(lab: &Lab, name: &str) -> Vec<Value> {
    json(lab, &["snapshot", "list", name])["snapshots"].as_array().unwrap().clone()
}

fn origins(lab: &Lab, name: &str) -> Vec<String> {
    list(lab, name).iter().map(|it| it["origin"].as_str().unwrap().to_owned()).collect()
}

fn bytes(lab: &Lab, name: &str) -> u64 {
    let entries = std::fs::read_dir(lab.path(name).join("snapshots")).unwrap();
    entries.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn a_snapshot_changes_nothing_but_the_way() {
    let Some(lab) = Lab::on_soft("a_snapshot_changes_nothing_but_the_way") else { return };
    let recorded = sleeper(&lab, "a", &[]);
    let add = |place: &str| call(&lab, &["snapshot", "add", "a", "--at", place]).ends_with(0);
    // Between two exits, in the middle of a sleep, at a bookmark.
    let places = ["exit:900+2", "1.5s", "mine#2"];
    let without = places.map(|place| digest(&lab, "a", place, &["--no-snapshots"]));
    add("exit:900+2").says("snapshot at exit:900+2, guest time 0.");
    add("1.5s").says("snapshot at exit:");
    add("mine#2").says("page");
    let snapshots = list(&lab, "a");
    assert_eq!(origins(&lab, "a"), ["asked"; 3]);
    assert_eq!(snapshots[0]["position"], "exit:900+2");
    let slept = snapshots[1]["guest_time"].as_u64().unwrap();
    assert!((1_000_000_000..1_500_000_000).contains(&slept), "{slept}: where it went to sleep");
    for (place, without) in places.iter().zip(&without) {
        assert_eq!(digest(&lab, "a", place, &[]), *without, "{place}");
    }
    for place in ["1.2s", "2.9s", "exit:1100"] {
        let without = digest(&lab, "a", place, &["--no-snapshots"]);
        assert_eq!(digest(&lab, "a", place, &[]), without, "{place}");
    }
    lab.replays_equal("a", &recorded);
    // A second one at the same place is none.
    add("1.5s").says("already");
    add("exit:900+2").says("already");
    assert_eq!(list(&lab, "a").len(), 3);
    let text = call(&lab, &["snapshot", "list", "a"]).ends_with(0).shows("3 snapshots, ").console();
    assert_eq!(text.lines().count(), 5, "{text}");
}

#[test]
fn an_automatic_snapshot_becomes_one_that_was_asked_for() {
    let Some(lab) = Lab::on_soft("an_automatic_snapshot_becomes_one_that_was_asked_for") else { return };
    lab.record("a", &["--pace", "max", "--", "/bin/demo"]);
    lab.replay("a", &["--quiet"]).ends_with(0);
    let automatic = list(&lab, "a");
    assert!(!automatic.is_empty());
    assert!(automatic.iter().all(|it| it["origin"] == "automatic"), "{automatic:?}");
    let position = automatic[0]["position"].as_str().unwrap();
    call(&lab, &["snapshot", "add", "a", "--at", position]).ends_with(0);
    assert_eq!(origins(&lab, "a")[0], "asked");
    call(&lab, &["snapshot", "rm", "a", "--automatic"]).ends_with(0);
    assert_eq!(origins(&lab, "a"), ["asked"]);
}

#[test]
fn what_is_removed_gives_its_room_back() {
    let Some(lab) = Lab::on_soft("what_is_removed_gives_its_room_back") else { return };
    sleeper(&lab, "a", &["--snapshot-every", "1s"]);
    assert_eq!(origins(&lab, "a"), ["recorded"; 3]);
    let last = list(&lab, "a")[2].clone();
    let before = bytes(&lab, "a");
    let rm = |options: &[&str]| call(&lab, &[&["snapshot", "rm", "a"], options].concat());
    let time = format!("{}ns", list(&lab, "a")[0]["guest_time"]);
    rm(&["--at", &format!("{time},{}", last["position"].as_str().unwrap())])
        .ends_with(0)
        .says("removed 2 snapshots, ");
    assert_eq!(list(&lab, "a").len(), 1);
    let left = bytes(&lab, "a");
    assert!(left < before, "{before} -> {left}");
    rm(&["--at", "exit:5"]).ends_with(1).says_one_line().says("a: no snapshot at exit:5; there are: exit:");
    rm(&["--automatic"]).ends_with(0).says("removed 0 snapshots");
    assert_eq!((list(&lab, "a").len(), bytes(&lab, "a")), (1, left));
    rm(&["--all"]).ends_with(0).says("removed 1 snapshot, ");
    assert_eq!((list(&lab, "a").len(), bytes(&lab, "a")), (0, 0));
    call(&lab, &["snapshot", "list", "a"]).ends_with(0).says("no snapshots");
    rm(&[]).ends_with(2);
    rm(&["--all", "--automatic"]).ends_with(2);
    let add = |place: &str| call(&lab, &["snapshot", "add", "a", "--at", place]);
    add("end").ends_with(1).says_one_line().says("the guest has ended at exit:");
    add("exit:99999999").ends_with(1).says_one_line();
    assert!(list(&lab, "a").is_empty());
}

#[test]
fn a_branch_keeps_what_it_starts_from() {
    let Some(lab) = Lab::on_soft("a_branch_keeps_what_it_starts_from") else { return };
    sleeper(&lab, "a", &[]);
    let live = ["live", "a", "--from", "1.5s", "-o", "b", "--pace", "max", "--quiet"];
    let branch = call(&lab, &live).ends_with(0).shows("two");
    call(&lab, &["snapshot", "add", "b", "--at", "2.5s"]).ends_with(0);
    assert_eq!(origins(&lab, "b"), ["start", "asked"]);
    let start = list(&lab, "b")[0]["position"].as_str().unwrap().to_owned();
    let rm = |options: &[&str]| call(&lab, &[&["snapshot", "rm", "b"], options].concat());
    rm(&["--at", &start])
        .ends_with(1)
        .says_one_line()
        .says("the recording starts from the snapshot at exit:");
    rm(&["--all"]).ends_with(0).says("removed 1 snapshot");
    assert_eq!(origins(&lab, "b"), ["start"]);
    lab.replays("b", &branch, &["--no-snapshots"]);
    // Damage of it is damage of the recording.
    let file = lab.path("b/snapshots").join(start.replace([':', '+'], "-"));
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    lab.replay("b", &[]).ends_with(4).says_one_line().says("corrupt");
    std::fs::remove_file(&file).unwrap();
    lab.replay("b", &[]).ends_with(4).says_one_line().says("without the snapshot that it starts from");
}
