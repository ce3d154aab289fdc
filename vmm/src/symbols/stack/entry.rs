//! Where Linux's kernel is entered, by an interrupt, an exception or a system call: from there nobody returns as from a
//! function, and what is behind it are the registers that were saved.

use super::{Here, Tracer};
use crate::symbols::table::UPPER_HALF;
use crate::symbols::unwind::Spot;

/// What the names of the kernel's entries begin with, of threads' first functions too.
const ENTRIES: [&str; 3] = ["asm_", "entry_", "ret_from_fork"];
/// Words above RSP among which the processor's own frame is looked for: the saved registers, and a few calls.
const NEAR: u64 = 28;

/// Where the kernel was entered from.
pub(super) enum Entry {
    /// a program, which is there
    Program {
        /// its instruction pointer
        rip: u64,
        /// its stack pointer
        rsp: u64,
    },
    /// the kernel itself, which is there
    Kernel(Here),
    /// there is nothing behind it
    Beginning,
}

impl Tracer<'_> {
    /// What is behind `here`, if that is in the kernel's entry code or where it began.
    pub(super) fn entry(&self, here: Here) -> Option<Entry> {
        let inside = here.spot.inside();
        let symbol = self.symbols?.function(inside)?;
        let Spot::Return(_) = here.spot else {
            // Right behind a SYSCALL the stack is still the program's, and RCX says where that goes on.
            if symbol.name == "entry_SYSCALL_64" && here.rsp < UPPER_HALF {
                return Some(Entry::Program { rip: self.rcx, rsp: here.rsp });
            }
            // Registers are being saved or restored; what was called from there knows the way back.
            return self
                .is_entry_code(inside)
                .then(|| self.by_code(here).is_none())?
                .then(|| self.near(here));
        };
        let gone = self.is_of_the_start(inside) && !self.is_behind_call(inside.wrapping_add(1));
        if gone || symbol.name.contains("startup_64") {
            return Some(Entry::Beginning);
        }
        if !ENTRIES.iter().any(|name| symbol.name.starts_with(name)) {
            return None;
        }
        // struct pt_regs (arch/x86/include/asm/ptrace.h): RBP is the fifth word, RIP the seventeenth.
        let rbp = here.rsp.checked_add(4 * 8).and_then(|at| self.memory.word(at));
        let whole = here.rsp.checked_add(16 * 8).and_then(|at| self.frame(at, rbp, here.certain));
        // A kernel thread has nowhere to go back to: what would be its saved registers are zeros.
        let began = symbol.name.starts_with("ret_from_fork");
        Some(whole.unwrap_or_else(|| if began { Entry::Beginning } else { self.near(here) }))
    }

    fn is_entry_code(&self, address: u64) -> bool {
        let Some(symbols) = self.symbols else { return false };
        let one = |name| symbols.addresses(name).next();
        match (one("__entry_text_start"), one("__entry_text_end")) {
            (Some(start), Some(end)) => (start..end).contains(&address),
            _ => symbols
                .function(address)
                .is_some_and(|symbol| ENTRIES.iter().any(|name| symbol.name.starts_with(name))),
        }
    }

    /// The nearest of the processor's own frames above RSP.
    fn near(&self, here: Here) -> Entry {
        let places = (0..NEAR).map_while(|word| here.rsp.checked_add(8 * word));
        places.into_iter().find_map(|at| self.frame(at, None, here.certain)).unwrap_or(Entry::Beginning)
    }

    /// What the processor pushes when it enters the kernel (Intel SDM vol. 3, 6.14.2): RIP, CS, RFLAGS, RSP, SS.
    fn frame(&self, at: u64, rbp: Option<u64>, certain: bool) -> Option<Entry> {
        let word = |number: u64| self.memory.word(at.checked_add(8 * number)?);
        let (rip, cs, flags, rsp, ss) = (word(0)?, word(1)?, word(2)?, word(3)?, word(4)?);
        // Bit 1 is always set, bits 3, 5, 15 and those from 22 on never.
        let plausible = flags & !0x3f_7fd5 == 2 && ss < 1 << 16;
        match cs & 3 {
            3 if plausible && cs < 1 << 16 && ss & 3 == 3 => Some(Entry::Program { rip, rsp }),
            0 if plausible
                && cs == u64::from(self.kernel)
                && ss & 3 == 0
                && self.memory.is_kernel_code(rip) =>
            {
                Some(Entry::Kernel(Here { spot: Spot::Before(rip), rsp, rbp, certain }))
            }
            _ => None,
        }
    }
}
