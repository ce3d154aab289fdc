//! Segments.
use crate::cpu::{Cpu, FS, GS, Trap};

impl Cpu {
    /// The linear address of `offset` (of the address size's width) in a segment, for an access of `bytes`.
    pub(crate) fn linear_in(
        &mut self,
        seg: usize,
        offset: u64,
        _bytes: u64,
        _write: bool,
    ) -> Result<u64, Trap> {
        if self.is_long() {
            let base = if seg == FS || seg == GS { self.segs[seg].base } else { 0 };
            return Ok(base.wrapping_add(offset));
        }
        Ok(self.segs[seg].base.wrapping_add(offset) & 0xffff_ffff)
    }
}
