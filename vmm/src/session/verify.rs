//! Whether a recording replays: all of it from its start, and from each snapshot to the next, the machine there compared
//! with the one that came all the way.
//!
//! What a snapshot holds is equal to the machine that came to its place, or it is wrong. Comparing them once would do, were
//! it not for what no digest covers; so each stretch is played too, checked by the log on its way, and compared at its end.
//! Together that is two replays, however many snapshots there are. The whole replay leads, the stretches follow as it comes
//! to their snapshots: one that is wrong is not played, since nothing says that it would ever end.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use scribe_log::header::Host;
use scribe_log::snapshots::{Origin, SnapshotInfo, Snapshots};
use scribe_log::{FullDigest, Position, Recording};

use super::SessionError;
use super::console::Console;
use super::drive::Phase;
use super::files::DigestCache;
use super::player::{Player, ReplayConfig, Stay, may_be_kvm};
use super::replay::{Outcome, Target};
use super::start::{StartError, prepare_process};
use crate::host::events::Shared;
use crate::machine::Machine;

/// What was played, and what came of it.
#[derive(Debug)]
pub struct Verified {
    /// from the recording's start to its end
    pub whole: Stretch,
    /// what it came to
    pub outcome: Outcome,
    /// from each snapshot on
    pub stretches: Vec<Stretch>,
    /// snapshots that are not what the recording has at their places
    pub wrong: Vec<WrongSnapshot>,
    /// snapshots that the engine cannot put back: KVM, between two exits
    pub skipped: Vec<Position>,
}

/// A part of the recording that was played.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// from where
    pub from: Position,
    /// to where
    pub to: Position,
    /// digests compared with the log
    pub checks: u64,
}

/// A snapshot whose checksums are right and whose contents are not.
#[derive(Debug)]
pub struct WrongSnapshot {
    /// where it is
    pub position: Position,
    /// what was found
    pub what: Mismatch,
}

/// How a snapshot was found to be wrong.
#[derive(Debug)]
pub enum Mismatch {
    /// the guest does not come to its place
    NoSuchPlace,
    /// at a position, that of the snapshot or the end of the stretch from it
    State {
        /// the position
        at: Position,
        /// what differs
        difference: Difference,
    },
    /// the replay from it differs from the recording, or it cannot be put back
    Replay(StartError),
}

/// The first part of two states that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// what
    pub what: &'static str,
    /// in the machine that came all the way
    pub expected: String,
    /// in the one from the snapshot
    pub found: String,
}

/// Plays everything there is to play of the recording in `config.directory`, `jobs` machines at a time. Nothing is kept,
/// whatever `config` says. `watch` is given what tells of the whole replay's progress.
///
/// # Errors
/// The recording does not replay from its start, or the host failed. Wrong snapshots are no error: [`Verified::wrong`].
pub fn verify(
    config: &ReplayConfig,
    cache: &DigestCache,
    host_facts: &Host,
    scratch: &Path,
    jobs: NonZeroUsize,
    watch: &(dyn Fn(Arc<Shared>) + Sync),
) -> Result<Verified, StartError> {
    let recording = Recording::open(config.directory)?;
    let snapshots = Snapshots::open(config.directory, recording.header_crc())?;
    let end = recording.sealed_end().map(|(position, _)| position);
    // Behind the end there is nothing to compare with, and nobody uses them.
    let within = |info: &&SnapshotInfo| info.origin != Origin::Start && Some(info.position) <= end;
    let exits_only = may_be_kvm(&config.engine, &recording);
    let (snapshots, skipped): (Vec<SnapshotInfo>, Vec<SnapshotInfo>) = (snapshots.list().iter())
        .filter(within)
        .cloned()
        .partition(|info| info.position.is_exit() || !exits_only);
    let config = ReplayConfig { snapshots: false, ..config.clone() };
    let (cancel, sights) = (Cancel::default(), Sights::default());
    let work = Work { config: &config, cache, host_facts, scratch, cancel: &cancel, sights: &sights };
    // The threads that play leave the signals to the event loops, and so does this one meanwhile.
    prepare_process()?;
    let (whole, parts) = work.play_all(&snapshots, jobs, watch);
    let Whole { stretch, outcome } = whole?;
    let interrupted = Outcome::Interrupted(stretch.to);
    let outcome = if cancel.is_set() { interrupted } else { outcome };
    let skipped = skipped.iter().map(|info| info.position).collect();
    let mut verified =
        Verified { whole: stretch, outcome, stretches: Vec::new(), wrong: Vec::new(), skipped };
    if matches!(verified.outcome, Outcome::Interrupted(_)) {
        return Ok(verified);
    }
    let nexts = snapshots.iter().skip(1).map(|info| Some(info.position)).chain([None]);
    for ((info, next), part) in snapshots.iter().zip(nexts).zip(parts) {
        let part = part.ok_or_else(|| StartError::internal("a snapshot that was not verified"))?;
        let what = match part {
            Ok(part) => {
                let what = compare(&sights, info.position, next, &part);
                verified.stretches.extend(part.stretch);
                what
            }
            Err(error) => Some(mismatch(error)?),
        };
        verified.wrong.extend(what.map(|what| WrongSnapshot { position: info.position, what }));
    }
    Ok(verified)
}

