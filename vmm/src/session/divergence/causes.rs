//! Why a replay may have diverged, the likeliest first.

use scribe_log::header::{Engine, Header, Host};
use serde::Serialize;

use super::guest::Near;
use super::open::Open;
use super::verdict::Verdict;
use super::{Difference, Divergence};
use crate::session::choice;

/// A likely cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// what may be the matter
    pub cause: String,
    /// what speaks for it, and what to do
    pub because: String,
}

/// Who replays.
#[derive(Debug, Clone, Copy)]
pub struct Here<'a> {
    /// the engine
    pub engine: Engine,
    /// what its processor does where the manuals leave it open
    pub behaviour: Option<&'a str>,
    /// the host
    pub host: &'a Host,
    /// version of this program
    pub program: &'a str,
    /// files that are not what was recorded any more, though their sizes and times are
    pub changed: &'a [String],
}

/// How the replay differs from the recording with this header before it begins.
pub fn differences(header: &Header, here: &Here<'_>) -> Vec<Difference> {
    let then = &header.host;
    let on_kvm = header.engine == Engine::Kvm && here.engine == Engine::Kvm;
    let behaviour = |behaviour: Option<&str>| behaviour.unwrap_or("the processor's").to_owned();
    let mut differences = Vec::new();
    let mut note = |what, recorded: String, here: String, counts: bool| {
        if counts && !recorded.is_empty() && !here.is_empty() && recorded != here {
            differences.push(Difference { what, recorded, here });
        }
    };
    note("engine", choice::name(header.engine).into(), choice::name(here.engine).into(), true);
    note("behaviour", behaviour(header.behaviour.as_deref()), behaviour(here.behaviour), true);
    note("program", header.program.clone(), here.program.into(), true);
    note("processor", then.cpu_model.clone(), here.host.cpu_model.clone(), true);
    note("microcode", then.microcode.clone(), here.host.microcode.clone(), on_kvm);
    note("host kernel", then.kernel_release.clone(), here.host.kernel_release.clone(), on_kvm);
    note("KVM module", then.kvm_module.clone(), here.host.kvm_module.clone(), on_kvm);
    differences
}

/// The likely causes of `divergence`, whose verdict, guest and differences are known as far as they can be.
pub fn likely(divergence: &Divergence, header: &Header, here: &Here<'_>) -> Vec<Cause> {
    let near: &[Near] = divergence.guest.as_ref().map_or(&[], |guest| &guest.near);
    let facts = Facts { divergence, header, here, near };
    let mut causes = Causes(Vec::new());
    for file in here.changed {
        causes.add(
            format!("{file} is not what was recorded any more"),
            "its digest is another, though its size and times are those of the file that was checked before; replay \
             needs the very same bytes",
        );
    }
    match &divergence.verdict {
        Some(Verdict::Snapshot { at, .. }) => causes.add(
            format!("the snapshot at {at} is not what the recording is there"),
            "a replay from the recording's start goes another way; snapshots that replays took by themselves have \
             been removed, `scribe-vmm snapshot rm` removes others, --no-snapshots does without",
        ),
        Some(Verdict::Unstable { .. }) => facts.unstable(&mut causes),
        Some(Verdict::Recording { .. }) => {
            facts.differing(&mut causes);
            facts.recorded_noise(&mut causes);
            facts.program(&mut causes);
            causes.add(
                "the recording was changed after it was made, or made by another program",
                "its checksums are right, and all replays of it come to the same: what it says is not what its guest \
                 does",
            );
        }
        Some(Verdict::Unknown { .. }) | None => {
            facts.noise(&mut causes);
            facts.differing(&mut causes);
            facts.program(&mut causes);
            causes.add(
                "the recording was changed after it was made",
                "its checksums are right, so that it is not the disk that has changed it",
            );
        }
    }
    causes.add(
        "a bug in scribe-vmm",
        "nothing of the above has to be the case; please report it with this text and, if it can be given away, the \
         recording (`scribe-vmm pack`)",
    );
    causes.0
}

struct Causes(Vec<Cause>);

impl Causes {
    fn add(&mut self, cause: impl Into<String>, because: impl Into<String>) {
        self.0.push(Cause { cause: cause.into(), because: because.into() });
    }
}

