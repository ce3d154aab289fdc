//! The host's side: its clock, signals, terminal and event loop. Nothing here touches guest state.

pub mod clock;
pub mod entropy;
pub mod events;
pub mod kick;
pub mod net;
pub mod pagemap;
pub mod perf;
pub mod perturb;
pub mod signals;
mod silence;
pub mod terminal;

use std::io::Write;

/// Writes a line of ours to stderr. A stderr that is gone is no reason to lose a guest.
pub fn say(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "scribe-vmm: {text}");
}
