//! The alarm that brings a probe guest back: a POSIX timer that signals the thread sitting in KVM_RUN.
//!
//! A signal makes KVM_RUN return EINTR. One that arrives just before KVM_RUN is entered would be lost, so the timer
//! repeats until it is disarmed. A helper thread with `pthread_kill` was rejected: it would have to be started, joined
//! and kept from signalling a thread that has moved on, for the same result.
#![allow(unsafe_code)] // timer_create, sigaction and pthread_sigmask have no safe wrapper among our dependencies

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;

/// How often the alarm repeats once it has gone off, nanoseconds.
const REPEAT_NS: i64 = 5_000_000;

/// An alarm for the thread that created it.
#[derive(Debug)]
pub(super) struct Watchdog {
    timer: libc::timer_t,
    mask_before: libc::sigset_t,
}

/// Does nothing: that the signal arrives is the whole effect.
extern "C" fn arrived(_signal: libc::c_int) {}

/// The signal used. Real-time, so that it collides with none that has a meaning of its own.
fn signal() -> libc::c_int {
    libc::SIGRTMIN() + 9
}

/// Installs the handler once per process and leaves it there: taking it away again could let a late alarm of another
/// thread's probe meet the default action, which ends the process.
fn install_handler() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        // SAFETY: an all-zero sigaction is valid (empty mask, no flags; without SA_RESTART system calls are
        // interrupted), and the handler touches nothing.
        let failed = unsafe {
            let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            action.sa_sigaction = arrived as extern "C" fn(libc::c_int) as libc::sighandler_t;
            libc::sigaction(signal(), &action, ptr::null_mut()) != 0
        };
        if failed { Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL)) } else { Ok(()) }
    });
    installed.map_err(io::Error::from_raw_os_error)
}

impl Watchdog {
    /// Creates a disarmed alarm for the calling thread.
    pub(super) fn new() -> io::Result<Self> {
        install_handler()?;
        let mut timer: libc::timer_t = ptr::null_mut();
        // SAFETY: the event is fully initialised (zero, then the three fields that SIGEV_THREAD_ID needs) and `timer`
        // outlives the call.
        let failed = unsafe {
            let mut event: libc::sigevent = MaybeUninit::zeroed().assume_init();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = signal();
            event.sigev_notify_thread_id = libc::gettid();
            libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) != 0
        };
        if failed {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: both sets are initialised by sigemptyset or written by pthread_sigmask before they are read.
        let mask_before = unsafe {
            let mut ours: libc::sigset_t = MaybeUninit::zeroed().assume_init();
            let mut before: libc::sigset_t = MaybeUninit::zeroed().assume_init();
            libc::sigemptyset(&mut ours);
            libc::sigaddset(&mut ours, signal());
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &ours, &mut before);
            before
        };
        Ok(Self { timer, mask_before })
    }

    /// The alarm goes off `after_ns` from now (at least 1 ns) and repeats.
    pub(super) fn arm(&self, after_ns: u64) -> io::Result<()> {
        let after = i64::try_from(after_ns.max(1)).unwrap_or(i64::MAX);
        self.set(libc::itimerspec {
            it_value: libc::timespec { tv_sec: after / 1_000_000_000, tv_nsec: after % 1_000_000_000 },
            it_interval: libc::timespec { tv_sec: 0, tv_nsec: REPEAT_NS },
        })
    }

    /// No alarm from now on.
    pub(super) fn disarm(&self) -> io::Result<()> {
        let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        self.set(libc::itimerspec { it_value: never, it_interval: never })
    }

    fn set(&self, when: libc::itimerspec) -> io::Result<()> {
        // SAFETY: the timer is ours until drop, the specification is a valid value on the stack.
        if unsafe { libc::timer_settime(self.timer, 0, &when, ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // SAFETY: the timer was created by us and is deleted once; the mask was filled by pthread_sigmask.
        unsafe {
            libc::timer_delete(self.timer);
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.mask_before, ptr::null_mut());
        }
    }
}
