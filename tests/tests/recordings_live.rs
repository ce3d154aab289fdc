//! Leaving a recording: from bookmarks of each kind, from a sleep, from between two exits, and by signals. The guest goes on,
//! answers, and what it does then is a recording of its own.
#![allow(clippy::unwrap_used, reason = "tests, also outside of test functions")]

use std::fs;

use scribe_log::{BookmarkOrigin, State};
use scribe_tests::lab::{KICKS, Lab, MEMORY, Outcome, Running, count, figure};

/// A shell that waits, and all it has been asked so far.
fn shell(lab: &Lab, name: &str, options: &[&str]) -> Running {
    let mut call = lab.recorder(name, &[&[MEMORY, "--for", "150s"], options].concat()).typed().start();
    ask(&mut call, "up");
    call
}

/// Types a command and waits for its answer.
fn ask(call: &mut Running, word: &str) {
    call.types(format!("echo {word}-$((40 + 2)).\n").as_bytes());
    call.waits_for(&format!("{word}-42."));
}

/// The guest time of place `place` of recording `name`, ns.
fn time_at(lab: &Lab, name: &str, place: &str) -> u64 {
    let paused = lab.replay(name, &["--to", place, "--quiet", "--digest"]).ends_with(0);
    let words = paused.stderr.split_whitespace().collect::<Vec<_>>();
    let at = words.iter().rposition(|word| *word == "ns").unwrap();
    words[at - 1].parse().unwrap()
}

/// The position of bookmark `label` of recording `name`.
fn bookmark(lab: &Lab, name: &str, label: &str, origin: BookmarkOrigin) -> scribe_log::Position {
    let bookmarks = lab.recording(name).bookmarks().unwrap();
    let found = bookmarks.find(label).unwrap_or_else(|| panic!("no bookmark {label}: {bookmarks:?}"));
    assert_eq!(found.bookmark.origin, origin, "{label}");
    found.bookmark.position
}

/// Leaves recording `parent` at `place` into recording `branch`, and has a command answered.
fn leave(lab: &Lab, parent: &str, place: &str, branch: &str) -> Outcome {
    let mut call = lab
        .call(&["live", parent, "--from", place, "-o", branch, "--quiet", "--for", "150s"])
        .typed()
        .start();
    call.waits_for_message("live from");
    call.types(b"\n"); // the parent's user may have been in the middle of a line
    ask(&mut call, branch);
    call.types(b"exit 3\n");
    call.finish().ends_with(0).says("status 3")
}

fn replays(lab: &Lab, branch: &str, left: &Outcome) {
    for replay in 0..count("SCRIBE_TEST_REPLAYS", 2) {
        lab.replays(branch, left, if replay % 2 == 0 { &KICKS[..] } else { &[] });
    }
}

