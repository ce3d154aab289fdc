//! What a player adds to a divergence that it comes to: the guest there, two further replays, causes, commands.

use std::path::Path;

use scribe_log::Position;
use scribe_log::snapshots::{Origin, SnapshotInfo, Snapshots};

use super::{Parts, Player, Target, start};
use crate::engine::soft;
use crate::host::events::HostLoop;
use crate::session::choice::{self, Wish};
use crate::session::config;
use crate::session::divergence::causes::{self, Here};
use crate::session::divergence::guest::Guest;
use crate::session::divergence::passes::{self, Fresh};
use crate::session::divergence::verdict::{End, Pass, Seen, Verdict, judge};
use crate::session::divergence::{Command, Divergence};
use crate::session::drive::Driver;
use crate::session::start::StartError;
use crate::session::{SessionError, files};
use scribe_log::header::{Header, Level, Origin as FileOrigin};

/// How many further replays of the interval there are.
const FURTHER: usize = 2;

impl Player {
    /// The divergence with everything that can be said of it, as the error that it is.
    pub(super) fn explain(&mut self, mut divergence: Divergence) -> StartError {
        divergence.guest = Guest::of(&self.machine, &self.header).ok();
        let (from, from_snapshot) = self.began;
        let end = End::Differs(Box::new(Seen::new(&mut self.machine, &divergence)));
        self.machine.stop_counting(); // the further replays need them
        let first = Pass { from, from_snapshot, end, trail: Vec::new() };
        let verdict = match self.further(&divergence) {
            Ok(Some(further)) => judge(&first, &further),
            Ok(None) => Verdict::Unknown { reason: "the further replays were interrupted".into() },
            Err(error) => Verdict::Unknown { reason: format!("a further replay failed: {error}") },
        };
        self.drop_doubtful(match verdict {
            Verdict::Snapshot { .. } => None,
            _ => Some(self.policy.whole()),
        });
        divergence.verdict = Some(verdict);
        let changed = changed(&self.header);
        let here = Here {
            engine: self.choice.engine,
            behaviour: self.choice.behaviour.map(soft::name),
            host: &self.host_facts,
            program: env!("CARGO_PKG_VERSION"),
            changed: &changed,
        };
        let recorded = self.recording.header();
        divergence.differences = causes::differences(recorded, &here);
        divergence.causes = causes::likely(&divergence, recorded, &here);
        divergence.commands = self.commands(&divergence);
        SessionError::Diverged(Box::new(divergence)).into()
    }

    /// Replays the interval again, from the last place before it at which the whole machine is known to have been the
    /// recording's. A replay that began with a snapshot is compared with one that did not. `None`: that was stopped.
    fn further(&mut self, divergence: &Divergence) -> Result<Option<Vec<Pass>>, StartError> {
        let snapshots = Snapshots::open(self.recording.dir(), self.recording.header_crc())?;
        let whole = Target::Position(self.policy.whole());
        let nearest = start(&self.recording, &snapshots, &self.wanted, Some(whole))?;
        let first = start(&self.recording, &snapshots, &self.wanted, None)?;
        let (_, from_snapshot) = self.began;
        let last = if from_snapshot { first } else { nearest.clone() };
        if !self.wanted.quiet {
            let from = nearest.as_ref().map_or(Position::START, |info| info.position);
            say!(
                "the replay diverged; it is replayed {FURTHER} more times, from {from} to {}, to tell why (Ctrl-C: without)",
                divergence.found_at
            );
        }
        let silent = HostLoop::silent()
            .map_err(|error| StartError::Host { what: "a further replay", reason: error.to_string() })?;
        let mut host = self.policy.replace_host(silent);
        let mut further = Vec::new();
        for info in [nearest, last] {
            let fresh = self.fresh(&snapshots, info.as_ref(), host)?;
            let (pass, policy) = passes::pass(fresh, divergence)?;
            host = policy.into_host();
            match pass {
                Some(pass) => further.push(pass),
                None => return Ok(None),
            }
        }
        self.policy.replace_host(host);
        Ok(Some(further))
    }

