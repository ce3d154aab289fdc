//! `log` and `diff` of a whole machine: a recording of every exit and the replay of one of inputs are the same lines.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests, also outside of test functions")]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use scribe_tests::lab::{Lab, figure, in_checkout, wait_until};

/// Columns of the guest time, which a recording does not have.
const TIME: std::ops::Range<usize> = 22..37;

fn lines(lab: &Lab, arguments: &[&str]) -> Vec<String> {
    let outcome = lab.call(&[&["log"], arguments].concat()).finish().ends_with(0);
    outcome.console().lines().map(str::to_owned).collect()
}

fn without_time(lines: &[String]) -> Vec<String> {
    lines.iter().map(|line| format!("{}{}", &line[..TIME.start], &line[TIME.end..])).collect()
}

#[test]
fn every_exit_noted_and_a_replay_that_tells_them_are_the_same_lines() {
    let Some(lab) = Lab::anywhere("every_exit_noted_and_a_replay_that_tells_them_are_the_same_lines") else {
        return;
    };
    let guest = ["--pace", "max", "--", "/bin/demo"];
    let recorded = lab.record("least", &guest).shows("demo: ok");
    lab.record("all", &[&["--log-level", "3"], &guest[..]].concat());
    let (noted, told) = (lines(&lab, &["all"]), lines(&lab, &["--expand", "least"]));
    let exits = lab.end("least").exits;
    assert!(noted.len() as u64 > exits, "{} lines of {exits} exits", noted.len());
    let (noted, untimed) = (without_time(&noted), without_time(&told));
    let differs = noted.iter().zip(&untimed).find(|(noted, told)| noted != told);
    assert_eq!(differs, None);
    assert_eq!(noted.len(), untimed.len());
    assert!(told == lines(&lab, &["--expand", "all"]), "another recording of the same, another log");
    assert!(told.iter().all(|line| !line[TIME].ends_with('-')), "a replay knows every time");
    lab.replays_equal("all", &recorded);

    let size = |name: &str| {
        let sizes = lab.recording(name).sizes();
        sizes.header + sizes.events
    };
    let (least, all) = (size("least"), size("all"));
    figure(
        "header and events by level",
        format!("{least} bytes at level 0, {all} at level 3, {exits} exits"),
    );

    let only = lines(&lab, &["all", "--device", "disk", "--kind", "disk-request,interrupt"]);
    assert!(!only.is_empty() && only.iter().all(|line| line.contains(" disk ")), "{only:?}");
    let part = lines(&lab, &["--expand", "least", "--from", "exit:100", "--to", "exit:200"]);
    assert!(part.len() >= 101 && part.iter().all(|line| told.contains(line)), "{} lines", part.len());
    assert!(lines(&lab, &["least", "--level", "0"]) == lines(&lab, &["least"]));
    let summary = lines(&lab, &["all", "-c"]);
    assert!(summary.last().unwrap().contains(&noted.len().to_string()), "{summary:?}");

    lab.call(&["diff", "least", "all"])
        .finish()
        .ends_with(1)
        .shows("header level: null / 3")
        .shows("are equal");
    lab.record("again", &guest);
    lab.call(&["diff", "least", "again"]).finish().ends_with(0).shows("events are equal");
    lab.record("other", &["--pace", "max", "--log-level", "3", "--", "/bin/true"]);
    let other = lab.call(&["diff", "all", "other", "--format", "json"]).finish().ends_with(1);
    let object: serde_json::Value = serde_json::from_slice(&other.stdout).unwrap();
    assert_eq!((&object["equal"], &object["header"][0]["key"]), (&false.into(), &"command".into()));
    assert_eq!(object["events"]["a"].as_array().unwrap().len(), 4);
}

#[test]
fn executed_code_is_told_between_the_exits() {
    let Some(lab) = Lab::on_soft("executed_code_is_told_between_the_exits") else { return };
    lab.record("a", &["--pace", "max", "--", "/bin/true"]);
    let range = ["--expand", "a", "--from", "exit:400", "--to", "exit:440"];
    let plain = lines(&lab, &range);
    let traced = lines(&lab, &[&range[..], &["--trace", "blocks"]].concat());
    let (blocks, others): (Vec<String>, Vec<String>) =
        traced.into_iter().partition(|line| line.contains(" cpu      block "));
    assert_eq!(others, plain);
    assert!(blocks.len() > 1000, "{} blocks", blocks.len());
    for name in ["asm_common_interrupt+0x0/", "handle_level_irq+0x0/", "mask_and_ack_8259A+0x0/"] {
        assert!(blocks.iter().any(|line| line.contains(name)), "{name}");
    }
    let count =
        |more: &[&str]| lines(&lab, &[&range[..], &["--trace", "blocks", "--kind", "block"], more].concat());
    assert_eq!(count(&[]), blocks);
    assert!(count(&["-c"]).last().unwrap().contains(&blocks.len().to_string()));
    lab.call(&["log", "a", "--trace", "blocks"]).finish().ends_with(2).says("--expand");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let Some(lab) = Lab::on_soft("a_reader_that_goes_away_is_no_error") else { return };
    lab.record("a", &["--pace", "max", "--log-level", "3", "--", "/bin/demo"]);
    for arguments in [&["log", "a"][..], &["log", "--expand", "a"], &["log", "--format", "json", "a"]] {
        let mut command = Command::new(in_checkout("target/release/scribe-vmm"));
        command.args(arguments).current_dir(lab.path("")).env("SCRIBE_VMM_HOME", lab.path("home"));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::with_capacity(16, child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let outcome = child.wait_with_output().unwrap();
        assert!(outcome.status.success() && line.contains("exit"), "{arguments:?}: {outcome:?}");
        assert!(!String::from_utf8_lossy(&outcome.stderr).contains("pipe"), "{outcome:?}");
    }
}

#[test]
fn a_recording_that_is_not_closed_says_so() {
    let Some(lab) = Lab::on_soft("a_recording_that_is_not_closed_says_so") else { return };
    let mut call = lab.recorder("a", &["--log-level", "2", "--", "/bin/sh"]).typed().start();
    call.waits_for("# ");
    call.types(b"echo $((6 * 7)) is the answer\n");
    call.waits_for("42 is the answer");
    let running = || lab.call(&["log", "a"]).finish().ends_with(0).says("still being recorded");
    assert!(wait_until(20, || running().console().contains("42 is the answer")), "{}", running());
    call.signal("KILL");
    let _ = call.finish();
    let log = lab.call(&["log", "a"]).finish().ends_with(0).says("was not closed").shows("42 is the answer");
    let told =
        lab.call(&["log", "--expand", "--level", "2", "a"]).finish().ends_with(0).says("was not closed");
    let kept = |text: String| text.lines().filter(|line| line.contains("console-")).count();
    assert_eq!(kept(log.console()), kept(told.console()));
}
