//! Is there a hardware counter that counts in the guest only?
#![allow(unsafe_code)] // perf_event_open has no wrapper in libc

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use super::{Check, Status};

/// PERF_ATTR_SIZE_VER0: the oldest layout of `perf_event_attr`, which every kernel takes, as words: type and size,
/// config, sample_period, sample_type, read_format, flags, wakeup_events and bp_type, bp_addr.
type EventAttributes = [u64; 8];

const PERF_TYPE_HARDWARE: u64 = 0;
const PERF_COUNT_HW_INSTRUCTIONS: u64 = 1;
const PERF_FLAG_FD_CLOEXEC: u64 = 1 << 3;
const DISABLED: u64 = 1 << 0;
const PINNED: u64 = 1 << 2;
const EXCLUDE_HOST: u64 = 1 << 19;

/// Opens an instruction counter that runs only while this thread is in a guest.
fn open_counter() -> io::Result<OwnedFd> {
    let size = size_of::<EventAttributes>() as u64;
    let attributes: EventAttributes = [
        PERF_TYPE_HARDWARE | size << 32,
        PERF_COUNT_HW_INSTRUCTIONS,
        0,
        0,
        0,
        DISABLED | PINNED | EXCLUDE_HOST,
        0,
        0,
    ];
    // SAFETY: the attributes are `size` valid bytes that the kernel reads; this thread, any processor, no group.
    let result = unsafe {
        libc::syscall(libc::SYS_perf_event_open, attributes.as_ptr(), 0, -1, -1, PERF_FLAG_FD_CLOEXEC)
    };
    match i32::try_from(result) {
        // SAFETY: a descriptor that the kernel has just given to us alone.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The check.
pub(super) fn check() -> Check {
    let (status, found, fix) = match open_counter() {
        Ok(_) => (Status::Ok, "a counter for guest instructions opens".into(), String::new()),
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
