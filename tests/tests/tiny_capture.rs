//! Captured sync points: tiny guests that make no exits for long, on engines without a counter, through the library.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use iced_x86::code_asm::*;
use scribe_log::header::Level;
use scribe_log::snapshots::Origin;
use scribe_log::{Body, Capture, EndCause, Event, Position, StopReason};
use scribe_tests::bench::{Bench, KICKS, Recorded};
use scribe_tests::engines::{self, Under};
use scribe_tests::guests::TEN_MS;
use scribe_tests::places::{Seen, Theatre, Way, see};
use scribe_tests::tiny::{self, DATA, Emitted, PIC_VECTORS};
use scribe_vmm::session::capture;
use scribe_vmm::session::choice::Wish;
use scribe_vmm::session::config::GuestConfig;
use scribe_vmm::session::files::DigestCache;
use scribe_vmm::session::replay::{Outcome, Target};
use scribe_vmm::session::start::Connections;

const TICKS: u32 = 12;
/// Where a tick notes what it has interrupted.
const NOTES: u64 = DATA + 0x6_0000;

/// Writes to one page after the other until the timer has ticked so often. The timer is set where interrupts are on, so that
/// none has to wait for a window: a KVM that emulates CPL 0 opens these late.
fn computes(a: &mut CodeAssembler, pages: u32, ticks: u32) -> Emitted {
    let (mut set, mut again, mut tick) = (a.create_label(), a.create_label(), a.create_label());
    tiny::gate(a, PIC_VECTORS, tick)?;
    tiny::load_idt(a)?;
    tiny::pic(a, &[0])?;
    a.mov(r12d, 0)?;
    a.mov(r8d, 0)?;
    a.mov(rsi, DATA)?;
    a.sti()?;
    a.set_label(&mut set)?;
    a.mov(r14, r12)?;
    tiny::pit_once(a, TEN_MS)?;
    a.set_label(&mut again)?;
    a.inc(r8)?;
    a.mov(rdi, r8)?;
    a.shl(edi, 12)?;
    a.and(edi, (pages - 1) << 12)?;
    a.mov(qword_ptr(rsi + rdi), r8)?;
    a.cmp(r14, r12)?;
    a.je(again)?;
    a.cmp(r12d, ticks)?;
    a.jb(set)?;
    tiny::power_off(a, 5)?;
    a.set_label(&mut tick)?;
    a.inc(r12d)?;
    a.mov(r13, qword_ptr(rsp))?;
    a.mov(rbx, NOTES)?;
    a.mov(qword_ptr(rbx + r12 * 8), r13)?;
    tiny::end_of_interrupt(a)?;
    a.iretq()
}

/// Computes for ever, and waits for nothing.
fn spins(a: &mut CodeAssembler) -> Emitted {
    let mut again = a.create_label();
    tiny::print(a, "here\n")?;
    a.set_label(&mut again)?;
    a.inc(r8)?;
    a.jmp(again)
}

fn captured(after: u64) -> Connections {
    Connections { captures: capture::Wish { after, always: true }, ..Connections::none() }
}

fn record(bench: &Bench, name: &str, level: Level, guest: &GuestConfig) -> Recorded {
    let recorded = bench.record_at(level, name, guest, captured(5_000_000));
    assert_eq!(recorded.report.cause, EndCause::PowerOff { status: 5 });
    recorded
}

fn captures(events: &[Event]) -> Vec<(Position, Capture)> {
    let capture = |event: &Event| match &event.body {
        Body::Capture(capture) => Some((event.position, capture.clone())),
        _ => None,
    };
    events.iter().filter_map(capture).collect()
}

fn a_guest_that_computes_gets_its_ticks() {
    let bench = Bench::new();
    let mut guest = bench.guest(|a| computes(a, 16, TICKS));
    guest.digest_every = 8;
    let recorded = record(&bench, "a", Level::Inputs, &guest);
    let captures = captures(&bench.events("a"));
    assert!(captures.len() >= TICKS as usize, "{} captures", captures.len());
    let pages: Vec<u64> = captures.iter().map(|(_, capture)| capture.pages).collect();
    assert!(pages.iter().any(|pages| *pages >= 16), "{pages:?}");
    let report = recorded.report.captures.unwrap();
    assert_eq!(report.count, captures.len() as u64);
    assert!(report.median > 0 && report.bytes > 0, "{report:?}");
    // Behind the first of them only what has changed since the last is stored.
    let (_, last) = captures.last().unwrap();
    assert!(last.bytes < 16 * 1024, "{} bytes", last.bytes);
    bench.replay_equal("a", &recorded, 6);
}

