//! Storing the pages of one snapshot: what the pack has is referred to, the rest is appended.
//!
//! One thread takes the pages from the machine and looks for them in the pack; another packs and writes the new ones.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::Part;
use super::body::{Body, Run};
use super::chunk::{self, Codec, Digest};
use super::error::SnapshotError;
use super::load::Unpacker;
use super::pack::{ChunkRef, Index, Pack, Place};
use super::pages::{MAX_PAGES, PAGE_BYTES, PAGE_NUMBERS, PageSource, RAM};

/// Pages of a chunk. Measured with RAM of Linux guests: chunks of 64 pages are 3 % smaller; the smaller a chunk, the less
/// is unpacked for nothing once its neighbours are no longer needed.
const CHUNK_PAGES: usize = 16;
/// A chunk of which less than one page in so many is needed is not referred to: those pages are stored again. So a
/// snapshot unpacks at most so many times its own pages, however many others came before it.
const SPARSE: usize = 4;
const _: () = assert!(CHUNK_PAGES <= chunk::MAX_PAGES);

static ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

/// A page of the new snapshot, and where it is stored.
#[derive(Debug, Clone, Copy)]
struct Entry {
    space: u32,
    page: u64,
    place: Place,
}

/// A chunk to be packed: the contents of its pages, and their digests.
type Full = (Vec<u8>, Vec<Digest>);
/// Chunks that wait to be packed.
const QUEUE: usize = 8;

/// Stores the pages that `collect` finds, and gives the body of their snapshot. The index is of no use after an error.
pub(super) fn store(
    pack: &Pack,
    index: &mut Index,
    parts: Vec<Part>,
    collect: impl FnOnce(&mut Storing<'_>) -> Result<(), SnapshotError>,
) -> Result<Body, SnapshotError> {
    let (to_writer, full) = sync_channel(QUEUE);
    let end = index.end;
    let old = index.chunks.len();
    let (raw, digests) = Full::default();
    let mut storing = Storing { pack, index, to_writer, entries: Vec::new(), old, filled: old, raw, digests };
    thread::scope(|scope| {
        let writer = thread::Builder::new()
            .name("snapshot-pack".to_owned())
            .spawn_scoped(scope, move || write(pack, end, full))
            .map_err(SnapshotError::io("make a thread to pack", &pack.path))?;
        let outcome = collect(&mut storing).and_then(|()| storing.reuse()).and_then(|()| storing.flush());
        let Storing { entries, index, to_writer, .. } = storing;
        // Without a sender the writer ends. Its error comes first: it is why the other stopped.
        drop(to_writer);
        let written = writer.join().unwrap_or_else(|_| Err(stopped(pack)));
        written?.into_iter().for_each(|chunk| index.push(chunk, true));
        outcome?;
        Ok(body(&entries, index, parts))
    })
}

/// Packs chunks and writes them one after the other.
fn write(pack: &Pack, mut end: u64, full: Receiver<Full>) -> Result<Vec<ChunkRef>, SnapshotError> {
    let mut codec = Codec::new().map_err(SnapshotError::io("pack pages for", &pack.path))?;
    let mut chunks = Vec::new();
    for (raw, digests) in full {
        let chunk = pack.append(end, &mut codec, &raw, &digests)?;
        end = chunk.end();
        chunks.push(chunk);
    }
    Ok(chunks)
}

fn stopped(pack: &Pack) -> SnapshotError {
    SnapshotError::io("write", &pack.path)(io::Error::other("the thread that packs has stopped"))
}

/// Collects the pages of a new snapshot.
pub(super) struct Storing<'a> {
    pack: &'a Pack,
    index: &'a mut Index,
    to_writer: SyncSender<Full>,
    entries: Vec<Entry>,
    /// Chunks that were there before.
    old: usize,
    /// These and the ones given to the writer.
    filled: usize,
    /// Contents and digests of the pages of the chunk that is not full yet.
    raw: Vec<u8>,
    digests: Vec<Digest>,
}

