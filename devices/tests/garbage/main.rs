//! Hostile drivers: random programs of register accesses, descriptors, ring indices, RAM contents and inputs, run against
//! every kind of virtio device.
//!
//! A program must end (no panic, no unbounded work), leave a state that can be saved and restored, find the device in
//! its documented failed state where it broke the rules, and do the same again on a twin that is saved and restored
//! after every step. Guest memory has holes, so that whatever lies outside RAM is next to something that is not.
//!
//! `soak` runs for SCRIBE_FUZZ_SECONDS seconds (default 10), with other programs than the rest:
//! `SCRIBE_FUZZ_SECONDS=600 cargo test --release -p scribe-devices --test garbage -- --ignored --nocapture`

#![allow(clippy::unwrap_used, reason = "a test")]

mod program;
mod world;

use std::collections::BTreeSet;

use program::{Words, step};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use world::{KINDS, World};

/// Steps of a program, each made of four random words.
fn words() -> impl Strategy<Value = Vec<Words>> {
    prop::collection::vec(any::<Words>(), 1..60)
}

/// Runs a program against the device of this kind and against a twin; gives what was reached.
fn run(kind: usize, program: &[Words]) -> Result<BTreeSet<String>, TestCaseError> {
    let (mut world, mut twin) = (World::new(kind), World::new(kind));
    for words in program {
        let step = step(kind, *words);
        let seen = world.run(&step);
        prop_assert_eq!(&seen, &twin.run(&step), "{:?}", step);
        if let Err(broken) = world.check() {
            return Err(TestCaseError::fail(format!("after {step:?}: {broken}")));
        }
        twin.transplant().map_err(|error| TestCaseError::fail(format!("after {step:?}: {error}")))?;
        prop_assert_eq!(world.slot.save(), twin.slot.save(), "{:?}", step);
    }
    prop_assert!(world.ram() == twin.ram(), "RAM differs");
    prop_assert!(world.disk() == twin.disk(), "the disks differ");
    Ok(world.reached)
}

fn runner(cases: u32, seed: u8, round: u64) -> TestRunner {
    let mut bytes = [seed; 32];
    bytes[..8].copy_from_slice(&round.to_le_bytes());
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

/// Many programs from one seed; gives all that was reached.
fn many(kind: usize, cases: u32, seed: u8, round: u64) -> BTreeSet<String> {
    let reached = std::cell::RefCell::new(BTreeSet::new());
    let result = runner(cases, seed, round).run(&words(), |program| {
        reached.borrow_mut().extend(run(kind, &program)?);
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{}, round {round}: {failure}", KINDS[kind]);
    }
    reached.into_inner()
}

/// The programs are worth something only if they get far: so this is checked too.
fn survives_and_reaches(kind: usize, wanted: &[&str]) {
    let reached = many(kind, 200, 1, 0);
    let common =
        ["fault Chain", "fault AvailableRing", "fault QueueMemory", "fault QueueInUse", "fault AccessSize"];
    for what in common.iter().chain(wanted) {
        assert!(reached.contains(*what), "{}: no program reached {what:?}, only {reached:?}", KINDS[kind]);
    }
}

#[test]
fn a_disk_survives_garbage() {
    survives_and_reaches(0, &["status 0", "status 1", "status 2", "zeroed", "host error"]);
}

#[test]
fn a_read_only_disk_survives_garbage() {
    survives_and_reaches(1, &["status 0", "status 1", "status 2", "host error"]);
}

#[test]
fn a_network_device_survives_garbage() {
    survives_and_reaches(2, &["sent", "Accepted", "NoBuffer", "SmallBuffer", "LinkDown", "NotRunning"]);
}

#[test]
fn an_entropy_device_survives_garbage() {
    survives_and_reaches(3, &["supplied", "not wanted"]);
}

#[test]
fn a_console_survives_garbage() {
    survives_and_reaches(4, &["printed", "delivered", "backlog full"]);
}

#[test]
#[ignore = "a soak: runs for SCRIBE_FUZZ_SECONDS"]
#[allow(clippy::disallowed_methods, reason = "how long a soak runs is not what it does")]
fn soak() {
    let seconds = std::env::var("SCRIBE_FUZZ_SECONDS").map_or(10, |text| text.parse().unwrap());
    let start = std::time::Instant::now();
    let (mut round, mut programs) = (0, 0);
    while start.elapsed().as_secs() < seconds {
        round += 1;
        for kind in 0..KINDS.len() {
            many(kind, 200, 2, round);
            programs += 200;
        }
    }
    println!("{programs} programs in {} s, all survived", start.elapsed().as_secs());
}
