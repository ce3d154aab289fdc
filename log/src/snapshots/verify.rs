//! Reading everything there is, to know whether all of it can be used.

use std::collections::BTreeMap;
use std::path::Path;

use super::Snapshots;
use super::chunk;
use super::error::SnapshotError;
use super::load::Unpacker;
use super::pack::{ChunkRef, FIRST_CHUNK, Pack};
use super::pages::PAGE_BYTES;

impl Snapshots {
    /// Reads all snapshots and every chunk of every pack, compares all checksums and digests down to those of the single
    /// pages, and gives what is wrong: nothing, if all of it can be used. Bytes at a pack's end that a killed writer left
    /// are not wrong.
    pub fn verify(&self) -> Vec<SnapshotError> {
        let mut found = Vec::new();
        // The listing's errors cannot be copied: they are looked for again.
        let listing = match super::list::read(&self.dir, &self.identity) {
            Ok(listing) => listing,
            Err(error) => return vec![error],
        };
        found.extend(listing.damaged);
        let mut chunks: BTreeMap<u32, BTreeMap<u64, ChunkRef>> = BTreeMap::new();
        for (info, (generation, _)) in listing.snapshots.iter().zip(&listing.needs) {
            match self.contents(info) {
                Ok((body, _)) => {
                    let of_pack = chunks.entry(*generation).or_default();
                    for chunk in body.chunks {
                        if of_pack.get(&chunk.offset).is_some_and(|other| *other != chunk) {
                            let path = self.path(info.position);
                            found.push(SnapshotError::corrupt(
                                &path,
                                0,
                                "it and another do not agree on the pack",
                            ));
                        }
                        of_pack.insert(chunk.offset, chunk);
                    }
                }
                Err(error) => found.push(error),
            }
        }
        for generation in &listing.packs {
            match Pack::open(&self.dir, *generation, false) {
                Ok(Some(pack)) => {
                    verify_pack(&pack, chunks.remove(generation).unwrap_or_default(), &mut found);
                }
                // Compacted meanwhile.
                Ok(None) => {}
                // Killed while it was made.
                Err(SnapshotError::Corrupt { file, .. })
                    if !chunks.contains_key(generation) && is_shorter_than_a_head(&file) => {}
                Err(error) => found.push(error),
            }
        }
        found
    }
}

fn is_shorter_than_a_head(pack: &Path) -> bool {
    pack.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() < FIRST_CHUNK)
}

/// Reads the chunks `needed`, and all others that are whole.
fn verify_pack(pack: &Pack, needed: BTreeMap<u64, ChunkRef>, found: &mut Vec<SnapshotError>) {
    let mut index = super::pack::Index::new(0);
    let needed_end = needed.values().map(ChunkRef::end).max().unwrap_or(0);
    match index.scan(pack) {
        // Behind all that is needed it is what a killed writer left.
        Ok(Some(what)) if index.end < needed_end && !needed.contains_key(&index.end) => {
            found.push(SnapshotError::corrupt(&pack.path, index.end, what));
        }
        Ok(_) => {}
        Err(error) => found.push(error),
    }
    let mut all: BTreeMap<u64, ChunkRef> = index.chunks.iter().map(|chunk| (chunk.offset, *chunk)).collect();
    // Where the two differ the snapshots are right.
    all.extend(needed);
    let mut unpacker = Unpacker::new(pack);
    let mut raw = Vec::new();
    for chunk in all.values() {
        let outcome = unpacker.unpack(chunk, &mut raw).and_then(|()| {
            let wrong = |what| SnapshotError::corrupt(&pack.path, chunk.offset, what);
            let head = chunk::head(unpacker.record()).map_err(wrong)?;
            let pages = raw.as_chunks::<PAGE_BYTES>().0;
            if pages.iter().zip(&head.digests).any(|(page, digest)| blake3::hash(page).as_bytes() != digest) {
                return Err(wrong("a page has another digest than the chunk's table says"));
            }
            Ok(())
        });
        found.extend(outcome.err());
    }
}
