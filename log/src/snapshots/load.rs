//! Putting a snapshot back: the chunks are read, checked and unpacked by two threads, the pages written by one of them.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TryRecvError, sync_channel};
use std::thread;

use super::body::Body;
use super::chunk::{self, Codec};
use super::error::SnapshotError;
use super::file::SnapshotFile;
use super::pack::{self, ChunkRef, Pack};
use super::pages::{PAGE_BYTES, PageSink};
use super::{Part, SnapshotInfo, Snapshots};

/// Chunks that wait to be written while more are unpacked.
const QUEUE: usize = 16;
/// With fewer chunks a second thread costs more than it saves.
const TWO_THREADS: usize = 8;

impl Snapshots {
    /// Puts the pages of a snapshot into `sink`, and gives its parts. All that is read is checked first.
    ///
    /// # Errors
    /// Nothing was written to the sink if a file is gone or cut short, or if the snapshot's own file is damaged. If it is
    /// the pack, some pages may have been: what they are in is no state of the machine then.
    pub fn load(&self, info: &SnapshotInfo, sink: &mut dyn PageSink) -> Result<Vec<Part>, SnapshotError> {
        let (body, pack) = self.contents(info)?;
        sink.begin(&body.map()).map_err(SnapshotError::Sink)?;
        if let Some(pack) = pack {
            write_pages(&pack, &body, sink)?;
        }
        Ok(body.parts)
    }

    /// The parts of a snapshot alone.
    ///
    /// # Errors
    /// It is damaged or gone.
    pub fn parts(&self, info: &SnapshotInfo) -> Result<Vec<Part>, SnapshotError> {
        self.contents(info).map(|(body, _)| body.parts)
    }

    /// Reads a snapshot's file, and opens the pack that it needs, if it needs one.
    pub(super) fn contents(&self, info: &SnapshotInfo) -> Result<(Body, Option<Pack>), SnapshotError> {
        self.contents_with(info, |generation| Pack::open(&self.dir, generation, false))
    }

    fn contents_with(
        &self,
        info: &SnapshotInfo,
        mut open: impl FnMut(u32) -> Result<Option<Pack>, SnapshotError>,
    ) -> Result<(Body, Option<Pack>), SnapshotError> {
        let path = self.path(info.position);
        let mut missing = None;
        loop {
            let Some(mut file) = SnapshotFile::open(&path, &self.dir, info.position, &self.identity)? else {
                return Err(SnapshotError::Missing { dir: self.dir.clone(), position: info.position });
            };
            let body = file.body()?;
            if body.chunks.is_empty() {
                return Ok((body, None));
            }
            let generation = file.head.generation;
            if let Some(pack) = open(generation)? {
                let length = pack.length()?;
                if length < file.head.pack_end {
                    return Err(SnapshotError::corrupt(&pack.path, length, "the pack is cut short"));
                }
                return Ok((body, Some(pack)));
            }
            // Either another process has compacted since the file was opened, and the file is another now, or it is gone.
            if missing == Some(generation) {
                let pack = pack::path(&self.dir, generation);
                return Err(SnapshotError::corrupt(&pack, 0, "the pack is missing"));
            }
            missing = Some(generation);
        }
    }
}

/// Pages of a chunk that go to consecutive pages of a space.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    /// Number of the chunk in the snapshot's list.
    pub(super) chunk: usize,
    /// Number of the first page in the chunk.
    pub(super) slot: usize,
    pub(super) space: u32,
    pub(super) page: u64,
    pub(super) count: usize,
}

