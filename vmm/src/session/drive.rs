//! The loop that takes a machine from sync point to sync point under a policy, and can be left and entered again at any
//! place where a machine can be looked at.

use scribe_log::{EndCause, Position};
use serde::{Deserialize, Serialize};

use super::console::Console;
use super::{Flow, Place, Policy, SessionError};
use crate::engine::Progress;
use crate::machine::{Machine, Step};

/// What comes next for the machine at its position. Part of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// it has just come to a sync point, and nothing has happened there
    Arrived,
    /// all that happens at the sync point has happened; the guest is halted and nothing wakes it at this time
    Idle,
    /// the guest runs; it may be at any place behind the sync point
    Running,
}

/// Where a driver stands at its machine's position, and what of the log was taken there. Part of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stand {
    /// what comes next
    pub phase: Phase,
    /// guest time (ns) when the machine came to the position; a guest that sleeps there may be further
    pub arrived: u64,
    /// events at the position that have been taken, markers not counted: they are not to come again
    pub taken: u64,
}

impl Stand {
    /// Of a machine that has just come to its position, at this guest time (ns).
    pub fn arrived(at: u64) -> Self {
        Self { phase: Phase::Arrived, arrived: at, taken: 0 }
    }
}

/// Why the driver came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Run {
    /// the policy wanted a pause, or the machine is where it wanted one
    Paused,
    /// the machine has ended
    Ended(EndCause),
}

/// Drives one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Driver {
    phase: Phase,
}

impl Default for Driver {
    /// For a machine that has just been switched on.
    fn default() -> Self {
        Self::at(Phase::Arrived)
    }
}

enum Left {
    Paused,
    Ended(EndCause, Place),
}

impl Driver {
    /// For a machine in this phase.
    pub fn at(phase: Phase) -> Self {
        Self { phase }
    }

    /// The machine's phase.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Makes a sync point of the place where the machine was paused, if there is none yet: from here on its run is another
    /// than the one before.
    pub fn make_sync_point(&mut self, machine: &mut Machine) {
        if self.phase == Phase::Running {
            machine.arrive();
            self.phase = Phase::Arrived;
        }
    }

    /// Runs `machine` under `policy` to a pause or to its end.
    ///
    /// # Errors
    /// Failures of the host or of the log, and divergences.
    pub fn run(
        &mut self,
        machine: &mut Machine,
        policy: &mut dyn Policy,
        console: &mut Console,
    ) -> Result<Run, SessionError> {
        let left = self.until_left(machine, policy, console);
        // What happened to the guest matters more than what happened to its console.
        let shown = console.write(&machine.take_output()).and_then(|()| console.flush());
        match left? {
            Left::Paused => shown.map(|()| Run::Paused),
            Left::Ended(cause, place) => {
                policy.finish(machine, &cause, place)?;
                shown.map(|()| Run::Ended(cause))
            }
        }
    }

    fn until_left(
        &mut self,
        machine: &mut Machine,
        policy: &mut dyn Policy,
        console: &mut Console,
    ) -> Result<Left, SessionError> {
        loop {
            if self.phase == Phase::Arrived {
                if policy.pause(machine).is_some_and(|place| machine.position() >= place) {
                    return Ok(Left::Paused);
                }
                match policy.at_sync_point(machine)? {
                    Flow::Continue => {}
                    Flow::End(cause) => return Ok(Left::Ended(cause, Place::Position)),
                    Flow::Pause => return Ok(Left::Paused),
                }
                machine.settle()?;
                self.phase = Phase::Idle;
            }
            while self.phase == Phase::Idle {
                if !machine.is_halted() {
                    self.phase = Phase::Running;
                    break;
                }
                // Only if it was wanted since the guest fell asleep: at the position's first moment it would have paused.
                if policy.pause(machine).is_some_and(|place| machine.position() >= place) {
                    return Ok(Left::Paused);
                }
                if !machine.can_wake() {
                    return Ok(Left::Ended(EndCause::HaltedForever, Place::Position));
                }
                console.flush()?;
                match policy.idle(machine, machine.next_wake())? {
                    Flow::Continue => {}
                    Flow::End(cause) => return Ok(Left::Ended(cause, Place::Position)),
                    Flow::Pause => return Ok(Left::Paused),
                }
                machine.settle()?;
            }
            while self.phase == Phase::Running {
                if policy.leap(machine)? {
                    self.phase = Phase::Arrived;
                    break;
                }
                let until = policy.until(machine);
                let here = machine.position();
                let pause = policy.pause(machine).filter(|place| place.exit == here.exit);
                let pause = pause.map(|Position { branches, steps, .. }| Progress { branches, steps });
                match machine.step(until, pause)? {
                    Step::SyncPoint => self.phase = Phase::Arrived,
                    Step::Paused => return Ok(Left::Paused),
                    Step::Kicked => {
                        console.flush()?;
                        match policy.kicked(machine)? {
                            Flow::Continue if policy.capture(machine)? => self.phase = Phase::Arrived,
                            Flow::Continue => {}
                            Flow::End(cause) => return Ok(Left::Ended(cause, Place::Beyond)),
                            Flow::Pause => return Ok(Left::Paused),
                        }
                    }
                    Step::Ended(cause) => {
                        let place = place_of(&cause);
                        return Ok(Left::Ended(cause, place));
                    }
                }
            }
            console.write(&machine.take_output())?;
        }
    }
}

/// A guest that ends itself by an exit is at that exit's position; a fault comes somewhere behind the last one.
fn place_of(cause: &EndCause) -> Place {
    match cause {
        EndCause::TripleFault { .. } | EndCause::RefusedInstruction { .. } => Place::Beyond,
        _ => Place::Position,
    }
}
