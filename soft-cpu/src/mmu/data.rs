//! Loads and stores that no TLB entry serves: misses, page crossings, devices, code pages, the processor's own accesses.

use super::walk::{Translation, is_canonical};
use super::{Access, Mmu};
use crate::cpu::{Cpu, Done, Trap, vector};
use crate::ram::{CODE, Page, WRITTEN};
use crate::word::Word;

/// The most bytes of one access (FXSAVE goes by 8).
const LARGEST: usize = 16;

/// A part of an access that lies on one page.
#[derive(Debug, Clone, Copy)]
struct Part {
    gpa: u64,
    /// its bytes within the access
    start: usize,
    end: usize,
    page: Option<Page>,
}

impl Mmu {
    /// True if a store to `page` must wait until the running instruction runs alone.
    pub(super) fn is_running(&self, page: Page) -> bool {
        self.running.contains(&page.index)
    }

    /// True if stores to the page need no more attention.
    pub(super) fn is_quiet(&self, page: Page) -> bool {
        let flags = self.ram.flags(page);
        flags & CODE == 0 && (!self.tracking || flags & WRITTEN != 0)
    }
}

impl Cpu {
    #[cold]
    #[inline(never)]
    pub(super) fn load_slow<W: Word>(&mut self, linear: u64) -> Result<W, Trap> {
        let mut bytes = [0; 8];
        self.read_bytes(linear, &mut bytes[..W::BYTES as usize])?;
        Ok(W::cut(u64::from_le_bytes(bytes)))
    }

    #[cold]
    #[inline(never)]
    pub(super) fn store_slow<W: Word>(&mut self, linear: u64, value: W) -> Done {
        self.write_bytes(linear, &value.wide().to_le_bytes()[..W::BYTES as usize])
    }

    #[cold]
    #[inline(never)]
    pub(super) fn load_for_update_slow<W: Word>(&mut self, linear: u64) -> Result<W, Trap> {
        self.check_update(linear, W::BYTES)?;
        self.load_slow(linear)
    }

    /// Before the load of a read-modify-write: what its store would fault on.
    pub(crate) fn check_update(&mut self, linear: u64, bytes: u64) -> Done {
        if self.profile.behaviour != crate::Behaviour::Tcg {
            self.check_writable(linear, bytes)?;
        }
        Ok(())
    }

    /// Faults as a store of `bytes` to `linear` would.
    pub(crate) fn check_writable(&mut self, linear: u64, bytes: u64) -> Done {
        if bytes <= 8 {
            self.check_alignment(linear, bytes as usize)?;
        }
        self.parts(linear, bytes as usize, Access::Write, false).map(|_| ())
    }

    /// Loads up to 16 bytes at the current privilege.
    pub(crate) fn read_bytes(&mut self, linear: u64, bytes: &mut [u8]) -> Done {
        self.check_alignment(linear, bytes.len())?;
        let (parts, count) = self.parts(linear, bytes.len(), Access::Read, false)?;
        self.watch(linear, bytes.len(), false);
        for part in &parts[..count] {
            self.read_part(*part, bytes)?;
        }
        Ok(())
    }

    /// Stores up to 16 bytes at the current privilege: all or, with a fault, nothing.
    pub(crate) fn write_bytes(&mut self, linear: u64, bytes: &[u8]) -> Done {
        self.check_alignment(linear, bytes.len())?;
        let (parts, count) = self.parts(linear, bytes.len(), Access::Write, false)?;
        self.watch(linear, bytes.len(), true);
        for part in &parts[..count] {
            self.write_part(*part, bytes)?;
        }
        Ok(())
    }

    /// Loads a word as the processor does for itself (descriptor tables, TSS): at CPL 0, alignment and breakpoints apart.
    pub(crate) fn load_system<W: Word>(&mut self, linear: u64) -> Result<W, Trap> {
        let mut bytes = [0; 8];
        let size = W::BYTES as usize;
        let (parts, count) = self.parts(linear, size, Access::Read, true)?;
        for part in &parts[..count] {
            self.read_part(*part, &mut bytes[..size])?;
        }
        Ok(W::cut(u64::from_le_bytes(bytes)))
    }

    /// Stores a word likewise.
    pub(crate) fn store_system<W: Word>(&mut self, linear: u64, value: W) -> Done {
        let size = W::BYTES as usize;
        let (parts, count) = self.parts(linear, size, Access::Write, true)?;
        for part in &parts[..count] {
            self.write_part(*part, &value.wide().to_le_bytes()[..size])?;
        }
        Ok(())
    }

