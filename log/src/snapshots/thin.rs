//! Which of the snapshots that nobody asked for are kept.
//!
//! Automatic snapshots are taken at multiples of some interval; the multiple is the *ordinal*. If all were kept, their
//! number would grow with the recording. Kept is an ordinal while it is closer to the newest than [`REACH`] times the
//! largest power of two that divides it: every ordinal for a short while, every second one twice as long, every fourth
//! one four times as long, and so on. Of `n` ordinals at most `REACH / 2` of each power of two stay, and the distance
//! between neighbours grows with their distance from the newest, which is what seeking backwards wants.

/// How far an odd ordinal is kept: while the newest is fewer than this many ordinals ahead.
const REACH: u64 = 4;

/// Whether the automatic snapshot `ordinal` is kept when `newest` is the highest ordinal there. What is not kept at one
/// time is not kept at any later one.
pub fn is_kept(ordinal: u64, newest: u64) -> bool {
    let Some(age) = newest.checked_sub(ordinal) else { return true };
    // Ordinal 0 is divided by all powers of two.
    ordinal == 0 || age >> ordinal.trailing_zeros() < REACH
}

/// Those of `existing` that are not needed once `newest` is there, in the order given.
pub fn superseded(existing: &[u64], newest: u64) -> Vec<u64> {
    existing.iter().copied().filter(|&ordinal| !is_kept(ordinal, newest)).collect()
}
