//! `scribe-vmm snapshot`: whole states of a recording's machine, to start replays from.

use std::path::Path;

use clap::{Args, Subcommand};
use scribe_log::snapshots::{Origin, SNAPSHOTS_DIR, SnapshotInfo, Snapshots, Usage};
use scribe_log::{Position, Recording};
use serde::Serialize;

use super::doctor::Format;
use super::exit::{self, Failure};
use super::output::{self, FORMAT, bytes, counted};
use super::recorded::{self, PlayArgs, RecordingArg};
use super::seek::{self, Spot};
use crate::session::drive::Phase;
use crate::session::place::{Where, seconds};
use crate::session::player::Player;
use crate::session::replay::Target;

/// List, add or remove a recording's snapshots
///
/// A replay to a place starts from the nearest snapshot before it. Replays keep some unasked; `snapshot add` keeps one where
/// it is wanted. None is needed but that which a branch starts from.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  scribe-vmm snapshot list\n  \
                        scribe-vmm snapshot add bug --at before-crash\n  \
                        scribe-vmm snapshot rm bug --automatic")]
pub(super) struct SnapshotArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    List(ListArgs),
    Add(AddArgs),
    Rm(RmArgs),
}

/// List a recording's snapshots, and what they take on disk
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  scribe-vmm snapshot list\n  scribe-vmm snapshot list bug --format json")]
struct ListArgs {
    #[command(flatten)]
    recording: RecordingArg,
    /// How to print them
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Replay to a place and keep a snapshot there
///
/// Of a guest that sleeps through a guest time it is kept where it went to sleep.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  scribe-vmm snapshot add --at 2.5s\n  \
                        scribe-vmm snapshot add bug --at before-crash")]
struct AddArgs {
    #[command(flatten)]
    recording: RecordingArg,
    /// The place: a bookmark, exit:N, a guest time such as 2.5s, or end
    #[arg(long, value_name = "WHERE")]
    at: Where,
    #[command(flatten)]
    play: PlayArgs,
}

/// Remove snapshots and give back the room they took
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  scribe-vmm snapshot rm --at exit:33838\n  \
                        scribe-vmm snapshot rm bug --at before-crash,2.5s\n  \
                        scribe-vmm snapshot rm bug --automatic\n  scribe-vmm snapshot rm bug --all")]
#[group(id = "which", required = true, multiple = false, args = ["at", "automatic", "all"])]
struct RmArgs {
    #[command(flatten)]
    recording: RecordingArg,
    /// Those at these places: bookmarks, positions, or guest times as `snapshot list` shows them
    #[arg(long, value_name = "WHERE[,WHERE...]", value_delimiter = ',', num_args = 1)]
    at: Vec<Where>,
    /// Those that replays have kept unasked
    #[arg(long)]
    automatic: bool,
    /// All, damaged ones too, but for that which a branch starts from
    #[arg(long)]
    all: bool,
}

pub(super) fn run(args: SnapshotArgs) -> Result<u8, Failure> {
    match args.action {
        Action::List(args) => list(&args),
        Action::Add(args) => add(args),
        Action::Rm(args) => rm(&args),
    }
}

/// What `--format json` prints. Fields are only ever added.
#[derive(Debug, Serialize)]
struct Document {
    format: u32,
    recording: String,
    snapshots: Vec<Entry>,
    damaged: Vec<String>,
    usage: Option<Bytes>,
}

#[derive(Debug, Serialize)]
struct Entry {
    position: String,
    guest_time: u64,
    origin: &'static str,
    pages: u64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Bytes {
    snapshots: u64,
    packs: u64,
    unused: u64,
}

fn open(recording: &Recording) -> Result<Snapshots, Failure> {
    Ok(Snapshots::open(recording.dir(), recording.header_crc())?)
}

fn list(args: &ListArgs) -> Result<u8, Failure> {
    let recording = args.recording.open()?;
    let snapshots = open(&recording)?;
    let damaged: Vec<String> = snapshots.damaged().iter().map(ToString::to_string).collect();
    let usage = snapshots.usage();
    let entries = snapshots.list().iter().map(|info| {
        let SnapshotInfo { position, guest_time, origin, bytes, pages } = *info;
        Entry { position: position.to_string(), guest_time, origin: origin.name(), pages, bytes }
    });
    if args.format == Format::Json {
        let usage = usage.as_ref().ok();
        let usage = usage.map(|&Usage { snapshots, packs, unused }| Bytes { snapshots, packs, unused });
        let recording = recording.dir().to_string_lossy().into_owned();
        let snapshots = entries.collect();
        return output::json(&Document { format: FORMAT, recording, snapshots, damaged, usage });
    }
    for error in &damaged {
        say!("damaged: {error}");
    }
    if snapshots.list().is_empty() {
        say!("{}: no snapshots", recording.dir().display());
        return Ok(0);
    }
    let rows = entries.map(|entry| {
        let Entry { position, guest_time, origin, pages, bytes } = entry;
        vec![position, seconds(guest_time), origin.to_owned(), pages.to_string(), output::bytes(bytes)]
    });
    output::print(&output::table(&["POSITION", ">GUEST TIME", "ORIGIN", ">PAGES", ">SIZE"], rows));
    let Usage { snapshots: own, packs, unused } = usage?;
    let total = bytes(own + packs);
    let count = counted(snapshots.list().len() as u64, "snapshot");
    Ok(output::print(&format!(
        "{count}, {total}: {} of pages that they share, {} of them unused\n",
        bytes(packs),
        bytes(unused)
    )))
}

fn add(args: AddArgs) -> Result<u8, Failure> {
    let recording = args.recording.open_to_change()?;
    let target = match seek::known(&args.at, &recording)? {
        Some(Spot { position, .. }) if args.at != Where::End => Target::Position(position),
        _ => seek::target(&args.at, &recording)?,
    };
    if let Target::Position(position) = target
        && let Some(there) = asked(&recording, position)?
    {
        return Ok(already(&there));
    }
    let play = args.play.prepare(&recording)?;
    let (mut player, ended) = seek::play_to(&play, &recording, target)?;
    if ended {
        let at = player.machine().position();
        let text = format!(
            "the guest has ended at {at}; a snapshot is taken of a guest that lives (--at an earlier place)"
        );
        return Err(Failure::new(exit::ERROR, anyhow::Error::msg(text)));
    }
    if player.phase() == Phase::Idle {
        // A replay that starts from a snapshot begins where the guest comes to a position, so that is where it is taken.
        let target = Target::Position(player.machine().position());
        drop(player);
        (player, _) = seek::play_to(&play, &recording, target)?;
    }
    match asked(&recording, player.machine().position())? {
        Some(there) => Ok(already(&there)),
        None => take(&mut player, &recording),
    }
}

/// The snapshot at `position`, if it is there to stay.
fn asked(recording: &Recording, position: Position) -> Result<Option<SnapshotInfo>, Failure> {
    let there = open(recording)?.at(position).cloned();
    Ok(there.filter(|there| matches!(there.origin, Origin::Asked | Origin::Start)))
}

fn already(there: &SnapshotInfo) -> u8 {
    say!("there is a snapshot at {} already", there.position);
    0
}

fn take(player: &mut Player, recording: &Recording) -> Result<u8, Failure> {
    let before = room(recording.dir());
    let info = player.take_snapshot(Origin::Asked)?;
    let (spot, pages) = (seek::spot(player), counted(info.pages, "page"));
    let added = bytes(room(recording.dir()).saturating_sub(before));
    say!("snapshot at {spot}: {pages}, {added} more on disk");
    Ok(0)
}

fn rm(args: &RmArgs) -> Result<u8, Failure> {
    let recording = args.recording.open_to_change()?;
    let mut snapshots = open(&recording)?;
    let before = room(recording.dir());
    let count = if args.all {
        snapshots.clear()?
    } else {
        let positions: Vec<Position> = if args.automatic {
            let automatic = |info: &&SnapshotInfo| matches!(info.origin, Origin::Automatic { .. });
            snapshots.list().iter().filter(automatic).map(|info| info.position).collect()
        } else {
            args.at.iter().map(|place| find(place, &recording, &snapshots)).collect::<Result<_, _>>()?
        };
        remove(&mut snapshots, &positions)?
    };
    let removed = counted(count as u64, "snapshot");
    let freed = || bytes(before.saturating_sub(room(recording.dir())));
    if count > 0
        && let Err(error) = snapshots.compact()
    {
        say!("removed {removed}, {} freed", freed());
        return Err(error.into());
    }
    say!("removed {removed}, {} freed", freed());
    Ok(0)
}

fn remove(snapshots: &mut Snapshots, positions: &[Position]) -> Result<usize, Failure> {
    let mut count = 0;
    for position in positions {
        count += usize::from(snapshots.remove(*position)?);
    }
    Ok(count)
}

/// The position of the snapshot that `place` means.
fn find(place: &Where, recording: &Recording, snapshots: &Snapshots) -> Result<Position, Failure> {
    let found = match place {
        Where::Time(time) => snapshots.list().iter().find(|info| info.guest_time == *time),
        _ => match recorded::target(place, recording)? {
            Target::Position(position) => snapshots.at(position),
            _ => recording.sealed_end().and_then(|(position, _)| snapshots.at(position)),
        },
    };
    if let Some(info) = found {
        return Ok(info.position);
    }
    let known: Vec<String> = snapshots.list().iter().take(8).map(|info| info.position.to_string()).collect();
    let more = if snapshots.list().len() > known.len() { ", ..." } else { "" };
    let known = match known.is_empty() {
        true => "there is none".to_owned(),
        false => format!("there are: {}{more}", known.join(", ")),
    };
    let text = format!("{}: no snapshot at {place}; {known}", recording.dir().display());
    Err(Failure::new(exit::ERROR, anyhow::Error::msg(text)))
}

/// Bytes that the snapshots of the recording in `dir` take, whatever they are.
pub(super) fn room(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir.join(SNAPSHOTS_DIR)) else { return 0 };
    entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum()
}
