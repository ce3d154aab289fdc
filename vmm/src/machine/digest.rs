//! Digests of guest state: engine-neutral, version 1 (docs/determinism.md).
//!
//! The *rolling* digest covers every exit (what was accessed, what was written or read), the registers at every sync
//! point and, with a counter, the branches before it. The *full* digest covers the CPU's whole state, all of RAM and the devices. In RAM bits 5 and 6 of every
//! 8-byte word are masked: where the word is a page-table entry they are A and D, which depend on TLB history.

use std::collections::BTreeMap;

use serde::Serialize;
use twox_hash::XxHash3_64;
use twox_hash::XxHash3_128;

use super::memory::{GuestRam, PAGE_SIZE};
use crate::engine::cpu::{CpuState, Registers};
use crate::engine::{Answer, Exit, Progress};

/// The version of all of this, in recordings.
pub const VERSION: u32 = 1;

const PAGE_WORDS: usize = 512;
/// Page-table A and D.
pub(super) const ACCESSED_DIRTY: u64 = 0b110_0000;

/// Digest of all exits and of the registers at all sync points so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rolling(u64);

impl Rolling {
    /// A digest that had come to `value`.
    pub fn restored(value: u64) -> Self {
        Self(value)
    }

    /// The digest so far.
    pub fn value(self) -> u64 {
        self.0
    }

    fn mix<const N: usize>(&mut self, words: [u64; N]) {
        let mut bytes = [[0; 8]; N];
        for (to, from) in bytes.iter_mut().zip(words) {
            *to = from.to_le_bytes();
        }
        self.0 = XxHash3_64::oneshot_with_seed(self.0, bytes.as_flattened());
    }

    /// Adds an exit and the answer to it.
    pub fn exit(&mut self, exit: &Exit, answer: Answer) {
        let (kind, address, size, written) = match *exit {
            Exit::PortRead { port, size } => (0, u64::from(port), size, 0),
            Exit::PortWrite { port, size, value } => (1, u64::from(port), size, u64::from(value)),
            Exit::MmioRead { address, size } => (2, address, size, 0),
            Exit::MmioWrite { address, size, value } => (3, address, size, value),
            Exit::Halt => (4, 0, 0, 0),
            Exit::MsrRead { index } => (5, u64::from(index), 8, 0),
            Exit::MsrWrite { index, value } => (6, u64::from(index), 8, value),
        };
        let read = match answer {
            Answer::Value(value) => value,
            Answer::Done => 0,
            Answer::GeneralProtection => u64::MAX,
        };
        self.mix([kind | u64::from(size) << 8, address, written, read]);
    }

    /// Adds what a device has sent to the outside.
    pub fn output(&mut self, slot: u8, bytes: &[u8]) {
        self.mix([0xff | u64::from(slot) << 8, bytes.len() as u64]);
        self.0 = XxHash3_64::oneshot_with_seed(self.0, bytes);
    }

    /// Adds how many branches lie between an exit and the one before, where they are counted.
    pub fn branches(&mut self, progress: Progress) {
        self.mix([progress.branches]);
    }

    /// Adds the place of a counted sync point.
    pub fn counted(&mut self, progress: Progress) {
        self.mix([progress.branches, progress.steps]);
    }

    /// Adds what a captured sync point is besides its registers: interrupts taken, nanoseconds passed, digest of the CPU.
    pub fn captured(&mut self, interrupts: u8, nanoseconds: u64, cpu: u64) {
        const KIND: u64 = 7; // behind those of exits
        self.mix([KIND | u64::from(interrupts) << 8, nanoseconds, cpu]);
    }

    /// Adds the registers at a sync point.
    pub fn registers(&mut self, registers: &Registers) {
        self.mix(registers.words());
    }
}

/// Digest of any state that serialises (devices, CPU), by its canonical encoding.
///
/// # Errors
/// The state cannot be encoded.
pub fn of_state<T: Serialize>(state: &T) -> Result<u64, postcard::Error> {
    Ok(XxHash3_64::oneshot(&postcard::to_stdvec(state)?))
}

