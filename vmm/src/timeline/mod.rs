//! A recording as a picture: what happened in the guest along its time, on one page that needs nothing else.
//!
//! The recording is replayed with an observer that collects ([`data`]); [`page`] writes what it saw.

mod classify;
pub mod data;
pub mod lane;
pub mod pack;
pub mod page;
pub mod text;

use scribe_log::header::Header;

use crate::machine::observe::Moment;
use crate::session::console::Console;
use crate::session::place::Where;
use crate::session::player::{Player, Stay};
use crate::session::replay::{Outcome, Target};
use crate::session::start::StartError;
use data::{Collector, Seen};

/// A replayed recording.
#[derive(Debug)]
pub struct Timeline {
    /// the recording's header
    pub header: Header,
    /// what the replay came to
    pub outcome: Outcome,
    /// what was seen
    pub seen: Seen,
    /// bookmarks that can be named where a place is wanted; others are only reached by their positions
    pub named: Vec<String>,
}

/// Replays a recording from where the player is to its end and collects what happens.
///
/// # Errors
/// Those of a replay: among them a divergence.
pub fn collect(player: &mut Player) -> Result<Timeline, StartError> {
    let machine = player.machine();
    let begin = Moment { position: machine.position(), guest_time: machine.guest_time() };
    let bookmarks = player.recording().bookmarks()?;
    let is_named = |label: &str, position| {
        matches!(label.parse(), Ok(Where::Bookmark(_)))
            && bookmarks.find(label).is_some_and(|found| found.bookmark.position == position)
    };
    let named = bookmarks
        .iter()
        .map(|listed| (listed.label().to_string(), listed.bookmark.position))
        .filter(|(label, position)| is_named(label, *position))
        .map(|(label, _)| label)
        .collect();
    let (collector, seen) = Collector::new(begin, &bookmarks);
    player.watch().observe(Box::new(collector));
    let stay = player.run(Target::End, &mut Console::quiet());
    drop(player.machine_mut().take_observer());
    let outcome = match stay? {
        Stay::Ended(outcome) => outcome,
        Stay::Paused | Stay::Leaving => Outcome::Interrupted(player.machine().position()),
    };
    let mut seen = seen.take();
    seen.finish();
    Ok(Timeline { header: player.header().clone(), outcome, seen, named })
}
