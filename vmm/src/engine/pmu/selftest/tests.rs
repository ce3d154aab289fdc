//! The judgement, on made-up hosts and counters with every fault that is known.

use super::*;
use crate::engine::pmu::facts::Hybrid;

/// A counter, faultless but for what is set.
#[derive(Debug, Clone, Default)]
struct Fake {
    /// counts nothing at all
    zero: bool,
    /// so many too many in this class
    wrong: Option<(Class, u64)>,
    /// the guest does something else in this class
    fails: Option<Class>,
    /// branches by which overflows are late
    late: u64,
    /// overflows come that much early
    early: u64,
    /// every so many-th overflow does not come
    loses: Option<u64>,
    /// branches counted twice around an overflow
    around: u64,
    /// speculative locked instructions; `None`: no such event
    commits: Option<u64>,
    /// what the engine finds at a place
    place: Option<&'static str>,
    overflows: u64,
}

impl Bench for Fake {
    fn count(&mut self, class: Class, turns: u64) -> Result<u64, String> {
        if self.fails == Some(class) {
            return Err("it raised #UD".into());
        }
        let excess = self.wrong.filter(|(wrong, _)| *wrong == class).map_or(0, |(_, excess)| excess);
        Ok(if self.zero { 0 } else { class.expected(turns) + excess })
    }

    fn overflow(&mut self, after: u64, turns: u64) -> Result<Overflow, String> {
        self.overflows += 1;
        let lost = self.loses.is_some_and(|every| self.overflows.is_multiple_of(every));
        let at = (after + self.late).saturating_sub(self.early);
        Ok(Overflow { at: (!lost).then_some(at), total: turns + self.around })
    }

    fn lock_commits(&mut self, _turns: u64) -> Result<u64, String> {
        self.commits.ok_or_else(|| "No such file or directory".into())
    }

    fn place(&mut self, _counter: &Counter) -> Result<(), String> {
        self.place.map_or(Ok(()), |found| Err(found.into()))
    }
}

fn zen() -> Facts {
    Facts {
        vendor: "AuthenticAMD".into(),
        family: 0x19,
        model: 0x61,
        paranoid: Some(1),
        spec_lock_map: Some(Vec::new()),
        ..Facts::default()
    }
}

fn intel() -> Facts {
    let (vendor, freeze_on_smi) = ("GenuineIntel".into(), Some(true));
    Facts { vendor, family: 6, model: 0x6a, paranoid: Some(1), freeze_on_smi, ..Facts::default() }
}

fn judge(facts: &Facts, fake: Fake) -> Verdict {
    examine(facts, |_| Ok(Box::new(fake)))
}

/// The verdict must be that this check alone fails, and say these words.
#[track_caller]
fn fails(verdict: &Verdict, name: &str, found: &str, fix: &str) {
    let failed: Vec<&Check> = verdict.checks.iter().filter(|check| check.status != Status::Ok).collect();
    let [check] = failed[..] else { panic!("{failed:#?}") };
    assert_eq!(check.name, name);
    assert!(check.found.contains(found), "{}", check.found);
    assert!(check.fix.contains(fix), "{}", check.fix);
    let why = verdict.counter.clone().unwrap_err();
    assert!(why.contains(name) && why.contains(found), "{why}");
    assert!(!why.contains('\n'), "{why}");
}