struct Facts<'a> {
    divergence: &'a Divergence,
    header: &'a Header,
    here: &'a Here<'a>,
    near: &'a [Near],
}

impl Facts<'_> {
    fn difference(&self, what: &str) -> Option<&Difference> {
        self.divergence.differences.iter().find(|difference| difference.what == what)
    }

    fn near(&self, wanted: impl Fn(Open) -> bool) -> Option<String> {
        let named: Vec<String> = (self.near.iter().filter(|near| wanted(near.open)))
            .map(|Near { instruction, at, says, .. }| format!("`{instruction}` at {at} ({says})"))
            .collect();
        (!named.is_empty()).then(|| named.join(", "))
    }

    /// Replays differ among themselves.
    fn unstable(&self, causes: &mut Causes) {
        if self.here.engine == Engine::Soft {
            causes.add(
                "this host computes wrongly: its memory or its processor",
                "the soft engine takes nothing from the host but what it computes; a test of the memory, or the same \
                 replay on another host, would tell",
            );
            return;
        }
        self.noise(causes);
        causes.add(
            "this host's KVM does not run the same guest in the same way twice",
            "that is what scribe-vmm needs of it; `scribe-vmm doctor --selftest` looks, and --engine soft does without \
             it",
        );
    }

    /// KVM cannot keep some instructions from the host's clock and noise.
    fn noise(&self, causes: &mut Causes) {
        if self.here.engine != Engine::Kvm {
            return;
        }
        match self.near(|open| open == Open::Noise) {
            Some(near) => causes.add("the guest reads the host's clock or noise", format!("there is {near}")),
            None => causes.add(
                "the guest reads the host's clock or noise",
                "on KVM RDRAND and RDSEED execute whatever CPUID says, and so does RDTSC in the kernel \
                 (docs/determinism.md, section 6)",
            ),
        }
    }

    /// What was read when it was recorded, no replay reads again: on KVM replays would not agree, on the soft engine there
    /// is nothing of it to be read.
    fn recorded_noise(&self, causes: &mut Causes) {
        if (self.header.engine, self.here.engine) != (Engine::Kvm, Engine::Soft) {
            return;
        }
        let found = self.near(|open| open == Open::Noise);
        let there = found.map_or_else(String::new, |near| format!("; there is {near}"));
        causes.add(
            "the guest read the host's clock or noise when it was recorded",
            format!("on KVM RDRAND, RDSEED and, in the kernel, RDTSC execute whatever CPUID says{there}"),
        );
    }

    /// Another processor.
    fn differing(&self, causes: &mut Causes) {
        let by = |difference: &Difference| {
            format!("recorded on {}, replayed on {}", difference.recorded, difference.here)
        };
        let engine = self.difference("engine").or_else(|| self.difference("behaviour"));
        let processor = self.difference("processor").filter(|_| self.here.engine == Engine::Kvm);
        let other = engine.or(processor);
        if let (Some(other), Some(near)) = (other, self.near(|open| open != Open::Noise)) {
            causes.add(
                "a result that the manuals leave open",
                format!(
                    "{}; near the place there is {near} (docs/determinism.md, section 8). --behaviour chooses what the \
                     soft engine does with those",
                    by(other)
                ),
            );
        }
        if let Some(engine) = engine {
            causes.add(
                format!("another {}", engine.what),
                format!(
                    "{}; both should do the same but for what the manuals leave open, with which --behaviour may help",
                    by(engine)
                ),
            );
        }
        let hosts: Vec<String> = (["processor", "microcode", "KVM module", "host kernel"].into_iter())
            .filter_map(|what| self.difference(what))
            .map(|difference| {
                format!("{} {}, here {}", difference.what, difference.recorded, difference.here)
            })
            .collect();
        if self.here.engine == Engine::Kvm && !hosts.is_empty() {
            causes.add(
                "another host",
                format!(
                    "recorded on {}; --engine soft does not depend on the host's processor",
                    hosts.join("; ")
                ),
            );
        }
    }

    /// Another version.
    fn program(&self, causes: &mut Causes) {
        if let Some(Difference { recorded, here, .. }) = self.difference("program") {
            causes.add(
                "another version of scribe-vmm",
                format!("recorded with {recorded}, this is {here}; {recorded} would tell"),
            );
        }
    }
}
