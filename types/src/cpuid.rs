//! CPU profiles: the CPUID tables of the platform, vendor and model included, the same on every engine and host.
//!
//! `scribe-v1` is x86-64-v2 without what cannot be made deterministic: no TSC or RDTSCP (the processor's clock), no
//! RDRAND or RDSEED, no XSAVE and so no AVX (XSAVEOPT's and XINUSE's results depend on host history), no MCE, MTRR, AES, PCLMUL. Kernels find PSE, PGE, NX, SMEP and SMAP.
//!
//! There is no APIC either, but its bit is set: KVM sets it whatever the table says, and a guest has to see the same on each
//! engine. `scribe-v1-tsc`, which KVM cannot have, says the truth.

/// One CPUID leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf {
    /// EAX on input
    pub function: u32,
    /// ECX on input
    pub index: u32,
    /// EAX, EBX, ECX, EDX on output
    pub result: [u32; 4],
}

/// Name of the profile, in recordings and on the command line.
pub const SCRIBE_V1: &str = "scribe-v1";
/// Name of the profile with a TSC that reads guest time: for engines that own the TSC.
pub const SCRIBE_V1_TSC: &str = "scribe-v1-tsc";

/// Name of the profile that says of the TSC and of a local APIC: for `scribe-pc-2`, which has one.
pub const SCRIBE_V2_TSC: &str = "scribe-v2-tsc";

/// What processor a guest sees.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// its name, in recordings and on the command line
    pub name: &'static str,
    /// its CPUID leaves; others read as zero
    pub table: &'static [Leaf],
    /// RDTSC and RDTSCP read guest time in ns; without, they do not exist
    pub tsc: bool,
    /// it says that there is a local APIC, and means it
    pub apic: bool,
}

/// All profiles, the default first.
pub const PROFILES: [Profile; 3] = [
    Profile { name: SCRIBE_V1, table: &SCRIBE_V1_TABLE, tsc: false, apic: false },
    Profile { name: SCRIBE_V1_TSC, table: &SCRIBE_V1_TSC_TABLE, tsc: true, apic: false },
    Profile { name: SCRIBE_V2_TSC, table: &SCRIBE_V2_TSC_TABLE, tsc: true, apic: true },
];

/// The profile of this name.
pub fn profile(name: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|profile| profile.name == name)
}

const fn bits<const N: usize>(list: [u32; N]) -> u32 {
    let mut word = 0;
    let mut i = 0;
    while i < N {
        word |= 1 << list[i];
        i += 1;
    }
    word
}

/// Leaf 1 ECX: SSE3 SSSE3 CX16 SSE4.1 SSE4.2 POPCNT, and HYPERVISOR (no host reports that one for its guests' sake).
const FEATURES_ECX: u32 = bits([0, 9, 13, 19, 20, 23]);
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1 EDX: FPU DE PSE MSR PAE CX8 SEP PGE CMOV PAT PSE36 CLFSH MMX FXSR SSE SSE2.
const FEATURES_EDX: u32 = bits([0, 2, 3, 5, 6, 8, 11, 13, 15, 16, 17, 19, 23, 24, 25, 26]);
/// Leaf 7 EBX: SMEP SMAP.
const STRUCTURED_EBX: u32 = bits([7, 20]);
/// Leaf 0x8000_0001 EDX: what AMD repeats of leaf 1, and SYSCALL NX LM.
const EXTENDED_EDX: u32 = bits([0, 2, 3, 5, 6, 8, 13, 15, 16, 17, 23, 24]) | bits([11, 20, 29]);
/// Leaf 0x8000_0001 ECX: LAHF in long mode.
const EXTENDED_ECX: u32 = bits([0]);

/// Family 15, model 107, stepping 1 (as QEMU's generic 64-bit processor): old enough that kernels apply no errata of
/// newer parts.
const SIGNATURE: u32 = 0x0006_0fb1;
/// Physical address bits 40, linear address bits 48.
const ADDRESS_BITS: u32 = 48 << 8 | 40;

const fn word(text: &[u8; 4]) -> u32 {
    u32::from_le_bytes(*text)
}

/// The table of `scribe-v1`.
pub const SCRIBE_V1_TABLE: [Leaf; 13] = [
    leaf(0, [7, word(b"Auth"), word(b"cAMD"), word(b"enti")]),
    leaf(1, [SIGNATURE, 8 << 8, FEATURES_ECX | HYPERVISOR, FEATURES_EDX | APIC]),
    leaf(7, [0, STRUCTURED_EBX, 0, 0]),
    leaf(0x4000_0000, [0x4000_0000, word(b"Scri"), word(b"beVM"), word(b"M\0\0\0")]),
    leaf(0x8000_0000, [0x8000_0008, word(b"Auth"), word(b"cAMD"), word(b"enti")]),
    leaf(0x8000_0001, [SIGNATURE, 0, EXTENDED_ECX, EXTENDED_EDX]),
    leaf(0x8000_0002, [word(b"scri"), word(b"be-v"), word(b"1 de"), word(b"term")]),
    leaf(0x8000_0003, [word(b"inis"), word(b"tic "), word(b"proc"), word(b"esso")]),
    leaf(0x8000_0004, [word(b"r\0\0\0"), 0, 0, 0]),
    // L1: 64 KiB, 2-way, 64-byte lines; TLBs as small as any real part's
    leaf(0x8000_0005, [0x01ff_01ff, 0x01ff_01ff, 0x4002_0140, 0x4002_0140]),
    // L2: 512 KiB, 16-way, 64-byte lines
    leaf(0x8000_0006, [0, 0x4200_4200, 0x0200_8140, 0]),
    leaf(0x8000_0007, [0, 0, 0, 0]),
    leaf(0x8000_0008, [ADDRESS_BITS, 0, 0, 0]),
];

