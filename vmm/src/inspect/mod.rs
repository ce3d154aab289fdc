//! Looking at what happens in a machine: names for it, markers of it, and the log as people and scripts read it.

pub mod blocks;
pub mod check;
pub mod decode;
pub mod diff;
pub mod filter;
pub mod json;
pub mod list;
pub mod markers;
pub mod row;
pub mod state;
pub mod summary;
pub mod text;

#[cfg(test)]
mod tests;