/// What a replay that failed says of the snapshot that it started from, or the failure if that says nothing.
fn mismatch(error: StartError) -> Result<Mismatch, StartError> {
    match error {
        StartError::Session(SessionError::Diverged(_)) | StartError::BadSnapshot { .. } => {
            Ok(Mismatch::Replay(error))
        }
        other => Err(other),
    }
}

/// What is wrong with the snapshot at `position`, from which `part` was played to `next` or to the end.
fn compare(sights: &Sights, position: Position, next: Option<Position>, part: &Part) -> Option<Mismatch> {
    let Some(there) = sights.wait(position) else { return Some(Mismatch::NoSuchPlace) };
    let start = part.start.as_ref().and_then(|start| there.differs(start));
    if let Some(difference) = start {
        return Some(Mismatch::State { at: position, difference });
    }
    // Where the whole replay did not come to the next place, that snapshot is wrong and not this one.
    let (at, there) = next.and_then(|next| Some((next, sights.wait(next)?)))?;
    let difference = match &part.end {
        Some(end) => there.differs(end)?,
        None => {
            let (expected, found) = ("it lives".to_owned(), "it has ended".to_owned());
            Difference { what: "the guest", expected, found }
        }
    };
    Some(Mismatch::State { at, difference })
}

/// What is compared of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    full: FullDigest,
    rolling: u64,
    /// what the guest has written to its disk
    disk: [u8; 32],
}

impl Seen {
    fn of(machine: &mut Machine) -> Result<Self, StartError> {
        let full = machine.full_digest().map_err(SessionError::from)?;
        let mut disk = blake3::Hasher::new();
        if let Some(overlay) = machine.disk() {
            for cluster in overlay.written() {
                let bytes = overlay.read_cluster(cluster).map_err(|error| StartError::Host {
                    what: "the disk's overlay cannot be read",
                    reason: error.to_string(),
                })?;
                disk.update(&cluster.to_le_bytes()).update(&bytes);
            }
        }
        Ok(Self { full, rolling: machine.rolling(), disk: *disk.finalize().as_bytes() })
    }

    /// The first part in which `found` differs.
    fn differs(&self, found: &Self) -> Option<Difference> {
        let disk = |seen: &Self| blake3::Hash::from_bytes(seen.disk).to_hex().to_string();
        let parts: [(&'static str, String, String); 6] = [
            ("guest time", self.full.guest_time.to_string(), found.full.guest_time.to_string()),
            ("the rolling digest", hex(self.rolling), hex(found.rolling)),
            ("the CPU's state", hex(self.full.cpu), hex(found.full.cpu)),
            ("the devices' state", hex(self.full.devices), hex(found.full.devices)),
            ("RAM", format!("{:032x}", self.full.ram), format!("{:032x}", found.full.ram)),
            ("the disk's contents", disk(self), disk(found)),
        ];
        let differing = parts.into_iter().find(|(_, expected, found)| expected != found);
        differing.map(|(what, expected, found)| Difference { what, expected, found })
    }
}

fn hex(digest: u64) -> String {
    format!("{digest:016x}")
}

/// The whole recording, played.
struct Whole {
    stretch: Stretch,
    outcome: Outcome,
}

/// A snapshot put back, and played on from.
struct Part {
    /// `None` if it was found to be wrong at once
    stretch: Option<Stretch>,
    /// the machine as it came out of the snapshot; `None` if it has gone on at its position
    start: Option<Seen>,
    /// where the next snapshot is; `None` if the guest has ended
    end: Option<Seen>,
}

type PartResult = Option<Result<Part, StartError>>;

/// The machine of the whole replay at the places of snapshots, as far as it has come.
#[derive(Default)]
struct Sights {
    /// and whether there will be no more
    seen: Mutex<(BTreeMap<Position, Seen>, bool)>,
    changed: Condvar,
}

impl Sights {
    fn change(&self, change: impl FnOnce(&mut (BTreeMap<Position, Seen>, bool))) {
        change(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    /// What the machine was at `position`; waits until it has been there. `None` if it has not and never will be.
    fn wait(&self, position: Position) -> Option<Seen> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = |(seen, done): &mut (BTreeMap<_, _>, bool)| !*done && !seen.contains_key(&position);
        let seen = self.changed.wait_while(seen, waiting).unwrap_or_else(PoisonError::into_inner);
        seen.0.get(&position).cloned()
    }
}

/// When it goes, there is nothing more to be seen: nobody waits for what will not come, whatever has happened.
struct Done<'a>(&'a Sights);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.change(|(_, done)| *done = true);
    }
}

/// Everything that playing takes.
#[derive(Clone, Copy)]
struct Work<'a> {
    config: &'a ReplayConfig<'a>,
    cache: &'a DigestCache,
    host_facts: &'a Host,
    scratch: &'a Path,
    cancel: &'a Cancel,
    sights: &'a Sights,
}

