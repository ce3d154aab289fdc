//! Whole machines: what recording costs more than running.
#![allow(clippy::unwrap_used, reason = "tests, also outside of test functions")]

use std::fs;
use std::path::Path;
use std::process::Command;

use scribe_tests::lab::{Lab, count, figure, image, in_checkout, text};

/// Most that recording may cost, in hundredths of what running costs.
const MOST: u64 = 110;
const TRACING: &str = "/sys/kernel/tracing";

/// What the guest runs: the demo, or less for a first impression.
fn guest() -> String {
    std::env::var("SCRIBE_TEST_COST").unwrap_or_else(|_| "/bin/demo".into())
}

/// `run` or `record` of the guest, with everything else equal.
fn arguments(lab: &Lab, subcommand: &str) -> Vec<String> {
    let image = image();
    let mut words = vec![subcommand, "--image", text(&image), "--rtc", "2026-01-01", "--seed", "5c"];
    words.extend(["--pace", "max"]);
    let directory = lab.path("recording");
    if subcommand == "record" {
        words.extend(["--overwrite", "-o", text(&directory)]);
    }
    let guest = guest();
    words.extend(["--", "sh", "-c", &guest]);
    words.into_iter().map(str::to_owned).collect()
}

/// CPU time of a call in milliseconds, user and system, by the shell that waits for it.
fn cpu_time(lab: &Lab, subcommand: &str) -> u64 {
    let program = in_checkout("target/release/scribe-vmm");
    let script = "TIMEFORMAT='cpu %3U %3S'; time \"$0\" \"$@\" </dev/null >/dev/null";
    let mut command = Command::new("bash");
    command.args(["-c", script, text(&program)]).args(arguments(lab, subcommand));
    let output = command.env("SCRIBE_VMM_HOME", lab.path("home")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{subcommand}: {said}");
    let times = said.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap();
    times.split(' ').map(|seconds| seconds.replace('.', "").parse::<u64>().unwrap()).sum()
}

fn median(values: &[u64]) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

/// `show-replay` and `soak-replay` run this: it means something on a quiet machine only.
#[test]
#[ignore = "takes time, and a quiet machine: make show-replay, make soak-replay"]
fn recording_costs_at_most_a_tenth_more_than_running() {
    let Some(lab) = Lab::enter("recording_costs_at_most_a_tenth_more") else { return };
    let pairs = count("SCRIBE_TEST_PAIRS", 7);
    let (mut runs, mut records) = (Vec::new(), Vec::new());
    for pair in 0..pairs {
        // The order alternates too, so that a drift of the machine's speed falls on both.
        if pair % 2 == 0 {
            runs.push(cpu_time(&lab, "run"));
            records.push(cpu_time(&lab, "record"));
        } else {
            records.push(cpu_time(&lab, "record"));
            runs.push(cpu_time(&lab, "run"));
        }
        println!("run {} ms, record {} ms", runs[pair], records[pair]);
    }
    let (run, record) = (median(&runs), median(&records));
    let ratio = record * 100 / run;
    let percent = format!("{}.{:02}", ratio / 100, ratio % 100);
    let what = guest();
    figure(
        "CPU time of record to that of run",
        format!("{percent} (at most 1.10); medians of {pairs} of {what}: {record} ms, {run} ms"),
    );
    assert!(ratio <= MOST, "record costs {percent} of run: {records:?}, {runs:?} ms");
}

/// System calls and KVM entries of a call, counted by the lab's kernel.
fn counted(lab: &Lab, subcommand: &str) -> (u64, u64, String) {
    let write = |file: &str, text: &str| fs::write(Path::new(TRACING).join(file), text).unwrap();
    let events = [
        ("events/raw_syscalls/sys_enter", "hist:keys=id"),
        ("events/kvm/kvm_entry", "hist:keys=common_type"),
    ];
    for (event, trigger) in events {
        write(&format!("{event}/trigger"), &format!("{trigger} if comm == \"scribe-vmm\""));
    }
    let words = arguments(lab, subcommand);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = lab.call(&words).env("SCRIBE_VMM_STATS", "1").finish().ends_with(0);
    let hits = events.map(|(event, trigger)| {
        let text = fs::read_to_string(Path::new(TRACING).join(event).join("hist")).unwrap();
        write(&format!("{event}/trigger"), &format!("!{trigger}"));
        let line = text.lines().find(|line| line.trim_start().starts_with("Hits:")).unwrap();
        line.split(':').nth(1).unwrap().trim().parse::<u64>().unwrap()
    });
    (hits[0], hits[1], outcome.stderr)
}

#[test]
fn recording_does_little_that_running_does_not() {
    let Some(lab) = Lab::enter("recording_does_little_that_running_does_not") else { return };
    if !Path::new(TRACING).join("events").exists() {
        assert!(
            Command::new("mount").args(["-t", "tracefs", "tracefs", TRACING]).status().unwrap().success()
        );
    }
    let (run_calls, run_entries, _) = counted(&lab, "run");
    let (record_calls, record_entries, said) = counted(&lab, "record");
    let end = lab.end("recording");
    let sizes = lab.recording("recording").sizes();
    let hashed = said.lines().find_map(|line| line.split_once(" bytes hashed")).unwrap().0;
    let hashed: u64 = hashed.rsplit(' ').next().unwrap().parse().unwrap();
    figure(
        "system calls, KVM entries, exits",
        format!(
            "run {run_calls}, {run_entries}; record {record_calls}, {record_entries}; {} exits",
            end.exits
        ),
    );
    figure(
        "bytes hashed, bytes logged",
        format!(
            "{hashed} of {} of RAM, {}",
            lab.recording("recording").header().memory,
            sizes.header + sizes.events
        ),
    );
    // One digest of RAM at the end, and one each 65 536 exits.
    let digests = 1 + end.exits / 65_536;
    assert!(hashed <= digests * lab.recording("recording").header().memory);
    // Seals are a few system calls four times a second; everything else is the guest's.
    assert!(
        record_calls <= run_calls + run_calls / 20,
        "{record_calls} system calls, {run_calls} without recording"
    );
    assert!(
        record_entries <= run_entries + run_entries / 20,
        "{record_entries} entries, {run_entries} without recording"
    );
}
