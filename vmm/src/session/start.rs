//! Starting sessions: from a request to a machine under a policy, and back to a report.

use std::fs::File;
use std::path::{Path, PathBuf};

use scribe_log::header::{Engine as EngineName, Header, Host, Pace};
use scribe_log::{EndCause, OpenError, Recording, Store, WriteError, Writer};

use super::choice::{self, Wish};
use super::config::{self, ConfigError, GuestConfig, Moved};
use super::console::Console;
use super::files::DigestCache;
use super::journal::{Journal, NoJournal, Recorder, Summary};
use super::live::Live;
use super::replay::{Outcome, Replay};
use super::{SessionError, drive};
use crate::host::events::{ConsoleSource, HostLoop, Watch};
use crate::host::perturb::Perturbation;
use crate::host::terminal::RawTerminal;
use crate::host::{kick, signals};
use crate::machine::Machine;
use crate::machine::disk::{DiskError, lock};
use crate::machine::observe::Observer;

/// Why a session could not be started or finished.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no machine.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The session failed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The recording could not be created.
    #[error(transparent)]
    Create(#[from] WriteError),
    /// The recording could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The image cannot be opened or locked, or the disk's changes not be committed.
    #[error(transparent)]
    Image(#[from] DiskError),
    /// The host's side failed.
    #[error("{what}: {reason}")]
    Host {
        /// what was tried
        what: &'static str,
        /// what the host said
        reason: String,
    },
}

/// How a live machine is connected to the host.
#[derive(Debug)]
pub struct Connections {
    /// console input from standard input
    pub console: ConsoleSource,
    /// console input from a file
    pub input: Option<File>,
    /// host time (ns) after which the run ends
    pub host_limit: Option<u64>,
    /// guest time (ns) at which the run ends
    pub guest_limit: Option<u64>,
    /// host time (ns) without an exit after which the run ends
    pub max_silence: Option<u64>,
    /// kicks at random intervals between these many microseconds
    pub perturb: Option<(u64, u64)>,
}

impl Connections {
    /// No input and no limits.
    pub fn none() -> Self {
        Self {
            console: ConsoleSource::None,
            input: None,
            host_limit: None,
            guest_limit: None,
            max_silence: None,
            perturb: None,
        }
    }
}

/// How a live machine ended.
#[derive(Debug)]
pub struct LiveReport {
    /// how
    pub cause: EndCause,
    /// exits served
    pub exits: u64,
    /// guest time, ns
    pub guest_time: u64,
    /// what was recorded
    pub recorded: Option<Summary>,
    /// what the host said about an instruction it refused
    pub fault_detail: Option<String>,
    /// bytes hashed for RAM digests
    pub bytes_hashed: u64,
    /// kicks sent by the perturbation
    pub kicks: u64,
    /// instructions retired, where the engine counts them
    pub instructions: Option<u64>,
}

/// How a replay ended.
#[derive(Debug)]
pub struct ReplayReport {
    /// the recording's header
    pub header: Header,
    /// what it came to
    pub outcome: Outcome,
    /// exits served
    pub exits: u64,
    /// digests compared
    pub checks: u64,
    /// kicks sent by the perturbation
    pub kicks: u64,
}

/// Blocks the signals that the event loop and the engine take themselves, in this thread and those it starts. Every
/// session does so itself, right before it makes an engine: until then Ctrl-C ends the program as usual.
///
/// # Errors
/// The host's refusal.
pub fn prepare_process() -> Result<(), StartError> {
    signals::prepare()
        .and_then(|()| kick::prepare())
        .map_err(|reason| StartError::Host { what: "signals", reason })
}

/// Runs a guest without recording it. With `commit` the disk's changes go into the image at the end.
///
/// # Errors
/// One line that says what failed.
pub fn run(
    guest: &GuestConfig,
    cache: &DigestCache,
    connections: Connections,
    scratch: &Path,
    console: &mut Console,
    commit: bool,
) -> Result<LiveReport, StartError> {
    let image = guest.image.as_deref().map(|path| lock(path, commit)).transpose()?;
    let (header, files, choice) = config::describe(guest, cache, Host::default())?;
    prepare_process()?;
    let mut machine = config::assemble(&header, &files, &choice, scratch)?;
    choice.tell();
    let (report, _) = live(&mut machine, NoJournal, connections, guest.pace, console)?;
    if let (true, Some(image), Some(disk)) = (commit, image, machine.into_disk()) {
        disk.commit(&image)?;
    }
    Ok(report)
}

/// Where a recording goes.
#[derive(Debug)]
pub struct Target<'a> {
    /// its directory
    pub directory: &'a Path,
    /// a recording that is already there may be replaced
    pub overwrite: bool,
    /// where it becomes the latest
    pub store: Option<&'a Store>,
}

/// Records a guest into `target`.
///
/// # Errors
/// One line that says what failed. What was sealed by then stays in the directory.
pub fn record(
    guest: &GuestConfig,
    cache: &DigestCache,
    host: Host,
    connections: Connections,
    target: &Target,
    console: &mut Console,
) -> Result<LiveReport, StartError> {
    let _image = guest.image.as_deref().map(|path| lock(path, false)).transpose()?;
    let (header, files, choice) = config::describe(guest, cache, host)?;
    prepare_process()?;
    let scratch = existing_ancestor(target.directory);
    let mut machine = config::assemble(&header, &files, &choice, &scratch)?;
    let writer = Writer::create(target.directory, &header, target.overwrite)?;
    if let Some(Err(error)) = target.store.map(|store| store.set_latest(target.directory)) {
        say!("it will not be found as the latest: {error}");
    }
    choice.tell();
    let recorder = Recorder::new(writer, guest.digest_every);
    let (mut report, recorder) = live(&mut machine, recorder, connections, guest.pace, console)?;
    report.recorded = recorder.summary().cloned();
    report.bytes_hashed = machine.bytes_hashed();
    Ok(report)
}

