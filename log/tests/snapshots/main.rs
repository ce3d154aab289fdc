//! Snapshots: what was added comes back, whatever happens to the files and to whoever writes them.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../common/mod.rs"]
mod common;
mod damage;
mod forged;
mod golden;
mod killed;
mod life;
mod machine;
mod shared;