/// What goes where, ascending by chunk.
pub(super) fn pieces(body: &Body) -> Vec<Piece> {
    let mut starts = Vec::with_capacity(body.chunks.len());
    let mut start = 0;
    for chunk in &body.chunks {
        starts.push(start);
        start += u64::from(chunk.pages);
    }
    let mut pieces = Vec::new();
    for (space, runs) in &body.spaces {
        for run in runs {
            let (mut page, mut source, mut left) = (run.page, run.source, run.count);
            // The chunk that `source` is in: decoding has checked that there is one.
            let mut chunk = starts.partition_point(|start| *start <= source).saturating_sub(1);
            while let (Some(start), Some(reference)) = (starts.get(chunk), body.chunks.get(chunk))
                && left > 0
            {
                let slot = usize::try_from(source - start).unwrap_or(usize::MAX);
                let left_here = (reference.pages as usize).saturating_sub(slot);
                let count = left_here.min(usize::try_from(left).unwrap_or(usize::MAX));
                pieces.push(Piece { chunk, slot, space: *space, page, count });
                (page, source, left) = (page + count as u64, source + count as u64, left - count as u64);
                chunk += 1;
            }
        }
    }
    pieces.sort_by_key(|piece| piece.chunk);
    pieces
}

/// A chunk to be unpacked, and where its pages go.
type Job<'a> = (&'a ChunkRef, &'a [Piece]);

fn write_pages(pack: &Pack, body: &Body, sink: &mut dyn PageSink) -> Result<(), SnapshotError> {
    let pieces = pieces(body);
    let jobs: Vec<Job<'_>> = pieces
        .chunk_by(|a, b| a.chunk == b.chunk)
        .filter_map(|pieces| Some((body.chunks.get(pieces.first()?.chunk)?, pieces)))
        .collect();
    let next = AtomicUsize::new(0);
    let take = || jobs.get(next.fetch_add(1, Ordering::Relaxed));
    let mut write = |pieces: &[Piece], raw: &[u8]| -> Result<(), SnapshotError> {
        for piece in pieces {
            let from = piece.slot * PAGE_BYTES;
            sink.write(piece.space, piece.page, &raw[from..from + piece.count * PAGE_BYTES])
                .map_err(SnapshotError::Sink)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let (send, receive) = sync_channel(QUEUE);
        if jobs.len() >= TWO_THREADS {
            let help = move |send: SyncSender<_>| {
                let mut unpacker = Unpacker::new(pack);
                while let Some((chunk, pieces)) = take() {
                    let mut raw = Vec::new();
                    let result = unpacker.unpack(chunk, &mut raw).map(|()| (*pieces, raw));
                    let failed = result.is_err();
                    if send.send(result).is_err() || failed {
                        break;
                    }
                }
            };
            // If the host has no thread to give, this one does it all.
            let _ = thread::Builder::new()
                .name("snapshot-unpack".to_owned())
                .spawn_scoped(scope, move || help(send));
        } else {
            drop(send);
        }
        let mut unpacker = Unpacker::new(pack);
        let mut raw = Vec::new();
        loop {
            match receive.try_recv() {
                Ok(unpacked) => {
                    let (pieces, raw) = unpacked?;
                    write(pieces, &raw)?;
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => {
                    let Some((chunk, pieces)) = take() else { break };
                    unpacker.unpack(chunk, &mut raw)?;
                    write(pieces, &raw)?;
                }
            }
        }
        for unpacked in receive {
            let (pieces, raw) = unpacked?;
            write(pieces, &raw)?;
        }
        Ok(())
    })
}

/// Reads and unpacks chunks of a pack.
pub(super) struct Unpacker<'a> {
    pack: &'a Pack,
    codec: io::Result<Codec>,
    record: Vec<u8>,
}

