//! How small a recording is, and how long it takes to be at a snapshot.
#![allow(clippy::unwrap_used, reason = "tests, also outside of test functions")]

use scribe_log::Position;
use scribe_tests::lab::{Lab, figure};
use scribe_tests::places::{Theatre, Way};
use scribe_vmm::host::clock;
use scribe_vmm::session::replay::Target;

/// Most bytes of header and events of the demo at the lowest level.
const MOST: u64 = 16 * 1024;
/// How long (ms) putting a snapshot of the demo back may take, from a warm cache.
const RESTORED_MS: f64 = 50.0;
const TIMES: usize = 7;

#[test]
#[cfg_attr(debug_assertions, ignore = "optimised only: scripts/test.sh")]
fn the_demos_header_and_events_are_small() {
    let Some(lab) = Lab::on_soft("the_demos_header_and_events_are_small") else { return };
    lab.record("demo", &["--pace", "max", "--", "/bin/demo"]);
    let sizes = lab.recording("demo").sizes();
    let bytes = sizes.header + sizes.events;
    figure("header and events of the demo at level 0", format!("{bytes} bytes (less than {MOST})"));
    assert!(bytes < MOST, "{sizes:?}");
}

/// The median time of `work`, ms.
fn median_ms(mut work: impl FnMut()) -> f64 {
    let mut times: Vec<u64> = (0..TIMES)
        .map(|_| {
            let begun = clock::monotonic_ns();
            work();
            clock::monotonic_ns() - begun
        })
        .collect();
    times.sort_unstable();
    (times[TIMES / 2] / 10_000) as f64 / 100.0
}

#[test]
#[ignore = "speed, which says something on an idle machine only: tests/soak/recordings.sh"]
fn putting_a_snapshot_back_takes_no_time() {
    let Some(lab) = Lab::on_soft("putting_a_snapshot_back_takes_no_time") else { return };
    lab.record("demo", &["--pace", "max", "--snapshot-every", "800ms", "--", "/bin/demo"]);
    let theatre = Theatre::new(&lab, "demo");
    let last = theatre.snapshots().pop().unwrap();
    let target = Target::Position(last.position);
    let way = Way { snapshots: true, perturb: None };
    let open = || drop(theatre.player(Some(target), way));
    open();
    let restored = median_ms(|| {
        let player = theatre.player(Some(target), way);
        assert_eq!(player.machine().position(), last.position);
    });
    let to = last.position.to_string();
    let seek = median_ms(|| drop(lab.replay("demo", &["--to", &to, "--quiet"]).ends_with(0)));
    let start = median_ms(|| drop(lab.call(&["--version"]).finish().ends_with(0)));
    let whole = median_ms(|| drop(lab.replay("demo", &["--no-snapshots", "--quiet"]).ends_with(0)));
    let Position { exit, .. } = last.position;
    let verdict = if restored <= RESTORED_MS { "at most" } else { "MORE THAN" };
    figure(
        "a snapshot of the demo put back, warm",
        format!(
            "{restored} ms ({verdict} {RESTORED_MS}): 128 MiB machine at exit {exit}, {} pages that are not zero; the \
             program to its first instruction and back: {start} ms, `replay --to` there in all: {seek} ms, a whole replay: \
             {whole} ms; medians of {TIMES}",
            last.pages
        ),
    );
}
