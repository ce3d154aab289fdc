//! Segment descriptors in the GDT and LDT (Intel SDM vol. 3, 3.4.5 and 3.5; AMD APM vol. 2, 4.7 and 4.8).

use scribe_types::cpu::Segment;

use crate::cpu::{ATTR_DB, ATTR_L, ATTR_P, ATTR_UNUSABLE, Cpu, Done, EFER_LMA, LDTR, Trap, vector};

/// A descriptor as it lies in memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Descriptor {
    /// the first eight bytes
    pub raw: u64,
    /// bits 63 to 32 of the base, of the 16-byte descriptors of long mode
    pub high: u32,
    /// linear address
    at: u64,
}

/// Types of system descriptors.
pub(super) mod system {
    pub(in crate::system) const TSS_16: u8 = 1;
    pub(in crate::system) const LDT: u8 = 2;
    pub(in crate::system) const TSS_16_BUSY: u8 = 3;
    pub(in crate::system) const CALL_GATE_16: u8 = 4;
    pub(in crate::system) const TASK_GATE: u8 = 5;
    pub(in crate::system) const INTERRUPT_GATE_16: u8 = 6;
    pub(in crate::system) const TRAP_GATE_16: u8 = 7;
    /// the only TSS type of long mode, too
    pub(in crate::system) const TSS: u8 = 9;
    pub(in crate::system) const TSS_BUSY: u8 = 11;
    pub(in crate::system) const CALL_GATE: u8 = 12;
    pub(in crate::system) const INTERRUPT_GATE: u8 = 14;
    pub(in crate::system) const TRAP_GATE: u8 = 15;
}

impl Descriptor {
    /// A gate of the IDT.
    pub(super) fn gate(raw: u64, second: u64) -> Self {
        Self { raw, high: second as u32, at: 0 }
    }

    /// Type, bits 40 to 43.
    pub(super) fn kind(&self) -> u8 {
        (self.raw >> 40) as u8 & 15
    }

    pub(super) fn is_system(&self) -> bool {
        self.raw >> 44 & 1 == 0
    }

    pub(super) fn is_code(&self) -> bool {
        !self.is_system() && self.kind() & 8 != 0
    }

    pub(super) fn is_conforming(&self) -> bool {
        self.is_code() && self.kind() & 4 != 0
    }

    pub(super) fn is_writable_data(&self) -> bool {
        !self.is_system() && self.kind() & 10 == 2
    }

    /// Data or code that may be read.
    pub(super) fn is_readable(&self) -> bool {
        !self.is_system() && self.kind() & 10 != 8
    }

    pub(super) fn dpl(&self) -> u8 {
        (self.raw >> 45) as u8 & 3
    }

    pub(super) fn is_present(&self) -> bool {
        self.attributes() & ATTR_P != 0
    }

    /// L of a code segment.
    pub(super) fn is_long(&self) -> bool {
        self.attributes() & ATTR_L != 0
    }

    /// D or B.
    pub(super) fn is_big(&self) -> bool {
        self.attributes() & ATTR_DB != 0
    }

    /// Bits 40 to 55 without those of the limit.
    pub(super) fn attributes(&self) -> u32 {
        (self.raw >> 40) as u32 & 0xf0ff
    }

    /// Limit in bytes.
    pub(super) fn limit(&self) -> u32 {
        let limit = (self.raw & 0xffff | self.raw >> 32 & 0xf_0000) as u32;
        if self.raw >> 55 & 1 != 0 { limit << 12 | 0xfff } else { limit }
    }

    fn base(&self) -> u64 {
        self.raw >> 16 & 0xff_ffff | self.raw >> 32 & 0xff00_0000 | u64::from(self.high) << 32
    }

    /// The segment register that this descriptor is loaded into. G is as virtual machine monitors see it on AMD
    /// processors: set when the limit needs it.
    pub(super) fn segment(&self, selector: u16) -> Segment {
        let limit = self.limit();
        let granular = u32::from(limit > 0xf_ffff) << 15;
        Segment { base: self.base(), limit, selector, attributes: self.attributes() & 0x7fff | granular }
    }

    /// Of gates: the selector.
    pub(super) fn gate_selector(&self) -> u16 {
        (self.raw >> 16) as u16
    }

    /// Of gates: the offset.
    pub(super) fn gate_offset(&self) -> u64 {
        self.raw & 0xffff | self.raw >> 32 & 0xffff_0000 | u64::from(self.high) << 32
    }
}

/// True for a selector that names no descriptor.
pub(super) fn is_null(selector: u16) -> bool {
    selector & 0xfffc == 0
}

/// A null segment register at privilege `cpl` (which counts for SS).
pub(super) fn null_segment(selector: u16, cpl: u8) -> Segment {
    Segment { base: 0, limit: 0, selector, attributes: ATTR_UNUSABLE | u32::from(cpl) << 5 }
}

/// Error code for a selector; `ext` is 1 when an event outside the program is being delivered.
pub(super) fn selector_code(selector: u16, ext: u32) -> u32 {
    u32::from(selector & 0xfffc) | ext
}

