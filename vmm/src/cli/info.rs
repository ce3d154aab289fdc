//! `scribe-vmm info`: what a recording is.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use scribe_log::header::TimeConstants;
use scribe_log::{Body, Header, Recording, State};

use super::exit::{self, Failure};
use super::guest;
use crate::session::choice;
use crate::session::replay::describe;

/// Show what a recording is
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  scribe-vmm info\n  scribe-vmm info demo-3")]
pub(super) struct InfoArgs {
    /// The recording: a directory, or a name below the recordings' home [default: the latest]
    #[arg(value_name = "DIR")]
    recording: Option<PathBuf>,
}

pub(super) fn run(args: &InfoArgs) -> Result<u8, Failure> {
    let corrupt = |error| Failure::new(exit::RECORDING, error);
    let directory = guest::store()?.resolve(args.recording.as_deref())?;
    let recording = Recording::open(&directory).map_err(corrupt)?;
    let header = recording.header();
    let mut inputs = 0;
    let mut count = 0_u64;
    for event in recording.events() {
        let event = event.map_err(corrupt)?;
        count += 1;
        inputs += u64::from(matches!(event.body, Body::ConsoleInput { .. }));
    }
    let state = match recording.state() {
        State::Complete => "complete",
        State::Crashed => "not closed: its recorder was killed; it replays to its last sealed position",
        State::Running => "being recorded",
    };
    let end = match recording.last().map(|event| &event.body) {
        Some(Body::End(end)) => {
            let seconds = seconds(end.guest_time);
            format!("{}, after {} exits and {seconds} of guest time", describe(&end.cause), end.exits)
        }
        _ => recording
            .sealed_end()
            .map_or_else(|| "nothing sealed".into(), |(at, _)| format!("sealed at {at}")),
    };
    let sizes = recording.sizes();
    let words: Vec<String> =
        header.command.iter().map(|word| String::from_utf8_lossy(word).escape_debug().to_string()).collect();
    let rows = [
        ("recording", guest::show(&directory)),
        ("state", state.to_owned()),
        ("end", end),
        ("events", format!("{count}, of them {inputs} inputs")),
        (
            "size",
            format!(
                "{} bytes ({} header, {} events)",
                sizes.header + sizes.events,
                sizes.header,
                sizes.events
            ),
        ),
        (
            "image",
            header
                .image
                .as_ref()
                .map_or_else(|| "none".into(), |i| format!("{} ({} bytes)", guest::show(&i.path), i.size)),
        ),
        (
            "kernel",
            format!("{} ({:?})", guest::show(&header.kernel.path), header.kernel.origin).to_lowercase(),
        ),
        ("arguments", header.cmdline.clone()),
        ("command", if words.is_empty() { "none: a shell".into() } else { words.join(" ") }),
        (
            "machine",
            format!(
                "{}, {}, {} vCPU, {} MiB",
                header.platform,
                header.cpu,
                header.vcpus,
                header.memory >> 20
            ),
        ),
        ("engine", engine(header)),
        ("counter", header.counter.clone().unwrap_or_else(|| "none: sync points are exits".into())),
        ("clock", clock(header)),
        ("seed", header.seed.iter().map(|byte| format!("{byte:02x}")).collect()),
        (
            "host",
            [
                &header.host.cpu_model,
                &format!("Linux {}", header.host.kernel_release),
                &header.host.kvm_module,
            ]
            .into_iter()
            .filter(|part| !part.is_empty())
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", "),
        ),
        ("made by", format!("scribe-vmm {}", header.program)),
    ];
    let mut out = std::io::stdout().lock();
    for (name, value) in rows {
        if writeln!(out, "{name:<10} {value}").is_err() {
            return Ok(0); // the reader has gone away
        }
    }
    Ok(0)
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
    let branch = if ns_per_branch == 0 { String::new() } else { format!(", {ns_per_branch} ns a branch") };
    format!("starts at {} s since 1970, {ns_per_exit} ns an exit{branch}", header.rtc)
}

fn seconds(nanoseconds: u64) -> String {
    format!("{}.{:03} s", nanoseconds / 1_000_000_000, nanoseconds / 1_000_000 % 1000)
}
