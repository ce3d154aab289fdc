//! Makes a case that differs smaller: fewer instructions, simpler state.

use super::case::{Case, Machine, fx};
use super::flags;

/// Drops what is not needed for `differs` to stay true.
pub fn minimise(case: &Case, mut differs: impl FnMut(&Case) -> bool) -> Case {
    let mut best = case.clone();
    let groups: Vec<usize> = {
        let mut list: Vec<usize> = case.pieces.iter().map(|piece| piece.group).collect();
        list.dedup();
        list
    };
    let mut attempt = |best: &mut Case, change: &dyn Fn(&mut Case)| {
        let mut smaller = best.clone();
        change(&mut smaller);
        if flags::undefined(&smaller).is_some() && differs(&smaller) {
            *best = smaller;
            return true;
        }
        false
    };
    for _ in 0..2 {
        let mut changed = false;
        for group in groups.iter().rev() {
            let all_dropped = best.pieces.iter().filter(|p| p.group == *group).all(|p| p.dropped);
            if !all_dropped {
                changed |= attempt(&mut best, &|case| {
                    case.pieces.iter_mut().filter(|p| p.group == *group).for_each(|p| p.dropped = true);
                });
            }
        }
        for index in (0..best.pieces.len()).rev() {
            if !best.pieces[index].dropped && !best.pieces[index].guard {
                changed |= attempt(&mut best, &|case| case.pieces[index].dropped = true);
            }
        }
        if !changed {
            break;
        }
    }
    for register in 0..16 {
        if best.machine.general[register] != 0 {
            attempt(&mut best, &|case| case.machine.general[register] = 0);
        }
    }
    attempt(&mut best, &|case| case.machine.rflags = 0x202);
    for at in (fx::ST..fx::XMM + 256).step_by(16) {
        if best.machine.fx[at..at + 16] != [0; 16] {
            attempt(&mut best, &|case| case.machine.fx[at..at + 16].fill(0));
        }
    }
    let plain = Machine::new();
    for range in [fx::FCW..fx::FCW + 2, fx::FSW..fx::FSW + 2, fx::FTW..fx::FTW + 1, fx::MXCSR..fx::MXCSR + 4]
    {
        attempt(&mut best, &|case| case.machine.fx[range.clone()].copy_from_slice(&plain.fx[range.clone()]));
    }
    best
}
