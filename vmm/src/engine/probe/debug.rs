//! Single-stepping and breakpoints: needed to look inside a replay, not to record.

use iced_x86::code_asm::*;
use kvm_bindings::{
    KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, KVM_GUESTDBG_USE_SW_BP,
    kvm_guest_debug,
};

use super::exit::Exit;
use super::guest::{Guest, ProbeError};
use super::layout::Ring;
use super::{Finding, Probe, Scope};

const MARK: u8 = 0x11;
/// Instructions stepped over.
const STEPS: u64 = 4;

pub(super) const SINGLE_STEP: Probe = Probe {
    name: "single-step",
    scope: Scope::Full,
    why: "Reaching a position between two exits and debugging a replay need it; recording does not.",
    fix: "Recording and replay at exits work without it. For the rest use another host.",
    run: single_step,
};

pub(super) const BREAKPOINTS: Probe = Probe {
    name: "breakpoints",
    scope: Scope::Full,
    why: "Debugging a replay stops at breakpoints; without the hardware's, single-stepping replaces them.",
    fix: "Nothing to do: single-stepping is used instead, which is slower.",
    run: breakpoints,
};

fn load(guest: &mut Guest, ring: Ring) -> Result<(), ProbeError> {
    guest.start(ring, |a| {
        for _ in 0..8 {
            a.inc(rcx)?; // 3 bytes each
        }
        a.out(u32::from(MARK), al)?;
        a.hlt()
    })
}

fn single_step(guest: &mut Guest) -> Result<Finding, ProbeError> {
    let mut bad = Vec::new();
    for ring in [Ring::Kernel, Ring::User] {
        load(guest, ring)?;
        guest.debug(&kvm_guest_debug {
            control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP,
            ..Default::default()
        })?;
        for step in 1..=STEPS {
            let exit = guest.run()?;
            let expected = ring.at(ring.code()) + 3 * step;
            match exit {
                Exit::Debug { pc, .. } if pc == expected => continue,
                Exit::Debug { pc, .. } => {
                    bad.push(format!("at CPL {} step {step} ends at {pc:#x}, not {expected:#x}", ring.cpl()));
                }
                Exit::Vector(1) | Exit::Shutdown => {
                    bad.push(format!("at CPL {} the step goes to the guest as #DB", ring.cpl()));
                }
                other => bad.push(format!("at CPL {}: {other}", ring.cpl())),
            }
            break;
        }
    }
    Ok(if bad.is_empty() {
        Finding::ok("one instruction at a time at CPL 0 and 3")
    } else {
        Finding::warn(bad.join("; "))
    })
}

fn breakpoints(guest: &mut Guest) -> Result<Finding, ProbeError> {
    let mut bad = Vec::new();
    for ring in [Ring::Kernel, Ring::User] {
        let target = ring.at(ring.code()) + 3 * STEPS;
        load(guest, ring)?;
        let mut how =
            kvm_guest_debug { control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP, ..Default::default() };
        how.arch.debugreg[0] = target;
        how.arch.debugreg[7] = 0x403; // L0, G0, and the bit that is always set
        guest.debug(&how)?;
        if let Some(why) = missed(guest.run()?, target) {
            bad.push(format!("hardware at CPL {}: {why}", ring.cpl()));
        }

        guest.start(ring, |a| {
            a.nop()?;
            a.int3()?;
            a.out(u32::from(MARK), al)?;
            a.hlt()
        })?;
        guest.debug(&kvm_guest_debug {
            control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP,
            ..Default::default()
        })?;
        if let Some(why) = missed(guest.run()?, ring.at(ring.code()) + 1) {
            bad.push(format!("software at CPL {}: {why}", ring.cpl()));
        }
    }
    Ok(if bad.is_empty() {
        Finding::ok("hardware and software breakpoints fire at CPL 0 and 3")
    } else {
        Finding::warn(bad.join("; "))
    })
}

/// Why this exit is not the breakpoint at `target`.
fn missed(exit: Exit, target: u64) -> Option<String> {
    match exit {
        Exit::Debug { pc, .. } if pc == target => None,
        Exit::Debug { pc, .. } => Some(format!("stops at {pc:#x}, not {target:#x}")),
        Exit::Mark(MARK) => Some("does not fire".into()),
        other => Some(other.to_string()),
    }
}
