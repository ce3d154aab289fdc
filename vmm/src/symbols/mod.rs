//! The guest kernel's symbols: names for addresses in it, and what the guest is in the middle of.
//!
//! * [`table`]: names and addresses, out of an ELF symbol table or a `System.map`
//! * [`find`]: which file has them
//! * [`anchor`]: how far the running kernel is from where it was linked
//! * [`paging`]: guest memory by virtual address, looked at without a trace
//! * `unwind`: how far a function has moved its stack pointer, from its code
//! * [`stack`]: the way from where the guest is to where it came from
//!
//! All of it only looks. Kernel, files and memory are the guest's: nothing in them is believed without a check, and a name
//! that may be wrong is not given.

pub mod anchor;
pub mod find;
pub mod paging;
pub mod stack;
pub mod table;
mod unwind;

pub use stack::{StackTrace, trace};
pub use table::{Symbol, Symbols};
