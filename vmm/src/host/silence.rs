//! Kicks a guest that computes when a captured sync point is due: between two exits nothing else brings it back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use vmm_sys_util::timerfd::TimerFd;

use super::events::Shared;
use super::{clock, kick};

/// Host time (ns) between a kick and the next look: the guest's thread has said by then when the next one is due.
const AFTER_KICK: u64 = 1_000_000;
/// Host time (ns) between two looks, at least.
const LEAST: u64 = 100_000;

/// The timer. It goes off when a kick may be due and at no other time, since looking costs the guest's processor.
pub(super) struct Silence {
    pub(super) fd: TimerFd,
    shared: Arc<Shared>,
    target: kick::Target,
    after: u64,
}

impl Silence {
    /// For guests that are captured after so much host time (ns) without an exit.
    ///
    /// # Errors
    /// The host gave no file descriptor.
    pub(super) fn new(shared: Arc<Shared>, target: kick::Target, after: u64) -> std::io::Result<Self> {
        let mut silence = Self { fd: TimerFd::new()?, shared, target, after };
        silence.set(after)?;
        Ok(silence)
    }

    fn set(&mut self, nanoseconds: u64) -> std::io::Result<()> {
        Ok(self.fd.reset(Duration::from_nanos(nanoseconds.max(LEAST)), None)?)
    }

    /// The timer has gone off.
    pub(super) fn tick(&mut self) {
        let _ = self.fd.wait();
        let now = clock::monotonic_ns();
        let due = self.shared.capture_at.load(Ordering::Relaxed);
        let next = match self.shared.running.load(Ordering::Relaxed) && due != 0 {
            true if due <= now => {
                self.target.kick();
                AFTER_KICK
            }
            true => (due - now).min(self.after),
            false => self.after,
        };
        if let Err(error) = self.set(next) {
            tracing::error!("event loop: {error}");
        }
    }
}
