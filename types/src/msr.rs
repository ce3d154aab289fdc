//! The MSR table of `scribe-pc-1`, shared by all engines: native, served by the machine, or #GP.

/// MSRs that the guest reads and writes without an exit (an exit would advance guest time).
pub const NATIVE: [u32; 13] = [
    0x174,       // SYSENTER_CS
    0x175,       // SYSENTER_ESP
    0x176,       // SYSENTER_EIP
    0x277,       // PAT
    0xc000_0080, // EFER
    0xc000_0081, // STAR
    0xc000_0082, // LSTAR
    0xc000_0083, // CSTAR
    0xc000_0084, // SFMASK
    0xc000_0100, // FS_BASE
    0xc000_0101, // GS_BASE
    0xc000_0102, // KERNEL_GS_BASE
    0xc000_0103, // TSC_AUX: reachable only where CPUID says RDTSCP, which scribe-v1 does not
];

/// Native MSRs that are part of [`CpuState::msrs`](crate::cpu::CpuState::msrs): the others are in its other
/// fields (EFER, the FS and GS bases) or out of reach (TSC_AUX).
pub const SAVED: [u32; 9] =
    [0x174, 0x175, 0x176, 0x277, 0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084, 0xc000_0102];

/// MSRs that read as a constant and ignore writes: what an AMD family 15 kernel looks at while it starts.
const CONSTANT: [(u32, u64); 5] = [
    (0x8b, 0x0100_0065),   // PATCH_LEVEL: microcode revision
    (0xc001_0010, 0),      // SYSCFG: no TOM2, no memory encryption
    (0xc001_0015, 1 << 0), // HWCR: SMM locked
    (0xc001_0055, 0),      // INT_PENDING_MSG: no C1E
    (0xc001_1029, 1 << 1), // DE_CFG: LFENCE is serializing
];

/// The value of an MSR that exits on RDMSR; `None`: #GP.
pub fn read(index: u32) -> Option<u64> {
    CONSTANT.iter().find(|(known, _)| *known == index).map(|(_, value)| *value)
}

/// True if WRMSR of this MSR is accepted (and has no effect); false: #GP.
pub fn write(index: u32) -> bool {
    CONSTANT.iter().any(|(known, _)| *known == index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_and_unknown_msrs_fault() {
        for index in [0x10, 0x1b, 0x6e0, 0x4b56_4d01, 0x802, 0xc000_0104] {
            assert_eq!(read(index), None, "{index:#x}");
            assert!(!write(index), "{index:#x}");
            assert!(!NATIVE.contains(&index), "{index:#x}");
        }
    }

    #[test]
    fn saved_msrs_are_native() {
        assert!(SAVED.iter().all(|index| NATIVE.contains(index)));
    }
}
