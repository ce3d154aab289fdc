//! The two CPUID tables of the probe's vCPUs.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

use vmm_sys_util::errno;

use super::guest::ProbeError;
use crate::machine::cpuid::{Leaf, SCRIBE_V1_TABLE};

fn to_kvm(entries: &[kvm_cpuid_entry2]) -> Result<CpuId, ProbeError> {
    let too_many = |_| ProbeError::Kvm { call: "KVM_SET_CPUID2", source: errno::Error::new(libc::E2BIG) };
    CpuId::from_entries(entries).map_err(too_many)
}

fn entry(leaf: &Leaf) -> kvm_cpuid_entry2 {
    let [eax, ebx, ecx, edx] = leaf.result;
    kvm_cpuid_entry2 { function: leaf.function, index: leaf.index, eax, ebx, ecx, edx, ..Default::default() }
}

/// The profile that guests get.
pub(super) fn profile() -> Result<CpuId, ProbeError> {
    to_kvm(&SCRIBE_V1_TABLE.each_ref().map(entry))
}

/// The entries of a table that no processor has: what leaks is then seen to be the host's.
pub(super) fn made_up_entries() -> Vec<kvm_cpuid_entry2> {
    let word = |text: &[u8; 4]| u32::from_le_bytes(*text);
    let (ebx, edx, ecx) = (word(b"Scri"), word(b"bePr"), word(b"obe!"));
    let mut entries: Vec<_> = SCRIBE_V1_TABLE.iter().map(entry).collect();
    for entry in &mut entries {
        match entry.function {
            0 | 0x8000_0000 => (entry.ebx, entry.ecx, entry.edx) = (ebx, ecx, edx),
            1 | 0x8000_0001 => entry.eax = 0x0005_0a3c,
            _ => {}
        }
    }
    entries
}

/// The table of [`made_up_entries`].
pub(super) fn made_up() -> Result<CpuId, ProbeError> {
    to_kvm(&made_up_entries())
}