    /// Translates an access of at most 16 bytes, part by part.
    fn parts(
        &mut self,
        linear: u64,
        size: usize,
        access: Access,
        implicit: bool,
    ) -> Result<([Part; 2], usize), Trap> {
        debug_assert!(size <= LARGEST);
        let first = size.min(4096 - (linear & 0xfff) as usize);
        let one = self.part(linear, 0, first, access, implicit)?;
        if first == size {
            return Ok(([one, one], 1));
        }
        let two = self.part(linear.wrapping_add(first as u64), first, size, access, implicit)?;
        Ok(([one, two], 2))
    }

    fn part(
        &mut self,
        linear: u64,
        start: usize,
        end: usize,
        access: Access,
        implicit: bool,
    ) -> Result<Part, Trap> {
        let linear = if self.mmu.context.long { linear } else { linear & 0xffff_ffff };
        let write = access == Access::Write;
        let cached = !implicit && self.mmu.kind() != super::Kind::Slow;
        let held = if cached { self.mmu.held(linear) } else { None };
        let (gpa, page) = match held {
            Some((page, writable)) if writable || !write => {
                (self.mmu.ram.frame(page.index) << 12 | linear & 0xfff, Some(page))
            }
            _ => {
                let Translation { gpa, writable } = self.translate(linear, access, implicit)?;
                let page = self.mmu.ram.page(gpa);
                if let Some(page) = page
                    && cached
                {
                    self.mmu.enter(linear, page, writable);
                }
                (gpa, page)
            }
        };
        if let Some(page) = page {
            if write {
                if self.mmu.is_running(page) {
                    return Err(Trap::Alone);
                }
                *self.mmu.ram.flags_mut(page) |= WRITTEN;
            }
            if cached {
                self.mmu.let_through(linear, page);
            }
        }
        Ok(Part { gpa, start, end, page })
    }

    fn read_part(&mut self, part: Part, bytes: &mut [u8]) -> Done {
        let bytes = &mut bytes[part.start..part.end];
        if let Some(page) = part.page {
            self.mmu.ram.read(page, part.gpa, bytes);
            return Ok(());
        }
        let mut gpa = part.gpa;
        for chunk in bytes.chunks_mut(8) {
            let value = self.mmio_read(gpa, chunk.len() as u8)?;
            chunk.copy_from_slice(&value.to_le_bytes()[..chunk.len()]);
            gpa += 8;
        }
        Ok(())
    }

    fn write_part(&mut self, part: Part, bytes: &[u8]) -> Done {
        let bytes = &bytes[part.start..part.end];
        if let Some(page) = part.page {
            self.mmu.ram.write(page, part.gpa, bytes);
            self.mmu.note_write(page, part.gpa, bytes.len() as u64);
            return Ok(());
        }
        let mut gpa = part.gpa;
        for chunk in bytes.chunks(8) {
            let mut value = [0; 8];
            value[..chunk.len()].copy_from_slice(chunk);
            self.mmio_write(gpa, chunk.len() as u8, u64::from_le_bytes(value))?;
            gpa += 8;
        }
        Ok(())
    }

    /// #GP(0) (or #SS(0), see the run loop) for a linear address that is not canonical.
    pub(crate) fn check_canonical(&mut self, linear: u64) -> Done {
        if self.mmu.context.long && !is_canonical(linear) {
            return Err(self.not_canonical(linear));
        }
        Ok(())
    }

    /// #AC where alignment is checked (Intel SDM vol. 3, 7.15, "Interrupt 17").
    ///
    /// It comes before page faults, and behind the check for canonical addresses.
    pub(crate) fn check_alignment(&mut self, linear: u64, size: usize) -> Done {
        let misaligned = size.is_power_of_two() && linear & (size as u64 - 1) != 0;
        if self.mmu.context.aligned && misaligned && (!self.mmu.context.long || is_canonical(linear)) {
            return Err(self.raise_code(vector::AC, 0));
        }
        Ok(())
    }

    /// Notes which data breakpoints an access meets (Intel SDM vol. 3, 19.2.4).
    fn watch(&mut self, linear: u64, size: usize, write: bool) {
        if !self.mmu.is_watching() {
            return;
        }
        // R/W 1: stores; 3: loads and stores
        self.note_breakpoints(linear, size as u64, |kind| kind == 3 || (kind == 1 && write));
    }
}
