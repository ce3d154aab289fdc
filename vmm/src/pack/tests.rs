//! Packs come back as they were, and damaged or hostile ones not at all.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;

use scribe_log::header::{BootFile, Image, Level, Origin as FileOrigin};
use scribe_log::{
    Body, Bookmark, BookmarkOrigin, End, EndCause, Event, Header, Position, Recording, ShrinkOptions, Writer,
    shrink,
};

use super::read::unpack_within;
use super::write::{append, seal};
use super::*;
use crate::session::files;
use crate::session::tests::header;

/// An image of 1 MiB, nearly all of it zero, and a recording that names it.
fn recording(dir: &Path) -> Recording {
    let mut bytes = vec![0; 1 << 20];
    bytes[70_000..70_010].fill(7);
    let path = dir.join("disk.img");
    fs::write(&path, &bytes).unwrap();
    let image = Image { path, size: bytes.len() as u64, blake3: files::of_bytes(&bytes) };
    let kernel = BootFile { origin: FileOrigin::Image, ..header().kernel };
    let header = Header { image: Some(image), kernel, ..header() };
    let writer = Writer::create(&dir.join("recording"), &header, false).unwrap();
    let cause = EndCause::Reset;
    let end = End { cause, registers: 1, full: None, exits: 3, guest_time: 5, inputs: 0 };
    writer.close(&Event::new(Position::exit(3), Body::End(end))).unwrap();
    Recording::open(&dir.join("recording")).unwrap()
}

fn packed(dir: &Path, image: bool) -> PathBuf {
    let to = dir.join("a.scribe");
    let options = PackOptions { image, ..PackOptions::default() };
    pack(&recording(dir), &Moved::default(), &to, options).unwrap();
    to
}

#[test]
fn a_pack_holds_all_that_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let file = packed(dir.path(), true);
    assert!(is_pack(&file));
    let length = fs::metadata(&file).unwrap().len();
    assert!(length < 4096, "{length}");
    let to = dir.path().join("b");
    unpack(&file, &to).unwrap();
    for name in ["header", "events"] {
        assert_eq!(
            fs::read(to.join(name)).unwrap(),
            fs::read(dir.path().join("recording").join(name)).unwrap()
        );
    }
    let moved = beside(&to, Moved::default());
    assert_eq!(moved.kernel, None);
    assert_eq!(fs::read(moved.image.unwrap()).unwrap(), fs::read(dir.path().join("disk.img")).unwrap());
    // What is zero takes no room.
    let image = fs::metadata(to.join("files/image")).unwrap();
    assert_eq!((image.len(), image.blocks() <= 16), (1 << 20, true), "{} blocks", image.blocks());
    assert!(Recording::open(&to).is_ok());
    assert!(matches!(unpack(&file, &to), Err(PackError::DirectoryExists { .. })));
    let again = pack(&Recording::open(&to).unwrap(), &Moved::default(), &file, PackOptions::default());
    assert!(matches!(again, Err(PackError::Exists { .. })));
}

#[test]
fn an_image_that_has_changed_is_not_packed() {
    let dir = tempfile::tempdir().unwrap();
    let recording = recording(dir.path());
    fs::write(dir.path().join("disk.img"), vec![1; 1 << 20]).unwrap();
    let options = PackOptions { image: true, ..PackOptions::default() };
    let to = dir.path().join("a.scribe");
    assert!(matches!(pack(&recording, &Moved::default(), &to, options), Err(PackError::Changed { .. })));
    assert!(!to.exists());
}