#[test]
fn a_faultless_counter_is_used() {
    let verdict = judge(&zen(), Fake { late: 900, early: 3, ..Fake::default() });
    let counter = verdict.counter.unwrap();
    assert_eq!(counter.event, Event { pmu: perf::RAW, config: 0x5100d1 });
    assert_eq!((counter.skid, counter.processors), (10_000, None));
    let names: Vec<_> = verdict.checks.iter().map(|check| check.name).collect();
    assert_eq!(
        names,
        [
            "pmu-model",
            "pmu-open",
            "pmu-counts",
            "pmu-definition",
            "pmu-guest-only",
            "pmu-spec-lock-map",
            "pmu-overflow",
            "pmu-skid",
            "pmu-place"
        ]
    );
    assert!(verdict.checks.iter().all(|check| check.fix.is_empty() && !check.why.is_empty()));
    let skid = verdict.checks.iter().find(|check| check.name == "pmu-skid").unwrap();
    assert!(skid.found.contains("at most 897 branches"), "{}", skid.found);
    let verdict = judge(&intel(), Fake { late: 60, ..Fake::default() });
    assert_eq!(verdict.counter.unwrap().event.config, 0x5111c4);
    assert!(verdict.checks.iter().any(|check| check.name == "pmu-smi"));
}

#[test]
fn an_unknown_processor_has_no_counter() {
    for facts in
        [Facts { model: 0xbd, ..intel() }, Facts { vendor: "HygonGenuine".into(), ..zen() }, Facts::default()]
    {
        let verdict = examine(&facts, |_| panic!("nothing is opened"));
        fails(&verdict, "pmu-model", "is not in the table", "--engine soft");
    }
}

#[test]
fn the_hosts_refusal_comes_with_its_remedy() {
    let nested = Facts { nested: true, ..zen() };
    let paranoid = Facts { paranoid: Some(2), ..zen() };
    for (facts, errno, found, fix) in [
        (&paranoid, libc::EACCES, "perf_event_paranoid is 2", "perf_event_paranoid=1"),
        (&paranoid, libc::EPERM, "perf_event_paranoid is 2", "CAP_PERFMON"),
        (&nested, libc::ENOENT, "a virtual machine without one", "pmu=on"),
        (&nested, libc::EOPNOTSUPP, "a virtual machine without one", "--engine soft"),
        (&zen(), libc::ENOENT, "no hardware counter for this processor", "dmesg"),
        (&zen(), libc::EBUSY, "all counters are taken", "nmi_watchdog=0"),
        (&zen(), libc::EINVAL, "does not open", "--counter off"),
    ] {
        let verdict = examine(facts, |_| Err(OpenError::Counter(io::Error::from_raw_os_error(errno))));
        fails(&verdict, "pmu-open", found, fix);
    }
    let verdict = examine(&zen(), |_| Err(OpenError::Guest("/dev/kvm does not open".into())));
    fails(&verdict, "pmu-open", "/dev/kvm does not open", "scribe-vmm doctor");
}

#[test]
fn a_counter_that_never_counts_is_found() {
    let zero = || Fake { zero: true, ..Fake::default() };
    fails(&judge(&zen(), zero()), "pmu-counts", "counts nothing", "--counter off");
    let nested = Facts { nested: true, ..zen() };
    fails(&judge(&nested, zero()), "pmu-counts", "counts nothing", "the machine below it");
}

#[test]
fn every_class_of_the_definition_is_asked() {
    for class in Class::DEFINITION {
        if class == Class::Taken {
            continue; // asked before
        }
        let fake = Fake { wrong: Some((class, 1)), ..Fake::default() };
        fails(&judge(&zen(), fake), "pmu-definition", class.name(), "--counter off");
        let fake = Fake { fails: Some(class), ..Fake::default() };
        fails(&judge(&zen(), fake), "pmu-definition", "it raised #UD", "--counter off");
    }
    let fake = Fake { wrong: Some((Class::Taken, 1)), ..Fake::default() };
    fails(&judge(&zen(), fake), "pmu-definition", "Jcc at CPL 0: 20001, not 20000", "--counter off");
}

#[test]
fn a_counter_that_counts_the_host_is_found() {
    let fake = Fake { wrong: Some((Class::Exits, 70_000)), ..Fake::default() };
    fails(&judge(&zen(), fake), "pmu-guest-only", "the host's own branches", "exclude_host");
}

