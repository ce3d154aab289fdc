//! Markers of tiny guests on each engine: what is noted at which level, what a replay tells, and that engines agree.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::cell::RefCell;
use std::fs::File;
use std::rc::Rc;

use iced_x86::code_asm::*;
use scribe_log::header::Level;
use scribe_log::{Body, Event};
use scribe_tests::bench::{Bench, made_up_host};
use scribe_tests::engines;
use scribe_tests::guests::{self, END_OF_INPUT};
use scribe_tests::tiny::{DATA, Emitted};
use scribe_vmm::inspect::check;
use scribe_vmm::inspect::markers::Markers;
use scribe_vmm::machine::observe::Moment;
use scribe_vmm::session::choice::Wish;
use scribe_vmm::session::config::Moved;
use scribe_vmm::session::console::Console;
use scribe_vmm::session::files::DigestCache;
use scribe_vmm::session::player::{Player, ReplayConfig, Stay};
use scribe_vmm::session::replay::{Outcome, Target};
use scribe_vmm::session::start::Connections;

/// Writes pages, some of them with what is there already, and makes many exits; then echoes what is typed.
fn guest(a: &mut CodeAssembler) -> Emitted {
    let mut again = a.create_label();
    a.mov(r12d, 3000)?;
    a.mov(rsi, DATA)?;
    a.set_label(&mut again)?;
    a.mov(eax, r12d)?;
    a.and(eax, 15)?;
    a.shl(eax, 12)?;
    a.mov(dword_ptr(rsi + rax), r12d)?;
    a.mov(dword_ptr(rsi + rax + 0x2_0000), 0)?;
    a.in_(al, 0x61)?;
    a.dec(r12d)?;
    a.jnz(again)?;
    guests::echo(a)
}

fn recorded(bench: &Bench, level: Level, name: &str) {
    let typed = bench.file("input", &[b"typed\nwithout an end", &[END_OF_INPUT][..]].concat());
    let connections = Connections { input: Some(File::open(typed).unwrap()), ..Connections::none() };
    let mut config = bench.guest(guest);
    config.digest_every = 1500;
    bench.record_at(level, name, &config, connections);
}

/// What a replay of `name` on `engine` tells at `level`.
fn expanded(bench: &Bench, name: &str, engine: Wish, level: Level) -> Vec<Event> {
    let config = ReplayConfig {
        counter: Err("not in tests".into()),
        directory: &bench.path(name),
        moved: Moved::default(),
        engine,
        behaviour: None,
        quiet: true,
        perturb: Some((500, 3000)),
        snapshots: false,
    };
    let home = bench.path("");
    let mut player = Player::open(&config, &DigestCache::new(&home), &made_up_host(), &home, None).unwrap();
    let events = Rc::new(RefCell::new(Vec::new()));
    let sink = Rc::clone(&events);
    let markers = Markers::new(level, move |_: Moment, event| sink.borrow_mut().push(event));
    check::attach(player.machine_mut(), Box::new(markers)).unwrap();
    let stay = player.run(Target::End, &mut Console::quiet()).unwrap();
    assert!(matches!(stay, Stay::Ended(Outcome::Complete(_))), "{stay:?}");
    drop(player);
    Rc::try_unwrap(events).unwrap().into_inner()
}

fn a_replay_of_any_level_tells_what_any_level_notes() {
    let bench = Bench::new();
    let names = Level::ALL.map(|level| format!("level-{}", level.number()));
    for (level, name) in Level::ALL.into_iter().zip(&names) {
        recorded(&bench, level, name);
    }
    for name in &names {
        for (level, other) in Level::ALL.into_iter().zip(&names) {
            let told = expanded(&bench, name, engines::current().wish(), level);
            assert!(told == bench.events(other), "{name} at {level:?}");
        }
    }
}

fn engines_agree_on_every_marker() {
    let bench = Bench::new();
    recorded(&bench, Level::Exits, "a");
    // The replay compares, too: here with what the other engine has noted.
    assert!(expanded(&bench, "a", Wish::Soft, Level::Exits) == bench.events("a"));
}

fn states_hold_the_pages_that_have_changed() {
    let bench = Bench::new();
    recorded(&bench, Level::State, "a");
    let states: Vec<Vec<u64>> = bench
        .events("a")
        .into_iter()
        .filter_map(|event| match event.body {
            Body::State { pages, .. } => Some(pages.into_iter().map(|(frame, _)| frame).collect()),
            _ => None,
        })
        .collect();
    let written: Vec<u64> = (DATA / 4096..DATA / 4096 + 16).collect();
    assert!(states.len() >= 3, "{states:x?}");
    assert_eq!(states[0], written, "zeros over zeros are no change");
    assert_eq!(states[1], written);
}

scribe_tests::each_engine!(
    a_replay_of_any_level_tells_what_any_level_notes,
    engines_agree_on_every_marker,
    states_hold_the_pages_that_have_changed,
);
scribe_tests::each_engine!(counted: a_replay_of_any_level_tells_what_any_level_notes, states_hold_the_pages_that_have_changed);
