//! Packs come back as they were, and damaged or hostile ones not at all.

use scribe_log::header::{BootFile, Image};
use scribe_log::{Body, End, EndCause, Event, Position, Writer};

use super::*;
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
    assert!(Recording::open(&to).is_ok());
    assert!(matches!(unpack(&file, &to), Err(PackError::Exists { .. })));
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

/// A pack of these contents with these entries, whatever they are.
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