/// Digest of the CPU's whole state, and whether it is halted.
///
/// Without MXCSR, which version 1 does not cover, and without RFLAGS.RF, which engines may leave set or clear.
///
/// # Errors
/// The state cannot be encoded.
pub fn of_cpu(mut state: CpuState, halted: bool) -> Result<u64, postcard::Error> {
    state.fpu.mxcsr = 0;
    state.registers.rflags &= !Registers::RF;
    of_state(&(state, halted))
}

/// Digest of RAM, kept up to date page by page.
#[derive(Debug, Default)]
pub struct RamDigest {
    /// one contribution a guest frame, in the order of the regions; 0 for a zero page
    pages: Vec<u128>,
    sum: u128,
    /// bytes hashed so far, for the benchmarks
    hashed: u64,
    /// contributions before they changed, of the pages that have since [`take_changes`](Self::take_changes), if anybody asks
    before: Option<BTreeMap<u64, u128>>,
}

impl RamDigest {
    /// The digest as of the last [`full`](Self::full) or [`update`](Self::update).
    pub fn value(&self) -> u128 {
        self.sum
    }

    /// Bytes hashed since the start.
    pub fn bytes_hashed(&self) -> u64 {
        self.hashed
    }

    /// True once [`full`](Self::full) has run.
    pub fn is_started(&self) -> bool {
        !self.pages.is_empty()
    }

    /// From now on changes are kept for [`take_changes`](Self::take_changes).
    pub fn watch(&mut self) {
        self.before.get_or_insert_default();
    }

    /// From now on they are not kept; those that were are forgotten.
    pub fn unwatch(&mut self) {
        self.before = None;
    }

    /// Frame number and [hash](Self::hash) of each page that is not what it was at the last call, frames ascending. As of
    /// the last [`update`](Self::update); empty unless [watched](Self::watch).
    pub fn take_changes(&mut self, ram: &GuestRam) -> Vec<(u64, u64)> {
        let before = self.before.as_mut().map(std::mem::take).unwrap_or_default();
        let now = |frame| self.contribution(ram, frame);
        let changed = before.into_iter().filter_map(|(frame, old)| Some((frame, old, now(frame)?)));
        changed.filter(|(_, old, new)| old != new).map(|(frame, _, new)| (frame, short(new))).collect()
    }

    /// Hash of one page: the low half of what it adds to the digest, so 0 for a page of zeros. `None` outside RAM.
    pub fn hash(&self, ram: &GuestRam, frame: u64) -> Option<u64> {
        self.contribution(ram, frame).map(short)
    }

    fn contribution(&self, ram: &GuestRam, frame: u64) -> Option<u128> {
        self.pages.get(index_of(ram, frame)?).copied()
    }

    /// Hashes all of RAM. Pages that the host has never had to back are zero and are skipped.
    pub fn full(&mut self, ram: &GuestRam) {
        let frames: u64 = ram.size() / PAGE_SIZE;
        self.pages = vec![0; usize::try_from(frames).unwrap_or(0)];
        self.sum = 0;
        for region in ram.regions() {
            let first = region.start / PAGE_SIZE;
            let touched = crate::host::pagemap::touched(region.host, region.size);
            for frame in first..first + region.size / PAGE_SIZE {
                if touched.contains(frame - first) {
                    self.page(ram, frame);
                }
            }
        }
    }

    /// Hashes the given guest frames again; frames outside RAM are ignored.
    pub fn update(&mut self, ram: &GuestRam, frames: impl IntoIterator<Item = u64>) {
        for frame in frames {
            self.page(ram, frame);
        }
    }

    fn page(&mut self, ram: &GuestRam, frame: u64) {
        let mut bytes = [0; PAGE_WORDS * 8];
        if ram.read(frame * PAGE_SIZE, &mut bytes).is_err() {
            return;
        }
        let mut any = 0;
        for chunk in bytes.as_chunks_mut::<8>().0 {
            let word = u64::from_le_bytes(*chunk) & !ACCESSED_DIRTY;
            any |= word;
            *chunk = word.to_le_bytes();
        }
        self.hashed += PAGE_SIZE;
        let new = if any == 0 { 0 } else { XxHash3_128::oneshot_with_seed(frame, &bytes) };
        let Some(index) = index_of(ram, frame) else { return };
        let Some(slot) = self.pages.get_mut(index) else {
            return;
        };
        self.sum = self.sum.wrapping_sub(*slot).wrapping_add(new);
        if let (Some(before), true) = (&mut self.before, *slot != new) {
            before.entry(frame).or_insert(*slot);
        }
        *slot = new;
    }
}

