//! The probe on the machine's own KVM, and reports made up by hand.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::host::clock::monotonic_ns;

fn host() -> HostFacts {
    HostFacts {
        cpu_model: "Test CPU".into(),
        microcode: "0x1".into(),
        kernel_release: "6.1.0".into(),
        kvm_module: "kvm_test".into(),
    }
}

fn made_up(checks: &[(&'static str, Status, &str)]) -> Report {
    let check = |(name, status, found): &(&'static str, Status, &str)| Check {
        name,
        status: *status,
        found: (*found).into(),
        why: "Because.",
        fix: String::new(),
    };
    Report { host: host(), checks: checks.iter().map(check).collect() }
}

#[test]
fn warnings_do_not_make_a_host_unfit() {
    let report = made_up(&[("a", Status::Ok, "good"), ("b", Status::Warn, "less good")]);
    assert_eq!(report.fit_for_linux(), Ok(()));
}

#[test]
fn unfit_is_one_line_with_the_first_reason_and_all_names() {
    let report = made_up(&[
        ("a", Status::Ok, "good"),
        ("b", Status::Fail, "it does not"),
        ("c", Status::Warn, "less good"),
        ("d", Status::Fail, "neither"),
        ("e", Status::Fail, "nor this"),
    ]);
    let unfit = report.fit_for_linux().unwrap_err().to_string();
    assert_eq!(unfit, "this host's KVM cannot run a Linux guest: it does not (b); also failing: d, e");
}

#[test]
fn every_probe_has_its_own_name_and_texts() {
    let names: BTreeSet<_> = PROBES.iter().map(|probe| probe.name).collect();
    assert_eq!(names.len(), PROBES.len());
    for probe in &PROBES {
        assert!(probe.why.ends_with('.') && probe.fix.ends_with('.'), "{}", probe.name);
    }
}

/// Probes the machine's own KVM, whatever that is, and checks what must hold of any.
fn probe_here(scope: Scope) -> Option<Report> {
    if !Path::new("/dev/kvm").exists() {
        eprintln!("SKIPPED: no /dev/kvm on this machine");
        return None;
    }
    let start = monotonic_ns();
    let report = probe(scope);
    let took_ms = (monotonic_ns() - start) / 1_000_000;
    eprintln!("{scope:?} probe: {took_ms} ms, {:?}", report.fit_for_linux());
    assert!(took_ms < 5_000, "took {took_ms} ms");
    let names: BTreeSet<_> = report.checks.iter().map(|check| check.name).collect();
    assert_eq!(names.len(), report.checks.len(), "a name appears twice");
    for check in &report.checks {
        assert!(!check.name.is_empty() && !check.found.is_empty() && !check.why.is_empty(), "{check:?}");
        assert_eq!(check.status == Status::Ok, check.fix.is_empty(), "{check:?}");
        assert!(!check.found.contains('\n'), "{check:?}");
    }
    Some(report)
}

#[test]
fn full_probe_comes_back_with_consistent_answers() {
    let Some(report) = probe_here(Scope::Full) else {
        return;
    };
    let advisory = PROBES.iter().filter(|probe| probe.scope == Scope::Full).map(|probe| probe.name);
    let advisory: BTreeSet<_> = advisory.chain(["pmu"]).collect();
    for check in &report.checks {
        assert!(check.status != Status::Fail || !advisory.contains(check.name), "{check:?}");
    }
    if report.host.kvm_module == "kvm_pvm" && report.checks.len() > 2 {
        assert!(report.fit_for_linux().is_err());
        for name in ["syscall", "int-n", "speed-cpl0", "kernel-instructions", "cpuid"] {
            let check = report.checks.iter().find(|check| check.name == name);
            assert_eq!(check.map(|check| check.status), Some(Status::Fail), "{name}");
        }
        for name in ["exits", "interrupts", "dirty-log"] {
            let check = report.checks.iter().find(|check| check.name == name);
            assert_eq!(check.map(|check| check.status), Some(Status::Ok), "{name}");
        }
    }
}

#[test]
fn quick_probe_agrees_with_the_full_one() {
    let (Some(quick), Some(full)) = (probe_here(Scope::Quick), probe_here(Scope::Full)) else {
        return;
    };
    let failing = |report: &Report| -> BTreeSet<&'static str> {
        report.checks.iter().filter(|check| check.status == Status::Fail).map(|check| check.name).collect()
    };
    assert_eq!(failing(&quick), failing(&full));
    assert!(quick.checks.len() < full.checks.len() || full.checks.len() <= 3);
}

#[test]
fn probes_in_several_threads_do_not_disturb_each_other() {
    if !Path::new("/dev/kvm").exists() {
        eprintln!("SKIPPED: no /dev/kvm on this machine");
        return;
    }
    let verdicts: Vec<bool> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..3).map(|_| scope.spawn(|| probe(Scope::Quick).fit_for_linux().is_ok())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(verdicts.iter().all(|verdict| *verdict == verdicts[0]), "{verdicts:?}");
}
