//! A tiny long-mode guest on the host's KVM: load a few instructions at a privilege level, run to the next exit.
//!
//! One VM with two vCPUs serves all probes; each starts from the same state again. The vCPUs differ in the CPUID table
//! only, because a table cannot be changed once its vCPU has run.
#![allow(unsafe_code)] // handing RAM to the VM, KVM_INTERRUPT (kvm-ioctls has none)

use std::io;

use iced_x86::IcedError;
use iced_x86::code_asm::CodeAssembler;
use kvm_bindings::{
    CpuId, KVM_CAP_X86_USER_SPACE_MSR, KVM_MEM_LOG_DIRTY_PAGES, KVMIO, Msrs, kvm_enable_cap, kvm_guest_debug,
    kvm_interrupt, kvm_msr_entry, kvm_regs, kvm_userspace_memory_region, kvm_vcpu_events,
};
use kvm_ioctls::{
    Kvm, MsrExitReason, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VcpuFd, VmFd,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::errno;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

use super::cpuid;
use super::exit::{self, Exit};
use super::layout::{self, Ring};
use super::watchdog::Watchdog;
use crate::engine::kvm::set_signal_mask;
use crate::host::clock::monotonic_ns;
use crate::host::kick;
use crate::machine::msr::NATIVE;

ioctl_iow_nr!(KVM_INTERRUPT, KVMIO, 0x86, kvm_interrupt);

/// A guest that makes no exit for this long is brought back.
const RUN_LIMIT_NS: u64 = 500_000_000;
/// All guests of one probe together may run this long. A tenth of a second is usual: the rest is for hosts so busy that
/// a shorter limit would call a fit one unfit.
const TOTAL_LIMIT_NS: u64 = 10_000_000_000;

/// The slot whose dirty pages KVM logs.
pub(super) const LOGGED_SLOT: u32 = 1;

/// What kept a probe from finding anything out.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeError {
    /// A KVM call failed.
    #[error("{call} failed: {source}")]
    Kvm { call: &'static str, source: errno::Error },
    /// Guest RAM could not be allocated.
    #[error("cannot allocate guest RAM: {0}")]
    Allocate(vm_memory::mmap::FromRangesError),
    /// Guest RAM could not be written.
    #[error("cannot access guest RAM: {0}")]
    Memory(vm_memory::GuestMemoryError),
    /// The code of a probe could not be assembled.
    #[error("cannot assemble the probe: {0}")]
    Assemble(IcedError),
    /// No alarm, hence no way to bound a guest.
    #[error("cannot set an alarm: {0}")]
    Alarm(io::Error),
}

fn kvm(call: &'static str) -> impl FnOnce(errno::Error) -> ProbeError {
    move |source| ProbeError::Kvm { call, source }
}

/// Which CPUID table, hence which of the two vCPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    /// The profile that guests get, `scribe-v1`.
    Profile,
    /// A vendor and values that no processor has.
    MadeUp,
}

/// How a guest starts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    pub(super) ring: Ring,
    pub(super) table: Table,
    /// Bits added to CR4.
    pub(super) cr4: u64,
}

impl From<Ring> for Start {
    fn from(ring: Ring) -> Self {
        Self { ring, table: Table::Profile, cr4: 0 }
    }
}

/// The probe VM.
#[derive(Debug)]
pub(super) struct Guest {
    // Dropped in this order: the RAM must outlive the VM that maps it.
    vcpus: [VcpuFd; 2],
    vm: VmFd,
    ram: GuestMemoryMmap<()>,
    watchdog: Watchdog,
    current: usize,
    patched: Vec<u8>,
    debugging: bool,
    deadline_ns: u64,
    lapses: u32,
    msr_filter: Result<(), errno::Error>,
}

