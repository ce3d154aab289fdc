//! What a host's files say of its processor and counters. Read once, so that the judgement can be tested with made-up ones.

use std::fs;
use std::io;
use std::path::Path;

use crate::host::perf;

/// MSRC001_1020, Load-Store Configuration (AMD PPR): bit 54 turns SpecLockMap off.
pub const LOAD_STORE_CONFIGURATION: u32 = 0xc001_1020;
/// Locked instructions are executed speculatively, and what is thrown away has been counted.
pub const NO_SPEC_LOCK_MAP: u64 = 1 << 54;

/// Kinds of cores of a hybrid processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hybrid {
    /// perf type of the performance cores' events
    pub pmu: u32,
    /// their numbers
    pub processors: Vec<usize>,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// as CPUID and /proc/cpuinfo name it
    pub vendor: String,
    /// CPUID's family
    pub family: u32,
    /// CPUID's model
    pub model: u32,
    /// the host is a virtual machine itself
    pub nested: bool,
    /// /proc/sys/kernel/perf_event_paranoid
    pub paranoid: Option<i32>,
    /// /sys/devices/cpu/freeze_on_smi, where the kernel has it
    pub freeze_on_smi: Option<bool>,
    /// there are cores of two kinds
    pub hybrid: Option<Hybrid>,
    /// on AMD: processors on which SpecLockMap is on; `None`: their MSRs cannot be read
    pub spec_lock_map: Option<Vec<usize>>,
}

impl Facts {
    /// Reads them. What cannot be read is as if it was not there.
    pub fn read() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let mut facts = Self::of_cpuinfo(&cpuinfo);
        facts.paranoid = number("/proc/sys/kernel/perf_event_paranoid");
        let devices = Path::new("/sys/devices");
        facts.freeze_on_smi = ["cpu", "cpu_core"]
            .iter()
            .find_map(|name| number::<u32>(devices.join(name).join("freeze_on_smi")))
            .map(|value| value != 0);
        facts.hybrid = hybrid(devices);
        if facts.vendor == "AuthenticAMD" {
            facts.spec_lock_map = spec_lock_map(processors(&cpuinfo)).ok();
        }
        facts
    }

    fn of_cpuinfo(cpuinfo: &str) -> Self {
        let field = |key: &str| {
            let mut lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
            lines.find(|(name, _)| name.trim() == key).map_or("", |(_, value)| value.trim())
        };
        Self {
            vendor: field("vendor_id").to_owned(),
            family: field("cpu family").parse().unwrap_or(0),
            model: field("model").parse().unwrap_or(0),
            nested: field("flags").split_whitespace().any(|flag| flag == "hypervisor"),
            ..Self::default()
        }
    }
}

fn processors(cpuinfo: &str) -> impl Iterator<Item = usize> + '_ {
    let lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    lines.filter(|(name, _)| name.trim() == "processor").filter_map(|(_, value)| value.trim().parse().ok())
}

fn number<T: std::str::FromStr>(path: impl AsRef<Path>) -> Option<T> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The performance cores, if there are others: the kernel then has PMUs `cpu_core` and `cpu_atom` and no `cpu`.
fn hybrid(devices: &Path) -> Option<Hybrid> {
    let core = devices.join("cpu_core");
    if !devices.join("cpu_atom").is_dir() {
        return None;
    }
    let processors = list(fs::read_to_string(core.join("cpus")).ok()?.trim())?;
    Some(Hybrid { pmu: number(core.join("type"))?, processors })
}

/// A list of processors as the kernel writes it: `0-3,8`.
fn list(text: &str) -> Option<Vec<usize>> {
    const MOST: usize = 1 << 16;
    let mut processors = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= MOST {
            return None;
        }
        processors.extend(first..=last);
    }
    Some(processors)
}

/// The processors on which SpecLockMap is on.
fn spec_lock_map(processors: impl Iterator<Item = usize>) -> io::Result<Vec<usize>> {
    let mut on = Vec::new();
    for processor in processors {
        if perf::read_msr(processor, LOAD_STORE_CONFIGURATION)? & NO_SPEC_LOCK_MAP == 0 {
            on.push(processor);
        }
    }
    Ok(on)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpuinfo_names_the_processor() {
        let text = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 97\n\
                    model name\t: AMD Ryzen\nflags\t\t: fpu hypervisor\n\nprocessor\t: 1\ncpu family\t: 1\n";
        let facts = Facts::of_cpuinfo(text);
        assert_eq!(
            (facts.vendor.as_str(), facts.family, facts.model, facts.nested),
            ("AuthenticAMD", 25, 97, true)
        );
        assert_eq!(processors(text).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(Facts::of_cpuinfo(""), Facts::default());
    }

    #[test]
    fn lists_of_processors_are_read() {
        assert_eq!(list("0-3,8"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(list("5"), Some(vec![5]));
        for wrong in ["", "a", "3-1", "0-", "0-99999999999", "0-4000000000"] {
            assert_eq!(list(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_hybrid_processor_is_known_by_its_pmus() {
        let devices = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = devices.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("cpu_core/cpus", "0-15\n");
        put("cpu_core/type", "4\n");
        assert_eq!(hybrid(devices.path()), None);
        put("cpu_atom/cpus", "16-23\n");
        assert_eq!(hybrid(devices.path()), Some(Hybrid { pmu: 4, processors: (0..16).collect() }));
    }

    #[test]
    fn this_host_has_a_processor() {
        let facts = Facts::read();
        assert!(!facts.vendor.is_empty() && facts.family > 0, "{facts:?}");
    }
}
