//! Signals as a file descriptor: SIGINT, SIGTERM and SIGHUP end a run in order, SIGUSR1 makes it live, SIGUSR2 sets a
//! bookmark.
#![allow(unsafe_code)] // signalfd

use std::fs::File;
use std::io::Read;
use std::os::fd::FromRawFd;

use vmm_sys_util::signal::{Error, block_signal, create_sigset};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// the run is to end
    End,
    /// the recording or the replay is to end, and the guest to live on
    Live,
    /// a bookmark
    Bookmark,
}

const SIGNALS: [(libc::c_int, Wish); 5] = [
    (libc::SIGINT, Wish::End),
    (libc::SIGTERM, Wish::End),
    (libc::SIGHUP, Wish::End),
    (libc::SIGUSR1, Wish::Live),
    (libc::SIGUSR2, Wish::Bookmark),
];

/// Blocks these signals in this thread and those it starts, and SIGXFSZ: a file that may not grow any more is an error like
/// a full disk, and not the end of this process. Call before anything else runs.
///
/// # Errors
/// The host's error as text.
pub fn prepare() -> Result<(), String> {
    for signal in SIGNALS.map(|(signal, _)| signal).into_iter().chain([libc::SIGXFSZ]) {
        match block_signal(signal) {
            Ok(()) | Err(Error::SignalAlreadyBlocked(_)) => {}
            Err(error) => return Err(format!("blocking signal {signal}: {error:?}")),
        }
    }
    Ok(())
}

/// Has this process end its runs, as Ctrl-C does: for those that did not get the Ctrl-C, since another took it.
pub fn pass_on() {
    // SAFETY: no memory is involved.
    unsafe { libc::kill(libc::getpid(), libc::SIGINT) };
}

/// A file that is readable when one of the signals is pending.
///
/// # Errors
/// The host's error.
pub fn open() -> std::io::Result<File> {
    let set = create_sigset(&SIGNALS.map(|(signal, _)| signal))?;
    // SAFETY: `set` is a valid sigset_t; a new descriptor is made.
    let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and owned by nobody else.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Takes one pending signal off `file`, if there is one.
pub fn take(file: &mut File) -> Option<Wish> {
    let mut info = [0; size_of::<libc::signalfd_siginfo>()];
    file.read_exact(&mut info).ok()?;
    // ssi_signo is the first field (signalfd(2)).
    let number = u32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
    let found = SIGNALS.into_iter().find(|(signal, _)| u32::try_from(*signal) == Ok(number));
    found.map(|(_, wish)| wish)
}
