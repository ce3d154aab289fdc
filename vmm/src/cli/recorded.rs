//! The options that name a recording and say how to play it, which many subcommands share.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use scribe_log::header::{Engine as EngineName, Header, Host};
use scribe_log::{EditError, Recording, State};

use super::exit::{self, Failure};
use super::guest::{self, CounterChoice, EngineChoice};
use super::{parse, unpacked};
use crate::host::events::Shared;
use crate::machine::disk::DiskError;
use crate::pack;
use crate::session::choice::{HostCounter, Wish};
use crate::session::config::{self, ConfigError, Moved};
use crate::session::files::DigestCache;
use crate::session::place::Where;
use crate::session::player::{Player, ReplayConfig};
use crate::session::replay::Target;
use crate::session::start::StartError;
use crate::session::verify::{Verified, verify};

/// Opens the recording that is named so: a directory, a name in the home, or a pack; the latest without a name.
pub(super) fn open(name: Option<&Path>) -> Result<Recording, Failure> {
    let store = guest::store()?;
    let mut directory = store.resolve(name)?;
    if pack::is_pack(&directory) {
        directory = unpacked::directory(&store, &directory)?;
    }
    Ok(Recording::open(&directory)?)
}

/// Which recording.
#[derive(Debug, Args)]
pub(super) struct RecordingArg {
    /// The recording: a directory, a name below the recordings' home, or a packed file [default: the latest]
    #[arg(value_name = "DIR")]
    recording: Option<PathBuf>,
}

impl RecordingArg {
    /// Opens it.
    pub(super) fn open(&self) -> Result<Recording, Failure> {
        open(self.recording.as_deref())
    }

    /// Opens it for a subcommand that will change it.
    pub(super) fn open_to_change(&self) -> Result<Recording, Failure> {
        if let Some(path) = self.recording.as_deref().filter(|path| pack::is_pack(path)) {
            let text = format!("{}: a packed recording is not changed; unpack it first", path.display());
            return Err(Failure::new(exit::ERROR, anyhow::Error::msg(text)));
        }
        let recording = self.open()?;
        if recording.state() == State::Running {
            return Err(EditError::Running { path: recording.dir().to_owned() }.into());
        }
        Ok(recording)
    }

    /// As it was named.
    pub(super) fn path(&self) -> Option<&Path> {
        self.recording.as_deref()
    }
}

/// How a recording is played.
#[derive(Debug, Args)]
pub(super) struct PlayArgs {
    /// Where the recording's disk image lies now, if it was moved
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Where the kernel given with --kernel lies now, if it was moved
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Where the initrd given with --initrd lies now, if it was moved
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// What executes the guest; `auto` is the engine it was recorded on, if this host has it
    #[arg(long, value_enum, default_value_t = EngineChoice::Auto)]
    engine: EngineChoice,
    /// For a recording made on kvm: what the soft CPU does where the manuals leave it open, `zen` or `tcg` [default: as
    /// the processor it was recorded on]
    #[arg(long, value_name = "NAME")]
    behaviour: Option<String>,
    /// Whether the processor's own branch counter is used on kvm, for a recording with counted sync points
    #[arg(long, value_enum, default_value_t = CounterChoice::Auto)]
    counter: CounterChoice,
    /// Neither start from snapshots in the recording nor keep new ones there
    #[arg(long)]
    no_snapshots: bool,
    /// For tests: kick the vCPU at random intervals of so many microseconds
    #[arg(long, value_name = "MIN..MAX", hide = true, value_parser = parse::range)]
    perturb: Option<(u64, u64)>,
}

/// Everything a [`Player`] is opened with.
pub(super) struct Play {
    moved: Moved,
    engine: Wish,
    behaviour: Option<String>,
    snapshots: bool,
    perturb: Option<(u64, u64)>,
    counter: HostCounter,
    host: Host,
    cache: DigestCache,
}

impl PlayArgs {
    /// The words that say where the recording's files are and how it is played: for a command that plays it again.
    pub(super) fn words(&self) -> Vec<PathBuf> {
        let files = [("--image", &self.image), ("--kernel", &self.kernel), ("--initrd", &self.initrd)];
        let mut out = Vec::new();
        for (option, file) in files {
            out.extend(file.iter().flat_map(|file| [PathBuf::from(option), file.clone()]));
        }
        out.extend(self.behaviour.iter().flat_map(|name| ["--behaviour".into(), name.into()]));
        out
    }

    /// With what there is to be known of this host for playing `recording`.
    pub(super) fn prepare(self, recording: &Recording) -> Result<Play, Failure> {
        let kvm_matters = recording.header().engine == EngineName::Kvm;
        let (engine, host) = self.engine.wish(kvm_matters)?;
        let counter = match &recording.header().counter {
            None => Err("it has sync points at exits only".into()),
            Some(_) => self.counter.counter(&engine),
        };
        Ok(Play {
            counter,
            moved: pack::beside(
                recording.dir(),
                Moved { image: self.image, kernel: self.kernel, initrd: self.initrd },
            ),
            engine,
            behaviour: self.behaviour,
            snapshots: !self.no_snapshots,
            perturb: self.perturb,
            host,
            cache: DigestCache::new(guest::store()?.home()),
        })
    }
}

impl Play {
    /// Opens a player of `recording` that starts as near before `target` as it can; at the recording's start without one.
    pub(super) fn player(
        &self,
        recording: &Recording,
        quiet: bool,
        target: Option<Target>,
    ) -> Result<Player, Failure> {
        let config = self.config(recording, quiet);
        Player::open(&config, &self.cache, &self.host, &guest::scratch(), target).map_err(failure)
    }

    /// Plays all of `recording`, and from each of its snapshots.
    pub(super) fn verify(
        &self,
        recording: &Recording,
        jobs: NonZeroUsize,
        watch: &(dyn Fn(Arc<Shared>) + Sync),
    ) -> Result<Verified, StartError> {
        let config = self.config(recording, true);
        verify(&config, &self.cache, &self.host, &guest::scratch(), jobs, watch)
    }

    /// Reads the files of the host that a recording with this header needs, and compares their digests. The header comes
    /// back with where they lie now.
    pub(super) fn read_files(&self, header: &Header) -> Result<Header, StartError> {
        let mut header = header.clone();
        config::check_files(&mut header, &self.moved, &self.cache.fresh())?;
        Ok(header)
    }

    fn config<'a>(&self, recording: &'a Recording, quiet: bool) -> ReplayConfig<'a> {
        ReplayConfig {
            directory: recording.dir(),
            moved: self.moved.clone(),
            engine: self.engine.clone(),
            behaviour: self.behaviour.clone(),
            quiet,
            perturb: self.perturb,
            snapshots: self.snapshots,
            counter: self.counter.clone(),
        }
    }
}

/// The place in `recording` that the user means.
pub(super) fn target(place: &Where, recording: &Recording) -> Result<Target, Failure> {
    Ok(place.resolve(recording)?)
}

/// In replay a file that is missing or is not what it was is the recording's trouble, whatever else it might be.
pub(super) fn failure(error: StartError) -> Failure {
    match error {
        StartError::Config(
            ConfigError::Read { .. }
            | ConfigError::Kernel(_)
            | ConfigError::Disk(DiskError::Open { .. } | DiskError::Size { .. })
            | ConfigError::Memory(_)
            | ConfigError::Boot(_)
            | ConfigError::Changed { .. }
            | ConfigError::Unsupported(_),
        )
        | StartError::Image(DiskError::Open { .. } | DiskError::Kind(_)) => {
            Failure::new(exit::RECORDING, error)
        }
        other => Failure::from(other),
    }
}
