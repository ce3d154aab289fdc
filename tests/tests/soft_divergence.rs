//! What is said of a divergence of a whole machine, as its user reads it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests, also outside of test functions")]

use scribe_log::{Body, HEADER_FILE, Header, Writer};
use scribe_tests::lab::{Lab, Outcome};

/// Writes recording `from` again as `to` with another key typed: in the last input that holds `key`, `other`.
fn forge(lab: &Lab, from: &str, to: &str, key: u8, other: u8) {
    let mut events = lab.events(from);
    let typed = events.iter_mut().rev().find_map(|event| match &mut event.body {
        Body::ConsoleInput { bytes } => bytes.iter_mut().find(|byte| **byte == key),
        _ => None,
    });
    *typed.unwrap() = other;
    let header = Header::read(&lab.path(from).join(HEADER_FILE)).unwrap();
    let mut writer = Writer::create(&lab.path(to), &header, false).unwrap();
    let end = events.pop().unwrap();
    events.iter().for_each(|event| writer.append(event).unwrap());
    writer.close(&end).unwrap();
}

fn recorded(lab: &Lab, name: &str, level: &str) {
    let mut call =
        lab.recorder(name, &["--pace", "max", "--log-level", level, "--", "/bin/sh"]).typed().start();
    call.waits_for("# ");
    call.types(b"echo $((6 * 7)) is the answer; sync; exit\n");
    call.finish().ends_with(0).shows("42 is the answer");
}

fn report(outcome: &Outcome) -> String {
    println!("{}", outcome.stderr);
    outcome.stderr.clone()
}

#[test]
fn another_key_is_the_recordings_fault_and_the_kernel_is_named() {
    let Some(lab) = Lab::on_soft("another_key_is_the_recordings_fault_and_the_kernel_is_named") else {
        return;
    };
    recorded(&lab, "a", "0");
    forge(&lab, "a", "forged", b'7', b'8');
    let text = report(&lab.replay("forged", &[]).ends_with(3));
    for words in [
        "scribe-vmm: the replay diverged between exit:",
        "the recording is not what this program does: two further replays, from exit:0 on, came to the same",
        "1. the recording was changed after it was made",
        "the guest where it was found, in its kernel",
        "scribe-vmm replay forged --to exit:",
    ] {
        // Lines are broken where they are full.
        let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains(words), "{words}: {text}");
    }
    assert!(!text.contains("no symbols"), "{text}");
    // The command that it names stops before the difference.
    let back = text.lines().find_map(|line| line.trim().strip_prefix("scribe-vmm replay ")).unwrap();
    let words: Vec<&str> = ["replay"].into_iter().chain(back.split(' ')).collect();
    lab.call(&words).finish().ends_with(0).says("paused at exit:");
}

#[test]
fn a_recording_of_more_names_what_differs() {
    let Some(lab) = Lab::on_soft("a_recording_of_more_names_what_differs") else { return };
    for (level, what) in [("1", "register "), ("3", "an exit")] {
        let (name, forged) = (format!("a{level}"), format!("forged{level}"));
        recorded(&lab, &name, level);
        forge(&lab, &name, &forged, b'7', b'8');
        let text = report(&lab.replay(&forged, &[]).ends_with(3));
        let found = text.lines().find_map(|line| line.strip_prefix("  differs ")).unwrap().trim();
        assert!(found.starts_with(what) || found.starts_with("the page at"), "{level}: {found}");
        assert!(text.lines().all(|line| line.chars().count() <= 130), "{level}");
    }
}
