//! x87 against the host's own: every instruction's encoding, on values of all classes, in all modes.

#[cfg(target_arch = "x86_64")]
mod differential;
#[cfg(target_arch = "x86_64")]
mod host;
mod values;
