//! What the guest can learn of the host: the clock, the processor, randomness. What leaks makes replay diverge.

use std::fmt;

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::cpuid;
use super::exit::Exit;
use super::guest::{Guest, ProbeError, Start, Table};
use super::layout::{CR4_TSD, Ring};
use super::{Finding, Probe, Scope};

const MARK: u8 = 0x11;
const UD: u8 = 6;
const GP: u8 = 13;

pub(super) const CPUID: Probe = Probe {
    name: "cpuid",
    scope: Scope::Quick,
    why: "A guest that sees the host's processor takes other paths on another host.",
    fix: super::FIX_OTHER_HOST,
    run: cpuid_honoured,
};

pub(super) const TSC_USER: Probe = Probe {
    name: "tsc-cpl3",
    scope: Scope::Quick,
    why: "Programs would read the host's clock: CR4.TSD has to make RDTSC a fault that the kernel serves.",
    fix: super::FIX_OTHER_HOST,
    run: tsc_user,
};

pub(super) const TZCNT: Probe = Probe {
    name: "tzcnt",
    scope: Scope::Quick,
    why: "REP BSF is TZCNT on new processors and BSF on old ones, whatever CPUID says: results would differ.",
    fix: "Use a processor with BMI1 and LZCNT: Intel Haswell, AMD Piledriver or newer.",
    run: tzcnt,
};

pub(super) const TSC_KERNEL: Probe = Probe {
    name: "tsc-cpl0",
    scope: Scope::Full,
    why: "KVM offers no way to deny RDTSC to a guest kernel, and what it reads differs in every run.",
    fix: "Use a guest kernel that reads no TSC, such as ours; others are refused for recording.",
    run: tsc_kernel,
};

pub(super) const HIDDEN: Probe = Probe {
    name: "hidden-instructions",
    scope: Scope::Full,
    why: "CPUID tells the guest that they are absent. A program that runs them regardless does not replay.",
    fix: "Nothing to do for programs that obey CPUID; avoid those that do not.",
    run: hidden,
};

/// Bits of leaf 1 that KVM keeps up to date itself: MONITOR and OSXSAVE in ECX, APIC in EDX.
fn own_bits(function: u32) -> [u32; 4] {
    match function {
        1 => [0, 0, 1 << 3 | 1 << 27, 1 << 9],
        0x8000_0001 => [0, 0, 0, 1 << 9],
        _ => [0; 4],
    }
}

fn cpuid_honoured(guest: &mut Guest) -> Result<Finding, ProbeError> {
    let entries = cpuid::made_up_entries();
    let mut leaks = Vec::new();
    for ring in [Ring::Kernel, Ring::User] {
        let start = Start { ring, table: Table::MadeUp, cr4: 0 };
        guest.start(start, |a| {
            for entry in &entries {
                a.mov(eax, entry.function)?;
                a.xor(ecx, ecx)?;
                a.cpuid()?;
                a.out(u32::from(MARK), al)?;
            }
            a.hlt()
        })?;
        for entry in &entries {
            let exit = guest.run()?;
            if exit != Exit::Mark(MARK) {
                return Ok(Finding::fail(format!("CPUID at CPL {}: {exit}", ring.cpl())));
            }
            let regs = guest.regs()?;
            let seen = [regs.rax, regs.rbx, regs.rcx, regs.rdx];
            let given = [entry.eax, entry.ebx, entry.ecx, entry.edx];
            let ignored = own_bits(entry.function);
            for (register, name) in ["EAX", "EBX", "ECX", "EDX"].into_iter().enumerate() {
                let differ = (seen[register] ^ u64::from(given[register])) & !u64::from(ignored[register]);
                if differ != 0 {
                    leaks.push(format!(
                        "leaf {:#x} {name} at CPL {}: {:#x} instead of {:#x}",
                        entry.function,
                        ring.cpl(),
                        seen[register],
                        given[register]
                    ));
                }
            }
        }
    }
    Ok(match leaks.as_slice() {
        [] => Finding::ok("the guest sees the table it was given, at CPL 0 and 3"),
        [first] => Finding::fail(first.clone()),
        [first, .., last] => {
            Finding::fail(format!("{} values of the host are seen: {first}; ... {last}", leaks.len()))
        }
    })
}

/// How one instruction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It ran.
    Runs,
    /// It, and not what follows, raised this exception.
    Raises(u8),
    /// Anything else.
    Odd(Exit),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Runs => write!(f, "it runs"),
            Self::Raises(vector) => Exit::Vector(*vector).fmt(f),
            Self::Odd(exit) => exit.fmt(f),
        }
    }
}

