//! `scribe-vmm info`: what a recording is.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use clap::Args;
use scribe_log::header::{BootFile, Image, Level, Origin, Pace, TimeConstants};
use scribe_log::{Body, End, EndCause, Event, Header, Recording, State};
use serde::Serialize;

use super::doctor::Format;
use super::exit::Failure;
use super::output::{self, FORMAT, bytes, counted};
use super::recorded::RecordingArg;
use super::survey::{self, Files, Survey, sum};
use crate::session::choice;
use crate::session::place::seconds;
use crate::session::replay::describe;

/// Show what a recording is: how it was made, how it ended, what it holds
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  scribe-vmm info\n  scribe-vmm info demo-3\n  \
                        scribe-vmm info bug --format json | jq .end.text")]
pub(super) struct InfoArgs {
    #[command(flatten)]
    recording: RecordingArg,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn run(args: &InfoArgs) -> Result<u8, Failure> {
    let recording = args.recording.open()?;
    let survey = survey::survey(&recording)?;
    match args.format {
        Format::Json => output::json(&Document::new(&recording, &survey)),
        Format::Text => Ok(output::print(&text(&recording, &survey))),
    }
}

/// What `--format json` prints. Fields are only ever added.
#[derive(Debug, Serialize)]
struct Document<'a> {
    format: u32,
    recording: String,
    state: &'static str,
    /// as in the recording
    header: &'a Header,
    identity: Option<String>,
    level: u8,
    until: Option<Until>,
    end: Option<EndDocument>,
    events: &'a BTreeMap<&'static str, u64>,
    input_bytes: u64,
    bookmarks: &'a BTreeMap<&'static str, u64>,
    snapshots: &'a BTreeMap<&'static str, u64>,
    damaged_snapshots: &'a [String],
    files: Files,
}

/// Where the recording ends.
#[derive(Debug, Serialize)]
struct Until {
    position: String,
    guest_time: Option<u64>,
}

/// How its guest ended.
#[derive(Debug, Serialize)]
struct EndDocument {
    cause: &'static str,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u8>,
    exits: u64,
    guest_time: u64,
    inputs: u64,
}

impl<'a> Document<'a> {
    fn new(recording: &'a Recording, survey: &'a Survey) -> Self {
        let until = recording
            .last()
            .map(|event| Until { position: event.position.to_string(), guest_time: recording.end_time() });
        Self {
            format: FORMAT,
            recording: survey::path(recording.dir()),
            state: survey::state(recording.state()),
            header: recording.header(),
            identity: recording.header().identity().ok().map(|digest| hex(&digest)),
            level: recording.header().level.number(),
            until,
            end: end(recording).map(|end| EndDocument {
                cause: survey::cause(&end.cause),
                text: describe(&end.cause),
                status: match end.cause {
                    EndCause::PowerOff { status } => Some(status),
                    _ => None,
                },
                exits: end.exits,
                guest_time: end.guest_time,
                inputs: end.inputs,
            }),
            events: &survey.events,
            input_bytes: survey.input_bytes,
            bookmarks: &survey.bookmarks,
            snapshots: &survey.snapshots,
            damaged_snapshots: &survey.damaged,
            files: survey.files,
        }
    }
}

fn end(recording: &Recording) -> Option<&End> {
    match recording.last() {
        Some(Event { body: Body::End(end), .. }) => Some(end),
        _ => None,
    }
}

fn text(recording: &Recording, survey: &Survey) -> String {
    let header = recording.header();
    let mut rows = vec![
        ("recording", survey::path(recording.dir())),
        ("state", state(recording.state()).to_owned()),
        ("end", how_it_ends(recording)),
        ("events", list(&survey.events)),
        ("inputs", inputs(survey)),
        ("level", level(header.level)),
        ("bookmarks", list(&survey.bookmarks)),
        ("snapshots", list(&survey.snapshots)),
        ("size", sizes(&survey.files)),
    ];
    rows.extend(survey.damaged.iter().map(|error| ("damaged", error.clone())));
    if let Some(chaos) = header.chaos {
        rows.push(("chaos", format!("seed {}", chaos.seed)));
    }
    if let Some(parent) = &header.parent {
        rows.push(("parent", format!("{}, left at {}", survey::path(&parent.path), parent.at)));
        rows.push(("", format!("identity {}", hex(&parent.header))));
    }
    if let Some(start) = header.start {
        rows.push(("start", format!("{}, guest time {}", start.position, seconds(start.guest_time))));
    }
    rows.extend(image(header.image.as_ref()));
    rows.extend(boot_file("kernel", &header.kernel));
    rows.extend(header.initrd.iter().flat_map(|file| boot_file("initrd", file)));
    rows.extend([
        ("arguments", header.cmdline.clone()),
        ("command", command(&header.command)),
        ("machine", machine(header)),
        ("engine", engine(header)),
        ("counter", header.counter.clone().unwrap_or_else(|| "none: sync points are exits".into())),
        ("clock", clock(header)),
        ("digests", digests(header)),
        ("seed", hex(&header.seed)),
        ("host", host(header)),
        ("made by", format!("scribe-vmm {}", header.program)),
    ]);
    if let Ok(identity) = header.identity() {
        rows.push(("identity", hex(&identity)));
    }
    rows.iter().map(|(name, value)| format!("{name:<10} {}\n", output::plain(value))).collect()
}

