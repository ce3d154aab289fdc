//! A guest that sleeps is somewhere behind the first moment of its position: input may have come there already, and guest
//! time has passed. Snapshots from there, and places there.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use iced_x86::code_asm::CodeAssembler;
use scribe_log::snapshots::Origin;
use scribe_log::{Body, BookmarkOrigin, EndCause, Position};
use scribe_tests::bench::{Bench, config, made_up_host};
use scribe_tests::engines::{self, Under};
use scribe_tests::guests;
use scribe_tests::places::{Seen, Theatre, Way, look, see};
use scribe_tests::tiny::{self, Emitted};
use scribe_vmm::host::clock;
use scribe_vmm::host::events::ConsoleSource;
use scribe_vmm::session::console::Console;
use scribe_vmm::session::drive::Phase;
use scribe_vmm::session::files::DigestCache;
use scribe_vmm::session::journal::Noting;
use scribe_vmm::session::replay::{Outcome, Target};
use scribe_vmm::session::start::{self, Connections};

const CHILD: &str = "SCRIBE_TESTS_ASLEEP";
const FROM_THE_START: Way = Way { snapshots: false, perturb: None };
const FROM_SNAPSHOTS: Way = Way { snapshots: true, perturb: None };

/// Records the guest in the folder that the environment names, with standard input and output as its console: a process of
/// its own, because that is where live input and signals come to.
#[test]
#[ignore = "started by other tests"]
fn records_standard_input() {
    let Some(folder) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    engines::enter();
    start::prepare_process().unwrap();
    let connections = Connections { console: ConsoleSource::Stream, ..Connections::none() };
    let directory = folder.join("a");
    let target =
        start::Target { directory: &directory, overwrite: false, store: None, noting: Noting::default() };
    let guest = config(folder.join("kernel"));
    let mut console = Console::to(Box::new(std::io::stdout()));
    start::record(&guest, &DigestCache::new(&folder), made_up_host(), connections, &target, &mut console)
        .unwrap();
}

/// Starts recording the guest in `bench` in a process of its own, and waits until it has said `ready`.
fn recorder(bench: &Bench) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "records_standard_input", "--ignored", "--nocapture", "--test-threads", "1"])
        .env(CHILD, bench.path(""))
        .envs([engines::environment()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = child.stdout.as_mut().unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"ready\n") {
        let mut byte = [0];
        assert_eq!(stdout.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&seen));
        seen.push(byte[0]);
    }
    child
}

/// Says `ready` and sleeps from tick to tick for a second. It does not want to hear of console input.
fn deaf(a: &mut CodeAssembler) -> Emitted {
    tiny::print(a, "ready\n")?;
    guests::ticks_of(a, 0xffff, 18)
}

/// Places where the guest sleeps and was typed at, with guest time when it fell asleep, and at the last input there.
fn typed_places(theatre: &Theatre) -> Vec<(Position, u64, u64)> {
    let mut places: Vec<(Position, u64, u64)> = Vec::new();
    for event in theatre.recording().events().map(Result::unwrap) {
        if let Body::TimeAdjust { nanoseconds } = event.body {
            match places.last_mut().filter(|(position, ..)| *position == event.position) {
                Some((_, _, typed)) => *typed = nanoseconds,
                None => places.push((event.position, 0, nanoseconds)),
            }
        }
    }
    let mut player = theatre.player(None, FROM_THE_START);
    for (position, asleep, typed) in &mut places {
        see(&mut player, Target::Position(*position));
        *asleep = player.machine().guest_time();
        *typed += *asleep;
    }
    places
}

fn a_snapshot_of_a_sleeping_guest_knows_what_it_was_told_there() {
    let bench = Bench::new();
    bench.guest(deaf);
    let mut child = recorder(&bench);
    let mut stdin = child.stdin.take().unwrap();
    for pause_ms in [5, 12, 3, 30, 9, 8, 7, 50, 20, 5, 5, 11] {
        clock::sleep_ns(1_000_000 * pause_ms);
        stdin.write_all(b"x").unwrap();
    }
    assert!(child.wait().unwrap().success());
    drop(stdin);
    let theatre = bench.theatre("a");
    let complete = Seen::Ended(Outcome::Complete(theatre.end()));
    let places = typed_places(&theatre);
    assert!(!places.is_empty(), "all of the input came while the guest was awake");
    for (position, asleep, typed) in places {
        // Right behind the last input that came while it slept there; a tick may be as close.
        let behind = Target::Time(typed);
        let there = theatre.see(behind, FROM_THE_START);
        let Seen::Paused(sight) = &there else { panic!("{there:?}") };
        if sight.position != position {
            continue;
        }
        let first = theatre.see(Target::Position(position), FROM_THE_START);
        let mut player = theatre.player(None, FROM_THE_START);
        assert_eq!(see(&mut player, behind), there);
        assert_eq!(player.phase(), Phase::Idle);
        assert!(player.machine().guest_time() > asleep, "{typed}");
        player.take_snapshot(Origin::Asked).unwrap();
        // Whoever looks again sees the same, and whoever asks for the place is there already.
        assert_eq!(see(&mut player, behind), there);
        assert_eq!(see(&mut player, Target::Position(position)), there);
        assert_eq!(see(&mut player, Target::End), complete);

        let mut restored = theatre.player(Some(behind), FROM_SNAPSHOTS);
        assert_eq!(Seen::Paused(look(&mut restored)), there, "as it was");
        assert_eq!(see(&mut restored, behind), there);
        let later = Target::Time(typed + 1_000_000);
        assert_eq!(see(&mut restored, later), theatre.see(later, FROM_THE_START));
        assert_eq!(see(&mut restored, Target::End), complete);
        assert_eq!(theatre.see(Target::Position(position), FROM_SNAPSHOTS), first, "its first moment");
    }
    assert!(!theatre.snapshots().is_empty(), "a tick came right behind each input");
}

