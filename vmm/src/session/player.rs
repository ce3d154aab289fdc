//! A recording that is played: from power-on or from the nearest snapshot to wherever one wants to look, and on.

pub(super) mod again;
mod explain;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use scribe_log::header::{Engine as EngineName, Header, Host};
use scribe_log::snapshots::{Origin, SnapshotError, SnapshotInfo, Snapshots};
use scribe_log::{Position, Recording, State};

use super::SessionError;
use super::choice::{self, Choice, HostCounter, Wish};
use super::config::{self, Moved};
use super::console::Console;
use super::drive::{Driver, Phase, Run, Stand};
use super::files::DigestCache;
use super::replay::{Outcome, Replay, Target};
use super::snapshot::{self, SnapError};
use super::start::{StartError, host_loop, perturbation, prepare_process};
use crate::host::events::{ConsoleSource, HostLoop, Shared, Watch};
use crate::host::perturb::Perturbation;
use crate::inspect::check::Checker;
use crate::machine::Machine;
use crate::machine::disk::lock;
use crate::machine::kernel::BootFiles;

/// What the guest has to work (ns of guest time, sleep not counted) between two automatic snapshots: about a second of the
/// soft engine.
const AUTOMATIC_WORK: u64 = 250_000_000;

/// What is replayed, and how.
#[derive(Debug, Clone)]
pub struct ReplayConfig<'a> {
    /// the recording's directory
    pub directory: &'a Path,
    /// where its files lie now
    pub moved: Moved,
    /// what executes it
    pub engine: Wish,
    /// open results of the soft engine's processor, for a recording made on KVM
    pub behaviour: Option<String>,
    /// nothing is said on stderr
    pub quiet: bool,
    /// kicks at random intervals between these many microseconds
    pub perturb: Option<(u64, u64)>,
    /// snapshots are used and taken
    pub snapshots: bool,
    /// what may count on kvm
    pub counter: HostCounter,
}

/// Where a run of the player came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stay {
    /// to its target
    Paused,
    /// the machine is to go live here, as somebody asked from outside
    Leaving,
    /// to the end
    Ended(Outcome),
}

/// A recording on a machine.
pub struct Player {
    recording: Recording,
    /// the recording's, its files where they lie now
    header: Header,
    choice: Choice,
    machine: Machine,
    driver: Driver,
    policy: Replay,
    automatic: Option<Automatic>,
    scratch: PathBuf,
    host_facts: Host,
    perturbation: Option<Perturbation>,
    wanted: Wanted,
    /// how often it may still begin again because the guest ran past a place
    attempts: u32,
    /// somebody else has had the machine in hand: it cannot be replaced any more
    lent: bool,
    /// where it began, and whether with a snapshot that is no part of the recording
    began: (Position, bool),
    /// locked
    _image: Option<File>,
}

/// Chooses the snapshot to start from; `None`: at power-on.
type Choose<'a> = dyn Fn(&Recording, &Snapshots, &Wanted) -> Result<Option<SnapshotInfo>, StartError> + 'a;

/// What of a [`ReplayConfig`] is needed later.
pub(super) struct Wanted {
    pub(super) moved: Moved,
    pub(super) engine: Wish,
    pub(super) behaviour: Option<String>,
    pub(super) quiet: bool,
    pub(super) snapshots: bool,
}

/// What is left of a player whose machine goes live.
pub struct Departure {
    /// the recording's header, its files where they lie now
    pub header: Header,
    /// the recording
    pub recording: Recording,
    /// what executes the machine
    pub choice: Choice,
    /// the machine
    pub machine: Machine,
    /// its driver
    pub driver: Driver,
    /// what this host is
    pub host_facts: Host,
    /// keeps the image locked
    pub image: Option<File>,
}

