//! Single steps on the lab's KVM: every case of [`scribe_tests::ring0`], step by step beside the soft engine, and places
//! between two exits of a whole machine.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests, also outside of test functions")]

use iced_x86::code_asm::*;
use scribe_log::Position;
use scribe_tests::bench;
use scribe_tests::lab::{Chance, Lab, MEMORY, count, figure, in_checkout};
use scribe_tests::places::{Seen, Theatre, Way, see};
use scribe_tests::ring0::{cases, is_deadly};
use scribe_tests::steps::Pair;
use scribe_tests::tiny::Emitted;
use scribe_tests::vcpu::Vcpu;
use scribe_vmm::engine::cpu::CpuState;
use scribe_vmm::engine::{Progress, Stop};
use scribe_vmm::host::clock;
use scribe_vmm::session::choice::Wish;
use scribe_vmm::session::console::Console;
use scribe_vmm::session::files::DigestCache;
use scribe_vmm::session::replay::{Outcome, Target};

/// Steps of a case at most.
const MOST: u64 = 60;
/// Of so many cases one is stepped through: all of them take minutes.
const ONE_OF: usize = 5;

#[test]
fn ring_0_is_the_same_step_by_step() {
    if std::env::var_os("SCRIBE_LAB").is_none() {
        eprintln!("SKIPPED (not in the lab): ring_0_is_the_same_step_by_step");
        return;
    }
    let only = std::env::var("SCRIBE_RING0_ONLY").unwrap_or_default();
    // Where the lab's processor is known to differ from the soft one, it differs from it in steps too.
    let listed = std::fs::read_to_string(in_checkout("tests/golden/ring0-lab.txt")).unwrap();
    let differs = |name: &str| listed.lines().any(|line| line == format!("[{name}]"));
    let (mut steps, mut number) = (0, 0);
    let mut differ = Vec::new();
    let one_of = if only.is_empty() { count("SCRIBE_TEST_STEPPED_ONE_OF", ONE_OF).max(1) } else { 1 };
    for case in cases().iter().filter(|case| case.name.contains(&only)).step_by(one_of) {
        if is_deadly(&case.name) || differs(&case.name) {
            continue;
        }
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
        format!("{number} cases (one of {one_of}), {steps} steps, identical on soft and kvm_amd"),
    );
}

/// What a step takes in a loop of these instructions, us.
fn cost(emit: impl Fn(&mut CodeAssembler) -> Emitted) -> u64 {
    const STEPS: u64 = 2_000;
    let mut vcpu = Vcpu::new(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        for _ in 0..50 {
            emit(a)?;
        }
        a.jmp(again)
    });
    let until = Some(Progress { branches: 0, steps: STEPS });
    let begun = clock::monotonic_ns();
    while vcpu.engine.run(until).unwrap() != Stop::Reached {}
    (clock::monotonic_ns() - begun) / STEPS / 1_000
}

#[test]
fn what_a_step_takes() {
    if std::env::var_os("SCRIBE_LAB").is_none() {
        eprintln!("SKIPPED (not in the lab): what_a_step_takes");
        return;
    }
    let plain = cost(|a| a.inc(rax));
    let soft = cost(|a| a.pushfq());
    figure("a step on the lab's KVM", format!("{plain} us; {soft} us where the soft CPU executes it"));
}

/// In [`CpuState::segments`].
const SS: usize = 2;

/// The most steps from an exit to a place.
const FARTHEST: u64 = 2_000;

/// A place, and what the soft engine sees there.
struct Place {
    exit: u64,
    at: Position,
    /// steps behind the exit
    steps: u64,
    seen: Seen,
    cpu: CpuState,
}

