//! Recordings of every released version of the format, stored beside this file, must be read for ever.
//!
//! If one of these tests fails, the format has changed. Do NOT regenerate the stored files to make this pass: a change of
//! the format is a new `FORMAT_VERSION` with new files, and the old files stay and stay readable.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::*;
use scribe_log::header::{Level, Parent, Start};
use scribe_log::{
    Body, Bookmark, BookmarkOrigin, EndCause, Event, Header, Listed, Position, Recording, ShrinkOptions,
    State, Writer, shrink,
};
use tempfile::tempdir;

fn stored(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// What each golden recording was made from.
fn make(name: &str, dir: &Path) {
    let mut writer = Writer::create(dir, &header_of(name), false).unwrap();
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
        // Every kind of event, bookmarks of every origin.
        "v1-markers" => {
            all_kinds().iter().for_each(|event| writer.append(event).unwrap());
            bookmarks().into_iter().for_each(|bookmark| writer.bookmark(bookmark).unwrap());
            writer.close(&end(131_075, EndCause::Reset)).unwrap();
        }
        // Goes on from the middle of "v1-markers".
        "v1-branch" => {
            let branch =
                [Event { position: branch_start().position, ..input(1000, b"x") }, input(2000, b"y")];
            branch.iter().for_each(|event| writer.append(event).unwrap());
            writer.close(&end(2001, EndCause::HaltedForever)).unwrap();
        }
        // A branch whose guest was told so, in each way.
        "v1-notices" => {
            notices().iter().for_each(|event| writer.append(event).unwrap());
            writer.close(&end(2001, EndCause::HaltedForever)).unwrap();
        }
        // Captured sync points.
        "v1-captures" => {
            captures().iter().for_each(|event| writer.append(event).unwrap());
            writer.close(&end(200, EndCause::HaltedForever)).unwrap();
        }
        // Half a bookmark at the end.
        "v1-bookmarks-crashed" => {
            bookmarks().into_iter().for_each(|bookmark| writer.bookmark(bookmark).unwrap());
            writer.append(&input(3, b"x")).unwrap();
            writer.seal(&seal(1000)).unwrap();
            writer.append(&input(1001, b"y")).unwrap();
            writer.seal(&seal(131_072)).unwrap();
            drop(writer);
            let path = dir.join("bookmarks");
            let bytes = fs::read(&path).unwrap();
            fs::write(path, &bytes[..bytes.len() - 5]).unwrap();
        }
        _ => unreachable!("{name}"),
    }
}

fn header_of(name: &str) -> Header {
    match name {
        "v1-markers" => Header { level: Level::Exits, ..header() },
        "v1-branch" | "v1-notices" => {
            let at = branch_start().position;
            let identity = header_of("v1-markers").identity().unwrap();
            let parent = Parent { path: "recordings/v1-markers".into(), header: identity, at };
            let (parent, start) = (Some(parent), Some(branch_start()));
            Header { level: Level::State, parent, start, ..header() }
        }
        _ => header(),
    }
}

fn branch_start() -> Start {
    Start { position: Position { exit: 1000, branches: 12, steps: 3 }, guest_time: 2_000_000 }
}

fn notices() -> Vec<Event> {
    let position = branch_start().position;
    let notice = |seed, wall_clock| Event::new(position, Body::Branch { seed, wall_clock });
    vec![notice(Some([0x5e; 32]), Some(1_767_225_600)), notice(None, Some(0)), notice(Some([0; 32]), None)]
}

/// As the events of "v1-complete", with all markers among them.
fn all_kinds() -> Vec<Event> {
    let mut all = events();
    let behind = all.iter().position(|event| event.position.exit == 1000).unwrap();
    all.splice(behind..behind, markers());
    all
}

fn bookmarks() -> Vec<Bookmark> {
    let origins = [BookmarkOrigin::Key, BookmarkOrigin::Signal, BookmarkOrigin::Every, BookmarkOrigin::Added];
    let bookmark = |(number, origin): (usize, BookmarkOrigin)| Bookmark {
        name: ["a", "before-the-panic", "every-1.0s", "x_Y.9"][number].to_owned(),
        position: Position {
            exit: 500 * number as u64,
            branches: number as u64 / 2,
            steps: number as u64 / 3,
        },
        guest_time: (number != 1).then_some(number as u64 * 1_000_000),
        origin,
    };
    origins.into_iter().enumerate().map(bookmark).collect()
}

