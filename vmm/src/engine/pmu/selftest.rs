//! Does a counter count what positions are made of, and does its overflow come? Asked of every counter before it is used.
//!
//! What counts, and what does not, is put to guests of a few instructions, each class of the definition in a loop of its
//! own; the count must be right to the last branch. Known traps have a check each, with what to do about it: without one they
//! would show as replays that diverge once a day.
//!
//! The judgement knows neither KVM nor perf: [`Bench`] is asked, and in tests made-up counters with every fault answer.

use std::io;

use super::facts::Facts;
use super::models::{self, Model, Vendor};
use super::{Counter, Verdict};
use crate::engine::probe::{Check, Status};
use crate::host::perf::{self, Event};

/// A guest on this host, and the counter.
pub trait Bench {
    /// What the counter counts while a guest runs the loop of `class`, so many turns.
    ///
    /// # Errors
    /// The guest did something else, or the host failed.
    fn count(&mut self, class: Class, turns: u64) -> Result<u64, String>;

    /// Runs a loop of so many branches with an overflow due after `after` of them, and on to its end without one.
    ///
    /// # Errors
    /// As in [`count`](Self::count).
    fn overflow(&mut self, after: u64, turns: u64) -> Result<Overflow, String>;

    /// What AMD's event "SpecLockMapCommit" counts in the loop of [`Class::Atomics`].
    ///
    /// # Errors
    /// There is no such event, or as in [`count`](Self::count).
    fn lock_commits(&mut self, turns: u64) -> Result<u64, String>;

    /// Has the kvm engine stop at places of a loop with this counter, and looks whether it is there.
    ///
    /// # Errors
    /// It is not, and what was found instead.
    fn place(&mut self, counter: &Counter) -> Result<(), String>;
}

/// What came of [`Bench::overflow`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overflow {
    /// the count when the guest was interrupted; `None`: it came to its end first
    pub at: Option<u64>,
    /// the count at its end
    pub total: u64,
}

/// Why there is no bench.
#[derive(Debug)]
pub enum OpenError {
    /// the host does not open the counter
    Counter(io::Error),
    /// there is no guest to count in
    Guest(String),
}

/// A class of instructions, in a loop of `dec`, `jnz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// nothing else: the JNZ is taken, but for the last
    Taken,
    /// the same in a user program
    User,
    /// a Jcc that is not taken
    NotTaken,
    /// JRCXZ, taken and not
    Jrcxz,
    /// LOOP and LOOPE of three and two turns
    Loop,
    /// JMP, direct and indirect, CALL, RET
    Jumps,
    /// CMOVcc and SETcc
    Moves,
    /// REP MOVSB and REPNE SCASB
    Strings,
    /// locked instructions
    Atomics,
    /// an exit, served by a host that branches
    Exits,
    /// an exit, and an interrupt with a handler that has no branch
    Interrupts,
    /// no loop: a Jcc that cannot be fetched
    Faulting,
    /// no loop: a Jcc whose target cannot be fetched
    FaultBehind,
}

impl Class {
    const DEFINITION: [Self; 11] = [
        Self::Taken,
        Self::User,
        Self::NotTaken,
        Self::Jrcxz,
        Self::Loop,
        Self::Jumps,
        Self::Moves,
        Self::Strings,
        Self::Interrupts,
        Self::Faulting,
        Self::FaultBehind,
    ];

    /// What the definition says of so many turns.
    pub fn expected(self, turns: u64) -> u64 {
        match self {
            Self::NotTaken => 2 * turns,
            Self::Jrcxz => 3 * turns,
            Self::Loop => 6 * turns,
            Self::Faulting => 0,
            Self::FaultBehind => 1,
            _ => turns,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Taken => "Jcc at CPL 0",
            Self::User => "Jcc at CPL 3",
            Self::NotTaken => "Jcc not taken",
            Self::Jrcxz => "JRCXZ",
            Self::Loop => "LOOP and LOOPE",
            Self::Jumps => "JMP, CALL and RET",
            Self::Moves => "CMOVcc and SETcc",
            Self::Strings => "REP MOVS and SCAS",
            Self::Atomics => "locked instructions",
            Self::Exits => "exits",
            Self::Interrupts => "interrupts",
            Self::Faulting => "a Jcc that faults",
            Self::FaultBehind => "a fault at the target of a Jcc",
        }
    }
}

/// Turns of a loop: an error of one in a thousand million is too much, but here one in some thousands must show.
const TURNS: u64 = 20_000;
/// Turns of loops with an exit each.
const FEW_TURNS: u64 = 500;
/// Overflows tried.
const OVERFLOWS: u64 = 200;

