//! What the VMM serves the guest with: port and memory exits, HLT, interrupts, kicks, MSR exits, the dirty log.

use iced_x86::code_asm::*;

use super::exit::Exit;
use super::guest::{Guest, LOGGED_SLOT, ProbeError};
use super::layout::{HOLE, IRQ_VECTOR, LOGGED, LOGGED_BYTES, Ring};
use super::{Finding, Probe, Scope};

const MARK: u8 = 0x11;

pub(super) const EXITS: Probe = Probe {
    name: "exits",
    scope: Scope::Quick,
    why: "Port and memory accesses of the guest's drivers are served by the VMM, one exit each.",
    fix: super::FIX_OTHER_HOST,
    run: exits,
};

pub(super) const INTERRUPTS: Probe = Probe {
    name: "interrupts",
    scope: Scope::Quick,
    why: "The interrupt controller is in the VMM, so that interrupts arrive at recorded places.",
    fix: super::FIX_OTHER_HOST,
    run: interrupts,
};

pub(super) const KICK: Probe = Probe {
    name: "kick",
    scope: Scope::Quick,
    why: "A guest that makes no exit has to be interrupted to take input or to be stopped.",
    fix: super::FIX_OTHER_HOST,
    run: kick,
};

pub(super) const MSR_FILTER: Probe = Probe {
    name: "msr-filter",
    scope: Scope::Quick,
    why: "MSRs that tell the host's time or state must not be read without the VMM.",
    fix: "Use a host kernel 5.10 or newer with kvm_amd or kvm_intel.",
    run: msr_filter,
};

pub(super) const DIRTY_LOG: Probe = Probe {
    name: "dirty-log",
    scope: Scope::Quick,
    why: "Digests and snapshots look only at pages that KVM reports as written.",
    fix: super::FIX_OTHER_HOST,
    run: dirty_log,
};

fn exits(guest: &mut Guest) -> Result<Finding, ProbeError> {
    const PORT: u32 = 0x30;
    guest.start(Ring::Kernel, |a| {
        a.mov(rbx, Ring::Kernel.at(HOLE))?;
        a.out(u32::from(MARK), al)?;
        a.in_(al, PORT)?;
        a.mov(dword_ptr(rbx), eax)?;
        a.mov(ecx, dword_ptr(rbx + 4))?;
        a.hlt()?;
        a.out(u32::from(MARK + 1), al)?;
        a.hlt()
    })?;
    let expected = [
        Exit::Mark(MARK),
        Exit::In(0x30),
        Exit::Mmio { address: HOLE, write: true },
        Exit::Mmio { address: HOLE + 4, write: false },
        Exit::Halt,
        Exit::Mark(MARK + 1),
    ];
    for expected in expected {
        let exit = guest.run()?;
        if exit != expected {
            return Ok(Finding::fail(format!("instead of this exit: '{expected}', {exit}")));
        }
        answer(guest, exit);
    }
    let regs = guest.regs()?;
    if regs.rax & 0xff != 0x5a || regs.rcx != 0xa5a5_a5a5 {
        return Ok(Finding::fail(format!(
            "the guest did not get what the VMM answered: AL {:#x}, ECX {:#x}",
            regs.rax & 0xff,
            regs.rcx
        )));
    }
    Ok(Finding::ok("port reads and writes, memory reads and writes and HLT arrive, answers get back"))
}

/// Puts the answer to a read where KVM looks for it: 0x5a for a port, 0xa5 in every byte of memory.
#[allow(unsafe_code)] // members of the kvm_run union
fn answer(guest: &mut Guest, exit: Exit) {
    let run = guest.vcpu().get_kvm_run();
    match exit {
        Exit::In(_) => {
            let run: *mut kvm_bindings::kvm_run = run;
            // SAFETY: after KVM_EXIT_IO the kernel has written `io`, and its data offset lies within the mapping of
            // the vCPU's run area, behind the structure.
            unsafe {
                let offset = usize::try_from((*run).__bindgen_anon_1.io.data_offset).unwrap_or(0);
                run.cast::<u8>().add(offset).write(0x5a);
            }
        }
        Exit::Mmio { write: false, .. } => run.__bindgen_anon_1.mmio.data = [0xa5; 8],
        _ => {}
    }
}

fn interrupts(guest: &mut Guest) -> Result<Finding, ProbeError> {
    const HANDLER: u8 = 0x12;
    const RFLAGS_IF: u64 = 1 << 9;
    for ring in [Ring::Kernel, Ring::User] {
        guest.start(ring, |a| {
            let mut spin = a.create_label();
            if ring == Ring::Kernel {
                a.sti()?;
            }
            a.mov(ecx, 2000)?;
            a.set_label(&mut spin)?;
            a.dec(ecx)?;
            a.jnz(spin)?;
            a.out(u32::from(MARK), al)?;
            a.hlt()
        })?;
        guest.handler(IRQ_VECTOR, |a| {
            a.out(u32::from(HANDLER), al)?;
            a.iretq()
        })?;
        if ring == Ring::User {
            guest.edit_regs(|regs| regs.rflags |= RFLAGS_IF)?;
        }
        guest.vcpu().get_kvm_run().request_interrupt_window = 1;
        let cpl = ring.cpl();
        let exit = guest.run()?;
        if exit != Exit::InterruptWindow {
            return Ok(Finding::fail(format!("no interrupt window opens at CPL {cpl}: {exit}")));
        }
        guest.vcpu().get_kvm_run().request_interrupt_window = 0;
        guest.interrupt(IRQ_VECTOR)?;
        let exit = guest.run()?;
        if exit != Exit::Mark(HANDLER) {
            return Ok(Finding::fail(format!(
                "an interrupt at CPL {cpl} does not reach its handler: {exit}"
            )));
        }
        let (handler_cpl, _) = guest.cpl_and_cr2()?;
        if handler_cpl != 0 {
            return Ok(Finding::fail(format!("the handler of an interrupt runs at CPL {handler_cpl}")));
        }
        let exit = guest.run()?;
        if exit != Exit::Mark(MARK) {
            return Ok(Finding::fail(format!("no return from an interrupt at CPL {cpl}: {exit}")));
        }
    }
    Ok(Finding::ok("window opens, KVM_INTERRUPT delivers and IRET returns, at CPL 0 and 3"))
}

