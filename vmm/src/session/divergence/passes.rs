//! Replaying an interval again.

use scribe_log::{EndCause, Position};

use super::Divergence;
use super::verdict::{End, Pass, Seen};
use crate::engine::Progress;
use crate::machine::Machine;
use crate::session::console::Console;
use crate::session::drive::{Driver, Run};
use crate::session::replay::{Outcome, Replay};
use crate::session::{Flow, Place, Policy, SessionError};

/// Most sync points of an interval whose digests are kept.
const MOST_KEPT: usize = 1 << 20;

/// A machine that is to replay the interval, at a place at or before its beginning.
pub struct Fresh {
    /// the machine
    pub machine: Machine,
    /// its driver
    pub driver: Driver,
    /// what it replays
    pub policy: Replay,
    /// it began with a snapshot that is no part of the recording
    pub from_snapshot: bool,
}

/// Replays the interval of `divergence`. `None`: it was stopped from outside. Gives the policy back.
///
/// # Errors
/// Failures of the host or of the recording.
pub fn pass(fresh: Fresh, divergence: &Divergence) -> Result<(Option<Pass>, Replay), SessionError> {
    let Fresh { mut machine, mut driver, mut policy, from_snapshot } = fresh;
    let from = machine.position();
    let mut watched = Watched {
        replay: &mut policy,
        after: divergence.agreed,
        until: divergence.found_at,
        trail: Vec::new(),
    };
    let run = driver.run(&mut machine, &mut watched, &mut Console::quiet());
    let trail = watched.trail;
    let end = match run {
        Ok(Run::Paused) => End::Passed,
        Ok(Run::Ended(_)) if matches!(policy.outcome(), Some(Outcome::Interrupted(_))) => {
            return Ok((None, policy));
        }
        Ok(Run::Ended(_)) => End::Passed,
        Err(SessionError::Diverged(found)) => End::Differs(Box::new(Seen::new(&mut machine, &found))),
        Err(other) => return Err(other),
    };
    Ok((Some(Pass { from, from_snapshot, end, trail }), policy))
}

/// A replay that ends behind an interval, and leaves a trail in it.
struct Watched<'a> {
    replay: &'a mut Replay,
    after: Position,
    until: Position,
    trail: Vec<(Position, u64)>,
}

impl Policy for Watched<'_> {
    fn at_sync_point(&mut self, machine: &mut Machine) -> Result<Flow, SessionError> {
        let here = machine.position();
        if here > self.until {
            return Ok(Flow::Pause);
        }
        if here > self.after && self.trail.len() < MOST_KEPT {
            self.trail.push((here, machine.rolling()));
        }
        self.replay.at_sync_point(machine)
    }

    fn idle(&mut self, machine: &mut Machine, deadline: Option<u64>) -> Result<Flow, SessionError> {
        self.replay.idle(machine, deadline)
    }

    fn until(&mut self, machine: &Machine) -> Option<Progress> {
        self.replay.until(machine)
    }

    fn kicked(&mut self, machine: &mut Machine) -> Result<Flow, SessionError> {
        self.replay.kicked(machine)
    }

    fn leap(&mut self, machine: &mut Machine) -> Result<bool, SessionError> {
        self.replay.leap(machine)
    }

    fn finish(&mut self, machine: &mut Machine, cause: &EndCause, place: Place) -> Result<(), SessionError> {
        self.replay.finish(machine, cause, place)
    }
}
