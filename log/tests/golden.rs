//! Recordings of every released version of the format, stored beside this file, must be read for ever.
//!
//! If one of these tests fails, the format has changed. Do NOT regenerate the stored files to make this pass: a change of
//! the format is a new `FORMAT_VERSION` with new files, and the old files stay and stay readable.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::*;
use scribe_log::{EndCause, Event, Recording, State, Writer};
use tempfile::tempdir;

fn stored(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// What each golden recording was made from.
fn make(name: &str, dir: &Path) {
    let mut writer = Writer::create(dir, &header(), false).unwrap();
    match name {
        "v1-complete" => {
            events().iter().for_each(|event| writer.append(event).unwrap());
            writer.close(&end(131_075, causes().swap_remove(0))).unwrap();
        }
        // Three segments, and a part of a fourth.
        "v1-crashed" => {
            for event in events() {
                writer.append(&event).unwrap();
                if event.position.exit == 1000 {
                    writer.seal(&seal(1000)).unwrap();
                }
            }
            writer.seal(&checkpoint(131_073, None)).unwrap();
            drop(writer);
            let path = dir.join("events");
            let mut bytes = fs::read(&path).unwrap();
            bytes.extend_from_within(..40);
            fs::write(path, bytes).unwrap();
        }
        "v1-segments" => {
            many().iter().for_each(|event| writer.append(event).unwrap());
            writer.close(&end(600, EndCause::HaltedForever)).unwrap();
        }
        _ => unreachable!("{name}"),
    }
}

fn many() -> Vec<Event> {
    (0u8..60).map(|number| input(u64::from(number) * 10, &vec![number; 5000])).collect()
}

/// Writes the golden recordings that are not there: run it with `--ignored` when a new version of the format gets its own.
#[test]
#[ignore = "writes files"]
fn write_missing() {
    for name in ["v1-complete", "v1-crashed", "v1-segments"] {
        if !stored(name).exists() {
            make(name, &stored(name));
        }
    }
}

fn lines(recording: &Recording) -> String {
    recording.events().map(|event| format!("{}\n", event.unwrap())).collect()
}

/// Writing the same again gives the same bytes.
fn assert_same_bytes(name: &str) {
    let dir = tempdir().unwrap();
    make(name, dir.path());
    for file in ["header", "events"] {
        let (old, new) =
            (fs::read(stored(name).join(file)).unwrap(), fs::read(dir.path().join(file)).unwrap());
        assert!(old == new, "{name}/{file}: see the head of this file");
    }
}

#[test]
fn header_text() {
    let stored_header = header();
    for name in ["v1-complete", "v1-crashed", "v1-segments"] {
        assert_eq!(Recording::open(&stored(name)).unwrap().header(), &stored_header);
    }
    let bytes = fs::read(stored("v1-complete").join("header")).unwrap();
    insta::assert_snapshot!(str::from_utf8(&bytes[20..]).unwrap(), @r#"{"program":"0.1.0","platform":"scribe-pc-1","engine":"kvm","cpu":"scribe-v1","digest_version":1,"counter":null,"time":{"ns_per_branch":0,"ns_per_exit":2000},"memory":134217728,"vcpus":4,"image":{"path":"images/demo.img","size":67108864,"blake3":"1111111111111111111111111111111111111111111111111111111111111111"},"kernel":{"origin":"image","path":"/boot/vmlinux","blake3":"2222222222222222222222222222222222222222222222222222222222222222"},"initrd":null,"cmdline":"console=ttyS0 quiet","command":["sh","-c",{"hex":"6563686f20ff00"}],"seed":"3333333333333333333333333333333333333333333333333333333333333333","rtc":1700000000,"pace":"max","digest_every":65536,"host":{"cpu_model":"A processor","microcode":"0x1","kernel_release":"6.1.0","kvm_module":"kvm_amd"}}"#);
}

#[test]
fn complete() {
    let recording = Recording::open(&stored("v1-complete")).unwrap();
    assert_eq!(recording.state(), State::Complete);
    let all = [events(), vec![end(131_075, causes().swap_remove(0))]].concat();
    assert_eq!(recording.events().map(Result::unwrap).collect::<Vec<_>>(), all);
    insta::assert_snapshot!(lines(&recording), @r#"
    exit:3           console-input 6 bytes "ls -l\n"
    exit:3           time-adjust   +1.500000000s
    exit:3           interrupt     vector 0x34 irq 4
    exit:3+700       interrupt     vector 0x30 irq 0
    exit:9+0+5       time-adjust   vcpu 2: +0.000000000s
    exit:1000        checkpoint    registers 10000000000003e8
    exit:1000        bookmark      "boot-done é"
    exit:70000       console-input 5 bytes "\x00\x01\x7f\x80\xff"
    exit:131072      checkpoint    registers 1000000000020000 cpu 0123456789abcdef ram fedcba98000000000000000000000007 devices 0000000000000055 at 1.234567890s
    exit:131075      end           power off with status 7; 131075 exits, 0.262150000s, 3 inputs; registers 3000000000020003 cpu 0123456789abcdef ram fedcba98000000000000000000000007 devices 0000000000000055 at 1.234567890s
    "#);
    assert_same_bytes("v1-complete");
}

#[test]
fn crashed() {
    let recording = Recording::open(&stored("v1-crashed")).unwrap();
    assert_eq!(recording.state(), State::Crashed);
    assert_eq!((recording.index().len(), recording.sizes().torn), (3, 40));
    assert_eq!(recording.sealed_end(), Some((at(131_073), 0x1000_0000_0002_0001)));
    insta::assert_snapshot!(lines(&recording), @r#"
    exit:3           console-input 6 bytes "ls -l\n"
    exit:3           time-adjust   +1.500000000s
    exit:3           interrupt     vector 0x34 irq 4
    exit:3+700       interrupt     vector 0x30 irq 0
    exit:9+0+5       time-adjust   vcpu 2: +0.000000000s
    exit:1000        checkpoint    registers 10000000000003e8
    exit:1000        seal          registers 20000000000003e8 at 0.002000000s
    exit:1000        bookmark      "boot-done é"
    exit:1000        seal          registers 20000000000003e8 at 0.002000000s
    exit:70000       console-input 5 bytes "\x00\x01\x7f\x80\xff"
    exit:131072      checkpoint    registers 1000000000020000 cpu 0123456789abcdef ram fedcba98000000000000000000000007 devices 0000000000000055 at 1.234567890s
    exit:131073      checkpoint    registers 1000000000020001
    "#);
    assert_same_bytes("v1-crashed");
}

/// Its segments are compressed, and the library may come to compress them differently: only what is read counts.
#[test]
fn segments() {
    let recording = Recording::open(&stored("v1-segments")).unwrap();
    assert_eq!(recording.state(), State::Complete);
    let all = [many(), vec![end(600, EndCause::HaltedForever)]].concat();
    assert_eq!(recording.events().map(Result::unwrap).collect::<Vec<_>>(), all);
    let index: String = recording
        .index()
        .iter()
        .map(|entry| format!("exits {} to {}: {} events\n", entry.start_exit, entry.end_exit, entry.events))
        .collect();
    insta::assert_snapshot!(index, @r#"
    exits 0 to 130: 14 events
    exits 130 to 270: 14 events
    exits 270 to 410: 14 events
    exits 410 to 550: 14 events
    exits 550 to 600: 5 events
    "#);
    assert!(recording.sizes().events < 2000, "not compressed");
}
