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

use super::{Kvm, state};

/// The opcode of STI.
const OPCODE: u8 = 0xfb;

/// An interrupt shadow's bits in a state.
pub(super) const MOV_SS: u8 = 1;
/// As above.
pub(super) const STI: u8 = 2;
/// What kvm_amd says of any shadow: the processor has one bit for both.
pub(super) const EITHER: u8 = MOV_SS | STI;

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
        state::instruction_bytes(&self.vcpu, &self.memory, before).first() == Some(&OPCODE)
    }
}
