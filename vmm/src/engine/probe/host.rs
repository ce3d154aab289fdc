//! What can be judged without running a guest: the device, the API, capabilities, the processor's features.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use kvm_bindings::{
    KVM_CAP_DEBUGREGS, KVM_CAP_DISABLE_QUIRKS, KVM_CAP_DISABLE_QUIRKS2, KVM_CAP_EXT_CPUID,
    KVM_CAP_IMMEDIATE_EXIT, KVM_CAP_MP_STATE, KVM_CAP_SET_GUEST_DEBUG, KVM_CAP_SYNC_REGS,
    KVM_CAP_USER_MEMORY, KVM_CAP_VCPU_EVENTS, KVM_CAP_X86_MSR_FILTER, KVM_CAP_X86_USER_SPACE_MSR,
    KVM_MAX_CPUID_ENTRIES, KVM_SYNC_X86_EVENTS, KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS,
    KVM_X86_QUIRK_FIX_HYPERCALL_INSN,
};
use kvm_ioctls::Kvm;
use serde::Serialize;

use super::{Check, Finding, Status};
use crate::machine::cpuid::REQUIRED;

const DEVICE: &str = "/dev/kvm";
const API_VERSION: i32 = 12;

/// What the host is: named in recordings, because a replay elsewhere may differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostFacts {
    /// Model name of the first processor.
    pub cpu_model: String,
    /// Its microcode revision, as the kernel prints it.
    pub microcode: String,
    /// Release of the host's kernel.
    pub kernel_release: String,
    /// The module behind `/dev/kvm`, such as `kvm_amd`; "none" if none is loaded.
    pub kvm_module: String,
}

impl HostFacts {
    /// Reads them from `/proc` and `/sys`. What cannot be read is "unknown".
    pub fn read() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let known = |text: &str| match text.trim() {
            "" => "unknown".to_owned(),
            text => text.to_owned(),
        };
        Self {
            cpu_model: known(cpuinfo_field(&cpuinfo, "model name")),
            microcode: known(cpuinfo_field(&cpuinfo, "microcode")),
            kernel_release: known(&release),
            kvm_module: kvm_module(),
        }
    }
}

/// The value of the first line with this key.
fn cpuinfo_field<'a>(cpuinfo: &'a str, key: &str) -> &'a str {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim() == key)
        .map_or("", |(_, value)| value.trim())
}

/// The vendor module that is loaded (or built in): `kvm` itself only registers it.
fn kvm_module() -> String {
    let modules = ["kvm_amd", "kvm_intel", "kvm_pvm"];
    let found = modules.into_iter().filter(|name| Path::new("/sys/module").join(name).exists());
    let names = found.collect::<Vec<_>>().join(", ");
    if names.is_empty() { "none".into() } else { names }
}

/// How to get a KVM module on this processor.
fn module_advice() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpuinfo_field(&cpuinfo, "flags");
    let has = |flag| flags.split_whitespace().any(|f| f == flag);
    if has("svm") {
        "Load it: sudo modprobe kvm_amd".into()
    } else if has("vmx") {
        "Load it: sudo modprobe kvm_intel".into()
    } else {
        "The processor shows neither VMX nor SVM: turn virtualisation on in the firmware, or, if this is a \
         virtual machine or a container, nested virtualisation or access to the device on its host."
            .into()
    }
}

/// The name of a group, or its number.
fn group_name(gid: u32) -> String {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let name = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| gid.to_string())
}

/// Opens `/dev/kvm`.
pub(super) fn open() -> (Check, Option<Kvm>) {
    let check = |finding: Finding, fix: String| Check {
        name: "dev-kvm",
        status: finding.status,
        found: finding.found,
        why: "The kvm engine runs guests through this device.",
        fix,
    };
    let error = match Kvm::new() {
        Ok(kvm) => {
            let version = kvm.get_api_version();
            if version == API_VERSION {
                let found = Finding::ok(format!("{DEVICE} opens, API version {version}"));
                return (check(found, String::new()), Some(kvm));
            }
            let found = Finding::fail(format!("{DEVICE} has API version {version}, not {API_VERSION}"));
            return (check(found, "Use a host kernel with the stable KVM API.".into()), None);
        }
        Err(e) => std::io::Error::from_raw_os_error(e.errno()),
    };
    let found = Finding::fail(format!("{DEVICE} does not open: {error}"));
    let fix = match (error.kind(), fs::metadata(DEVICE)) {
        (ErrorKind::PermissionDenied, Ok(device)) => {
            let (group, mode) = (group_name(device.gid()), device.mode() & 0o777);
            if mode & 0o060 == 0o060 && device.gid() != 0 {
                format!("Its group is {group}: sudo usermod -aG {group} $USER, then log in again.")
            } else {
                format!(
                    "It belongs to group {group} with mode {mode:03o}: \
                     sudo chgrp kvm {DEVICE} && sudo chmod 660 {DEVICE}, \
                     then sudo usermod -aG kvm $USER and log in again."
                )
            }
        }
        (_, Ok(device)) if !device.file_type().is_char_device() => {
            format!("{DEVICE} is not a device: remove it and load the module again.")
        }
        _ => module_advice(),
    };
    (check(found, fix), None)
}