/// Random places at most [`FARTHEST`] steps behind an exit, ascending, as the soft engine comes to them.
fn places(theatre: &Theatre, chance: &mut Chance, wanted: usize) -> Vec<Place> {
    let exits = usize::try_from(theatre.end().exits).unwrap();
    let below = |chance: &mut Chance, limit: u64| chance.below(usize::try_from(limit).unwrap()) as u64;
    let mut chosen: Vec<Position> = (0..wanted)
        .map(|number| {
            let exit = chance.below(exits) as u64;
            // Mostly some branches behind the exit; steps enough to come into the middle of a REP.
            let branches = if number % 4 == 0 { below(chance, 4) } else { below(chance, 250) };
            let steps = if number % 4 == 0 { 1 + below(chance, 400) } else { 1 + below(chance, 8) };
            Position { exit, branches, steps }
        })
        .collect();
    chosen.sort_unstable();
    chosen.dedup_by_key(|at| at.exit);
    let mut player = theatre.player(None, Way::default());
    let mut places = Vec::new();
    for at in chosen {
        let exit = at.exit;
        if !matches!(see(&mut player, Target::Position(Position::exit(exit))), Seen::Paused(_)) {
            break;
        }
        let before = player.machine().instructions().unwrap();
        let seen = see(&mut player, Target::Position(at));
        let steps = player.machine().instructions().unwrap() - before;
        let cpu = player.machine().cpu_state().unwrap();
        // The hidden part of a null SS that IRET has loaded is another on the lab's processor (ring0-lab.txt). The kernel
        // has one until it switches between tasks.
        let is_null = cpu.segments[SS].selector == 0;
        // What is farther than the next exit is at that exit.
        if steps <= FARTHEST && !is_null && matches!(&seen, Seen::Paused(sight) if !sight.position.is_exit())
        {
            places.push(Place { exit, at, steps, seen, cpu });
        }
    }
    places
}

#[test]
fn places_between_two_exits_are_the_same_on_kvm() {
    const NAME: &str = "places_between_two_exits_are_the_same_on_kvm";
    let Some(lab) = Lab::enter(NAME) else { return };
    lab.record("boot", &[MEMORY, "--pace", "max", "--", "sh", "-c", "forks; floats"]);
    let wanted = count("SCRIBE_TEST_PLACES", 20);
    let cache = || DigestCache::new(&lab.path("home"));
    let soft = Theatre::at(lab.path("boot"), lab.path("."), Wish::Soft, cache());
    // Some lie beyond the next exit.
    let mut places = places(&soft, &mut Chance::new(NAME), 4 * wanted);
    while places.len() > wanted {
        places.remove(places.len() / 2 + places.len() % 2);
    }
    assert!(places.len() >= wanted, "{} of {wanted} places", places.len());

    let way = Way { snapshots: false, perturb: Some(bench::KICKS) };
    let mut player = Theatre::new(&lab, "boot").player(None, way);
    let (mut steps, mut took, mut most) = (0, 0, 0);
    let mut differ = Vec::new();
    for place in &places {
        see(&mut player, Target::Position(Position::exit(place.exit)));
        let begun = clock::monotonic_ns();
        player.run(Target::Position(place.at), &mut Console::quiet()).unwrap();
        took += clock::monotonic_ns() - begun;
        let seen = see(&mut player, Target::Position(place.at));
        if seen != place.seen {
            let expected = &place.seen;
            let cpu = [&place.cpu, &player.machine().cpu_state().unwrap()].map(|cpu| format!("{cpu:#x?}"));
            let cpu: Vec<_> = cpu[0].lines().zip(cpu[1].lines()).filter(|(soft, kvm)| soft != kvm).collect();
            let at = format!("{:?}, {} steps", place.at, place.steps);
            differ.push(format!("{at}\nsoft {expected:x?}\nkvm  {seen:x?}\n{cpu:?}"));
        }
        // Digests of RAM then rest upon the pages that are said to be written, those of the soft CPU among them.
        player.machine_mut().track_dirty_pages().unwrap();
        steps += place.steps;
        most = most.max(place.steps);
    }
    assert!(differ.is_empty(), "{} of {} differ:\n{}", differ.len(), places.len(), differ.join("\n"));
    let end = see(&mut player, Target::End);
    assert_eq!(
        end,
        Seen::Ended(Outcome::Complete(soft.end())),
        "behind the places the guest has gone on as ever"
    );
    figure(
        "places stepped to on KVM, one pass over a boot",
        format!(
            "{} of {steps} steps, at most {most}: digests of CPU, RAM and devices equal to those on soft",
            places.len()
        ),
    );
    figure("a step in Linux on the lab's KVM, under kicks", format!("{} us", took / steps / 1000));
}
