//! Golden recordings: those of every released version must replay for ever, with the same digests, on every host.
//!
//! Each is a recording and the hand-made kernel it was made from, both stored in `tests/golden`.
//!
//! If one of these tests fails, then the format, the platform, guest time or a digest has changed. Do NOT regenerate the
//! stored files to make this pass: such a change is a new version (of the format, of the platform, of the digests) with
//! new golden recordings, and what was recorded before stays replayable.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use scribe_log::header::Origin;
use scribe_log::{Body, EndCause, HEADER_FILE, Header, Recording, State, Writer};
use scribe_tests::bench::{Bench, KICKS, config, made_up_host};
use scribe_tests::guests::{self, END_OF_INPUT, TICKS_STATUS};
use scribe_tests::tiny;
use scribe_vmm::session::config::Moved;
use scribe_vmm::session::replay::Outcome;
use scribe_vmm::session::start::Connections;

const TICKS: &str = "v1-ticks";
const ECHO: &str = "v1-echo";
const TYPED: &[u8] = b"What is written stays.\n";

fn stored(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

fn stored_kernel(name: &str) -> PathBuf {
    stored(&format!("{name}.elf"))
}

/// Replays a golden recording and gives its end and the guest's output.
fn replay(name: &str) -> (scribe_log::End, Vec<u8>) {
    let bench = Bench::new();
    let moved = Moved { kernel: Some(stored_kernel(name)), ..Moved::default() };
    let mut last = None;
    for perturb in [None, Some(KICKS)] {
        let replayed = bench.replay_moved(&stored(name), &moved, perturb).unwrap();
        let Outcome::Complete(end) = replayed.report.outcome else { panic!("{:?}", replayed.report.outcome) };
        assert_eq!(replayed.report.exits, end.exits);
        last = Some((end, replayed.output));
    }
    last.unwrap()
}

fn the_ticks_of_format_1_replay() {
    let recording = Recording::open(&stored(TICKS)).unwrap();
    assert_eq!(recording.state(), State::Complete);
    let full = recording
        .events()
        .filter(|event| matches!(event.as_ref().unwrap().body, Body::Checkpoint { full: Some(_), .. }));
    assert_eq!(full.count(), 3);
    let Some(Body::End(expected)) = recording.last().map(|event| event.body.clone()) else { panic!() };
    assert_eq!(expected.cause, EndCause::PowerOff { status: TICKS_STATUS });
    assert_eq!((expected.exits, expected.guest_time, expected.inputs), (121, 500_050_362, 0));
    let digests = expected.full.unwrap();
    assert_eq!((expected.registers, digests.cpu), (0xd8c0_d173_c447_2edc, 0xbbcd_0a66_b3f4_31b8));
    assert_eq!(digests.devices, 0xd47d_ca5a_6640_6e8d);
    assert_eq!(digests.ram, 0xc4a1_cd4b_c895_c79b_cea9_44a6_13ea_916a);
    assert_eq!(replay(TICKS), (expected, b".done\n".to_vec()));
}

fn the_echo_of_format_1_replays() {
    let recording = Recording::open(&stored(ECHO)).unwrap();
    assert_eq!(recording.state(), State::Complete);
    let header = recording.header();
    assert_eq!((header.command.len(), header.seed[0], header.rtc), (2, 0x5a, 1_767_225_600));
    let Some(Body::End(expected)) = recording.last().map(|event| event.body.clone()) else { panic!() };
    assert_eq!(expected.cause, EndCause::PowerOff { status: u8::try_from(TYPED.len()).unwrap() });
    assert_eq!((expected.exits, expected.guest_time, expected.inputs), (164, 2_121_344, 1));
    let digests = expected.full.unwrap();
    assert_eq!((expected.registers, digests.cpu), (0x5ab8_5153_c201_0584, 0xc819_9517_dd11_c126));
    assert_eq!(digests.devices, 0x1211_57b0_feb3_8342);
    assert_eq!(digests.ram, 0x4a75_0bb9_71c6_3e6b_c392_08e0_a775_7cc8);
    assert_eq!(replay(ECHO), (expected, [b"ready\n", TYPED].concat()));
}

/// Writes the golden recordings that are not there, with `--ignored`: when a new version gets its own.
#[test]
#[ignore = "writes files"]
fn write_missing() {
    for name in [TICKS, ECHO] {
        if stored(name).exists() {
            continue;
        }
        let bench = Bench::new();
        let kernel = match name {
            TICKS => tiny::kernel(|a| guests::ticks(a, 50)),
            _ => tiny::kernel(guests::echo),
        };
        fs::create_dir_all(stored("")).unwrap();
        fs::write(stored_kernel(name), kernel).unwrap();
        let mut guest = config(stored_kernel(name));
        guest.digest_every = 32;
        let mut connections = Connections::none();
        if name == ECHO {
            guest.command = vec![b"golden".to_vec(), vec![0xff]];
            let input = bench.file("input", &[TYPED, &[END_OF_INPUT]].concat());
            connections.input = Some(File::open(input).unwrap());
        }
        bench.record(name, &guest, connections);
        // Again, with a path that is on no host.
        let mut header = Header::read(&bench.path(name).join(HEADER_FILE)).unwrap();
        assert_eq!((header.kernel.origin, &header.host), (Origin::Host, &made_up_host()));
        header.kernel.path = format!("/golden/{name}.elf").into();
        let mut events = bench.events(name);
        let end = events.pop().unwrap();
        let mut writer = Writer::create(&stored(name), &header, false).unwrap();
        events.iter().for_each(|event| writer.append(event).unwrap());
        writer.close(&end).unwrap();
    }
}

scribe_tests::each_engine!(the_ticks_of_format_1_replay, the_echo_of_format_1_replays);
