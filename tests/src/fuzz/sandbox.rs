//! A random case may jump into the middle of an instruction and find a system call there: none gets through.
#![allow(unsafe_code)] // seccomp

use std::io;

const fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

const fn jump(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

/// From here on this process can wait for a futex, return from signals, and exit; other system calls raise SIGSYS.
///
/// # Errors
/// The kernel has no seccomp.
pub fn enter() -> io::Result<()> {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    const X86_64: u32 = 0xc000_003e;
    let mut filter = [
        statement(LOAD, 4), // architecture: INT 0x80 is another
        jump(EQUAL, X86_64, 0, 5),
        statement(LOAD, 0), // number
        jump(EQUAL, libc::SYS_futex as u32, 4, 0),
        jump(EQUAL, libc::SYS_rt_sigreturn as u32, 3, 0),
        jump(EQUAL, libc::SYS_restart_syscall as u32, 2, 0),
        jump(EQUAL, libc::SYS_exit_group as u32, 1, 0),
        statement(RETURN, libc::SECCOMP_RET_TRAP),
        statement(RETURN, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program is valid for the call.
    let failed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) != 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}
