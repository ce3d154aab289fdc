//! TLB entries and the fast paths of loads and stores.
//!
//! What an entry holds for the guest is its linear page, the page of RAM, and whether it may be written with D set. The
//! fast tag of stores is the host's: it comes and goes with what the host wants to know, and the guest sees nothing of it.
#![allow(unsafe_code)] // RAM through TLB entries

use super::{ENTRIES, Mmu};
use crate::cpu::{Cpu, Done, Trap};
use crate::ram::{self, Page};
use crate::word::Word;

/// Matches no page: tags are multiples of 4096.
pub(super) const NO_TAG: u64 = u64::MAX;

/// One linear page in RAM.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// linear page that may be read
    pub read: u64,
    /// the same page if it may be written without further ado: it is writable and nobody wants to know of stores
    pub write: u64,
    /// address in this process less linear address
    delta: u64,
    /// number of the page of RAM, shifted left by one; bit 0: it may be written, and D is set
    page: u64,
}

impl Entry {
    pub(super) const NONE: Self = Self { read: NO_TAG, write: NO_TAG, delta: 0, page: u64::MAX };

    fn new(tag: u64, page: Page, writable: bool) -> Self {
        Self {
            read: tag,
            write: NO_TAG,
            delta: page.host().wrapping_sub(tag),
            page: (page.index as u64) << 1 | u64::from(writable),
        }
    }

    /// Number of the page of RAM; of no page where there is no entry.
    pub(super) fn index(&self) -> usize {
        (self.page >> 1) as usize
    }

    pub(super) fn is_writable(&self) -> bool {
        self.page & 1 != 0
    }
}

impl Mmu {
    #[inline(always)]
    fn entry(&self, linear: u64) -> &Entry {
        &self.data[(self.base + ((linear >> 12) as usize & (ENTRIES - 1))) & (4 * ENTRIES - 1)]
    }

    /// The page of RAM that the TLB holds for a linear address, and whether it may be written.
    pub(super) fn held(&self, linear: u64) -> Option<(Page, bool)> {
        let entry = self.entry(linear);
        if entry.read != linear & !0xfff {
            return None;
        }
        Some((self.ram.numbered(entry.index())?, entry.is_writable()))
    }

    /// Enters a page of RAM for accesses of the current kind.
    pub(super) fn enter(&mut self, linear: u64, page: Page, writable: bool) {
        self.enter_at(self.base, linear, page, writable);
    }

    /// Enters a page of RAM among the entries from `base` on.
    pub(super) fn enter_at(&mut self, base: usize, linear: u64, page: Page, writable: bool) {
        let slot = base + ((linear >> 12) as usize & (ENTRIES - 1));
        self.data[slot & (4 * ENTRIES - 1)] = Entry::new(linear & !0xfff, page, writable);
    }

    /// From now on stores to the page that is held for `linear` take the fast path, if nobody wants to know of them.
    pub(super) fn let_through(&mut self, linear: u64, page: Page) {
        let quiet = self.is_quiet(page);
        let slot = self.base + ((linear >> 12) as usize & (ENTRIES - 1));
        let entry = &mut self.data[slot & (4 * ENTRIES - 1)];
        if quiet && entry.is_writable() && entry.read == linear & !0xfff {
            entry.write = entry.read;
        }
    }
}

#[inline(always)]
fn on_one_page<W: Word>(linear: u64) -> bool {
    linear & 0xfff <= 4096 - W::BYTES
}

impl Cpu {
    /// Loads from a linear address at the current privilege.
    #[inline(always)]
    pub(crate) fn load<W: Word>(&mut self, linear: u64) -> Result<W, Trap> {
        let entry = self.mmu.entry(linear);
        if entry.read == linear & !0xfff && on_one_page::<W>(linear) {
            // SAFETY: an entry with this tag was made by `Entry::new` for a page of RAM, and the word is all on it.
            return Ok(unsafe { ram::read_word(linear.wrapping_add(entry.delta)) });
        }
        self.load_slow(linear)
    }

    /// Stores to a linear address at the current privilege.
    #[inline(always)]
    pub(crate) fn store<W: Word>(&mut self, linear: u64, value: W) -> Done {
        let entry = self.mmu.entry(linear);
        if entry.write == linear & !0xfff && on_one_page::<W>(linear) {
            // SAFETY: as in `load`.
            unsafe { ram::write_word(linear.wrapping_add(entry.delta), value) };
            return Ok(());
        }
        self.store_slow(linear, value)
    }

    /// Loads what the same instruction will store to: a page fault says that it was a write, as on processors.
    #[inline(always)]
    pub(crate) fn load_for_update<W: Word>(&mut self, linear: u64) -> Result<W, Trap> {
        let entry = self.mmu.entry(linear);
        if entry.write == linear & !0xfff && on_one_page::<W>(linear) {
            // SAFETY: as in `load`; a writable page is readable.
            return Ok(unsafe { ram::read_word(linear.wrapping_add(entry.delta)) });
        }
        self.load_for_update_slow(linear)
    }
}

/// Whole stretches of RAM at once, for REP MOVS and REP STOS. Each gives the bytes that were done, at most up to the end of
/// a page, or 0 where the fast path does not apply.
impl Cpu {
    /// Copies upwards; stretches that overlap are left to the slow path, whose order of bytes matters.
    pub(crate) fn copy_stretch(&mut self, from: u64, to: u64, bytes: u64) -> u64 {
        let (source, target) = (*self.mmu.entry(from), *self.mmu.entry(to));
        if source.read != from & !0xfff || target.write != to & !0xfff {
            return 0;
        }
        let count = bytes.min(4096 - (from & 0xfff)).min(4096 - (to & 0xfff));
        let (a, b) = (from.wrapping_add(source.delta), to.wrapping_add(target.delta));
        if a.abs_diff(b) < count {
            return 0;
        }
        // SAFETY: as in `load`; the stretches are on one page each and do not overlap.
        unsafe { ram::copy(a, b, count as usize) };
        count
    }

    /// Stores `value` again and again.
    pub(crate) fn fill_stretch<W: Word>(&mut self, to: u64, value: W, bytes: u64) -> u64 {
        let target = *self.mmu.entry(to);
        let count = bytes.min(4096 - (to & 0xfff)) & !(W::BYTES - 1);
        if target.write != to & !0xfff {
            return 0;
        }
        let host = to.wrapping_add(target.delta);
        for offset in (0..count).step_by(W::BYTES as usize) {
            // SAFETY: as in `load`; the stretch is on one page.
            unsafe { ram::write_word(host + offset, value) };
        }
        count
    }
}
