//! The header: lossless, the same for the same configuration, bounded.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;

use common::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use scribe_log::header::{
    BootFile, Chaos, EncodeHeaderError, Engine, Header, Level, MAX_BODY, Origin, Pace, Parent, Start,
};
use scribe_log::{EndCause, OpenError, Position, Recording, WriteError, Writer};
use tempfile::tempdir;

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_come_back(
        path in vec(1u8..=255, 0..20),
        command in vec(vec(any::<u8>(), 0..20), 0..5),
        cmdline: String,
        seed: [u8; 32],
        rtc: i64,
        memory: u64,
        soft: bool,
        level in 0u8..4,
        branch in option::of(any::<[u64; 4]>()),
    ) {
        let mut written = header();
        written.image.as_mut().unwrap().path = OsString::from_vec(path.clone()).into();
        written.level = Level::from_number(level).unwrap();
        if let Some([exit, branches, steps, guest_time]) = branch {
            let at = Position { exit, branches, steps };
            let path = OsString::from_vec(path.clone()).into();
            written.parent = Some(Parent { path, header: seed, at });
            written.start = Some(Start { position: at, guest_time });
        }
        let file = BootFile { origin: Origin::Host, path: OsString::from_vec(path).into(), blake3: seed };
        written.initrd = Some(file);
        (written.command, written.cmdline, written.seed, written.rtc, written.memory) = (command, cmdline, seed, rtc, memory);
        if soft {
            (written.engine, written.pace, written.counter) = (Engine::Soft, Pace::Real, Some("jcc-1".to_owned()));
            written.behaviour = Some("zen".to_owned());
        }
        let dir = tempdir().unwrap();
        let file = dir.path().join("header");
        fs::write(&file, written.encode().unwrap()).unwrap();
        prop_assert_eq!(&Header::read(&file).unwrap(), &written);
        prop_assert_eq!(written.encode().unwrap(), written.clone().encode().unwrap());
    }
}

#[test]
fn a_command_of_64_kib_fits_and_a_header_has_an_end() {
    let mut long = header();
    long.command = vec![vec![0xff; 64 * 1024]];
    long.encode().unwrap();
    long.command = vec![vec![0; MAX_BODY]];
    assert!(matches!(long.encode().unwrap_err(), EncodeHeaderError::TooLong { .. }));
}

/// The header of a recording that goes on from the middle of another one.
fn branch() -> Header {
    let at = Position { exit: 1000, branches: 7, steps: 3 };
    let parent = Parent { path: "demo-1".into(), header: header().identity().unwrap(), at };
    let start = Start { position: at, guest_time: 2_000_000 };
    Header { level: Level::Devices, parent: Some(parent), start: Some(start), ..header() }
}

#[test]
fn a_parent_is_known_by_what_dropping_its_markers_does_not_change() {
    let plain = blake3::hash(&header().encode().unwrap());
    assert_eq!(header().identity().unwrap(), *plain.as_bytes());
    assert_eq!(Header { level: Level::Exits, ..header() }.identity().unwrap(), *plain.as_bytes());
    assert_ne!(branch().identity().unwrap(), *plain.as_bytes());
}

/// Reads a header of this JSON text.
fn read_json(body: &str) -> Result<Header, OpenError> {
    let mut bytes = header().encode().unwrap()[..12].to_vec();
    bytes.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
    let crc = crc32fast::hash(&[&bytes, body.as_bytes()].concat());
    bytes.extend(crc.to_le_bytes());
    bytes.extend(body.as_bytes());
    let dir = tempdir().unwrap();
    let file = dir.path().join("header");
    fs::write(&file, bytes).unwrap();
    Header::read(&file)
}

#[test]
fn chaos_is_a_version_and_a_seed() {
    let chaos = Chaos { version: 1, seed: u64::MAX };
    let shaken = Header { chaos: Some(chaos), ..header() };
    let text = String::from_utf8(shaken.encode().unwrap()[20..].to_vec()).unwrap();
    let key = r#","chaos":{"version":1,"seed":18446744073709551615}"#;
    assert!(text.ends_with(&format!("{key}}}")), "{text}");
    assert_eq!(read_json(&text).unwrap(), shaken);
    assert_ne!(shaken.identity().unwrap(), header().identity().unwrap());
    for other in [
        r#","chaos":null"#,
        r#","chaos":{"version":1}"#,
        r#","chaos":{"version":1,"seed":-1}"#,
        r#","chaos":{"version":1,"seed":1,"surprise":1}"#,
    ] {
        assert!(read_json(&text.replace(key, other)).is_err(), "{other}");
    }
    assert!(read_json(&text.replace(key, &key.repeat(2))).is_err());
}

