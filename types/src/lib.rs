//! The plain types that cross between the machine and its engines: CPU state, stops, executed code, CPU profiles, the MSR
//! table.
//!
//! No behaviour here: an engine (`scribe-soft-cpu`, KVM) and the machine around it must agree on these, and neither should
//! have to know the other.

pub mod cpu;
pub mod cpuid;
pub mod executed;
pub mod msr;
pub mod stop;