fn short(contribution: u128) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = contribution.to_le_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// Position of a guest frame among all frames of RAM.
fn index_of(ram: &GuestRam, frame: u64) -> Option<usize> {
    let mut before = 0;
    for region in ram.regions() {
        let (first, count) = (region.start / PAGE_SIZE, region.size / PAGE_SIZE);
        if (first..first + count).contains(&frame) {
            return usize::try_from(before + (frame - first)).ok();
        }
        before += count;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incremental_equals_full_and_accessed_dirty_bits_do_not_count() {
        let ram = GuestRam::new(4 << 20).unwrap();
        ram.write(0x5000, b"something").unwrap();
        let mut digest = RamDigest::default();
        digest.full(&ram);
        let first = digest.value();
        assert_ne!(first, 0);
        ram.write(0x9008, &0x1060_u64.to_le_bytes()).unwrap();
        ram.write(0x5000, b"nothing!!").unwrap();
        digest.update(&ram, [5, 9]);
        let mut again = RamDigest::default();
        again.full(&ram);
        assert_eq!(digest.value(), again.value());
        assert_ne!(digest.value(), first);
        ram.write(0x9008, &0x1000_u64.to_le_bytes()).unwrap();
        again.full(&ram);
        assert_eq!(digest.value(), again.value());
        ram.write(0x9008, &0x1010_u64.to_le_bytes()).unwrap();
        again.full(&ram);
        assert_ne!(digest.value(), again.value());
    }

    #[test]
    fn changes_are_pages_that_are_not_what_they_were() {
        let ram = GuestRam::new(4 << 20).unwrap();
        ram.write(0x5000, b"something").unwrap();
        let mut digest = RamDigest::default();
        digest.full(&ram);
        digest.watch();
        ram.write(0x5000, b"else").unwrap();
        ram.write(0x7000, b"there").unwrap();
        ram.write(0x9000, &0x60_u64.to_le_bytes()).unwrap();
        digest.update(&ram, [5, 7, 9, 1 << 40]);
        ram.write(0x7000, &[0; 5]).unwrap();
        digest.update(&ram, [7]);
        let changes = digest.take_changes(&ram);
        assert_eq!(
            changes,
            [(5, digest.hash(&ram, 5).unwrap())],
            "7 is as before, of 9 only A and D changed"
        );
        assert_eq!(digest.take_changes(&ram), []);
        assert_eq!((digest.hash(&ram, 9), digest.hash(&ram, u64::MAX)), (Some(0), None));
    }

    #[test]
    fn the_same_bytes_elsewhere_are_another_digest() {
        let digest = |address| {
            let ram = GuestRam::new(4 << 20).unwrap();
            ram.write(address, b"x").unwrap();
            let mut digest = RamDigest::default();
            digest.full(&ram);
            digest.value()
        };
        assert_ne!(digest(0x1000), digest(0x2000));
    }

    #[test]
    fn the_digest_of_a_cpu_leaves_out_mxcsr_and_rf() {
        let state = CpuState::default();
        let mut other = state.clone();
        other.fpu.mxcsr = 0x1f80;
        other.registers.rflags = Registers::RF;
        assert_eq!(of_cpu(state.clone(), false).unwrap(), of_cpu(other.clone(), false).unwrap());
        other.fpu.fcw = 1;
        assert_ne!(of_cpu(state, false).unwrap(), of_cpu(other, false).unwrap());
    }

    #[test]
    fn exits_and_registers_roll() {
        let mut a = Rolling::default();
        let mut b = Rolling::default();
        a.exit(&Exit::PortRead { port: 0x20, size: 1 }, Answer::Value(1));
        b.exit(&Exit::PortRead { port: 0x20, size: 1 }, Answer::Value(2));
        assert_ne!(a, b);
        let mut c = a;
        a.registers(&Registers { rflags: 1 << 16 | 2, ..Default::default() });
        c.registers(&Registers { rflags: 2, ..Default::default() });
        assert_eq!(a, c, "RF is masked");
    }
}