impl Storing<'_> {
    /// Adds everything that `source` has.
    pub(super) fn take(&mut self, source: &mut dyn PageSource) -> Result<(), SnapshotError> {
        let mut last = None;
        for space in source.spaces() {
            if last.is_some_and(|last| last >= space) {
                return Err(misuse("its spaces are not ascending"));
            }
            last = Some(space);
            let mut failure = None;
            let mut next = 0;
            let outcome = source.pages(space, &mut |first, bytes| {
                self.run(space, &mut next, first, bytes).map_err(|error| {
                    failure = Some(error);
                    io::Error::other("stopped")
                })
            });
            // What stopped the source comes before what the source makes of it.
            match (failure, outcome) {
                (Some(error), _) => return Err(error),
                (None, outcome) => outcome.map_err(SnapshotError::Source)?,
            }
        }
        Ok(())
    }

    /// Adds a run of pages; the next one may not start before `next`.
    fn run(&mut self, space: u32, next: &mut u64, first: u64, bytes: &[u8]) -> Result<(), SnapshotError> {
        let (pages, rest) = bytes.as_chunks::<PAGE_BYTES>();
        let end = first.checked_add(pages.len() as u64).filter(|end| *end <= PAGE_NUMBERS);
        let (Some(end), true, []) = (end, first >= *next, rest) else {
            return Err(misuse("a run of pages is not whole, out of order or out of range"));
        };
        *next = end;
        for (page, content) in (first..).zip(pages) {
            if space == RAM && *content == ZEROS {
                continue;
            }
            let digest = *blake3::hash(content).as_bytes();
            let place = match self.find(&digest) {
                Some(place) => place,
                None => self.append(digest, content)?,
            };
            self.push(space, page, place)?;
        }
        Ok(())
    }

    /// Where a page is, if it is stored already.
    pub(super) fn find(&self, digest: &Digest) -> Option<Place> {
        let pending = || self.digests.iter().position(|pending| pending == digest);
        self.index.find(digest).or_else(|| pending().and_then(|slot| self.pending(slot)))
    }

    fn pending(&self, slot: usize) -> Option<Place> {
        Some(Place { chunk: u32::try_from(self.filled).ok()?, slot: u16::try_from(slot).ok()? })
    }

    /// Stores a page, whether or not it is there already.
    pub(super) fn append(&mut self, digest: Digest, content: &[u8]) -> Result<Place, SnapshotError> {
        let place = self.pending(self.digests.len()).ok_or_else(|| too_many(u64::from(u32::MAX)))?;
        self.raw.extend_from_slice(content);
        self.digests.push(digest);
        if self.digests.len() == CHUNK_PAGES {
            self.flush()?;
        }
        Ok(place)
    }

    /// Says that a page of the snapshot is at `place`. Pages come ascending by space and number.
    pub(super) fn push(&mut self, space: u32, page: u64, place: Place) -> Result<(), SnapshotError> {
        if self.entries.len() as u64 >= MAX_PAGES {
            return Err(too_many(self.entries.len() as u64 + 1));
        }
        self.entries.push(Entry { space, page, place });
        Ok(())
    }

    fn flush(&mut self) -> Result<(), SnapshotError> {
        if self.digests.is_empty() {
            return Ok(());
        }
        let number = u32::try_from(self.filled).map_err(|_| too_many(u64::from(u32::MAX)))?;
        self.index.announce(number, &self.digests);
        self.filled += 1;
        let full = (std::mem::take(&mut self.raw), std::mem::take(&mut self.digests));
        self.to_writer.send(full).map_err(|_| stopped(self.pack))
    }

    /// Checks the old chunks that are referred to, and stores the pages of sparse ones again.
    fn reuse(&mut self) -> Result<(), SnapshotError> {
        let mut needed: BTreeMap<u32, BTreeSet<u16>> = BTreeMap::new();
        for entry in self.entries.iter().filter(|entry| (entry.place.chunk as usize) < self.old) {
            needed.entry(entry.place.chunk).or_default().insert(entry.place.slot);
        }
        let mut moved = BTreeMap::new();
        let mut unpacker = Unpacker::new(self.pack);
        let mut raw = Vec::new();
        for (chunk, slots) in needed {
            let Some(reference) = self.index.chunks.get(chunk as usize).copied() else { continue };
            if slots.len() * SPARSE < reference.pages as usize {
                unpacker.unpack(&reference, &mut raw)?;
                for slot in slots {
                    let from = usize::from(slot) * PAGE_BYTES;
                    let Some(content) = raw.get(from..from + PAGE_BYTES) else { continue };
                    let place = self.append(*blake3::hash(content).as_bytes(), content)?;
                    moved.insert(Place { chunk, slot }, place);
                }
            } else if let Some(checked) = self.index.checked.get_mut(chunk as usize)
                && !*checked
            {
                unpacker.check(&reference)?;
                *checked = true;
            }
        }
        for entry in &mut self.entries {
            if let Some(place) = moved.get(&entry.place) {
                entry.place = *place;
            }
        }
        Ok(())
    }
}

fn body(entries: &[Entry], index: &Index, parts: Vec<Part>) -> Body {
    // The chunks needed, by number, and the number of pages in those before each.
    let used: BTreeSet<u32> = entries.iter().map(|entry| entry.place.chunk).collect();
    let mut starts = BTreeMap::new();
    let mut chunks = Vec::with_capacity(used.len());
    let mut start = 0;
    for number in used {
        if let Some(chunk) = index.chunks.get(number as usize) {
            starts.insert(number, start);
            start += u64::from(chunk.pages);
            chunks.push(*chunk);
        }
    }
    let mut spaces: Vec<(u32, Vec<Run>)> = Vec::new();
    for Entry { space, page, place } in entries {
        let source = starts.get(&place.chunk).map_or(0, |start| start + u64::from(place.slot));
        if spaces.last().is_none_or(|(last, _)| last != space) {
            spaces.push((*space, Vec::new()));
        }
        let Some((_, runs)) = spaces.last_mut() else { continue };
        match runs.last_mut() {
            Some(run) if run.page + run.count == *page && run.source + run.count == source => {
                run.count += 1;
            }
            _ => runs.push(Run { page: *page, count: 1, source }),
        }
    }
    Body { parts, chunks, spaces }
}

fn misuse(what: &'static str) -> SnapshotError {
    SnapshotError::Source(io::Error::new(ErrorKind::InvalidInput, what))
}

fn too_many(found: u64) -> SnapshotError {
    SnapshotError::TooLarge { what: format!("{found} pages"), limit: MAX_PAGES }
}
