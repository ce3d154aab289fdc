//! The KVM ioctls that kvm-ioctls does not have.
#![allow(unsafe_code)] // raw ioctls on file descriptors that kvm-ioctls owns

use kvm_bindings::{KVMIO, kvm_interrupt, kvm_signal_mask};
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
pub(super) fn set_signal_mask(vcpu: &VcpuFd, blocked: u64) -> Result<()> {
    let argument = SignalMask { len: 8, set: blocked.to_le_bytes() };
    // SAFETY: KVM reads `len` and then `len` bytes that follow it; SignalMask is laid out so (repr(C), no padding
    // between the two), and it outlives the call.
    let ret = unsafe { ioctl_with_ref(vcpu, KVM_SET_SIGNAL_MASK(), &argument) };
    if ret == 0 { Ok(()) } else { Err(Error::last()) }
}