fn every_moment_of_a_sleep_is_the_place_where_it_began() {
    let bench = Bench::new();
    let guest = bench.guest(|a| guests::ticks(a, 10));
    bench.record("a", &guest, Connections::none());
    let theatre = bench.theatre("a");
    let end = theatre.end();
    let mut player = theatre.player(None, FROM_THE_START);
    let mut asleep = 0;
    for time in (0..end.guest_time).step_by(777_777) {
        let target = Target::Time(time);
        let there = see(&mut player, target);
        assert_eq!(theatre.see(target, FROM_SNAPSHOTS), there);
        if player.phase() == Phase::Idle {
            asleep += 1;
            player.take_snapshot(Origin::Asked).unwrap();
            assert_eq!(theatre.see(target, FROM_SNAPSHOTS), there);
            let position = player.machine().position();
            let first = theatre.see(Target::Position(position), FROM_SNAPSHOTS);
            let Seen::Paused(first) = first else { panic!("{first:?}") };
            assert_eq!((first.position, first.phase), (position, Phase::Arrived));
        }
    }
    assert!(asleep > 50, "{asleep}");
    for info in theatre.snapshots() {
        let mut player = theatre.player(Some(Target::Time(info.guest_time)), FROM_SNAPSHOTS);
        assert_eq!(player.machine().position(), info.position);
        assert_eq!(see(&mut player, Target::End), Seen::Ended(Outcome::Complete(end.clone())));
    }
}

/// Says `ready`, computes for a while without any exit, and faults.
fn dies(a: &mut CodeAssembler) -> Emitted {
    use iced_x86::code_asm::*;
    tiny::print(a, "ready\n")?;
    tiny::spin(a, if cfg!(debug_assertions) { 6_000_000 } else { 300_000_000 })?;
    a.mov(rdi, tiny::IDT)?;
    a.mov(qword_ptr(rdi), 0)?;
    a.mov(word_ptr(rdi + 8), 0)?;
    a.lidt(ptr(rdi))?;
    a.ud2()
}

fn a_bookmark_in_the_last_work_of_a_guest_that_crashes_is_kept() {
    let bench = Bench::new();
    bench.guest(dies);
    let mut child = recorder(&bench);
    clock::sleep_ns(50_000_000);
    let signalled = Command::new("kill").args(["-USR2", &child.id().to_string()]).status().unwrap();
    assert!(signalled.success());
    assert!(child.wait().unwrap().success(), "the recording was not closed");
    let theatre = bench.theatre("a");
    let recording = theatre.recording();
    let last = recording.last().unwrap().clone();
    assert!(
        matches!(&last.body, Body::End(end) if matches!(end.cause, EndCause::TripleFault { .. })),
        "{last}"
    );
    let bookmarks = recording.bookmarks().unwrap();
    let mark = &bookmarks.find("signal-1").unwrap().bookmark;
    assert_eq!((mark.origin, mark.position), (BookmarkOrigin::Signal, last.position), "its last sync point");
    let there = theatre.see(Target::Position(mark.position), FROM_THE_START);
    assert!(matches!(there, Seen::Paused(_)), "{there:?}");
}

scribe_tests::each_engine!(
    counted:
    a_snapshot_of_a_sleeping_guest_knows_what_it_was_told_there,
    every_moment_of_a_sleep_is_the_place_where_it_began,
    a_bookmark_in_the_last_work_of_a_guest_that_crashes_is_kept,
);

#[test]
fn a_snapshot_of_a_sleeping_guest_without_a_counter() {
    let name = "a_snapshot_of_a_sleeping_guest_without_a_counter";
    engines::on(Under::Soft, name, a_snapshot_of_a_sleeping_guest_knows_what_it_was_told_there);
}
