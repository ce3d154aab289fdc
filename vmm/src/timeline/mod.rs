//! A recording as a picture: what happened in the guest along its time, on one page that needs nothing else.
//!
//! The recording is replayed with an observer that collects ([`data`]); [`page`] writes what it saw.

mod classify;
pub mod data;
pub mod lane;
pub mod pack;
pub mod page;
pub mod text;

use std::path::Path;

use scribe_log::header::{Header, Host};

use crate::session::console::Console;
use crate::session::files::DigestCache;
use crate::session::replay::Outcome;
use crate::session::start::{self, ReplayConfig, StartError};
use data::{Collector, Progress, Seen};

/// A replayed recording.
#[derive(Debug)]
pub struct Timeline {
    /// the recording's header
    pub header: Header,
    /// what the replay came to
    pub outcome: Outcome,
    /// what was seen
    pub seen: Seen,
}

/// Replays a recording to its end and collects what happens.
///
/// # Errors
/// Those of a replay: among them a divergence.
pub fn collect(
    config: &ReplayConfig,
    cache: &DigestCache,
    host_facts: &Host,
    scratch: &Path,
    progress: Progress,
) -> Result<Timeline, StartError> {
    let (collector, seen) = Collector::new(progress);
    let mut console = Console::quiet();
    let observer = Some(Box::new(collector) as Box<_>);
    let report = start::replay_observed(config, cache, host_facts, scratch, &mut console, observer)?;
    Ok(Timeline { header: report.header, outcome: report.outcome, seen: seen.take() })
}