impl Player {
    /// Puts the machine of a recording together: as it was at the snapshot that is nearest before `target`, or at power-on.
    ///
    /// # Errors
    /// The recording or its files cannot be used, or this host cannot run them.
    pub fn open(
        config: &ReplayConfig,
        cache: &DigestCache,
        host_facts: &Host,
        scratch: &Path,
        target: Option<Target>,
    ) -> Result<Self, StartError> {
        Self::begin(config, cache, host_facts, scratch, &|recording, snapshots, wanted| {
            if config.snapshots {
                snapshots.damaged().iter().for_each(|error| say!("a snapshot is not used: {error}"));
            }
            start(recording, snapshots, wanted, target)
        })
    }

    /// As [`open`](Self::open), at this very snapshot.
    ///
    /// # Errors
    /// As there.
    pub fn open_at(
        config: &ReplayConfig,
        cache: &DigestCache,
        host_facts: &Host,
        scratch: &Path,
        info: &SnapshotInfo,
    ) -> Result<Self, StartError> {
        Self::begin(config, cache, host_facts, scratch, &|recording, snapshots, _| {
            let found = snapshots.at(info.position).cloned();
            let (dir, position) = (recording.dir().to_owned(), info.position);
            found.map(Some).ok_or_else(|| SnapshotError::Missing { dir, position }.into())
        })
    }

    fn begin(
        config: &ReplayConfig,
        cache: &DigestCache,
        host_facts: &Host,
        scratch: &Path,
        choose: &Choose<'_>,
    ) -> Result<Self, StartError> {
        let recording = Recording::open(config.directory)?;
        let mut header = recording.header().clone();
        let recorded = header.image.as_ref().map(|image| image.path.as_path());
        let image = config.moved.image.as_deref().or(recorded);
        let image = image.map(|path| lock(path, false)).transpose()?;
        config::check_files(&mut header, &config.moved, cache)?;
        let snapshots = Snapshots::open(config.directory, recording.header_crc())?;
        let wanted = Wanted {
            moved: config.moved.clone(),
            engine: config.engine.clone(),
            behaviour: config.behaviour.clone(),
            quiet: config.quiet,
            snapshots: config.snapshots,
        };
        let start = choose(&recording, &snapshots, &wanted)?;
        let behaviour = config.behaviour.as_deref();
        // A kernel that was recorded on KVM has the note.
        let look = start.is_none() || (config.engine == Wish::Kvm && header.engine == EngineName::Soft);
        let files = look.then(|| config::find_again(&header)).transpose()?;
        let noted = files.as_ref().map_or(header.engine == EngineName::Kvm, |(_, noted)| *noted);
        let choice = choice::for_recording(&config.engine, behaviour, &header, noted, &config.counter)?;
        prepare_process()?;
        let parts =
            Parts { recording: &recording, snapshots: &snapshots, header: &header, choice: &choice, scratch };
        let (mut machine, stand) = match parts.machine(start.as_ref(), files.as_ref().map(|(files, _)| files))
        {
            // Another replay has thinned them out since they were listed: there are others.
            Err(_) if start.as_ref().is_some_and(|info| is_gone(&recording, info)) => {
                return Self::begin(config, cache, host_facts, scratch, choose);
            }
            machine => machine?,
        };
        if !config.quiet {
            choice.tell();
        }
        let host = replay_host(&machine)?;
        let policy = parts.policy(&mut machine, stand, host, start.as_ref())?;
        let began = (machine.position(), start.is_some_and(|info| info.origin != Origin::Start));
        Ok(Self {
            automatic: config.snapshots.then(|| Automatic::new(snapshots, &machine)),
            recording,
            header,
            choice,
            machine,
            driver: Driver::at(stand.phase),
            policy,
            scratch: scratch.to_owned(),
            host_facts: host_facts.clone(),
            perturbation: perturbation(config.perturb),
            wanted,
            attempts: again::ATTEMPTS,
            lent: false,
            began,
            _image: image,
        })
    }

