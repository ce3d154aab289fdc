//! Does the guest change privilege level as the processor would: SYSCALL, INT n, exceptions, and back?

use iced_x86::code_asm::*;

use super::exit::Exit;
use super::guest::{Guest, ProbeError};
use super::layout::{INT_VECTOR, Ring, SYSCALL_ENTRY, UNMAPPED};
use super::{Finding, Probe, Scope};

/// A place in kernel code.
const ENTERED: u8 = 0x20;
/// A place in the code that was interrupted.
const RETURNED: u8 = 0x21;
/// In a page fault's error code: it happened at CPL 3.
const PF_USER: u64 = 1 << 2;

pub(super) const SYSCALL: Probe = Probe {
    name: "syscall",
    scope: Scope::Quick,
    why: "Every system call of a program enters the guest kernel this way.",
    fix: super::FIX_OTHER_HOST,
    run: syscall,
};

pub(super) const INT_N: Probe = Probe {
    name: "int-n",
    scope: Scope::Quick,
    why: "Software interrupts must enter the guest kernel through the IDT, at CPL 0.",
    fix: super::FIX_OTHER_HOST,
    run: int_n,
};

pub(super) const EXCEPTIONS: Probe = Probe {
    name: "exceptions",
    scope: Scope::Quick,
    why: "Page faults and other exceptions are how a kernel manages memory and stops programs.",
    fix: super::FIX_OTHER_HOST,
    run: exceptions,
};

/// Runs on from a kernel entry and checks that the interrupted code continues at its own level.
fn returns_to(guest: &mut Guest, ring: Ring, by: &str) -> Result<Option<Finding>, ProbeError> {
    let exit = guest.run()?;
    if exit != Exit::Mark(RETURNED) {
        return Ok(Some(Finding::fail(format!("no return by {by}: {exit}"))));
    }
    let (cpl, _) = guest.cpl_and_cr2()?;
    if cpl != ring.cpl() {
        return Ok(Some(Finding::fail(format!("{by} returned to CPL {cpl} instead of {}", ring.cpl()))));
    }
    Ok(None)
}

fn syscall(guest: &mut Guest) -> Result<Finding, ProbeError> {
    guest.start(Ring::User, |a| {
        a.syscall()?;
        a.out(u32::from(RETURNED), al)?;
        a.hlt()
    })?;
    guest.syscall_entry(|a| {
        a.out(u32::from(ENTERED), al)?;
        a.sysretq()
    })?;
    let exit = guest.run()?;
    let (cpl, address) = guest.cpl_and_cr2()?;
    let stays = match exit {
        Exit::Mark(ENTERED) => cpl != 0,
        // The kernel's page may not be executed at CPL 3.
        Exit::Vector(14) => address == Ring::Kernel.at(SYSCALL_ENTRY) && guest.pushed(14)?.0 & PF_USER != 0,
        _ => {
            return Ok(Finding::fail(format!("SYSCALL at CPL 3 does not reach the kernel: {exit}")));
        }
    };
    if stays {
        return Ok(Finding::fail("SYSCALL at CPL 3 jumps to LSTAR but stays at CPL 3"));
    }
    if exit != Exit::Mark(ENTERED) {
        return Ok(Finding::fail(format!(
            "SYSCALL at CPL 3 does not reach the kernel: {exit} at {address:#x}"
        )));
    }
    let saved = guest.regs()?.rcx;
    let expected = Ring::User.at(Ring::User.code()) + 2;
    if saved != expected {
        return Ok(Finding::fail(format!("SYSCALL leaves {saved:#x} in RCX instead of {expected:#x}")));
    }
    Ok(returns_to(guest, Ring::User, "SYSRET")?
        .unwrap_or_else(|| Finding::ok("SYSCALL at CPL 3 reaches CPL 0, SYSRET returns to CPL 3")))
}