/// Capabilities without which no recording can be made, and since when Linux has them.
const NEEDED: [(&str, u32, &str); 8] = [
    ("KVM_CAP_USER_MEMORY", KVM_CAP_USER_MEMORY, "2.6.26"),
    ("KVM_CAP_EXT_CPUID", KVM_CAP_EXT_CPUID, "2.6.26"),
    ("KVM_CAP_MP_STATE", KVM_CAP_MP_STATE, "2.6.26"),
    ("KVM_CAP_VCPU_EVENTS", KVM_CAP_VCPU_EVENTS, "2.6.33"),
    ("KVM_CAP_DEBUGREGS", KVM_CAP_DEBUGREGS, "2.6.35"),
    ("KVM_CAP_IMMEDIATE_EXIT", KVM_CAP_IMMEDIATE_EXIT, "4.11"),
    ("KVM_CAP_X86_USER_SPACE_MSR", KVM_CAP_X86_USER_SPACE_MSR, "5.10"),
    ("KVM_CAP_X86_MSR_FILTER", KVM_CAP_X86_MSR_FILTER, "5.10"),
];

/// Register sets that an exit must bring along.
const SYNCED: i32 = (KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS).cast_signed();

/// Checks capabilities by name.
pub(super) fn capabilities(kvm: &Kvm) -> Check {
    let value = |cap: u32| kvm.check_extension_raw(cap.into());
    let mut missing: Vec<String> = NEEDED
        .iter()
        .filter(|(_, cap, _)| value(*cap) <= 0)
        .map(|(name, _, since)| format!("{name} (Linux {since})"))
        .collect();
    if value(KVM_CAP_SYNC_REGS) & SYNCED != SYNCED {
        missing.push("KVM_CAP_SYNC_REGS (Linux 4.17)".into());
    }
    let mut wanted = Vec::new();
    if value(KVM_CAP_SET_GUEST_DEBUG) <= 0 {
        wanted.push("KVM_CAP_SET_GUEST_DEBUG");
    }
    let quirk = KVM_X86_QUIRK_FIX_HYPERCALL_INSN.cast_signed();
    if value(KVM_CAP_DISABLE_QUIRKS2) & quirk == 0 {
        wanted.push(if value(KVM_CAP_DISABLE_QUIRKS) > 0 {
            "KVM_CAP_DISABLE_QUIRKS2 for hypercalls"
        } else {
            "KVM_CAP_DISABLE_QUIRKS"
        });
    }
    let (status, found, fix) = if !missing.is_empty() {
        (Status::Fail, format!("missing: {}", missing.join(", ")), "Use a newer host kernel.".into())
    } else if !wanted.is_empty() {
        (
            Status::Warn,
            format!("all that are needed; missing: {}", wanted.join(", ")),
            "Use a host kernel 5.19 or newer to have them all.".into(),
        )
    } else {
        (
            Status::Ok,
            format!("all {} needed, and those for debugging and quirks", NEEDED.len() + 1),
            String::new(),
        )
    };
    Check {
        name: "capabilities",
        status,
        found,
        why: "MSR exits, exact kicks, saved state and cheap register reads need these parts of KVM.",
        fix,
    }
}

/// A feature bit's name; `register` counts from EAX = 0.
fn feature(function: u32, register: usize, bit: u32) -> String {
    let name = match (function, register, bit) {
        (1, 2, 0) => "SSE3",
        (1, 2, 9) => "SSSE3",
        (1, 2, 13) => "CMPXCHG16B",
        (1, 2, 19) => "SSE4.1",
        (1, 2, 20) => "SSE4.2",
        (1, 2, 23) => "POPCNT",
        (1, 3, 26) => "SSE2",
        (7, 1, 7) => "SMEP",
        (7, 1, 20) => "SMAP",
        (0x8000_0001, 3, 11) => "SYSCALL",
        (0x8000_0001, 3, 20) => "NX",
        (0x8000_0001, 3, 29) => "long mode",
        (0x8000_0001, 2, 0) => "LAHF",
        _ => {
            return format!("CPUID {function:#x} {} bit {bit}", ["EAX", "EBX", "ECX", "EDX"][register]);
        }
    };
    name.to_owned()
}

/// Checks that the processor has what the guest's CPUID profile promises.
pub(super) fn processor(kvm: &Kvm) -> Check {
    let why = "The guest's processor is the same on every host, so every host must have its features.";
    let supported = match kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES) {
        Ok(supported) => supported,
        Err(e) => {
            let found = format!("KVM_GET_SUPPORTED_CPUID failed: {e}");
            return Check {
                name: "cpu-features",
                status: Status::Fail,
                found,
                why,
                fix: super::FIX_OTHER_HOST.into(),
            };
        }
    };
    let mut missing = Vec::new();
    for (function, register, bits) in REQUIRED {
        let entry = supported.as_slice().iter().find(|e| e.function == function && e.index == 0);
        let have = entry.map_or(0, |e| [e.eax, e.ebx, e.ecx, e.edx][register]);
        let absent = (0..32).filter(|bit| bits & !have & 1 << bit != 0);
        missing.extend(absent.map(|bit| feature(function, register, bit)));
    }
    let (status, found, fix) = if missing.is_empty() {
        (Status::Ok, "all of the guest's profile".into(), String::new())
    } else {
        (
            Status::Fail,
            format!("KVM does not offer the guest {}", missing.join(", ")),
            "Use a processor with SSE4.2, POPCNT, SMEP and SMAP: Intel Broadwell, AMD Zen or newer.".into(),
        )
    };
    Check { name: "cpu-features", status, found, why, fix }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpuinfo_fields_are_found() {
        let text = "processor\t: 0\nmodel\t\t: 207\nmodel name\t: Some CPU @ 2.0\nmicrocode\t: 0x1\n\nmicrocode : 0x2\n";
        assert_eq!(cpuinfo_field(text, "model name"), "Some CPU @ 2.0");
        assert_eq!(cpuinfo_field(text, "microcode"), "0x1");
        assert_eq!(cpuinfo_field(text, "flags"), "");
    }

    #[test]
    fn root_has_a_group() {
        assert!(!group_name(0).is_empty());
        assert_eq!(group_name(u32::MAX), u32::MAX.to_string());
    }
}
