//! Bookmarks of a finished recording.

use scribe_tests::lab::Lab;
use serde_json::{Value, json as value};

use crate::{call, digest, json, sleeper};

/// Label, position and origin of each.
fn list(lab: &Lab, name: &str) -> Vec<(String, String, String)> {
    let document = json(lab, &["bookmark", "list", name]);
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap().to_owned();
    let entries = document["bookmarks"].as_array().unwrap();
    entries.iter().map(|it| (text(it, "label"), text(it, "position"), text(it, "origin"))).collect()
}

#[test]
fn a_bookmark_is_where_the_guest_comes() {
    let Some(lab) = Lab::on_soft("a_bookmark_is_where_the_guest_comes") else { return };
    sleeper(&lab, "a", &[]);
    let add =
        |name: &str, place: &str| call(&lab, &["bookmark", "add", name, "a", "--at", place]).ends_with(0);
    // In the middle of a sleep, and a place between two exits that does not exist.
    add("asleep", "1.5s").says("bookmark asleep at exit:");
    add("between", "exit:900+100000").says("bookmark between at exit:901, guest time 0.");
    add("some-branches-on", "exit:900+2");
    add("end", "end");
    add("same", "asleep");
    let bookmarks = json(&lab, &["bookmark", "list", "a"])["bookmarks"].clone();
    let of = |label: &str| {
        let found = bookmarks.as_array().unwrap().iter().find(|it| it["label"] == label).unwrap().clone();
        (found["position"].as_str().unwrap().to_owned(), found["guest_time"].clone(), found["origin"].clone())
    };
    assert_eq!(of("mine").2, "guest");
    assert_eq!(of("some-branches-on").0, "exit:900+2");
    assert_eq!(of("same"), of("asleep"));
    let (position, time, origin) = of("asleep");
    assert_eq!(origin, "added");
    // It is there before it sleeps, and a replay to it is at that very position and time.
    assert!((1_000_000_000..1_500_000_000).contains(&time.as_u64().unwrap()), "{time}");
    let there = digest(&lab, "a", "asleep", &["--no-snapshots"]);
    assert!(there.starts_with(&format!("{position}: ")) && there.ends_with(&format!("time {time} ns")));
    assert_eq!(of("end").1, value!(lab.end("a").guest_time));
    let text = call(&lab, &["bookmark", "list", "a"]).ends_with(0).shows("mine#2").shows("added");
    assert_eq!(text.console().lines().count(), 1 + bookmarks.as_array().unwrap().len(), "{text}");
}

#[test]
fn bookmarks_are_removed_together_or_not_at_all() {
    let Some(lab) = Lab::on_soft("bookmarks_are_removed_together_or_not_at_all") else { return };
    sleeper(&lab, "a", &["--bookmark-every", "1s"]);
    let before = list(&lab, "a");
    let labels: Vec<&str> = before.iter().map(|(label, ..)| label.as_str()).collect();
    assert_eq!(labels, ["mine", "every-1", "every-2", "every-3", "mine#2"]);
    let rm = |names: &str| call(&lab, &["bookmark", "rm", names, "a"]);
    rm("every-1,nothing").ends_with(1).says_one_line().says("no bookmark nothing");
    rm("every-1,mine").ends_with(1).says_one_line().says("mine was set by the guest: it is an event");
    assert_eq!(list(&lab, "a"), before);
    rm("every-3,every-1").ends_with(0).says("removed bookmark every-3").says("removed bookmark every-1");
    assert_eq!(list(&lab, "a"), [0, 2, 4].map(|at| before[at].clone()));
    rm("every-2").ends_with(0);
    assert!(!lab.path("a/bookmarks").exists());
}

#[test]
fn what_is_no_place_or_no_name_is_said() {
    let Some(lab) = Lab::on_soft("what_is_no_place_or_no_name_is_said") else { return };
    let nothing = ["bookmark", "list"];
    call(&lab, &nothing).ends_with(4).says_one_line().says("no recording in");
    sleeper(&lab, "a", &[]);
    let add = |name: &str, place: &str| call(&lab, &["bookmark", "add", name, "--at", place]);
    add("b", "exit:99999999").ends_with(1).says_one_line().says("behind the recording, which ends at exit:");
    add("b", "4s").ends_with(1).says_one_line().says("4.0s is behind the recording, which ends at 3.");
    add("b", "nothing").ends_with(1).says_one_line().says("there are: mine, mine#2");
    add("mine", "1s").ends_with(1).says_one_line().says("a bookmark mine already");
    add("2b", "1s").ends_with(2).says("no name for a bookmark");
    add("b", "-1s").ends_with(2);
    call(&lab, &["bookmark", "rm"]).ends_with(2);
    call(&lab, &["bookmark", "list", "nowhere"]).ends_with(4).says_one_line();
    assert!(!lab.path("a/bookmarks").exists());
    // The latest is meant where none is named.
    add("b", "exit:900").ends_with(0);
    assert_eq!(list(&lab, "a")[1].0, "b");
    // A killed recording takes bookmarks up to where it was sealed.
    std::fs::write(lab.path("a/incomplete"), "").unwrap();
    add("c", "exit:900").ends_with(0);
    assert_eq!(list(&lab, "a")[2].0, "c");
    let bytes = std::fs::read(lab.path("a/bookmarks")).unwrap();
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at % 8);
        std::fs::write(lab.path("a/bookmarks"), bad).unwrap();
        call(&lab, &["bookmark", "list", "a"]).ends_with(4).says_one_line();
    }
}
