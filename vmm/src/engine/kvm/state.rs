//! The vCPU's state to and from the engine-neutral form.
//!
//! The pending exit must be finished first: what KVM does when KVM_RUN is entered again (store the answer, step over
//! the instruction) is in no ioctl's structure.
//!
//! **Reading.** KVM_GET_VCPU_EVENTS comes first. A fault that KVM has raised and not delivered keeps its CR2 or DR6 to
//! itself until then; that call moves it into the registers.
//!
//! **Loading.** Each call may look at what an earlier one set, or undo it:
//! 1. KVM_SET_SREGS, since the mode decides what else is valid. It takes back a pending exception. With another CR3 first,
//!    if that is to stay what it is.
//! 2. KVM_SET_MSRS, whose segment bases would be overwritten by the segments. It stops at the first MSR that it refuses
//!    and says how many it took; anything but all of them is an error.
//! 3. KVM_SET_XSAVE and KVM_SET_DEBUGREGS, in any order.
//! 4. KVM_SET_REGS. It takes back a pending exception too.
//! 5. KVM_SET_VCPU_EVENTS, which the others must not undo.
//! 6. CR8 in kvm_run: without a local APIC in the kernel every KVM_RUN begins by loading CR8 from there, whatever
//!    KVM_SET_SREGS was told.
//!
//! Not here, because nobody but the machine has it: that the vCPU is halted (KVM_RUN goes on behind an HLT), and the wish
//! for an interrupt window. Not here, because no guest can change it: XCR0, the base of the local APIC, every MSR that
//! exits.

