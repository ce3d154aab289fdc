//! The soft CPU against this host's processor, briefly; `fuzz-native --cases 10000000 --jobs 2` is the whole of it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::Command;

fn fuzz(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_fuzz-native")).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text.into_owned())
}

#[test]
fn the_processor_agrees_with_itself() {
    let (same, text) = fuzz(&["--native-only", "--cases", "4000", "--seed", "3"]);
    assert!(same, "{text}");
    assert!(text.contains("4000 cases compared, 0 skipped"), "{text}");
}

#[test]
fn a_seed_gives_the_same_cases() {
    let arguments = ["--cases", "2000", "--seed", "5", "--minimise", "5", "--coverage"];
    assert_eq!(fuzz(&arguments), fuzz(&arguments));
}

#[test]
fn the_soft_cpu_agrees_with_the_processor() {
    // what the manuals leave open is decided as AMD's processors do it
    if !std::fs::read_to_string("/proc/cpuinfo").unwrap().contains("AuthenticAMD") {
        scribe_tests::tiny::skip(
            "the_soft_cpu_agrees_with_the_processor",
            "this host's processor is not AMD's",
        );
        return;
    }
    let (same, text) = fuzz(&["--cases", "20000", "--seed", "7", "--minimise", "50"]);
    assert!(same, "{text}");
}
