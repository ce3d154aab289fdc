//! Making the VM: capabilities, memory, MSR filter, CPUID, signal mask.
#![allow(unsafe_code)] // registering guest memory with KVM

use kvm_bindings::{
    CpuId, KVM_CAP_DISABLE_QUIRKS2, KVM_CAP_EXIT_ON_EMULATION_FAILURE, KVM_CAP_X86_USER_SPACE_MSR,
    KVM_MEM_LOG_DIRTY_PAGES, KVM_X86_QUIRK_FIX_HYPERCALL_INSN, kvm_cpuid_entry2, kvm_enable_cap,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{
    Cap, Kvm, MsrExitReason, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VcpuFd, VmFd,
};

use super::{ioctl, ioctls};
use crate::engine::EngineError;
use crate::host::kick;
use crate::machine::cpuid::SCRIBE_V1_TABLE;
use crate::machine::memory::GuestRam;
use crate::machine::msr;

/// The VM and its vCPU, ready for a state to be loaded.
pub(super) fn create(memory: &GuestRam) -> Result<(VmFd, VcpuFd), EngineError> {
    let kvm = Kvm::new().map_err(|e| {
        let hint = "load the kvm_amd or kvm_intel module and give this user access to it";
        EngineError::Unsuitable(format!("/dev/kvm cannot be opened ({e}): {hint}"))
    })?;
    for (cap, name) in [
        (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
        (Cap::SyncRegs, "KVM_CAP_SYNC_REGS"),
        (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
        (Cap::X86UserSpaceMsr, "KVM_CAP_X86_USER_SPACE_MSR"),
        (Cap::X86MsrFilter, "KVM_CAP_X86_MSR_FILTER"),
    ] {
        if !kvm.check_extension(cap) {
            return Err(EngineError::Unsuitable(format!("it lacks {name}; Linux 5.10 or later has it")));
        }
    }
    let vm = kvm.create_vm().map_err(ioctl("KVM_CREATE_VM"))?;
    disable_hypercall_patching(&vm)?;
    exit_on_refused_instructions(&vm)?;
    filter_msrs(&vm)?;
    register_memory(&vm, memory, false)?;
    let vcpu = vm.create_vcpu(0).map_err(ioctl("KVM_CREATE_VCPU"))?;
    set_cpuid(&vcpu)?;
    let blocked = kick::blocked_while_running();
    ioctls::set_signal_mask(&vcpu, blocked).map_err(ioctl("KVM_SET_SIGNAL_MASK"))?;
    Ok((vm, vcpu))
}

/// Registers guest RAM, with or without dirty logging.
pub(super) fn register_memory(vm: &VmFd, memory: &GuestRam, log_dirty: bool) -> Result<(), EngineError> {
    for (slot, region) in (0u32..).zip(memory.regions()) {
        let region = kvm_userspace_memory_region {
            slot,
            flags: if log_dirty { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
            guest_phys_addr: region.start,
            memory_size: region.size,
            userspace_addr: region.host,
        };
        // SAFETY: the range is a mapping of GuestRam, which the engine keeps a clone of for as long as the VM lives,
        // and it is not used in any other way that needs exclusiveness: the guest runs on the thread that owns it.
        unsafe { vm.set_user_memory_region(region) }.map_err(ioctl("KVM_SET_USER_MEMORY_REGION"))?;
    }
    Ok(())
}

/// KVM rewrites VMCALL and VMMCALL to the host's own form; guests here make no hypercalls and RAM must stay theirs.
fn disable_hypercall_patching(vm: &VmFd) -> Result<(), EngineError> {
    let quirk = u64::from(KVM_X86_QUIRK_FIX_HYPERCALL_INSN);
    let known = vm.check_extension_raw(KVM_CAP_DISABLE_QUIRKS2.into());
    if u64::try_from(known).unwrap_or(0) & quirk == 0 {
        return Ok(()); // an older KVM; the guest kernel makes no hypercall
    }
    let cap = kvm_enable_cap { cap: KVM_CAP_DISABLE_QUIRKS2, args: [quirk, 0, 0, 0], ..Default::default() };
    vm.enable_cap(&cap).map_err(ioctl("KVM_ENABLE_CAP(KVM_CAP_DISABLE_QUIRKS2)"))
}

/// Otherwise KVM gives a guest's user program #UD for an instruction that its emulator does not know, which a real
/// processor would not; with this it exits, as it does for the kernel, and says what the instruction was.
fn exit_on_refused_instructions(vm: &VmFd) -> Result<(), EngineError> {
    if vm.check_extension_raw(KVM_CAP_EXIT_ON_EMULATION_FAILURE.into()) <= 0 {
        return Ok(()); // Linux before 5.14
    }
    let cap =
        kvm_enable_cap { cap: KVM_CAP_EXIT_ON_EMULATION_FAILURE, args: [1, 0, 0, 0], ..Default::default() };
    vm.enable_cap(&cap).map_err(ioctl("KVM_ENABLE_CAP(KVM_CAP_EXIT_ON_EMULATION_FAILURE)"))
}

/// Default deny: everything but the native MSRs exits, also what KVM does not know or refuses.
fn filter_msrs(vm: &VmFd) -> Result<(), EngineError> {
    let reasons = MsrExitReason::Inval | MsrExitReason::Unknown | MsrExitReason::Filter;
    let cap = kvm_enable_cap {
        cap: KVM_CAP_X86_USER_SPACE_MSR,
        args: [reasons.bits().into(), 0, 0, 0],
        ..Default::default()
    };
    vm.enable_cap(&cap).map_err(ioctl("KVM_ENABLE_CAP(KVM_CAP_X86_USER_SPACE_MSR)"))?;
    let ranges: Vec<MsrFilterRange> = msr::NATIVE
        .iter()
        .map(|&base| MsrFilterRange {
            flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
            base,
            msr_count: 1,
            bitmap: &[1],
        })
        .collect();
    vm.set_msr_filter(MsrFilterDefaultAction::DENY, &ranges).map_err(ioctl("KVM_X86_SET_MSR_FILTER"))
}

/// The profile as it is. Whether the host's processor has all of it is for the probe to say: a guest that does without
/// the rest runs anyway.
fn set_cpuid(vcpu: &VcpuFd) -> Result<(), EngineError> {
    let entries: Vec<kvm_cpuid_entry2> = SCRIBE_V1_TABLE
        .iter()
        .map(|leaf| kvm_cpuid_entry2 {
            function: leaf.function,
            index: leaf.index,
            eax: leaf.result[0],
            ebx: leaf.result[1],
            ecx: leaf.result[2],
            edx: leaf.result[3],
            ..Default::default()
        })
        .collect();
    let table =
        CpuId::from_entries(&entries).map_err(|e| EngineError::Unexpected(format!("CPUID table: {e:?}")))?;
    vcpu.set_cpuid2(&table).map_err(ioctl("KVM_SET_CPUID2"))
}
