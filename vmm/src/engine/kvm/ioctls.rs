//! The KVM ioctls that kvm-ioctls does not have, or leaves to be proved safe.
#![allow(unsafe_code)] // raw ioctls on file descriptors that kvm-ioctls owns

use kvm_bindings::{KVMIO, kvm_interrupt, kvm_signal_mask, kvm_xsave};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::errno::{Error, Result};
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

ioctl_iow_nr!(KVM_INTERRUPT, KVMIO, 0x86, kvm_interrupt);
ioctl_iow_nr!(KVM_SET_SIGNAL_MASK, KVMIO, 0x8b, kvm_signal_mask);

/// The kernel's sigset_t: 64 signals, bit `n - 1` is signal `n`.
#[repr(C)]
struct SignalMask {
    len: u32,
    set: [u8; 8],
}

/// Queues external interrupt `vector` (KVM_INTERRUPT). KVM does not check that the guest can take it.
pub(super) fn interrupt(vcpu: &VcpuFd, vector: u8) -> Result<()> {
    let argument = kvm_interrupt { irq: u32::from(vector) };
    // SAFETY: the fd is a vCPU's and the argument is the structure that KVM_INTERRUPT reads.
    let ret = unsafe { ioctl_with_ref(vcpu, KVM_INTERRUPT(), &argument) };
    if ret == 0 { Ok(()) } else { Err(Error::last()) }
}

/// Sets the signals that are blocked while the vCPU runs to exactly those of `blocked` (KVM_SET_SIGNAL_MASK).
pub(in crate::engine) fn set_signal_mask(vcpu: &VcpuFd, blocked: u64) -> Result<()> {
    let argument = SignalMask { len: 8, set: blocked.to_le_bytes() };
    // SAFETY: KVM reads `len` and then `len` bytes that follow it; SignalMask is laid out so (repr(C), no padding
    // between the two), and it outlives the call.
    let ret = unsafe { ioctl_with_ref(vcpu, KVM_SET_SIGNAL_MASK(), &argument) };
    if ret == 0 { Ok(()) } else { Err(Error::last()) }
}

/// Loads x87 and SSE from the legacy part of an XSAVE area (KVM_SET_XSAVE).
pub(super) fn set_xsave(vcpu: &VcpuFd, area: &kvm_xsave) -> Result<()> {
    // SAFETY: KVM reads as many bytes as the guest's components need. That is more than the structure's 4096 only for
    // components that a process must ask the kernel for (arch_prctl ARCH_REQ_XCOMP_GUEST_PERM), which nothing here does.
    unsafe { vcpu.set_xsave(area) }
}