const FIX_ELSEWHERE: &str = "Do without: `--counter off` on kvm, or `--engine soft`, which counts exactly on every host. If \
                             this processor should do, please send this report to the project.";

/// Examines the counter of a host.
pub fn examine(facts: &Facts, open: impl FnOnce(&Counter) -> Result<Box<dyn Bench>, OpenError>) -> Verdict {
    let mut checks = Vec::new();
    let counter = questions(facts, open, &mut checks);
    Verdict::of(checks, counter)
}

fn questions(
    facts: &Facts,
    open: impl FnOnce(&Counter) -> Result<Box<dyn Bench>, OpenError>,
    checks: &mut Vec<Check>,
) -> Option<Counter> {
    let (check, model) = model(facts);
    checks.push(check);
    let model = model?;
    let mut event = Event { pmu: perf::RAW, config: model.config };
    let mut processors = None;
    if let Some(hybrid) = &facts.hybrid {
        checks.push(cores(model, hybrid.processors.len()));
        event.pmu = hybrid.pmu;
        processors = Some(hybrid.processors.clone());
    }
    let counter = Counter { model: model.name, event, skid: model.skid, processors };
    let (check, bench) = opened(facts, open(&counter));
    checks.push(check);
    let mut bench = bench?;
    let check = counts(facts, bench.as_mut());
    let works = check.status == Status::Ok;
    checks.push(check);
    if !works {
        return None;
    }
    checks.push(definition(bench.as_mut()));
    checks.push(guest_only(bench.as_mut()));
    if model.vendor == Vendor::Amd {
        checks.push(spec_lock_map(facts, bench.as_mut()));
    }
    if model.counts_smi {
        checks.push(smi(facts));
    }
    checks.extend(overflows(&counter, bench.as_mut()));
    if checks.iter().all(|check| check.status != Status::Fail) {
        checks.push(place(&counter, bench.as_mut()));
    }
    Some(counter)
}

fn check(name: &'static str, why: &'static str, result: Result<String, (String, String)>) -> Check {
    match result {
        Ok(found) => Check { name, status: Status::Ok, found, why, fix: String::new() },
        Err((found, fix)) => Check { name, status: Status::Fail, found, why, fix },
    }
}

fn model(facts: &Facts) -> (Check, Option<&'static Model>) {
    let Facts { vendor, family, model, .. } = facts;
    let row = Vendor::named(vendor).and_then(|vendor| models::find(vendor, *family, *model));
    let processor = format!("{vendor} family {family:#x} model {model:#x}");
    let result = match row {
        Some(row) => Ok(format!(
            "{processor}: {}; event {:#x}, overflows up to {} branches late",
            row.name, row.config, row.skid
        )),
        None => Err((
            format!(
                "{processor} is not in the table: nobody knows which event counts its conditional branches"
            ),
            FIX_ELSEWHERE.into(),
        )),
    };
    (
        check(
            "pmu-model",
            "Each kind of processor has an event of its own, and the wrong one counts something else.",
            result,
        ),
        row,
    )
}

fn cores(model: &Model, performance: usize) -> Check {
    let why = "Cores of another kind have other events: the vCPU's thread must stay on those of one kind.";
    let found = match performance {
        0 => Err((
            "this processor has cores of two kinds, and none of the kind cpu_core is in use".to_owned(),
            "Turn one on, or boot with the others off.".to_owned(),
        )),
        count => Ok(format!("cores of two kinds; the vCPU's thread stays on the {count} of {}", model.name)),
    };
    check("pmu-cores", why, found)
}

fn opened(facts: &Facts, bench: Result<Box<dyn Bench>, OpenError>) -> (Check, Option<Box<dyn Bench>>) {
    let why = "The kernel must give this program a counter that counts in guests only, and keeps its place.";
    let (result, bench) = match bench {
        Ok(bench) => {
            (Ok("two counters for guests open, one to read and one to interrupt".to_owned()), Some(bench))
        }
        Err(OpenError::Guest(reason)) => (
            Err((
                format!("it opens, but there is no guest to try it in: {reason}"),
                "See `scribe-vmm doctor`.".to_owned(),
            )),
            None,
        ),
        Err(OpenError::Counter(error)) => (Err(refused(facts, &error)), None),
    };
    (check("pmu-open", why, result), bench)
}

