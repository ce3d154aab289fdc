//! The processor's own counter of retired conditional branches: which event it is ([`models`]), whether it can be trusted
//! ([`selftest`]), and what becomes of it (`engine/kvm/counter.rs`).
//!
//! A counter is used only on a processor that is in the table and only after it has counted, in a guest on this very KVM,
//! what the definition of `retired-conditional-branches-1` says (docs/determinism.md, section 1).

pub mod facts;
pub mod models;
pub mod selftest;

use std::sync::OnceLock;

use super::probe::{Check, Status};
use crate::host::perf::Event;

/// A counter that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counter {
    /// the processors it is of, for people
    pub model: &'static str,
    /// what it counts
    pub event: Event,
    /// branches by which its overflow comes late at most
    pub skid: u64,
    /// the processors that have it, where there are others
    pub processors: Option<Vec<usize>>,
}

impl Counter {
    /// The same, with overflows that may be later still.
    #[must_use]
    pub fn with_twice_the_skid(&self) -> Self {
        Self { skid: self.skid.saturating_mul(2).max(1), ..self.clone() }
    }
}

/// What was found out about this host's counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// the checks, in a fixed order; those that need what failed before are left out
    pub checks: Vec<Check>,
    /// the counter, if it passed all of them; else why it is not used, in one line
    pub counter: Result<Counter, String>,
}

impl Verdict {
    /// Judges a counter by its checks.
    fn of(checks: Vec<Check>, counter: Option<Counter>) -> Self {
        let failed: Vec<&Check> = checks.iter().filter(|check| check.status == Status::Fail).collect();
        let counter = match (failed.split_first(), counter) {
            (None, Some(counter)) => Ok(counter),
            (None, None) => Err("this host has no counter of conditional branches that could be used".into()),
            (Some((first, others)), _) => {
                let others: Vec<&str> = others.iter().map(|check| check.name).collect();
                let also = if others.is_empty() {
                    String::new()
                } else {
                    format!("; also failing: {}", others.join(", "))
                };
                Err(format!(
                    "this host's branch counter cannot be used: {} ({}{also})",
                    first.found, first.name
                ))
            }
        };
        Self { checks, counter }
    }
}

/// Examines this host's counter. A second or so where there is one, nothing where there is none.
pub fn examine() -> Verdict {
    selftest::examine(&facts::Facts::read(), super::probe::open_bench)
}

/// This host's counter, examined once in the life of the process.
///
/// # Errors
/// Why it is not used, in one line.
pub fn counter() -> Result<Counter, String> {
    static COUNTER: OnceLock<Result<Counter, String>> = OnceLock::new();
    let examined = || examine().counter.map_err(|why| format!("{why}; `scribe-vmm doctor --pmu` says more"));
    COUNTER.get_or_init(examined).clone()
}
