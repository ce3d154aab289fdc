//! The memory through which cases go to the native process and outcomes come back.
#![allow(unsafe_code)] // one pointer, shared between two processes

use super::case::{Case, Machine, Outcome};
use super::layout::{BATCH, CODE_BYTES};
use super::memory;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

/// A case as the native process needs it, and its outcome.
#[repr(C)]
pub struct Slot {
    /// state before
    pub machine: Machine,
    /// 1: compatibility mode
    pub compatibility: u32,
    /// where the pool's bytes begin that fill the data pages
    pub pool_offset: u32,
    /// bytes of code
    pub code_length: u32,
    /// code
    pub code: [u8; CODE_BYTES],
    /// what came out
    pub outcome: Outcome,
}

/// The whole of it.
#[repr(C)]
pub struct Batch {
    /// counts up with each batch asked for
    pub asked: AtomicU32,
    /// the last batch done
    pub done: AtomicU32,
    /// the case being run
    pub current: AtomicU32,
    /// the first case of the batch to run
    pub first: AtomicU32,
    /// cases in the batch
    pub count: AtomicU32,
    /// cases
    pub slots: [Slot; BATCH],
}

/// The batch, mapped in this process and its children.
#[derive(Clone, Copy)]
pub struct Shared(*mut Batch);

impl Shared {
    /// New and empty.
    ///
    /// # Errors
    /// No memory.
    pub fn new() -> io::Result<Self> {
        Ok(Self(memory::shared_pages(size_of::<Batch>())?.cast()))
    }

    /// The counters.
    pub fn counters(&self) -> &Batch {
        // SAFETY: mapped for ever, and any bytes are a Batch: all fields are integers.
        unsafe { &*self.0 }
    }

    /// One slot. Only while the other process does not use it: between batches, or in the native process within one.
    #[allow(clippy::mut_from_ref, reason = "shared memory: the two processes take turns")]
    pub fn slot(&self, index: usize) -> &mut Slot {
        assert!(index < BATCH);
        // SAFETY: mapped for ever; the processes take turns, as documented.
        unsafe { &mut (*self.0).slots[index] }
    }

    /// Puts a case into a slot.
    pub fn load(&self, index: usize, case: &Case) {
        let code = case.code();
        let slot = self.slot(index);
        slot.machine = case.machine;
        slot.compatibility = u32::from(case.compatibility);
        slot.pool_offset = case.pool_offset as u32;
        slot.code_length = code.len() as u32;
        slot.code[..code.len()].copy_from_slice(&code);
        slot.outcome.vector = Outcome::NONE;
    }

    /// Waits until `word` is no longer `value`, or a tenth of a second has passed.
    pub fn wait(word: &AtomicU32, value: u32) {
        let timeout = libc::timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        if word.load(Ordering::Acquire) == value {
            // SAFETY: FUTEX_WAIT on a mapped word.
            unsafe {
                libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value, &raw const timeout)
            };
        }
    }

    /// Sets `word` and wakes who waits for it.
    pub fn signal(word: &AtomicU32, value: u32) {
        word.store(value, Ordering::Release);
        // SAFETY: FUTEX_WAKE on a mapped word.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
    }
}
