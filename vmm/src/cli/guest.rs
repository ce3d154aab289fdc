//! The options that `run` and `record` share.

use std::ffi::OsString;
use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use scribe_log::header::{Device, Host, Level, Mac, Pace};
use scribe_log::{EndCause, Store};

use super::exit::{self, Failure};
use super::parse;
use crate::engine::pmu;
use crate::engine::probe::{self, HostFacts, Scope};
use crate::host::events::ConsoleSource;
use crate::host::net::pcap;
use crate::host::{clock, entropy, net};
use crate::machine::platform::Platform;
use crate::session::capture::{Report, Wish as Captures};
use crate::session::choice::{HostCounter, SyncPoints, Wish};
use crate::session::config::GuestConfig;
use crate::session::console::Console;
use crate::session::files::DigestCache;
use crate::session::journal::{Noting, Summary};
use crate::session::place::seconds;
use crate::session::replay::describe;
use crate::session::start::{Connections, LiveReport};

/// The network device's hardware address: the same in each run, for it is alone on its wire.
const DEFAULT_MAC: Mac = Mac([0x52, 0x54, 0x00, 0x12, 0x34, 0x56]);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum EngineChoice {
    /// what fits the host and the guest
    Auto,
    /// the host's KVM
    Kvm,
    /// our own CPU, in software
    Soft,
}

impl EngineChoice {
    /// With what was found out about this host, as far as it matters; `kvm_matters`: for `auto` too.
    pub(super) fn wish(self, kvm_matters: bool) -> Result<(Wish, Host), Failure> {
        let report = match self {
            Self::Soft => None,
            Self::Auto if !kvm_matters => None,
            _ => Some(probe::probe(Scope::Quick)),
        };
        let Some(report) = report else {
            let kvm = Err("this host's KVM does not matter".into());
            let wish = if self == Self::Soft { Wish::Soft } else { Wish::Auto { kvm } };
            return Ok((wish, facts(HostFacts::read())));
        };
        let wish = match (self, report.fit_for_linux()) {
            (Self::Auto, fit) => Wish::Auto { kvm: fit.map_err(|unfit| unfit.to_string()) },
            (_, Ok(())) => Wish::Kvm,
            (_, Err(unfit)) => {
                let error = anyhow::anyhow!("{unfit}; use --engine soft, which needs no KVM");
                return Err(Failure::new(exit::HOST, error));
            }
        };
        Ok((wish, facts(report.host)))
    }
}

/// Whether the processor's own branch counter is used on kvm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum CounterChoice {
    /// if it passes its self-test
    Auto,
    /// no
    Off,
}