    pub(super) fn fresh(
        &self,
        snapshots: &Snapshots,
        info: Option<&SnapshotInfo>,
        host: HostLoop,
    ) -> Result<Fresh, StartError> {
        let files = match info {
            None => Some(config::find_again(&self.header)?.0),
            Some(_) => None,
        };
        let parts = Parts {
            recording: &self.recording,
            snapshots,
            header: &self.header,
            choice: &self.choice,
            scratch: &self.scratch,
        };
        let (mut machine, stand) = parts.machine(info, files.as_ref())?;
        let policy = parts.policy(&mut machine, stand, host, info)?;
        let from_snapshot = info.is_some_and(|info| info.origin != Origin::Start);
        Ok(Fresh { machine, driver: Driver::at(stand.phase), policy, from_snapshot })
    }

    /// Automatic snapshots behind `whole`, the last place at which the whole machine was equal, may be of a run that is not
    /// the recording's: nobody is to start from them. `None`: none of them can be trusted.
    fn drop_doubtful(&mut self, whole: Option<Position>) {
        self.automatic = None;
        let Ok(mut snapshots) = Snapshots::open(self.recording.dir(), self.recording.header_crc()) else {
            return;
        };
        let doubtful: Vec<Position> = (snapshots.list().iter())
            .filter(|info| matches!(info.origin, Origin::Automatic { .. }))
            .filter(|info| whole.is_none_or(|whole| info.position > whole))
            .map(|info| info.position)
            .collect();
        for position in doubtful {
            if let Err(error) = snapshots.remove(position) {
                tracing::debug!("the automatic snapshot at {position} stays: {error}");
            }
        }
    }

    fn commands(&self, divergence: &Divergence) -> Vec<Command> {
        let Divergence { agreed, last_exit, found_at, .. } = divergence;
        let options = self.options();
        let recording = word(self.recording.dir());
        let to = |position: &Position| format!("scribe-vmm replay {recording}{options} --to {position}");
        let equal = "stops where both were last equal";
        let mut commands = Vec::new();
        if let Some(exit) = last_exit.filter(|exit| exit > agreed) {
            commands.push(Command {
                command: to(&exit),
                purpose: "stops behind the last exit that was equal".into(),
            });
        }
        commands.push(Command { command: to(agreed), purpose: equal.into() });
        let level = self.recording.header().level;
        if level < Level::Exits {
            commands.push(Command {
                command: format!(
                    "scribe-vmm log {recording}{options} --expand --from {agreed} --to {found_at}"
                ),
                purpose: "shows everything that this replay does in the interval".into(),
            });
        }
        if level < Level::State {
            commands.push(Command {
                command: "scribe-vmm record --log-level 1 ...".into(),
                purpose: "records it again so that a divergence names the first register or page; --log-level 3 the \
                          first exit"
                    .into(),
            });
        }
        commands
    }

    /// The options that this replay was given, where they matter.
    fn options(&self) -> String {
        let moved = &self.wanted.moved;
        let mut options = String::new();
        let mut add = |option: &str, value: &str| options += &format!(" {option} {value}");
        let files = [("--image", &moved.image), ("--kernel", &moved.kernel), ("--initrd", &moved.initrd)];
        for (option, file) in files {
            if let Some(file) = file {
                add(option, &word(file));
            }
        }
        match self.wanted.engine {
            Wish::Auto { .. } => {}
            Wish::Kvm | Wish::Soft => add("--engine", choice::name(self.choice.engine)),
        }
        if let Some(behaviour) = &self.wanted.behaviour {
            add("--behaviour", behaviour);
        }
        options
    }
}

/// A path as a shell takes it.
fn word(path: &Path) -> String {
    crate::timeline::page::shell_word(&path.to_string_lossy())
}

/// Files whose digests are not those of the recording, all of them read again: what was checked before may have been a
/// digest that was remembered.
fn changed(header: &Header) -> Vec<String> {
    let image = header.image.as_ref().map(|image| (&image.path, image.blake3));
    let on_host = [Some(&header.kernel), header.initrd.as_ref()].into_iter().flatten();
    let on_host =
        on_host.filter(|file| file.origin == FileOrigin::Host).map(|file| (&file.path, file.blake3));
    let differs = |path: &Path, digest| files::of_file(path).is_ok_and(|found| found != digest);
    let changed = image.into_iter().chain(on_host).filter(|(path, digest)| differs(path, *digest));
    changed.map(|(path, _)| path.display().to_string()).collect()
}
