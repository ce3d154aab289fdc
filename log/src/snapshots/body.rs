//! What a snapshot file holds, before compression: the parts, the chunks it needs, and which page is where in them.

use super::chunk::{DIGEST_BYTES, HEADER_BYTES, MAX_PAGES as CHUNK_PAGES, MAX_RECORD};
use super::pack::ChunkRef;
use super::pages::{MAX_PAGES, PAGE_NUMBERS, PageMap};
use super::{MAX_KIND, MAX_PARTS, MAX_PARTS_BYTES, Part};
use crate::bytes::{Input, Malformed, put_bytes, put_varint};

/// Consecutive pages of a space that lie consecutively in the chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// Number of the first page.
    pub(super) page: u64,
    /// Number of pages, at least 1.
    pub(super) count: u64,
    /// Number of the first among all pages of all chunks of the snapshot, in their order.
    pub(super) source: u64,
}

/// A snapshot's contents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Body {
    pub(super) parts: Vec<Part>,
    /// Ascending by offset.
    pub(super) chunks: Vec<ChunkRef>,
    /// Ascending by space, and in it by page; none is empty.
    pub(super) spaces: Vec<(u32, Vec<Run>)>,
}

impl Body {
    /// Number of pages, in all spaces.
    pub(super) fn pages(&self) -> u64 {
        self.spaces.iter().flat_map(|(_, runs)| runs).map(|run| run.count).sum()
    }

    /// Where the last chunk ends in its pack; 0 without any.
    pub(super) fn pack_end(&self) -> u64 {
        self.chunks.last().map_or(0, ChunkRef::end)
    }