impl<'a> Unpacker<'a> {
    pub(super) fn new(pack: &'a Pack) -> Unpacker<'a> {
        Unpacker { pack, codec: Codec::new(), record: Vec::new() }
    }

    /// The bytes of the chunk last read.
    pub(super) fn record(&self) -> &[u8] {
        &self.record
    }

    /// Looks at every byte of `chunk`.
    pub(super) fn check(&mut self, chunk: &ChunkRef) -> Result<(), SnapshotError> {
        self.pack.read(chunk, &mut self.record)?;
        chunk::check(&self.record, &chunk.id)
            .map_err(|what| SnapshotError::corrupt(&self.pack.path, chunk.offset, what))
    }

    /// Puts the pages of `chunk`, checked, into `raw`.
    pub(super) fn unpack(&mut self, chunk: &ChunkRef, raw: &mut Vec<u8>) -> Result<(), SnapshotError> {
        match &mut self.codec {
            Ok(codec) => self.pack.unpack(codec, chunk, &mut self.record, raw),
            Err(error) => {
                Err(SnapshotError::io("unpack pages of", &self.pack.path)(io::Error::from(error.kind())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::{NewSnapshot, Origin, PAGE_BYTES, PageMap, PageSource, RAM, SNAPSHOTS_DIR, Visit};
    use super::*;
    use crate::{HEADER_FILE, Position};

    /// As many pages of RAM, each another.
    struct Pages(u8);

    impl PageSource for Pages {
        fn spaces(&self) -> Vec<u32> {
            vec![RAM]
        }

        fn pages(&mut self, _: u32, visit: &mut Visit<'_>) -> io::Result<()> {
            (1..=self.0).try_for_each(|number| visit(number.into(), &[number; PAGE_BYTES]))
        }
    }

    impl PageSink for Pages {
        fn begin(&mut self, pages: &PageMap) -> io::Result<()> {
            assert_eq!((pages.runs(RAM).len(), pages.pages()), (1, self.0.into()));
            Ok(())
        }

        fn write(&mut self, _: u32, mut number: u64, bytes: &[u8]) -> io::Result<()> {
            for page in bytes.as_chunks::<PAGE_BYTES>().0 {
                assert!(page.iter().all(|byte| u64::from(*byte) == number));
                number += 1;
            }
            Ok(())
        }
    }

    /// A reader has read a snapshot's file; before it opens the pack, others compact, more than once.
    #[test]
    fn a_pack_that_was_replaced_while_a_reader_looked_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let header = include_bytes!("../../tests/golden/v1-complete/header");
        fs::write(dir.path().join(HEADER_FILE), header).unwrap();
        let open =
            || Snapshots::open(dir.path(), u32::from_le_bytes(header[16..20].try_into().unwrap())).unwrap();
        let mut writer = open();
        let mut add = |exit, pages| {
            let position = Position::exit(exit);
            let new = NewSnapshot { position, guest_time: 0, origin: Origin::Asked, parts: vec![] };
            writer.add(&new, &mut Pages(pages)).unwrap()
        };
        let info = add(1, 3);
        // More than its first chunk holds, so that there is something to get rid of each time.
        (2u8..6).for_each(|exit| assert!(add(exit.into(), 40 * exit).pages > 0));

        let reader = open();
        let mut compactions = 5;
        let (body, pack) = reader
            .contents_with(&info, |generation| {
                if compactions > 0 {
                    let mut other = open();
                    assert!(other.remove(Position::exit(compactions)).unwrap());
                    compactions = if compactions > 2 { compactions - 1 } else { 0 };
                    assert!(other.compact().unwrap() > 0);
                }
                Pack::open(&reader.dir, generation, false)
            })
            .unwrap();
        write_pages(&pack.unwrap(), &body, &mut Pages(3)).unwrap();

        // And one that is really gone.
        let mut asked = 0;
        let error = reader
            .contents_with(&info, |generation| {
                asked += 1;
                let _ = fs::remove_file(pack::path(&reader.dir, generation));
                Pack::open(&reader.dir, generation, false)
            })
            .unwrap_err();
        assert!(matches!(error, SnapshotError::Corrupt { .. }), "{error}");
        assert!(error.to_string().contains("the pack is missing"), "{error}");
        assert_eq!(asked, 2);
        assert!(dir.path().join(SNAPSHOTS_DIR).exists());
    }
}
