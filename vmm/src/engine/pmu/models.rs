//! Which event counts retired conditional branches, by processor.
//!
//! Sources, for each row the manual that defines the event:
//! * Intel SDM vol. 3, chapter "Performance Monitoring Events" (in 2023 chapter 20) and, the same as tables,
//!   <https://perfmon-events.intel.com>: BR_INST_RETIRED.CONDITIONAL (event C4, unit mask 01) up to Comet Lake,
//!   BR_INST_RETIRED.COND (C4, 11) from Ice Lake on, BR_INST_RETIRED.JCC, later .COND (C4, 7E) on the Atom line. The bits
//!   51 above them are enable, interrupt and user mode of IA32_PERFEVTSELx, which the kernel sets as it sees fit.
//! * AMD PPR for the family, "Core Performance Monitor Counters": PMCx0D1, Retired Conditional Branch Instructions.
//! * How late overflows come is in no manual: 100 to 125 branches on Intel, 10 000 on Zen are what rr has found enough on
//!   many machines (<https://rr-project.org>, its documentation and `src/PerfCounters.cc`). `doctor --pmu` measures it.
//!
//! Model numbers are CPUID leaf 1, extended as SDM vol. 2 (CPUID) and APM vol. 3 say; their names are those of the kernel's
//! `arch/x86/include/asm/intel-family.h`. Processors that lack what guests need (SMAP) are left out. So are those with
//! other unit masks that nobody has tried (Lion Cove and later): an unknown processor's counter is not used.

/// Who makes the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    /// `GenuineIntel`
    Intel,
    /// `AuthenticAMD`
    Amd,
}

impl Vendor {
    /// By the name that CPUID gives.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "GenuineIntel" => Some(Self::Intel),
            "AuthenticAMD" => Some(Self::Amd),
            _ => None,
        }
    }
}

/// Processors with one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Model {
    /// their name
    pub name: &'static str,
    /// who makes them
    pub vendor: Vendor,
    /// their family
    pub family: u32,
    /// their model numbers
    pub models: &'static [u32],
    /// code of the event
    pub config: u64,
    /// branches by which its overflow comes late at most
    pub skid: u64,
    /// counters have to be frozen while firmware serves an SMI, which they are not by themselves
    pub counts_smi: bool,
}

/// Of hybrid processors: which of the two kinds of cores is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cores {
    /// all are of one kind
    Same,
    /// there are others; those of kind `cpu_core`
    Performance,
}

const CONDITIONAL: u64 = 0x5101c4;
const COND: u64 = 0x5111c4;
const ATOM: u64 = 0x517ec4;
const ZEN: u64 = 0x5100d1;

const fn intel(
    name: &'static str,
    models: &'static [u32],
    config: u64,
    skid: u64,
    counts_smi: bool,
) -> Model {
    Model { name, vendor: Vendor::Intel, family: 6, models, config, skid, counts_smi }
}

const fn zen(name: &'static str, family: u32, models: &'static [u32]) -> Model {
    Model { name, vendor: Vendor::Amd, family, models, config: ZEN, skid: 10_000, counts_smi: false }
}

/// All that are known.
pub const MODELS: [Model; 15] = [
    intel("Broadwell", &[0x3d, 0x47, 0x4f, 0x56], CONDITIONAL, 100, false),
    intel("Skylake, Cascade Lake", &[0x4e, 0x55, 0x5e], CONDITIONAL, 100, false),
    intel("Kaby Lake, Coffee Lake", &[0x8e, 0x9e], CONDITIONAL, 100, false),
    intel("Comet Lake", &[0xa5, 0xa6], CONDITIONAL, 100, true),
    intel("Ice Lake", &[0x6a, 0x6c, 0x7d, 0x7e], COND, 100, true),
    intel("Tiger Lake", &[0x8c, 0x8d], COND, 100, true),
    intel("Rocket Lake", &[0xa7], COND, 100, true),
    intel("Alder Lake, Raptor Lake", &[0x97, 0x9a, 0xb7, 0xba, 0xbf], COND, 125, true),
    intel("Sapphire Rapids, Emerald Rapids", &[0x8f, 0xcf], COND, 125, true),
    intel("Meteor Lake", &[0xaa, 0xac], COND, 125, true),
    intel("Granite Rapids", &[0xad, 0xae], COND, 125, true),
    intel("Goldmont, Tremont, Gracemont", &[0x5c, 0x5f, 0x7a, 0x86, 0x96, 0x9c, 0xbe], ATOM, 125, false),
    // Of one family AMD hands out model numbers in blocks of 16, all of one core.
    zen("Zen, Zen 2", 0x17, &[]),
    zen("Zen 3, Zen 4", 0x19, &[]),
    zen("Zen 5", 0x1a, &[]),
];

