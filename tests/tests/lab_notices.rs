//! Machines that leave a recording: their guests draw other random numbers and show another time only if they are told to.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use scribe_log::{Body, EndCause, Event};
use scribe_tests::lab::{Lab, MEMORY, Outcome};

/// Names a place, sleeps for a while of guest time, and then looks.
const GUEST: &str = "bookmark before; sleep 1; \
     echo random $(head -c 16 /dev/urandom | od -An -tx1); \
     echo date $(date -u +%Y-%m-%dT%H:%M) rtc $(cat /sys/class/rtc/rtc0/date); \
     echo uptime $(cut -d . -f 1 /proc/uptime); \
     echo told $(dmesg | grep -c -e 'crng reseeded' -e 'wall clock set')";

/// The line that begins with `word`.
fn line(outcome: &Outcome, word: &str) -> String {
    let console = outcome.console();
    let found = console.lines().find_map(|line| line.trim_end().strip_prefix(word));
    found.unwrap_or_else(|| panic!("no line {word}: {outcome}")).to_owned()
}

fn differences(a: &Outcome, b: &Outcome) -> Vec<&'static str> {
    let words = ["random ", "date ", "uptime ", "told "];
    words.into_iter().filter(|word| line(a, word) != line(b, word)).collect()
}

/// Goes live where the guest named the place, and records that as `name`.
fn branch(lab: &Lab, name: &str, options: &[&str]) -> Outcome {
    let fixed = ["live", "parent", "--from", "before", "--pace", "max", "-o", name];
    lab.call(&[&fixed[..], options].concat()).finish().ends_with(0)
}

/// What the guest of a branch was told: seed and wall clock.
fn told(lab: &Lab, name: &str) -> (Option<[u8; 32]>, Option<u64>) {
    match lab.events(name).first() {
        Some(Event { body: Body::Branch { seed, wall_clock }, .. }) => (*seed, *wall_clock),
        other => panic!("{name} begins with {other:?}"),
    }
}

#[test]
fn a_branch_has_the_entropy_and_the_time_it_was_given() {
    let Some(lab) = Lab::anywhere("a_branch_has_the_entropy_and_the_time_it_was_given") else { return };
    let recorded = lab.record("parent", &[MEMORY, "--pace", "max", "--", "sh", "-c", GUEST]);
    assert!(line(&recorded, "date ").starts_with("2026-01-01T00:00 rtc 2026-01-01"), "{recorded}");
    assert_eq!(line(&recorded, "told "), "0");

    // Neither: the same guest, to the last byte.
    let same = branch(&lab, "same", &[]);
    assert_eq!(differences(&same, &recorded), [""; 0], "{same}");
    assert_eq!(lab.end("same").full, lab.end("parent").full);

    let (one, two) = (branch(&lab, "one", &["--reseed"]), branch(&lab, "two", &["--reseed"]));
    for (name, outcome) in [("one", &one), ("two", &two)] {
        assert_eq!(differences(outcome, &recorded), ["random ", "told "], "{outcome}");
        assert_eq!(line(outcome, "told "), "1");
        assert!(matches!(told(&lab, name), (Some(_), None)));
    }
    assert_eq!(differences(&one, &two), ["random "]);
    assert_ne!(told(&lab, "one"), told(&lab, "two"));

    let moved = branch(&lab, "moved", &["--rtc", "2031-07-09T12:34:00Z"]);
    assert_eq!(differences(&moved, &recorded), ["date ", "told "], "{moved}");
    assert_eq!(line(&moved, "date "), "2031-07-09T12:34 rtc 2031-07-09");
    assert_eq!(told(&lab, "moved"), (None, Some(1_941_366_840)));

    let both = branch(&lab, "both", &["--reseed", "--rtc", "host"]);
    assert_eq!(differences(&both, &recorded), ["random ", "date ", "told "], "{both}");
    assert_eq!(line(&both, "told "), "2");

    // A replay is told the same.
    for (name, outcome) in [("same", &same), ("one", &one), ("moved", &moved), ("both", &both)] {
        lab.replays_equal(name, outcome);
    }
    assert_eq!(lab.end("both").cause, EndCause::PowerOff { status: 0 });
}

#[test]
fn a_guest_that_cannot_be_told_is_refused_in_one_line() {
    let Some(lab) = Lab::anywhere("a_guest_that_cannot_be_told_is_refused_in_one_line") else { return };
    lab.record("parent", &[MEMORY, "--pace", "max", "--", "true"]);
    // The kernel has not come far.
    for option in [&["--reseed"][..], &["--rtc", "host"]] {
        let fixed = ["live", "parent", "--from", "exit:5", "-o", "refused"];
        let outcome = lab.call(&[&fixed[..], option].concat()).finish().ends_with(1);
        outcome.says("cannot be given fresh entropy (--reseed) or another time (--rtc) here");
        assert!(!lab.path("refused").exists(), "nothing was made");
    }
}