fn int_n(guest: &mut Guest) -> Result<Finding, ProbeError> {
    guest.start(Ring::User, |a| {
        a.int(u32::from(INT_VECTOR))?;
        a.out(u32::from(RETURNED), al)?;
        a.hlt()
    })?;
    guest.handler(INT_VECTOR, |a| {
        a.out(u32::from(ENTERED), al)?;
        a.iretq()
    })?;
    let exit = guest.run()?;
    if exit != Exit::Mark(ENTERED) {
        return Ok(Finding::fail(format!("INT n at CPL 3 does not reach its handler: {exit}")));
    }
    let (cpl, _) = guest.cpl_and_cr2()?;
    if cpl != 0 {
        return Ok(Finding::fail(format!("the handler of INT n runs at CPL {cpl}")));
    }
    Ok(returns_to(guest, Ring::User, "IRET")?
        .unwrap_or_else(|| Finding::ok("INT n at CPL 3 reaches CPL 0, IRET returns to CPL 3")))
}

fn exceptions(guest: &mut Guest) -> Result<Finding, ProbeError> {
    for ring in [Ring::User, Ring::Kernel] {
        if let Some(failed) = invalid_opcode(guest, ring)? {
            return Ok(failed);
        }
        if let Some(failed) = page_fault(guest, ring)? {
            return Ok(failed);
        }
    }
    Ok(Finding::ok("#UD and #PF reach CPL 0 from CPL 3 and CPL 0, IRET returns"))
}

fn invalid_opcode(guest: &mut Guest, ring: Ring) -> Result<Option<Finding>, ProbeError> {
    guest.start(ring, |a| {
        a.ud2()?;
        a.out(u32::from(RETURNED), al)?;
        a.hlt()
    })?;
    guest.handler(6, |a| {
        a.out(u32::from(ENTERED), al)?;
        a.add(qword_ptr(rsp), 2)?; // past UD2
        a.iretq()
    })?;
    if let Some(failed) = entered(guest, ring, "#UD")? {
        return Ok(Some(failed));
    }
    returns_to(guest, ring, "IRET")
}

fn page_fault(guest: &mut Guest, ring: Ring) -> Result<Option<Finding>, ProbeError> {
    guest.start(ring, |a| {
        a.mov(rbx, UNMAPPED)?;
        a.mov(eax, dword_ptr(rbx))?; // 2 bytes
        a.out(u32::from(RETURNED), al)?;
        a.hlt()
    })?;
    guest.handler(14, |a| {
        a.out(u32::from(ENTERED), al)?;
        a.pop(rax)?; // error code
        a.add(qword_ptr(rsp), 2)?;
        a.iretq()
    })?;
    if let Some(failed) = entered(guest, ring, "#PF")? {
        return Ok(Some(failed));
    }
    let (_, address) = guest.cpl_and_cr2()?;
    if address != UNMAPPED {
        return Ok(Some(Finding::fail(format!("#PF leaves {address:#x} in CR2 instead of {UNMAPPED:#x}"))));
    }
    if let Some(failed) = returns_to(guest, ring, "IRET")? {
        return Ok(Some(failed));
    }
    let (code, expected) = (guest.regs()?.rax, if ring == Ring::User { 4 } else { 0 });
    if code != expected {
        return Ok(Some(Finding::fail(format!("#PF pushes error code {code:#x} instead of {expected:#x}"))));
    }
    Ok(None)
}

/// Runs to the handler's mark and checks its level.
fn entered(guest: &mut Guest, ring: Ring, what: &str) -> Result<Option<Finding>, ProbeError> {
    let exit = guest.run()?;
    if exit != Exit::Mark(ENTERED) {
        return Ok(Some(Finding::fail(format!(
            "{what} at CPL {} does not reach its handler: {exit}",
            ring.cpl()
        ))));
    }
    let (cpl, _) = guest.cpl_and_cr2()?;
    if cpl != 0 {
        return Ok(Some(Finding::fail(format!(
            "the handler of {what} raised at CPL {} runs at CPL {cpl}",
            ring.cpl()
        ))));
    }
    Ok(None)
}