impl Guest {
    /// Creates the VM: 2 MiB of RAM, a 64 KiB slot with a dirty log, no in-kernel interrupt controller, MSR filter.
    pub(super) fn new(system: &Kvm) -> Result<Self, ProbeError> {
        let watchdog = Watchdog::new().map_err(ProbeError::Alarm)?;
        let vm = system.create_vm().map_err(kvm("KVM_CREATE_VM"))?;
        let ram = GuestMemoryMmap::<()>::from_ranges(&[
            (GuestAddress(0), layout::RAM_BYTES),
            (GuestAddress(layout::LOGGED), layout::LOGGED_BYTES),
        ])
        .map_err(ProbeError::Allocate)?;
        layout::write(&ram)?;
        let slots = [
            (0, 0, layout::RAM_BYTES, 0),
            (LOGGED_SLOT, layout::LOGGED, layout::LOGGED_BYTES, KVM_MEM_LOG_DIRTY_PAGES),
        ];
        for (slot, start, bytes, flags) in slots {
            let host = ram.get_host_address(GuestAddress(start)).map_err(ProbeError::Memory)?;
            let region = kvm_userspace_memory_region {
                slot,
                flags,
                guest_phys_addr: start,
                memory_size: bytes as u64,
                userspace_addr: host as u64,
            };
            // SAFETY: the range is a mapping of ours of exactly this size; it is unmapped after the VM is closed.
            unsafe { vm.set_user_memory_region(region) }.map_err(kvm("KVM_SET_USER_MEMORY_REGION"))?;
        }
        let msr_filter = filter_msrs(&vm);
        let make = |id, table: &CpuId| -> Result<VcpuFd, ProbeError> {
            let vcpu = vm.create_vcpu(id).map_err(kvm("KVM_CREATE_VCPU"))?;
            vcpu.set_cpuid2(table).map_err(kvm("KVM_SET_CPUID2"))?;
            Ok(vcpu)
        };
        let vcpus = [make(0, &cpuid::profile()?)?, make(1, &cpuid::made_up()?)?];
        Ok(Self {
            vcpus,
            vm,
            ram,
            watchdog,
            current: 0,
            patched: Vec::new(),
            debugging: false,
            deadline_ns: monotonic_ns() + TOTAL_LIMIT_NS,
            lapses: 0,
            msr_filter,
        })
    }

    /// Whether the MSR filter could be installed.
    pub(super) fn msr_filter(&self) -> Result<(), errno::Error> {
        self.msr_filter
    }

    /// The VM, for its dirty log.
    pub(super) fn vm(&self) -> &VmFd {
        &self.vm
    }

    /// The vCPU that `start` chose.
    pub(super) fn vcpu(&mut self) -> &mut VcpuFd {
        &mut self.vcpus[self.current]
    }

    /// Resets the vCPU, the data page and the handlers, and loads the code that `emit` assembles.
    pub(super) fn start(
        &mut self,
        how: impl Into<Start>,
        emit: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) -> Result<(), ProbeError> {
        let how = how.into();
        self.finish();
        if self.current != how.table as usize {
            self.current = how.table as usize;
            self.finish();
        }
        if self.debugging {
            self.debug(&kvm_guest_debug::default())?;
            self.debugging = false;
        }
        for vector in std::mem::take(&mut self.patched) {
            self.write(layout::stub(vector), &layout::default_stub(vector))?;
        }
        self.write(layout::DATA, &[0; 4096])?;
        self.assemble(how.ring.code(), how.ring.at(how.ring.code()), emit)?;

        let vcpu = &mut self.vcpus[self.current];
        vcpu.get_kvm_run().request_interrupt_window = 0;
        let mut sregs = vcpu.get_sregs().map_err(kvm("KVM_GET_SREGS"))?;
        how.ring.system_registers(&mut sregs, how.cr4);
        vcpu.set_sregs(&sregs).map_err(kvm("KVM_SET_SREGS"))?;
        vcpu.set_regs(&how.ring.registers()).map_err(kvm("KVM_SET_REGS"))?;
        // Nothing may be left pending of the previous probe.
        vcpu.set_vcpu_events(&kvm_vcpu_events::default()).map_err(kvm("KVM_SET_VCPU_EVENTS"))?;
        let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
        let msrs = Msrs::from_entries(&[
            entry(0xc000_0081, layout::STAR),
            entry(0xc000_0082, Ring::Kernel.at(layout::SYSCALL_ENTRY)),
            entry(0xc000_0084, layout::FMASK),
        ])
        .map_err(|_| ProbeError::Kvm { call: "KVM_SET_MSRS", source: errno::Error::new(libc::EINVAL) })?;
        match vcpu.set_msrs(&msrs).map_err(kvm("KVM_SET_MSRS"))? {
            3 => Ok(()),
            _ => Err(ProbeError::Kvm { call: "KVM_SET_MSRS", source: errno::Error::new(libc::EINVAL) }),
        }
    }

