//! The host's clock. The only module that may read it: nothing a guest can see comes from here, except through an
//! input that the recording holds.
#![allow(clippy::disallowed_methods)] // this is the module that owns the host's clock

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Nanoseconds since the first call in this process.
pub fn monotonic_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Seconds since 1970-01-01 00:00:00 UTC; 0 if the host's clock is before that.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Nanoseconds since 1970-01-01 00:00:00 UTC: for other processes to compare with.
pub fn unix_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Sleeps for `nanoseconds`.
pub fn sleep_ns(nanoseconds: u64) {
    std::thread::sleep(Duration::from_nanos(nanoseconds));
}