fn kick(guest: &mut Guest) -> Result<Finding, ProbeError> {
    /// Kicks until the loop must have begun, also on a busy host.
    const PATIENCE: u32 = 50;
    for ring in [Ring::Kernel, Ring::User] {
        guest.start(ring, |a| {
            let mut spin = a.create_label();
            a.set_label(&mut spin)?;
            a.inc(rcx)?;
            a.jmp(spin)
        })?;
        for _ in 0..PATIENCE {
            let exit = guest.run_for(1_000_000)?;
            if !matches!(exit, Exit::DidNotComeBack { .. }) {
                let cpl = ring.cpl();
                return Ok(Finding::fail(format!(
                    "a loop at CPL {cpl} did not go on until the kick: {exit}"
                )));
            }
            if guest.regs()?.rcx != 0 {
                break;
            }
        }
        let regs = guest.regs()?;
        let start = ring.at(ring.code());
        if regs.rcx == 0 || !(start..start + 8).contains(&regs.rip) {
            return Ok(Finding::fail(format!(
                "a kick at CPL {} finds RIP {:#x} and {} rounds of a loop at {start:#x}",
                ring.cpl(),
                regs.rip,
                regs.rcx
            )));
        }
    }
    Ok(Finding::ok("a signal interrupts a loop at CPL 0 and 3"))
}

fn msr_filter(guest: &mut Guest) -> Result<Finding, ProbeError> {
    const TSC: u32 = 0x10;
    const FS_BASE: u32 = 0xc000_0100;
    const UNKNOWN: u32 = 0x4b56_0000;
    if let Err(e) = guest.msr_filter() {
        return Ok(Finding::fail(format!("cannot be installed: {e}")));
    }
    guest.start(Ring::Kernel, |a| {
        a.mov(ecx, FS_BASE)?;
        a.rdmsr()?;
        a.mov(ecx, TSC)?;
        a.rdmsr()?;
        a.out(u32::from(MARK), al)?;
        a.mov(ecx, UNKNOWN)?;
        a.wrmsr()?;
        a.out(u32::from(MARK), al)?;
        a.hlt()
    })?;
    let exit = guest.run()?;
    if !matches!(exit, Exit::ReadMsr { index: TSC, .. }) {
        return Ok(Finding::fail(format!("RDMSR of the TSC does not arrive at the VMM: {exit}")));
    }
    set_msr_answer(guest, 0x1122_3344_5566_7788);
    let exit = guest.run()?;
    let regs = guest.regs()?;
    if exit != Exit::Mark(MARK) || regs.rax != 0x5566_7788 || regs.rdx != 0x1122_3344 {
        return Ok(Finding::fail(format!(
            "RDMSR does not get the VMM's answer: {exit}, EDX:EAX {:#x}:{:#x}",
            regs.rdx, regs.rax
        )));
    }
    let exit = guest.run()?;
    if !matches!(exit, Exit::WriteMsr { index: UNKNOWN, .. }) {
        return Ok(Finding::fail(format!("WRMSR of an unknown MSR does not arrive at the VMM: {exit}")));
    }
    Ok(Finding::ok("denied and unknown MSRs exit, FS_BASE does not"))
}

/// What the pending RDMSR returns.
#[allow(unsafe_code)] // a member of the kvm_run union
fn set_msr_answer(guest: &mut Guest, data: u64) {
    // SAFETY: after KVM_EXIT_X86_RDMSR the member in use is `msr`; any value is valid in it.
    unsafe {
        let msr = &mut guest.vcpu().get_kvm_run().__bindgen_anon_1.msr;
        msr.data = data;
        msr.error = 0;
    }
}

fn dirty_log(guest: &mut Guest) -> Result<Finding, ProbeError> {
    const PAGE: u64 = 3;
    let harvest = |guest: &Guest| {
        guest
            .vm()
            .get_dirty_log(LOGGED_SLOT, LOGGED_BYTES)
            .map_err(|source| ProbeError::Kvm { call: "KVM_GET_DIRTY_LOG", source })
    };
    harvest(guest)?;
    guest.start(Ring::Kernel, |a| {
        a.mov(rbx, Ring::Kernel.at(LOGGED + PAGE * 4096))?;
        a.mov(byte_ptr(rbx), 1)?;
        a.out(u32::from(MARK), al)?;
        a.hlt()
    })?;
    let exit = guest.run()?;
    if exit != Exit::Mark(MARK) {
        return Ok(Finding::fail(format!("the guest could not write: {exit}")));
    }
    let dirty = harvest(guest)?;
    if dirty.first() != Some(&(1 << PAGE)) {
        return Ok(Finding::fail(format!("after a write to page {PAGE} the dirty log says {dirty:x?}")));
    }
    if harvest(guest)?.iter().any(|word| *word != 0) {
        return Ok(Finding::fail("the dirty log is not cleared by reading it"));
    }
    Ok(Finding::ok("a written page, and no other, is reported once"))
}