    /// Runs the machine to `target` or to the recording's end.
    ///
    /// # Errors
    /// Failures of the host or of the recording, and divergences.
    pub fn run(&mut self, target: Target, console: &mut Console) -> Result<Stay, StartError> {
        // While it makes up for an attempt that overshot: how far that had come, and so what has been shown.
        let mut shown: Option<Position> = None;
        loop {
            self.policy.set_target(shown.map_or(target, Target::Position));
            self.policy.set_work_limit(self.automatic.as_ref().map(Automatic::next_work));
            let run = match shown {
                Some(_) => self.driver.run(&mut self.machine, &mut self.policy, &mut Console::quiet()),
                None => self.driver.run(&mut self.machine, &mut self.policy, console),
            };
            let run = match run {
                Err(SessionError::Diverged(found)) => return Err(self.explain(*found)),
                Err(error) if again::is_overshoot(&error) => {
                    let place = self.begin_again(error)?;
                    shown = shown.max(Some(place));
                    continue;
                }
                run => run?,
            };
            if let Run::Ended(_) = run {
                let outcome = self.policy.outcome().cloned();
                return outcome
                    .map(Stay::Ended)
                    .ok_or_else(|| StartError::internal("an end without an outcome"));
            }
            if self.policy.leaves() {
                return Ok(Stay::Leaving);
            }
            let stand = self.stand();
            if !self.policy.take_work_is_done() {
                match shown.take() {
                    Some(_) => continue,
                    None => return Ok(Stay::Paused),
                }
            }
            let Some(automatic) = self.automatic.as_mut() else { return Ok(Stay::Paused) };
            if let Err(error) = automatic.take(&self.machine, stand) {
                // Nobody has asked for it: a full disk, a directory that is only to be read, another replay that writes.
                tracing::debug!("no automatic snapshots: {error}");
                self.automatic = None;
            }
        }
    }

    /// The machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The machine, to be watched.
    pub fn machine_mut(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// The machine, for somebody who stays with it: what it does from here on it does once, so nothing is made up for if the
    /// guest runs past a place.
    pub fn watch(&mut self) -> &mut Machine {
        self.lent = true;
        &mut self.machine
    }

    fn stand(&self) -> Stand {
        let phase = self.driver.phase();
        match phase {
            Phase::Arrived => Stand::arrived(self.machine.guest_time()),
            Phase::Idle | Phase::Running => {
                let (taken, arrived) = self.policy.taken(&self.machine);
                Stand { phase, arrived, taken }
            }
        }
    }

    /// What comes next for the machine.
    pub fn phase(&self) -> Phase {
        self.driver.phase()
    }

    /// The machine's position and guest time (ns) when it came there. A guest that sleeps came to it before it fell asleep.
    pub fn arrival(&self) -> (Position, u64) {
        let time = match self.driver.phase() {
            Phase::Idle => self.policy.arrived(),
            Phase::Arrived | Phase::Running => self.machine.guest_time(),
        };
        (self.machine.position(), time)
    }

    /// The recording's header, its files where they lie now.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The recording.
    pub fn recording(&self) -> &Recording {
        &self.recording
    }

    /// Digests compared so far.
    pub fn checks(&self) -> u64 {
        self.policy.checks()
    }

    /// Kicks sent by the perturbation.
    pub fn kicks(&self) -> u64 {
        self.perturbation.as_ref().map_or(0, Perturbation::kicks)
    }

    /// From now on the ways to captured sync points are executed too. Only on the soft engine.
    ///
    /// # Errors
    /// It is another.
    pub fn confirm_captures(&mut self) -> Result<(), StartError> {
        if self.choice.engine != EngineName::Soft {
            let reason = "only the soft engine can execute the way to one; use --engine soft".into();
            return Err(StartError::Host { what: "confirming captured sync points", reason });
        }
        self.policy.confirm_captures();
        Ok(())
    }

    /// What came of that: how many were confirmed, and how many there were.
    pub fn confirmed(&self) -> Option<(u64, u64)> {
        self.policy.confirmed()
    }

    /// What another thread can watch of the machine's progress.
    pub fn shared(&self) -> Arc<Shared> {
        self.policy.shared()
    }

    /// Takes a snapshot where the machine is, into the recording's directory, down to the disk. The guest does not sleep: a
    /// snapshot that is asked for serves a replay to its own position too, which means the first moment there.
    ///
    /// # Errors
    /// It cannot be taken or written.
    pub fn take_snapshot(&mut self, origin: Origin) -> Result<SnapshotInfo, StartError> {
        let mut snapshots = Snapshots::open(self.recording.dir(), self.recording.header_crc())?;
        snapshots.set_durable(true);
        Ok(snapshot::take(&mut snapshots, &self.machine, self.stand(), origin)?)
    }

    /// Where overlays go.
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// Leaves the recording.
    pub fn depart(self) -> Departure {
        drop(self.policy.into_host()); // its thread has the signals
        let Self { recording, header, choice, mut machine, driver, host_facts, _image: image, .. } = self;
        machine.take_observer();
        Departure { header, recording, choice, machine, driver, host_facts, image }
    }
}

/// What a recording's machine is made of.
#[derive(Clone, Copy)]
struct Parts<'a> {
    recording: &'a Recording,
    snapshots: &'a Snapshots,
    header: &'a Header,
    choice: &'a Choice,
    scratch: &'a Path,
}

