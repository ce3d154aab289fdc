//! What the TLB holds, to be kept and put back. It is architectural: a guest that changes its tables and does not say so
//! goes on with what is held.

use serde::{Deserialize, Serialize};

use super::{ENTRIES, Mmu};
use crate::StateError;
use crate::ram::Page;

/// Kinds of data accesses that have entries; see [`Kind`](super::Kind).
const KINDS: usize = 3;

/// A page that data is read from and perhaps written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Data {
    /// linear address, in pages
    linear: u64,
    /// guest frame number
    frame: u64,
    /// it may be written, and D is set
    writable: bool,
}

/// A page that code is fetched from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Code {
    /// linear address, in pages
    linear: u64,
    /// guest frame number
    frame: u64,
}

/// All entries of the TLB, in the order of their slots. Equal TLBs have equal lists.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct SavedTlb {
    /// of the user; of others where the user's pages are within reach; of others where they are not
    data: [Vec<Data>; KINDS],
    /// of others than the user; of the user
    code: [Vec<Code>; 2],
}

impl Mmu {
    pub(crate) fn save_tlb(&self) -> SavedTlb {
        let mut saved = SavedTlb::default();
        for (list, entries) in saved.data.iter_mut().zip(self.data.chunks(ENTRIES)) {
            list.extend(entries.iter().filter_map(|entry| {
                let page = self.ram.numbered(entry.index())?;
                let frame = self.ram.frame(page.index);
                Some(Data { linear: entry.read >> 12, frame, writable: entry.is_writable() })
            }));
        }
        for (list, entries) in saved.code.iter_mut().zip(&self.code) {
            let held = entries.iter().filter(|(tag, _)| *tag != super::NO_TAG);
            list.extend(held.map(|(tag, gpa)| Code { linear: tag >> 12, frame: gpa >> 12 }));
        }
        saved
    }

    /// Whether a TLB can be put back here: each page is RAM, each entry has a slot of its own, in order.
    pub(crate) fn check_tlb(&self, saved: &SavedTlb) -> Result<(), StateError> {
        for list in &saved.data {
            self.check_entries(list.iter().map(|entry| (entry.linear, entry.frame)))?;
        }
        for list in &saved.code {
            self.check_entries(list.iter().map(|entry| (entry.linear, entry.frame)))?;
        }
        Ok(())
    }

    fn check_entries(&self, entries: impl Iterator<Item = (u64, u64)>) -> Result<(), StateError> {
        let mut last = None;
        for (linear, frame) in entries {
            if linear >> 52 != 0 {
                return Err(StateError(format!("TLB: linear page {linear:#x} is beyond 64-bit addresses")));
            }
            if self.framed(frame).is_none() {
                return Err(StateError(format!("TLB: frame {frame:#x} is not in this machine's RAM")));
            }
            let slot = slot(linear);
            if last.is_some_and(|last| slot <= last) {
                return Err(StateError(format!("TLB: the entry of linear page {linear:#x} is out of order")));
            }
            last = Some(slot);
        }
        Ok(())
    }

    /// Replaces what the TLB holds. Entries whose page is not RAM are left out: [`check_tlb`](Self::check_tlb) comes first.
    pub(crate) fn restore_tlb(&mut self, saved: &SavedTlb) {
        self.flush();
        for (kind, list) in saved.data.iter().enumerate() {
            for entry in list {
                if let Some(page) = self.framed(entry.frame) {
                    self.enter_at(ENTRIES * kind, entry.linear << 12, page, entry.writable);
                }
            }
        }
        for (user, list) in [false, true].into_iter().zip(&saved.code) {
            for entry in list {
                self.enter_code(user, entry.linear << 12, entry.frame << 12);
            }
        }
    }

    fn framed(&self, frame: u64) -> Option<Page> {
        self.ram.page(frame.checked_mul(4096)?)
    }
}

/// Where a linear page's entry is among those of its kind.
fn slot(linear: u64) -> usize {
    linear as usize & (ENTRIES - 1)
}