fn its_markers_are_compared_too() {
    let bench = Bench::new();
    let guest = bench.guest(|a| computes(a, 4, TICKS));
    let recorded = record(&bench, "a", Level::Exits, &guest);
    let interrupts = bench.events("a").iter().filter(|e| matches!(e.body, Body::Interrupt { .. })).count();
    assert_eq!(interrupts, TICKS as usize);
    bench.replay_equal("a", &recorded, 2);
}

fn any_place_can_be_looked_at() {
    let bench = Bench::new();
    let mut guest = bench.guest(|a| computes(a, 8, TICKS));
    guest.digest_every = 16;
    record(&bench, "a", Level::Inputs, &guest);
    let theatre = bench.theatre("a");
    let places = captures(&bench.events("a")).into_iter().map(|(at, _)| Target::Position(at));
    let targets: Vec<Target> = places.step_by(3).collect();
    let seen = theatre.see_all(&targets, Way::default());
    let mut player = theatre.player(None, Way::default());
    for (target, seen) in targets.iter().zip(&seen) {
        assert_eq!(&see(&mut player, *target), seen);
        player.take_snapshot(Origin::Asked).unwrap();
    }
    // From each snapshot on it is the same run: what the pages build on came with it.
    let end = Seen::Ended(Outcome::Complete(theatre.end()));
    for (target, seen) in targets.iter().zip(&seen) {
        let mut player = theatre.player(Some(*target), Way { snapshots: true, ..Way::default() });
        assert_eq!(&see(&mut player, *target), seen);
        assert_eq!(see(&mut player, Target::End), end);
    }
}

fn a_stop_comes_to_a_guest_that_computes() {
    let bench = Bench::new();
    let guest = bench.guest(spins);
    let connections =
        Connections { host_limit: Some(500_000_000), perturb: Some(KICKS), ..captured(5_000_000) };
    let recorded = bench.record("a", &guest, connections);
    assert_eq!(recorded.report.cause, EndCause::Stopped { reason: StopReason::HostTime });
    let end = &recorded.report.recorded.as_ref().unwrap().end;
    assert!(end.full.is_some(), "it was stopped at a sync point: {end:?}");
    assert_eq!(captures(&bench.events("a")).len(), 1);
    bench.replay_equal("a", &recorded, 2);
}

fn unrecorded_it_is_the_same_to_the_guest() {
    let bench = Bench::new();
    let run = bench.run(&bench.guest(|a| computes(a, 4, TICKS)), captured(5_000_000));
    assert_eq!(run.report.cause, EndCause::PowerOff { status: 5 });
    assert!(run.report.captures.unwrap().count >= u64::from(TICKS));
}

fn the_way_is_executed_after_all() {
    if std::env::var_os("SCRIBE_LAB").is_some() {
        return tiny::skip("the_way_is_executed_after_all", "too slow on an emulated processor");
    }
    let bench = Bench::new();
    let mut guest = bench.guest(|a| computes(a, 8, 4));
    guest.digest_every = 8;
    record(&bench, "a", Level::Exits, &guest);
    let all = captures(&bench.events("a")).len() as u64;
    let cache = DigestCache::new(&bench.path("home"));
    let theatre = Theatre::at(bench.path("a"), bench.path(""), Wish::Soft, cache);
    let mut player = theatre.player(None, Way::default());
    player.confirm_captures().unwrap();
    assert_eq!(see(&mut player, Target::End), Seen::Ended(Outcome::Complete(theatre.end())));
    let (confirmed, found) = player.confirmed().unwrap();
    assert_eq!(found, all);
    match engines::current() {
        // Another processor may leave other flags where manuals are silent.
        Under::Kvm => println!("{confirmed} of {all} captures on this host's KVM are met on soft"),
        _ => assert_eq!(confirmed, all),
    }
    if engines::current() == Under::Kvm {
        assert!(bench.theatre("a").player(None, Way::default()).confirm_captures().is_err());
    }
}

fn a_run_that_takes_no_time_from_the_host_has_none() {
    let bench = Bench::new();
    let limited = Connections { host_limit: Some(200_000_000), ..Connections::none() };
    let recorded = bench.record("a", &bench.guest(|a| computes(a, 4, TICKS)), limited);
    assert_eq!(recorded.report.cause, EndCause::Stopped { reason: StopReason::HostTime });
    assert_eq!(recorded.report.captures, None);
    assert!(captures(&bench.events("a")).is_empty());
}

scribe_tests::each_engine!(
    a_guest_that_computes_gets_its_ticks,
    its_markers_are_compared_too,
    any_place_can_be_looked_at,
    a_stop_comes_to_a_guest_that_computes,
    unrecorded_it_is_the_same_to_the_guest,
    the_way_is_executed_after_all,
    a_run_that_takes_no_time_from_the_host_has_none,
);
