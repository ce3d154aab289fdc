//! Adding and removing snapshots.
//!
//! Pages first, then the file under a temporary name, then its real name: whoever is killed in between leaves all that was
//! there before usable, and pages that the next writer finds and refers to.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

use super::body::Body;
use super::error::SnapshotError;
use super::lock::{self, Lock};
use super::pack::{self, Index, Pack};
use super::pages::PageSource;
use super::store::store;
use super::{MAX_KIND, MAX_PARTS, MAX_PARTS_BYTES, NewSnapshot, Origin, SnapshotInfo, Snapshots};
use super::{file, identity, is_kept};
use crate::position::Position;

impl Snapshots {
    /// Adds a snapshot. One that is there at the same position is replaced; the new one has the origin of the two that
    /// keeps it longer.
    ///
    /// # Errors
    /// [`SnapshotError::Busy`] and [`SnapshotError::ReadOnly`] are no failures of anything: whoever was not asked for a
    /// snapshot can go on without. After any error all snapshots that were there can still be used.
    pub fn add(
        &mut self,
        new: &NewSnapshot,
        source: &mut dyn PageSource,
    ) -> Result<SnapshotInfo, SnapshotError> {
        check(new)?;
        let _lock = self.begin()?;
        let there = self.at(new.position);
        // One start only, and that for ever.
        let start = if new.origin == Origin::Start { self.start() } else { None };
        if let Some(start) = there.filter(|there| there.origin == Origin::Start).or(start) {
            return Err(SnapshotError::Needed { dir: self.dir.clone(), position: start.position });
        }
        let origin = there.map_or(new.origin, |there| stronger(there.origin, new.origin));
        let (pack, mut index) = self.newest_pack()?;
        let generation = index.generation;
        let body = store(&pack, &mut index, new.parts.clone(), |storing| storing.take(source))?;
        self.index = Some(index);
        self.write(new.position, new.guest_time, origin, &pack, generation, &body)
    }

    /// Removes the snapshot at `position`; false if there is none. The pages that only it needs stay until
    /// [`Snapshots::compact`].
    ///
    /// # Errors
    /// The recording starts from it, or it cannot be removed.
    pub fn remove(&mut self, position: Position) -> Result<bool, SnapshotError> {
        let _lock = self.begin()?;
        match self.at(position).map(|info| info.origin) {
            None => return Ok(false),
            Some(Origin::Start) => {
                return Err(SnapshotError::Needed { dir: self.dir.clone(), position });
            }
            Some(_) => {}
        }
        self.unlink(&self.path(position))?;
        self.refresh()?;
        Ok(true)
    }

    /// Removes all snapshots but the one that the recording starts from, damaged ones too; gives how many. The pages stay
    /// until [`Snapshots::compact`], unless nothing is left.
    ///
    /// # Errors
    /// One cannot be removed, or was made by a newer program.
    pub fn clear(&mut self) -> Result<usize, SnapshotError> {
        let _lock = self.begin()?;
        // It may be the start: this program cannot tell.
        if let Some(at) =
            self.listing.damaged.iter().position(|error| matches!(error, SnapshotError::TooNew { .. }))
        {
            return Err(self.listing.damaged.swap_remove(at));
        }
        let others = self.list().iter().filter(|info| info.origin != Origin::Start);
        let mut paths: Vec<_> = others.map(|info| self.path(info.position)).collect();
        paths.extend(self.listing.unreadable.iter().cloned());
        for path in &paths {
            self.unlink(path)?;
        }
        self.refresh()?;
        if self.listing.snapshots.is_empty() {
            self.index = None;
            for generation in &self.listing.packs {
                self.unlink(&pack::path(&self.dir, *generation))?;
            }
            self.refresh()?;
        }
        Ok(paths.len())
    }

    /// Removes the automatic snapshots that are not kept once there is one with the highest ordinal ([`is_kept`]); gives
    /// how many. Compacts if more than half of the pages are of no use then.
    ///
    /// # Errors
    /// One cannot be removed, or compacting fails: [`Snapshots::compact`].
    pub fn thin(&mut self) -> Result<usize, SnapshotError> {
        let ordinal = |info: &SnapshotInfo| match info.origin {
            Origin::Automatic { ordinal } => Some(ordinal),
            _ => None,
        };
        let _lock = self.begin()?;
        let Some(newest) = self.list().iter().filter_map(ordinal).max() else { return Ok(0) };
        let superseded =
            |info: &&SnapshotInfo| ordinal(info).is_some_and(|ordinal| !is_kept(ordinal, newest));
        let paths: Vec<_> =
            self.list().iter().filter(superseded).map(|info| self.path(info.position)).collect();
        for path in &paths {
            self.unlink(path)?;
        }
        if !paths.is_empty() {
            self.refresh()?;
            self.compact_if_worth_it()?;
        }
        Ok(paths.len())
    }

