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

#[cfg(test)]
mod tests {
    use super::*;

    /// The ordinals kept when one snapshot after the other was taken up to `newest`.
    fn kept(newest: u64) -> Vec<u64> {
        (0..=newest).filter(|&ordinal| is_kept(ordinal, newest)).collect()
    }

    /// Thins after each of 100 000 snapshots. What was dropped is never wanted again: at any time there is what thinning once
    /// would have left.
    #[test]
    fn the_number_kept_grows_like_the_logarithm() {
        let mut existing: Vec<u64> = Vec::new();
        let mut most = 0;
        for newest in 0..=100_000u64 {
            existing.push(newest);
            let gone = superseded(&existing, newest);
            existing.retain(|ordinal| !gone.contains(ordinal));
            let bound = REACH + REACH / 2 * u64::from(newest.max(1).ilog2());
            let number = existing.len() as u64;
            assert!(number <= bound, "{newest}: {number}");
            most = most.max(number);
            if newest < 1000 || newest % 7919 == 0 {
                assert_eq!(existing, kept(newest));
            }
        }
        assert!((25..=38).contains(&most), "{most}");
    }

    /// From anywhere behind the newest it is never further to the nearest one before than half the distance to the newest.
    #[test]
    fn gaps_are_bounded_by_the_distance_from_the_newest() {
        for newest in (0..2000).chain([4095, 4096, 10_000, 65_537, 99_999, 100_000]) {
            let kept = kept(newest);
            assert_eq!((kept.first(), kept.last()), (Some(&0), Some(&newest)));
            for pair in kept.windows(2) {
                let (gap, distance) = (pair[1] - pair[0], newest - pair[0]);
                assert!(gap == 1 || gap * REACH <= distance * 2, "{newest}: {pair:?}");
            }
        }
    }

    #[test]
    fn all_numbers_have_an_answer() {
        assert!(is_kept(0, u64::MAX) && is_kept(u64::MAX, 0) && is_kept(1 << 63, u64::MAX));
        assert!(!is_kept(1, u64::MAX));
        assert_eq!(superseded(&[9, 5, 4, 1, 12], 12), [5, 1]);
    }
}
