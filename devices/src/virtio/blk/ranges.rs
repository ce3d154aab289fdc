//! DISCARD and WRITE_ZEROES (section 5.2.6): ranges of sectors that become zeros.
//!
//! A discarded range could hold anything; here it holds zeros, so that what the guest reads back is a function of what
//! it did.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use vm_memory::GuestMemory;

use super::profile::{MAX_RANGE_SECTORS, MAX_RANGES, Profile};
use super::{Blk, BlockBackend, BlockOperation, Outcome};
use crate::virtio::Fault;
use crate::virtio::queue::Chain;

/// Bytes of `struct virtio_blk_discard_write_zeroes`: sector, number of sectors, flags.
const RANGE_SIZE: usize = 16;

/// What is to be done with the ranges of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zeroing {
    Discard,
    WriteZeroes,
}

impl Zeroing {
    /// The kind of a request, if it is one of these and the driver has negotiated it.
    pub(super) fn of(request: u32, features: u64) -> Option<Self> {
        let negotiated = |bit: u32| features & 1 << bit != 0;
        match request {
            VIRTIO_BLK_T_DISCARD if negotiated(virtio_bindings::virtio_blk::VIRTIO_BLK_F_DISCARD) => {
                Some(Zeroing::Discard)
            }
            VIRTIO_BLK_T_WRITE_ZEROES
                if negotiated(virtio_bindings::virtio_blk::VIRTIO_BLK_F_WRITE_ZEROES) =>
            {
                Some(Zeroing::WriteZeroes)
            }
            _ => None,
        }
    }

    /// Flags that a range may have: a zeroed one may be unmapped, a discarded one is anyway.
    fn known_flags(self) -> u32 {
        match self {
            Zeroing::Discard => 0,
            Zeroing::WriteZeroes => VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
        }
    }
}

impl<P: Profile> Blk<P> {
    /// Zeroes the ranges of a request: all of them, or none if one of them makes no sense.
    pub(super) fn zero<M: GuestMemory>(
        &mut self,
        chain: &mut Chain,
        zeroing: Zeroing,
        mem: &M,
        backend: &mut dyn BlockBackend,
    ) -> Result<Outcome, Fault> {
        let left = chain.readable.left();
        let size = RANGE_SIZE as u64;
        if self.state.read_only || !left.is_multiple_of(size) || left == 0 || left / size > MAX_RANGES.into()
        {
            return Ok(Outcome::Failed);
        }
        let mut ranges = Vec::new();
        while chain.readable.left() > 0 {
            let mut bytes = [0; RANGE_SIZE];
            chain.readable.read(mem, &mut bytes)?;
            let [sector @ .., c0, c1, c2, c3, f0, f1, f2, f3] = bytes;
            let sector = u64::from_le_bytes(sector);
            let count = u32::from_le_bytes([c0, c1, c2, c3]);
            if u32::from_le_bytes([f0, f1, f2, f3]) & !zeroing.known_flags() != 0 {
                return Ok(Outcome::Unsupported);
            }
            ranges.push((sector, count));
        }
        let bytes = |count: u32| u64::from(count) * super::SECTOR_SIZE as u64;
        let is_good = |&(sector, count): &(u64, u32)| {
            count <= MAX_RANGE_SECTORS && self.in_range(sector, bytes(count), backend)
        };
        if !ranges.iter().all(is_good) {
            return Ok(Outcome::Failed);
        }
        for (sector, count) in ranges.into_iter().filter(|(_, count)| *count > 0) {
            if !self.ask(BlockOperation::Zero, sector, || backend.zero_at(sector, count.into())) {
                return Ok(Outcome::Failed);
            }
        }
        Ok(Outcome::Done(0))
    }
}
