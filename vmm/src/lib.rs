//! scribe-vmm: a whole-VM deterministic record/replay hypervisor.
