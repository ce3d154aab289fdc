//! Page walks: 4-level, PAE and 32-bit paging (Intel SDM vol. 3, 5.3 to 5.6; AMD APM vol. 2, 5.2 to 5.6).

use super::{ENTRIES, Mmu, NO_PAGE};
use crate::cpu::{Cpu, Fault, Trap, vector};
use crate::ram::WRITTEN;

/// What a walk depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Context {
    pub paging: bool,
    pub long: bool,
    pub pae: bool,
    pub pse: bool,
    pub write_protect: bool,
    pub no_execute: bool,
    pub smep: bool,
    pub smap: bool,
    pub global: bool,
    pub root: u64,
    /// CPL 3
    pub user: bool,
    /// RFLAGS.AC
    pub access_user: bool,
    /// alignment is checked
    pub aligned: bool,
}

impl Context {
    /// True if translations made under one hold under the other.
    pub(super) fn same_translations(&self, other: &Self) -> bool {
        let normal = |c: &Self| Self { user: false, access_user: false, aligned: false, ..*c };
        normal(self) == normal(other)
    }
}

/// What an access is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    Execute,
}

/// Where a linear address leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Translation {
    pub gpa: u64,
    /// writes are allowed too, and D is set
    pub writable: bool,
}

const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NX: u64 = 1 << 63;
/// Physical address bits: 40 (CPUID leaf 0x8000_0008).
const ADDRESS: u64 = 0xff_ffff_f000;
/// Bits 40 to 51 of an entry.
const RESERVED: u64 = 0x000f_ff00_0000_0000;

/// Likewise of PAE's page-directory-pointer entries.
const POINTER_RESERVED: u64 = RESERVED | NX | 0x1e6;

const ERROR_PRESENT: u32 = 1;
const ERROR_WRITE: u32 = 2;
const ERROR_USER: u32 = 4;
const ERROR_RESERVED: u32 = 8;
const ERROR_FETCH: u32 = 16;

/// True for a linear address whose bits 63 to 47 are equal.
#[inline(always)]
pub(crate) fn is_canonical(linear: u64) -> bool {
    ((linear << 16).cast_signed() >> 16).cast_unsigned() == linear
}

impl Cpu {
    /// Translates for an access at the current privilege; `implicit`: by the processor itself, as at CPL 0.
    ///
    /// Sets A and D. A fault is in [`Cpu::fault`]; CR2 is set when it is delivered.
    pub(crate) fn translate(
        &mut self,
        linear: u64,
        access: Access,
        implicit: bool,
    ) -> Result<Translation, Trap> {
        let context = self.mmu.context;
        if !context.paging {
            return Ok(Translation { gpa: linear & 0xffff_ffff, writable: true });
        }
        if context.long && !is_canonical(linear) {
            return Err(self.not_canonical(linear));
        }
        let linear = if context.long { linear } else { linear & 0xffff_ffff };
        let walked = if context.long {
            self.mmu.walk(linear, access, implicit, 8, context.root & ADDRESS, 4)
        } else if context.pae {
            self.mmu.walk(linear, access, implicit, 8, context.root & 0xffff_ffe0, 3)
        } else {
            self.mmu.walk(linear, access, implicit, 4, context.root & 0xffff_f000, 2)
        };
        if std::mem::take(&mut self.mmu.tables_run) {
            return Err(Trap::Alone);
        }
        walked.map_err(|code| self.page_fault(linear, code))
    }

    #[cold]
    pub(super) fn not_canonical(&mut self, linear: u64) -> Trap {
        self.fault = Fault { vector: vector::GP, code: Some(0), address: linear, canonical: true };
        Trap::Fault
    }

    #[cold]
    fn page_fault(&mut self, linear: u64, code: u32) -> Trap {
        self.fault = Fault { vector: vector::PF, code: Some(code), address: linear, canonical: false };
        Trap::Fault
    }

    /// Guest physical address of the code at `linear`, if the TLB holds it.
    #[inline(always)]
    pub(crate) fn held_code(&self, linear: u64) -> Option<u64> {
        let slot = (linear >> 12) as usize & (ENTRIES - 1);
        let (tag, page) = self.mmu.code[usize::from(self.mmu.context.user)][slot];
        (tag == linear & !0xfff).then_some(page | linear & 0xfff)
    }

    /// Guest physical address of the page of code behind the one at `linear`.
    pub(crate) fn next_code_page(&mut self, linear: u64) -> Result<u64, Trap> {
        let next = (linear | 0xfff).wrapping_add(1);
        let next = if self.is_long() { next } else { next & 0xffff_ffff };
        match self.held_code(next) {
            Some(gpa) => Ok(gpa),
            None => self.walk_for_code(next),
        }
    }

    /// Guest physical address of the code at `linear`, by a walk. It may write over code: see
    /// [`Mmu::overwritten`](super::Mmu::overwritten).
    #[cold]
    pub(crate) fn walk_for_code(&mut self, linear: u64) -> Result<u64, Trap> {
        self.mmu.running = [NO_PAGE; 2]; // no block runs
        let gpa = self.translate(linear, Access::Execute, false)?.gpa;
        // What is not RAM ends the machine, and is not held.
        if self.mmu.ram.page(gpa).is_some() {
            self.mmu.enter_code(self.mmu.context.user, linear, gpa);
        }
        Ok(gpa)
    }
}

