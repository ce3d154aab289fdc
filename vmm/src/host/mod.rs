//! The host's side: its clock, signals, terminal and event loop. Nothing here touches guest state.

pub mod clock;
pub mod entropy;
pub mod events;
pub mod kick;
pub mod pagemap;
pub mod perturb;
pub mod signals;
pub mod terminal;
