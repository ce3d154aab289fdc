//! Names of model-specific registers (Intel SDM vol. 4, AMD APM vol. 2 appendix A, and the processor's KVM leaves).

/// Number and name, ascending.
const NAMES: &[(u32, &str)] = &[
    (0x10, "TSC"),
    (0x1b, "APIC_BASE"),
    (0x2a, "EBL_CR_POWERON"),
    (0x2c, "EBC_FREQUENCY_ID"),
    (0x34, "SMI_COUNT"),
    (0x3a, "FEATURE_CONTROL"),
    (0x3b, "TSC_ADJUST"),
    (0x48, "SPEC_CTRL"),
    (0x49, "PRED_CMD"),
    (0x79, "UCODE_WRITE"),
    (0x8b, "PATCH_LEVEL"),
    (0xc1, "PERFCTR0"),
    (0xc2, "PERFCTR1"),
    (0xcd, "FSB_FREQ"),
    (0xce, "PLATFORM_INFO"),
    (0xe2, "PKG_CST_CONFIG_CONTROL"),
    (0xe7, "MPERF"),
    (0xe8, "APERF"),
    (0xfe, "MTRRcap"),
    (0x10a, "ARCH_CAPABILITIES"),
    (0x10b, "FLUSH_CMD"),
    (0x122, "TSX_CTRL"),
    (0x140, "MISC_FEATURES_ENABLES"),
    (0x174, "SYSENTER_CS"),
    (0x175, "SYSENTER_ESP"),
    (0x176, "SYSENTER_EIP"),
    (0x179, "MCG_CAP"),
    (0x17a, "MCG_STATUS"),
    (0x17b, "MCG_CTL"),
    (0x186, "PERFEVTSEL0"),
    (0x187, "PERFEVTSEL1"),
    (0x198, "PERF_STATUS"),
    (0x199, "PERF_CTL"),
    (0x19a, "CLOCK_MODULATION"),
    (0x19b, "THERM_INTERRUPT"),
    (0x19c, "THERM_STATUS"),
    (0x1a0, "MISC_ENABLE"),
    (0x1a2, "TEMPERATURE_TARGET"),
    (0x1ad, "TURBO_RATIO_LIMIT"),
    (0x1b0, "ENERGY_PERF_BIAS"),
    (0x1d9, "DEBUGCTL"),
    (0x1db, "LASTBRANCHFROMIP"),
    (0x1dc, "LASTBRANCHTOIP"),
    (0x277, "PAT"),
    (0x2ff, "MTRRdefType"),
    (0x38d, "FIXED_CTR_CTRL"),
    (0x38e, "PERF_GLOBAL_STATUS"),
    (0x38f, "PERF_GLOBAL_CTRL"),
    (0x390, "PERF_GLOBAL_OVF_CTRL"),
    (0x480, "VMX_BASIC"),
    (0x606, "RAPL_POWER_UNIT"),
    (0x6e0, "TSC_DEADLINE"),
    (0xda0, "XSS"),
    (0x4b56_4d00, "KVM_WALL_CLOCK_NEW"),
    (0x4b56_4d01, "KVM_SYSTEM_TIME_NEW"),
    (0x4b56_4d02, "KVM_ASYNC_PF_EN"),
    (0x4b56_4d03, "KVM_STEAL_TIME"),
    (0x4b56_4d04, "KVM_PV_EOI_EN"),
    (0x4b56_4d05, "KVM_POLL_CONTROL"),
    (0xc000_0080, "EFER"),
    (0xc000_0081, "STAR"),
    (0xc000_0082, "LSTAR"),
    (0xc000_0083, "CSTAR"),
    (0xc000_0084, "SFMASK"),
    (0xc000_00e7, "MPERF_RO"),
    (0xc000_00e8, "APERF_RO"),
    (0xc000_0100, "FS_BASE"),
    (0xc000_0101, "GS_BASE"),
    (0xc000_0102, "KERNEL_GS_BASE"),
    (0xc000_0103, "TSC_AUX"),
    (0xc000_0104, "TSC_RATIO"),
    (0xc001_0000, "PERF_CTL0"),
    (0xc001_0004, "PERF_CTR0"),
    (0xc001_0010, "SYSCFG"),
    (0xc001_0015, "HWCR"),
    (0xc001_001a, "TOP_MEM"),
    (0xc001_001d, "TOP_MEM2"),
    (0xc001_001f, "NB_CFG1"),
    (0xc001_0020, "PATCH_LOADER"),
    (0xc001_0055, "INT_PENDING_MSG"),
    (0xc001_0058, "MMIO_CONF_BASE"),
    (0xc001_0061, "PSTATE_LIMIT"),
    (0xc001_0062, "PSTATE_CTL"),
    (0xc001_0063, "PSTATE_STATUS"),
    (0xc001_0064, "PSTATE_0"),
    (0xc001_0114, "VM_CR"),
    (0xc001_0117, "VM_HSAVE_PA"),
    (0xc001_011f, "VIRT_SPEC_CTRL"),
    (0xc001_0140, "OSVW_ID_LENGTH"),
    (0xc001_0141, "OSVW_STATUS"),
    (0xc001_0200, "PERF_CTL0_CORE"),
    (0xc001_1004, "CPUID_FEATURES"),
    (0xc001_1005, "CPUID_EXT_FEATURES"),
    (0xc001_1022, "DC_CFG"),
    (0xc001_1023, "BU_CFG"),
    (0xc001_1029, "DE_CFG"),
    (0xc001_102a, "BU_CFG2"),
];

/// Several registers of one name: first, last, name.
const RANGES: &[(u32, u32, &str)] =
    &[(0x200, 0x20f, "MTRRphys"), (0x250, 0x26f, "MTRRfix"), (0x400, 0x47f, "MC"), (0x800, 0x8ff, "x2APIC")];

/// The register's name, or that of the group it is of.
pub fn name(index: u32) -> Option<&'static str> {
    let in_range = |(first, last, _): &&(u32, u32, &str)| (*first..=*last).contains(&index);
    let alone = NAMES.binary_search_by_key(&index, |(number, _)| *number).ok().and_then(|at| NAMES.get(at));
    let of_group = RANGES.iter().find(in_range).map(|(_, _, name)| *name);
    alone.map(|(_, name)| *name).or(of_group)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::msr;

    #[test]
    fn the_table_can_be_searched_and_names_what_the_platform_has() {
        assert!(NAMES.is_sorted_by(|a, b| a.0 < b.0));
        for index in msr::NATIVE.into_iter().chain([0x8b, 0xc001_0010, 0xc001_0015, 0xc001_0055, 0xc001_1029])
        {
            assert!(name(index).is_some(), "{index:#x}");
        }
        assert_eq!(name(0x1b), Some("APIC_BASE"));
        assert_eq!(name(0x80b), Some("x2APIC"));
        assert_eq!(name(0xdead), None);
    }
}
