//! Kicks at random moments, for tests: a recording and its replays must not notice them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use super::{clock, kick};

/// Kicks a thread until dropped.
#[derive(Debug)]
pub struct Perturbation {
    stop: Arc<AtomicBool>,
    kicks: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Perturbation {
    /// Kicks `target` at intervals drawn from `least..=most` microseconds.
    pub fn start(target: kick::Target, least: u64, most: u64) -> Self {
        let (stop, kicks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (stop.clone(), kicks.clone());
        let thread = std::thread::spawn(move || {
            let mut state = clock::monotonic_ns() | 1;
            while !stopped.load(Ordering::Relaxed) {
                // xorshift64 (Marsaglia 2003)
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                clock::sleep_ns(1000 * (least + state % (most.saturating_sub(least) + 1)));
                target.kick();
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { stop, kicks, thread: Some(thread) }
    }

    /// Kicks so far.
    pub fn kicks(&self) -> u64 {
        self.kicks.load(Ordering::Relaxed)
    }
}

impl Drop for Perturbation {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
