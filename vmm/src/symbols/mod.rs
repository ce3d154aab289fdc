//! The guest kernel's symbols: names for addresses in it, and what the guest is in the middle of.
//!
//! * [`table`]: names and addresses, out of an ELF symbol table or a `System.map`
//! * [`find`]: which file has them
//! * [`kallsyms`]: the table that a running kernel carries with it
//! * [`anchor`]: how far the running kernel is from where it was linked
//! * [`paging`]: guest memory by virtual address, looked at without a trace
//! * `unwind`: how far a function has moved its stack pointer, from its code
//! * [`stack`]: the way from where the guest is to where it came from
//!
//! All of it only looks. Kernel, files and memory are the guest's: nothing in them is believed without a check, and a name
//! that may be wrong is not given.

pub mod anchor;
pub mod find;
pub mod kallsyms;
pub mod paging;
pub mod stack;
pub mod table;
mod unwind;

use scribe_log::header::Header;

use crate::engine::cpu::CpuState;
pub use find::NoSymbols;
use paging::Virtual;
pub use stack::{StackTrace, trace};
pub use table::{Symbol, Symbols};

/// The symbols of the kernel that the processor in `state` is executing, where it runs: out of the files that `header` names,
/// else out of the guest's memory.
///
/// # Errors
/// There are none that fit. It may be too early: a kernel can be told from another once it has set up its entry points.
pub fn of_guest(header: &Header, state: &CpuState, memory: &Virtual<'_>) -> Result<Symbols, NoSymbols> {
    let of_files = find::find(header).and_then(|found| anchor::place(found, state, memory));
    of_files.or_else(|error| kallsyms::read(state, memory).ok_or(error))
}
