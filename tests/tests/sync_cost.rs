//! What recording costs more than running on the soft engine, with ticks at 250 Hz of guest time.
#![allow(clippy::unwrap_used, reason = "tests, also outside of test functions")]

use std::process::Command;

use scribe_tests::guests;
use scribe_tests::lab::{Lab, count, figure, in_checkout, text};
use scribe_tests::latency::median;
use scribe_tests::tiny;

/// Most that recording may cost, in hundredths of what running costs.
const MOST: u64 = 105;

/// What is timed.
struct Guest {
    name: &'static str,
    arguments: Vec<String>,
}

/// `run` or `record` of the guest, with everything else equal.
fn arguments<'a>(guest: &'a Guest, subcommand: &'a str, directory: &'a str) -> Vec<&'a str> {
    let mut words =
        vec![subcommand, "--engine", "soft", "--pace", "max", "--rtc", "2026-01-01", "--seed", "5c"];
    if subcommand == "record" {
        words.extend(["--overwrite", "-o", directory]);
    }
    words.extend(guest.arguments.iter().map(String::as_str));
    words
}

/// CPU time of a call in milliseconds, user and system, by the shell that waits for it.
fn cpu_time(lab: &Lab, guest: &Guest, subcommand: &str) -> u64 {
    let (program, directory) = (in_checkout("target/release/scribe-vmm"), lab.path("recording"));
    let script = "TIMEFORMAT='cpu %3U %3S'; time \"$0\" \"$@\" </dev/null >/dev/null";
    let mut command = Command::new("bash");
    command.args(["-c", script, text(&program)]).args(arguments(guest, subcommand, text(&directory)));
    let output = command.env("SCRIBE_VMM_HOME", lab.path("home")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{subcommand}: {said}");
    let times = said.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap();
    times.split(' ').map(|seconds| seconds.replace('.', "").parse::<u64>().unwrap()).sum()
}

fn costs(lab: &Lab, guest: &Guest) {
    let pairs = count("SCRIBE_TEST_PAIRS", 7).max(7);
    let (mut runs, mut records, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..pairs {
        // The order alternates too, so that a drift of the machine's speed falls on both.
        for turn in 0..2 {
            if (pair + turn) % 2 == 0 {
                runs.push(cpu_time(lab, guest, "run"));
            } else {
                records.push(cpu_time(lab, guest, "record"));
            }
        }
        ratios.push(records[pair] * 1000 / runs[pair]);
    }
    let ratio = median(&ratios);
    // What recording does besides: the log, and the digest of RAM at the end.
    let directory = lab.path("recording");
    let call = lab.call(&arguments(guest, "record", text(&directory))).env("SCRIBE_VMM_STATS", "1");
    let said = call.finish().ends_with(0).stderr;
    let number = |behind: &str| {
        let line = said.lines().find_map(|line| line.split_once(behind)).unwrap().0;
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let (hashed, instructions) = (number(" bytes hashed"), number(" instructions"));
    let recording = lab.recording("recording");
    let (sizes, end, memory) = (recording.sizes(), lab.end("recording"), recording.header().memory);
    assert!(hashed <= memory, "{hashed} bytes hashed: more than one digest of RAM");
    figure(
        &format!("CPU time of record to that of run, {}", guest.name),
        format!(
            "{}.{:03} (at most {}.{:02}); median of {pairs} pairs, {} ms and {} ms; beside {instructions} instructions and {} exits in \
             {} ms of guest time it logs {} bytes and hashes {hashed}",
            ratio / 1000,
            ratio % 1000,
            MOST / 100,
            MOST % 100,
            median(&records),
            median(&runs),
            end.exits,
            end.guest_time / 1_000_000,
            sizes.header + sizes.events,
        ),
    );
    assert!(ratio <= MOST * 10, "{ratio} thousandths: {records:?} {runs:?}");
}

/// `show-sync` and `soak-sync` run these: they mean something on a quiet machine only.
#[test]
#[ignore = "takes time, and a quiet machine: make show-sync, make soak-sync"]
fn a_kernel_that_ticks_at_250_hz() {
    let Some(lab) = Lab::on_soft("a_kernel_that_ticks_at_250_hz") else { return };
    let kernel = lab.path("kernel");
    let ticks = u32::try_from(count("SCRIBE_TEST_TICKS", 100)).unwrap();
    std::fs::write(&kernel, tiny::kernel(|a| guests::jiffies(a, 4773, ticks))).unwrap();
    let arguments = ["--memory", "2M", "--kernel", text(&kernel)].map(str::to_owned).to_vec();
    costs(&lab, &Guest { name: "a hand-made kernel at 250 Hz", arguments });
}

#[test]
#[ignore = "takes time, and a quiet machine: make show-sync, make soak-sync"]
fn debians_kernel_that_ticks_at_250_hz() {
    let Some(lab) = Lab::on_soft("debians_kernel_that_ticks_at_250_hz") else { return };
    let path = |name: &str| text(&in_checkout("target/guest/debian").join(name)).to_owned();
    let (kernel, initrd) = (path("vmlinuz"), path("initrd.img"));
    let arguments =
        ["--kernel", &kernel, "--initrd", &initrd, "--", "spin", "50"].map(str::to_owned).to_vec();
    costs(&lab, &Guest { name: "Debian's kernel at 250 Hz, a program that computes", arguments });
}