#[test]
#[cfg_attr(debug_assertions, ignore = "optimised only: scripts/test.sh")]
fn a_guest_goes_live_from_any_place_and_its_branch_replays() {
    let Some(lab) = Lab::on_soft("a_guest_goes_live_from_any_place_and_its_branch_replays") else { return };
    let mut call = shell(&lab, "parent", &["--pace", "max", "--bookmark-every", "100ms"]);
    call.types(b"bookmark alpha; echo al''pha\n");
    call.waits_for("alpha\r");
    call.signal("USR2");
    call.waits_for_message("bookmark signal-1 at ");
    call.types(b"bookmark nap; sleep 0.4; echo sl''ept\n");
    call.waits_for("slept");
    call.types(b"bookmark sum; i=0; while [ $i -lt 300 ]; do i=$((i + 1)); done; echo su''m $i\n");
    call.waits_for("sum 300");
    call.types(b"exit\n");
    let recorded = call.finish().ends_with(0);
    replays(&lab, "parent", &recorded);

    bookmark(&lab, "parent", "alpha", BookmarkOrigin::Guest);
    bookmark(&lab, "parent", "signal-1", BookmarkOrigin::Signal);
    bookmark(&lab, "parent", "every-2", BookmarkOrigin::Every);
    let sum = bookmark(&lab, "parent", "sum", BookmarkOrigin::Guest);
    let between = format!("exit:{}+40+2", sum.exit);
    let asleep = format!("{}ns", time_at(&lab, "parent", "nap") + 200_000_000);
    lab.replay("parent", &["--to", &asleep]).ends_with(0).says(", asleep;");
    lab.replay("parent", &["--to", &between]).ends_with(0).says(&format!("paused at {between}"));

    let places = ["alpha", "every-2", "signal-1", &asleep, &between];
    let mut left = Vec::new();
    for (number, place) in places.iter().enumerate() {
        let branch = format!("branch-{number}");
        let outcome = leave(&lab, "parent", place, &branch);
        replays(&lab, &branch, &outcome);
        left.push((branch, outcome));
    }
    // A branch of a branch: once where its guest sleeps, once between two exits.
    for (number, from) in [3, 4].into_iter().enumerate() {
        let (parent, _) = &left[from];
        let end = lab.end(parent);
        let start = lab.recording(parent).start();
        let place = format!("{}ns", (start.guest_time + end.guest_time) / 2);
        let branch = format!("twig-{number}");
        let outcome = leave(&lab, parent, &place, &branch);
        left.push((branch, outcome));
    }
    // Nobody needs its parent any more.
    fs::rename(lab.path("parent"), lab.path("gone")).unwrap();
    for number in 0..places.len() {
        fs::rename(lab.path(&format!("branch-{number}")), lab.path(&format!("moved-{number}"))).unwrap();
    }
    for (branch, outcome) in &left {
        replays(&lab, &branch.replace("branch", "moved"), outcome);
    }
    figure(
        "gone live from",
        format!(
            "a guest's bookmark, one every 100 ms, a signal's, the middle of a sleep, a place between two exits; twice \
             more from those; each answers, and each of the {} branches replays {} times, also without its parent",
            left.len(),
            count("SCRIBE_TEST_REPLAYS", 2),
        ),
    );
}

#[test]
#[cfg_attr(debug_assertions, ignore = "optimised only: scripts/test.sh")]
fn a_branch_starts_with_the_same_state_every_time() {
    let Some(lab) = Lab::on_soft("a_branch_starts_with_the_same_state_every_time") else { return };
    let guest =
        [MEMORY, "--pace", "max", "--snapshot-every", "100ms", "--", "sh", "-c", "forks; sleep 1; floats"];
    lab.record("parent", &guest);
    let end = lab.end("parent");
    // In the sleep, and between two exits.
    for (name, place) in
        [("a", format!("{}ns", end.guest_time - 600_000_000)), ("b", format!("exit:{}+9+1", end.exits / 2))]
    {
        for (branch, options) in [("1", &[][..]), ("2", &["--no-snapshots"])] {
            let branch = format!("{name}{branch}");
            let live = ["live", "parent", "--from", &place, "-o", &branch, "--pace", "max", "--quiet"];
            lab.call(&[&live[..], options].concat()).finish().ends_with(0);
        }
        let ends = ["1", "2"].map(|branch| lab.end(&format!("{name}{branch}")));
        assert_eq!(ends[0], ends[1], "{place}");
        let events = ["1", "2"].map(|branch| lab.events(&format!("{name}{branch}")));
        assert_eq!(events[0], events[1], "{place}");
    }
}

