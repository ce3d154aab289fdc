//! The header: lossless, the same for the same configuration, bounded.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;

use common::*;
use proptest::collection::vec;
use proptest::prelude::*;
use scribe_log::header::{BootFile, EncodeHeaderError, Engine, Header, MAX_BODY, Origin, Pace};
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
    ) {
        let mut written = header();
        written.image.as_mut().unwrap().path = OsString::from_vec(path.clone()).into();
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