fn live<J: Journal>(
    machine: &mut Machine,
    journal: J,
    connections: Connections,
    pace: Pace,
    console: &mut Console,
) -> Result<(LiveReport, J), StartError> {
    let watch = Watch {
        console: connections.console,
        host_limit: connections.host_limit,
        max_silence: connections.max_silence,
        anywhere: machine.is_counted(),
    };
    let _terminal = (connections.console == ConsoleSource::Terminal).then(RawTerminal::enter).flatten();
    let host = host_loop(watch)?;
    let perturbation = perturbation(connections.perturb);
    let open = connections.console != ConsoleSource::None;
    let mut policy = Live::new(journal, host, connections.input, open, pace, connections.guest_limit);
    let cause = drive(machine, &mut policy, console)?;
    let report = LiveReport {
        cause,
        exits: machine.exits(),
        guest_time: machine.guest_time(),
        recorded: None,
        fault_detail: machine.fault_detail().map(str::to_owned),
        bytes_hashed: machine.bytes_hashed(),
        kicks: perturbation.map_or(0, |p| p.kicks()),
        instructions: machine.instructions(),
    };
    Ok((report, policy.into_journal()))
}

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
}

/// Replays a recording.
///
/// # Errors
/// One line that says what failed, or the divergence.
pub fn replay(
    config: &ReplayConfig,
    cache: &DigestCache,
    host_facts: &Host,
    scratch: &Path,
    console: &mut Console,
) -> Result<ReplayReport, StartError> {
    replay_observed(config, cache, host_facts, scratch, console, None)
}

/// Replays a recording while somebody watches.
///
/// # Errors
/// As [`replay`].
pub fn replay_observed(
    config: &ReplayConfig,
    cache: &DigestCache,
    host_facts: &Host,
    scratch: &Path,
    console: &mut Console,
    observer: Option<Box<dyn Observer>>,
) -> Result<ReplayReport, StartError> {
    let recording = Recording::open(config.directory)?;
    let moved = &config.moved;
    let mut header = recording.header().clone();
    let recorded = header.image.as_ref().map(|image| image.path.as_path());
    let image = moved.image.as_deref().or(recorded);
    let _image = image.map(|path| lock(path, false)).transpose()?;
    let (files, noted) = config::find_again(&mut header, moved, cache)?;
    let choice = choice::for_recording(&config.engine, config.behaviour.as_deref(), &header, noted)?;
    prepare_process()?;
    let mut machine = config::assemble(&header, &files, &choice, scratch)?;
    if !config.quiet {
        choice.tell();
    }
    if let Some(observer) = observer {
        machine.observe(observer);
    }
    let host = host_loop(Watch {
        console: ConsoleSource::None,
        host_limit: None,
        max_silence: None,
        anywhere: machine.is_counted(),
    })?;
    let perturbation = perturbation(config.perturb);
    let mut policy = Replay::new(recording.events(), recording.state(), host);
    drive(&mut machine, &mut policy, console)
        .map_err(|error| with_hosts(error, &header, host_facts, choice.engine))?;
    let Some(outcome) = policy.outcome().cloned() else {
        return Err(StartError::Host { what: "replay", reason: "it ended without an outcome".into() });
    };
    let kicks = perturbation.map_or(0, |p| p.kicks());
    Ok(ReplayReport { header, outcome, exits: machine.exits(), checks: policy.checks(), kicks })
}

/// Adds to a divergence how this host differs from the recording's.
fn with_hosts(mut error: SessionError, header: &Header, here: &Host, engine: EngineName) -> SessionError {
    let recorded = &header.host;
    if let SessionError::Diverged(divergence) = &mut error {
        let pairs = [
            ("processor", &recorded.cpu_model, &here.cpu_model),
            ("microcode", &recorded.microcode, &here.microcode),
            ("host kernel", &recorded.kernel_release, &here.kernel_release),
            ("KVM module", &recorded.kvm_module, &here.kvm_module),
        ];
        divergence.hosts = pairs
            .iter()
            .filter(|(_, then, now)| !then.is_empty() && then != now)
            .map(|(what, then, now)| format!("{what}: recorded on {then:?}, replayed on {now:?}"))
            .collect();
        if engine != header.engine {
            let (then, now) = (choice::name(header.engine), choice::name(engine));
            divergence.hosts.push(format!("engine: recorded on {then}, replayed on {now}"));
        }
    }
    error
}

fn host_loop(watch: Watch) -> Result<HostLoop, StartError> {
    HostLoop::start(watch, kick::Target::current())
        .map_err(|error| StartError::Host { what: "the host's event loop", reason: error.to_string() })
}

fn perturbation(range: Option<(u64, u64)>) -> Option<Perturbation> {
    range.map(|(least, most)| Perturbation::start(kick::Target::current(), least, most))
}

/// The nearest directory at or above `path` that exists: on the same file system, most likely, and writable.
fn existing_ancestor(path: &Path) -> PathBuf {
    let found = path.ancestors().find(|ancestor| ancestor.is_dir());
    found.map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}
