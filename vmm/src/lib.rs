//! scribe-vmm: a whole-VM deterministic record/replay hypervisor.
//!
//! A virtual machine is a pure function of its initial state and of the external inputs, each stamped with the exact
//! place in the guest's execution where it arrived. Recording writes that list down, replay feeds it back.
//!
//! * [`engine`]: what executes guest instructions, behind one trait
//! * [`machine`]: RAM, the bus and its devices, boot, guest time, digests
//! * [`session`]: record, replay, run: the only place that knows which of them is happening
//! * [`host`]: the host's clock, signals, terminal and event loop
//! * [`inspect`]: what happened, decoded: the log and its comparison
//! * [`symbols`]: names for addresses in the guest's kernel, and what it is in the middle of
//! * [`timeline`]: a recording as a picture
//! * [`pack`]: a recording as one file
//! * [`cli`]: the program's subcommands

/// Writes one of our lines to stderr, as `println!` would format it.
macro_rules! say {
    ($($text:tt)*) => { $crate::host::say(format_args!($($text)*)) };
}

pub mod cli;
pub mod engine;
pub mod host;
pub mod inspect;
pub mod machine;
pub mod pack;
pub mod session;
pub mod symbols;
pub mod timeline;
