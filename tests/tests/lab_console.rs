//! Whole machines: what is typed at the console at any moment is replayed there.

use std::collections::BTreeSet;

use scribe_log::{Body, EndCause};
use scribe_tests::lab::{Chance, KICKS, Lab, MEMORY, Outcome, count, figure};
use scribe_vmm::host::clock;

/// Typed at once, before the guest can have booted.
const EARLY: &str = "echo $((6 * 7)) is the answer\n";
/// Typed in pieces of a few bytes at random moments, while commands run and while the shell waits.
const SESSION: &str = "seq 1 200 | tail -n 2\n\
                       date +%s; cat /proc/uptime\n\
                       for i in 1 2 3; do sleep 0.03; echo nap $i; done\n\
                       entropy\n\
                       head -c 20 /dev/urandom | md5sum\n\
                       echo typing is ov''er\n";

fn typed_session(lab: &Lab, name: &str, pace: &str) -> Outcome {
    let mut chance = Chance::new(name);
    // The limit is only there to end a test that would otherwise wait for ever.
    let mut call = lab.recorder(name, &[MEMORY, "--pace", pace, "--for", "150s"]).typed().start();
    clock::sleep_ns(chance.below(2_000_000_000) as u64);
    call.types(EARLY.as_bytes());
    call.waits_for("42 is the answer");
    let mut keys = SESSION.as_bytes();
    while !keys.is_empty() {
        clock::sleep_ns(chance.below(120_000_000) as u64);
        let (now, later) = keys.split_at(keys.len().min(1 + chance.below(12)));
        call.types(now);
        keys = later;
    }
    call.waits_for("typing is over");
    call.types(b"exit\n");
    call.finish().ends_with(0)
}

/// Records sessions typed at `pace` and replays them.
fn sessions(lab: &Lab, pace: &str) {
    let sessions = count("SCRIBE_TEST_SESSIONS", 1);
    let mut places = Vec::new();
    for session in 1..=sessions {
        let name = format!("{pace}-{session}");
        let recorded = typed_session(lab, &name, pace).shows("200").shows("nap 3");
        assert_eq!(lab.end(&name).cause, EndCause::PowerOff { status: 0 });
        let inputs = lab.events(&name).into_iter().filter(|e| matches!(e.body, Body::ConsoleInput { .. }));
        let positions: BTreeSet<_> = inputs.map(|event| event.position).collect();
        assert!(positions.len() > 5, "input at {} positions only", positions.len());
        lab.replays_equal(&name, &recorded);
        places.push(positions.len().to_string());
    }
    let places = places.join(", ");
    figure(
        &format!("typed sessions, pace {pace}"),
        format!("{sessions}, each replayed twice: output byte-identical; input at {places} positions"),
    );
}

#[test]
fn typing_at_real_pace_is_replayed() {
    let Some(lab) = Lab::anywhere("typing_at_real_pace_is_replayed") else { return };
    sessions(&lab, "real");
}

#[test]
fn typing_at_full_pace_is_replayed() {
    let Some(lab) = Lab::anywhere("typing_at_full_pace_is_replayed") else { return };
    sessions(&lab, "max");
}

#[test]
fn ctrl_c_interrupts_what_runs() {
    let Some(lab) = Lab::anywhere("ctrl_c_interrupts_what_runs") else { return };
    let mut call = lab.recorder("interrupt", &[MEMORY, "--pace", "real", "--for", "150s"]).typed().start();
    call.types(b"echo rea''dy; sleep 100000; echo not interrupted\n");
    call.waits_for("ready");
    call.types(b"\x03");
    call.types(b"echo status $?; exit 5\n");
    let recorded = call.finish().ends_with(0).says("powered off with status 5");
    let recorded = recorded.shows("status 130");
    lab.replays("interrupt", &recorded, &KICKS);
}