/// The table of `scribe-v1-tsc`: a TSC of 1 GHz that never stops, RDTSCP, and no word of an APIC.
pub const SCRIBE_V1_TSC_TABLE: [Leaf; 13] = {
    const EDX: usize = 3;
    let mut table = SCRIBE_V1_TABLE;
    let mut at = 0;
    while at < table.len() {
        match table[at].function {
            1 => table[at].result[EDX] = table[at].result[EDX] & !APIC | TSC,
            0x8000_0001 => table[at].result[EDX] |= TSC | RDTSCP,
            0x8000_0007 => table[at].result[EDX] |= INVARIANT_TSC,
            _ => {}
        }
        at += 1;
    }
    table
};
/// The table of `scribe-v2-tsc`: that of `scribe-v1-tsc` and the APIC's bits. The processor's initial APIC ID is 0.
pub const SCRIBE_V2_TSC_TABLE: [Leaf; 13] = {
    const EDX: usize = 3;
    let mut table = SCRIBE_V1_TSC_TABLE;
    let mut at = 0;
    while at < table.len() {
        if matches!(table[at].function, 1 | 0x8000_0001) {
            table[at].result[EDX] |= APIC;
        }
        at += 1;
    }
    table
};
/// Leaf 1 EDX: set by KVM while the APIC's base MSR, which no guest here can reach, says "enabled".
const APIC: u32 = 1 << 9;
/// Leaves 1 and 0x8000_0001 EDX.
const TSC: u32 = 1 << 4;
/// Leaf 0x8000_0001 EDX.
const RDTSCP: u32 = 1 << 27;
/// Leaf 0x8000_0007 EDX.
const INVARIANT_TSC: u32 = 1 << 8;

const fn leaf(function: u32, result: [u32; 4]) -> Leaf {
    Leaf { function, index: 0, result }
}

/// What a host must be able to do natively for the profile: leaf, register (0 EAX .. 3 EDX), bits.
pub const REQUIRED: [(u32, usize, u32); 5] = [
    (1, 2, FEATURES_ECX),
    (1, 3, FEATURES_EDX),
    (7, 1, STRUCTURED_EBX),
    (0x8000_0001, 3, bits([11, 20, 29])),
    (0x8000_0001, 2, EXTENDED_ECX),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tsc_profile_adds_the_tsc_and_says_that_there_is_no_apic() {
        assert!(profile(SCRIBE_V1).is_some_and(|p| !p.tsc) && profile("scribe-v2").is_none());
        let differs: Vec<_> = profile(SCRIBE_V1_TSC)
            .unwrap()
            .table
            .iter()
            .zip(SCRIBE_V1_TABLE)
            .filter(|(with, without)| **with != *without)
            .map(|(with, without)| {
                assert_eq!(
                    (with.function, with.result[..3].to_vec()),
                    (without.function, without.result[..3].to_vec())
                );
                (with.function, with.result[3] ^ without.result[3])
            })
            .collect();
        assert_eq!(differs, [(1, 1 << 4 | 1 << 9), (0x8000_0001, 1 << 4 | 1 << 27), (0x8000_0007, 1 << 8)]);
    }

    #[test]
    fn the_profile_with_an_apic_adds_its_bits_alone() {
        for (with, without) in SCRIBE_V2_TSC_TABLE.into_iter().zip(SCRIBE_V1_TSC_TABLE) {
            let apic = if matches!(with.function, 1 | 0x8000_0001) { 1 << 9 } else { 0 };
            assert_eq!(with.result[..3], without.result[..3]);
            assert_eq!(with.result[3] ^ without.result[3], apic, "{:#x}", with.function);
        }
    }

    #[test]
    fn nothing_nondeterministic_is_advertised() {
        let find = |function| SCRIBE_V1_TABLE.iter().find(|leaf| leaf.function == function).unwrap().result;
        let [_, _, ecx, edx] = find(1);
        for (bit, name) in [
            (1, "PCLMUL"),
            (3, "MONITOR"),
            (21, "x2APIC"),
            (25, "AES"),
            (26, "XSAVE"),
            (28, "AVX"),
            (30, "RDRAND"),
        ] {
            assert_eq!(ecx >> bit & 1, 0, "{name}");
        }
        for (bit, name) in [(4, "TSC"), (7, "MCE"), (12, "MTRR")] {
            assert_eq!(edx >> bit & 1, 0, "{name}");
        }
        let [_, ebx, _, _] = find(7);
        for (bit, name) in [(4, "HLE"), (11, "RTM"), (18, "RDSEED")] {
            assert_eq!(ebx >> bit & 1, 0, "{name}");
        }
        assert_eq!(find(0x8000_0001)[3] >> 27 & 1, 0, "RDTSCP");
        assert_eq!(find(0x8000_0001)[3] >> 4 & 1, 0, "TSC");
    }
}
