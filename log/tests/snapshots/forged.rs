//! Files made by hand, from docs/snapshot-format.md alone: what is right can be read, nonsense with right checksums is refused.

use std::fs;

use scribe_log::snapshots::{Origin, PAGE_BYTES, SnapshotError};
use twox_hash::XxHash3_128;

use crate::common::{self, at};
use crate::machine::*;

fn digest(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

fn number(value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let mut value = value;
    while value > 0x7f {
        out.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap());
    out
}

fn folded(value: i64) -> Vec<u8> {
    number(if value < 0 { value.unsigned_abs() * 2 - 1 } else { value.unsigned_abs() * 2 })
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [number(bytes.len() as u64), bytes.to_vec()].concat()
}

/// A chunk, to be changed before it is encoded.
struct Chunk {
    pages: u32,
    stored_length: Option<u32>,
    codec: u8,
    zero: u8,
    stored: Vec<u8>,
    table: Vec<[u8; 32]>,
}

impl Chunk {
    fn of(pages: &[Vec<u8>]) -> Chunk {
        Chunk {
            pages: u32::try_from(pages.len()).unwrap(),
            stored_length: None,
            codec: 0,
            zero: 0,
            stored: pages.concat(),
            table: pages.iter().map(|page| digest(page)).collect(),
        }
    }

    /// Its bytes and its id.
    fn encode(&self) -> (Vec<u8>, [u8; 32]) {
        let length = self.stored_length.unwrap_or(u32::try_from(self.stored.len()).unwrap());
        let mut out = b"SCRCHNK1".to_vec();
        out.extend(self.pages.to_le_bytes());
        out.extend(length.to_le_bytes());
        out.extend([self.codec, 0, self.zero, 0]);
        out.extend(XxHash3_128::oneshot(&self.stored).to_le_bytes());
        let mut crc = crc32fast::Hasher::new();
        crc.update(&out);
        crc.update(&self.table.concat());
        out.extend(crc.finalize().to_le_bytes());
        out.extend(self.table.concat());
        let id = digest(&out);
        out.extend(&self.stored);
        (out, id)
    }
}

/// A snapshot, to be changed before it is encoded.
struct Forged {
    exit: u64,
    ordinal: u64,
    pages: u64,
    pack_end: u64,
    origin: u8,
    codec: u8,
    zero: u8,
    raw_length: Option<u32>,
    body: Vec<u8>,
    after: Vec<u8>,
}

impl Forged {
    fn encode(&self) -> Vec<u8> {
        let header = common::header().encode().unwrap();
        let stored = u32::try_from(self.body.len()).unwrap();
        let mut out = b"SCRSNAP1".to_vec();
        out.extend(1u32.to_le_bytes());
        out.extend(0u32.to_le_bytes());
        for field in [self.exit, 0, 0, 777, self.ordinal, self.pages, self.pack_end] {
            out.extend(field.to_le_bytes());
        }
        out.extend(self.raw_length.unwrap_or(stored).to_le_bytes());
        out.extend(stored.to_le_bytes());
        out.extend([self.origin, self.codec, self.zero, 0]);
        out.extend(digest(&header));
        out.extend(digest(&self.body));
        out.extend(crc32fast::hash(&out).to_le_bytes());
        assert_eq!(out.len(), 152);
        out.extend(&self.body);
        out.extend(&self.after);
        out
    }
}

/// What a body is made of, each already as bytes.
struct Body {
    parts: Vec<u8>,
    chunks: Vec<u8>,
    spaces: Vec<u8>,
}

/// Two chunks of two pages each, and one between them that nobody needs; RAM with frames 3, 4, 5, of which 5 is the page of 3; the disk with cluster 9.
fn good() -> (Body, Forged, Vec<u8>) {
    let chunks = [Chunk::of(&[page(1), page(2)]), Chunk::of(&[page(3), page(0)])].map(|chunk| chunk.encode());
    let (unused, _) = Chunk::of(&[page(4)]).encode();
    let head = [&b"SCRPAGES"[..], &1u32.to_le_bytes(), &0u32.to_le_bytes()].concat();
    let crc = crc32fast::hash(&head).to_le_bytes();
    let pack = [&head[..], &crc, &chunks[0].0, &unused, &chunks[1].0].concat();
    let list: Vec<Vec<u8>> = [20, unused.len() as u64]
        .into_iter()
        .zip(&chunks)
        .map(|(gap, (bytes, id))| [number(gap), number(bytes.len() as u64), number(2), id.to_vec()].concat())
        .collect();
    let ram = [number(3), number(2), folded(1), number(0), number(1), folded(-2)].concat();
    let disk = [number(9), number(1), folded(3)].concat();
    let body = Body {
        parts: [number(1), string(b"cpu"), number(300), string(b"state")].concat(),
        chunks: [number(2), list.concat()].concat(),
        spaces: [number(2), number(0), number(2), ram, number(1), number(1), disk].concat(),
    };
    let forged = Forged {
        exit: 5,
        ordinal: 0,
        pages: 4,
        pack_end: pack.len() as u64,
        origin: 2,
        codec: 0,
        zero: 0,
        raw_length: None,
        body: vec![],
        after: vec![],
    };
    (body, forged, pack)
}

/// Loads a snapshot that was changed, of a recording whose pack was changed; or the complete error.
fn read(
    change_body: impl FnOnce(&mut Body),
    change: impl FnOnce(&mut Forged),
    change_pack: impl FnOnce(&mut Vec<u8>),
) -> Result<Machine, String> {
    let (mut body, mut forged, mut pack) = good();
    change_body(&mut body);
    forged.body = [body.parts, body.chunks, body.spaces].concat();
    change(&mut forged);
    change_pack(&mut pack);
    let place = Place::new();
    fs::create_dir(place.path("")).unwrap();
    fs::write(place.path("pages-0"), pack).unwrap();
    fs::write(place.path("exit-5"), forged.encode()).unwrap();
    let snapshots = place.open();
    if let [error] = snapshots.damaged() {
        return Err(common::chain(error));
    }
    let mut back = Machine::default();
    let info = snapshots.at(at(5)).unwrap();
    let loaded = snapshots.load(info, &mut back);
    assert_eq!(loaded.is_err(), !snapshots.verify().is_empty());
    let parts = loaded.map_err(|error| common::chain(&error))?;
    assert_eq!((parts[0].kind.as_str(), parts[0].version, &parts[0].bytes[..]), ("cpu", 300, &b"state"[..]));
    assert_eq!(info.guest_time, 777);
    Ok(back)
}

#[test]
fn the_description_of_the_format_is_enough_to_write_it() {
    let back = read(|_| {}, |_| {}, |_| {}).unwrap();
    assert!(back.ram == [(3, page(2)), (4, page(3)), (5, page(2))].into());
    assert!(back.disk == [(9, page(0))].into());
}

/// Bodies that are packed are unpacked, and so are chunks.
#[test]
fn packed_ones_can_be_read() {
    let pack_body = |forged: &mut Forged| {
        forged.raw_length = Some(u32::try_from(forged.body.len()).unwrap());
        forged.body = zstd::bulk::compress(&forged.body, 19).unwrap();
        forged.codec = 1;
    };
    // A part that packs well.
    let more = |body: &mut Body| {
        body.parts =
            [number(2), body.parts.split_off(1), string(b"more"), number(0), string(&[7; 999])].concat();
    };
    assert!(read(more, pack_body, |_| {}).is_ok());

    let mut chunk = Chunk::of(&[page(0), page(0)]);
    chunk.stored = zstd::bulk::compress(&chunk.stored, 1).unwrap();
    chunk.codec = 1;
    let (bytes, id) = chunk.encode();
    let body = |body: &mut Body| {
        let chunk = [number(20), number(bytes.len() as u64), number(2), id.to_vec()].concat();
        body.chunks = [number(1), chunk].concat();
        body.spaces = [number(1), number(1), number(1), number(8), number(1), folded(1)].concat();
    };
    let end = 20 + bytes.len() as u64;
    let head = |forged: &mut Forged| (forged.pages, forged.pack_end) = (1, end);
    let back = read(body, head, |pack| pack.splice(20.., bytes.iter().copied()).for_each(drop)).unwrap();
    assert!(back.disk == [(8, page(0))].into());
}

#[test]
fn origins_are_known() {
    for (origin, ordinal, expected) in [
        (0, 0, Some(Origin::Start)),
        (1, 0, Some(Origin::Recorded)),
        (2, 0, Some(Origin::Asked)),
        (3, 0, Some(Origin::Automatic { ordinal: 0 })),
        (3, u64::MAX, Some(Origin::Automatic { ordinal: u64::MAX })),
        (2, 1, None),
        (4, 0, None),
    ] {
        let (body, mut forged, _) = good();
        (forged.origin, forged.ordinal) = (origin, ordinal);
        forged.body = [body.parts, body.chunks, body.spaces].concat();
        let place = Place::new();
        fs::create_dir(place.path("")).unwrap();
        fs::write(place.path("exit-5"), forged.encode()).unwrap();
        let snapshots = place.open();
        assert_eq!(snapshots.at(at(5)).map(|info| info.origin), expected);
        assert_eq!(snapshots.damaged().len(), usize::from(expected.is_none()));
        assert!(snapshots.damaged().iter().all(|error| error.to_string().contains("origin is unknown")));
    }
}

#[test]
fn heads_of_nonsense_are_refused() {
    type Change = fn(&mut Forged);
    let cases: [(&str, Change); 12] = [
        ("it is the snapshot at exit:6", |forged| forged.exit = 6),
        ("packed in an unknown way", |forged| forged.codec = 2),
        ("packed in an unknown way", |forged| forged.zero = 1),
        ("lengths are impossible", |forged| forged.raw_length = Some(1)),
        ("lengths are impossible", |forged| (forged.codec, forged.raw_length) = (1, Some(20))),
        ("lengths are impossible", |forged| (forged.codec, forged.raw_length) = (1, Some((256 << 20) + 1))),
        ("does not unpack", |forged| (forged.codec, forged.raw_length) = (1, Some(256 << 20))),
        ("something follows", |forged| forged.after.push(0)),
        ("do not go together", |forged| forged.pages = 5),
        ("do not go together", |forged| forged.pack_end -= 1),
        ("bytes follow its end", |forged| forged.body.push(0)),
        ("ends too early", |forged| forged.body.truncate(forged.body.len() - 1)),
    ];
    for (expected, change) in cases {
        let error = read(|_| {}, change, |_| {}).unwrap_err();
        assert!(error.contains(expected) && error.contains("corrupt at byte"), "{expected}: {error}");
    }
}

#[test]
fn bodies_of_nonsense_are_refused() {
    let part =
        |kind: &[u8], version, length| [string(kind), number(version), number(length), vec![0; 3]].concat();
    let parts = |count: u64, parts: &[Vec<u8>]| {
        let bytes = [number(count), parts.concat()].concat();
        Box::new(move |body: &mut Body| body.parts = bytes) as Box<dyn FnOnce(&mut Body)>
    };
    let chunk = |gap, length, pages| [number(gap), number(length), number(pages), vec![0; 32]].concat();
    let chunks = |count: u64, chunks: &[Vec<u8>]| {
        let bytes = [number(count), chunks.concat()].concat();
        Box::new(move |body: &mut Body| body.chunks = bytes) as Box<dyn FnOnce(&mut Body)>
    };
    let run = |gap, count, source| [number(gap), number(count), folded(source)].concat();
    let space = |space, count, runs: &[Vec<u8>]| [number(space), number(count), runs.concat()].concat();
    let spaces = |count: u64, spaces: &[Vec<u8>]| {
        let bytes = [number(count), spaces.concat()].concat();
        Box::new(move |body: &mut Body| body.spaces = bytes) as Box<dyn FnOnce(&mut Body)>
    };
    let big = u64::MAX;
    let cases = [
        ("ends too early", parts(big, &[])),
        ("too many parts", parts(1025, &vec![part(b"a", 1, 3); 1025])),
        ("there twice", parts(2, &[part(b"a", 1, 3), part(b"a", 1, 3)])),
        ("kind is empty", parts(1, &[part(b"", 1, 3)])),
        ("not UTF-8", parts(1, &[part(b"\xff", 1, 3)])),
        ("longer than allowed", parts(1, &[part(&[b'k'; 65], 1, 3)])),
        ("longer than allowed", parts(1, &[part(b"a", 1, big)])),
        ("longer than allowed", parts(1, &[part(b"a", 1, (64 << 20) + 1)])),
        ("ends too early", parts(1, &[part(b"a", 1, 64 << 20)])),
        ("version is above", parts(1, &[part(b"a", 65_536, 3)])),
        ("ends too early", chunks(big, &[])),
        ("place is impossible", chunks(1, &[chunk(20, 1_056_809, 1)])),
        ("place is impossible", chunks(1, &[chunk(20, 71, 1)])),
        ("place is impossible", chunks(1, &[chunk(20, 999, 0)])),
        ("place is impossible", chunks(1, &[chunk(20, 999, 257)])),
        ("place is impossible", chunks(1, &[chunk(big, 999, 1)])),
        ("place is impossible", chunks(1, &[chunk(big / 2, 999, 1)])),
        ("place is impossible", chunks(2, &[chunk(20, 999, 1), chunk(big - 1000, 999, 1)])),
        ("ends too early", spaces(big, &[])),
        ("space is empty", spaces(1, &[space(0, 0, &[run(0, 1, 0)])])),
        ("not in order", spaces(2, &[space(1, 1, &[run(0, 1, 0)]), space(1, 1, &[run(0, 1, 0)])])),
        ("not in order", spaces(2, &[space(1, 1, &[run(0, 1, 0)]), space(0, 1, &[run(0, 1, 0)])])),
        ("number is above", spaces(1, &[space(1 << 32, 1, &[run(0, 1, 0)])])),
        ("ends too early", spaces(1, &[space(0, big, &[run(0, 1, 0)])])),
        ("run of pages is impossible", spaces(1, &[space(0, 1, &[run(0, 0, 0)])])),
        ("run of pages is impossible", spaces(1, &[space(0, 1, &[run(0, 1, 4)])])),
        ("run of pages is impossible", spaces(1, &[space(0, 1, &[run(0, 5, 0)])])),
        ("run of pages is impossible", spaces(1, &[space(0, 1, &[run(0, 1, -1)])])),
        ("run of pages is impossible", spaces(1, &[space(0, 1, &[run(1 << 40, 1, 0)])])),
        ("run of pages is impossible", spaces(1, &[space(0, 1, &[run(0, big, 0)])])),
        ("run of pages is impossible", spaces(1, &[space(0, 1, &[run(big, 1, 0)])])),
        ("run of pages is impossible", spaces(1, &[space(0, 2, &[run(5, 1, 0), run(big, 1, 0)])])),
    ];
    for (expected, change) in cases {
        let error = read(change, |_| {}, |_| {}).unwrap_err();
        assert!(error.contains(expected) && error.contains("corrupt at byte"), "{expected}: {error}");
    }
}

/// The snapshot says what the chunk says, and its id is right; what it says is not.
#[test]
fn chunks_of_nonsense_are_refused() {
    type Change = fn(&mut Chunk);
    let cases: [(&str, u64, Change); 10] = [
        ("number of pages is impossible", 2, |chunk| chunk.pages = 0),
        ("number of pages is impossible", 2, |chunk| chunk.pages = u32::MAX),
        ("checksum", 2, |chunk| chunk.pages = 1),
        ("checksum", 256, |chunk| chunk.pages = 256),
        ("unknown way", 2, |chunk| chunk.codec = 2),
        ("unknown way", 2, |chunk| chunk.zero = 1),
        ("lengths are impossible", 2, |chunk| chunk.stored_length = Some(8193)),
        ("lengths are impossible", 2, |chunk| chunk.codec = 1),
        ("another length", 2, |chunk| (chunk.codec, chunk.stored_length) = (1, Some(100))),
        ("another number of pages", 3, |_| {}),
    ];
    for (expected, pages, change) in cases {
        let mut chunk = Chunk::of(&[page(1), page(2)]);
        change(&mut chunk);
        let (bytes, id) = chunk.encode();
        let body = |body: &mut Body| {
            let chunk = [number(20), number(bytes.len() as u64), number(pages), id.to_vec()].concat();
            body.chunks = [number(1), chunk].concat();
            body.spaces = [number(1), number(0), number(1), number(8), number(1), folded(1)].concat();
        };
        let head = |forged: &mut Forged| (forged.pages, forged.pack_end) = (1, 20 + bytes.len() as u64);
        let pack = |pack: &mut Vec<u8>| pack.splice(20.., bytes.iter().copied()).for_each(drop);
        let error = read(body, head, pack).unwrap_err();
        assert!(error.contains(expected) && error.contains("corrupt at byte 20"), "{expected}: {error}");
    }
}

/// Frames of zstd that unpack to less, more, or much more than they should.
#[test]
fn chunks_that_unpack_to_something_else_are_refused() {
    for raw in [vec![], vec![1; 8191], vec![1; 8193], vec![0; 100 << 20]] {
        let mut chunk = Chunk::of(&[page(1), page(2)]);
        (chunk.codec, chunk.stored) = (1, zstd::bulk::compress(&raw, 1).unwrap());
        chunk.stored.truncate(8000);
        let (bytes, id) = chunk.encode();
        let body = |body: &mut Body| {
            let chunk = [number(20), number(bytes.len() as u64), number(2), id.to_vec()].concat();
            body.chunks = [number(1), chunk].concat();
            body.spaces = [number(1), number(0), number(1), number(8), number(1), folded(1)].concat();
        };
        let head = |forged: &mut Forged| (forged.pages, forged.pack_end) = (1, 20 + bytes.len() as u64);
        let pack = |pack: &mut Vec<u8>| pack.splice(20.., bytes.iter().copied()).for_each(drop);
        let error = read(body, head, pack).unwrap_err();
        assert!(error.contains("does not unpack"), "{}: {error}", raw.len());
    }
}

/// A page whose digest in the table is a lie is found by verifying, and never taken for the page it claims to be.
#[test]
fn a_table_of_lies_is_found() {
    let mut chunk = Chunk::of(&[page(1), page(2)]);
    chunk.table[1] = digest(&page(3));
    let (bytes, id) = chunk.encode();
    let (mut body, mut forged, pack) = good();
    let list = [number(20), number(bytes.len() as u64), number(2), id.to_vec()].concat();
    body.chunks = [number(1), list].concat();
    body.spaces = [number(1), number(0), number(1), number(8), number(1), folded(1)].concat();
    forged.body = [body.parts, body.chunks, body.spaces].concat();
    (forged.pages, forged.pack_end) = (1, 20 + bytes.len() as u64);
    let place = Place::new();
    fs::create_dir(place.path("")).unwrap();
    fs::write(place.path("pages-0"), [&pack[..20], &bytes].concat()).unwrap();
    fs::write(place.path("exit-5"), forged.encode()).unwrap();
    let found = place.open().verify();
    assert!(matches!(&found[..], [SnapshotError::Corrupt { offset: 20, .. }]), "{found:?}");
    assert!(found[0].to_string().contains("another digest than the chunk's table says"));
    assert_eq!(bytes.len() - 8192, 40 + 64);
    assert_eq!(PAGE_BYTES, 4096);
}
