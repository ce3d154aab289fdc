//! SIGINT, SIGTERM and SIGHUP as a file descriptor, so that they end a run in order.
#![allow(unsafe_code)] // signalfd

use std::fs::File;
use std::io::Read;
use std::os::fd::FromRawFd;

use vmm_sys_util::signal::{Error, block_signal, create_sigset};

const ENDING: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// Blocks the ending signals in this thread and those it starts. Call before anything else runs.
///
/// # Errors
/// The host's error as text.
pub fn prepare() -> Result<(), String> {
    for signal in ENDING {
        match block_signal(signal) {
            Ok(()) | Err(Error::SignalAlreadyBlocked(_)) => {}
            Err(error) => return Err(format!("blocking signal {signal}: {error:?}")),
        }
    }
    Ok(())
}

/// A file that is readable when an ending signal is pending.
///
/// # Errors
/// The host's error.
pub fn open() -> std::io::Result<File> {
    let set = create_sigset(&ENDING)?;
    // SAFETY: `set` is a valid sigset_t; a new descriptor is made.
    let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and owned by nobody else.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Takes one pending signal off `file`. True if there was one.
pub fn take(file: &mut File) -> bool {
    let mut info = [0; size_of::<libc::signalfd_siginfo>()];
    file.read_exact(&mut info).is_ok()
}