/// What the host's refusal means, and what to do.
fn refused(facts: &Facts, error: &io::Error) -> (String, String) {
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => {
            let paranoid = facts.paranoid.map_or_else(|| "unknown".into(), |value| value.to_string());
            (
                format!("it may not be opened (kernel.perf_event_paranoid is {paranoid}): {error}"),
                "Allow it: sudo sysctl kernel.perf_event_paranoid=1 (inside a container also CAP_PERFMON, and a seccomp \
                 profile that lets perf_event_open through)."
                    .into(),
            )
        }
        Some(libc::ENOENT | libc::EOPNOTSUPP | libc::ENODEV) if facts.nested => (
            format!("there is no hardware counter: this host is a virtual machine without one ({error})"),
            "Turn on the machine's PMU at its own host (QEMU: -cpu host,pmu=on; clouds: machines of the metal kind, or \
             those with a virtual PMU), or do without: `--engine soft` counts exactly on every host, and kvm records \
             with exit sync points."
                .into(),
        ),
        Some(libc::ENOENT | libc::EOPNOTSUPP | libc::ENODEV) => (
            format!("the kernel has no hardware counter for this processor ({error})"),
            "Look at `dmesg | grep -i 'performance events'`: firmware may have turned them off, or taken them. Or do \
             without: `--engine soft` counts exactly on every host."
                .into(),
        ),
        Some(libc::EBUSY) => (
            format!("all counters are taken ({error})"),
            "Stop whoever has them; the kernel itself: sudo sysctl kernel.nmi_watchdog=0.".into(),
        ),
        _ => (format!("it does not open: {error}"), FIX_ELSEWHERE.into()),
    }
}

fn counts(facts: &Facts, bench: &mut dyn Bench) -> Check {
    let why = "There are hypervisors that give their guests a counter which never counts.";
    let result = match bench.count(Class::Taken, TURNS) {
        Ok(0) => Err((
            format!("it opens, and counts nothing in a guest that branches {TURNS} times"),
            if facts.nested {
                "This host is a virtual machine, whose hypervisor counts nothing in nested guests: no setting inside \
                 changes that. Use the machine below it, or `--engine soft`."
                    .to_owned()
            } else {
                FIX_ELSEWHERE.to_owned()
            },
        )),
        Ok(_) => Ok("it counts in a guest".to_owned()),
        Err(reason) => Err((reason, FIX_ELSEWHERE.to_owned())),
    };
    check("pmu-counts", why, result)
}

/// What of these classes is not as it is expected to be. `turns`: of each.
fn differences(bench: &mut dyn Bench, classes: &[Class]) -> Vec<String> {
    let mut wrong = Vec::new();
    for &class in classes {
        let turns = match class {
            Class::Exits | Class::Interrupts => FEW_TURNS,
            Class::Faulting | Class::FaultBehind => 1,
            _ => TURNS,
        };
        let expected = class.expected(turns);
        match bench.count(class, turns) {
            Ok(count) if count == expected => {}
            Ok(count) => wrong.push(format!("{}: {count}, not {expected}", class.name())),
            Err(reason) => wrong.push(format!("{}: {reason}", class.name())),
        }
    }
    wrong
}

fn definition(bench: &mut dyn Bench) -> Check {
    let why = "Positions count each Jcc, JRCXZ and LOOP that retires, taken or not, and nothing else, on every engine.";
    let wrong = differences(bench, &Class::DEFINITION);
    let result = if wrong.is_empty() {
        Ok(format!("{} classes of instructions count as positions do", Class::DEFINITION.len()))
    } else {
        Err((format!("it does not count as positions do: {}", wrong.join("; ")), FIX_ELSEWHERE.to_owned()))
    };
    check("pmu-definition", why, result)
}

fn guest_only(bench: &mut dyn Bench) -> Check {
    let why = "What the host does between two entries of a guest must not count.";
    let wrong = differences(bench, &[Class::Exits]);
    let result = if wrong.is_empty() {
        Ok(format!("{FEW_TURNS} exits, served by a host that branches, add nothing"))
    } else {
        let fix =
            "Use a newer host kernel: this one does not keep host and guest apart (perf's exclude_host).";
        Err((format!("the host's own branches count: {}", wrong.join("; ")), fix.to_owned()))
    };
    check("pmu-guest-only", why, result)
}

