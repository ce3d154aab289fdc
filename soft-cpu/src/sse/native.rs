//! The host's processor as the reference of tests: runs one user-mode instruction on it.
#![allow(unsafe_code, clippy::unwrap_used, reason = "tests")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};

use iced_x86::code_asm::*;
use iced_x86::{BlockEncoderOptions, IcedError};

use crate::testing::DATA;

/// What an instruction may read and change.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, align(16))]
pub(super) struct Registers {
    /// as FXSAVE64 writes it
    pub fpu: [u128; 32],
    /// RAX, RCX, RDX, RBX, RSI, RDI
    pub general: [u64; 6],
    pub flags: u64,
    /// the instruction has raised #XM
    pub faulted: u64,
}

pub(super) const FLAGS: u64 = 0x8d5;

/// Executable memory, and a page of data where the soft CPU's tests have theirs.
pub(super) struct Native {
    code: u64,
}

/// Address of the instruction that runs, and its length.
static AT: AtomicU64 = AtomicU64::new(0);
static LENGTH: AtomicU64 = AtomicU64::new(0);
static FAULTED: AtomicBool = AtomicBool::new(false);

/// Skips the instruction.
unsafe extern "C" fn on_fpe(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a ucontext_t to handlers with SA_SIGINFO.
    let rip = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize] };
    assert_eq!(rip.cast_unsigned(), AT.load(Ordering::SeqCst));
    *rip += LENGTH.load(Ordering::SeqCst).cast_signed();
    FAULTED.store(true, Ordering::SeqCst);
}

impl Native {
    pub(super) fn get() -> MutexGuard<'static, Self> {
        static NATIVE: OnceLock<Mutex<Native>> = OnceLock::new();
        NATIVE.get_or_init(|| Mutex::new(Self::new())).lock().unwrap_or_else(|e| e.into_inner())
    }

    fn new() -> Self {
        let map = |at: u64, protection, flags| {
            // SAFETY: a new mapping, which replaces none.
            let got = unsafe {
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags;
                libc::mmap(at as *mut libc::c_void, 4096, protection, flags, -1, 0)
            };
            assert_ne!(got, libc::MAP_FAILED);
            got as u64
        };
        let data = libc::PROT_READ | libc::PROT_WRITE;
        assert_eq!(map(DATA, data, libc::MAP_FIXED_NOREPLACE), DATA);
        // SAFETY: the handler is as SA_SIGINFO wants it.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_fpe as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            assert_eq!(libc::sigaction(libc::SIGFPE, &raw const action, std::ptr::null_mut()), 0);
        }
        Self { code: map(0, data | libc::PROT_EXEC, 0) }
    }

    /// The page at [`DATA`].
    pub(super) fn data(&mut self) -> &mut [u8; 4096] {
        // SAFETY: mapped by `new`, lent with `self`.
        unsafe { &mut *(DATA as *mut [u8; 4096]) }
    }

    /// Makes `instruction` the one to run. It may use RSP and R8 to R15 in no way.
    pub(super) fn load(&mut self, instruction: &[u8]) {
        let mut a = CodeAssembler::new(64).unwrap();
        let general = [rax, rcx, rdx, rbx, rsi, rdi];
        let mut behind = a.create_label();
        let mut start = a.create_label();
        let mut emit = |a: &mut CodeAssembler| -> Result<(), IcedError> {
            a.push(rbx)?;
            a.push(r15)?;
            a.mov(r15, rdi)?;
            a.fxrstor64(ptr(r15))?;
            for (n, register) in general.into_iter().enumerate() {
                a.mov(register, qword_ptr(r15 + 512 + 8 * n as i32))?;
            }
            a.push(qword_ptr(r15 + 560))?;
            a.popfq()?;
            a.set_label(&mut start)?;
            a.db(instruction)?;
            a.set_label(&mut behind)?;
            a.pushfq()?;
            a.pop(qword_ptr(r15 + 560))?;
            for (n, register) in general.into_iter().enumerate() {
                a.mov(qword_ptr(r15 + 512 + 8 * n as i32), register)?;
            }
            a.fxsave64(ptr(r15))?;
            a.fninit()?;
            a.push(0x1f80)?;
            a.ldmxcsr(dword_ptr(rsp))?;
            a.pop(rax)?;
            a.pop(r15)?;
            a.pop(rbx)?;
            a.ret()
        };
        emit(&mut a).unwrap();
        let options = BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS;
        let result = a.assemble_options(self.code, options).unwrap();
        AT.store(result.label_ip(&start).unwrap(), Ordering::SeqCst);
        LENGTH.store(instruction.len() as u64, Ordering::SeqCst);
        let code = &result.inner.code_buffer;
        // SAFETY: the page is ours, and nothing runs on it now.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), self.code as *mut u8, code.len()) };
    }

    /// Runs it.
    pub(super) fn run(&mut self, registers: &mut Registers) {
        FAULTED.store(false, Ordering::SeqCst);
        // SAFETY: `load` has put a function of this type there, which keeps what its ABI says must be kept.
        unsafe {
            let run: extern "C" fn(*mut Registers) = std::mem::transmute(self.code);
            run(registers);
        }
        registers.flags &= FLAGS;
        registers.faulted = FAULTED.load(Ordering::SeqCst).into();
    }
}