#[test]
#[cfg_attr(debug_assertions, ignore = "optimised only: scripts/test.sh")]
fn a_signal_ends_the_recording_and_the_guest_lives_on() {
    let Some(lab) = Lab::on_soft("a_signal_ends_the_recording_and_the_guest_lives_on") else { return };
    for (name, busy) in [("idle", false), ("busy", true)] {
        let mut call = shell(&lab, name, &["--pace", "max"]);
        if busy {
            call.types(b"while :; do :; done & echo lo''oping\n");
            call.waits_for("looping");
        }
        call.signal("USR1");
        call.waits_for_message("the guest lives on");
        assert_eq!(lab.recording(name).state(), State::Complete);
        // Whoever is unrecorded can still be asked, and another signal is no news.
        ask(&mut call, "after");
        call.signal("USR1");
        call.signal("USR2");
        call.waits_for_message("no bookmark signal-1");
        ask(&mut call, "again");
        call.types(b"exit 4\n");
        let lived = call.finish().ends_with(0).says("status 4");
        for options in [&[][..], &KICKS] {
            let replayed = lab.replay(name, options).ends_with(0).says("was stopped by the user");
            assert!(lived.stdout.starts_with(&replayed.stdout), "{lived}\n{replayed}");
            assert!(!replayed.console().contains("after"), "{replayed}");
        }
    }
}

#[test]
#[cfg_attr(debug_assertions, ignore = "optimised only: scripts/test.sh")]
fn a_signal_lets_a_replayed_guest_go_live() {
    let Some(lab) = Lab::on_soft("a_signal_lets_a_replayed_guest_go_live") else { return };
    let mut call = shell(&lab, "parent", &["--pace", "max"]);
    call.types(b"echo lo''op; i=0; while [ $i -lt 60000 ]; do i=$((i + 1)); done; echo fini''shed\n");
    call.waits_for("finished");
    call.types(b"exit\n");
    call.finish().ends_with(0);
    let mut call = lab.call(&["replay", "parent"]).typed().start();
    call.waits_for("loop\r");
    call.signal("USR1");
    call.waits_for_message("live from ");
    ask(&mut call, "alive");
    call.types(b"exit 5\n");
    // The rest of what had been typed when it was recorded never comes: only the loop was under way.
    call.finish().ends_with(0).says("status 5").shows("finished");
}

#[test]
#[cfg_attr(debug_assertions, ignore = "optimised only: scripts/test.sh")]
fn a_key_sets_a_bookmark_at_a_terminal() {
    let Some(lab) = Lab::on_soft("a_key_sets_a_bookmark_at_a_terminal") else { return };
    let mut call = lab.recorder("keys", &[MEMORY, "--for", "150s"]).on_a_terminal().start();
    ask(&mut call, "up");
    call.types(b"\x01b");
    call.waits_for("name of the bookmark: ");
    // The guest goes on while the name is typed, and the place stays that of the key.
    call.types(b"spot\x7ft\r");
    call.waits_for("bookmark spot at exit:");
    call.types(b"\x01b\r");
    call.waits_for("bookmark key-2 at exit:");
    call.types(b"\x01bnever\x1b");
    ask(&mut call, "after");
    call.types(b"exit\n");
    call.finish().ends_with(0);
    let spot = bookmark(&lab, "keys", "spot", BookmarkOrigin::Key);
    bookmark(&lab, "keys", "key-2", BookmarkOrigin::Key);
    assert_eq!(lab.recording("keys").bookmarks().unwrap().len(), 2);
    let paused = lab.replay("keys", &["--to", "spot"]).ends_with(0).says(&format!("paused at {spot}"));
    assert!(paused.console().contains("up-42.") && !paused.console().contains("after-42."), "{paused}");
    leave(&lab, "keys", "spot", "branch");
    // Going live at a terminal, whose keys are the guest's then.
    let mut call =
        lab.call(&["live", "keys", "--from", "spot", "-o", "again", "--quiet"]).on_a_terminal().start();
    call.waits_for("live from ");
    ask(&mut call, "here");
    call.types(b"\x01bthere\r");
    call.waits_for("bookmark there at exit:");
    call.types(b"\x01x");
    call.finish().ends_with(0).shows("was stopped by the user");
    bookmark(&lab, "again", "there", BookmarkOrigin::Key);
    lab.replay("again", &[]).ends_with(0).says("was stopped by the user");
}