impl CounterChoice {
    /// The counter that may be used where the engine is what `wish` says; it is examined only if it matters.
    pub(super) fn counter(self, wish: &Wish) -> HostCounter {
        match (self, wish) {
            (Self::Off, _) => Err("the processor's counter is not to be used (--counter off)".into()),
            (Self::Auto, Wish::Kvm | Wish::Auto { kvm: Ok(()) }) => pmu::counter(),
            (Self::Auto, _) => Err("the processor's counter is of no use without KVM".into()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SyncPointsChoice {
    /// wherever it is determined or somebody types: needs a branch counter, which `soft` has, and `kvm` on some hosts
    Counted,
    /// exits only
    Exit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PaceChoice {
    /// idle guest time passes on the host too
    Real,
    /// idle guest time takes no host time
    Max,
}

/// What the guest is and how it is connected.
#[derive(Debug, Args)]
pub(super) struct GuestArgs {
    /// Raw ext4 disk image; never changed (the kernel is the newest /boot/vmlinux* or vmlinuz* in it)
    #[arg(long, value_name = "FILE", required_unless_present = "kernel")]
    image: Option<PathBuf>,
    /// Kernel of the host to boot instead of the image's
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Initrd of the host to use instead of the image's
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Kernel arguments to add after the platform's own
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    append: Option<String>,
    /// What machine the guest sees: scribe-pc-1, or scribe-pc-2 (APICs and ACPI), which is in the making: its recordings
    /// replay with the same version of this program only
    #[arg(long, value_name = "PLATFORM", value_parser = parse::platform)]
    platform: Option<Platform>,
    /// Guest RAM
    #[arg(long, value_name = "SIZE", default_value = "128M", value_parser = parse::bytes)]
    memory: u64,
    /// Number of vCPUs; this version has one
    #[arg(long, value_name = "N", default_value_t = 1)]
    vcpus: u32,
    /// What executes the guest
    #[arg(long, value_enum, default_value_t = EngineChoice::Auto)]
    engine: EngineChoice,
    /// CPU profile that the guest sees [default: scribe-v1; scribe-v1-tsc for a kernel that is not ours]
    #[arg(long, value_name = "PROFILE")]
    cpu: Option<String>,
    /// Where timers, input and stops may come between two instructions [default: counted on soft, and on kvm if the
    /// processor has a counter; else exit]
    #[arg(long, value_enum)]
    sync_points: Option<SyncPointsChoice>,
    /// Whether the processor's own branch counter is used on kvm (`scribe-vmm doctor --pmu` says whether it can be)
    #[arg(long, value_enum, default_value_t = CounterChoice::Auto)]
    counter: CounterChoice,
    /// What the soft CPU does where the manuals leave it open: `zen` or `tcg` [default: zen]
    #[arg(long, value_name = "NAME")]
    behaviour: Option<String>,
    /// What the guest's real-time clock shows at power-on: `host` or a UTC time
    #[arg(long, value_name = "host|TIME", default_value = "host", value_parser = parse::rtc)]
    rtc: parse::Rtc,
    /// Entropy for the guest, hexadecimal [default: from the host]
    #[arg(long, value_name = "HEX", value_parser = parse::seed)]
    seed: Option<[u8; 32]>,
    #[command(flatten)]
    pub(super) live: LiveArgs,
    /// For tests: a virtio console whose terminal has this size, and whose output is shown with the serial port's
    #[arg(long, value_name = "COLSxROWS", hide = true, value_parser = parse::terminal)]
    virtio_console: Option<(u16, u16)>,
    /// For tests: kick the vCPU at random intervals of so many microseconds
    #[arg(long, value_name = "MIN..MAX", hide = true, value_parser = parse::range)]
    perturb: Option<(u64, u64)>,
    /// Command for the guest's init to run, and its arguments; without one there is a shell on the console
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// How a live guest is connected to the host, and when its run ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub(super) struct LiveArgs {
    /// Whether idle time passes on the host too [default: real at a terminal, else max]
    #[arg(long, value_enum)]
    pace: Option<PaceChoice>,
    /// Console input from a file instead of standard input
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// End the run after this much host time
    #[arg(long = "for", value_name = "TIME", value_parser = parse::duration)]
    host_limit: Option<u64>,
    /// End the run at this guest time
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    guest_time: Option<u64>,
    /// End the run if the guest makes no exit for this much host time
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    max_silence: Option<u64>,
    /// Where nothing counts branches: bring a guest that has made no exit for this long to a sync point, if a timer or
    /// input waits for it; `off` for never. A run that takes its time from the host, with --pace real or live input,
    /// does so after 10 ms; another only if this is given, since it repeats no more then
    #[arg(long, value_name = "TIME|off", value_parser = parse::duration_or_off)]
    capture_after: Option<u64>,
    /// Network: none, user (through the program passt, no privileges), or tap=NAME (an interface of the host) [default: none]
    #[arg(long, value_name = "BACKEND", value_parser = parse::net)]
    net: Option<parse::Net>,
    /// Write the frames of the guest's network to a file in pcap format, with guest time
    #[arg(long, value_name = "FILE")]
    pub(super) net_capture: Option<PathBuf>,
    /// Exit with the guest command's status; our own errors become 125 and above
    #[arg(long = "return")]
    pub(super) return_status: bool,
}

/// Of a run under chaos.
#[derive(Debug, Args)]
pub(super) struct ShakeArgs {
    /// Make interrupts and inputs late, each as hardware could, to provoke races: one run for each seed
    #[arg(long, value_name = "SEED")]
    pub(super) chaos: Option<u64>,
}

impl LiveArgs {
    /// Refuses a limit on guest time that is over at `now` (ns), where the guest is to go live.
    pub(super) fn check_time(&self, now: u64) -> Result<(), Failure> {
        match self.guest_time.filter(|limit| *limit <= now) {
            None => Ok(()),
            Some(limit) => {
                let (limit, now) = (seconds(limit), seconds(now));
                let text = format!(
                    "--guest-time {limit}: guest time is {now} already; it counts from the recording's power-on"
                );
                Err(Failure::new(exit::ERROR, anyhow::Error::msg(text)))
            }
        }
    }

    /// Opens the inputs.
    pub(super) fn connect(&self) -> Result<(Connections, Pace), Failure> {
        let mut connections = self.connect_apart()?;
        if self.input.is_none() {
            connect_stdin(&mut connections).context("standard input")?;
        }
        let pace = match self.pace {
            None if std::io::stdin().is_terminal() => Pace::Real,
            _ => self.pace_apart(),
        };
        Ok((connections, pace))
    }

    /// The pace of a run that nobody types at.
    pub(super) fn pace_apart(&self) -> Pace {
        if self.pace == Some(PaceChoice::Real) { Pace::Real } else { Pace::Max }
    }

    /// Opens the inputs, but for standard input.
    pub(super) fn connect_apart(&self) -> Result<Connections, Failure> {
        let mut connections = Connections {
            host_limit: self.host_limit,
            guest_limit: self.guest_time,
            max_silence: self.max_silence,
            captures: self
                .capture_after
                .map_or_else(Captures::default, |after| Captures { after, always: true }),
            ..Connections::none()
        };
        match &self.input {
            None => {}
            Some(path) => {
                let file = File::open(path).with_context(|| format!("{}: cannot be read", path.display()))?;
                if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
                    let text = format!(
                        "{}: not a regular file; live input comes through standard input",
                        show(path)
                    );
                    return Err(Failure::new(exit::ERROR, anyhow::Error::msg(text)));
                }
                connections.input = Some(file);
            }
        }
        if let Some(parse::Net(Some(backend))) = &self.net {
            connections.net = Some(net::open(backend)?);
        }
        if let Some(path) = &self.net_capture {
            connections.capture = Some(capture(path)?);
        }
        Ok(connections)
    }
}

/// How a live guest is recorded.
#[derive(Debug, Default, PartialEq, Eq, Args)]
pub(super) struct RecorderArgs {
    /// Set a bookmark every so much guest time: every-1, every-2, ...
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    bookmark_every: Option<u64>,
    /// Keep a snapshot of the whole machine every so much guest time, to start replays from
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    snapshot_every: Option<u64>,
    /// Have the host's disk store what is sealed, so that it survives a loss of power; slower
    #[arg(long)]
    durable: bool,
    /// How much is noted: 0 what replay needs, 1 also the state at each checkpoint, 2 also interrupts, disk requests and
    /// console output, 3 also every exit (log --expand finds all of it in a recording of level 0)
    #[arg(long, value_name = "LEVEL", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=3))]
    log_level: u8,
}

impl RecorderArgs {
    /// In the session's form.
    pub(super) fn noting(&self) -> Noting {
        Noting {
            bookmark_every: self.bookmark_every,
            snapshot_every: self.snapshot_every,
            durable: self.durable,
            level: Level::from_number(self.log_level).unwrap_or_default(),
        }
    }
}

/// What a guest's real-time clock shows that the host has no part in: 2026-01-01.
const FIXED_RTC: u64 = 1_767_225_600;

/// What was asked for, checked and opened.
pub(super) struct Prepared {
    pub(super) guest: GuestConfig,
    pub(super) connections: Connections,
    pub(super) store: Store,
    pub(super) cache: DigestCache,
    pub(super) host: Host,
}

impl GuestArgs {
    /// Nothing is the host's that can be fixed: what it is not told, the guest is told the same in each run.
    pub(super) fn fix(&mut self) {
        self.seed = self.seed.or(Some([0; 32]));
        if self.rtc == parse::Rtc::Host {
            self.rtc = parse::Rtc::At(FIXED_RTC);
        }
    }

    /// Checks the options and this host, and opens the inputs.
    pub(super) fn prepare(self, digest_every: u64) -> Result<Prepared, Failure> {
        let (connections, pace) = self.live.connect()?;
        self.prepare_with(digest_every, connections, pace)
    }

    /// As [`prepare`](Self::prepare), with these inputs.
    pub(super) fn prepare_with(
        self,
        digest_every: u64,
        mut connections: Connections,
        pace: Pace,
    ) -> Result<Prepared, Failure> {
        self.check_supported()?;
        let (engine, host) = self.engine.wish(true)?;
        let counter = match self.sync_points {
            Some(SyncPointsChoice::Exit) => Err("there are to be sync points at exits only".into()),
            _ => self.counter.counter(&engine),
        };
        connections.perturb = self.perturb;
        let rtc = match self.rtc {
            parse::Rtc::Host => clock::unix_seconds(),
            parse::Rtc::At(seconds) => seconds,
        };
        let seed = match self.seed {
            Some(seed) => seed,
            None => entropy::seed().context("/dev/urandom")?,
        };
        let store = store()?;
        let mut devices = Vec::new();
        if connections.net.is_some() {
            devices.push(Device::Net { mac: DEFAULT_MAC });
        }
        devices.extend(self.virtio_console.map(|(cols, rows)| Device::Console { cols, rows }));
        let guest = GuestConfig {
            devices,
            image: self.image,
            kernel: self.kernel,
            initrd: self.initrd,
            append: self.append,
            platform: self.platform,
            memory: self.memory,
            command: self.command.into_iter().map(OsStringExt::into_vec).collect(),
            seed,
            rtc: i64::try_from(rtc).unwrap_or(i64::MAX),
            pace,
            digest_every,
            engine,
            cpu: self.cpu,
            sync_points: self.sync_points.map(|choice| match choice {
                SyncPointsChoice::Counted => SyncPoints::Counted,
                SyncPointsChoice::Exit => SyncPoints::Exit,
            }),
            behaviour: self.behaviour,
            counter,
            chaos: None,
        };
        Ok(Prepared { guest, connections, cache: DigestCache::new(store.home()), store, host })
    }

    fn check_supported(&self) -> Result<(), Failure> {
        let unsupported = |what: String| Err(Failure::new(exit::ERROR, anyhow::Error::msg(what)));
        if self.vcpus != 1 {
            return unsupported(format!("--vcpus {}: this version has one vCPU; use --vcpus 1", self.vcpus));
        }
        Ok(())
    }
}

/// Standard input as the console: a terminal, a stream, or a regular file, which is the same as `--input`.
fn connect_stdin(connections: &mut Connections) -> std::io::Result<()> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        connections.console = ConsoleSource::Terminal;
        return Ok(());
    }
    let file = File::from(stdin.as_fd().try_clone_to_owned()?);
    let about = file.metadata()?;
    if about.is_file() {
        connections.input = Some(file);
    } else if !(about.file_type().is_char_device() && about.rdev() == libc::makedev(1, 3)) {
        // Anything but /dev/null, from which nothing comes: a run that waits for it only until it is found to be at its end
        // would begin as one with live input, for as long as the host takes.
        connections.console = ConsoleSource::Stream;
    }
    Ok(())
}

/// A capture of the guest's network.
pub(super) fn capture(path: &Path) -> Result<pcap::Capture, Failure> {
    Ok(pcap::Capture::create(path).with_context(|| format!("{}: no network capture", show(path)))?)
}

/// What was recorded, on stderr.
pub(super) fn tell_recorded(directory: &Path, summary: &Summary) {
    let bytes = summary.sizes.header + summary.sizes.events;
    let (exits, inputs) = (summary.end.exits, summary.end.inputs);
    say!("recorded {}: {exits} exits, {inputs} inputs, {bytes} bytes", show(directory));
}

/// What the captured sync points of a recording cost, on stderr.
pub(super) fn tell_captures(report: &LiveReport) {
    let Some(Report { count, median, pages, bytes, working_set }) = report.captures else { return };
    let plural = |count: u64| if count == 1 { "" } else { "s" };
    say!(
        "{count} captured sync point{}, each {}.{} ms in the middle, {pages} pages in {bytes} bytes; a guest that writes \
         up to {working_set} page{} between two keeps 100 a second on this host",
        plural(count),
        median / 1_000_000,
        median % 1_000_000 / 100_000,
        plural(working_set)
    );
}

/// Where recordings live.
pub(super) fn store() -> Result<Store, Failure> {
    Ok(Store::locate(None, |name| std::env::var_os(name))?)
}

/// The probe's facts in the recording's form.
pub(super) fn facts(host: HostFacts) -> Host {
    Host {
        cpu_model: host.cpu_model,
        microcode: host.microcode,
        kernel_release: host.kernel_release,
        kvm_module: host.kvm_module,
    }
}

/// Where files without a name go: a file system that can be large, if there is one.
pub(super) fn scratch() -> PathBuf {
    if let Some(directory) = std::env::var_os("TMPDIR") {
        return PathBuf::from(directory);
    }
    let large = PathBuf::from("/var/tmp");
    if large.is_dir() { large } else { PathBuf::from("/tmp") }
}

/// The guest's console on standard output, or nowhere.
pub(super) fn console(quiet: bool) -> Console {
    if quiet { Console::quiet() } else { Console::to(Box::new(std::io::stdout())) }
}

/// The program's exit code for a live machine's end.
pub(super) fn exit_code(report: &LiveReport, return_status: bool) -> u8 {
    match (&report.cause, return_status) {
        (EndCause::PowerOff { status }, true) => *status,
        (cause, false) => exit::of_end(cause),
        (cause, true) => match exit::of_end(cause) {
            0 => 0,
            code => exit::under_return(code),
        },
    }
}

/// How the guest ended, on stderr, where that is not simply success.
pub(super) fn tell_end(report: &LiveReport) {
    let detail = report.fault_detail.as_ref().map_or_else(String::new, |detail| format!("; {detail}"));
    if !matches!(report.cause, EndCause::PowerOff { status: 0 }) {
        say!("the guest {}{detail} (exit:{})", describe(&report.cause), report.exits);
    }
    if let EndCause::TripleFault { last_exit, .. } = &report.cause {
        let registers: Vec<String> =
            last_exit.named().iter().map(|(name, value)| format!("{name}={value:#x}")).collect();
        say!("registers at its last exit: {}", registers.join(" "));
    }
}

/// A path for messages.
pub(super) fn show(path: &Path) -> String {
    path.display().to_string()
}
