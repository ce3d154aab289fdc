//! Differential fuzzing of the soft CPU: random sequences of user-mode instructions run on the real processor, in a
//! child process, and on the soft CPU, from the same state; all that is defined must be the same afterwards.
//!
//! A case is a pure function of (seed, case number). docs/fuzzing.md says what is compared and what is left out.
#![allow(clippy::cast_possible_truncation, reason = "random bits are cut to the width wanted")]
#![allow(clippy::missing_panics_doc, reason = "tests' helpers: a failure here is a failed test")]

pub mod case;
pub mod compare;
pub mod driver;
pub mod flags;
pub mod forms;
pub mod generate;
pub mod layout;
pub mod memory;
pub mod minimise;
pub mod native;
pub mod operands;
pub mod report;
pub mod rng;
pub mod sandbox;
pub mod shared;
pub mod soft;
pub mod values;
pub mod world;
