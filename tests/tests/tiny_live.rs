//! Console input that arrives at arbitrary moments, and what the program says to a host that cannot run Linux.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{ChildStdout, Command, Stdio};

use scribe_log::{Body, EndCause, Recording};
use scribe_tests::bench::{Bench, KICKS, config, made_up_host};
use scribe_tests::engines;
use scribe_tests::guests::{self, END_OF_INPUT};
use scribe_tests::tiny::{kvm, skip};
use scribe_tests::vcpu::emulates_kernels;
use scribe_vmm::host::clock;
use scribe_vmm::host::events::ConsoleSource;
use scribe_vmm::session::console::Console;
use scribe_vmm::session::files::DigestCache;
use scribe_vmm::session::journal::Noting;
use scribe_vmm::session::replay::Outcome;
use scribe_vmm::session::start::{self, Connections, Target};

const CHILD: &str = "SCRIBE_TESTS_LIVE";

/// Records the guest in the folder that the environment names, with standard input and output as its console: a process
/// of its own, because that is where live input comes from.
#[test]
#[ignore = "started by other tests"]
fn records_standard_input() {
    let Some(folder) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    engines::enter();
    start::prepare_process().unwrap();
    let connections = Connections { console: ConsoleSource::Stream, ..Connections::none() };
    let directory = folder.join("a");
    let target = Target { directory: &directory, overwrite: false, store: None, noting: Noting::default() };
    let guest = config(folder.join("kernel"));
    let mut console = Console::to(Box::new(std::io::stdout()));
    let cache = DigestCache::new(&folder);
    start::record(&guest, &cache, made_up_host(), connections, &target, &mut console).unwrap();
}

/// Reads until what was read contains `text`.
fn read_until(stdout: &mut ChildStdout, seen: &mut Vec<u8>, text: &[u8]) {
    while !seen.windows(text.len()).any(|window| window == text) {
        let mut buffer = [0; 256];
        let count = stdout.read(&mut buffer).unwrap();
        assert_ne!(count, 0, "it ended with {:?}", String::from_utf8_lossy(seen));
        seen.extend_from_slice(&buffer[..count]);
    }
}

/// Types at the guest in `bench`, records, and replays.
fn type_at(bench: &Bench) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "records_standard_input", "--ignored", "--nocapture", "--test-threads", "1"])
        .env(CHILD, bench.path(""))
        .envs([engines::environment()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut seen = Vec::new();
    read_until(&mut stdout, &mut seen, b"ready\n");
    let mut typed = Vec::new();
    for (round, pause_us) in [0, 1, 700, 12_345, 50, 3_333, 20_000, 0, 9_999, 100].into_iter().enumerate() {
        let line = format!("<line {round}>\n");
        stdin.write_all(line.as_bytes()).unwrap();
        typed.extend_from_slice(line.as_bytes());
        if round % 3 != 0 {
            read_until(&mut stdout, &mut seen, line.as_bytes());
        }
        clock::sleep_ns(1000 * pause_us);
    }
    stdin.write_all(&[END_OF_INPUT]).unwrap();
    drop(stdin);
    stdout.read_to_end(&mut seen).unwrap();
    assert!(child.wait().unwrap().success());

    let recording = Recording::open(&bench.path("a")).unwrap();
    let end = match recording.last().map(|event| event.body.clone()) {
        Some(Body::End(end)) => end,
        other => panic!("{other:?}"),
    };
    assert_eq!(end.cause, EndCause::PowerOff { status: u8::try_from(typed.len()).unwrap() });
    assert!(end.inputs >= 5, "{} inputs", end.inputs);
    for time in 0..4 {
        let replayed = bench.replay("a", (time % 2 == 1).then_some(KICKS)).unwrap();
        assert_eq!(replayed.report.outcome, Outcome::Complete(end.clone()), "replay {time}");
        assert!(replayed.output == [b"ready\n", &typed[..]].concat(), "replay {time}");
    }
    assert!(seen.windows(typed.len()).any(|window| window == typed), "{}", String::from_utf8_lossy(&seen));
}

fn typing_at_an_idle_guest_is_replayed() {
    let bench = Bench::new();
    bench.guest(guests::echo);
    type_at(&bench);
    let adjusted = bench.events("a").iter().any(|event| matches!(event.body, Body::TimeAdjust { .. }));
    assert!(adjusted, "no input came while the guest was idle");
}

fn typing_at_a_busy_guest_is_replayed() {
    let bench = Bench::new();
    bench.guest(guests::busy_echo);
    type_at(&bench);
}

/// The program, up to date: cargo builds the binaries of the package under test only. Its library is built already.
fn program() -> PathBuf {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--locked", "--package", "scribe-vmm", "--message-format", "json"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(built.status.success());
    let messages = serde_json::Deserializer::from_slice(&built.stdout).into_iter::<serde_json::Value>();
    let programs = messages.filter_map(|message| Some(message.unwrap().get("executable")?.as_str()?.into()));
    programs.last().unwrap()
}

#[test]
fn the_program_refuses_a_host_that_cannot_run_linux() {
    const NAME: &str = "the_program_refuses_a_host_that_cannot_run_linux";
    if !kvm(NAME) {
        return;
    }
    if !emulates_kernels() {
        return skip(NAME, "this one can");
    }
    let bench = Bench::new();
    let guest = bench.guest(guests::busy_echo);
    let program = program();
    let begun = clock::monotonic_ns();
    let output = Command::new(program)
        .args(["record", "--engine", "kvm"])
        .arg("--kernel")
        .arg(guest.kernel.unwrap())
        .env("SCRIBE_VMM_HOME", bench.path("home"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let took = clock::monotonic_ns() - begun;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{stderr}");
    assert!(stderr.starts_with("scribe-vmm: "), "{stderr}");
    assert!(stderr.contains("KVM"), "{stderr}");
    assert!(output.stdout.is_empty());
    assert!(!bench.path("home").exists(), "something was left behind");
    assert!(took < 30_000_000_000, "{took} ns: it is to take under 2 s where nothing else runs");
}

scribe_tests::each_engine!(typing_at_an_idle_guest_is_replayed, typing_at_a_busy_guest_is_replayed,);

scribe_tests::each_engine!(
    counted:
    typing_at_an_idle_guest_is_replayed,
    typing_at_a_busy_guest_is_replayed,
);
