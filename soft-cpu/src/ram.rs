//! Guest RAM as the processor reaches it: a few regions of this process's memory, and what is known of each page.
#![allow(unsafe_code)] // reads and writes of guest RAM through raw pointers

use crate::word::Word;

/// One contiguous piece of guest RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RamRegion {
    /// guest physical address, a multiple of 4096
    pub start: u64,
    /// bytes, a multiple of 4096
    pub size: u64,
    /// address in this process
    pub host: u64,
}

/// All of guest RAM. Made once for a processor.
#[derive(Debug)]
pub struct Ram {
    regions: Vec<RamRegion>,
    /// page flags of all regions, one behind the other
    flags: Vec<u8>,
}

/// The page has been written since the flag was cleared.
pub(crate) const WRITTEN: u8 = 1;
/// Blocks have been decoded from the page.
pub(crate) const CODE: u8 = 2;

/// Where a page of RAM lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Page {
    /// address in this process
    host: u64,
    /// number among all pages of RAM
    pub index: usize,
}

impl Ram {
    /// RAM of these regions, ascending.
    ///
    /// # Safety
    /// Each region must be mapped readable and writable at `host` for `size` bytes for as long as the value and any
    /// processor made with it live, and while the processor runs nobody else may write there.
    pub unsafe fn new(regions: Vec<RamRegion>) -> Self {
        let pages: u64 = regions.iter().map(|region| region.size / 4096).sum();
        Self { regions, flags: vec![0; usize::try_from(pages).unwrap_or(0)] }
    }

    /// The page that holds guest physical address `gpa`, if it is RAM.
    #[inline]
    pub(crate) fn page(&self, gpa: u64) -> Option<Page> {
        let mut before = 0;
        for region in &self.regions {
            let offset = (gpa & !0xfff).wrapping_sub(region.start);
            if offset < region.size {
                let index = usize::try_from(before + offset / 4096).ok()?;
                return Some(Page { host: region.host + offset, index });
            }
            before += region.size / 4096;
        }
        None
    }

    /// Page `index`, if there are so many.
    pub(crate) fn numbered(&self, index: usize) -> Option<Page> {
        let mut rest = index as u64;
        for region in &self.regions {
            let pages = region.size / 4096;
            if rest < pages {
                return Some(Page { host: region.host + 4096 * rest, index });
            }
            rest -= pages;
        }
        None
    }

    /// Guest frame number of page `index`.
    pub(crate) fn frame(&self, index: usize) -> u64 {
        let mut rest = index as u64;
        for region in &self.regions {
            let pages = region.size / 4096;
            if rest < pages {
                return region.start / 4096 + rest;
            }
            rest -= pages;
        }
        u64::MAX
    }

    #[inline(always)]
    pub(crate) fn flags(&self, page: Page) -> u8 {
        self.flags[page.index]
    }

    #[inline(always)]
    pub(crate) fn flags_mut(&mut self, page: Page) -> &mut u8 {
        &mut self.flags[page.index]
    }

    /// Indices of the pages with `flag`, which is cleared.
    pub(crate) fn take(&mut self, flag: u8) -> Vec<usize> {
        let mut found = Vec::new();
        for (index, flags) in self.flags.iter_mut().enumerate() {
            if *flags & flag != 0 {
                *flags &= !flag;
                found.push(index);
            }
        }
        found
    }

    /// Copies bytes out of a page; `offset + bytes.len()` must not exceed 4096.
    pub(crate) fn read(&self, page: Page, offset: u64, bytes: &mut [u8]) {
        let offset = (offset & 0xfff) as usize;
        let count = bytes.len().min(4096 - offset);
        // SAFETY: a Page is made by `page` only and so lies in a region, which `new`'s caller vouches for; offset + count
        // is at most 4096. The two do not overlap: guest RAM is never borrowed as a slice.
        unsafe {
            std::ptr::copy_nonoverlapping(
                (page.host as usize + offset) as *const u8,
                bytes.as_mut_ptr(),
                count,
            );
        }
    }

    /// Copies bytes into a page; `offset + bytes.len()` must not exceed 4096.
    pub(crate) fn write(&mut self, page: Page, offset: u64, bytes: &[u8]) {
        let offset = (offset & 0xfff) as usize;
        let count = bytes.len().min(4096 - offset);
        // SAFETY: as in `read`.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), (page.host as usize + offset) as *mut u8, count);
        }
    }
}

impl Page {
    /// Where the page lies in this process, for a TLB entry.
    pub(crate) fn host(self) -> u64 {
        self.host
    }
}

/// Reads a word through a TLB entry.
///
/// # Safety
/// `host` must be an address inside a page of RAM, with the whole word on that page.
#[inline(always)]
pub(crate) unsafe fn read_word<W: Word>(host: u64) -> W {
    // SAFETY: the caller's; any bit pattern is a word.
    unsafe { (host as usize as *const W).read_unaligned() }
}

/// Writes a word through a TLB entry.
///
/// # Safety
/// As for [`read_word`].
#[inline(always)]
pub(crate) unsafe fn write_word<W: Word>(host: u64, value: W) {
    // SAFETY: the caller's.
    unsafe { (host as usize as *mut W).write_unaligned(value) }
}

/// Copies between two stretches of RAM.
///
/// # Safety
/// Both must lie inside pages of RAM, and must not overlap.
pub(crate) unsafe fn copy(from: u64, to: u64, bytes: usize) {
    // SAFETY: the caller's.
    unsafe { std::ptr::copy_nonoverlapping(from as usize as *const u8, to as usize as *mut u8, bytes) }
}