impl Mmu {
    /// Walks `levels` tables of entries of `bytes` (4 or 8) from `root`. An error is a page fault's error code.
    fn walk(
        &mut self,
        linear: u64,
        access: Access,
        implicit: bool,
        bytes: u64,
        root: u64,
        levels: u32,
    ) -> Result<Translation, u32> {
        let context = self.context;
        let user = context.user && !implicit;
        let mut code = 0;
        if access == Access::Write {
            code |= ERROR_WRITE;
        }
        if user {
            code |= ERROR_USER;
        }
        if access == Access::Execute && (context.smep || (context.no_execute && context.pae)) {
            code |= ERROR_FETCH;
        }
        let index_bits = if bytes == 8 { 9 } else { 10 };
        let mut table = root;
        let (mut writes, mut users, mut no_execute) = (true, true, false);
        for level in (0..levels).rev() {
            let shift = 12 + index_bits * level;
            // The page-directory-pointer table of PAE has four entries, whose other bits mean nothing.
            let pdpte = bytes == 8 && levels == 3 && level == 2;
            let index = linear >> shift & if pdpte { 3 } else { (1 << index_bits) - 1 };
            let at = table + index * bytes;
            let entry = self.entry_at(at, bytes);
            if entry & PRESENT == 0 {
                return Err(code);
            }
            let mut reserved = if bytes == 8 { RESERVED } else { 0 };
            if bytes == 8 && !context.no_execute {
                reserved |= NX;
            }
            let large = entry & LARGE != 0
                && match (bytes, level) {
                    (8, 1) => true,
                    (4, 1) => context.pse,
                    _ => false,
                };
            if levels == 4 && level >= 2 {
                reserved |= LARGE;
            }
            if pdpte {
                reserved = POINTER_RESERVED;
            }
            if large {
                reserved |= if bytes == 8 { 0x1f_e000 } else { 1 << 21 };
            }
            if entry & reserved != 0 {
                return Err(code | ERROR_PRESENT | ERROR_RESERVED);
            }
            if !pdpte {
                writes &= entry & WRITE != 0;
                users &= entry & USER != 0;
                no_execute |= bytes == 8 && entry & NX != 0;
            }
            if level > 0 && !large {
                if !pdpte {
                    self.set_bits(at, entry, ACCESSED);
                }
                table = if bytes == 8 { entry & ADDRESS } else { entry & 0xffff_f000 };
                continue;
            }
            let may_write = writes || (!user && !context.write_protect);
            let allowed = if user {
                users && (access != Access::Write || writes) && (access != Access::Execute || !no_execute)
            } else {
                let user_page_denied = users
                    && match access {
                        Access::Execute => context.smep,
                        _ => context.smap && (implicit || !context.access_user),
                    };
                !user_page_denied
                    && (access != Access::Write || may_write)
                    && (access != Access::Execute || !no_execute)
            };
            if !allowed {
                return Err(code | ERROR_PRESENT);
            }
            let marks = if access == Access::Write { ACCESSED | DIRTY } else { ACCESSED };
            self.set_bits(at, entry, marks);
            let offset = linear & ((1 << shift) - 1);
            let frame = match (large, bytes) {
                (false, 8) => entry & ADDRESS,
                (false, _) => entry & 0xffff_f000,
                (true, 8) => entry & ADDRESS & !0x1f_ffff,
                // PSE-36 with 40 physical address bits: bits 13 to 20 are bits 32 to 39 of the address.
                (true, _) => entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32,
            };
            let writable = access == Access::Write || (entry & DIRTY != 0 && may_write);
            return Ok(Translation { gpa: frame | offset, writable });
        }
        Err(code)
    }

    /// True if one of the four page-directory-pointer entries of PAE at `root` is present with reserved bits set.
    pub(crate) fn has_bad_pointers(&self, root: u64) -> bool {
        (0..4)
            .map(|n| self.entry_at((root & 0xffff_ffe0) + 8 * n, 8))
            .any(|entry| entry & PRESENT != 0 && entry & POINTER_RESERVED != 0)
    }

    /// Enters a page of code.
    pub(super) fn enter_code(&mut self, user: bool, linear: u64, gpa: u64) {
        let slot = (linear >> 12) as usize & (ENTRIES - 1);
        self.code[usize::from(user)][slot] = (linear & !0xfff, gpa & !0xfff);
    }

    /// A paging-structure entry; outside RAM there is none.
    fn entry_at(&self, gpa: u64, bytes: u64) -> u64 {
        let Some(page) = self.ram.page(gpa) else { return 0 };
        let mut entry = [0; 8];
        self.ram.read(page, gpa, &mut entry[..bytes as usize]);
        u64::from_le_bytes(entry)
    }

    /// Sets A or D in the entry at `gpa`. Both are in its first byte. Tables on a page that the running block comes from
    /// are code like any other: the instruction must run alone.
    fn set_bits(&mut self, gpa: u64, entry: u64, bits: u64) {
        if entry & bits == bits {
            return;
        }
        let Some(page) = self.ram.page(gpa) else { return };
        if self.is_running(page) {
            self.tables_run = true;
            return;
        }
        self.ram.write(page, gpa, &[((entry | bits) & 0xff) as u8]);
        self.note_write(page, gpa, 1);
    }

    /// RAM has been written there otherwise than through a TLB entry.
    pub(super) fn note_write(&mut self, page: crate::ram::Page, gpa: u64, bytes: u64) {
        let flags = self.ram.flags_mut(page);
        *flags |= WRITTEN;
        if *flags & crate::ram::CODE != 0 {
            match self.overwritten.last_mut() {
                // A string instruction's stores become one range.
                Some((start, length)) if *start + *length == gpa && gpa & 0xfff != 0 => *length += bytes,
                Some((start, length)) if gpa + bytes == *start && *start & 0xfff != 0 => {
                    *start = gpa;
                    *length += bytes;
                }
                _ => self.overwritten.push((gpa, bytes)),
            }
        }
    }
}
