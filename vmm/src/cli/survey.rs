//! What there is to count in a recording: for `info` and `ls`.

use std::collections::BTreeMap;
use std::path::Path;

use scribe_log::snapshots::Snapshots;
use scribe_log::{Body, EndCause, Recording, State, StopReason};
use serde::Serialize;

use super::exit::Failure;
use super::snapshot;

/// Numbers of what a recording holds, and its bytes on disk.
#[derive(Debug)]
pub(super) struct Survey {
    /// events by kind
    pub(super) events: BTreeMap<&'static str, u64>,
    /// bytes of console input
    pub(super) input_bytes: u64,
    /// bookmarks by who set them
    pub(super) bookmarks: BTreeMap<&'static str, u64>,
    /// snapshots by origin
    pub(super) snapshots: BTreeMap<&'static str, u64>,
    /// what is wrong with snapshots
    pub(super) damaged: Vec<String>,
    pub(super) files: Files,
}

/// Bytes on disk.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Files {
    pub(super) header: u64,
    pub(super) events: u64,
    pub(super) bookmarks: u64,
    pub(super) snapshots: u64,
    /// behind the events, half written by a killed recorder
    pub(super) torn: u64,
}

impl Files {
    pub(super) fn total(&self) -> u64 {
        self.header + self.events + self.bookmarks + self.snapshots + self.torn
    }
}

/// The sum of all numbers.
pub(super) fn sum(counts: &BTreeMap<&'static str, u64>) -> u64 {
    counts.values().sum()
}

/// Reads all of `recording` but the contents of its snapshots.
pub(super) fn survey(recording: &Recording) -> Result<Survey, Failure> {
    let (mut events, mut input_bytes) = (BTreeMap::new(), 0);
    for event in recording.events() {
        let body = event?.body;
        *events.entry(body.name()).or_default() += 1;
        if let Body::ConsoleInput { bytes } = &body {
            input_bytes += bytes.len() as u64;
        }
    }
    let mut bookmarks = BTreeMap::new();
    for listed in recording.bookmarks()?.iter() {
        *bookmarks.entry(listed.bookmark.origin.name()).or_default() += 1;
    }
    let found = Snapshots::open(recording.dir(), recording.header_crc())?;
    let mut snapshots = BTreeMap::new();
    for info in found.list() {
        *snapshots.entry(info.origin.name()).or_default() += 1;
    }
    let damaged = found.damaged().iter().map(ToString::to_string).collect();
    Ok(Survey { events, input_bytes, bookmarks, snapshots, damaged, files: files(recording) })
}

fn files(recording: &Recording) -> Files {
    let sizes = recording.sizes();
    Files {
        header: sizes.header,
        events: sizes.events,
        bookmarks: sizes.bookmarks,
        snapshots: snapshot::room(recording.dir()),
        torn: sizes.torn,
    }
}

/// Whether it is closed, in one word.
pub(super) fn state(state: State) -> &'static str {
    match state {
        State::Complete => "complete",
        State::Crashed => "crashed",
        State::Running => "running",
    }
}

/// A cause for scripts.
pub(super) fn cause(cause: &EndCause) -> &'static str {
    match cause {
        EndCause::PowerOff { .. } => "power-off",
        EndCause::Reset => "reset",
        EndCause::Panic { .. } => "panic",
        EndCause::TripleFault { .. } => "triple-fault",
        EndCause::RefusedInstruction { .. } => "refused-instruction",
        EndCause::HaltedForever => "halted",
        EndCause::Stopped { reason } => match reason {
            StopReason::User => "stopped-user",
            StopReason::HostTime => "stopped-host-time",
            StopReason::GuestTime => "stopped-guest-time",
            StopReason::Silence => "stopped-silence",
            StopReason::Signal => "stopped-signal",
        },
    }
}

/// A path in a document: what is no UTF-8 is replaced.
pub(super) fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
