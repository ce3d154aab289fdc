//! Whole machines: what was recorded is replayed, and what is recorded twice is the same.
#![allow(clippy::unwrap_used, reason = "tests, also outside of test functions")]

use scribe_log::{Body, EndCause};
use scribe_tests::lab::{KICKS, Lab, Load, MEMORY, count, figure};

/// Most bytes of header and events of a boot, the demo and power-off.
const MOST_LOG: u64 = 64 * 1024;

#[test]
fn the_demo_replays_every_time() {
    let Some(lab) = Lab::anywhere("the_demo_replays_every_time") else { return };
    let recorded = lab.record("demo", &["--pace", "max", "--", "/bin/demo"]).shows("demo: ok");
    let end = lab.end("demo");
    assert_eq!(end.cause, EndCause::PowerOff { status: 0 });
    assert!(end.exits > 10_000, "the demo has {} exits only", end.exits);
    let sizes = lab.recording("demo").sizes();
    let log = sizes.header + sizes.events;
    figure("header and events of boot, demo and power-off", format!("{log} bytes (at most {MOST_LOG})"));
    assert!(log <= MOST_LOG, "{sizes:?}");

    let _load: Vec<Load> = (0..count("SCRIBE_TEST_LOAD", 0)).map(|_| Load::start()).collect();
    let pairs = count("SCRIBE_TEST_REPLAYS", 4).div_ceil(2);
    for _ in 0..pairs {
        lab.replays_equal("demo", &recorded);
    }
    let ram = end.full.unwrap().ram;
    figure("demo", format!("{} exits, rolling digest {:016x}, RAM {ram:032x}", end.exits, end.registers));
    figure("replays of the demo", format!("{0} of {0} equal, {pairs} of them with host kicks", 2 * pairs));
}

/// Records the same three times: alone, with host kicks, beside another program that wants the processor.
fn record_three_times(lab: &Lab, guest: &[&str]) {
    let first = lab.record("a", guest);
    let kicked = lab.record("b", &[&KICKS, guest].concat());
    let load = Load::start();
    let slowed = lab.record("c", guest);
    drop(load);
    for (name, other) in [("b", kicked), ("c", slowed)] {
        assert!(first.stdout == other.stdout, "other output: {first}\n{other}");
        for file in ["header", "events"] {
            let read = |name: &str| std::fs::read(lab.path(name).join(file)).unwrap();
            if read("a") != read(name) {
                let (expected, found) = (lab.events("a"), lab.events(name));
                let first = expected.iter().zip(&found).find(|(expected, found)| expected != found);
                panic!("{file} of a and {name} differ; first event that does: {first:#?}");
            }
        }
    }
    lab.replays("a", &first, &KICKS);
}

#[test]
fn recordings_of_the_same_are_identical() {
    let Some(lab) = Lab::anywhere("recordings_of_the_same_are_identical") else { return };
    record_three_times(&lab, &[MEMORY, "--pace", "max", "--", "sh", "-c", "forks && entropy"]);
}

#[test]
fn recordings_of_the_same_input_file_are_identical() {
    let Some(lab) = Lab::anywhere("recordings_of_the_same_input_file_are_identical") else { return };
    // More than the serial port is offered at a time. The shell reads it while commands write, then a command reads it.
    let mut keys = String::from("stty -echo\n");
    for i in 0..40 {
        keys += &format!("echo line $(({i} * {i}))\n");
    }
    keys += "cat | md5sum; exit 7\n";
    for i in 0..200 {
        keys += &format!("this is line {i} of it\n");
    }
    keys += "\x04";
    std::fs::write(lab.path("keys"), keys).unwrap();
    // With digests of RAM every now and then, so that those of changed pages are compared too.
    let guest = [MEMORY, "--pace", "max", "--digest-every", "4096"];
    record_three_times(&lab, &[&guest[..], &["--input", "keys"]].concat());
    assert_eq!(lab.end("a").cause, EndCause::PowerOff { status: 7 });
    let inputs = lab.events("a").iter().filter(|e| matches!(e.body, Body::ConsoleInput { .. })).count();
    assert!(inputs > 1, "{inputs} inputs");
    // A regular file as standard input is the same thing.
    let redirected = lab.recorder("d", &guest).input(&lab.path("keys")).finish().ends_with(0);
    assert!(redirected.console().contains("line 1521"));
    let read = |name: &str| std::fs::read(lab.path(name).join("events")).unwrap();
    assert!(read("a") == read("d"), "--input and a redirected file differ");
}

#[test]
fn ticks_and_bookmarks_land_where_they_were() {
    let Some(lab) = Lab::anywhere("ticks_and_bookmarks_land_where_they_were") else { return };
    // Real pace: the guest sleeps on the host's clock, with thousands of timer ticks of a millisecond.
    let script = "bookmark before; signals; bookmark after; bookmark after; exit 3";
    let recorded = lab.record("ticks", &[MEMORY, "--pace", "real", "--", "sh", "-c", script]);
    let recorded = recorded.shows("signals: 3000 ticks").says("powered off with status 3");
    let names: Vec<String> = lab
        .events("ticks")
        .into_iter()
        .filter_map(|event| match event.body {
            Body::Bookmark { name } => Some(name),
            _ => None,
        })
        .collect();
    assert_eq!(names, ["before", "after", "after"]);
    lab.replays("ticks", &recorded, &KICKS);
}
