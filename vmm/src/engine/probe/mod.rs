//! Judges this host's KVM by running tiny guests on it: can it run Linux, and deterministically?
//!
//! Capabilities alone do not tell. There are KVMs that claim all of them and emulate CPL 0 at a millionth of the
//! processor's speed, leave SYSCALL at CPL 3 or show guests the host's CPUID. So each question is put to a guest of a
//! few instructions. Every guest is bounded in time, and whatever it does instead of the expected becomes a finding.
//!
//! [`Scope::Quick`] asks only what decides; `record` does it at every start. [`Scope::Full`] is `scribe-vmm doctor`.
//! A check that only [`Scope::Full`] makes can warn but never fail.

use std::fmt;

use serde::Serialize;

mod counted;
mod cpuid;
mod debug;
mod exit;
mod exits;
mod guest;
mod host;
mod instructions;
mod layout;
mod leaks;
mod pmu;
mod rings;
mod speed;
#[cfg(test)]
mod tests;
mod watchdog;

pub(super) use counted::open as open_bench;
pub use host::HostFacts;

use guest::{Guest, ProbeError};

/// What to do about a KVM that does not behave as the processor would.
const FIX_OTHER_HOST: &str =
    "No setting changes this: use a host with kvm_amd or kvm_intel, or `make lab` to try things out.";

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Something is missing or leaks, but Linux can be recorded and replayed.
    Warn,
    /// Linux cannot be recorded and replayed here.
    Fail,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        })
    }
}

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable name, lower case with hyphens.
    pub name: &'static str,
    /// The judgement.
    pub status: Status,
    /// What was found, one sentence without a full stop.
    pub found: String,
    /// Why it matters.
    pub why: &'static str,
    /// What to do about it; empty if it is ok.
    pub fix: String,
}

/// How much to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// What decides whether Linux can run deterministically: tens of milliseconds on a fit host.
    Quick,
    /// Everything.
    Full,
}

/// All that was found out about a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The host.
    pub host: HostFacts,
    /// The checks that were made, in a fixed order. Those that need what failed before are left out.
    pub checks: Vec<Check>,
}

/// Why a host cannot run Linux guests. Displays as one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this host's KVM cannot run a Linux guest: {reasons}")]
pub struct Unfit {
    reasons: String,
}

impl Report {
    /// Whether recordings can be made here.
    ///
    /// # Errors
    /// [`Unfit`], naming the failing checks and what they found.
    pub fn fit_for_linux(&self) -> Result<(), Unfit> {
        let mut failed = self.checks.iter().filter(|check| check.status == Status::Fail);
        let Some(first) = failed.next() else { return Ok(()) };
        let others: Vec<&str> = failed.map(|check| check.name).collect();
        let first = format!("{} ({})", first.found, first.name);
        let reasons =
            if others.is_empty() { first } else { format!("{first}; also failing: {}", others.join(", ")) };
        Err(Unfit { reasons })
    }
}

/// What a probe guest showed.
#[derive(Debug)]
struct Finding {
    status: Status,
    found: String,
}

impl Finding {
    fn ok(found: impl Into<String>) -> Self {
        Self { status: Status::Ok, found: found.into() }
    }

    fn warn(found: impl Into<String>) -> Self {
        Self { status: Status::Warn, found: found.into() }
    }

    fn fail(found: impl Into<String>) -> Self {
        Self { status: Status::Fail, found: found.into() }
    }
}

/// A question that takes a guest.
struct Probe {
    name: &'static str,
    /// The smallest scope that asks it.
    scope: Scope,
    why: &'static str,
    fix: &'static str,
    run: fn(&mut Guest) -> Result<Finding, ProbeError>,
}

/// In the order of the report: from what everything needs to what is merely useful.
const PROBES: [Probe; 17] = [
    exits::EXITS,
    exits::INTERRUPTS,
    exits::KICK,
    rings::SYSCALL,
    rings::INT_N,
    rings::EXCEPTIONS,
    speed::SPEED,
    instructions::INSTRUCTIONS,
    leaks::CPUID,
    leaks::TZCNT,
    leaks::TSC_USER,
    exits::MSR_FILTER,
    exits::DIRTY_LOG,
    leaks::TSC_KERNEL,
    leaks::HIDDEN,
    debug::SINGLE_STEP,
    debug::BREAKPOINTS,
];

impl Probe {
    fn check(&self, guest: &mut Guest) -> Check {
        let mut ask = || {
            let before = guest.lapses();
            let finding = (self.run)(guest).unwrap_or_else(|e| Finding::fail(e.to_string()));
            (finding, guest.lapses() != before)
        };
        let finding = match ask() {
            // A host that was busy elsewhere for the whole limit looks the same: ask again.
            (finding, true) if finding.status != Status::Ok => ask().0,
            (finding, _) => finding,
        };
        let status = match self.scope {
            Scope::Quick => finding.status,
            Scope::Full => finding.status.min(Status::Warn),
        };
        let fix = if status == Status::Ok { String::new() } else { self.fix.into() };
        Check { name: self.name, status, found: finding.found, why: self.why, fix }
    }
}

/// Probes this host. Takes well under two seconds, and never waits for a guest longer than that.
pub fn probe(scope: Scope) -> Report {
    let mut checks = Vec::new();
    run_checks(scope, &mut checks);
    if scope == Scope::Full {
        checks.push(pmu::check());
    }
    Report { host: HostFacts::read(), checks }
}

fn run_checks(scope: Scope, checks: &mut Vec<Check>) {
    let (device, kvm) = host::open();
    checks.push(device);
    let Some(kvm) = kvm else { return };
    let capabilities = host::capabilities(&kvm);
    let usable = capabilities.status != Status::Fail;
    checks.push(capabilities);
    if !usable {
        return; // the probe guests need them too
    }
    let (guest, vm) = match Guest::new(&kvm) {
        Ok(guest) => {
            (Some(guest), Finding::ok("a VM and vCPUs without an in-kernel interrupt controller are created"))
        }
        Err(e) => (None, Finding::fail(e.to_string())),
    };
    let fix = match vm.status {
        Status::Ok => String::new(),
        _ => {
            "If another hypervisor (VirtualBox, VMware) holds the processor's virtualisation, stop it.".into()
        }
    };
    let why = "Every recording runs in a VM of its own.";
    checks.push(Check { name: "vm", status: vm.status, found: vm.found, why, fix });
    let Some(mut guest) = guest else { return };
    for probe in &PROBES {
        if scope == Scope::Full || probe.scope == Scope::Quick {
            checks.push(probe.check(&mut guest));
        }
    }
    checks.push(host::processor(&kvm));
}
