//! Where two recordings part.

use scribe_log::header::Level;
use scribe_log::{Header, OpenError};
use serde_json::Value;

use super::*;
use crate::inspect::diff::{Outcome, events, headers};

fn read(events: &[Event]) -> impl Iterator<Item = Result<Event, OpenError>> {
    events.iter().cloned().map(Ok)
}

fn compared(a: &[Event], b: &[Event], level: Level) -> Outcome {
    events(read(a), read(b), level, 2).unwrap()
}

fn names(placed: &[crate::inspect::diff::Placed]) -> Vec<(u64, &'static str)> {
    placed.iter().map(|placed| (placed.event.position.exit, placed.event.body.name())).collect()
}

#[test]
fn equal_events_are_counted_without_seals() {
    let outcome = compared(&sample(), &sample(), Level::Exits);
    assert!(outcome.parting.is_none());
    assert_eq!(outcome.equal, sample().len() as u64 - 1);
    let unsealed: Vec<Event> =
        sample().into_iter().filter(|event| !matches!(event.body, Body::Seal { .. })).collect();
    assert!(compared(&sample(), &unsealed, Level::Exits).parting.is_none());
    assert!(compared(&[], &[], Level::Exits).parting.is_none());
}

#[test]
fn a_recording_of_a_lower_level_is_compared_as_far_as_it_goes() {
    let inputs: Vec<Event> = sample().into_iter().filter(|event| !event.body.is_marker()).collect();
    assert!(compared(&sample(), &inputs, Level::Inputs).parting.is_none());
    assert!(compared(&sample(), &inputs, Level::Exits).parting.is_some());
}

#[test]
fn the_first_event_that_differs_has_context_from_both() {
    let mut other = sample();
    other[4] = out(4, 0x80, 1);
    let outcome = compared(&sample(), &other, Level::Exits);
    let parting = outcome.parting.unwrap();
    assert_eq!(outcome.equal, 4);
    assert_eq!(names(&parting.before), [(3, "exit"), (4, "exit")]);
    assert_eq!(names(&parting.a), [(4, "disk-request"), (5, "exit"), (6, "exit")]);
    assert_eq!(names(&parting.b), [(4, "exit"), (5, "exit"), (6, "exit")]);
    assert!(parting.detail.is_none());
    let none = events(read(&sample()), read(&other), Level::Exits, 0).unwrap().parting.unwrap();
    assert_eq!((none.before.len(), none.a.len(), none.b.len()), (0, 1, 1));
}

#[test]
fn what_a_register_is_follows_from_what_came_before() {
    let mut other = sample();
    other[1] = out(2, 0x3f8, 2);
    let parting = compared(&sample(), &other, Level::Exits).parting.unwrap();
    let row = |placed: &crate::inspect::diff::Placed| {
        placed.rows.clone().row(&placed.event, None).exit.unwrap().register
    };
    assert_eq!((row(&parting.before[0]), row(&parting.a[0]), row(&parting.b[0])), ("LCR", "DLL", "DLL"));
}

#[test]
fn one_that_ends_earlier_has_nothing_there() {
    let whole = sample();
    let parting = compared(&whole, &whole[..3], Level::Exits).parting.unwrap();
    assert_eq!((parting.a.len(), parting.b.len()), (3, 0));
    let parting = compared(&[], &whole, Level::Exits).parting.unwrap();
    assert_eq!((parting.before.len(), parting.a.len(), parting.b.len()), (0, 0, 3));
}

#[test]
fn states_that_differ_are_compared_register_by_register() {
    let state = |rip, pages: &[(u64, u64)]| {
        let registers = vec![Register::u64("rip", rip), Register::u64("rsp", 1)];
        Event::new(Position::exit(1), Body::State { registers, pages: pages.to_vec() })
    };
    let detail = |a, b| compared(&[a], &[b], Level::State).parting.unwrap().detail.unwrap().what;
    assert_eq!(detail(state(1, &[(1, 1)]), state(2, &[])), "register rip");
    assert_eq!(detail(state(1, &[(1, 1)]), state(1, &[])), "the page at guest physical address 0x1000");
}

#[test]
fn damage_is_an_error() {
    let broken = || {
        let path = std::path::PathBuf::from("events");
        read(&sample()[..2]).chain([Err(OpenError::Missing { path })]).collect::<Vec<_>>().into_iter()
    };
    assert!(events(broken(), read(&sample()), Level::Exits, 2).is_err());
    assert!(events(read(&sample()), broken(), Level::Exits, 2).is_err());
    assert!(events(broken(), broken(), Level::Exits, 2).is_err());
}

#[test]
fn headers_differ_by_key() {
    let a = crate::session::tests::header();
    assert_eq!(headers(&a, &a), []);
    let mut b = Header { memory: 4 << 20, level: Level::State, ..a.clone() };
    b.host.microcode = "0x2".into();
    let keys = headers(&a, &b);
    let names: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
    assert_eq!(names, ["host.microcode", "level", "memory"]);
    assert_eq!((&keys[1].a, &keys[1].b), (&Value::Null, &Value::from(1)));
}