    /// Locks, looks again what is there, and tidies up after killed writers.
    pub(super) fn begin(&mut self) -> Result<Lock, SnapshotError> {
        let lock = lock::acquire(&self.dir)?;
        // The directory may hold another recording by now.
        identity::of(&self.recording, |file| identity::identity(file) == Some(self.identity))?;
        self.refresh()?;
        for path in &self.listing.temporary {
            let _ = fs::remove_file(path);
        }
        if self.listing.damaged.is_empty() {
            let newest = self.listing.packs.last();
            let needed = |generation: &u32| {
                Some(generation) == newest
                    || self.listing.needs.iter().any(|(needed, _)| needed == generation)
            };
            let unneeded: Vec<u32> =
                self.listing.packs.iter().copied().filter(|generation| !needed(generation)).collect();
            for generation in unneeded {
                if fs::remove_file(pack::path(&self.dir, generation)).is_ok() {
                    self.listing.packs.retain(|other| *other != generation);
                }
            }
        }
        Ok(lock)
    }

    /// The pack that is appended to, and what is in it.
    fn newest_pack(&mut self) -> Result<(Pack, Index), SnapshotError> {
        let Some(&generation) = self.listing.packs.last() else {
            return Ok((Pack::create(&self.dir, 0)?, Index::new(0)));
        };
        let of_it = self.listing.needs.iter().filter(|(needed, _)| *needed == generation);
        let needed = of_it.map(|(_, end)| *end).max();
        // What no snapshot needs can be cut off, if all snapshots can be asked.
        let unneeded =
            |from: u64| self.listing.damaged.is_empty() && needed.is_none_or(|needed| needed <= from);
        let pack = match Pack::open(&self.dir, generation, true) {
            Ok(Some(pack)) => pack,
            // Killed while it was made.
            Err(SnapshotError::Corrupt { .. }) if unneeded(0) => Pack::create(&self.dir, generation)?,
            Ok(None) => Pack::create(&self.dir, generation)?,
            Err(error) => return Err(error),
        };
        let mut index = match self.index.take() {
            Some(index) if index.generation == generation && index.end <= pack.length()? => index,
            _ => Index::new(generation),
        };
        if let Some(what) = index.scan(&pack)? {
            if !unneeded(index.end) {
                return Err(SnapshotError::corrupt(&pack.path, index.end, what));
            }
            pack.file.set_len(index.end).map_err(SnapshotError::io("cut", &pack.path))?;
        }
        Ok((pack, index))
    }

    /// Writes the file of a snapshot whose pages are in `pack`.
    pub(super) fn write(
        &mut self,
        position: Position,
        guest_time: u64,
        origin: Origin,
        pack: &Pack,
        generation: u32,
        body: &Body,
    ) -> Result<SnapshotInfo, SnapshotError> {
        let (bytes, head) = file::encode(&self.identity, position, guest_time, origin, generation, body)?;
        let path = self.path(position);
        let temporary = self.dir.join(file::name(position) + file::TEMPORARY);
        if self.durable {
            pack.file.sync_data().map_err(SnapshotError::io("write", &pack.path))?;
        }
        let written = File::create(&temporary).and_then(|mut file| {
            file.write_all(&bytes)?;
            if self.durable { file.sync_all() } else { Ok(()) }
        });
        let written =
            written.map_err(SnapshotError::writing("write", &temporary, &self.dir)).and_then(|()| {
                fs::rename(&temporary, &path).map_err(SnapshotError::writing("rename", &temporary, &self.dir))
            });
        if let Err(error) = written {
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
        self.sync_dir()?;
        self.refresh()?;
        Ok(head.info)
    }

    pub(super) fn unlink(&self, path: &Path) -> Result<(), SnapshotError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other.map_err(SnapshotError::writing("remove", path, &self.dir)),
        }
    }

    fn sync_dir(&self) -> Result<(), SnapshotError> {
        if self.durable {
            let synced = File::open(&self.dir).and_then(|dir| dir.sync_all());
            synced.map_err(SnapshotError::io("write", &self.dir))?;
        }
        Ok(())
    }
}

/// The origin that keeps a snapshot longer.
fn stronger(a: Origin, b: Origin) -> Origin {
    let rank = |origin| match origin {
        Origin::Automatic { .. } => 0,
        Origin::Recorded => 1,
        Origin::Asked => 2,
        Origin::Start => 3,
    };
    if rank(a) > rank(b) { a } else { b }
}

fn check(new: &NewSnapshot) -> Result<(), SnapshotError> {
    let limit = |what: String, found: usize, limit: usize| {
        let what = format!("{found} {what}");
        if found > limit { Err(SnapshotError::TooLarge { what, limit: limit as u64 }) } else { Ok(()) }
    };
    limit("parts".to_owned(), new.parts.len(), MAX_PARTS)?;
    limit(
        "bytes in its parts".to_owned(),
        new.parts.iter().map(|part| part.bytes.len()).sum(),
        MAX_PARTS_BYTES,
    )?;
    for (at, part) in new.parts.iter().enumerate() {
        limit(format!("bytes in the name of its part {:?}", part.kind), part.kind.len(), MAX_KIND)?;
        if part.kind.is_empty() || new.parts[..at].iter().any(|other| other.kind == part.kind) {
            return Err(SnapshotError::PartName { kind: part.kind.clone() });
        }
    }
    Ok(())
}
