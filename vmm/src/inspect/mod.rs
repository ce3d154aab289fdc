//! Looking at what happens in a machine: names for it, markers of it, and the log as people and scripts read it.

pub mod check;
pub mod decode;
pub mod markers;
pub mod state;
