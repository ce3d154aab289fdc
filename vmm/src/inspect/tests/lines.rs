//! What lines say.

use scribe_log::header::Level;

use super::*;
use crate::inspect::decode::Device;
use crate::inspect::filter::Edge;
use crate::inspect::row::KINDS;

fn text(filter: Filter) -> Vec<String> {
    printed(&sample(), Form::Text, false, filter, Vec::new()).lines().map(str::to_owned).collect()
}

#[test]
fn lines_keep_their_form() {
    let marks = vec![mark("early", 0, BookmarkOrigin::Added), mark("here", 7, BookmarkOrigin::Key)];
    insta::assert_snapshot!(printed(&sample(), Form::Text, false, Filter::default(), marks));
}

#[test]
fn json_keeps_its_form() {
    let marks = vec![mark("here", 7, BookmarkOrigin::Every)];
    let mut events = sample();
    for cause in [
        EndCause::PowerOff { status: 7 },
        EndCause::Reset,
        EndCause::Panic { message: "oops\n".into() },
        EndCause::TripleFault { rip: 1, bytes: vec![0x0f, 0x0b], last_exit: Box::default() },
        EndCause::RefusedInstruction { rip: 2, bytes: vec![] },
        EndCause::HaltedForever,
    ] {
        events.push(end(9, cause));
    }
    let text = printed(&events, Form::Json, false, Filter::default(), marks);
    for line in text.lines() {
        let object: serde_json::Value = serde_json::from_str(line).unwrap();
        for key in ["position", "exit", "branches", "steps", "time", "vcpu", "device", "kind"] {
            assert!(object.get(key).is_some(), "{key}: {line}");
        }
    }
    insta::assert_snapshot!(text);
}

#[test]
fn counts_keep_their_form() {
    let count = |form| printed(&sample(), form, true, Filter::default(), Vec::new());
    insta::assert_snapshot!(count(Form::Text));
    insta::assert_snapshot!(count(Form::Json));
    let nothing = printed(&[], Form::Text, true, Filter::default(), Vec::new());
    assert_eq!(nothing.lines().count(), 2, "{nothing}");
}

#[test]
fn every_kind_has_a_name_to_filter_by() {
    for event in sample() {
        let kind = event.body.name();
        assert!(KINDS.contains(&kind), "{kind}");
        let filter = Filter { kinds: [kind].into(), ..Filter::default() };
        let lines = text(filter);
        assert!(!lines.is_empty() && lines.iter().all(|line| line.contains(kind)), "{lines:?}");
    }
}

#[test]
fn devices_levels_and_ranges_filter() {
    let devices = |device| text(Filter { devices: [device].into(), ..Filter::default() }).len();
    assert_eq!([Device::Uart, Device::Disk, Device::Cpu, Device::Pic].map(devices), [5, 2, 3, 1]);
    let levels = Level::ALL.map(|level| text(Filter { level, ..Filter::default() }).len());
    assert_eq!(levels, [6, 7, 11, 17]);
    let range = |from, to| {
        let lines = text(Filter { from, to, ..Filter::default() });
        (lines.len(), lines.first().cloned().unwrap_or_default())
    };
    let at = |exit| Some(Edge::Position(Position::exit(exit)));
    assert_eq!(range(at(2), at(3)).0, 2);
    assert!(range(at(6), None).1.starts_with("exit:6 "));
    assert_eq!(range(at(6), at(6)).0, 3, "what is behind the exit is not at it");
    assert_eq!(range(at(100), None).0, 0);
    // An event whose time is not known is not left out.
    assert_eq!(range(Some(Edge::Time(2_500_000_000)), None).0, 16);
    assert_eq!(range(None, Some(Edge::Time(2_500_000_000))).0, 15);
}

#[test]
fn what_a_machine_tells_of_time_is_printed() {
    let mut bytes = Vec::new();
    let mut listing = Listing::new(&mut bytes, Form::Text, false, Filter::default(), Vec::new());
    listing.event(&out(1, 0x80, 0), Some(12_345_000_000_678)).unwrap();
    listing.finish().unwrap();
    drop(listing);
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.contains(" 12345.000000678  0 unmapped exit "), "{text}");
}

#[test]
fn long_text_is_cut_in_lines_and_whole_in_json() {
    let events = [Event::new(Position::exit(1), Body::ConsoleOutput { bytes: vec![b'x'; 1000] })];
    let text = printed(&events, Form::Text, false, Filter::default(), Vec::new());
    assert!(text.ends_with("x\"...\n") && text.contains("1000 bytes \"xxx") && text.len() < 400, "{text}");
    let json = printed(&events, Form::Json, false, Filter::default(), Vec::new());
    assert!(json.contains(&"x".repeat(1000)));
}

#[test]
fn an_output_that_fails_says_so() {
    struct Closed;
    impl std::io::Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut listing = Listing::new(Closed, Form::Text, false, Filter::default(), Vec::new());
    let failed = (0..10_000).find_map(|number| listing.event(&out(number, 0x80, 0), None).err());
    assert_eq!(failed.map(|error| error.kind()), Some(std::io::ErrorKind::BrokenPipe));
}