fn state(state: State) -> &'static str {
    match state {
        State::Complete => "complete",
        State::Crashed => "crashed: its recorder was killed; it replays to its last sealed position",
        State::Running => "running: it is being recorded",
    }
}

fn how_it_ends(recording: &Recording) -> String {
    let time = |nanoseconds| format!("{} of guest time", seconds(nanoseconds));
    match (end(recording), recording.last()) {
        (Some(End { cause, exits, guest_time, .. }), _) => {
            format!("the guest {}, after {exits} exits and {}", describe(cause), time(*guest_time))
        }
        (None, Some(Event { position, .. })) => match recording.end_time() {
            Some(now) => format!("sealed at {position}, after {}", time(now)),
            None => format!("sealed at {position}"),
        },
        (None, None) => "nothing sealed".to_owned(),
    }
}

/// A sum, and what it is made of.
fn list(counts: &BTreeMap<&'static str, u64>) -> String {
    let parts: Vec<String> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
    match parts.is_empty() {
        true => "none".to_owned(),
        false => format!("{}: {}", sum(counts), parts.join(", ")),
    }
}

fn inputs(survey: &Survey) -> String {
    match survey.events.get("console-input") {
        None => "none".to_owned(),
        Some(count) => format!("{count}, {} of console input", counted(survey.input_bytes, "byte")),
    }
}

fn level(level: Level) -> String {
    let what = match level {
        Level::Inputs => "inputs and digests",
        Level::State => "also the state at each checkpoint",
        Level::Devices => "also interrupts, disk requests and console output",
        Level::Exits => "also every exit",
    };
    format!("{}: {what}", level.number())
}

fn sizes(files: &Files) -> String {
    let Files { header, events, bookmarks, snapshots, torn } = *files;
    let parts = [
        (header, "header"),
        (events, "events"),
        (bookmarks, "bookmarks"),
        (snapshots, "snapshots"),
        (torn, "half written"),
    ];
    let parts: Vec<String> = parts
        .into_iter()
        .filter(|(size, _)| *size > 0)
        .map(|(size, name)| format!("{} {name}", bytes(size)))
        .collect();
    format!("{}: {}", counted(files.total(), "byte"), parts.join(", "))
}

fn image(image: Option<&Image>) -> Vec<(&'static str, String)> {
    match image {
        None => vec![("image", "none: a machine without a disk".to_owned())],
        Some(Image { path, size, blake3 }) => vec![
            ("image", format!("{} ({size} bytes)", survey::path(path))),
            ("", format!("blake3 {}", hex(blake3))),
        ],
    }
}

fn boot_file(name: &'static str, file: &BootFile) -> [(&'static str, String); 2] {
    let origin = match file.origin {
        Origin::Image => "in the image",
        Origin::Host => "of the host",
    };
    [(name, format!("{} {origin}", survey::path(&file.path))), ("", format!("blake3 {}", hex(&file.blake3)))]
}

fn command(words: &[Vec<u8>]) -> String {
    let words: Vec<String> =
        words.iter().map(|word| String::from_utf8_lossy(word).escape_debug().to_string()).collect();
    if words.is_empty() { "none: a shell".to_owned() } else { words.join(" ") }
}

fn machine(header: &Header) -> String {
    let Header { platform, cpu, vcpus, memory, .. } = header;
    format!("{platform}, {cpu}, {vcpus} vCPU, {} of RAM", bytes(*memory))
}

/// The engine, and what its processor does where the manuals leave it open.
fn engine(header: &Header) -> String {
    let name = choice::name(header.engine);
    match &header.behaviour {
        Some(behaviour) => format!("{name}, behaves as {behaviour}"),
        None => name.into(),
    }
}

fn clock(header: &Header) -> String {
    let TimeConstants { ns_per_branch, ns_per_exit } = header.time;
    let start = match u64::try_from(header.rtc) {
        Ok(rtc) if rtc < 1 << 37 => {
            humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(rtc)).to_string()
        }
        _ => format!("{} s since 1970", header.rtc),
    };
    let pace = match header.pace {
        Pace::Real => "idle time as the host's",
        Pace::Max => "idle time passed over",
    };
    let branch = if ns_per_branch == 0 { String::new() } else { format!(", {ns_per_branch} ns a branch") };
    format!("{start} at power-on, {ns_per_exit} ns an exit{branch}, {pace}")
}

fn digests(header: &Header) -> String {
    let every = match header.digest_every {
        0 => "at the end".to_owned(),
        every => format!("every {every} exits"),
    };
    format!("version {}, of RAM {every}", header.digest_version)
}

fn host(header: &Header) -> String {
    let host = &header.host;
    let parts = [
        ("", &host.cpu_model),
        ("microcode ", &host.microcode),
        ("Linux ", &host.kernel_release),
        ("", &host.kvm_module),
    ];
    let known: Vec<String> = parts
        .iter()
        .filter(|(_, part)| !part.is_empty())
        .map(|(name, part)| format!("{name}{part}"))
        .collect();
    known.join(", ")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