use kvm_bindings::{KVM_VCPUEVENT_VALID_SHADOW, kvm_vcpu_events};
use kvm_bindings::{Msrs, kvm_debugregs, kvm_dtable, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use scribe_soft_cpu::StateError;

use super::{fpu, ioctl, ioctls, shadow};
use crate::engine::EngineError;
use crate::engine::cpu::{CpuState, DescriptorTable, Fpu, PendingEvents, Registers, Segment};
use crate::machine::memory::{GuestRam, PAGE_SIZE};
use crate::machine::msr;

const UNUSABLE: u32 = 1 << 16;
/// In the type of a TSS.
const BUSY: u8 = 2;

/// From KVM's order to the processor's own numbering.
pub(super) fn registers(r: &kvm_regs) -> Registers {
    Registers {
        general: [
            r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13,
            r.r14, r.r15,
        ],
        rip: r.rip,
        rflags: r.rflags,
    }
}

fn kvm_registers(r: &Registers) -> kvm_regs {
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = r.general;
    kvm_regs {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip: r.rip,
        rflags: r.rflags,
    }
}

fn segment(s: &kvm_segment) -> Segment {
    let flag = |value: u8, bit: u32| u32::from(value & 1) << bit;
    let attributes = u32::from(s.type_ & 15)
        | flag(s.s, 4)
        | u32::from(s.dpl & 3) << 5
        | flag(s.present, 7)
        | flag(s.avl, 12)
        | flag(s.l, 13)
        | flag(s.db, 14)
        | flag(s.g, 15)
        | if s.unusable == 0 { 0 } else { UNUSABLE };
    Segment { base: s.base, limit: s.limit, selector: s.selector, attributes }
}

fn kvm_segment(s: &Segment) -> kvm_segment {
    let flag = |bit: u32| u8::from(s.attributes >> bit & 1 == 1);
    let field = |shift: u32, mask: u32| u8::try_from(s.attributes >> shift & mask).unwrap_or(0);
    kvm_segment {
        base: s.base,
        limit: s.limit,
        selector: s.selector,
        type_: field(0, 15),
        s: flag(4),
        dpl: field(5, 3),
        present: flag(7),
        avl: flag(12),
        l: flag(13),
        db: flag(14),
        g: flag(15),
        unusable: flag(16),
        padding: 0,
    }
}

fn table(t: &kvm_dtable) -> DescriptorTable {
    DescriptorTable { base: t.base, limit: t.limit }
}

fn kvm_table(t: &DescriptorTable) -> kvm_dtable {
    kvm_dtable { base: t.base, limit: t.limit, padding: [0; 3] }
}

/// Reads the whole state. The pending exit must be finished.
pub(super) fn read(vcpu: &VcpuFd) -> Result<CpuState, EngineError> {
    let e = vcpu.get_vcpu_events().map_err(ioctl("KVM_GET_VCPU_EVENTS"))?;
    let s = vcpu.get_sregs().map_err(ioctl("KVM_GET_SREGS"))?;
    let x = vcpu.get_xsave().map_err(ioctl("KVM_GET_XSAVE"))?;
    let d = vcpu.get_debug_regs().map_err(ioctl("KVM_GET_DEBUGREGS"))?;
    let entries = msr::SAVED.map(|index| kvm_msr_entry { index, ..Default::default() });
    let mut msrs =
        Msrs::from_entries(&entries).map_err(|e| EngineError::Unexpected(format!("MSR list: {e:?}")))?;
    let got = vcpu.get_msrs(&mut msrs).map_err(ioctl("KVM_GET_MSRS"))?;
    check_msr_count("KVM_GET_MSRS", got)?;
    let mut general = registers(&vcpu.get_regs().map_err(ioctl("KVM_GET_REGS"))?);
    if e.exception.injected | e.exception.pending != 0 && is_fault(e.exception.nr) {
        general.rflags &= !Registers::RF; // it is pushed as 1 whatever it is, see `write`
    }
    Ok(CpuState {
        registers: general,
        segments: [&s.es, &s.cs, &s.ss, &s.ds, &s.fs, &s.gs, &s.ldt, &s.tr].map(segment),
        gdt: table(&s.gdt),
        idt: table(&s.idt),
        cr0: s.cr0,
        cr2: s.cr2,
        cr3: s.cr3,
        cr4: s.cr4,
        cr8: s.cr8,
        efer: s.efer,
        debug: d.db,
        dr6: d.dr6,
        dr7: d.dr7,
        fpu: fpu::read(&x),
        msrs: msrs.as_slice().iter().map(|entry| (entry.index, entry.data)).collect(),
        events: PendingEvents {
            interrupt: (e.interrupt.injected != 0).then_some(e.interrupt.nr),
            exception: (e.exception.injected | e.exception.pending != 0).then(|| {
                (e.exception.nr, (e.exception.has_error_code != 0).then_some(e.exception.error_code))
            }),
            shadow: e.interrupt.shadow,
            nmi_masked: e.nmi.masked != 0,
        },
    })
}

/// Reads x87 and SSE alone.
pub(super) fn read_fpu(vcpu: &VcpuFd) -> Result<Fpu, EngineError> {
    Ok(fpu::read(&vcpu.get_xsave().map_err(ioctl("KVM_GET_XSAVE"))?))
}

/// Loads IDTR alone.
pub(super) fn set_idt(vcpu: &VcpuFd, idt: DescriptorTable) -> Result<(), EngineError> {
    let mut sregs = vcpu.get_sregs().map_err(ioctl("KVM_GET_SREGS"))?;
    sregs.tr = loadable(sregs.tr);
    sregs.idt = kvm_table(&idt);
    sregs.interrupt_bitmap = [0; 4];
    vcpu.set_sregs(&sregs).map_err(ioctl("KVM_SET_SREGS"))
}

/// TR as it has to be loaded.
fn loadable(tr: kvm_segment) -> kvm_segment {
    if shadow::is_tcg() {
        // QEMU's processor keeps a TSS in TR as LTR finds it, not busy, and with a busy one denies every port to user
        // programs. KVM shows it busy, as it is on silicon.
        return kvm_segment { type_: tr.type_ & !BUSY, ..tr };
    }
    tr
}

/// Loads the whole state, less what is as in `held`, which is what KVM has. The pending exit must be finished.
pub(super) fn write(vcpu: &mut VcpuFd, state: &CpuState, held: Option<&CpuState>) -> Result<(), EngineError> {
    check(state)?;
    if held.is_none_or(|held| system(held) != system(state)) {
        write_system(vcpu, state)?;
    }
    if held.is_none_or(|held| held.msrs != state.msrs) {
        write_msrs(vcpu, state)?;
    }
    // Not without need: what KVM has may include FIP, FDP and FOP, which a state leaves out.
    if held.is_none_or(|held| held.fpu != state.fpu) {
        ioctls::set_xsave(vcpu, &fpu::area(&state.fpu)).map_err(ioctl("KVM_SET_XSAVE"))?;
    }
    if held.is_none_or(|held| (held.debug, held.dr6, held.dr7) != (state.debug, state.dr6, state.dr7)) {
        let debug = kvm_debugregs { db: state.debug, dr6: state.dr6, dr7: state.dr7, ..Default::default() };
        vcpu.set_debug_regs(&debug).map_err(ioctl("KVM_SET_DEBUGREGS"))?;
    }
    write_registers(vcpu, state)
}

/// What KVM_SET_SREGS loads.
fn system(state: &CpuState) -> ([Segment; 8], [DescriptorTable; 2], [u64; 6]) {
    let CpuState { segments, gdt, idt, cr0, cr2, cr3, cr4, cr8, efer, .. } = state;
    (*segments, [*gdt, *idt], [*cr0, *cr2, *cr3, *cr4, *cr8, *efer])
}

fn write_system(vcpu: &VcpuFd, state: &CpuState) -> Result<(), EngineError> {
    let [es, cs, ss, ds, fs, gs, ldt, tr] = state.segments.each_ref().map(kvm_segment);
    let tr = loadable(tr);
    let old = vcpu.get_sregs().map_err(ioctl("KVM_GET_SREGS"))?;
    let sregs = kvm_sregs {
        es,
        cs,
        ss,
        ds,
        fs,
        gs,
        ldt,
        tr,
        gdt: kvm_table(&state.gdt),
        idt: kvm_table(&state.idt),
        cr0: state.cr0,
        cr2: state.cr2,
        cr3: state.cr3,
        cr4: state.cr4,
        cr8: state.cr8,
        efer: state.efer,
        apic_base: old.apic_base,
        interrupt_bitmap: [0; 4],
    };
    if sregs.cr3 == old.cr3 {
        // KVM drops the translations that the vCPU has only if a register changes that they depend on. The tables may be
        // other ones at the same place: RAM was written too.
        let elsewhere = kvm_sregs { cr3: old.cr3 ^ PAGE_SIZE, ..sregs };
        vcpu.set_sregs(&elsewhere).map_err(ioctl("KVM_SET_SREGS"))?;
    }
    vcpu.set_sregs(&sregs).map_err(ioctl("KVM_SET_SREGS"))
}

fn write_msrs(vcpu: &VcpuFd, state: &CpuState) -> Result<(), EngineError> {
    let entries: Vec<kvm_msr_entry> =
        state.msrs.iter().map(|&(index, data)| kvm_msr_entry { index, data, ..Default::default() }).collect();
    let msrs =
        Msrs::from_entries(&entries).map_err(|e| EngineError::Unexpected(format!("MSR list: {e:?}")))?;
    let set = vcpu.set_msrs(&msrs).map_err(ioctl("KVM_SET_MSRS"))?;
    if set != entries.len() {
        return Err(EngineError::Unexpected(format!("KVM_SET_MSRS took {set} of {} MSRs", entries.len())));
    }
    Ok(())
}

fn write_registers(vcpu: &mut VcpuFd, state: &CpuState) -> Result<(), EngineError> {
    let mut general = kvm_registers(&state.registers);
    if let Some((vector, _)) = state.events.exception
        && is_fault(vector)
    {
        // KVM pushes RF with a pending fault. The fault is loaded as an injected one, with which it pushes what there is.
        general.rflags |= Registers::RF;
    }
    vcpu.set_regs(&general).map_err(ioctl("KVM_SET_REGS"))?;
    let mut events = kvm_vcpu_events { flags: KVM_VCPUEVENT_VALID_SHADOW, ..Default::default() };
    if let Some(vector) = state.events.interrupt {
        events.interrupt.injected = 1;
        events.interrupt.nr = vector;
    }
    events.interrupt.shadow = state.events.shadow;
    if let Some((vector, code)) = state.events.exception {
        events.exception.injected = 1;
        events.exception.nr = vector;
        events.exception.has_error_code = u8::from(code.is_some());
        events.exception.error_code = code.unwrap_or(0);
    }
    events.nmi.masked = u8::from(state.events.nmi_masked);
    vcpu.set_vcpu_events(&events).map_err(ioctl("KVM_SET_VCPU_EVENTS"))?;
    vcpu.get_kvm_run().cr8 = state.cr8;
    Ok(())
}

/// Refuses what KVM would take and a vCPU of this platform never has: a state may come from a file.
fn check(state: &CpuState) -> Result<(), EngineError> {
    if !state.msrs.iter().map(|(index, _)| *index).eq(msr::SAVED) {
        let found: Vec<_> = state.msrs.iter().map(|(index, _)| format!("{index:#x}")).collect();
        return Err(StateError(format!("not this platform's MSRs, but {}", found.join(" "))).into());
    }
    if state.cr8 > 15 {
        return Err(StateError(format!("CR8 {:#x} cannot be held", state.cr8)).into());
    }
    Ok(())
}

/// True for exceptions that push RFLAGS.RF as 1 (Intel SDM vol. 3, 18.3.1.1): not #DB, the traps #BP and #OF, and the
/// aborts #DF and #MC.
fn is_fault(vector: u8) -> bool {
    !matches!(vector, 1 | 3 | 4 | 8 | 18)
}

fn check_msr_count(operation: &str, got: usize) -> Result<(), EngineError> {
    if got == msr::SAVED.len() {
        return Ok(());
    }
    Err(EngineError::Unsuitable(format!(
        "{operation} stopped at MSR {:#x}",
        msr::SAVED[got.min(msr::SAVED.len() - 1)]
    )))
}

/// Up to 15 bytes at linear address `rip`, as far as they are mapped to RAM.
pub(super) fn instruction_bytes(vcpu: &VcpuFd, memory: &GuestRam, rip: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for address in (0..15).map(|offset| rip.wrapping_add(offset)) {
        let Ok(translation) = vcpu.translate_gva(address & !(PAGE_SIZE - 1)) else {
            break;
        };
        if translation.valid == 0 {
            break;
        }
        let mut byte = [0];
        if memory.read(translation.physical_address | address & (PAGE_SIZE - 1), &mut byte).is_err() {
            break;
        }
        bytes.push(byte[0]);
    }
    bytes
}
