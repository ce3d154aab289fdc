//! Counted sync points where something else is at hand: places of input that are looked at and kept, a recorder that is
//! killed while its guest spins, more input than a guest can take, a guest whose instructions never retire.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests, also outside of test functions")]

use iced_x86::code_asm::*;
use scribe_log::{Body, EndCause, Position, State};
use scribe_tests::guests::{self, END_OF_INPUT};
use scribe_tests::lab::{KICKS, Lab, Outcome, text};
use scribe_tests::latency::Conversation;
use scribe_tests::places::{Seen, Theatre, Way};
use scribe_tests::tiny::{self, DATA, Emitted};
use scribe_vmm::host::clock;
use scribe_vmm::session::replay::{Outcome as Replayed, Target};

const FROM_THE_START: Way = Way { snapshots: false, perturb: Some((50, 3000)) };
const FROM_SNAPSHOTS: Way = Way { snapshots: true, perturb: None };

/// Starts recording a kernel as `spin`.
fn record(lab: &Lab, kernel: &[u8], options: &[&str]) -> Conversation {
    let file = lab.path("kernel");
    std::fs::write(&file, kernel).unwrap();
    let mut arguments =
        vec!["record", "--engine", "soft", "--memory", "2M", "--kernel", text(&file), "-o", "spin"];
    arguments.extend(options);
    Conversation::start(lab.call(&arguments).into_command())
}

/// It spins on its jiffies and echoes.
fn spinning() -> Vec<u8> {
    tiny::kernel(|a| guests::jiffies(a, 4773, 0))
}

fn inputs(lab: &Lab) -> Vec<Position> {
    let events = lab.events("spin").into_iter();
    events
        .filter(|event| matches!(event.body, Body::ConsoleInput { .. }))
        .map(|event| event.position)
        .collect()
}

fn asks(talk: &mut Conversation, questions: u8) {
    talk.hears(b"ready", 0);
    for number in 0..questions {
        clock::sleep_ns(3_000_000 + u64::from(number) * 1_300_000);
        let from = talk.heard();
        talk.says(&[b'a' + number]);
        talk.hears(&[b'a' + number], from);
    }
}

#[test]
fn places_of_input_are_looked_at_and_kept() {
    let Some(lab) = Lab::on_soft("places_of_input_are_looked_at_and_kept") else { return };
    let mut talk = record(&lab, &spinning(), &[]);
    asks(&mut talk, 8);
    talk.says(&[END_OF_INPUT]);
    assert_eq!(talk.finish().code, 0);
    let places: Vec<Position> = inputs(&lab).into_iter().filter(|position| !position.is_exit()).collect();
    assert!(places.len() > 4, "{places:?}");
    let theatre = Theatre::new(&lab, "spin");
    let targets: Vec<Target> = places.iter().copied().map(Target::Position).collect();
    let seen = theatre.see_all(&targets, FROM_THE_START);
    for (target, seen) in targets.iter().zip(&seen) {
        let Seen::Paused(sight) = seen else { panic!("{target:?}: {seen:?}") };
        assert_eq!(*target, Target::Position(sight.position));
    }
    for place in &places {
        lab.call(&["snapshot", "add", "spin", "--at", &place.to_string()]).finish().ends_with(0);
    }
    let kept: Vec<Position> = theatre.snapshots().iter().map(|info| info.position).collect();
    assert!(places.iter().all(|place| kept.contains(place)), "{places:?} {kept:?}");
    for (target, expected) in targets.iter().zip(&seen) {
        assert_eq!(theatre.see(*target, FROM_SNAPSHOTS), *expected);
    }
    // From each snapshot to the next, input at the place of the snapshot itself included, and to the end.
    lab.call(&["verify", "spin"]).finish().ends_with(0);
    assert_eq!(theatre.see(Target::End, FROM_SNAPSHOTS), Seen::Ended(Replayed::Complete(theatre.end())));
}

