//! The register stack, and how instructions begin and end.

use super::extended::INDEFINITE;
use super::round::{BEFORE, C1, EXCEPTIONS, IE, Outcome, Rules, SF};
use crate::cpu::{CR0_EM, CR0_MP, CR0_TS, Cpu, Done, vector};

/// Condition codes C0, C2 and C3.
pub(crate) const C0: u16 = 1 << 8;
pub(crate) const C2: u16 = 1 << 10;
pub(crate) const C3: u16 = 1 << 14;
/// Exception summary, and "busy", which says the same.
pub(crate) const SUMMARY: u16 = 1 << 7 | 1 << 15;
/// TOP.
pub(crate) const TOP: u16 = 7 << 11;
/// What FLDCW takes of its operand; bit 6 always reads 1.
const CONTROL: u16 = 0x1f3f;
/// A stack fault's flags.
pub(crate) const UNDERFLOW: u16 = IE | SF;
pub(crate) const OVERFLOW: u16 = IE | SF | C1;

impl Cpu {
    /// What every x87 instruction but WAIT looks at first.
    #[inline]
    pub(crate) fn x87_available(&mut self) -> Done {
        if self.cr0 & (CR0_EM | CR0_TS) != 0 {
            return Err(self.raise(vector::NM));
        }
        Ok(())
    }

    /// What every instruction that waits looks at first: an exception that an earlier one has left. It is #MF whatever
    /// CR0.NE says: there is no external interrupt logic for it.
    #[inline]
    pub(crate) fn x87_ready(&mut self) -> Done {
        self.x87_available()?;
        self.x87_pending()
    }

    #[inline]
    pub(crate) fn x87_pending(&mut self) -> Done {
        if self.fpu.fsw & SUMMARY != 0 {
            return Err(self.raise(vector::MF));
        }
        Ok(())
    }

    pub(super) fn wait(&mut self) -> Done {
        if self.cr0 & CR0_MP != 0 && self.cr0 & CR0_TS != 0 {
            return Err(self.raise(vector::NM));
        }
        self.x87_pending()
    }

    pub(super) fn rules(&self) -> Rules {
        Rules::new(self.fpu.fcw)
    }

    fn physical(&self, n: u8) -> usize {
        (self.fpu.top() + usize::from(n)) & 7
    }

    /// ST(n), if it is not empty.
    #[inline]
    pub(super) fn st(&self, n: u8) -> Option<u128> {
        let physical = self.physical(n);
        (self.fpu.ftw >> physical & 1 != 0).then_some(self.fpu.regs[physical])
    }

    /// Sets ST(n).
    #[inline]
    pub(super) fn set_st(&mut self, n: u8, bits: u128) {
        let physical = self.physical(n);
        self.fpu.regs[physical] = bits;
        self.fpu.ftw |= 1 << physical;
    }

    pub(super) fn free(&mut self, n: u8) {
        self.fpu.ftw &= !(1 << self.physical(n));
    }

    pub(super) fn move_top(&mut self, by: u16) {
        let top = (self.fpu.fsw >> 11).wrapping_add(by) & 7;
        self.fpu.fsw = self.fpu.fsw & !TOP | top << 11;
    }

    pub(super) fn pop(&mut self, times: u8) {
        for _ in 0..times {
            self.free(0);
            self.move_top(1);
        }
    }

    /// True if there is no place for a push.
    pub(super) fn is_full(&self) -> bool {
        self.st(7).is_some()
    }

    /// Pushes; the place must be empty or may be lost.
    pub(super) fn push_st(&mut self, bits: u128) {
        self.move_top(7);
        self.set_st(0, bits);
    }

    /// Sets C1, and adds exceptions to those that the status word has.
    #[inline]
    pub(super) fn report(&mut self, flags: u16) {
        self.fpu.fsw = self.fpu.fsw & !C1 | flags;
        if flags & EXCEPTIONS & !self.fpu.fcw != 0 {
            self.fpu.fsw |= SUMMARY;
        }
    }

    /// As [`report`](Self::report), and sets C0, C2 and C3.
    pub(super) fn report_codes(&mut self, codes: u16, flags: u16) {
        self.fpu.fsw &= !(C0 | C2 | C3);
        self.report(codes | flags);
    }

    /// Derives the exception summary from flags and masks.
    pub(crate) fn summarize(&mut self) {
        if self.fpu.fsw & !self.fpu.fcw & EXCEPTIONS != 0 {
            self.fpu.fsw |= SUMMARY;
        } else {
            self.fpu.fsw &= !SUMMARY;
        }
    }

    pub(crate) fn set_control(&mut self, control: u16) {
        self.fpu.fcw = control & CONTROL | 1 << 6;
        self.summarize();
    }

    /// True if an instruction with these flags leaves registers as they are.
    pub(super) fn blocked(&self, flags: u16) -> bool {
        flags & BEFORE & !self.fpu.fcw != 0
    }

    /// Puts a result into ST(n), then pops.
    pub(super) fn finish(&mut self, n: u8, pops: u8, outcome: Outcome) {
        if !self.blocked(outcome.flags) {
            self.set_st(n, outcome.bits);
            self.pop(pops);
        }
        self.report(outcome.flags);
    }

    /// An operand of an instruction with the result in ST(n) is empty.
    #[cold]
    pub(super) fn underflow(&mut self, n: u8, pops: u8) -> Done {
        self.finish(n, pops, Outcome { bits: INDEFINITE, flags: UNDERFLOW });
        Ok(())
    }

    /// Pushes a result.
    pub(super) fn finish_push(&mut self, outcome: Outcome) {
        let outcome = if self.is_full() { Outcome { bits: INDEFINITE, flags: OVERFLOW } } else { outcome };
        if !self.blocked(outcome.flags) {
            self.push_st(outcome.bits);
        }
        self.report(outcome.flags);
    }
}