/// The row of a processor. On hybrid ones that of their performance cores.
pub fn find(vendor: Vendor, family: u32, model: u32) -> Option<&'static Model> {
    MODELS.iter().find(|row| {
        (row.vendor, row.family) == (vendor, family) && (row.models.is_empty() || row.models.contains(&model))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_have_the_event_of_their_manual() {
        use Vendor::{Amd, Intel};
        for (vendor, family, model, config, skids, name) in [
            (Intel, 6, 0x4f, 0x5101c4, 100..=125, "Broadwell"),
            (Intel, 6, 0x55, 0x5101c4, 100..=125, "Skylake"),
            (Intel, 6, 0x9e, 0x5101c4, 100..=125, "Coffee Lake"),
            (Intel, 6, 0xa5, 0x5101c4, 100..=125, "Comet Lake"),
            (Intel, 6, 0x6a, 0x5111c4, 100..=125, "Ice Lake"),
            (Intel, 6, 0x97, 0x5111c4, 100..=125, "Alder Lake"),
            (Intel, 6, 0xcf, 0x5111c4, 100..=125, "Emerald Rapids"),
            (Intel, 6, 0xbe, 0x517ec4, 100..=125, "Gracemont"),
            (Amd, 0x17, 0x31, 0x5100d1, 10_000..=10_000, "Zen 2"),
            (Amd, 0x19, 0x61, 0x5100d1, 10_000..=10_000, "Zen 4"),
            (Amd, 0x1a, 0x02, 0x5100d1, 10_000..=10_000, "Zen 5"),
        ] {
            let row = find(vendor, family, model).unwrap();
            assert_eq!(row.config, config, "{name}");
            assert!(skids.contains(&row.skid) && row.name.contains(name), "{name}: {row:?}");
        }
    }

    #[test]
    fn the_unknown_has_none() {
        for (vendor, family, model) in [
            (Vendor::Intel, 6, 0xbd), // Lunar Lake: another unit mask
            (Vendor::Intel, 6, 0x37), // Silvermont: guests need SMAP
            (Vendor::Intel, 15, 0x4f),
            (Vendor::Intel, 19, 0x01),
            (Vendor::Amd, 0x15, 0x02), // before Zen
            (Vendor::Amd, 6, 0x4f),
        ] {
            assert_eq!(find(vendor, family, model), None, "{vendor:?} {family:#x} {model:#x}");
        }
        assert_eq!(Vendor::named("HygonGenuine"), None);
        assert_eq!(Vendor::named("GenuineIntel"), Some(Vendor::Intel));
        assert_eq!(Vendor::named("AuthenticAMD"), Some(Vendor::Amd));
    }

    #[test]
    fn no_processor_is_in_two_rows() {
        for (n, row) in MODELS.iter().enumerate() {
            for other in &MODELS[n + 1..] {
                let same = (row.vendor, row.family) == (other.vendor, other.family);
                let shared = row.models.iter().any(|model| other.models.contains(model));
                assert!(
                    !same || (!shared && !row.models.is_empty() && !other.models.is_empty()),
                    "{row:?} {other:?}"
                );
            }
        }
    }

    #[test]
    fn no_event_counts_instructions_or_all_branches() {
        for row in &MODELS {
            let (event, mask) = (row.config & 0xff, row.config >> 8 & 0xff);
            assert!(matches!((event, mask), (0xc4, 0x01 | 0x11 | 0x7e) | (0xd1, 0)), "{row:?}");
        }
    }
}
