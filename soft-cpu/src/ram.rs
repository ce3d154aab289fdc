//! Guest RAM as the processor reaches it: a few regions of this process's memory.
#![allow(unsafe_code)] // reads and writes of guest RAM through raw pointers

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
}

impl Ram {
    /// RAM of these regions, ascending.
    ///
    /// # Safety
    /// Each region must be mapped readable and writable at `host` for `size` bytes for as long as the value and any
    /// processor made with it live, and while the processor runs nobody else may write there.
    pub unsafe fn new(regions: Vec<RamRegion>) -> Self {
        Self { regions }
    }

    /// Where guest physical address `gpa` lies in this process, if it is RAM.
    #[inline]
    pub(crate) fn host(&self, gpa: u64) -> Option<u64> {
        self.regions.iter().find(|r| gpa.wrapping_sub(r.start) < r.size).map(|r| r.host + (gpa - r.start))
    }
}
