//! Guest RAM: where it lies, and which pages the machine itself has written.

use vm_memory::bitmap::AtomicBitmap;
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MemoryRegionAddress,
    MmapRegion,
};

use super::platform;

/// Bytes of a page; guest frame numbers count these.
pub const PAGE_SIZE: u64 = 4096;

/// The memory type that devices and the loader see.
pub type Memory = GuestMemoryMmap<AtomicBitmap>;

/// Why guest RAM could not be made or reached.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The size is unusable.
    #[error("{0} bytes of guest memory cannot be had: {1}")]
    Size(u64, &'static str),
    /// The host gave no memory.
    #[error("mapping {0} bytes of guest memory: {1}")]
    Map(u64, String),
    /// An address outside RAM.
    #[error("guest memory at {0:#x}: {1}")]
    Access(u64, vm_memory::GuestMemoryError),
}

/// One contiguous piece of guest RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// guest physical address
    pub start: u64,
    /// bytes
    pub size: u64,
    /// where it is mapped in this process
    pub host: u64,
}

/// All of guest RAM. Clones share the memory.
#[derive(Debug, Clone)]
pub struct GuestRam {
    memory: Memory,
}

impl GuestRam {
    /// Zeroed RAM of `size` bytes: below the MMIO hole, the rest from 4 GiB up.
    ///
    /// # Errors
    /// A size that is not a multiple of the page size, too small for a guest, or that the host refuses.
    pub fn new(size: u64) -> Result<Self, MemoryError> {
        if !size.is_multiple_of(PAGE_SIZE) {
            return Err(MemoryError::Size(size, "it is not a multiple of 4096"));
        }
        if size < platform::MINIMUM_RAM {
            return Err(MemoryError::Size(size, "the least is 2 MiB"));
        }
        if size > platform::MAXIMUM_RAM {
            return Err(MemoryError::Size(size, "the most is 64 GiB"));
        }
        let low = size.min(platform::LOW_RAM_END);
        let mut ranges = vec![(GuestAddress(0), length(low)?)];
        if size > low {
            ranges.push((GuestAddress(platform::HIGH_RAM_START), length(size - low)?));
        }
        let memory = Memory::from_ranges(&ranges).map_err(|e| MemoryError::Map(size, e.to_string()))?;
        Ok(Self { memory })
    }

    /// What devices and the loader use.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The regions, ascending.
    pub fn regions(&self) -> impl Iterator<Item = Region> + '_ {
        self.memory.iter().map(|region| Region {
            start: region.start_addr().0,
            size: region.len(),
            host: region.get_host_address(MemoryRegionAddress(0)).map_or(0, |p| p as u64),
        })
    }

    /// Bytes of RAM in all.
    pub fn size(&self) -> u64 {
        self.regions().map(|region| region.size).sum()
    }

    /// True if guest frame `frame` is RAM.
    pub fn has_frame(&self, frame: u64) -> bool {
        frame.checked_mul(PAGE_SIZE).is_some_and(|at| self.memory.address_in_range(GuestAddress(at)))
    }

    /// Reads bytes at a guest physical address.
    ///
    /// # Errors
    /// The range is not all RAM.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), MemoryError> {
        self.memory.read_slice(bytes, GuestAddress(address)).map_err(|e| MemoryError::Access(address, e))
    }

    /// Writes bytes at a guest physical address.
    ///
    /// # Errors
    /// The range is not all RAM.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        self.memory.write_slice(bytes, GuestAddress(address)).map_err(|e| MemoryError::Access(address, e))
    }

    /// Guest frames that the machine (loader, devices, clock page) has written since the last call, ascending. KVM's
    /// dirty log does not see these writes.
    pub fn take_written_frames(&self) -> Vec<u64> {
        let mut frames = Vec::new();
        for region in self.memory.iter() {
            let first = region.start_addr().0 / PAGE_SIZE;
            for (word, bits) in (0u64..).zip(MmapRegion::bitmap(region).get_and_reset()) {
                frames.extend((0..64).filter(|bit| bits >> bit & 1 == 1).map(|bit| first + word * 64 + bit));
            }
        }
        frames
    }
}

fn length(bytes: u64) -> Result<usize, MemoryError> {
    usize::try_from(bytes).map_err(|_| MemoryError::Size(bytes, "this host's addresses are too small"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_frames_are_reported_once() {
        let ram = GuestRam::new(4 << 20).unwrap();
        ram.take_written_frames();
        ram.write(0x2ffe, &[1, 2, 3, 4]).unwrap();
        assert_eq!(ram.take_written_frames(), [2, 3]);
        assert!(ram.take_written_frames().is_empty());
    }

    #[test]
    fn sizes_are_checked() {
        assert!(GuestRam::new(4097).is_err());
        assert!(GuestRam::new(4096).is_err());
        assert!(GuestRam::new(u64::MAX - 4095).is_err());
        assert!(GuestRam::new(8 << 20).is_ok());
    }

    #[test]
    fn large_ram_leaves_the_hole_free() {
        let ram = GuestRam::new(platform::LOW_RAM_END + (64 << 20)).unwrap();
        let regions: Vec<_> = ram.regions().map(|r| (r.start, r.size)).collect();
        assert_eq!(regions, [(0, platform::LOW_RAM_END), (platform::HIGH_RAM_START, 64 << 20)]);
        assert!(!ram.has_frame(platform::MMIO_BASE / PAGE_SIZE));
        assert!(ram.has_frame(platform::HIGH_RAM_START / PAGE_SIZE));
        assert!(!ram.has_frame(u64::MAX));
    }
}
