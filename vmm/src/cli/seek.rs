//! Finding the position that a place in a recording is, for subcommands that note something there: by what is known, or by
//! playing the guest to it.

use scribe_log::snapshots::Snapshots;
use scribe_log::{Event, Position, Recording, State};

use super::exit::{self, Failure};
use super::progress::Progress;
use super::recorded::{self, Play};
use crate::session::console::Console;
use crate::session::place::{Where, seconds};
use crate::session::player::{Player, Stay};
use crate::session::replay::{Outcome, Target};

/// A position that the guest comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) position: Position,
    /// guest time (ns) when it comes there, if it is known
    pub(super) guest_time: Option<u64>,
}

/// The spot that `place` is, if nothing need be played to know it: a bookmark, the start, the end, a snapshot's position.
pub(super) fn known(place: &Where, recording: &Recording) -> Result<Option<Spot>, Failure> {
    let target = recorded::target(place, recording)?;
    let position = match (place, target) {
        (Where::End, _) => return Ok(end(recording)),
        (_, Target::Position(position)) => position,
        _ => return Ok(None),
    };
    let start = recording.start();
    if position == start.position {
        return Ok(Some(Spot { position, guest_time: Some(start.guest_time) }));
    }
    if let Some(info) = Snapshots::open(recording.dir(), recording.header_crc())?.at(position) {
        return Ok(Some(Spot { position, guest_time: Some(info.guest_time) }));
    }
    let bookmarks = recording.bookmarks()?;
    let mut there = bookmarks.iter().map(|it| &it.bookmark).filter(|it| it.position == position).peekable();
    Ok(there.peek().is_some().then(|| Spot { position, guest_time: there.find_map(|it| it.guest_time) }))
}

fn end(recording: &Recording) -> Option<Spot> {
    let Event { position, .. } = recording.last()?;
    Some(Spot { position: *position, guest_time: recording.end_time() })
}

/// The target of a replay that wants to be at `place`, with the guest alive if there is one: at the end of a recording that
/// was not closed it is.
pub(super) fn target(place: &Where, recording: &Recording) -> Result<Target, Failure> {
    let target = recorded::target(place, recording)?;
    match (target, recording.sealed_end()) {
        (Target::End, Some((position, _))) if recording.state() != State::Complete => {
            Ok(Target::Position(position))
        }
        _ => Ok(target),
    }
}

/// Plays `recording` to `target`. The player comes back with the guest there, or at its end if that comes first, which the
/// flag says.
pub(super) fn play_to(play: &Play, recording: &Recording, target: Target) -> Result<(Player, bool), Failure> {
    let mut player = play.player(recording, true, Some(target))?;
    let stay = {
        let _progress = Progress::watch(player.shared(), recording, target, false);
        player.run(target, &mut Console::quiet()).map_err(recorded::failure)?
    };
    match stay {
        Stay::Paused => Ok((player, false)),
        Stay::Ended(Outcome::Complete(_) | Outcome::SealedEnd(_)) => Ok((player, true)),
        Stay::Leaving | Stay::Ended(Outcome::Interrupted(_)) => {
            let at = player.machine().position();
            Err(Failure::new(exit::ERROR, anyhow::anyhow!("stopped at {at}, before the place was found")))
        }
    }
}

/// Where a player is, as what is noted there has it: a sleeping guest is where it went to sleep.
pub(super) fn spot(player: &Player) -> Spot {
    let (position, guest_time) = player.arrival();
    Spot { position, guest_time: Some(guest_time) }
}

impl std::fmt::Display for Spot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { position, guest_time } = self;
        match guest_time {
            Some(time) => write!(f, "{position}, guest time {}", seconds(*time)),
            None => position.fmt(f),
        }
    }
}
