//! `scribe-vmm replay`: run a recorded guest again, bit for bit.

use std::path::PathBuf;

use clap::Args;
use scribe_log::header::Engine as EngineName;

use super::exit::{self, Failure};
use super::guest::EngineChoice;
use super::{guest, parse};
use crate::machine::disk::DiskError;
use crate::session::config::ConfigError;
use crate::session::config::Moved;
use crate::session::files::DigestCache;
use crate::session::replay::{Outcome, describe};
use crate::session::start::{self, ReplayConfig, StartError};

/// Run a recorded guest again, bit for bit
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  scribe-vmm replay\n  scribe-vmm replay demo-3\n  \
                        scribe-vmm replay --quiet bug && echo same")]
pub(super) struct ReplayArgs {
    /// The recording: a directory, or a name below the recordings' home [default: the latest]
    #[arg(value_name = "DIR")]
    recording: Option<PathBuf>,
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
    /// Print neither the guest's console nor a report; only errors
    #[arg(short, long)]
    quiet: bool,
    /// For tests: kick the vCPU at random intervals of so many microseconds
    #[arg(long, value_name = "MIN..MAX", hide = true, value_parser = parse::range)]
    perturb: Option<(u64, u64)>,
}

pub(super) fn run(args: ReplayArgs) -> Result<u8, Failure> {
    let store = guest::store()?;
    let directory = store.resolve(args.recording.as_deref())?;
    let recording =
        scribe_log::Recording::open(&directory).map_err(|error| Failure::new(exit::RECORDING, error))?;
    let kvm_matters = recording.header().engine == EngineName::Kvm;
    let (engine, host) = args.engine.wish(kvm_matters)?;
    let cache = DigestCache::new(store.home());
    let mut console = guest::console(args.quiet);
    let config = ReplayConfig {
        directory: &directory,
        moved: Moved { image: args.image, kernel: args.kernel, initrd: args.initrd },
        engine,
        behaviour: args.behaviour,
        quiet: args.quiet,
        perturb: args.perturb,
    };
    let report = start::replay(&config, &cache, &host, &guest::scratch(), &mut console).map_err(failure)?;
    let (exits, checks) = (report.exits, report.checks);
    match report.outcome {
        Outcome::Complete(end) => {
            if !args.quiet {
                let how = describe(&end.cause);
                say!("replayed {exits} exits, {checks} digests equal; the guest {how}");
            }
            Ok(exit::of_end(&end.cause))
        }
        Outcome::SealedEnd(position) => {
            say!(
                "the recording was not closed: replayed to its last sealed position, {position}, {checks} \
                 digests equal"
            );
            Ok(0)
        }
        Outcome::Interrupted(position) => {
            say!("stopped at {position}, {checks} digests equal so far");
            Ok(exit::ERROR)
        }
    }
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
