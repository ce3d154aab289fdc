//! Recorders that are killed, and files that may not grow: what was sealed is a recording that replays to its last sealed
//! position, where the machine is what it is there in a recording that nobody disturbed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests, also outside of test functions")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use scribe_log::{
    BOOKMARKS_FILE, EVENTS_FILE, EVENTS_NEW_FILE, Event, INCOMPLETE_FILE, Position, Recording, State,
};
use scribe_tests::guests;
use scribe_tests::lab::{Chance, Lab, MEMORY, count, figure, in_checkout, text, wait_until};
use scribe_tests::places::{Seen, Sight, Theatre, Way};
use scribe_tests::tiny;
use scribe_vmm::host::clock;
use scribe_vmm::session::replay::Target;

const GUEST: [&str; 7] = [MEMORY, "--pace", "max", "--", "sh", "-c", "forks && entropy && forks"];

/// What is noted besides: none of it changes the events.
const NOTED: [&[&str]; 4] = [
    &[],
    &["--snapshot-every", "5ms"],
    &["--bookmark-every", "2ms", "--snapshot-every", "12ms"],
    &["--bookmark-every", "1ms", "--durable"],
];

/// What was killed and checked.
#[derive(Default)]
struct Killed {
    /// the digest printed at each position that a recording was sealed at
    digests: BTreeMap<Position, String>,
    sealed_nothing: usize,
    bookmarks: usize,
    from_snapshots: usize,
}

/// Records as `name`, kills the recorder `moment` ns later, and checks what it left. `false` if it had ended before, or not
/// begun to write.
fn kill(lab: &Lab, name: &str, noted: &[&str], moment: u64, killed: &Mutex<Killed>) -> bool {
    let call = lab.recorder(name, &[noted, &GUEST[..]].concat()).start();
    clock::sleep_ns(moment);
    call.signal("KILL");
    let outcome = call.finish();
    if outcome.code == 0 {
        assert_eq!(lab.recording(name).state(), State::Complete);
        return false;
    }
    if !lab.path(name).join(EVENTS_FILE).exists() {
        lab.call(&["info", name]).finish().ends_with(4).says_one_line();
        return false;
    }
    let recording = lab.recording(name);
    if recording.state() == State::Complete {
        // It had closed the recording and not ended yet.
        lab.replay(name, &[]).ends_with(0).says("digests equal; the guest");
        return false;
    }
    assert_eq!(recording.state(), State::Crashed);
    let bookmarks = recording.bookmarks().unwrap();
    lab.call(&["info", name]).finish().ends_with(0).shows("its recorder was killed");
    let replayed = lab
        .replay(name, &["--digest"])
        .ends_with(0)
        .says("the recording was not closed: replayed to its last");
    let digest = digest_line(&replayed.stderr);
    let position = recording.sealed_end().map_or(Position::START, |(position, _)| position);
    assert!(digest.starts_with(&format!("{position}: ")), "{replayed}");
    // The same from the last snapshot, and to the last bookmark.
    let to_end = lab.replay(name, &["--to", "end", "--digest"]).ends_with(0).says("not closed");
    assert_eq!(digest_line(&to_end.stderr), digest, "{noted:?}");
    if let Some(last) = bookmarks.iter().last() {
        let label = last.label().to_string();
        let place = last.bookmark.position;
        lab.replay(name, &["--to", &label]).ends_with(0).says(&format!("paused at {place}"));
    }
    let snapshots = fs::read_dir(lab.path(name).join("snapshots")).map_or(0, Iterator::count);
    fs::remove_dir_all(lab.path(name)).unwrap();
    let mut killed = killed.lock().unwrap();
    killed.sealed_nothing += usize::from(position == Position::START);
    killed.bookmarks += bookmarks.len();
    killed.from_snapshots += usize::from(snapshots > 2);
    if let Some(other) = killed.digests.insert(position, digest.clone()) {
        assert_eq!(other, digest);
    }
    true
}

/// What `--digest` printed, behind "digest at".
fn digest_line(stderr: &str) -> String {
    let line = stderr.lines().find_map(|line| line.strip_prefix("scribe-vmm: digest at "));
    line.unwrap_or_else(|| panic!("no digest in {stderr}")).to_owned()
}

