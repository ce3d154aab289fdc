//! Segments and their descriptors (Intel SDM vol. 3, chapter 3 and 6).
use crate::cpu::{ATTR_UNUSABLE, CR0_PE, CS, Cpu, Done, EFER_LMA, FS, GS, LDTR, SS, Trap, vector};
use scribe_types::cpu::Segment;

/// A descriptor of 8 bytes as it is in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Descriptor(pub u64, pub u64);

impl Descriptor {
    pub(crate) fn attributes(self) -> u32 {
        (self.0 >> 40 & 0xf0ff) as u32
    }
    pub(crate) fn base(self) -> u64 {
        self.0 >> 16 & 0xff_ffff | self.0 >> 32 & 0xff00_0000
    }
    pub(crate) fn limit(self) -> u32 {
        let limit = (self.0 & 0xffff | self.0 >> 32 & 0xf_0000) as u32;
        if self.attributes() & 1 << 15 != 0 { limit << 12 | 0xfff } else { limit }
    }
    pub(crate) fn segment(self, selector: u16) -> Segment {
        Segment { base: self.base(), limit: self.limit(), selector, attributes: self.attributes() }
    }
}

impl Cpu {
    pub(crate) fn efer_lma(&self) -> bool {
        self.efer & EFER_LMA != 0
    }

    /// The linear address of `offset` (of the address size's width) in a segment, for an access of `bytes`.
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
        let s = self.segs[seg];
        let fault = if seg == SS { vector::SS } else { vector::GP };
        if self.mode.protected {
            let code = s.attributes & 8 != 0;
            let readable = !code || s.attributes & 2 != 0;
            let writable = !code && s.attributes & 2 != 0;
            if s.attributes & ATTR_UNUSABLE != 0 || (write && !writable) || (!write && !readable) {
                return Err(self.raise_code(fault, 0));
            }
        }
        let last = offset.wrapping_add(bytes - 1);
        let down = s.attributes & 0xc == 4;
        let inside = if down {
            let top = if s.attributes & 1 << 14 != 0 { 0xffff_ffff } else { 0xffff };
            offset > u64::from(s.limit) && last <= top
        } else {
            last <= u64::from(s.limit)
        };
        if !inside {
            return Err(self.raise_code(fault, 0));
        }
        Ok(s.base.wrapping_add(offset) & 0xffff_ffff)
    }

    /// Linear address of a selector's descriptor; `fault` with the selector if it is beyond its table.
    fn descriptor_address(&mut self, selector: u16, fault: u8) -> Result<u64, Trap> {
        let offset = u64::from(selector & !7);
        let (base, limit) = if selector & 4 != 0 {
            let ldt = self.segs[LDTR];
            if ldt.attributes & ATTR_UNUSABLE != 0 {
                return Err(self.raise_code(fault, u32::from(selector & !3)));
            }
            (ldt.base, u64::from(ldt.limit))
        } else {
            (self.gdt.base, u64::from(self.gdt.limit))
        };
        if offset + 7 > limit {
            return Err(self.raise_code(fault, u32::from(selector & !3)));
        }
        Ok(base.wrapping_add(offset))
    }

    pub(crate) fn descriptor(&mut self, selector: u16, fault: u8) -> Result<Descriptor, Trap> {
        let at = self.descriptor_address(selector, fault)?;
        Ok(Descriptor(self.load_system(at)?, 0))
    }

    pub(crate) fn system_descriptor(&mut self, selector: u16, fault: u8) -> Result<Descriptor, Trap> {
        let at = self.descriptor_address(selector, fault)?;
        let low = self.load_system(at)?;
        let high = if self.efer_lma() { self.load_system(at.wrapping_add(8))? } else { 0 };
        Ok(Descriptor(low, high))
    }

    /// Sets a type bit in a descriptor in memory: accessed, or busy.
    pub(crate) fn mark_descriptor(&mut self, selector: u16, descriptor: &Descriptor, bit: u64) -> Done {
        if descriptor.0 & bit == 0 {
            let at = self.descriptor_address(selector, vector::GP)?;
            self.store_system(at.wrapping_add(4), ((descriptor.0 | bit) >> 32) as u32)?;
        }
        Ok(())
    }

    /// Loads CS; the caller has checked, and updates the mode.
    pub(crate) fn load_code(&mut self, selector: u16, descriptor: &Descriptor) -> Done {
        self.mark_descriptor(selector, descriptor, 1 << 40)?;
        self.segs[CS] = Descriptor(descriptor.0 | 1 << 40, 0).segment(selector);
        Ok(())
    }

    /// SS as an interrupt or call to an inner level of 64-bit code leaves it.
    pub(crate) fn load_null_ss(&mut self, cpl: u8) {
        self.segs[SS] = Segment {
            base: 0,
            limit: 0,
            selector: u16::from(cpl),
            attributes: ATTR_UNUSABLE | u32::from(cpl) << 5,
        };
    }

    /// Loads ES, SS, DS, FS or GS.
    pub(crate) fn load_segment(&mut self, seg: usize, selector: u16) -> Done {
        if self.cr0 & CR0_PE == 0 || !self.mode.protected {
            self.segs[seg].selector = selector;
            self.segs[seg].base = u64::from(selector) << 4;
            self.update_mode();
            return Ok(());
        }
        let cpl = self.mode.cpl;
        let rpl = (selector & 3) as u8;
        let error = u32::from(selector & !3);
        if selector & !3 == 0 {
            if seg == SS {
                if !self.is_long() || cpl == 3 || rpl != cpl {
                    return Err(self.general_protection());
                }
                self.load_null_ss(cpl);
                self.segs[SS].selector = selector;
            } else {
                let base = self.segs[seg].base;
                self.segs[seg] = Segment {
                    base: if seg == FS || seg == GS { base } else { 0 },
                    limit: 0,
                    selector,
                    attributes: ATTR_UNUSABLE,
                };
                if self.profile.behaviour == crate::Behaviour::Tcg || !self.efer_lma() {
                    self.segs[seg].base = 0;
                }
            }
            self.update_mode();
            return Ok(());
        }
        let descriptor = self.descriptor(selector, vector::GP)?;
        let attributes = descriptor.attributes();
        let dpl = (attributes >> 5 & 3) as u8;
        let code = attributes & 8 != 0;
        let bad = if seg == SS {
            rpl != cpl || dpl != cpl || attributes & 0x1a != 0x12
        } else {
            attributes & 0x10 == 0
                || (code && attributes & 2 == 0)
                || (!(code && attributes & 4 != 0) && (rpl > dpl || cpl > dpl))
        };
        if bad {
            return Err(self.raise_code(vector::GP, error));
        }
        if attributes & 0x80 == 0 {
            return Err(self.raise_code(if seg == SS { vector::SS } else { vector::NP }, error));
        }
        self.mark_descriptor(selector, &descriptor, 1 << 40)?;
        self.segs[seg] = Descriptor(descriptor.0 | 1 << 40, 0).segment(selector);
        self.update_mode();
        Ok(())
    }
}