/// Runs one instruction.
fn one(
    guest: &mut Guest,
    start: Start,
    emit: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Result<Outcome, ProbeError> {
    guest.start(start, |a| {
        emit(a)?;
        a.out(u32::from(MARK), al)?;
        a.hlt()
    })?;
    Ok(match guest.run()? {
        Exit::Mark(MARK) => Outcome::Runs,
        Exit::Vector(vector) if guest.pushed(vector)?.1 == start.ring.at(start.ring.code()) => {
            Outcome::Raises(vector)
        }
        other => Outcome::Odd(other),
    })
}

fn tsc_user(guest: &mut Guest) -> Result<Finding, ProbeError> {
    let start = Start { ring: Ring::User, table: Table::Profile, cr4: CR4_TSD };
    Ok(match one(guest, start, |a| a.rdtsc())? {
        Outcome::Raises(GP) => Finding::ok("RDTSC at CPL 3 with CR4.TSD raises #GP"),
        Outcome::Runs => Finding::fail("RDTSC at CPL 3 reads the host's TSC in spite of CR4.TSD"),
        other => Finding::fail(format!("RDTSC at CPL 3 with CR4.TSD should raise #GP: {other}")),
    })
}

fn tsc_kernel(guest: &mut Guest) -> Result<Finding, ProbeError> {
    let start = Start { ring: Ring::Kernel, table: Table::Profile, cr4: CR4_TSD };
    Ok(match one(guest, start, |a| a.rdtsc())? {
        Outcome::Runs => Finding::warn("RDTSC at CPL 0 reads a running clock and cannot be trapped"),
        other => Finding::ok(format!("RDTSC at CPL 0 does not read the host's clock: {other}")),
    })
}

fn hidden(guest: &mut Guest) -> Result<Finding, ProbeError> {
    type Emit = fn(&mut CodeAssembler) -> Result<(), IcedError>;
    const HIDDEN: [(&str, Emit); 3] =
        [("RDRAND", |a| a.rdrand(rax)), ("RDSEED", |a| a.rdseed(rax)), ("RDTSCP", |a| a.rdtscp())];
    let mut executed = Vec::new();
    let mut odd = Vec::new();
    for (name, emit) in HIDDEN {
        let mut levels = Vec::new();
        for ring in [Ring::Kernel, Ring::User] {
            let start = Start { ring, table: Table::Profile, cr4: CR4_TSD };
            match one(guest, start, emit)? {
                Outcome::Runs => levels.push(ring.cpl().to_string()),
                Outcome::Raises(UD | GP) => {}
                Outcome::Odd(exit) if exit.is_refusal() => {}
                other => odd.push(format!("{name} at CPL {}: {other}", ring.cpl())),
            }
        }
        if !levels.is_empty() {
            executed.push(format!("{name} at CPL {}", levels.join(" and ")));
        }
    }
    Ok(if !odd.is_empty() {
        Finding::warn(odd.join("; "))
    } else if !executed.is_empty() {
        Finding::warn(format!("still execute with their CPUID bits clear: {}", executed.join(", ")))
    } else {
        Finding::ok("RDRAND, RDSEED and RDTSCP fault, as CPUID says")
    })
}

fn tzcnt(guest: &mut Guest) -> Result<Finding, ProbeError> {
    let mut old = Vec::new();
    for ring in [Ring::Kernel, Ring::User] {
        let start = Start::from(ring);
        let outcome = one(guest, start, |a| {
            a.xor(ebx, ebx)?;
            a.mov(eax, 1)?;
            a.tzcnt(rcx, rbx)?; // of 0: 64; as BSF: undefined or unchanged
            a.lzcnt(rdx, rax) // of 1: 63; as BSR: 0
        })?;
        if outcome != Outcome::Runs {
            return Ok(Finding::fail(format!("TZCNT or LZCNT at CPL {}: {outcome}", ring.cpl())));
        }
        let regs = guest.regs()?;
        if regs.rcx != 64 {
            old.push(format!("REP BSF is BSF at CPL {}", ring.cpl()));
        }
        if regs.rdx != 63 {
            old.push(format!("REP BSR is BSR at CPL {}", ring.cpl()));
        }
    }
    Ok(if old.is_empty() {
        Finding::ok("REP BSF is TZCNT and REP BSR is LZCNT, at CPL 0 and 3")
    } else {
        Finding::fail(old.join(", "))
    })
}
