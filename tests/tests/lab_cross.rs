//! Whole machines: what one engine recorded, the other replays, at the same exits with the same digests.

use scribe_tests::lab::{Lab, MEMORY, figure};

/// Programs of which the guest waits, computes and writes; short, as the soft engine runs on the lab's emulated processor.
const GUEST: [&str; 6] = ["--pace", "max", "--", "sh", "-c", "forks && floats && entropy"];

#[test]
fn the_soft_engine_replays_what_kvm_recorded() {
    let Some(lab) = Lab::enter("the_soft_engine_replays_what_kvm_recorded") else { return };
    let recorded = lab.record("kvm", &[&[MEMORY], &GUEST[..]].concat());
    lab.replays("kvm", &recorded, &["--engine", "soft", "--behaviour", "tcg"]);
    figure("recorded on kvm, replayed on soft", format!("{} exits, all digests equal", lab.end("kvm").exits));
}

#[test]
fn kvm_replays_what_the_soft_engine_recorded() {
    let Some(lab) = Lab::enter("kvm_replays_what_the_soft_engine_recorded") else { return };
    let soft = ["--engine", "soft", "--behaviour", "tcg", "--sync-points", "exit", MEMORY];
    let recorded = lab.record("soft", &[&soft[..], &GUEST].concat());
    lab.replays("soft", &recorded, &["--engine", "kvm"]);
    figure(
        "recorded on soft, replayed on kvm",
        format!("{} exits, all digests equal", lab.end("soft").exits),
    );
}
