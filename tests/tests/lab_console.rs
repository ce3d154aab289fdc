//! Whole machines: what is typed at the console at any moment is replayed there.

use std::collections::BTreeSet;

use scribe_log::{Body, EndCause};
use scribe_tests::lab::{Chance, Lab, MEMORY, Outcome};
use scribe_vmm::host::clock;

/// A shell's session: typed from the first moment on, before the guest can have booted, in pieces of a few bytes, at
/// random moments.
const SESSION: &str = "echo $((6 * 7)) is the answer\n\
                       seq 1 200 | tail -n 2\n\
                       date +%s.%N; cat /proc/uptime\n\
                       for i in 1 2 3; do sleep 0.03; echo nap $i; done\n\
                       entropy\n\
                       head -c 20 /dev/urandom | md5sum\n\
                       echo typing is ov''er\n";

fn typed_session(lab: &Lab, name: &str, pace: &str) -> Outcome {
    let mut chance = Chance::new(name);
    // The limit is only there to end a test that would otherwise wait for ever.
    let mut call = lab.recorder(name, &[MEMORY, "--pace", pace, "--for", "150s"]).typed().start();
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

fn check_session(lab: &Lab, name: &str, recorded: &Outcome) {
    let recorded = recorded.clone().shows("42 is the answer").shows("200").shows("nap 3");
    assert_eq!(lab.end(name).cause, EndCause::PowerOff { status: 0 });
    let positions: BTreeSet<_> = lab
        .events(name)
        .into_iter()
        .filter(|event| matches!(event.body, Body::ConsoleInput { .. }))
        .map(|event| event.position)
        .collect();
    println!("{name}: input at {} positions", positions.len());
    assert!(positions.len() > 5, "input at {} positions only", positions.len());
    lab.replays_equal(name, &recorded);
}

#[test]
fn typing_at_real_pace_is_replayed() {
    let Some(lab) = Lab::enter("typing_at_real_pace_is_replayed") else { return };
    let recorded = typed_session(&lab, "real", "real");
    check_session(&lab, "real", &recorded);
}

#[test]
fn typing_at_full_pace_is_replayed() {
    let Some(lab) = Lab::enter("typing_at_full_pace_is_replayed") else { return };
    let recorded = typed_session(&lab, "max", "max");
    check_session(&lab, "max", &recorded);
}

#[test]
fn ctrl_c_interrupts_what_runs() {
    let Some(lab) = Lab::enter("ctrl_c_interrupts_what_runs") else { return };
    let mut call = lab.recorder("interrupt", &[MEMORY, "--pace", "real", "--for", "150s"]).typed().start();
    call.types(b"echo rea''dy; sleep 100000; echo not interrupted\n");
    call.waits_for("ready");
    call.types(b"\x03");
    call.types(b"echo status $?; exit 5\n");
    let recorded = call.finish().ends_with(0).says("powered off with status 5");
    let recorded = recorded.shows("status 130");
    lab.replays_equal("interrupt", &recorded);
}
