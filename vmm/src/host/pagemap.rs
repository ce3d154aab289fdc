//! Which pages of an anonymous mapping the host has ever had to back: the others are zero.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Pages of a mapping, by index.
#[derive(Debug)]
pub struct Touched(Option<Vec<u64>>);

impl Touched {
    /// True if page `index` may hold something other than zeros.
    pub fn contains(&self, index: u64) -> bool {
        /// Bit 63: present; bit 62: swapped out (Documentation/admin-guide/mm/pagemap.rst).
        const PRESENT_OR_SWAPPED: u64 = 3 << 62;
        let Some(entries) = &self.0 else { return true };
        let entry = usize::try_from(index).ok().and_then(|index| entries.get(index));
        entry.is_none_or(|entry| entry & PRESENT_OR_SWAPPED != 0)
    }
}

/// Reads /proc/self/pagemap for `size` bytes at host address `start`, both page-aligned. Where that cannot be read,
/// every page counts as touched.
pub fn touched(start: u64, size: u64) -> Touched {
    let read = || -> std::io::Result<Vec<u64>> {
        let mut bytes = vec![0; usize::try_from(size / 4096 * 8).map_err(std::io::Error::other)?];
        File::open("/proc/self/pagemap")?.read_exact_at(&mut bytes, start / 4096 * 8)?;
        Ok(bytes.as_chunks::<8>().0.iter().map(|entry| u64::from_le_bytes(*entry)).collect())
    };
    Touched(read().ok())
}