impl Work<'_> {
    /// The whole recording first, since it takes longest, and beside it what starts from the snapshots.
    fn play_all(
        &self,
        snapshots: &[SnapshotInfo],
        jobs: NonZeroUsize,
        watch: &(dyn Fn(Arc<Shared>) + Sync),
    ) -> (Result<Whole, StartError>, Vec<PartResult>) {
        let next = AtomicUsize::new(0);
        let whole = Mutex::new(None);
        let parts: Vec<Mutex<PartResult>> = snapshots.iter().map(|_| Mutex::new(None)).collect();
        let play = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index == 0 {
                    let done = Done(self.sights);
                    let played = self.whole(snapshots, watch);
                    drop(done);
                    if played.is_err() {
                        self.cancel.set();
                    }
                    put(&whole, played);
                    continue;
                }
                let (Some(info), Some(part)) = (snapshots.get(index - 1), parts.get(index - 1)) else {
                    break;
                };
                if self.cancel.is_set() {
                    break;
                }
                put(part, self.part(info, snapshots.get(index).map(|next| next.position)));
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..jobs.get().min(snapshots.len() + 1) {
                scope.spawn(play);
            }
            play();
        });
        let missing = || Err(StartError::internal("a replay that nobody made"));
        (take(whole).unwrap_or_else(missing), parts.into_iter().map(take).collect())
    }

    fn whole(
        &self,
        snapshots: &[SnapshotInfo],
        watch: &(dyn Fn(Arc<Shared>) + Sync),
    ) -> Result<Whole, StartError> {
        let Self { config, cache, host_facts, scratch, .. } = *self;
        let mut player = Player::open(config, cache, host_facts, scratch, None)?;
        self.cancel.watch(player.shared());
        watch(player.shared());
        let from = player.machine().position();
        let targets = snapshots.iter().map(|info| Target::Position(info.position)).chain([Target::End]);
        let mut outcome = None;
        for target in targets {
            outcome = self.play(&mut player, target)?;
            let here = player.machine().position();
            if outcome.is_some() {
                break;
            }
            if target == Target::Position(here) {
                let there = Seen::of(player.machine_mut())?;
                self.sights.change(|(seen, _)| seen.extend([(here, there)]));
            }
        }
        let outcome = outcome.ok_or_else(|| StartError::internal("a replay that did not end"))?;
        let stretch = Stretch { from, to: player.machine().position(), checks: player.checks() };
        Ok(Whole { stretch, outcome })
    }

    fn part(&self, info: &SnapshotInfo, next: Option<Position>) -> Result<Part, StartError> {
        let Self { config, cache, host_facts, scratch, .. } = *self;
        let mut player = Player::open_at(config, cache, host_facts, scratch, info)?;
        self.cancel.watch(player.shared());
        let asleep = player.phase() == Phase::Idle;
        let start = if asleep { None } else { Some(Seen::of(player.machine_mut())?) };
        let there = self.sights.wait(info.position);
        if there.is_none() || start.as_ref().is_some_and(|start| there.as_ref() != Some(start)) {
            return Ok(Part { stretch: None, start, end: None });
        }
        let outcome = self.play(&mut player, next.map_or(Target::End, Target::Position))?;
        let end = if outcome.is_none() { Some(Seen::of(player.machine_mut())?) } else { None };
        let stretch =
            Stretch { from: info.position, to: player.machine().position(), checks: player.checks() };
        Ok(Part { stretch: Some(stretch), start, end })
    }

    /// Plays on; gives what the recording came to, if it came to an end.
    fn play(&self, player: &mut Player, target: Target) -> Result<Option<Outcome>, StartError> {
        match player.run(target, &mut Console::quiet())? {
            Stay::Paused => Ok(None),
            Stay::Ended(outcome @ (Outcome::Complete(_) | Outcome::SealedEnd(_))) => Ok(Some(outcome)),
            // A guest that is verified does not go live: whoever asked for that wanted something else.
            Stay::Ended(Outcome::Interrupted(_)) | Stay::Leaving => {
                self.cancel.set();
                Ok(Some(Outcome::Interrupted(player.machine().position())))
            }
        }
    }
}

fn put<T>(place: &Mutex<Option<T>>, value: T) {
    *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
}

fn take<T>(place: Mutex<Option<T>>) -> Option<T> {
    place.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Ends all machines when one has ended for good. A signal reaches the event loop of one of them only.
#[derive(Default)]
struct Cancel {
    is_set: AtomicBool,
    machines: Mutex<Vec<Arc<Shared>>>,
}

impl Cancel {
    fn watch(&self, machine: Arc<Shared>) {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner).push(machine);
        if self.is_set() {
            self.set();
        }
    }

    fn set(&self) {
        self.is_set.store(true, Ordering::Relaxed);
        for machine in self.machines.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            machine.force_stop.store(true, Ordering::Relaxed);
        }
    }

    fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Relaxed)
    }
}
