//! Whole machines: bad input, damage and full disks. Each is one clear line and an exit code, and nothing is lost.
#![allow(clippy::unwrap_used, reason = "tests, also outside of test functions")]

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use scribe_log::{Body, Event, Header, Position, State, Writer};
use scribe_tests::lab::{Chance, Lab, MEMORY, image, text};

/// Changes one byte of a file.
fn change_byte(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

#[test]
fn wrong_usage_is_2() {
    let Some(lab) = Lab::anywhere("wrong_usage_is_2") else { return };
    for arguments in [
        &["record"][..],
        &["record", "--image"],
        &["record", "--image", "x", "--no-such-option"],
        &["record", "--image", "x", "--memory", "lots"],
        &["record", "--image", "x", "--rtc", "yesterday"],
        &["record", "--image", "x", "--seed", "xyz"],
        &["record", "--image", "x", "--for", "5"],
        &["record", "--image", "x", "--pace", "slow"],
        &["record", "--image", "x", "--disk-commit"],
        &["replay", "a", "b"],
        &["no-such-command"],
        &[],
    ] {
        let outcome = lab.call(arguments).finish().ends_with(2);
        assert!(!outcome.stderr.is_empty(), "{outcome}");
    }
    lab.call(&["--help"]).finish().ends_with(0).shows("Examples:");
    lab.call(&["--version"]).finish().ends_with(0).shows("scribe-vmm ");
}

#[test]
fn what_this_version_lacks_is_1() {
    let Some(lab) = Lab::anywhere("what_this_version_lacks_is_1") else { return };
    let lacks: [(&[&str], &str); 5] = [
        (&["--vcpus", "2"], "one vCPU"),
        (&["--cpu", "scribe-v2"], "no such profile"),
        (&["--behaviour", "vax"], "no such behaviour"),
        (&["--engine", "kvm", "--cpu", "scribe-v1-tsc"], "use --engine soft"),
        (&["--engine", "kvm", "--sync-points", "counted"], "use --engine soft"),
    ];
    for (options, words) in lacks {
        // A host without a fit KVM refuses that first.
        if lab.is_soft() && options.contains(&"kvm") {
            continue;
        }
        let outcome = lab.recorder("refused", &[options, &["--", "true"]].concat()).finish();
        outcome.ends_with(1).says_one_line().says(words);
        assert!(!lab.path("refused").exists(), "{options:?}: nothing was begun");
    }
}

#[test]
fn bad_images_are_1() {
    let Some(lab) = Lab::anywhere("bad_images_are_1") else { return };
    let make = |name: &str, size: u64| {
        File::create(lab.path(name)).unwrap().set_len(size).unwrap();
    };
    make("empty", 0);
    make("zeros", 1 << 20);
    make("odd", 1000);
    fs::create_dir(lab.path("folder")).unwrap();
    let mut no_kernel = fs::read(image()).unwrap();
    rename_in_image(&mut no_kernel, b"vmlinux", b"vmlimux");
    fs::write(lab.path("no-kernel"), no_kernel).unwrap();
    for (name, words) in [
        ("missing", "No such file"),
        ("empty", "no ext4 file system"),
        ("zeros", "no ext4 file system"),
        ("odd", "no ext4 file system"),
        ("folder", "not a regular file"),
        ("no-kernel", "no /boot/vmlinux*"),
    ] {
        let outcome = lab.call(&["record", "-o", "r", "--image", name, "--", "true"]).finish();
        outcome.ends_with(1).says_one_line().says(words).says(name);
        assert!(!lab.path("r").exists(), "{name}: nothing was begun");
    }
    let image = image();
    for (options, words) in [
        (["--kernel", "missing"], "No such file"),
        (["--kernel", "zeros"], "neither an x86-64 ELF kernel nor a bzImage"),
        (["--initrd", "missing"], "No such file"),
        (["--input", "missing"], "No such file"),
        (["--memory", "8M"], "--memory"),
    ] {
        let arguments =
            [&["record", "-o", "r", "--image", text(&image)], &options[..], &["--", "true"]].concat();
        lab.call(&arguments).finish().ends_with(1).says_one_line().says(words);
        assert!(!lab.path("r").exists(), "{options:?}: nothing was begun");
    }
}

/// Renames a file of the image by changing its name in the directory block of /boot.
fn rename_in_image(image: &mut [u8], from: &[u8], to: &[u8]) {
    // A directory entry: name length, file type (1: regular), name (fs/ext4/ext4.h, struct ext4_dir_entry_2).
    let entry = [&[u8::try_from(from.len()).unwrap(), 1], from].concat();
    let at = image.windows(entry.len()).position(|window| window == entry).unwrap();
    image[at + 2..at + entry.len()].copy_from_slice(to);
}

#[test]
fn an_image_in_use_is_1() {
    let Some(lab) = Lab::anywhere("an_image_in_use_is_1") else { return };
    // Not the image itself: other tests use it meanwhile.
    fs::copy(image(), lab.path("own.img")).unwrap();
    let file = File::open(lab.path("own.img")).unwrap();
    file.lock().unwrap();
    let record = ["record", "--image", "own.img", "-o", "r", "--", "true"];
    lab.call(&record).finish().ends_with(1).says_one_line().says("locked");
    assert!(!lab.path("r").exists());
    drop(file);
    // Two readers do not disturb each other, and a commit under a reader is refused.
    let before = fs::read(lab.path("own.img")).unwrap();
    let shared = File::open(lab.path("own.img")).unwrap();
    shared.lock_shared().unwrap();
    let run = ["run", MEMORY, "--pace", "max", "--disk-commit", "--image", "own.img", "--"];
    let script = ["sh", "-c", "echo kept > /root/file"];
    lab.call(&[&run[..], &script].concat()).finish().ends_with(1).says("locked");
    assert!(fs::read(lab.path("own.img")).unwrap() == before, "the image was changed");
    drop(shared);
    // And without one, it is written.
    lab.call(&[&run[..], &script].concat()).finish().ends_with(0);
    let again = ["run", MEMORY, "--pace", "max", "--image", "own.img", "--", "cat", "/root/file"];
    lab.call(&again).finish().ends_with(0).shows("kept");
}

#[test]
fn no_recording_is_lost() {
    let Some(lab) = Lab::anywhere("no_recording_is_lost") else { return };
    let read = |name: &str| {
        (fs::read(lab.path(name).join("events")).unwrap(), fs::read(lab.path(name).join("header")).unwrap())
    };
    lab.record("kept", &[MEMORY, "--pace", "max", "--", "echo", "first"]);
    let first = read("kept");
    lab.recorder("kept", &[MEMORY, "--", "echo", "second"]).finish().ends_with(1).says("--overwrite");
    assert!(read("kept") == first, "the recording was touched");
    // Not even a bad image makes --overwrite lose the old one.
    lab.call(&["record", "-o", "kept", "--overwrite", "--image", "missing"]).finish().ends_with(1);
    assert!(read("kept") == first, "the recording was touched");
    lab.record("kept", &["--overwrite", MEMORY, "--pace", "max", "--", "echo", "second"]);
    assert!(read("kept") != first);
    // A folder that is something else is not touched, whatever is said.
    fs::create_dir(lab.path("other")).unwrap();
    fs::write(lab.path("other/thesis.txt"), "precious").unwrap();
    let outcome = lab.recorder("other", &["--overwrite", MEMORY, "--", "true"]).finish().ends_with(1);
    outcome.says("not a recording");
    assert_eq!(fs::read(lab.path("other/thesis.txt")).unwrap(), b"precious");
    assert_eq!(fs::read_dir(lab.path("other")).unwrap().count(), 1);
}

#[test]
fn recordings_without_a_name_are_numbered_and_the_latest_is_the_default() {
    let Some(lab) = Lab::anywhere("recordings_without_a_name_are_numbered") else { return };
    for arguments in [&["replay"][..], &["info"], &["log"]] {
        lab.call(arguments).finish().ends_with(4).says_one_line().says("no recording");
    }
    let image = image();
    for word in ["one", "two"] {
        let arguments = ["record", MEMORY, "--pace", "max", "--image", text(&image), "--", "echo", word];
        lab.call(&arguments).finish().ends_with(0);
    }
    lab.call(&["replay"]).finish().ends_with(0).shows("two");
    lab.call(&["replay", "demo-1"]).finish().ends_with(0).shows("one");
    let quiet = lab.call(&["replay", "-q", "demo-2"]).finish().ends_with(0);
    assert!(quiet.stdout.is_empty() && quiet.stderr.is_empty(), "{quiet}");
    lab.call(&["info"]).finish().ends_with(0).shows("echo two");
    lab.call(&["log", "demo-1"]).finish().ends_with(0).shows("power off");
}

#[test]
fn damage_is_4() {
    let Some(lab) = Lab::anywhere("damage_is_4") else { return };
    fs::write(lab.path("keys"), "echo typed; exit\n").unwrap();
    lab.record("whole", &[MEMORY, "--pace", "max", "--input", "keys"]);
    let mut chance = Chance::new("damage_is_4");
    for file in ["header", "events"] {
        let length = fs::metadata(lab.path("whole").join(file)).unwrap().len();
        // The first and last bytes, and a sample between: tests of the log's library change every one.
        let edges = (0..12).chain(length - 12..length);
        let sample: Vec<u64> =
            (0..24).map(|_| chance.below(usize::try_from(length).unwrap()) as u64).collect();
        for offset in edges.chain(sample) {
            lab.copy_recording("whole", "damaged");
            change_byte(&lab.path("damaged").join(file), offset);
            let outcome = lab.call(&["log", "damaged"]).finish();
            assert_eq!(outcome.code, 4, "{file}, byte {offset}: {outcome}");
            outcome.says("scribe-vmm: ");
        }
        for offset in [0, length / 2, length - 1] {
            lab.copy_recording("whole", "damaged");
            change_byte(&lab.path("damaged").join(file), offset);
            lab.replay("damaged", &[]).ends_with(4);
        }
        for left in [0, 1, length / 2, length - 1] {
            lab.copy_recording("whole", "damaged");
            OpenOptions::new()
                .write(true)
                .open(lab.path("damaged").join(file))
                .unwrap()
                .set_len(left)
                .unwrap();
            lab.call(&["log", "damaged"]).finish().ends_with(4);
            lab.replay("damaged", &[]).ends_with(4);
        }
    }
    for file in ["header", "events"] {
        lab.copy_recording("whole", "damaged");
        fs::remove_file(lab.path("damaged").join(file)).unwrap();
        lab.replay("damaged", &[]).ends_with(4).says_one_line();
    }
    for name in ["missing", "keys"] {
        lab.replay(name, &[]).ends_with(4).says_one_line();
    }
}

#[test]
fn a_newer_format_is_4() {
    let Some(lab) = Lab::anywhere("a_newer_format_is_4") else { return };
    lab.record("newer", &[MEMORY, "--pace", "max", "--", "true"]);
    let path = lab.path("newer").join("header");
    let mut bytes = fs::read(&path).unwrap();
    // The version follows the magic (docs/log-format.md) and is looked at before any checksum.
    let version = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
    bytes[8..12].copy_from_slice(&(version + 1).to_le_bytes());
    fs::write(&path, bytes).unwrap();
    for command in ["replay", "info", "log"] {
        let outcome = lab.call(&[command, "newer"]).finish().ends_with(4).says_one_line();
        outcome.says(&format!("format version {}", version + 1)).says("newer scribe-vmm");
    }
}

/// Writes recording `from` again as `to`, with its header and events changed and all checksums right.
fn forge(lab: &Lab, from: &str, to: &str, change: impl FnOnce(&mut Header, &mut Vec<Event>)) {
    let mut header = lab.recording(from).header().clone();
    let mut events = lab.events(from);
    change(&mut header, &mut events);
    let end = events.pop().unwrap();
    let mut writer = Writer::create(&lab.path(to), &header, true).unwrap();
    for event in &events {
        writer.append(event).unwrap();
    }
    writer.close(&end).unwrap();
}

#[test]
fn a_log_that_is_not_what_happened_is_3() {
    let Some(lab) = Lab::anywhere("a_log_that_is_not_what_happened_is_3") else { return };
    fs::write(lab.path("keys"), "echo typed; clock; exit\n").unwrap();
    lab.record("true", &[MEMORY, "--pace", "max", "--input", "keys"]);
    forge(&lab, "true", "copy", |_, _| ());
    lab.replay("copy", &[]).ends_with(0);

    fn input(events: &mut [Event]) -> usize {
        events.iter().position(|event| matches!(event.body, Body::ConsoleInput { .. })).unwrap()
    }
    fn checkpoint(events: &mut [Event]) -> &mut Event {
        let mut found = events.iter_mut().filter(|event| matches!(event.body, Body::Checkpoint { .. }));
        found.nth(1).unwrap()
    }
    type Change = fn(&mut Header, &mut Vec<Event>);
    let changes: [(&str, Change); 9] = [
        ("another byte was typed", |_, events| {
            let at = input(events);
            if let Body::ConsoleInput { bytes } = &mut events[at].body {
                bytes[6] ^= 1;
            }
        }),
        ("it was typed later", |_, events| {
            // Behind the first checkpoint: the shell is waiting by then.
            let at = input(events);
            let mut moved = events.remove(at);
            moved.position = checkpoint(events).position;
            let after = events.iter().position(|event| event.position > moved.position).unwrap();
            events.insert(after, moved);
        }),
        ("nothing was typed", |_, events| {
            let at = input(events);
            events.remove(at);
        }),
        ("other registers", |_, events| {
            if let Body::Checkpoint { registers, .. } = &mut checkpoint(events).body {
                *registers ^= 1;
            }
        }),
        ("other RAM", |_, events| {
            if let Some(Body::End(end)) = events.last_mut().map(|event| &mut event.body) {
                end.full.as_mut().unwrap().ram ^= 1;
            }
        }),
        ("an end that did not come", |_, events| {
            let end = events.last_mut().unwrap();
            end.position = Position::exit(end.position.exit + 1);
            if let Body::End(end) = &mut end.body {
                end.exits += 1;
            }
        }),
        ("another seed", |header, _| header.seed[0] ^= 1),
        ("another time", |header, _| header.rtc += 1),
        ("another kernel command line", |header, _| header.cmdline += " loglevel=8"),
    ];
    for (name, change) in changes {
        forge(&lab, "true", "forged", change);
        let outcome = lab.replay("forged", &["--quiet"]).ends_with(3).says("diverged between exit:");
        println!("{name}: {}", outcome.stderr.lines().next().unwrap_or_default());
    }
}

#[test]
fn a_changed_image_is_refused() {
    let Some(lab) = Lab::anywhere("a_changed_image_is_refused") else { return };
    fs::copy(image(), lab.path("own.img")).unwrap();
    let arguments =
        ["record", MEMORY, "--pace", "max", "-o", "r", "--image", "own.img", "--", "echo", "same"];
    let recorded = lab.call(&arguments).finish().ends_with(0);
    assert!(
        fs::read(lab.path("own.img")).unwrap() == fs::read(image()).unwrap(),
        "recording changed the image"
    );

    // Gone, moved, and back.
    fs::rename(lab.path("own.img"), lab.path("moved.img")).unwrap();
    let gone = lab.replay("r", &[]);
    assert!(matches!(gone.code, 1 | 4), "{gone}");
    gone.says_one_line().says("own.img");
    lab.replay("r", &["--image", "moved.img"]).ends_with(recorded.code).shows("same");
    fs::rename(lab.path("moved.img"), lab.path("own.img")).unwrap();

    // A byte that no file uses: still another image.
    let length = fs::metadata(lab.path("own.img")).unwrap().len();
    change_byte(&lab.path("own.img"), length - 5);
    lab.replay("r", &[]).ends_with(4).says_one_line().says("own.img").says("changed");
    change_byte(&lab.path("own.img"), length - 5);
    lab.replay("r", &[]).ends_with(0).shows("same");
    OpenOptions::new().write(true).open(lab.path("own.img")).unwrap().set_len(length - 512).unwrap();
    lab.replay("r", &[]).ends_with(4).says_one_line().says("size");
}

#[test]
fn a_full_disk_ends_the_recording_with_what_there_is() {
    let Some(lab) = Lab::anywhere("a_full_disk_ends_the_recording") else { return };
    fs::create_dir(lab.path("small")).unwrap();
    let mount = |size: &str| {
        let option = format!("size={size}");
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &option, "small"])
            .arg(lab.path("small"))
            .status();
        assert!(status.unwrap().success(), "cannot mount a tmpfs");
    };
    let umount = || assert!(Command::new("umount").arg(lab.path("small")).status().unwrap().success());

    // Nothing fits: no recording.
    mount("4k");
    fs::write(lab.path("small/fill"), [1; 4096]).unwrap();
    lab.recorder("small/r", &[MEMORY, "--pace", "max", "--", "true"])
        .finish()
        .ends_with(1)
        .says("No space left");
    umount();

    // The log fits for a while; the disk's overlay lies elsewhere.
    mount("40k");
    fs::create_dir(lab.path("small/r")).unwrap();
    let keys: String = (0..4000)
        .map(|i| format!("echo {:016x}\n", (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        .collect();
    fs::write(lab.path("keys"), keys).unwrap();
    let outcome =
        lab.recorder("small/r", &[MEMORY, "--pace", "max", "--input", "keys"]).finish().ends_with(1);
    outcome.says("No space left").says("kept in");
    assert_eq!(lab.recording("small/r").state(), State::Crashed);
    let replayed = lab.replay("small/r", &[]).ends_with(0).says("last sealed position");
    assert!(!replayed.stdout.is_empty(), "{replayed}");
    umount();
}