#[test]
fn what_is_optional_is_there_or_not_and_never_null() {
    let json = |header: &Header| String::from_utf8(header.encode().unwrap()[20..].to_vec()).unwrap();
    let plain = json(&header());
    assert!(plain.ends_with(r#""kvm_module":"kvm_amd"}}"#), "{plain}");
    assert_eq!(read_json(&plain).unwrap(), header());
    let text = json(&branch());
    let added = text.strip_prefix(&plain[..plain.len() - 1]).unwrap();
    let identity: String = header().identity().unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
    let (level, parent) = (
        r#","level":2"#,
        format!(r#","parent":{{"path":"demo-1","header":"{identity}","at":"exit:1000+7+3"}}"#),
    );
    let start = r#","start":{"position":{"exit":1000,"branches":7,"steps":3},"guest_time":2000000}"#;
    assert_eq!(added, format!("{level}{parent}{start}}}"));
    assert_eq!(read_json(&text).unwrap(), branch());
    for (from, to) in [
        (level, r#","level":0"#),
        (level, r#","level":4"#),
        (level, r#","level":null"#),
        (level, r#","level":"2""#),
        (&parent, r#","parent":null"#),
        (r#""at":"exit:1000+7+3""#, r#""at":"1000""#),
        (r#","at":"exit:1000+7+3""#, ""),
        (&identity, "00"),
        (start, r#","start":null"#),
        (r#","guest_time":2000000"#, ""),
        (r#","guest_time":2000000"#, r#","guest_time":-1"#),
        (r#","steps":3"#, ""),
        (r#","steps":3"#, r#","steps":3,"surprise":1"#),
        (start, &start.repeat(2)),
    ] {
        assert!(text.contains(from), "{from}");
        let error = read_json(&text.replace(from, to)).unwrap_err();
        assert!(matches!(error, OpenError::UnknownHeader { .. }), "{to}: {error}");
    }
}

#[test]
fn a_branch_has_nothing_before_its_start() {
    let dir = tempdir().unwrap();
    let mut writer = Writer::create(dir.path(), &branch(), false).unwrap();
    let start = branch().start.unwrap();
    for exit in [999, 1000] {
        let error = writer.append(&input(exit, b"x")).unwrap_err();
        assert!(matches!(error, WriteError::Backwards { last, .. } if last == start.position), "{error}");
    }
    let mut at_start = input(1000, b"x");
    at_start.position = start.position;
    let all = [at_start.clone(), at_start, checkpoint(1024, None), end(1100, EndCause::Reset)];
    all[..3].iter().for_each(|event| writer.append(event).unwrap());
    writer.close(&all[3]).unwrap();
    let recording = Recording::open(dir.path()).unwrap();
    assert_eq!((recording.start(), recording.header()), (start, &branch()));
    assert_eq!(recording.index()[0].start_exit, 1000);
    assert_eq!(recording.events().map(Result::unwrap).collect::<Vec<_>>(), all);

    // Ends at once, with an event at a position before the start: branches 6 of exit 1000.
    let end = [&[0x85, 2, 0, 6, 13, 1][..], &[0; 12]].concat();
    let mut forged = Forged::first(dir.path(), 1, 1000, &end);
    forged.start_exit = 1000;
    fs::write(dir.path().join("events"), forged.closed()).unwrap();
    let error = read_all(dir.path()).unwrap_err();
    assert!(error.to_string().contains("before the previous one"), "{error}");
    forged.payload[3] = 8;
    fs::write(dir.path().join("events"), forged.closed()).unwrap();
    assert_eq!(read_all(dir.path()).unwrap().len(), 1);
    (forged.start_exit, forged.end_exit) = (0, 0);
    fs::write(dir.path().join("events"), forged.closed()).unwrap();
    let error = read_all(dir.path()).unwrap_err();
    assert!(error.to_string().contains("does not start where"), "{error}");
}
