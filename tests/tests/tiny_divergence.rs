//! What is said of a divergence.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs::{self, File};

use iced_x86::code_asm::*;
use scribe_log::snapshots::{Origin, SNAPSHOTS_DIR, Snapshots};
use scribe_log::{Body, EVENTS_FILE, HEADER_FILE, Header, Position, Recording, Writer};
use scribe_tests::bench::{self, Bench};
use scribe_tests::engines::{self, Under};
use scribe_tests::guests::{self, END_OF_INPUT};
use scribe_tests::tiny::{self, Emitted};
use scribe_vmm::session::SessionError;
use scribe_vmm::session::config::{GuestConfig, Moved};
use scribe_vmm::session::console::Console;
use scribe_vmm::session::divergence::Divergence;
use scribe_vmm::session::divergence::verdict::Verdict;
use scribe_vmm::session::files::DigestCache;
use scribe_vmm::session::player::{Player, ReplayConfig, Stay};
use scribe_vmm::session::replay::Target;
use scribe_vmm::session::start::{Connections, StartError};

/// Records the echo guest with this input.
fn record(bench: &Bench, name: &str, guest: &GuestConfig, input: &[u8]) {
    let input = bench.file("input", &[input, &[END_OF_INPUT]].concat());
    let connections = Connections { input: Some(File::open(input).unwrap()), ..Connections::none() };
    bench.record(name, guest, connections);
}

fn player(bench: &Bench, name: &str, snapshots: bool, target: Option<Target>) -> Player {
    let directory = bench.path(name);
    let config = ReplayConfig {
        counter: Err("not in tests".into()),
        directory: &directory,
        moved: Moved::default(),
        engine: engines::current().wish(),
        behaviour: None,
        quiet: true,
        perturb: None,
        snapshots,
    };
    let cache = DigestCache::new(&bench.path("cache"));
    Player::open(&config, &cache, &bench::made_up_host(), &bench.path(""), target).unwrap()
}

fn divergence(player: &mut Player) -> Divergence {
    match player.run(Target::End, &mut Console::quiet()) {
        Err(StartError::Session(SessionError::Diverged(divergence))) => *divergence,
        other => panic!("{other:?}"),
    }
}

/// Puts a snapshot of `from` at `at` into `to`, which is another recording of the same configuration.
fn smuggle(bench: &Bench, from: &str, to: &str, at: Position, origin: Origin) {
    let mut other = player(bench, from, false, None);
    assert_eq!(other.run(Target::Position(at), &mut Console::quiet()).unwrap(), Stay::Paused);
    other.take_snapshot(origin).unwrap();
    let there = bench.path(to).join(SNAPSHOTS_DIR);
    let _ = fs::remove_dir_all(&there);
    fs::rename(bench.path(from).join(SNAPSHOTS_DIR), there).unwrap();
}

fn a_snapshot_that_is_not_the_recordings_is_blamed() {
    let bench = Bench::new();
    let guest = bench.guest(guests::echo);
    record(&bench, "a", &guest, &[b'a'; 100]);
    record(&bench, "b", &guest, &[b'b'; 100]);
    let at = Position::exit(150);
    smuggle(&bench, "b", "a", at, Origin::Asked);
    let mut player = player(&bench, "a", true, Some(Target::End));
    assert_eq!(player.machine().position(), at);
    let found = divergence(&mut player);
    let expected = Verdict::Snapshot { at, without: "no difference".into() };
    assert_eq!(found.verdict, Some(expected), "{found}");
    assert!(found.causes[0].cause.contains("the snapshot at exit:150"), "{found}");
    assert!(found.to_string().contains("the snapshot at exit:150 is wrong"), "{found}");
}

fn automatic_snapshots_of_a_run_that_diverged_are_dropped() {
    let bench = Bench::new();
    let guest = bench.guest(guests::echo);
    record(&bench, "a", &guest, &[b'a'; 100]);
    record(&bench, "b", &guest, &[b'b'; 100]);
    let automatic = Origin::Automatic { ordinal: 1 };
    let left = || {
        let crc = Recording::open(&bench.path("a")).unwrap().header_crc();
        Snapshots::open(&bench.path("a"), crc).unwrap().list().len()
    };
    smuggle(&bench, "b", "a", Position::exit(150), automatic);
    // Nobody who begins at the start comes to it.
    player(&bench, "a", true, None).run(Target::End, &mut Console::quiet()).unwrap();
    assert_eq!(left(), 1);
    // It is what the divergence comes from.
    divergence(&mut player(&bench, "a", true, Some(Target::End)));
    assert_eq!(left(), 0);
    // It is behind the last place at which all was equal.
    smuggle(&bench, "b", "a", Position::exit(150), automatic);
    forge(&bench, "a");
    divergence(&mut player(&bench, "a", true, None));
    assert_eq!(left(), 0);
}

/// Changes what was typed first in a recording.
fn forge(bench: &Bench, name: &str) {
    let mut events = bench.events(name);
    let input = events.iter_mut().find_map(|event| match &mut event.body {
        Body::ConsoleInput { bytes } => Some(bytes),
        _ => None,
    });
    input.unwrap()[0] ^= 1;
    let header = Header::read(&bench.path(name).join(HEADER_FILE)).unwrap();
    let mut writer = Writer::create(&bench.path("forged"), &header, true).unwrap();
    let end = events.pop().unwrap();
    events.iter().for_each(|event| writer.append(event).unwrap());
    writer.close(&end).unwrap();
    fs::rename(bench.path("forged").join(EVENTS_FILE), bench.path(name).join(EVENTS_FILE)).unwrap();
}

/// Reads random numbers of the host and writes them to a port.
fn noise(a: &mut CodeAssembler) -> Emitted {
    let mut again = a.create_label();
    a.mov(ebx, 20_i32)?;
    a.set_label(&mut again)?;
    a.rdrand(eax)?;
    a.out(0x80_i32, al)?;
    a.dec(ebx)?;
    a.jnz(again)?;
    tiny::power_off(a, 0)
}

/// On KVM alone: elsewhere RDRAND does not execute.
#[test]
fn noise_of_the_host_is_unstable() {
    engines::on(Under::Kvm, "noise_of_the_host_is_unstable", || {
        if !std::arch::is_x86_feature_detected!("rdrand") {
            return tiny::skip("noise_of_the_host_is_unstable", "this processor has no RDRAND");
        }
        let bench = Bench::new();
        let guest = bench.guest(noise);
        bench.record("a", &guest, Connections::none());
        let found = divergence(&mut player(&bench, "a", false, None));
        let Some(Verdict::Unstable { first_at, .. }) = found.verdict else { panic!("{found}") };
        assert_eq!(first_at, Some(Position::exit(1)), "{found}");
        assert_eq!(found.causes[0].cause, "the guest reads the host's clock or noise", "{found}");
        assert!(found.causes[0].because.contains("`rdrand eax`"), "{found}");
    });
}

scribe_tests::each_engine!(
    a_snapshot_that_is_not_the_recordings_is_blamed,
    automatic_snapshots_of_a_run_that_diverged_are_dropped,
);
