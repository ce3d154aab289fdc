//! Single steps on the lab's KVM: every case of [`scribe_tests::ring0`], step by step beside the soft engine.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use scribe_tests::lab::figure;
use scribe_tests::ring0::cases;
use scribe_tests::steps::Pair;

/// Steps of a case at most.
const MOST: u64 = 60;

#[test]
fn ring_0_is_the_same_step_by_step() {
    if std::env::var_os("SCRIBE_LAB").is_none() {
        eprintln!("SKIPPED (not in the lab): ring_0_is_the_same_step_by_step");
        return;
    }
    let only = std::env::var("SCRIBE_RING0_ONLY").unwrap_or_default();
    let (mut steps, mut number) = (0, 0);
    let mut differ = Vec::new();
    for case in cases().iter().filter(|case| case.name.contains(&only)) {
        if std::env::var_os("SCRIBE_RING0_TRACE").is_some() {
            eprintln!("{}", case.name); // the last one before the lab dies
        }
        let mut pair = Pair::ring0(case);
        if let Err(what) = pair.run(MOST) {
            differ.push(format!("[{}] {what}", case.name));
        }
        steps += pair.steps;
        number += 1;
    }
    assert!(differ.is_empty(), "{} of {number} differ:\n{}", differ.len(), differ.join("\n"));
    figure(
        "ring-0 cases, step by step",
        format!("{number} cases, {steps} steps, identical on soft and kvm_amd"),
    );
}