fn printed(sight: &Sight) -> String {
    let Sight { position, rolling, full, .. } = sight;
    format!(
        "{position}: exits {rolling:016x}, cpu {:016x}, ram {:032x}, devices {:016x}, guest time {} ns",
        full.cpu, full.ram, full.devices, full.guest_time
    )
}

#[test]
#[cfg_attr(debug_assertions, ignore = "optimised only: scripts/test.sh")]
fn what_a_killed_recorder_sealed_replays() {
    const NAME: &str = "what_a_killed_recorder_sealed_replays";
    let Some(lab) = Lab::on_soft(NAME) else { return };
    let begun = clock::monotonic_ns();
    lab.record("whole", &GUEST);
    let whole = clock::monotonic_ns() - begun;
    let wanted = count("SCRIBE_TEST_KILLS", 20);
    let (done, tried) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let killed = Mutex::new(Killed::default());
    let chance = Mutex::new(Chance::new(NAME));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while done.load(Ordering::Relaxed) < wanted {
                    let number = tried.fetch_add(1, Ordering::Relaxed);
                    assert!(number < 3 * wanted + 50, "most recorders were killed too early or too late");
                    let moment = chance.lock().unwrap().below(usize::try_from(whole * 5 / 4).unwrap()) as u64;
                    let noted = NOTED[number % NOTED.len()];
                    if kill(&lab, &format!("killed-{number}"), noted, moment, &killed) {
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let killed = killed.into_inner().unwrap();
    // One replay of the recording that nobody disturbed, which looks at all these places.
    let targets: Vec<Target> = killed.digests.keys().map(|position| Target::Position(*position)).collect();
    let seen = Theatre::new(&lab, "whole").see_all(&targets, Way::default());
    for (digest, seen) in killed.digests.values().zip(&seen) {
        match seen {
            Seen::Paused(sight) => assert_eq!(printed(sight), *digest),
            Seen::Ended(outcome) => panic!("{digest}: {outcome:?}"),
        }
    }
    figure(
        "recorders killed",
        format!(
            "{} at random moments (and {} more before they wrote or after they had closed): each opens and replays to \
             its last sealed position, {} different ones, all digests there equal to the whole recording's; {} with \
             nothing sealed, {} with snapshots, {} bookmarks",
            done.load(Ordering::Relaxed),
            tried.load(Ordering::Relaxed) - done.load(Ordering::Relaxed),
            killed.digests.len(),
            killed.sealed_nothing,
            killed.from_snapshots,
            killed.bookmarks
        ),
    );
}

/// A recording of the shell that was killed after some bookmarks, as `killed`.
fn killed_shell(lab: &Lab) {
    let options = [MEMORY, "--pace", "max", "--bookmark-every", "20ms", "--log-level", "0"];
    let mut call = lab.recorder("killed", &options).typed().start();
    for word in ["one", "two", "three"] {
        call.types(format!("bookmark {word}; echo {word}-$((40 + 2)).\n").as_bytes());
        call.waits_for(&format!("{word}-42."));
        call.signal("USR2");
        call.waits_for_message("bookmark signal-");
    }
    let sealed = || lab.recording("killed").bookmarks().unwrap().find("signal-3").is_some();
    assert!(wait_until(30, sealed), "nothing sealed");
    call.signal("KILL");
    call.finish().ends_with(-1);
}

/// Everything that can be read of a recording that is not closed.
fn read(directory: &Path) -> (Vec<Event>, Vec<String>) {
    let recording = Recording::open(directory).unwrap();
    assert_eq!(recording.state(), State::Crashed);
    let events: Vec<Event> = recording.events().map(Result::unwrap).collect();
    assert_eq!(recording.last(), events.last());
    let bookmarks = recording.bookmarks().unwrap();
    (events, bookmarks.iter().map(|it| format!("{} {}", it.label(), it.bookmark.position)).collect())
}

#[test]
#[cfg_attr(debug_assertions, ignore = "optimised only: scripts/test.sh")]
fn a_killed_recording_can_be_cut_anywhere() {
    let Some(lab) = Lab::on_soft("a_killed_recording_can_be_cut_anywhere") else { return };
    killed_shell(&lab);
    let (all, marks) = read(&lab.path("killed"));
    assert!(all.len() > 5 && marks.len() > 10, "{} events, {} bookmarks", all.len(), marks.len());
    lab.copy_recording("killed", "cut");
    for file in [EVENTS_FILE, BOOKMARKS_FILE] {
        let path = lab.path("cut").join(file);
        let good = fs::read(&path).unwrap();
        let mut longest = 0;
        for length in 0..=good.len() {
            fs::write(&path, &good[..length]).unwrap();
            let (events, bookmarks) = read(&lab.path("cut"));
            assert!(all.starts_with(&events), "{file}, {length} bytes");
            assert!(bookmarks.iter().all(|mark| marks.contains(mark)), "{file}, {length} bytes");
            let found = if file == EVENTS_FILE { events.len() } else { bookmarks.len() };
            assert!(found >= longest, "{file}: {length} bytes hold less than fewer do");
            longest = found;
        }
    }
    assert_eq!(read(&lab.path("cut")), (all, marks));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "optimised only: scripts/test.sh")]
fn a_recorder_can_be_killed_anywhere_while_it_closes() {
    let Some(lab) = Lab::on_soft("a_recorder_can_be_killed_anywhere_while_it_closes") else { return };
    lab.record("whole", &[&["--bookmark-every", "20ms"], &GUEST[..]].concat());
    let canonical = fs::read(lab.path("whole").join(EVENTS_FILE)).unwrap();
    let all = lab.events("whole");
    // The events were sealed with their end, and are written again; then they are in their place, and the mark that the
    // recording is not complete is still there.
    lab.copy_recording("whole", "closing");
    let incomplete = lab.path("closing").join(INCOMPLETE_FILE);
    fs::write(&incomplete, "").unwrap();
    assert_eq!(read(&lab.path("closing")).0, all);
    for length in (0..canonical.len()).step_by(13) {
        fs::write(lab.path("closing").join(EVENTS_NEW_FILE), &canonical[..length]).unwrap();
        assert_eq!(read(&lab.path("closing")).0, all, "{length} bytes");
    }
    lab.replay("closing", &[]).ends_with(0).says("digests equal");
}

#[test]
#[cfg_attr(debug_assertions, ignore = "optimised only: scripts/test.sh")]
fn a_file_that_may_not_grow_ends_the_recording_with_what_there_is() {
    let Some(lab) = Lab::on_soft("a_file_that_may_not_grow_ends_the_recording") else { return };
    let program = in_checkout("target/release/scribe-vmm");
    // Without a disk, whose overlay would be the first file to grow. In real time, so that some of it is sealed before.
    fs::write(lab.path("kernel"), tiny::kernel(guests::echo)).unwrap();
    let mut chance = Chance::new("keys");
    let keys: Vec<u8> = (0..300_000).map(|_| u8::try_from(chance.below(251)).unwrap() + 5).collect();
    fs::write(lab.path("keys"), keys).unwrap();
    for (name, kib, noted) in [("events", 24, &[][..]), ("pack", 24, &["--snapshot-every", "100ms"])] {
        let guest =
            ["--engine", "soft", "--memory", "4M", "--pace", "real", "--input", "keys", "--kernel", "kernel"];
        let words = [&["record"], &guest[..], noted, &["-o", name]].concat();
        let output = Command::new("bash")
            .args(["-c", &format!("ulimit -f {kib} && exec \"$@\""), "bash", text(&program)])
            .args(words)
            .current_dir(lab.path("."))
            .env("SCRIBE_VMM_HOME", lab.path("home"))
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {stderr}");
        assert!(stderr.contains("File too large") && stderr.contains("kept in"), "{name}: {stderr}");
        // Snapshots that do not fit are done without.
        let lines = stderr.lines().filter(|line| !line.contains("; the recording goes on")).count();
        assert_eq!(lines, 2, "where it is kept, and what went wrong: {stderr}");
        assert_eq!(lab.recording(name).state(), State::Crashed);
        let replayed = lab.replay(name, &[]).ends_with(0).says("last sealed position");
        assert!(replayed.console().starts_with("ready"), "{replayed}");
        let end = lab.replay(name, &["--to", "end"]).ends_with(0).says("last sealed position");
        assert!(replayed.stdout.ends_with(&end.stdout), "{end}");
    }
}
