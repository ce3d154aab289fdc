//! A quirk of nested KVM on QEMU's emulated processor (TCG): VMRUN does not reload the interrupt shadow.
//!
//! After STI one more instruction runs before an interrupt can be taken. The shadow is part of the guest's saved state
//! (AMD APM vol. 2, 15.21.5), and a real VMRUN reloads it. TCG's does not: when the host interrupts the guest right behind
//! an STI, the guest comes back without its shadow and the interrupt window opens one instruction early. Where the host
//! interrupts is chance, so the place of the injection would be too. The remedy: a window that opens right behind an STI
//! is one instruction early, so that instruction is stepped over first.
//!
//! Only on TCG: elsewhere a window never opens there, and a byte 0xfb in front of RIP is the tail of something else.
#![allow(unsafe_code)] // CPUID of the host

use std::sync::OnceLock;

use kvm_bindings::{KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, kvm_guest_debug};

use super::{Kvm, ioctl, state};
use crate::engine::{EngineError, Stop};
use crate::host::kick;

const STI: u8 = 0xfb;

/// True if this host's processor is QEMU's TCG.
pub(super) fn is_tcg() -> bool {
    static TCG: OnceLock<bool> = OnceLock::new();
    *TCG.get_or_init(|| {
        const HYPERVISOR: u32 = 1 << 31;
        #[allow(unused_unsafe)] // safe to call in newer versions of the library
        // SAFETY: every x86-64 processor has CPUID; leaf 1 always, 0x4000_0000 where leaf 1 says hypervisor.
        let (features, leaf) =
            unsafe { (std::arch::x86_64::__cpuid(1), std::arch::x86_64::__cpuid(0x4000_0000)) };
        let name = [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes).concat();
        features.ecx & HYPERVISOR != 0 && name == b"TCGTCGTCGTCG"
    })
}

impl Kvm {
    /// True if RIP is right behind an STI.
    pub(super) fn is_behind_sti(&self) -> bool {
        let before = self.registers.rip.wrapping_sub(1);
        state::instruction_bytes(&self.vcpu, &self.memory, before).first() == Some(&STI)
    }

    /// Executes the instruction that the lost shadow should have let through. `None`: done; the window may or may not be
    /// open behind it (it may be a CLI). `Some`: it was an exit or a fault itself.
    pub(super) fn step_over_shadow(&mut self) -> Result<Option<Stop>, EngineError> {
        let wanted = std::mem::take(&mut self.vcpu.get_kvm_run().request_interrupt_window);
        self.single_step(true)?;
        let stop = loop {
            match self.enter()? {
                None if std::mem::take(&mut self.stepped) => break None,
                None => kick::clear(),
                stop => break stop,
            }
        };
        self.single_step(false)?;
        self.vcpu.get_kvm_run().request_interrupt_window = wanted;
        Ok(stop)
    }

    fn single_step(&self, on: bool) -> Result<(), EngineError> {
        let control = if on { KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP } else { 0 };
        let debug = kvm_guest_debug { control, ..Default::default() };
        self.vcpu.set_guest_debug(&debug).map_err(ioctl("KVM_SET_GUEST_DEBUG"))
    }
}