impl Cpu {
    pub(super) fn in_long_mode(&self) -> bool {
        self.efer & EFER_LMA != 0
    }

    /// The descriptor that a selector names, if it is within its table.
    pub(super) fn find_descriptor(&mut self, selector: u16) -> Result<Option<Descriptor>, Trap> {
        let offset = u64::from(selector & 0xfff8);
        let (base, limit) = if selector & 4 != 0 {
            let ldt = &self.segs[LDTR];
            if ldt.attributes & ATTR_UNUSABLE != 0 || ldt.attributes & ATTR_P == 0 {
                return Ok(None);
            }
            (ldt.base, u64::from(ldt.limit))
        } else {
            (self.gdt.base, u64::from(self.gdt.limit))
        };
        if offset + 7 > limit {
            return Ok(None);
        }
        let at = base.wrapping_add(offset);
        let raw = self.load_system(at)?;
        Ok(Some(Descriptor { raw, high: 0, at }))
    }

    /// The descriptor that a selector names; beyond its table it is `vector`(selector).
    pub(super) fn descriptor(&mut self, selector: u16, vector: u8, ext: u32) -> Result<Descriptor, Trap> {
        match self.find_descriptor(selector)? {
            Some(descriptor) => Ok(descriptor),
            None => Err(self.raise_code(vector, selector_code(selector, ext))),
        }
    }

    /// Reads the second half of a system descriptor of long mode; `vector`(selector) if the table ends before it.
    pub(super) fn extend(
        &mut self,
        descriptor: &mut Descriptor,
        selector: u16,
        vector: u8,
        ext: u32,
    ) -> Done {
        let (base, limit) = if selector & 4 != 0 {
            (self.segs[LDTR].base, u64::from(self.segs[LDTR].limit))
        } else {
            (self.gdt.base, u64::from(self.gdt.limit))
        };
        let second: Option<u64> = if descriptor.at.wrapping_sub(base) + 15 <= limit {
            Some(self.load_system(descriptor.at.wrapping_add(8))?)
        } else {
            None
        };
        // Bits 8 to 12 of the upper half are a type that must be 0, so that no other selector names it.
        match second {
            Some(second) if second >> 40 & 0x1f == 0 => {
                descriptor.high = second as u32;
                Ok(())
            }
            _ => Err(self.raise_code(vector, selector_code(selector, ext))),
        }
    }

    /// Sets the accessed bit in memory and in `descriptor`.
    pub(super) fn mark_accessed(&mut self, descriptor: &mut Descriptor) -> Done {
        if descriptor.raw >> 40 & 1 == 0 {
            descriptor.raw |= 1 << 40;
            self.store_system::<u8>(descriptor.at.wrapping_add(5), (descriptor.raw >> 40) as u8)?;
        }
        Ok(())
    }

    /// Sets (LTR) the busy bit of a TSS descriptor in memory and in `descriptor`.
    pub(super) fn mark_busy(&mut self, descriptor: &mut Descriptor) -> Done {
        descriptor.raw |= 1 << 41;
        self.store_system::<u8>(descriptor.at.wrapping_add(5), (descriptor.raw >> 40) as u8)
    }

    /// The descriptor of a stack segment for privilege `cpl`, marked as accessed. `fault`: what a wrong one raises, #GP or
    /// #TS; one that is not present is #SS.
    pub(super) fn stack_descriptor(
        &mut self,
        selector: u16,
        cpl: u8,
        fault: u8,
        ext: u32,
    ) -> Result<Segment, Trap> {
        if is_null(selector) {
            return Err(self.raise_code(fault, ext));
        }
        let mut descriptor = self.descriptor(selector, fault, ext)?;
        let code = selector_code(selector, ext);
        if selector as u8 & 3 != cpl || descriptor.dpl() != cpl || !descriptor.is_writable_data() {
            return Err(self.raise_code(fault, code));
        }
        if !descriptor.is_present() {
            return Err(self.raise_code(vector::SS, code));
        }
        self.mark_accessed(&mut descriptor)?;
        Ok(descriptor.segment(selector))
    }

    /// The descriptor of a code segment's target: what it must be for an address in it, apart from privileges. Its
    /// accessed bit is set.
    pub(super) fn finish_code(&mut self, descriptor: &mut Descriptor, selector: u16, ext: u32) -> Done {
        let code = selector_code(selector, ext);
        if self.in_long_mode() && descriptor.is_long() && descriptor.is_big() {
            return Err(self.raise_code(vector::GP, code));
        }
        if !descriptor.is_present() {
            return Err(self.raise_code(vector::NP, code));
        }
        self.mark_accessed(descriptor)
    }

    /// #GP unless `rip` lies within the code segment.
    pub(super) fn check_entry(&mut self, code: &Segment, rip: u64, ext: u32) -> Done {
        let fine = if self.in_long_mode() && code.attributes & ATTR_L != 0 {
            crate::mmu::is_canonical(rip)
        } else {
            rip <= u64::from(code.limit)
        };
        if fine { Ok(()) } else { Err(self.raise_code(vector::GP, ext)) }
    }
}