#[test]
fn a_recorder_is_killed_while_its_guest_spins() {
    let Some(lab) = Lab::on_soft("a_recorder_is_killed_while_its_guest_spins") else { return };
    let mut talk = record(&lab, &spinning(), &[]);
    asks(&mut talk, 6);
    clock::sleep_ns(700_000_000);
    talk.signal("KILL");
    let ended = talk.finish();
    let recording = lab.recording("spin");
    assert_ne!(recording.state(), State::Complete);
    let (sealed, _) = recording.sealed_end().unwrap();
    assert!(inputs(&lab).len() >= 6 && sealed >= inputs(&lab)[5], "{sealed} {:?}", inputs(&lab));
    for options in [&[][..], &KICKS[..]] {
        lab.replay("spin", options).ends_with(0).says(&sealed.to_string());
    }
    assert!(ended.stdout.starts_with(b"ready\n"));
}

#[test]
fn a_flood_of_input_comes_in_order() {
    const BYTES: usize = 1500;
    let Some(lab) = Lab::on_soft("a_flood_of_input_comes_in_order") else { return };
    let mut talk = record(&lab, &spinning(), &[]);
    talk.hears(b"ready\n", 0);
    let byte = |number: usize| b'a' + u8::try_from(number % 26).unwrap();
    for number in 0..BYTES {
        talk.says(&[byte(number)]); // a kick each
    }
    talk.says(&[END_OF_INPUT]);
    let ended = talk.finish();
    let expected: Vec<u8> = b"ready\n".iter().copied().chain((0..BYTES).map(byte)).collect();
    assert_eq!((ended.code, ended.stdout == expected), (0, true), "{}", ended.stderr);
    assert_eq!(lab.end("spin").cause, EndCause::PowerOff { status: u8::try_from(BYTES % 256).unwrap() });
    let recorded = Outcome::of("flood", ended.code, ended.stdout, ended.stderr);
    lab.replays("spin", &recorded, &[]);
    lab.replays("spin", &recorded, &KICKS);
}

/// Its handler of #UD is an undefined instruction, on a stack of its own: nothing retires any more.
fn faulting(a: &mut CodeAssembler) -> Emitted {
    const TSS: u64 = DATA + 0x800;
    const GDT: u64 = DATA + 0x400;
    const STACK: u64 = DATA + 0x2000;
    let mut undefined = a.create_label();
    tiny::gate(a, 6, undefined)?;
    a.mov(rdi, tiny::IDT + 16 * 6 + 4)?;
    a.mov(byte_ptr(rdi), 1)?; // IST1
    tiny::load_idt(a)?;
    let tss = 0x67 | (TSS & 0xff_ffff) << 16 | 0x89 << 40;
    let words = [
        (GDT + 0x10, 0x00af_9b00_0000_ffff),
        (GDT + 0x18, 0x00cf_9300_0000_ffff),
        (GDT + 0x20, tss),
        (GDT + 0x28, 0),
        (TSS + 36, STACK),
        (DATA, 0x2f | GDT << 16),
    ];
    for (address, word) in words {
        a.mov(rdi, address)?;
        a.mov(rax, word)?;
        a.mov(qword_ptr(rdi), rax)?;
    }
    a.lgdt(ptr(rdi))?;
    a.mov(eax, 0x20)?;
    a.ltr(ax)?;
    tiny::print(a, "ready\n")?;
    a.set_label(&mut undefined)?;
    a.ud2()
}

#[test]
fn a_guest_that_faults_for_ever_is_sealed_and_stopped() {
    let Some(lab) = Lab::on_soft("a_guest_that_faults_for_ever_is_sealed_and_stopped") else { return };
    let mut talk = record(&lab, &tiny::kernel(faulting), &[]);
    talk.hears(b"ready", 0);
    clock::sleep_ns(50_000_000); // what was heard may be written ahead of the place where it was said
    talk.says(b"is anybody there?");
    clock::sleep_ns(400_000_000);
    talk.signal("INT");
    let ended = talk.finish();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(ended.admissions(), [], "there is no place for it");
    let end = lab.end("spin");
    assert!(matches!(end.cause, EndCause::Stopped { .. }), "{end:?}");
    let recorded = Outcome::of("faults", ended.code, ended.stdout, ended.stderr);
    lab.replays("spin", &recorded, &KICKS);
}
