//! Starting sessions: from a request to a machine under a policy, and back to a report.

use std::fs::File;
use std::path::{Path, PathBuf};

use scribe_log::header::{Header, Host, Pace};
use scribe_log::snapshots::SnapshotError;
use scribe_log::{EndCause, OpenError, Position, Store, WriteError, WriteOptions, Writer};

use super::SessionError;
use super::capture::{self, Captures};
use super::config::{self, ConfigError, GuestConfig};
use super::console::Console;
use super::drive::{Driver, Run};
use super::files::DigestCache;
use super::hold::Hold;
use super::journal::{Journal, NoJournal, Noting, Recorder, Summary};
use super::live::{Inputs, Live};
use super::marks::Marks;
use super::network::{Entropy, Network};
pub use super::player::ReplayConfig;
use super::player::{Player, Stay, again};
use super::replay::{Outcome, Target as Goal};
use super::snapshot::SnapError;
use crate::host::events::{ConsoleSource, HostLoop, Watch};
use crate::host::net::Connection;
use crate::host::net::pcap::Capture;
use crate::host::perturb::Perturbation;
use crate::host::terminal::RawTerminal;
use crate::host::{kick, signals};
use crate::machine::Machine;
use crate::machine::boot::SEED_BYTES;
use crate::machine::disk::{DiskError, lock};
use crate::machine::notice::NoticeError;

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
    /// A snapshot cannot be taken or used.
    #[error(transparent)]
    Snapshot(#[from] SnapError),
    /// The snapshot to start from cannot be used.
    #[error("{recording}: the snapshot at {position} cannot be used; {instead}")]
    BadSnapshot {
        /// the recording's directory
        recording: String,
        /// where the snapshot is
        position: Position,
        /// what to do
        instead: &'static str,
        /// why not
        source: Box<SnapError>,
    },
    /// The guest cannot be told what it was to be told.
    #[error(transparent)]
    Notice(#[from] NoticeError),
    /// A branch's recording has lost its first snapshot, or has another's.
    #[error("{}: a branch's recording without the snapshot that it starts from; it cannot be replayed", .0.display())]
    NoStart(PathBuf),
    /// The host's side failed.
    #[error("{what}: {reason}")]
    Host {
        /// what was tried
        what: &'static str,
        /// what the host said
        reason: String,
    },
}

impl From<SnapshotError> for StartError {
    fn from(error: SnapshotError) -> Self {
        Self::Snapshot(error.into())
    }
}

impl StartError {
    /// What cannot happen, and is an error rather than a panic if it does.
    pub(super) fn internal(what: &str) -> Self {
        Self::Host { what: "a mistake in scribe-vmm", reason: what.into() }
    }
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
    /// captured sync points, where there is no counter
    pub captures: capture::Wish,
    /// kicks at random intervals between these many microseconds
    pub perturb: Option<(u64, u64)>,
    /// what the guest's network is connected to
    pub net: Option<Connection>,
    /// where its frames are written too
    pub capture: Option<Capture>,
    /// what the entropy device's bytes follow from; `None`: they are the host's
    pub seed: Option<[u8; SEED_BYTES]>,
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
            captures: capture::Wish::default(),
            perturb: None,
            net: None,
            capture: None,
            seed: None,
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
    /// captured sync points, if there were any
    pub captures: Option<capture::Report>,
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
    mut connections: Connections,
    scratch: &Path,
    console: &mut Console,
    commit: bool,
) -> Result<LiveReport, StartError> {
    connections.seed = Some(guest.seed);
    let image = guest.image.as_deref().map(|path| lock(path, commit)).transpose()?;
    let (header, files, choice) = config::describe(guest, cache, Host::default())?;
    prepare_process()?;
    let mut machine = config::assemble(&header, &files, &choice, scratch)?;
    choice.tell();
    let (marks, mut driver) = (Marks::default(), Driver::default());
    let (report, _) = live(&mut machine, &mut driver, NoJournal, marks, connections, guest.pace, console)?;
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
    /// how much is noted, and how
    pub noting: Noting,
}

/// Records a guest into `target`.
///
/// # Errors
/// One line that says what failed. What was sealed by then stays in the directory.
pub fn record(
    guest: &GuestConfig,
    cache: &DigestCache,
    host: Host,
    mut connections: Connections,
    target: &Target,
    console: &mut Console,
) -> Result<LiveReport, StartError> {
    connections.seed = Some(guest.seed);
    let _image = guest.image.as_deref().map(|path| lock(path, false)).transpose()?;
    let (mut header, files, choice) = config::describe(guest, cache, host)?;
    prepare_process()?;
    header.level = target.noting.level;
    let scratch = existing_ancestor(target.directory);
    let mut machine = config::assemble(&header, &files, &choice, &scratch)?;
    let recorder = recorder(target, &header, &mut machine)?;
    choice.tell();
    let mut driver = Driver::default();
    let marks = Marks::new(&target.noting, &machine);
    let lived = live(&mut machine, &mut driver, recorder, marks, connections, guest.pace, console);
    if let Err(StartError::Session(error)) = &lived
        && again::is_overshoot(error)
    {
        let directory = target.directory.display();
        say!(
            "what was sealed by then stays and replays: {directory}; --counter off records without the counter"
        );
    }
    let (mut report, recorder) = lived?;
    report.recorded = recorder.summary().cloned();
    report.bytes_hashed = machine.bytes_hashed();
    Ok(report)
}

/// Creates the recording of `machine`, which is watched from here on.
pub(super) fn recorder(
    target: &Target,
    header: &Header,
    machine: &mut Machine,
) -> Result<Recorder, StartError> {
    let options = WriteOptions { overwrite: target.overwrite, durable: target.noting.durable };
    let writer = Writer::create_with(target.directory, header, options)?;
    if let Some(Err(error)) = target.store.map(|store| store.set_latest(target.directory)) {
        say!("it will not be found as the latest: {error}");
    }
    let mut recorder = Recorder::new(writer, header.digest_every, machine.exits());
    recorder.watch(machine, header.level)?;
    Ok(recorder)
}

/// Lets a machine live until it ends.
pub(super) fn live<J: Journal>(
    machine: &mut Machine,
    driver: &mut Driver,
    journal: J,
    marks: Marks,
    connections: Connections,
    pace: Pace,
    console: &mut Console,
) -> Result<(LiveReport, J), StartError> {
    let watch = Watch {
        console: connections.console,
        host_limit: connections.host_limit,
        max_silence: connections.max_silence,
        anywhere: machine.is_counted(),
        capture_after: Some(connections.captures.after).filter(|after| *after > 0 && !machine.is_counted()),
        lives: true,
    };
    let _terminal = (connections.console == ConsoleSource::Terminal).then(RawTerminal::enter).flatten();
    let (incoming, outgoing) = match connections.net {
        Some(Connection { incoming, outgoing }) => (Some(incoming), Some(outgoing)),
        None => (None, None),
    };
    let host = HostLoop::start_with(watch, kick::Target::current(), incoming).map_err(no_loop)?;
    console.set_alarm(host.alarm());
    let perturbation = perturbation(connections.perturb);
    let now = machine.guest_time();
    let switched_on = machine.position() == Position::default();
    let network = if switched_on { Network::new(outgoing) } else { Network::replugged(outgoing, now) };
    if let Some(capture) = connections.capture {
        machine.observe(Box::new(capture));
    }
    let inputs = Inputs {
        file: connections.input,
        open: connections.console != ConsoleSource::None,
        pace,
        guest_limit: connections.guest_limit,
        marks,
        captures: Captures::new(connections.captures),
        network,
        entropy: connections.seed.map_or(Entropy::Host, |seed| Entropy::seeded(&seed)),
        holds: [0, 1].map(|number| Hold::new(machine.chaos_seed(), machine.position(), number)),
    };
    let mut policy = Live::new(journal, host, inputs, now);
    let run = driver.run(machine, &mut policy, console);
    console.set_alarm(None);
    let Run::Ended(cause) = run? else {
        return Err(StartError::internal("a live machine that paused"));
    };
    let report = LiveReport {
        cause,
        exits: machine.exits(),
        guest_time: machine.guest_time(),
        recorded: None,
        fault_detail: machine.fault_detail().map(str::to_owned),
        bytes_hashed: machine.bytes_hashed(),
        captures: policy.captures(),
        kicks: perturbation.map_or(0, |p| p.kicks()),
        instructions: machine.instructions(),
    };
    Ok((report, policy.into_journal()))
}

/// Replays a whole recording.
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
    let mut player = Player::open(config, cache, host_facts, scratch, None)?;
    let outcome = match player.run(Goal::End, console)? {
        Stay::Ended(outcome) => outcome,
        Stay::Paused | Stay::Leaving => Outcome::Interrupted(player.machine().position()),
    };
    Ok(ReplayReport {
        header: player.header().clone(),
        outcome,
        exits: player.machine().exits(),
        checks: player.checks(),
        kicks: player.kicks(),
    })
}

/// The connection to the host, for the calling thread's machine.
pub(super) fn host_loop(watch: Watch) -> Result<HostLoop, StartError> {
    HostLoop::start(watch, kick::Target::current()).map_err(no_loop)
}

fn no_loop(error: std::io::Error) -> StartError {
    StartError::Host { what: "the host's event loop", reason: error.to_string() }
}

/// Kicks for the calling thread.
pub(super) fn perturbation(range: Option<(u64, u64)>) -> Option<Perturbation> {
    range.map(|(least, most)| Perturbation::start(kick::Target::current(), least, most))
}

/// The nearest directory at or above `path` that exists: on the same file system, most likely, and writable.
fn existing_ancestor(path: &Path) -> PathBuf {
    let found = path.ancestors().find(|ancestor| ancestor.is_dir());
    found.map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}