/// Zen executes locked instructions speculatively, and counts branches behind them that it then throws away.
fn spec_lock_map(facts: &Facts, bench: &mut dyn Bench) -> Check {
    let why = "Zen's SpecLockMap has branches behind locked instructions counted twice, now and then.";
    let fix = "Turn it off (until the next boot): sudo modprobe msr, then for each processor N: sudo wrmsr -p N 0xc0011020 \
               $(( $(sudo rdmsr -c -p N 0xc0011020) | (1 << 54) )). In a virtual machine do it on its host.";
    let mut wrong = differences(bench, &[Class::Atomics]);
    let mut found = Vec::new();
    match &facts.spec_lock_map {
        Some(on) if on.is_empty() => found.push("MSR 0xc0011020 says that SpecLockMap is off".to_owned()),
        Some(on) => {
            let on: Vec<String> = on.iter().map(ToString::to_string).collect();
            wrong.push(format!("bit 54 of MSR 0xc0011020 is clear on processors {}", on.join(", ")));
        }
        None => match bench.lock_commits(TURNS) {
            Ok(0) => found.push("no speculative locked instruction is counted (MSR 0xc0011020 cannot be read)".into()),
            Ok(commits) => wrong.push(format!("SpecLockMap is on: {commits} speculative locked instructions")),
            Err(reason) => wrong.push(format!(
                "whether SpecLockMap is off cannot be told: /dev/cpu/*/msr cannot be read, and its event does not count ({reason})"
            )),
        },
    }
    let result = if wrong.is_empty() {
        Ok(format!("{}; branches among locked instructions count once", found.join("; ")))
    } else {
        Err((wrong.join("; "), fix.to_owned()))
    };
    check("pmu-spec-lock-map", why, result)
}

fn smi(facts: &Facts) -> Check {
    let why = "An SMI has firmware run in the middle of a guest, and its branches count unless counters are frozen.";
    let result = match facts.freeze_on_smi {
        Some(true) => Ok("counters are frozen on SMI".to_owned()),
        Some(false) => Err((
            "/sys/devices/cpu/freeze_on_smi is 0: branches of the firmware count".to_owned(),
            "echo 1 | sudo tee /sys/devices/cpu/freeze_on_smi (cpu_core instead of cpu where cores are of two kinds)."
                .to_owned(),
        )),
        None => Err((
            "the kernel has no /sys/devices/cpu/freeze_on_smi: branches of the firmware may count".to_owned(),
            "Use a host kernel 4.12 or newer. In a virtual machine its host must freeze them, and there is no way to \
             see that from inside."
                .to_owned(),
        )),
    };
    check("pmu-smi", why, result)
}

/// Whether overflows come, and how late.
fn overflows(counter: &Counter, bench: &mut dyn Bench) -> Vec<Check> {
    const WHY: &str = "A guest is stopped shortly before a place by the counter's overflow interrupt.";
    const WHY_SKID: &str =
        "The overflow is asked for so many branches early; one that comes later still overshoots.";
    let fix_lost = "The host loses performance interrupts. In a virtual machine its hypervisor does; on hardware try a newer \
                    kernel, or nmi_watchdog=0.";
    let (mut lost, mut most, mut early, mut wrong) = (0, 0, 0, None);
    let turns = TURNS + 2 * counter.skid;
    for n in 0..OVERFLOWS {
        let after = 1 + n * 97 % TURNS;
        match bench.overflow(after, turns) {
            Ok(Overflow { at, total }) => {
                match at {
                    None => lost += 1,
                    Some(at) if at < after => early += 1,
                    Some(at) => most = most.max(at - after),
                }
                if total != turns {
                    wrong =
                        wrong.or(Some(format!("{total} branches counted, not {turns}, around an overflow")));
                }
            }
            Err(reason) => wrong = wrong.or(Some(reason)),
        }
    }
    let arrived = if let Some(wrong) = wrong {
        Err((wrong, FIX_ELSEWHERE.to_owned()))
    } else if lost > 0 {
        Err((format!("{lost} of {OVERFLOWS} overflows did not interrupt the guest"), fix_lost.to_owned()))
    } else {
        let early =
            if early == 0 { String::new() } else { format!(", {early} of them early, which does no harm") };
        Ok(format!(
            "{OVERFLOWS} of {OVERFLOWS} overflows interrupt the guest{early}, and the count stays right"
        ))
    };
    let skid = if most > counter.skid {
        Err((
            format!(
                "an overflow came {most} branches late; {} is the most that is reckoned with",
                counter.skid
            ),
            FIX_ELSEWHERE.to_owned(),
        ))
    } else {
        Ok(format!("at most {most} branches late; {} are reckoned with", counter.skid))
    };
    vec![check("pmu-overflow", WHY, arrived), check("pmu-skid", WHY_SKID, skid)]
}

fn place(counter: &Counter, bench: &mut dyn Bench) -> Check {
    let why = "All of it together, as recordings use it: run until shortly before a place, and step to it.";
    let result = match bench.place(counter) {
        Ok(()) => Ok("the kvm engine stops at the very instruction".to_owned()),
        Err(reason) => Err((reason, FIX_ELSEWHERE.to_owned())),
    };
    check("pmu-place", why, result)
}

#[cfg(test)]
mod tests;
