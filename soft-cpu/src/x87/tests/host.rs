//! One instruction on the host's x87.
#![allow(unsafe_code, reason = "machine code is made and called")]

use std::arch::asm;

/// The state in front of and behind an instruction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    pub fcw: u16,
    pub fsw: u16,
    pub tags: u16,
    /// R0..R7
    pub regs: [u128; 8],
    pub rax: u64,
    /// arithmetic flags
    pub flags: u64,
    /// what RSI points to
    pub memory: [u8; 128],
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "fcw {:04x} fsw {:04x} tags {:04x} flags {:x} rax {:x}",
            self.fcw, self.fsw, self.tags, self.flags, self.rax
        )?;
        let top = usize::from(self.fsw >> 11 & 7);
        for n in 0..8 {
            let at = (top + n) & 7;
            let mark = if self.tags >> (2 * at) & 3 == 3 { "-" } else { "" };
            write!(f, "{}st{n} {mark}{:020x}", if n % 4 == 0 { "\n    " } else { "  " }, self.regs[at])?;
        }
        write!(f, "\n    memory {:02x?}", &self.memory[..28])
    }
}

/// A page of code with a place for one instruction.
pub(super) struct Host {
    page: *mut u8,
}

const PAGE: usize = 4096;

impl Host {
    pub(super) fn new() -> Self {
        let mut page: usize = 9; // mmap
        // SAFETY: a new private mapping changes nothing that exists.
        unsafe {
            asm!("syscall", inout("rax") page, in("rdi") 0, in("rsi") PAGE, in("rdx") 7, in("r10") 0x22,
                in("r8") -1i64, in("r9") 0, out("rcx") _, out("r11") _);
        }
        assert_eq!(page % PAGE, 0, "mmap failed");
        Self { page: page as *mut u8 }
    }

    /// Puts an instruction in its place. It may use RAX and the memory at RSI.
    pub(super) fn prepare(&mut self, instruction: &[u8]) {
        let mut code = vec![0xdd, 0x27]; // frstor [rdi]
        code.extend([0x48, 0x8b, 0x02, 0xff, 0x72, 0x08, 0x9d]); // mov rax, [rdx]; push [rdx+8]; popfq
        code.extend(instruction);
        code.extend([0x9c, 0x8f, 0x42, 0x08, 0x48, 0x89, 0x02]); // pushfq; pop [rdx+8]; mov [rdx], rax
        code.extend([0xdd, 0x37, 0xc3]); // fnsave [rdi]; ret
        assert!(code.len() < PAGE);
        // SAFETY: the page is ours, and its code does not run now.
        unsafe { self.page.copy_from_nonoverlapping(code.as_ptr(), code.len()) };
    }

    pub(super) fn run(&self, state: &State) -> State {
        let mut image = [0u8; 108];
        for (at, word) in [(0, state.fcw), (4, state.fsw), (8, state.tags)] {
            image[at..at + 2].copy_from_slice(&word.to_le_bytes());
        }
        let top = usize::from(state.fsw >> 11 & 7);
        for n in 0..8 {
            image[28 + 10 * n..][..10].copy_from_slice(&state.regs[(top + n) & 7].to_le_bytes()[..10]);
        }
        let mut out = *state;
        let mut words = [state.rax, state.flags | 0x202];
        // SAFETY: the code touches the three objects it is given, RAX, flags and the x87, which FNSAVE leaves as a
        // function expects it.
        unsafe {
            asm!("call {code}", code = in(reg) self.page, in("rdi") image.as_mut_ptr(),
                in("rsi") out.memory.as_mut_ptr(), in("rdx") words.as_mut_ptr(), clobber_abi("C"));
        }
        let word = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
        (out.fcw, out.fsw, out.tags) = (word(0), word(4), word(8));
        let top = usize::from(out.fsw >> 11 & 7);
        for n in 0..8 {
            let mut bytes = [0; 16];
            bytes[..10].copy_from_slice(&image[28 + 10 * n..][..10]);
            out.regs[(top + n) & 7] = u128::from_le_bytes(bytes);
        }
        out.rax = words[0];
        out.flags = words[1] & crate::flags::ARITHMETIC;
        out
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nobody uses it any more.
        unsafe {
            asm!("syscall", inout("rax") 11 => _, in("rdi") self.page, in("rsi") PAGE, out("rcx") _, out("r11") _);
        }
    }
}