impl Parts<'_> {
    /// The machine as it was at a snapshot, or at power-on: then with the files that it boots.
    fn machine(
        &self,
        start: Option<&SnapshotInfo>,
        files: Option<&BootFiles>,
    ) -> Result<(Machine, Stand), StartError> {
        let Self { recording, snapshots, header, choice, scratch } = *self;
        match (start, files) {
            (Some(info), _) => snapshot::restore(snapshots, info, header, choice, scratch)
                .map_err(|source| unusable(recording, info, source)),
            (None, Some(files)) => {
                let machine = config::assemble(header, files, choice, scratch)?;
                let stand = Stand::arrived(machine.guest_time());
                Ok((machine, stand))
            }
            (None, None) => Err(StartError::internal("a machine without files or snapshot")),
        }
    }

    /// What it replays from there on.
    fn policy(
        &self,
        machine: &mut Machine,
        stand: Stand,
        host: HostLoop,
        start: Option<&SnapshotInfo>,
    ) -> Result<Replay, StartError> {
        let checker = Checker::attach(machine, self.header).map_err(SessionError::from)?;
        let events = self.recording.events_from(machine.position())?;
        let policy = Replay::new(events, self.recording.state(), host, machine).check_markers(checker);
        policy.resume(machine, stand).map_err(|error| match (error, start) {
            (SessionError::Snapshot(source), Some(info)) => unusable(self.recording, info, source),
            (error, _) => error.into(),
        })
    }
}

/// The connection of a replay to the host: signals, no console.
fn replay_host(machine: &Machine) -> Result<HostLoop, StartError> {
    host_loop(Watch {
        console: ConsoleSource::None,
        host_limit: None,
        max_silence: None,
        anywhere: machine.is_counted(),
        capture_after: None,
        lives: false,
    })
}

