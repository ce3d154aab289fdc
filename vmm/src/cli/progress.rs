//! How far a replay has come, on a terminal.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use indicatif::{ProgressBar, ProgressStyle};
use scribe_log::Recording;

use crate::host::clock;
use crate::host::events::Shared;
use crate::session::replay::Target;

const TICK_NS: u64 = 100_000_000;

/// A bar on standard error that lives as long as this; nothing where that is no terminal.
pub(super) struct Progress {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Watches a replay of `recording` on its way to `target`. `shown`: the guest's console goes to the same terminal, where
    /// a bar would be in its way.
    pub(super) fn watch(shared: Arc<Shared>, recording: &Recording, target: Target, shown: bool) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let visible = !shown && std::io::IsTerminal::is_terminal(&std::io::stderr());
        let thread = visible.then(|| {
            let (exits, time) = goal(recording, target);
            let done = done.clone();
            std::thread::spawn(move || draw(&shared, exits, time, &done))
        });
        Self { done, thread }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Exits or guest time (ns) at the end of the way; the other is 0.
fn goal(recording: &Recording, target: Target) -> (u64, u64) {
    match target {
        Target::Position(position) => (position.exit, 0),
        Target::Time(time) => (0, time),
        Target::End => recording.sealed_end().map_or((0, 0), |(position, _)| (position.exit, 0)),
    }
}

fn draw(shared: &Shared, exits: u64, time: u64, done: &AtomicBool) {
    let bar = ProgressBar::new(exits.max(time));
    if let Ok(style) = ProgressStyle::with_template("scribe-vmm: {bar:40} {percent:>3} %  {msg}  {elapsed}") {
        bar.set_style(style);
    }
    while !done.load(Ordering::Relaxed) {
        let (exit, now) = (shared.exits.load(Ordering::Relaxed), shared.guest_time.load(Ordering::Relaxed));
        bar.set_position(if time == 0 { exit } else { now });
        bar.set_message(format!("exit:{exit}"));
        clock::sleep_ns(TICK_NS);
    }
    bar.finish_and_clear();
}
