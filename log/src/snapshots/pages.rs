//! How pages get from a machine into a snapshot and back.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;
/// The space of guest RAM, by guest frame number. A page that a snapshot does not hold is zero.
///
/// All other spaces are sparse: a page that a snapshot does not hold is not there (a cluster of a disk that the guest has
/// not written), and a page of zeros is a page like any other.
pub const RAM: u32 = 0;
/// Most pages of a snapshot, in all spaces: 128 GiB.
pub const MAX_PAGES: u64 = 1 << 25;
/// Page numbers are below this.
pub const PAGE_NUMBERS: u64 = 1 << 40;

// Frozen: snapshots exist.
const _: () = assert!(PAGE_BYTES == 4096 && RAM == 0);
const _: () = assert!(MAX_PAGES == 33_554_432 && PAGE_NUMBERS == 1_099_511_627_776);

/// What a source calls with each run of its pages: number of the first, and their bytes, a multiple of [`PAGE_BYTES`].
pub type Visit<'a> = dyn FnMut(u64, &[u8]) -> io::Result<()> + 'a;

/// Where the pages of a new snapshot come from.
///
/// The bytes are only looked at during the call of `visit`, so a source may hand out its memory as it lies, or fill and
/// reuse a buffer of its own; runs of 64 KiB to 1 MiB are good.
pub trait PageSource {
    /// The spaces it has pages in, ascending.
    fn spaces(&self) -> Vec<u32>;

    /// Calls `visit` with all pages of `space`, their numbers ascending, pages of zeros included: the container leaves
    /// them out where that means the same. An error of `visit` is to be passed on.
    ///
    /// # Errors
    /// The pages cannot be read.
    fn pages(&mut self, space: u32, visit: &mut Visit<'_>) -> io::Result<()>;
}

/// Where the pages of a snapshot go.
pub trait PageSink {
    /// Called once and first, with what is coming: the time to refuse it, and to clear or drop the pages that are not in
    /// it.
    ///
    /// # Errors
    /// A page is outside of what the sink has.
    fn begin(&mut self, pages: &PageMap) -> io::Result<()>;

    /// Takes a run of pages: number of the first, and their bytes, a multiple of [`PAGE_BYTES`]. Runs come in any order,
    /// each page once.
    ///
    /// # Errors
    /// They cannot be stored.
    fn write(&mut self, space: u32, first_page: u64, bytes: &[u8]) -> io::Result<()>;
}

/// Which pages a snapshot holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageMap {
    spaces: BTreeMap<u32, Vec<Range<u64>>>,
}

impl PageMap {
    /// The spaces with at least one page, ascending.
    pub fn spaces(&self) -> impl Iterator<Item = u32> + '_ {
        self.spaces.keys().copied()
    }

    /// The pages held of `space`: ascending ranges of page numbers that do not touch each other.
    pub fn runs(&self, space: u32) -> &[Range<u64>] {
        self.spaces.get(&space).map_or(&[], Vec::as_slice)
    }

    /// Number of pages held, in all spaces.
    pub fn pages(&self) -> u64 {
        self.spaces.values().flatten().map(|run| run.end - run.start).sum()
    }

    /// Adds pages behind all those of the space so far.
    pub(super) fn push(&mut self, space: u32, run: Range<u64>) {
        let runs = self.spaces.entry(space).or_default();
        match runs.last_mut() {
            Some(last) if last.end == run.start => last.end = run.end,
            _ => runs.push(run),
        }
    }
}
