//! `scribe-vmm shrink`: drop what a replay does not need.

use std::collections::BTreeMap;

use clap::Args;
use scribe_log::snapshots::Snapshots;
use scribe_log::{Body, Recording, ShrinkOptions, Shrunk, shrink};

use super::exit::Failure;
use super::output::{bytes, counted, print};
use super::recorded::RecordingArg;
use super::snapshot::room;

/// Drop what a recording does not need to be replayed
///
/// Its markers, which it has if it was made with --log-level (`log --expand` finds all they say again), and its snapshots,
/// but for that which a branch starts from. It is then what would have been recorded without them, and replays as before.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  scribe-vmm shrink\n  scribe-vmm shrink bug --bookmarks")]
pub(super) struct ShrinkArgs {
    #[command(flatten)]
    recording: RecordingArg,
    /// Drop all bookmarks too, the guest's among them
    #[arg(long)]
    bookmarks: bool,
}

/// What there is to drop.
#[derive(Default)]
struct Counts {
    markers: BTreeMap<&'static str, u64>,
    guests: u64,
    others: u64,
}

pub(super) fn run(args: &ShrinkArgs) -> Result<u8, Failure> {
    let recording = args.recording.open_to_change()?;
    let dir = recording.dir();
    let counts = count(&recording)?;
    let before = room(dir);
    // First, since it reads everything: a recording with damage anywhere keeps what it has.
    let shrunk = shrink(dir, ShrinkOptions { drop_bookmarks: args.bookmarks })?;
    let mut snapshots = Snapshots::open(dir, Recording::open(dir)?.header_crc())?;
    let dropped = if snapshots.list().is_empty() && snapshots.damaged().is_empty() {
        0
    } else {
        let dropped = snapshots.clear()?;
        snapshots.compact()?;
        dropped
    };
    let snapshots = (dropped as u64, before, room(dir));
    Ok(print(&report(&counts, args.bookmarks, &shrunk, snapshots)))
}

fn count(recording: &Recording) -> Result<Counts, Failure> {
    let mut counts = Counts::default();
    for event in recording.events() {
        let body = event?.body;
        if body.is_marker() {
            *counts.markers.entry(body.name()).or_default() += 1;
        }
        counts.guests += u64::from(matches!(body, Body::Bookmark { .. }));
    }
    counts.others = (recording.bookmarks()?.len() as u64).saturating_sub(counts.guests);
    Ok(counts)
}

/// A line for each file, and one for all. Of snapshots: how many were dropped, bytes before, bytes after.
fn report(counts: &Counts, bookmarks: bool, shrunk: &Shrunk, snapshots: (u64, u64, u64)) -> String {
    let Shrunk { before, after, .. } = shrunk;
    let mut of_events = Vec::new();
    let markers: u64 = counts.markers.values().sum();
    if markers > 0 {
        let kinds: Vec<String> =
            counts.markers.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        of_events.push(format!("{} ({})", counted(markers, "marker"), kinds.join(", ")));
    }
    if bookmarks && counts.guests > 0 {
        of_events.push(format!("{} of the guest", counted(counts.guests, "bookmark")));
    }
    let number = |count: u64, one: &str| if count == 0 { Vec::new() } else { vec![counted(count, one)] };
    let others = if bookmarks { counts.others } else { 0 };
    let (dropped, room_before, room_after) = snapshots;
    let lines = [
        ("events", (before.header + before.events, after.header + after.events), of_events),
        ("bookmarks", (before.bookmarks, after.bookmarks), number(others, "bookmark")),
        ("snapshots", (room_before, room_after), number(dropped, "snapshot")),
    ];
    let mut text = String::new();
    for (name, (before, after), dropped) in lines {
        let dropped = if dropped.is_empty() { "nothing".to_owned() } else { dropped.join(", ") };
        text += &format!("{name:<10} {} -> {}: dropped {dropped}\n", bytes(before), bytes(after));
    }
    let (before, after) = (before.total() + room_before, after.total() + room_after);
    text + &format!("{:<10} {} -> {}\n", "in all", bytes(before), bytes(after))
}
