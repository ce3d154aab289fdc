//! What recordings are: `info` of one, `ls` of all.

use std::fs;

use scribe_tests::lab::{KICKS, Lab, MEMORY, wait_until};
use serde_json::{Value, json as value};

use crate::{call, json, sleeper};

#[test]
fn everything_about_a_recording_is_told() {
    let Some(lab) = Lab::on_soft("everything_about_a_recording_is_told") else { return };
    let options = ["--bookmark-every", "1s", "--snapshot-every", "2s", "--log-level", "2"];
    sleeper(&lab, "a", &options);
    let info = json(&lab, &["info", "a"]);
    assert_eq!(
        (&info["recording"], &info["state"], &info["level"]),
        (&value!("a"), &value!("complete"), &value!(2))
    );
    let header = &info["header"];
    assert_eq!(header["memory"], 64 << 20);
    assert_eq!(header["command"][0], "sh");
    assert_eq!(header["image"]["size"], fs::metadata(scribe_tests::lab::image()).unwrap().len());
    let end = lab.end("a");
    assert_eq!(
        info["end"],
        value!({"cause": "power-off", "text": "powered off with status 0", "status": 0, "exits": end.exits,
            "guest_time": end.guest_time, "inputs": 0})
    );
    assert_eq!(
        info["until"],
        value!({"position": format!("exit:{}", end.exits), "guest_time": end.guest_time})
    );
    let total: u64 = info["events"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(total, lab.events("a").len() as u64);
    for kind in ["checkpoint", "bookmark", "interrupt", "disk-request", "console-output", "end"] {
        assert!(info["events"][kind].as_u64().unwrap() > 0, "{kind}");
    }
    assert_eq!(info["bookmarks"], value!({"every": 3, "guest": 2}));
    assert_eq!(info["snapshots"], value!({"recorded": 1}));
    for file in ["header", "events", "bookmarks"] {
        assert_eq!(info["files"][file], fs::metadata(lab.path("a").join(file)).unwrap().len(), "{file}");
    }
    assert!(info["files"]["snapshots"].as_u64().unwrap() > 1 << 20);
    let text = call(&lab, &["info", "a"]).ends_with(0);
    text.shows("level      2: ").shows("bookmarks  5: 3 every, 2 guest").shows("snapshots  1: 1 recorded");

    let live = ["live", "a", "--from", "mine#2", "-o", "b", "--pace", "max", "--quiet"];
    call(&lab, &live).ends_with(0);
    let branch = json(&lab, &["info", "b"]);
    let parent = &branch["header"]["parent"];
    let path = value!(lab.path("a").to_str().unwrap());
    assert_eq!((&parent["path"], &parent["header"]), (&path, &info["identity"]));
    let position = json(&lab, &["bookmark", "list", "a"])["bookmarks"][4]["position"].clone();
    assert_eq!(parent["at"], position);
    assert_eq!(branch["snapshots"], value!({"start": 1}));
    call(&lab, &["info", "b"]).ends_with(0).shows("/a, left at exit:").shows("start      exit:");
}

#[test]
fn inputs_are_counted() {
    let Some(lab) = Lab::on_soft("inputs_are_counted") else { return };
    let keys = lab.path("keys");
    fs::write(&keys, "echo hello\nexit\n").unwrap();
    let input = format!("--input={}", keys.display());
    lab.record("a", &[MEMORY, "--pace", "max", &input]).shows("hello");
    let info = json(&lab, &["info", "a"]);
    assert_eq!(
        (&info["input_bytes"], &info["end"]["inputs"]),
        (&value!(16), &info["events"]["console-input"])
    );
    call(&lab, &["info", "a"]).ends_with(0).shows(", 16 bytes of console input");
}

/// Records by the names that the program gives.
fn record_here(lab: &Lab, word: &str) {
    let image = scribe_tests::lab::image();
    let guest =
        ["record", MEMORY, "--engine", "soft", "--pace", "max", "--image", image.to_str().unwrap(), "--"];
    call(lab, &[&guest[..], &["echo", word]].concat()).ends_with(0);
}

#[test]
fn all_recordings_are_listed_damaged_ones_too() {
    let Some(lab) = Lab::on_soft("all_recordings_are_listed_damaged_ones_too") else { return };
    call(&lab, &["ls"]).ends_with(0).says_one_line().says("no recordings in");
    for word in ["one", "two", "three", "four"] {
        record_here(&lab, word);
    }
    let home = lab.path("home");
    let list = || json(&lab, &["ls"])["recordings"].as_array().unwrap().clone();
    let names = |list: &[Value]| -> Vec<String> {
        list.iter()
            .map(|it| {
                format!("{} {} {}", it["name"].as_str().unwrap(), it["state"].as_str().unwrap(), it["latest"])
            })
            .collect()
    };
    let before = list();
    let all =
        ["demo-1 complete false", "demo-2 complete false", "demo-3 complete false", "demo-4 complete true"];
    assert_eq!(names(&before), all);
    assert_eq!(before[0]["command"], value!(["echo", "one"]));
    assert!(
        before[0]["exits"].as_u64().unwrap() > 500 && before[0]["created"].as_str().unwrap().ends_with('Z')
    );

    // One is killed, one loses a bit, one its header, and the latest is elsewhere.
    fs::write(home.join("demo-1/incomplete"), "").unwrap();
    let events = home.join("demo-2/events");
    let mut bytes = fs::read(&events).unwrap();
    bytes[70] ^= 1;
    fs::write(&events, bytes).unwrap();
    fs::remove_file(home.join("demo-3/header")).unwrap();
    fs::create_dir(home.join("something")).unwrap();
    sleeper(&lab, "elsewhere", &[]);
    let after = list();
    let elsewhere = lab.path("elsewhere").canonicalize().unwrap();
    let expected = [
        "demo-1 crashed false".to_owned(),
        "demo-2 damaged false".to_owned(),
        "demo-3 damaged false".to_owned(),
        "demo-4 complete false".to_owned(),
        format!("{} complete true", elsewhere.display()),
    ];
    assert_eq!(names(&after), expected);
    assert!(after[1]["reason"].as_str().unwrap().contains("corrupt at byte"), "{}", after[1]);
    assert!(after[2]["reason"].as_str().unwrap().contains("not a recording"), "{}", after[2]);
    assert_eq!(after[4]["bookmarks"], 2);
    let text = call(&lab, &["ls"]).ends_with(0).shows("(latest)").shows("corrupt at byte");
    assert_eq!(text.console().lines().count(), 6, "{text}");
    // None of this keeps the others from being used.
    lab.replay("demo-4", &[&["-q"][..], &KICKS].concat()).ends_with(0);
}

#[test]
fn a_running_recording_is_told_as_that() {
    let Some(lab) = Lab::on_soft("a_running_recording_is_told_as_that") else { return };
    let running = lab.recorder("a", &[MEMORY]).typed().start();
    let sealed = || fs::metadata(lab.path("a/events")).is_ok_and(|metadata| metadata.len() > 0);
    assert!(wait_until(60, sealed), "nothing sealed");
    let info = json(&lab, &["info", "a"]);
    assert_eq!((&info["state"], &info["end"]), (&value!("running"), &Value::Null));
    assert!(info["until"]["guest_time"].as_u64().unwrap() > 0);
    assert_eq!(json(&lab, &["ls"])["recordings"][0]["state"], "running");
    call(&lab, &["bookmark", "add", "x", "a", "--at", "exit:100"])
        .ends_with(1)
        .says_one_line()
        .says("it is being recorded");
    call(&lab, &["snapshot", "add", "a", "--at", "exit:100"]).ends_with(1).says("it is being recorded");
    running.signal("KILL");
    running.finish();
    assert_eq!(json(&lab, &["info", "a"])["state"], "crashed");
}