    /// Gives a vector its own handler until the next start. At most 64 bytes.
    pub(super) fn handler(
        &mut self,
        vector: u8,
        emit: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) -> Result<(), ProbeError> {
        self.patched.push(vector);
        self.assemble(layout::stub(vector), Ring::Kernel.at(layout::stub(vector)), emit)
    }

    /// Loads the code that SYSCALL enters.
    pub(super) fn syscall_entry(
        &mut self,
        emit: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) -> Result<(), ProbeError> {
        self.assemble(layout::SYSCALL_ENTRY, Ring::Kernel.at(layout::SYSCALL_ENTRY), emit)
    }

    /// Runs to the next exit, at most half a second.
    pub(super) fn run(&mut self) -> Result<Exit, ProbeError> {
        let exit = self.run_for(RUN_LIMIT_NS)?;
        if matches!(exit, Exit::DidNotComeBack { .. }) {
            self.lapses += 1;
        }
        Ok(exit)
    }

    /// How often [`Self::run`] had to bring the guest back.
    pub(super) fn lapses(&self) -> u32 {
        self.lapses
    }

    /// Runs to the next exit or until `limit_ns` have passed.
    pub(super) fn run_for(&mut self, limit_ns: u64) -> Result<Exit, ProbeError> {
        let start = monotonic_ns();
        let limit = limit_ns.min(self.deadline_ns.saturating_sub(start));
        if limit == 0 {
            return Ok(Exit::NotRun);
        }
        self.watchdog.arm(limit).map_err(ProbeError::Alarm)?;
        let vcpu = &mut self.vcpus[self.current];
        let result = loop {
            let suberror = exit::suberror(vcpu.get_kvm_run());
            match vcpu.run() {
                Ok(exit) => break Ok(Exit::from_kvm(&exit, suberror)),
                // Some other signal: go on until the limit.
                Err(e) if e.errno() == libc::EINTR || e.errno() == libc::EAGAIN => {
                    if monotonic_ns().saturating_sub(start) >= limit {
                        break Ok(Exit::DidNotComeBack { after_ms: limit / 1_000_000 });
                    }
                }
                Err(e) => break Err(kvm("KVM_RUN")(e)),
            }
        };
        self.watchdog.disarm().map_err(ProbeError::Alarm)?;
        Ok(match result? {
            Exit::InternalError { .. } => {
                Exit::InternalError { suberror: exit::suberror(self.vcpu().get_kvm_run()) }
            }
            exit => exit,
        })
    }

    /// Lets the kick's signal interrupt the guest, which is blocked everywhere else.
    pub(super) fn let_kicks_in(&self) -> Result<(), ProbeError> {
        let blocked = kick::blocked_while_running();
        for vcpu in &self.vcpus {
            set_signal_mask(vcpu, blocked).map_err(kvm("KVM_SET_SIGNAL_MASK"))?;
        }
        Ok(())
    }

    /// Runs to the next exit, at most half a second. `None`: a signal came first.
    pub(super) fn run_to_signal(&mut self) -> Result<Option<Exit>, ProbeError> {
        self.watchdog.arm(RUN_LIMIT_NS).map_err(ProbeError::Alarm)?;
        let vcpu = &mut self.vcpus[self.current];
        let suberror = exit::suberror(vcpu.get_kvm_run());
        let result = match vcpu.run() {
            Ok(exit) => Ok(Some(Exit::from_kvm(&exit, suberror))),
            Err(e) if e.errno() == libc::EINTR || e.errno() == libc::EAGAIN => Ok(None),
            Err(e) => Err(kvm("KVM_RUN")(e)),
        };
        self.watchdog.disarm().map_err(ProbeError::Alarm)?;
        result
    }

    /// Retires the instruction that caused the last exit.
    pub(super) fn retire(&mut self) -> Result<(), ProbeError> {
        let vcpu = &mut self.vcpus[self.current];
        vcpu.set_kvm_immediate_exit(1);
        let result = vcpu.run().map(|_| ());
        vcpu.set_kvm_immediate_exit(0);
        match result {
            Err(e) if e.errno() == libc::EINTR => Ok(()),
            Err(e) => Err(kvm("KVM_RUN")(e)),
            Ok(()) => {
                Err(ProbeError::Kvm { call: "KVM_RUN at once", source: errno::Error::new(libc::EBUSY) })
            }
        }
    }

