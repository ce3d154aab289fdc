//! Segmentation: from an offset in a segment to a linear address.

use scribe_types::cpu::Segment;

use crate::cpu::{ATTR_DB, ATTR_S, ATTR_UNUSABLE, Cpu, FS, GS, SS, Trap, vector};

/// Descriptor type bit: code.
const CODE: u32 = 1 << 3;
/// Descriptor type bit of data: expand-down.
const DOWN: u32 = 1 << 2;
/// Descriptor type bit: data is writable, code is readable.
const ACCESSIBLE: u32 = 1 << 1;

impl Cpu {
    /// The linear address of `offset` (of the address size's width) in a segment, for an access of `bytes`.
    #[inline]
    pub(crate) fn linear_in(
        &mut self,
        seg: usize,
        offset: u64,
        bytes: u64,
        write: bool,
    ) -> Result<u64, Trap> {
        if self.is_long() {
            let base = if seg == FS || seg == GS { self.segs[seg].base } else { 0 };
            return Ok(base.wrapping_add(offset));
        }
        let segment = self.segs[seg];
        if !within(&segment, offset, bytes) || (self.mode.protected && !allows(&segment, write)) {
            let vector = if seg == SS { vector::SS } else { vector::GP };
            return Err(self.raise_code(vector, 0));
        }
        Ok(segment.base.wrapping_add(offset) & 0xffff_ffff)
    }
}

/// True if the segment's type allows the access in protected mode.
fn allows(segment: &Segment, write: bool) -> bool {
    let kind = segment.attributes;
    if kind & (ATTR_UNUSABLE | ATTR_S) != ATTR_S {
        return false;
    }
    match (kind & CODE != 0, write) {
        (true, true) => false,
        (true, false) | (false, true) => kind & ACCESSIBLE != 0,
        (false, false) => true,
    }
}

/// True if `bytes` at `offset` lie within the segment's limit: an access does not wrap around at 4 GiB.
pub(super) fn within(segment: &Segment, offset: u64, bytes: u64) -> bool {
    let limit = u64::from(segment.limit);
    let last = offset.wrapping_add(bytes.saturating_sub(1));
    let data = segment.attributes & (ATTR_S | CODE) == ATTR_S;
    if data && segment.attributes & DOWN != 0 {
        let top = if segment.attributes & ATTR_DB != 0 { 0xffff_ffff } else { 0xffff };
        return offset > limit && last <= top;
    }
    last <= limit
}
