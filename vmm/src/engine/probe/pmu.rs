//! Is there a hardware counter that counts in the guest only? Whether it can be used: `doctor --pmu`.

use super::{Check, Status};
use crate::host::perf;

/// The check.
pub(super) fn check() -> Check {
    let (status, found, fix) = match perf::try_instructions() {
        Ok(()) => (Status::Ok, "a counter for guest instructions opens".into(), String::new()),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EACCES | libc::EPERM)) => (
            Status::Warn,
            format!("a counter for guest instructions may not be opened: {e}"),
            "Allow it: sudo sysctl kernel.perf_event_paranoid=1 (inside a container also CAP_PERFMON)."
                .into(),
        ),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EOPNOTSUPP | libc::ENODEV)) => (
            Status::Warn,
            "no hardware counter".into(),
            "In a virtual machine, turn on its PMU if the provider offers one. Recording works without."
                .into(),
        ),
        Err(e) => (
            Status::Warn,
            format!("a counter for guest instructions does not open: {e}"),
            "Recording works without.".into(),
        ),
    };
    Check {
        name: "pmu",
        status,
        found,
        why: "Counting branches places a timer interrupt anywhere; without, only where the guest makes an exit.",
        fix,
    }
}