#[test]
fn damage_anywhere_is_an_error_that_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = packed(dir.path(), false);
    let whole = fs::read(&file).unwrap();
    let to = dir.path().join("b");
    let before = fs::read_dir(dir.path()).unwrap().count();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&file, &bytes).unwrap();
        let error = unpack(&file, &to).expect_err("damage");
        assert!(error.is_damage(), "byte {at}: {error}");
    }
    for length in (0..whole.len()).step_by(9) {
        fs::write(&file, &whole[..length]).unwrap();
        assert!(unpack(&file, &to).unwrap_err().is_damage(), "length {length}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), before);
    fs::write(&file, &whole).unwrap();
    unpack(&file, &to).unwrap();
}

/// A pack's archive with these contents, and an end that is right.
fn forged(dir: &Path, contents: &Contents, entries: &[(&str, tar::EntryType, &[u8])]) -> PathBuf {
    let file = dir.join("forged.scribe");
    let encoder = zstd::Encoder::new(File::create(&file).unwrap(), 1).unwrap();
    let mut archive = tar::Builder::new(encoder);
    let json = serde_json::to_vec(contents).unwrap();
    append(&mut archive, CONTENTS, json.len() as u64, json.as_slice()).unwrap();
    for (name, kind, bytes) in entries {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        archive.append(&header, *bytes).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap();
    seal(&file).unwrap();
    file
}

fn entry(name: &str, bytes: &[u8]) -> Entry {
    Entry { name: name.into(), size: bytes.len() as u64, blake3: files::of_bytes(bytes) }
}

#[test]
fn hostile_packs_write_nothing_outside() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("b");
    let regular = tar::EntryType::Regular;
    for name in
        ["../x", "/tmp/x", "snapshots/../../x", "snapshots/.x", "files/other", "header/x", "", "snapshots/"]
    {
        let contents = Contents { format: FORMAT, files: vec![entry(name, b"x")] };
        let file = forged(dir.path(), &contents, &[(name, regular, b"x")]);
        assert!(matches!(unpack(&file, &to), Err(PackError::Damaged { .. })), "{name}");
    }
    let contents = Contents { format: FORMAT, files: vec![entry("header", b"x")] };
    for kind in
        [tar::EntryType::Symlink, tar::EntryType::Link, tar::EntryType::Directory, tar::EntryType::Fifo]
    {
        let file = forged(dir.path(), &contents, &[("header", kind, b"x")]);
        assert!(matches!(unpack(&file, &to), Err(PackError::Damaged { .. })), "{kind:?}");
    }
    // Other bytes, a file too many, one too few, a name other than announced.
    let cases: [&[(&str, tar::EntryType, &[u8])]; 4] = [
        &[("header", regular, b"y")],
        &[("header", regular, b"x"), ("events", regular, b"x")],
        &[],
        &[("events", regular, b"x")],
    ];
    for entries in cases {
        let file = forged(dir.path(), &contents, entries);
        assert!(matches!(unpack(&file, &to), Err(PackError::Damaged { .. })), "{entries:?}");
    }
    let newer = forged(dir.path(), &Contents { format: FORMAT + 1, files: Vec::new() }, &[]);
    assert!(matches!(unpack(&newer, &to), Err(PackError::TooNew { found: 2, .. })));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn what_is_announced_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("b");
    let refused = |files: Vec<Entry>, words: &str| {
        let file = forged(dir.path(), &Contents { format: FORMAT, files }, &[]);
        let error = unpack(&file, &to).unwrap_err();
        assert!(error.is_damage() && error.to_string().contains(words), "{error}");
    };
    let sized = |name: &str, size| Entry { size, ..entry(name, b"") };
    refused(vec![sized("header", 2 << 20)], "not so large: header");
    refused(vec![sized("incomplete", 4097)], "not so large: incomplete");
    refused(vec![sized("files/image", (1 << 40) + 1)], "not so large: files/image");
    refused(vec![entry("events", b""), entry("header", b""), entry("events", b"")], "events");
    let name = format!("snapshots/{}", "x".repeat(91));
    refused(vec![entry(&name, b"")], "snapshots/xxx");
    let many = (0..10_001).map(|number| entry(&format!("snapshots/a{number}"), b""));
    refused(many.collect(), "announces what no pack has");
    refused(vec![sized("events", 5)], "events is missing");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// An archive of one entry with that header and so many bytes, each 1, behind the contents.
fn bomb(dir: &Path, announced: Entry, kind: tar::EntryType, bytes: u64) -> PathBuf {
    let file = dir.join("bomb.scribe");
    let encoder = zstd::Encoder::new(File::create(&file).unwrap(), 1).unwrap();
    let mut archive = tar::Builder::new(encoder);
    let name = announced.name.clone();
    let json = serde_json::to_vec(&Contents { format: FORMAT, files: vec![announced] }).unwrap();
    append(&mut archive, CONTENTS, json.len() as u64, json.as_slice()).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_path(&name).unwrap();
    header.set_entry_type(kind);
    header.set_size(bytes);
    header.set_cksum();
    archive.append(&header, io::repeat(1).take(bytes)).unwrap();
    archive.into_inner().unwrap().finish().unwrap();
    seal(&file).unwrap();
    file
}

#[test]
fn a_small_pack_does_not_fill_the_disk_or_the_memory() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("b");
    let size = 3 << 20;
    let announced = Entry { size, ..entry("events", b"") };
    let file = bomb(dir.path(), announced, tar::EntryType::Regular, size);
    assert!(fs::metadata(&file).unwrap().len() < 2000);
    let error = unpack_within(&file, &to, 2 << 20).unwrap_err();
    assert!(error.is_damage() && error.to_string().contains("times its own size"), "{error}");
    // A name of sixteen megabytes, and attributes: read by nobody.
    for kind in [tar::EntryType::GNULongName, tar::EntryType::GNULongLink, tar::EntryType::XHeader] {
        let file = bomb(dir.path(), entry("events", b""), kind, 16 << 20);
        let error = unpack(&file, &to).unwrap_err();
        assert!(error.is_damage() && error.to_string().contains("something else"), "{error}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// A recording with a marker and a bookmark, in a directory of that name.
fn marked(dir: &Path) -> PathBuf {
    let path = dir.join("marked");
    let mut writer =
        Writer::create(&path, &Header { level: Level::Devices, image: None, ..header() }, false).unwrap();
    let position = Position::exit(1);
    writer.append(&Event::new(position, Body::ConsoleOutput { bytes: b"hello".to_vec() })).unwrap();
    let (name, origin) = ("here".to_owned(), BookmarkOrigin::Key);
    writer.bookmark(Bookmark { name, position, guest_time: None, origin }).unwrap();
    let end = End { cause: EndCause::Reset, registers: 1, full: None, exits: 3, guest_time: 5, inputs: 0 };
    writer.close(&Event::new(Position::exit(3), Body::End(end))).unwrap();
    path
}

#[test]
fn a_recording_whose_header_is_not_in_its_place_is_packed_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let killed = marked(dir.path());
    let names = ["header", "events", "bookmarks"];
    let old = fs::read(killed.join("header")).unwrap();
    shrink(&killed, ShrinkOptions::default()).unwrap();
    let shrunk = names.map(|name| fs::read(killed.join(name)).unwrap());
    fs::rename(killed.join("header"), killed.join("header.new")).unwrap();
    fs::write(killed.join("header"), &old).unwrap();
    let file = dir.path().join("a.scribe");
    let pack = |path: &Path| {
        let options = PackOptions { overwrite: true, ..PackOptions::default() };
        pack(&Recording::open(path).unwrap(), &Moved::default(), &file, options)
    };
    pack(&killed).unwrap();
    assert_eq!(fs::read(killed.join("header")).unwrap(), old, "it is not changed");
    unpack(&file, &dir.path().join("b")).unwrap();
    assert!(names.map(|name| fs::read(dir.path().join("b").join(name)).unwrap()) == shrunk);
    let left = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 3, "the recording, the pack, what came out of it");
}

#[test]
fn damage_is_not_packed() {
    let dir = tempfile::tempdir().unwrap();
    let path = marked(dir.path());
    let recording = Recording::open(&path).unwrap();
    let mut bytes = fs::read(path.join("events")).unwrap();
    bytes[70] ^= 1;
    fs::write(path.join("events"), bytes).unwrap();
    let to = dir.path().join("a.scribe");
    let error = pack(&recording, &Moved::default(), &to, PackOptions::default()).unwrap_err();
    assert!(error.is_damage(), "{error}");
    // Nor another recording that has come in its place.
    fs::remove_dir_all(&path).unwrap();
    let other = Header { memory: 1 << 30, ..header() };
    let end = End { cause: EndCause::Reset, registers: 1, full: None, exits: 3, guest_time: 5, inputs: 0 };
    let end = Event::new(Position::exit(3), Body::End(end));
    Writer::create(&path, &other, false).unwrap().close(&end).unwrap();
    let error = pack(&recording, &Moved::default(), &to, PackOptions::default()).unwrap_err();
    assert!(matches!(error, PackError::Busy(_)), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}
