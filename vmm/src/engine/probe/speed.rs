//! How fast the guest's kernel runs: a processor makes thousands of millions of instructions a second, an emulator one.

use iced_x86::code_asm::*;

use super::exit::Exit;
use super::guest::{Guest, ProbeError};
use super::layout::Ring;
use super::{Finding, Probe, Scope};
use crate::host::clock::monotonic_ns;

const MARK: u8 = 0x11;
/// Below this an emulator runs CPL 0. The slowest useful host measured (nested, no hardware) does several times it.
const LIMIT_PER_S: u64 = 20_000_000;
/// Instructions of the first try: 4 ms on a host that makes 1 M/s.
const FIRST: u64 = 4_000;
/// Instructions of the last.
const LAST: u64 = 4_000_000;
/// A try this long is exact enough.
const LONG_ENOUGH_NS: u64 = 1_000_000;
/// A slow result is tried again this often, since a preempted thread looks like a slow guest.
const TRIES: u32 = 4;

pub(super) const SPEED: Probe = Probe {
    name: "speed-cpl0",
    scope: Scope::Quick,
    why: "A kernel run by KVM's instruction emulator takes minutes to boot.",
    fix: super::FIX_OTHER_HOST,
    run: speed,
};

/// Runs a loop of `instructions` and returns the nanoseconds it took, exit included.
fn time_loop(guest: &mut Guest, ring: Ring, instructions: u64) -> Result<Result<u64, Exit>, ProbeError> {
    guest.start(ring, |a| {
        let mut spin = a.create_label();
        a.set_label(&mut spin)?;
        a.dec(rcx)?;
        a.jnz(spin)?;
        a.out(u32::from(MARK), al)?;
        a.hlt()
    })?;
    guest.edit_regs(|regs| regs.rcx = instructions / 2)?;
    let start = monotonic_ns();
    let exit = guest.run()?;
    let took = monotonic_ns().saturating_sub(start).max(1);
    Ok(if exit == Exit::Mark(MARK) { Ok(took) } else { Err(exit) })
}

/// Instructions per second: longer and longer loops until one takes long enough.
fn measure(guest: &mut Guest, ring: Ring) -> Result<Result<u64, Exit>, ProbeError> {
    let mut instructions = FIRST;
    loop {
        let took = match time_loop(guest, ring, instructions)? {
            Ok(took) => took,
            Err(exit) => return Ok(Err(exit)),
        };
        if took >= LONG_ENOUGH_NS || instructions >= LAST {
            return Ok(Ok(instructions * 1_000_000_000 / took));
        }
        instructions *= 10;
    }
}

fn speed(guest: &mut Guest) -> Result<Finding, ProbeError> {
    let mut best = 0;
    for _ in 0..TRIES {
        match measure(guest, Ring::Kernel)? {
            Ok(per_second) => best = best.max(per_second),
            Err(exit) => return Ok(Finding::fail(format!("a loop at CPL 0 does not end: {exit}"))),
        }
        if best >= LIMIT_PER_S {
            return Ok(Finding::ok(format!("{} instructions/s at CPL 0", rate(best))));
        }
    }
    let user = match measure(guest, Ring::User)? {
        Ok(per_second) => format!(", {} at CPL 3", rate(per_second)),
        Err(_) => String::new(),
    };
    Ok(Finding::fail(format!("{} instructions/s at CPL 0{user}: CPL 0 is emulated", rate(best))))
}

/// `1.06 M`, `3.20 G`.
fn rate(per_second: u64) -> String {
    let hundredths = |unit: u64| format!("{}.{:02}", per_second / unit, per_second % unit * 100 / unit);
    match per_second {
        0..1_000_000 => format!("{} k", hundredths(1_000)),
        1_000_000..1_000_000_000 => format!("{} M", hundredths(1_000_000)),
        _ => format!("{} G", hundredths(1_000_000_000)),
    }
}

#[cfg(test)]
mod tests {
    use super::rate;

    #[test]
    fn rates_are_readable() {
        assert_eq!(rate(1_060_000), "1.06 M");
        assert_eq!(rate(999), "0.99 k");
        assert_eq!(rate(3_205_000_000), "3.20 G");
    }
}