const CLOSED: [&str; 6] =
    ["v1-complete", "v1-segments", "v1-markers", "v1-branch", "v1-notices", "v1-captures"];
const CRASHED: [&str; 2] = ["v1-crashed", "v1-bookmarks-crashed"];

fn many() -> Vec<Event> {
    (0u8..60).map(|number| input(u64::from(number) * 10, &vec![number; 5000])).collect()
}

/// Writes the golden recordings that are not there: run it with `--ignored` when a new version of the format gets its own.
#[test]
#[ignore = "writes files"]
fn write_missing() {
    for name in CLOSED.into_iter().chain(CRASHED) {
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
    for file in ["header", "events", "bookmarks"] {
        let (old, new) = (fs::read(stored(name).join(file)).ok(), fs::read(dir.path().join(file)).ok());
        assert!(old.is_some() || file == "bookmarks");
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

/// One line a bookmark.
fn bookmark_lines(recording: &Recording) -> String {
    let list = recording.bookmarks().unwrap();
    let line = |it: &Listed| {
        let Bookmark { position, guest_time, origin, .. } = &it.bookmark;
        format!("{} {position} {} {guest_time:?}\n", it.label(), origin.name())
    };
    list.iter().map(line).collect()
}

#[test]
fn with_markers_and_bookmarks() {
    let recording = Recording::open(&stored("v1-markers")).unwrap();
    assert_eq!(recording.state(), State::Complete);
    assert_eq!(recording.header(), &header_of("v1-markers"));
    let all = [all_kinds(), vec![end(131_075, EndCause::Reset)]].concat();
    assert_eq!(recording.events().map(Result::unwrap).collect::<Vec<_>>(), all);
    let markers: String = markers().iter().map(|event| format!("{event}\n")).collect();
    assert!(lines(&recording).contains(&markers));
    insta::assert_snapshot!(markers, @r#"
    exit:200         interrupt     vector 0x27 spurious
    exit:201         state         rax ffff800000001000 efer d01 xmm0 ffffffffffffffffffffffffffffffff cpl 3 3 pages from 0x0 0000000000000001
    exit:202         state         1 page from 0x8000 0000000000000002
    exit:203         state         0 pages
    exit:204         disk-request  disk 0 write sector 131072 4096 bytes
    exit:205         disk-request  disk 1 request 99 sector 18446744073709551615 0 bytes, not supported
    exit:206         console-output 7 bytes "$ \x1b[0m\xff"
    exit:207         exit          port-read 0x3f8/1 -> 0x60
    exit:208         exit          port-write 0x3f8/1 0x1234, after 1 branch
    exit:209         exit          mmio-read 0xd0000050/4 -> 0x60, after 2 branches 1 step
    exit:210         exit          mmio-write 0xd0000050/4 0x1234, after 3 branches 1 step
    exit:211         exit          halt, after 4 branches 2 steps
    exit:212         exit          msr-read 0xc0000103/8 -> #GP, after 5 branches 2 steps
    exit:213         exit          msr-write 0xc0000103/8 0x1234, after 6 branches 3 steps
    "#);
    insta::assert_snapshot!(bookmark_lines(&recording), @r#"
    a exit:0 key Some(0)
    before-the-panic exit:500 signal None
    boot-done é exit:1000 guest None
    every-1.0s exit:1000+1 every Some(2000000)
    x_Y.9 exit:1500+1+1 added Some(3000000)
    "#);
    assert_same_bytes("v1-markers");
}

#[test]
fn branch() {
    let recording = Recording::open(&stored("v1-branch")).unwrap();
    assert_eq!((recording.state(), recording.start()), (State::Complete, branch_start()));
    assert_eq!(recording.header(), &header_of("v1-branch"));
    let parent = Recording::open(&stored("v1-markers")).unwrap();
    let identity = recording.header().parent.as_ref().unwrap().header;
    assert_eq!(identity, parent.header().identity().unwrap());
    let bytes = fs::read(stored("v1-branch").join("header")).unwrap();
    let text = str::from_utf8(&bytes[20..]).unwrap();
    insta::assert_snapshot!(text.split_once(r#","level""#).unwrap().1, @r#":1,"parent":{"path":"recordings/v1-markers","header":"0afb575115ba0d57bd19618444ce1889a62e16879fb121092418a5b474492c82","at":"exit:1000+12+3"},"start":{"position":{"exit":1000,"branches":12,"steps":3},"guest_time":2000000}}"#);
    insta::assert_snapshot!(lines(&recording), @r#"
    exit:1000+12+3   console-input 1 byte "x"
    exit:2000        console-input 1 byte "y"
    exit:2001        end           halted with nothing that can wake it; 2001 exits, 0.004002000s, 3 inputs; registers 30000000000007d1 cpu 0123456789abcdef ram fedcba98000000000000000000000007 devices 0000000000000055 at 1.234567890s
    "#);
    assert_same_bytes("v1-branch");
}

#[test]
fn notices_of_a_branch() {
    let recording = Recording::open(&stored("v1-notices")).unwrap();
    let all = [notices(), vec![end(2001, EndCause::HaltedForever)]].concat();
    assert_eq!(recording.events().map(Result::unwrap).collect::<Vec<_>>(), all);
    insta::assert_snapshot!(lines(&recording), @r#"
    exit:1000+12+3   branch        seed 5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e, wall clock 1767225600 s since 1970
    exit:1000+12+3   branch        wall clock 0 s since 1970
    exit:1000+12+3   branch        seed 0000000000000000000000000000000000000000000000000000000000000000
    exit:2001        end           halted with nothing that can wake it; 2001 exits, 0.004002000s, 3 inputs; registers 30000000000007d1 cpu 0123456789abcdef ram fedcba98000000000000000000000007 devices 0000000000000055 at 1.234567890s
    "#);
    assert_same_bytes("v1-notices");
}

#[test]
fn captured_sync_points() {
    let recording = Recording::open(&stored("v1-captures")).unwrap();
    let all = [captures(), vec![end(200, EndCause::HaltedForever)]].concat();
    assert_eq!(recording.events().map(Result::unwrap).collect::<Vec<_>>(), all);
    insta::assert_snapshot!(lines(&recording), @r#"
    exit:150         capture-pages 3 pages from 0x0, 66 bytes
    exit:150         capture-pages 1 page from 0x8000000, 4096 bytes
    exit:150         capture       4 pages, 4162 bytes, guest computed 10.1 ms, 1 interrupt in between
    exit:150         console-input 1 byte "x"
    exit:151         capture       0 pages, 0 bytes, guest computed 18446744073709.5 ms, 0 interrupts in between
    exit:200         end           halted with nothing that can wake it; 200 exits, 0.000400000s, 3 inputs; registers 30000000000000c8 cpu 0123456789abcdef ram fedcba98000000000000000000000007 devices 0000000000000055 at 1.234567890s
    "#);
    assert_same_bytes("v1-captures");
}

#[test]
fn crashed_with_bookmarks() {
    let recording = Recording::open(&stored("v1-bookmarks-crashed")).unwrap();
    assert_eq!(recording.state(), State::Crashed);
    insta::assert_snapshot!(bookmark_lines(&recording), @r#"
    a exit:0 key Some(0)
    before-the-panic exit:500 signal None
    every-1.0s exit:1000+1 every Some(2000000)
    "#);
    assert_same_bytes("v1-bookmarks-crashed");
}

/// Dropping what only people read gives what the first version recorded.
#[test]
fn without_the_markers_it_is_the_old_recording() {
    let dir = tempdir().unwrap();
    for file in ["header", "events", "bookmarks"] {
        fs::copy(stored("v1-markers").join(file), dir.path().join(file)).unwrap();
    }
    shrink(dir.path(), ShrinkOptions { drop_bookmarks: false }).unwrap();
    let header = |dir: &Path| fs::read(dir.join("header")).unwrap();
    assert!(header(dir.path()) == header(&stored("v1-complete")));
    let kept = read_all(dir.path()).unwrap();
    let old = read_all(&stored("v1-complete")).unwrap();
    let old: Vec<_> = old[..9].iter().filter(|event| !event.body.is_marker()).cloned().collect();
    assert_eq!(kept[..old.len()], old);
    let list = |dir: &Path| Recording::open(dir).unwrap().bookmarks().unwrap();
    assert_eq!(list(dir.path()), list(&stored("v1-markers")));
}
