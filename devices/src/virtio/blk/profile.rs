//! What a block device can do: one type for each set of features that some platform has.
//!
//! A type and not a field, so that the version of the saved state says which it was: a state of one profile is never
//! restored into a device of another. What a profile offers is frozen with the first platform that has it.

use std::fmt::Debug;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_WRITE_ZEROES,
};

use super::{BLOCK_SIZE, BlkState, SEG_MAX};

/// Most sectors of one range of a DISCARD or WRITE_ZEROES request: 256 MiB.
pub(super) const MAX_RANGE_SECTORS: u32 = 1 << 19;
/// Most ranges of such a request.
pub(super) const MAX_RANGES: u32 = 16;
/// Alignment of ranges that the disk likes, in sectors: an overlay's cluster.
const DISCARD_ALIGNMENT: u32 = 8;
/// Features of every block device.
const COMMON: u64 = 1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_BLK_SIZE | 1 << VIRTIO_BLK_F_FLUSH;

/// A set of features. The read-only feature is not part of it: it belongs to the disk.
pub trait Profile: Debug + Default {
    /// Version of the state of a device with this profile.
    const VERSION: u16;
    /// Feature bits.
    const FEATURES: u64;

    /// The configuration space, `struct virtio_blk_config` (section 5.2.4), of a disk.
    fn config(state: &BlkState) -> Vec<u8>;
}

/// The disk of `scribe-pc-1`: reads, writes, flushes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Basic;

/// Everything but what needs state beyond a request: DISCARD and WRITE_ZEROES too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Full;

impl Profile for Basic {
    const VERSION: u16 = 1;
    const FEATURES: u64 = COMMON;

    /// capacity, seg_max and blk_size; the other fields are 0.
    fn config(state: &BlkState) -> Vec<u8> {
        let mut config = vec![0; 24];
        config[..8].copy_from_slice(&state.sectors.to_le_bytes());
        config[12..16].copy_from_slice(&SEG_MAX.to_le_bytes());
        config[20..].copy_from_slice(&BLOCK_SIZE.to_le_bytes());
        config
    }
}

impl Profile for Full {
    const VERSION: u16 = 2;
    const FEATURES: u64 = COMMON | 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES;

    /// As [`Basic`], and from offset 36 on what DISCARD and WRITE_ZEROES may ask for.
    fn config(state: &BlkState) -> Vec<u8> {
        let mut config = Basic::config(state);
        config.resize(36, 0);
        for field in [MAX_RANGE_SECTORS, MAX_RANGES, DISCARD_ALIGNMENT, MAX_RANGE_SECTORS, MAX_RANGES] {
            config.extend(field.to_le_bytes());
        }
        // write_zeroes_may_unmap: zeros are never stored where a hole will do.
        config.extend([1, 0, 0, 0]);
        config
    }
}
