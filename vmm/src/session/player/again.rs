//! Beginning again: a processor's counter may let the guest run past a place, and a machine does not go back.

use scribe_log::snapshots::Snapshots;

use super::{Automatic, Player, Position, Target, start};
use crate::engine::EngineError;
use crate::host::events::HostLoop;
use crate::machine::MachineError;
use crate::session::SessionError;
use crate::session::divergence::passes::Fresh;
use crate::session::start::StartError;

/// How often a player begins again at most: each time with twice the skid, so the last has sixteen times the first.
pub(super) const ATTEMPTS: u32 = 4;

/// True if the guest ran past a place, and might not do so with more care.
pub(in crate::session) fn is_overshoot(error: &SessionError) -> bool {
    matches!(error, SessionError::Machine(MachineError::Engine(EngineError::Overshoot { .. })))
}

impl Player {
    /// Puts the machine back to the nearest snapshot before its last sync point, or to the start, with twice the skid. Gives
    /// that sync point: up to there the guest's console has been shown.
    ///
    /// # Errors
    /// `overshoot` itself, if it has happened too often, or if the machine is watched: what its watcher has seen cannot be
    /// taken back.
    pub(super) fn begin_again(&mut self, overshoot: SessionError) -> Result<Position, StartError> {
        let place = self.machine.position();
        let counter = self.choice.counter.as_ref().map(|counter| counter.with_twice_the_skid());
        let Some(counter) = counter.filter(|_| self.attempts > 0 && !self.lent) else {
            return Err(overshoot.into());
        };
        self.attempts -= 1;
        let snapshots = Snapshots::open(self.recording.dir(), self.recording.header_crc())?;
        let info = start(&self.recording, &snapshots, &self.wanted, Some(Target::Position(place)))?;
        if !self.wanted.quiet {
            let from = info.as_ref().map_or(Position::START, |info| info.position);
            say!("{overshoot}; the replay goes back to {from}, and steps further");
        }
        self.choice.counter = Some(counter);
        // There are few counters in a processor, and this machine's are not needed any more.
        self.machine.stop_counting();
        let silent = HostLoop::silent()
            .map_err(|error| StartError::Host { what: "a further replay", reason: error.to_string() })?;
        let host = self.policy.replace_host(silent);
        let Fresh { machine, driver, policy, .. } = self.fresh(&snapshots, info.as_ref(), host)?;
        self.machine = machine;
        self.driver = driver;
        self.policy = policy;
        if self.automatic.is_some() {
            self.automatic = Some(Automatic::new(snapshots, &self.machine));
        }
        Ok(place)
    }
}
