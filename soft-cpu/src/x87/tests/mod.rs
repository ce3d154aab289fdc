//! x87 against the host's own: every instruction's encoding, on values of all classes, in all modes; and what needs no host.

#[cfg(target_arch = "x86_64")]
mod differential;
mod golden;
#[cfg(target_arch = "x86_64")]
mod host;
mod traps;
#[cfg(target_arch = "x86_64")]
mod values;