/// The snapshot to start from; `None`: at power-on.
pub(super) fn start(
    recording: &Recording,
    snapshots: &Snapshots,
    wanted: &Wanted,
    target: Option<Target>,
) -> Result<Option<SnapshotInfo>, StartError> {
    let first = match recording.header().start {
        None => None,
        Some(start) => match snapshots.list().iter().find(|info| info.origin == Origin::Start) {
            Some(info) if (info.position, info.guest_time) == (start.position, start.guest_time) => {
                Some(info.clone())
            }
            _ => return Err(StartError::NoStart(recording.dir().to_owned())),
        },
    };
    let Some(target) = target.filter(|_| wanted.snapshots) else { return Ok(first) };
    // What was sealed counts: a killed recorder may have taken a snapshot behind it.
    let sealed = recording.sealed_end().map(|(position, _)| position);
    let exits_only = may_be_kvm(&wanted.engine, recording);
    let usable = |info: &&SnapshotInfo| {
        sealed.is_some_and(|end| info.position <= end) && (info.position.is_exit() || !exits_only)
    };
    for info in snapshots.list().iter().rev().filter(usable) {
        let is_before = match target {
            Target::End => true,
            // A guest that sleeps at the place itself has gone on since it came there.
            Target::Position(position) if info.position == position => {
                snapshot::is_at_its_position(snapshots, info)
                    .map_err(|source| unusable(recording, info, source))?
            }
            Target::Position(position) => info.position < position,
            // Steps take no time: another place of the same time may come before.
            Target::Time(time) if info.guest_time == time => info.position.steps == 0,
            Target::Time(time) => info.guest_time < time,
        };
        if is_before {
            return Ok(Some(info.clone()));
        }
    }
    Ok(first)
}

/// True if there was a snapshot that is there no more, and the recording does not start from it.
fn is_gone(recording: &Recording, info: &SnapshotInfo) -> bool {
    let gone = |there: Snapshots| there.damaged().is_empty() && there.at(info.position).is_none();
    info.origin != Origin::Start && Snapshots::open(recording.dir(), recording.header_crc()).is_ok_and(gone)
}

/// True if KVM may have to execute `recording`, where a machine can only be put back at an exit.
pub(super) fn may_be_kvm(engine: &Wish, recording: &Recording) -> bool {
    match engine {
        Wish::Kvm => true,
        Wish::Soft => false,
        Wish::Auto { kvm } => kvm.is_ok() && recording.header().engine == EngineName::Kvm,
    }
}

/// What to say when the snapshot to start from does not do.
fn unusable(recording: &Recording, info: &SnapshotInfo, source: SnapError) -> StartError {
    if !source.is_damage() {
        return source.into();
    }
    let instead = match info.origin {
        Origin::Start => "the recording starts from it and cannot be replayed",
        _ => "--no-snapshots replays without it, `scribe-vmm snapshot rm` removes it",
    };
    let recording = recording.dir().display().to_string();
    StartError::BadSnapshot { recording, position: info.position, instead, source: Box::new(source) }
}

/// Takes snapshots as the replay goes on, and drops those that others make superfluous.
struct Automatic {
    snapshots: Snapshots,
    /// how many times [`AUTOMATIC_WORK`] the machine has worked
    ordinal: u64,
}

impl Automatic {
    fn new(snapshots: Snapshots, machine: &Machine) -> Self {
        Self { snapshots, ordinal: machine.work() / AUTOMATIC_WORK }
    }

    /// The work at which the next is due.
    fn next_work(&self) -> u64 {
        self.ordinal.saturating_add(1).saturating_mul(AUTOMATIC_WORK)
    }

    fn take(&mut self, machine: &Machine, stand: Stand) -> Result<(), SnapError> {
        let ordinal = machine.work() / AUTOMATIC_WORK;
        self.ordinal = ordinal;
        let here = machine.position();
        let known = |info: &SnapshotInfo| {
            info.position == here
                || matches!(info.origin, Origin::Automatic { ordinal: there } if there >= ordinal)
        };
        // Further ones are there from an earlier replay: this part of the run is covered.
        if self.snapshots.list().iter().any(known) {
            return Ok(());
        }
        snapshot::take(&mut self.snapshots, machine, stand, Origin::Automatic { ordinal })?;
        // Also gets rid of the pages that nobody needs, when they are half of all.
        self.snapshots.thin()?;
        Ok(())
    }
}

/// True if the recording goes on behind `position`, as far as can be told.
pub fn is_within(recording: &Recording, position: Position) -> bool {
    recording.state() == State::Running || recording.sealed_end().is_none_or(|(end, _)| position <= end)
}