    /// Changes guest memory until the next start, or for good where that does not write.
    pub(super) fn poke(&self, address: u64, bytes: &[u8]) -> Result<(), ProbeError> {
        self.write(address, bytes)
    }

    /// Completes what KVM still has to do for the last exit, so that it cannot apply to state loaded afterwards.
    fn finish(&mut self) {
        let vcpu = &mut self.vcpus[self.current];
        vcpu.set_kvm_immediate_exit(1);
        for _ in 0..4 {
            if vcpu.run().is_err() {
                break; // EINTR: done
            }
        }
        vcpu.set_kvm_immediate_exit(0);
    }

    /// General registers.
    pub(super) fn regs(&self) -> Result<kvm_regs, ProbeError> {
        self.vcpus[self.current].get_regs().map_err(kvm("KVM_GET_REGS"))
    }

    /// Changes general registers after a start.
    pub(super) fn edit_regs(&mut self, edit: impl FnOnce(&mut kvm_regs)) -> Result<(), ProbeError> {
        let mut regs = self.regs()?;
        edit(&mut regs);
        self.vcpus[self.current].set_regs(&regs).map_err(kvm("KVM_SET_REGS"))
    }

    /// The current privilege level (the DPL of SS) and CR2.
    pub(super) fn cpl_and_cr2(&self) -> Result<(u8, u64), ProbeError> {
        let sregs = self.vcpus[self.current].get_sregs().map_err(kvm("KVM_GET_SREGS"))?;
        Ok((sregs.ss.dpl, sregs.cr2))
    }

    /// In a default handler: the exception's error code (0 if its vector has none) and the RIP it pushed.
    pub(super) fn pushed(&self, vector: u8) -> Result<(u64, u64), ProbeError> {
        let stack = self.regs()?.rsp.wrapping_sub(Ring::Kernel.at(0));
        let word = |at: u64| self.ram.read_obj::<u64>(GuestAddress(at)).map_err(ProbeError::Memory);
        match vector {
            8 | 10..=14 | 17 => Ok((word(stack)?, word(stack + 8)?)),
            _ => Ok((0, word(stack)?)),
        }
    }

    /// Injects an external interrupt.
    pub(super) fn interrupt(&mut self, vector: u8) -> Result<(), ProbeError> {
        let interrupt = kvm_interrupt { irq: u32::from(vector) };
        // SAFETY: a vCPU file descriptor and the structure this ioctl reads.
        let result = unsafe { ioctl_with_ref(&self.vcpus[self.current], KVM_INTERRUPT(), &interrupt) };
        if result == 0 { Ok(()) } else { Err(kvm("KVM_INTERRUPT")(errno::Error::last())) }
    }

    /// Sets up single-stepping or breakpoints until the next start.
    pub(super) fn debug(&mut self, how: &kvm_guest_debug) -> Result<(), ProbeError> {
        self.debugging = true;
        self.vcpus[self.current].set_guest_debug(how).map_err(kvm("KVM_SET_GUEST_DEBUG"))
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), ProbeError> {
        self.ram.write_slice(bytes, GuestAddress(address)).map_err(ProbeError::Memory)
    }

    fn assemble(
        &self,
        gpa: u64,
        at: u64,
        emit: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) -> Result<(), ProbeError> {
        let mut assembler = CodeAssembler::new(64).map_err(ProbeError::Assemble)?;
        emit(&mut assembler).map_err(ProbeError::Assemble)?;
        let code = assembler.assemble(at).map_err(ProbeError::Assemble)?;
        self.write(gpa, &code)
    }
}

/// Exits for every MSR but the native ones.
fn filter_msrs(vm: &VmFd) -> Result<(), errno::Error> {
    let reasons = MsrExitReason::Filter | MsrExitReason::Inval | MsrExitReason::Unknown;
    vm.enable_cap(&kvm_enable_cap {
        cap: KVM_CAP_X86_USER_SPACE_MSR,
        args: [u64::from(reasons.bits()), 0, 0, 0],
        ..Default::default()
    })?;
    // One range each: KVM takes 16.
    let ranges = NATIVE.map(|base| MsrFilterRange {
        flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
        base,
        msr_count: 1,
        bitmap: &[1],
    });
    vm.set_msr_filter(MsrFilterDefaultAction::DENY, &ranges)
}
