//! Places in recordings: players that come there in different ways, and what the machine is when they do.

use std::path::PathBuf;

use scribe_log::snapshots::{SnapshotInfo, Snapshots};
use scribe_log::{Body, End, Event, FullDigest, Position, Recording};
use scribe_vmm::engine::cpu::Registers;
use scribe_vmm::session::choice::Wish;
use scribe_vmm::session::config::Moved;
use scribe_vmm::session::console::Console;
use scribe_vmm::session::drive::Phase;
use scribe_vmm::session::files::DigestCache;
use scribe_vmm::session::player::{Player, ReplayConfig, Stay};
use scribe_vmm::session::replay::{Outcome, Target};
use scribe_vmm::session::start::StartError;

use crate::bench::made_up_host;
use crate::lab::{Chance, Lab};

/// What a machine is where it was stopped, all of it digested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// where it is
    pub position: Position,
    /// what comes next
    pub phase: Phase,
    /// at the last sync point
    pub registers: Registers,
    /// of exits and registers on the way
    pub rolling: u64,
    /// of everything
    pub full: FullDigest,
}

/// What a player came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// its target
    Paused(Sight),
    /// the recording's end
    Ended(Outcome),
}

/// How a player is opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Way {
    /// snapshots are used and taken
    pub snapshots: bool,
    /// kicks at random intervals between these many microseconds
    pub perturb: Option<(u64, u64)>,
}

/// A recording that is played in this process.
#[derive(Debug)]
pub struct Theatre {
    directory: PathBuf,
    scratch: PathBuf,
    engine: Wish,
    cache: DigestCache,
}

impl Theatre {
    /// For the recording `name` of `lab`.
    pub fn new(lab: &Lab, name: &str) -> Self {
        Self::at(lab.path(name), lab.path("."), lab.wish(), DigestCache::new(&lab.path("home")))
    }

    /// For the recording in `directory`; overlays go to `scratch`.
    pub fn at(directory: PathBuf, scratch: PathBuf, engine: Wish, cache: DigestCache) -> Self {
        Self { directory, scratch, engine, cache }
    }

    /// The recording.
    ///
    /// # Panics
    /// It cannot be opened.
    pub fn recording(&self) -> Recording {
        Recording::open(&self.directory).unwrap()
    }

    /// Its end.
    ///
    /// # Panics
    /// It has none.
    pub fn end(&self) -> End {
        match self.recording().last().map(|event| event.body.clone()) {
            Some(Body::End(end)) => end,
            other => panic!("{}: {other:?}", self.directory.display()),
        }
    }

    /// Its snapshots.
    ///
    /// # Panics
    /// They cannot be listed, or one is damaged.
    pub fn snapshots(&self) -> Vec<SnapshotInfo> {
        let snapshots = Snapshots::open(&self.directory, self.recording().header_crc()).unwrap();
        assert!(snapshots.damaged().is_empty(), "{:?}", snapshots.damaged());
        snapshots.list().to_vec()
    }

    /// A player that starts as near before `target` as it can.
    ///
    /// # Errors
    /// The library's.
    pub fn try_player(&self, target: Option<Target>, way: Way) -> Result<Player, StartError> {
        let config = ReplayConfig {
            counter: Err("not in tests".into()),
            directory: &self.directory,
            moved: Moved::default(),
            engine: self.engine.clone(),
            behaviour: None,
            quiet: true,
            perturb: way.perturb,
            snapshots: way.snapshots,
        };
        Player::open(&config, &self.cache, &made_up_host(), &self.scratch, target)
    }

    /// As [`try_player`](Self::try_player).
    ///
    /// # Panics
    /// There is none.
    #[track_caller]
    pub fn player(&self, target: Option<Target>, way: Way) -> Player {
        self.try_player(target, way).unwrap()
    }

    /// What a player of its own comes to.
    ///
    /// # Panics
    /// It fails.
    #[track_caller]
    pub fn see(&self, target: Target, way: Way) -> Seen {
        see(&mut self.player(Some(target), way), target)
    }

    /// What one player comes to that goes from target to target, ascending, and then on to the end, which must be the
    /// recorded one.
    ///
    /// # Panics
    /// It fails, or the end is another.
    #[track_caller]
    pub fn see_all(&self, targets: &[Target], way: Way) -> Vec<Seen> {
        let mut player = self.player(None, way);
        let mut seen: Vec<Seen> = Vec::new();
        for target in targets.iter().chain([&Target::End]) {
            match seen.last() {
                Some(Seen::Ended(outcome)) => seen.push(Seen::Ended(outcome.clone())),
                _ => seen.push(see(&mut player, *target)),
            }
        }
        assert_eq!(seen.pop(), Some(Seen::Ended(Outcome::Complete(self.end()))));
        seen
    }
}

/// Plays to `target` and looks.
///
/// # Panics
/// It fails.
#[track_caller]
pub fn see(player: &mut Player, target: Target) -> Seen {
    match player.run(target, &mut Console::quiet()).unwrap() {
        Stay::Paused => Seen::Paused(look(player)),
        Stay::Ended(outcome) => Seen::Ended(outcome),
        Stay::Leaving => panic!("nobody asked it to leave"),
    }
}

/// What the machine is now.
///
/// # Panics
/// It cannot be digested.
pub fn look(player: &mut Player) -> Sight {
    let phase = player.phase();
    let machine = player.machine_mut();
    let full = machine.full_digest().unwrap();
    let registers = *machine.registers();
    Sight { position: machine.position(), phase, registers, rolling: machine.rolling(), full }
}

/// Random places of a recording that ends so, of each form in turn: exits, branches behind one, steps behind a branch, guest
/// times. The first list is of positions, the second of times; both ascend. `every_exit`: the events of the same recording
/// at the level of exits, which say where the guest is long without one.
pub fn places(
    chance: &mut Chance,
    end: &End,
    every_exit: &[Event],
    count: usize,
) -> (Vec<Target>, Vec<Target>) {
    let gaps: Vec<(u64, u64)> = every_exit
        .iter()
        .filter_map(|event| match event.body {
            Body::Exit { branches: branches @ 20.., .. } => Some((event.position.exit - 1, branches)),
            _ => None,
        })
        .collect();
    let mut positions = Vec::new();
    let mut times = Vec::new();
    for number in 0..count {
        let (exit, gap) = gaps[chance.below(gaps.len())];
        let branches = below(chance, gap.min(400));
        match number % 4 {
            0 => positions.push(Position::exit(below(chance, end.exits))),
            1 => positions.push(Position { exit, branches, steps: 0 }),
            2 => positions.push(Position { exit, branches, steps: below(chance, 6) }),
            _ => times.push(below(chance, end.guest_time)),
        }
    }
    positions.sort_unstable();
    times.sort_unstable();
    (positions.into_iter().map(Target::Position).collect(), times.into_iter().map(Target::Time).collect())
}

fn below(chance: &mut Chance, limit: u64) -> u64 {
    chance.below(usize::try_from(limit).unwrap()) as u64
}
