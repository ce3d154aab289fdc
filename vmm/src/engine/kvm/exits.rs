//! Decoding `struct kvm_run`: which exit this is, where its answer goes, further elements of string I/O.
//!
//! kvm-ioctls hides the access size of port exits and the data of internal errors, so the unions are read here, and
//! only here.
#![allow(unsafe_code)] // reads of kvm_run's unions and of the PIO data page behind it

use crate::engine::{Answer, Exit};
use kvm_bindings::{
    KVM_EXIT_IO, KVM_EXIT_IO_IN, KVM_EXIT_MMIO, KVM_EXIT_X86_RDMSR, KVM_INTERNAL_ERROR_EMULATION, kvm_run,
};

/// The exit being served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pending {
    /// none
    None,
    /// one without an answer to be written
    Nothing,
    /// element `index` of `count` port accesses of `size` bytes, data at `offset` bytes into kvm_run
    Port { port: u16, size: u8, read: bool, index: u32, count: u32, offset: usize },
    /// a load
    Mmio,
    /// an MSR access
    Msr,
}

/// Reads the exit out of `run`. Only for IO, MMIO and MSR exits.
pub(super) fn decode(run: &mut kvm_run) -> (Pending, Exit) {
    // SAFETY: exit_reason, which the kernel wrote, says which member of the union is valid.
    unsafe {
        match run.exit_reason {
            KVM_EXIT_IO => {
                let io = run.__bindgen_anon_1.io;
                let pending = Pending::Port {
                    port: io.port,
                    size: io.size,
                    read: u32::from(io.direction) == KVM_EXIT_IO_IN,
                    index: 0,
                    count: io.count,
                    offset: usize::try_from(io.data_offset).unwrap_or(0),
                };
                (pending, port_exit(run, pending))
            }
            KVM_EXIT_MMIO => {
                let mmio = run.__bindgen_anon_1.mmio;
                let size = u8::try_from(mmio.len).unwrap_or(8).min(8);
                if mmio.is_write == 0 {
                    return (Pending::Mmio, Exit::MmioRead { address: mmio.phys_addr, size });
                }
                let mut bytes = [0; 8];
                let used = usize::from(size);
                bytes[..used].copy_from_slice(&mmio.data[..used]);
                let value = u64::from_le_bytes(bytes);
                (Pending::Nothing, Exit::MmioWrite { address: mmio.phys_addr, size, value })
            }
            reason => {
                let msr = run.__bindgen_anon_1.msr;
                let exit = if reason == KVM_EXIT_X86_RDMSR {
                    Exit::MsrRead { index: msr.index }
                } else {
                    Exit::MsrWrite { index: msr.index, value: msr.data }
                };
                (Pending::Msr, exit)
            }
        }
    }
}

/// Bytes of one element in the PIO data page.
///
/// # Safety
/// `pending` must be the one decoded from this `run` for the exit being served.
unsafe fn element(run: &mut kvm_run, size: u8, index: u32, offset: usize) -> &mut [u8] {
    let size = usize::from(size);
    let start = offset + size * index as usize;
    // SAFETY: KVM placed count * size bytes at data_offset, inside the mapping that kvm-ioctls made of
    // KVM_GET_VCPU_MMAP_SIZE bytes from the start of kvm_run; index < count. The borrow of `run` keeps it exclusive.
    unsafe { std::slice::from_raw_parts_mut(std::ptr::from_mut(run).cast::<u8>().add(start), size) }
}

fn port_exit(run: &mut kvm_run, pending: Pending) -> Exit {
    let Pending::Port { port, size, read, index, offset, .. } = pending else {
        return Exit::Halt;
    };
    if read {
        return Exit::PortRead { port, size };
    }
    let mut bytes = [0; 4];
    // SAFETY: pending was decoded from this kvm_run.
    let data = unsafe { element(run, size, index, offset) };
    let used = data.len().min(4);
    bytes[..used].copy_from_slice(&data[..used]);
    Exit::PortWrite { port, size, value: u32::from_le_bytes(bytes) }
}

/// The next element of string I/O that KVM delivered in one go, if there is one.
pub(super) fn next_element(run: &mut kvm_run, pending: &mut Pending) -> Option<Exit> {
    let Pending::Port { index, count, .. } = pending else {
        return None;
    };
    *index += 1;
    (*index < *count).then(|| port_exit(run, *pending))
}

/// Writes the machine's answer to where KVM expects it.
pub(super) fn answer(run: &mut kvm_run, pending: &mut Pending, answer: Answer) {
    match (*pending, answer) {
        (Pending::Port { size, read: true, index, offset, .. }, Answer::Value(value)) => {
            // SAFETY: pending was decoded from this kvm_run.
            let data = unsafe { element(run, size, index, offset) };
            let used = data.len().min(8);
            data[..used].copy_from_slice(&value.to_le_bytes()[..used]);
        }
        (Pending::Mmio, Answer::Value(value)) => run.__bindgen_anon_1.mmio.data = value.to_le_bytes(),
        (Pending::Msr, Answer::Value(value)) => {
            // SAFETY: pending says that the MSR member of the union is valid.
            let msr = unsafe { &mut run.__bindgen_anon_1.msr };
            msr.data = value;
            msr.error = 0;
        }
        (Pending::Msr, verdict) => {
            // SAFETY: as above.
            let msr = unsafe { &mut run.__bindgen_anon_1.msr };
            msr.error = u8::from(verdict == Answer::GeneralProtection);
        }
        _ => {}
    }
}

/// True if the vCPU can take an external interrupt now, as of the last return from KVM_RUN.
pub(super) fn ready_for_injection(run: &kvm_run) -> bool {
    run.ready_for_interrupt_injection != 0 && run.if_flag != 0
}

/// What KVM said about an internal error.
pub(super) fn internal_error(run: &mut kvm_run) -> String {
    // SAFETY: the caller saw KVM_EXIT_INTERNAL_ERROR or a failed entry; every bit pattern is a valid value.
    let internal = unsafe { run.__bindgen_anon_1.internal };
    format!("KVM suberror {}", internal.suberror)
}

/// The instruction bytes that KVM reports with a failed emulation, if it does.
pub(super) fn refused_bytes(run: &mut kvm_run) -> Option<Vec<u8>> {
    const HAS_BYTES: u64 = 1; // KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES
    // SAFETY: as in internal_error; the sizes are checked before use.
    unsafe {
        let failure = run.__bindgen_anon_1.emulation_failure;
        if failure.suberror != KVM_INTERNAL_ERROR_EMULATION
            || failure.ndata < 1
            || failure.flags & HAS_BYTES == 0
        {
            return None;
        }
        let bytes = failure.__bindgen_anon_1.__bindgen_anon_1;
        let size = usize::from(bytes.insn_size).min(bytes.insn_bytes.len());
        Some(bytes.insn_bytes[..size].to_vec())
    }
}
