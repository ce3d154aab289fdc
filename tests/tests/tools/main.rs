//! The subcommands that look after finished recordings, on a real guest: bookmark, snapshot, info, ls, verify, shrink, pack.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod bookmark;
mod info;
mod pack;
mod shrink;
mod snapshot;
mod verify;

use scribe_tests::lab::{Lab, MEMORY, Outcome};
use serde_json::Value;

/// A guest of a fifth of a second of host time: it boots, sleeps from about 0.2 s to 3 s of guest time, and switches off.
const SLEEPER: [&str; 7] =
    [MEMORY, "--pace", "max", "--", "sh", "-c", "bookmark mine; echo one; sleep 3; echo two; bookmark mine"];

/// Records [`SLEEPER`] as `name`.
fn sleeper(lab: &Lab, name: &str, options: &[&str]) -> Outcome {
    lab.record(name, &[options, &SLEEPER[..]].concat()).shows("one").shows("two")
}

/// Calls the program.
fn call(lab: &Lab, arguments: &[&str]) -> Outcome {
    lab.call(arguments).finish()
}

/// Calls the program with `--format json`, and gives what it prints.
fn json(lab: &Lab, arguments: &[&str]) -> Value {
    let outcome = call(lab, &[arguments, &["--format", "json"]].concat()).ends_with(0);
    let value: Value = serde_json::from_slice(&outcome.stdout).unwrap();
    assert_eq!(value["format"], 1, "{outcome}");
    value
}

/// The digest of the guest's whole state at `place`, with the position, and what else the replay said.
fn digest(lab: &Lab, name: &str, place: &str, options: &[&str]) -> String {
    let outcome = lab.replay(name, &[&["--quiet", "--digest", "--to", place], options].concat()).ends_with(0);
    let line = outcome.stderr.lines().find_map(|line| line.strip_prefix("scribe-vmm: digest at "));
    line.unwrap_or_else(|| panic!("no digest: {outcome}")).to_owned()
}
