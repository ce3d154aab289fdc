//! The soft CPU against this host's processor, briefly; `fuzz-native --cases 10000000` is the whole of it.

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
fn soft_cpu_agrees_with_the_processor() {
    let (same, text) = fuzz(&["--cases", "20000", "--seed", "7", "--minimise", "50"]);
    assert!(same, "{text}");
}
