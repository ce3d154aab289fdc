//! Getting rid of the pages that nobody refers to, by copying the others into a new pack.

use std::collections::BTreeMap;
use std::fs;

use super::body::Body;
use super::chunk;
use super::error::SnapshotError;
use super::load::{Unpacker, pieces};
use super::pack::{self, ChunkRef, Index, Pack, Place};
use super::pages::PAGE_BYTES;
use super::store::{Storing, store};
use super::{Snapshots, Usage};

impl Snapshots {
    /// How many bytes the snapshots take, and how many of them are of no use.
    ///
    /// # Errors
    /// A file cannot be read, or is damaged.
    pub fn usage(&self) -> Result<Usage, SnapshotError> {
        let mut usage = Usage::default();
        for generation in &self.listing.packs {
            let path = pack::path(&self.dir, *generation);
            usage.packs += fs::metadata(&path).map_err(SnapshotError::io("read", &path))?.len();
        }
        let mut needed: BTreeMap<(u32, u64), Needed> = BTreeMap::new();
        for (info, (generation, _)) in self.listing.snapshots.iter().zip(&self.listing.needs) {
            usage.snapshots += info.bytes;
            let (body, _) = self.contents(info)?;
            for piece in pieces(&body) {
                let Some(chunk) = body.chunks.get(piece.chunk) else { continue };
                let of_chunk =
                    needed.entry((*generation, chunk.offset)).or_insert_with(|| Needed::new(chunk));
                of_chunk.pages.iter_mut().skip(piece.slot).take(piece.count).for_each(|page| *page = true);
            }
        }
        let needed: u64 = needed.values().map(Needed::bytes).sum();
        let heads = self.listing.packs.len() as u64 * pack::FIRST_CHUNK;
        usage.unused = usage.packs.saturating_sub(needed).saturating_sub(heads);
        Ok(usage)
    }

    /// Copies the pages that the snapshots need into a new pack and removes the old ones; gives the bytes freed. Needs
    /// room for both while it runs.
    ///
    /// # Errors
    /// A snapshot is damaged, or cannot be written. All snapshots can be used after that as before.
    pub fn compact(&mut self) -> Result<u64, SnapshotError> {
        let _lock = self.begin()?;
        self.compact_locked()
    }

    /// As [`Snapshots::compact`], if that halves the packs at least. The caller holds the lock.
    pub(super) fn compact_if_worth_it(&mut self) -> Result<(), SnapshotError> {
        let usage = self.usage()?;
        if usage.unused > usage.packs / 2 {
            self.compact_locked()?;
        }
        Ok(())
    }

    fn compact_locked(&mut self) -> Result<u64, SnapshotError> {
        // The packs it needs are not known.
        if let Some(error) = self.listing.damaged.pop() {
            return Err(error);
        }
        let usage = self.usage()?;
        let Some(last) = self.listing.packs.last() else { return Ok(0) };
        if usage.unused == 0 && self.listing.packs.len() == 1 {
            return Ok(0);
        }
        let before = usage.snapshots + usage.packs;
        let generation = last.checked_add(1).ok_or_else(|| SnapshotError::TooLarge {
            what: "4294967296 packs".to_owned(),
            limit: u32::MAX.into(),
        })?;
        let old = self.listing.packs.clone();
        self.index = None;
        let pack = Pack::create(&self.dir, generation)?;
        let mut index = Index::new(generation);
        for info in self.listing.snapshots.clone() {
            let (body, from) = self.contents(&info)?;
            let body = match from {
                Some(from) => copy(&from, &body, &pack, &mut index)?,
                None => body,
            };
            self.write(info.position, info.guest_time, info.origin, &pack, generation, &body)?;
        }
        for generation in old {
            self.unlink(&pack::path(&self.dir, generation))?;
        }
        self.index = Some(index);
        self.refresh()?;
        let usage = self.usage()?;
        Ok(before.saturating_sub(usage.snapshots + usage.packs))
    }
}

/// What of a chunk is needed by any snapshot.
struct Needed {
    length: u64,
    pages: Vec<bool>,
}

impl Needed {
    fn new(chunk: &ChunkRef) -> Needed {
        Needed { length: chunk.length.into(), pages: vec![false; chunk.pages as usize] }
    }

    /// The chunk's bytes, less those of the pages that are not needed, as if all took the same.
    fn bytes(&self) -> u64 {
        let needed = self.pages.iter().filter(|needed| **needed).count() as u64;
        // Neither is above 2^21.
        self.length * needed / (self.pages.len() as u64).max(1)
    }
}

/// Stores the pages of the snapshot `body`, which are in the pack `from`, in the pack `to`.
fn copy(from: &Pack, body: &Body, to: &Pack, index: &mut Index) -> Result<Body, SnapshotError> {
    store(to, index, body.parts.clone(), |storing| copy_pages(from, body, storing))
}

fn copy_pages(from: &Pack, body: &Body, storing: &mut Storing<'_>) -> Result<(), SnapshotError> {
    let mut unpacker = Unpacker::new(from);
    let mut raw = Vec::new();
    // New places of the pages, by space and number, which is the order they are wanted in.
    let mut places: BTreeMap<(u32, u64), Place> = BTreeMap::new();
    let pieces = pieces(body);
    for of_chunk in pieces.chunk_by(|a, b| a.chunk == b.chunk) {
        let Some(chunk) = of_chunk.first().and_then(|piece| body.chunks.get(piece.chunk)) else { continue };
        let wrong = |what| SnapshotError::corrupt(&from.path, chunk.offset, what);
        unpacker.unpack(chunk, &mut raw)?;
        let digests = chunk::head(unpacker.record()).map_err(wrong)?.digests;
        let (contents, _) = raw.as_chunks::<PAGE_BYTES>();
        for piece in of_chunk {
            for at in 0..piece.count {
                let (Some(digest), Some(content)) =
                    (digests.get(piece.slot + at), contents.get(piece.slot + at))
                else {
                    return Err(wrong("the chunk has another number of pages than its snapshot says"));
                };
                let place = match storing.find(digest) {
                    Some(place) => place,
                    None => storing.append(*digest, content)?,
                };
                places.insert((piece.space, piece.page + at as u64), place);
            }
        }
    }
    for ((space, page), place) in places {
        storing.push(space, page, place)?;
    }
    Ok(())
}