#[test]
fn spec_lock_map_is_found_by_its_msr_or_its_symptom() {
    let on = Facts { spec_lock_map: Some(vec![0, 3]), ..zen() };
    fails(&judge(&on, Fake::default()), "pmu-spec-lock-map", "processors 0, 3", "wrmsr -p N 0xc0011020");
    let unknown = Facts { spec_lock_map: None, ..zen() };
    let fake = |commits| Fake { commits, ..Fake::default() };
    fails(&judge(&unknown, fake(Some(80_000))), "pmu-spec-lock-map", "80000 speculative", "modprobe msr");
    fails(&judge(&unknown, fake(None)), "pmu-spec-lock-map", "cannot be told", "modprobe msr");
    assert!(judge(&unknown, fake(Some(0))).counter.is_ok());
    let symptom = Fake { wrong: Some((Class::Atomics, 3)), ..Fake::default() };
    fails(&judge(&zen(), symptom), "pmu-spec-lock-map", "locked instructions: 20003, not 20000", "wrmsr");
}

#[test]
fn counters_must_be_frozen_on_smi() {
    for (freeze_on_smi, found, fix) in [
        (Some(false), "freeze_on_smi is 0", "echo 1 | sudo tee /sys/devices/cpu/freeze_on_smi"),
        (None, "has no /sys/devices/cpu/freeze_on_smi", "4.12"),
    ] {
        let facts = Facts { freeze_on_smi, ..intel() };
        fails(&judge(&facts, Fake::default()), "pmu-smi", found, fix);
    }
    let broadwell = Facts { model: 0x4f, freeze_on_smi: None, ..intel() };
    assert!(judge(&broadwell, Fake::default()).counter.is_ok());
}

#[test]
fn lost_overflows_are_found() {
    let fake = Fake { loses: Some(200), ..Fake::default() };
    fails(&judge(&zen(), fake), "pmu-overflow", "1 of 200", "performance interrupts");
    let fake = Fake { around: 1, ..Fake::default() };
    fails(&judge(&zen(), fake), "pmu-overflow", "around an overflow", "--counter off");
}

#[test]
fn overflows_that_are_too_late_are_found() {
    let late = |late| Fake { late, ..Fake::default() };
    fails(&judge(&intel(), late(101)), "pmu-skid", "101 branches late; 100", "--counter off");
    assert!(judge(&intel(), late(100)).counter.is_ok());
    fails(&judge(&zen(), late(10_001)), "pmu-skid", "10001 branches late", "--counter off");
}

#[test]
fn a_place_that_is_missed_is_found() {
    let fake = Fake { place: Some("RCX is 17 where it should be 16"), ..Fake::default() };
    fails(&judge(&zen(), fake), "pmu-place", "RCX is 17", "--counter off");
}

#[test]
fn of_hybrid_processors_the_performance_cores_are_used() {
    let facts = |processors: Vec<usize>| {
        let hybrid = Some(Hybrid { pmu: 8, processors });
        Facts { model: 0x97, hybrid, ..intel() }
    };
    let verdict = judge(&facts(vec![0, 1, 2, 3]), Fake::default());
    let counter = verdict.counter.unwrap();
    assert_eq!(counter.event, Event { pmu: 8, config: 0x5111c4 });
    assert_eq!(counter.processors, Some(vec![0, 1, 2, 3]));
    assert!(verdict.checks.iter().any(|check| check.name == "pmu-cores" && check.found.contains("the 4 of")));
    fails(&judge(&facts(Vec::new()), Fake::default()), "pmu-cores", "none of the kind", "Turn one on");
}

#[test]
fn twice_the_skid_is_more() {
    let counter = judge(&intel(), Fake::default()).counter.unwrap();
    assert_eq!(counter.with_twice_the_skid().skid, 200);
    assert_eq!(Counter { skid: 0, ..counter.clone() }.with_twice_the_skid().skid, 1);
    assert_eq!(Counter { skid: u64::MAX, ..counter }.with_twice_the_skid().skid, u64::MAX);
}