    pub(super) fn map(&self) -> PageMap {
        let mut map = PageMap::default();
        for (space, runs) in &self.spaces {
            runs.iter().for_each(|run| map.push(*space, run.page..run.page + run.count));
        }
        map
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, self.parts.len() as u64);
        for part in &self.parts {
            put_bytes(&mut out, part.kind.as_bytes());
            put_varint(&mut out, part.version.into());
            put_bytes(&mut out, &part.bytes);
        }
        put_varint(&mut out, self.chunks.len() as u64);
        let mut end = 0;
        for chunk in &self.chunks {
            put_varint(&mut out, chunk.offset - end);
            put_varint(&mut out, chunk.length.into());
            put_varint(&mut out, chunk.pages.into());
            out.extend_from_slice(&chunk.id);
            end = chunk.end();
        }
        put_varint(&mut out, self.spaces.len() as u64);
        for (space, runs) in &self.spaces {
            put_varint(&mut out, (*space).into());
            put_varint(&mut out, runs.len() as u64);
            let (mut page, mut source) = (0, 0);
            for run in runs {
                put_varint(&mut out, run.page - page);
                put_varint(&mut out, run.count);
                put_varint(&mut out, zigzag(run.source.wrapping_sub(source)));
                (page, source) = (run.page + run.count, run.source + run.count);
            }
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Body, Malformed> {
        let mut input = Input::new(bytes);
        let parts = parts(&mut input)?;
        let chunks = chunks(&mut input)?;
        let spaces = spaces(&mut input, &chunks)?;
        if input.len() != 0 {
            return Err(Malformed("bytes follow its end"));
        }
        Ok(Body { parts, chunks, spaces })
    }
}

/// A difference that may be negative, with small numbers for small distances: 0, -1, 1, -2, 2 ...
fn zigzag(difference: u64) -> u64 {
    (difference << 1) ^ (difference >> 63).wrapping_neg()
}

fn unzigzag(number: u64) -> u64 {
    (number >> 1) ^ (number & 1).wrapping_neg()
}

/// The number of entries that follow, each of at least `least` bytes: so a vector for them is no larger than the input.
fn count(input: &mut Input<'_>, least: usize) -> Result<usize, Malformed> {
    let count = usize::try_from(input.varint()?).unwrap_or(usize::MAX);
    if count > input.len() / least {
        return Err(Malformed("it ends too early"));
    }
    Ok(count)
}

fn parts(input: &mut Input<'_>) -> Result<Vec<Part>, Malformed> {
    let number = count(input, 3)?;
    if number > MAX_PARTS {
        return Err(Malformed("it has too many parts"));
    }
    let mut parts: Vec<Part> = Vec::with_capacity(number);
    let mut left = MAX_PARTS_BYTES;
    for _ in 0..number {
        let kind =
            str::from_utf8(input.bytes(MAX_KIND)?).map_err(|_| Malformed("a part's kind is not UTF-8"))?;
        if kind.is_empty() || parts.iter().any(|part| part.kind == kind) {
            return Err(Malformed("a part's kind is empty or there twice"));
        }
        let version =
            u16::try_from(input.varint()?).map_err(|_| Malformed("a part's version is above 65535"))?;
        let bytes = input.bytes(left)?;
        left -= bytes.len();
        parts.push(Part { kind: kind.to_owned(), version, bytes: bytes.to_vec() });
    }
    Ok(parts)
}

fn chunks(input: &mut Input<'_>) -> Result<Vec<ChunkRef>, Malformed> {
    const WRONG: Malformed = Malformed("a chunk's place is impossible");
    let number = count(input, 3 + DIGEST_BYTES)?;
    let mut chunks = Vec::with_capacity(number);
    let mut end = 0u64;
    for _ in 0..number {
        let offset = end.checked_add(input.varint()?).ok_or(WRONG)?;
        let length = u32::try_from(input.varint()?).map_err(|_| WRONG)?;
        let pages = u32::try_from(input.varint()?).map_err(|_| WRONG)?;
        if !(1..=CHUNK_PAGES).contains(&(pages as usize))
            || !(HEADER_BYTES + DIGEST_BYTES..=MAX_RECORD).contains(&(length as usize))
        {
            return Err(WRONG);
        }
        let id = input.take(DIGEST_BYTES)?.try_into().map_err(|_| WRONG)?;
        end = offset.checked_add(length.into()).filter(|end| i64::try_from(*end).is_ok()).ok_or(WRONG)?;
        chunks.push(ChunkRef { offset, length, pages, id });
    }
    Ok(chunks)
}

fn spaces(input: &mut Input<'_>, chunks: &[ChunkRef]) -> Result<Vec<(u32, Vec<Run>)>, Malformed> {
    const WRONG: Malformed = Malformed("a run of pages is impossible");
    let stored: u64 = chunks.iter().map(|chunk| u64::from(chunk.pages)).sum();
    let mut pages = 0;
    let number = count(input, 5)?;
    let mut spaces: Vec<(u32, Vec<Run>)> = Vec::with_capacity(number);
    for _ in 0..number {
        let space =
            u32::try_from(input.varint()?).map_err(|_| Malformed("a space's number is above 2^32 - 1"))?;
        if spaces.last().is_some_and(|(last, _)| *last >= space) {
            return Err(Malformed("its spaces are not in order"));
        }
        let number = count(input, 3)?;
        if number == 0 {
            return Err(Malformed("a space is empty"));
        }
        let mut runs = Vec::with_capacity(number);
        let (mut page, mut source) = (0u64, 0u64);
        for _ in 0..number {
            let first = page.checked_add(input.varint()?).ok_or(WRONG)?;
            let count = input.varint()?;
            let from = source.wrapping_add(unzigzag(input.varint()?));
            page = first.checked_add(count).filter(|end| *end <= PAGE_NUMBERS).ok_or(WRONG)?;
            source = from.checked_add(count).filter(|end| *end <= stored).ok_or(WRONG)?;
            // No sum of what has passed these two checks is near 2^64.
            pages += count;
            if count == 0 || pages > MAX_PAGES {
                return Err(WRONG);
            }
            runs.push(Run { page: first, count, source: from });
        }
        spaces.push((space, runs));
    }
    Ok(spaces)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chunk(offset: u64, pages: u32) -> ChunkRef {
        ChunkRef { offset, length: 100 + pages, pages, id: [pages.to_le_bytes()[0]; DIGEST_BYTES] }
    }

    fn bodies() -> impl Strategy<Value = Body> {
        let part = (any::<u16>(), proptest::collection::vec(any::<u8>(), 0..40));
        let parts = proptest::collection::vec(part, 0..4);
        let chunks = proptest::collection::vec((0u64..1000, 1u32..=256), 1..6);
        let run = (0u64..100, 1u64..20, 0u64..1000);
        let spaces =
            proptest::collection::btree_map(any::<u32>(), proptest::collection::vec(run, 1..6), 0..4);
        (parts, chunks, spaces).prop_map(|(parts, chunks, spaces)| {
            let mut body = Body::default();
            for (number, (version, bytes)) in (0..).zip(parts) {
                body.parts.push(Part { kind: format!("part {number}"), version, bytes });
            }
            for (gap, pages) in chunks {
                body.chunks.push(chunk(body.pack_end() + gap, pages));
            }
            let stored: u64 = body.chunks.iter().map(|chunk| u64::from(chunk.pages)).sum();
            for (space, wanted) in spaces {
                let mut page = 0;
                let runs = wanted.into_iter().map(|(gap, count, source)| {
                    let run = Run { page: page + gap, count: count.min(stored), source: 0 };
                    page = run.page + run.count;
                    Run { source: source % (stored - run.count + 1), ..run }
                });
                body.spaces.push((space, runs.collect()));
            }
            body
        })
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(body in bodies()) {
            let bytes = body.encode();
            prop_assert_eq!(Body::decode(&bytes), Ok(body));
            prop_assert!((0..bytes.len()).all(|end| Body::decode(&bytes[..end]).is_err()));
        }

        #[test]
        fn nonsense_is_refused_or_harmless(body in bodies(), at: prop::sample::Index, change in 1u8..) {
            let mut bytes = body.encode();
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            if let Ok(other) = Body::decode(&bytes) {
                prop_assert!(other.pages() <= MAX_PAGES);
                prop_assert_eq!(Body::decode(&other.encode()), Ok(other));
            }
        }
    }

    #[test]
    fn differences_are_folded() {
        for (difference, number) in [(0, 0), (u64::MAX, 1), (1, 2), (u64::MAX - 1, 3), (1 << 63, u64::MAX)] {
            assert_eq!((zigzag(difference), unzigzag(number)), (number, difference));
        }
    }

    #[test]
    fn a_map_joins_runs_that_touch() {
        let runs = vec![
            Run { page: 3, count: 2, source: 0 },
            Run { page: 5, count: 1, source: 9 },
            Run { page: 7, count: 1, source: 0 },
        ];
        let map = Body { spaces: vec![(4, runs)], ..Body::default() }.map();
        assert_eq!((map.runs(4), map.runs(0), map.pages()), ([3..6, 7..8].as_slice(), [].as_slice(), 4));
        assert_eq!(map.spaces().collect::<Vec<_>>(), [4]);
    }
}
