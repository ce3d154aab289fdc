//! Kicks: making a running vCPU return to its thread.
//!
//! A kick is a flag of the thread and a real-time signal that every thread blocks. Only KVM_RUN lets the signal in
//! (KVM_SET_SIGNAL_MASK), so a kick sent at any moment either interrupts the guest or stays pending until the next
//! KVM_RUN returns at once. An engine that is a program like any other looks at the flag.
#![allow(unsafe_code)] // pthread_kill, pthread_sigmask

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vmm_sys_util::signal::{SIGRTMIN, block_signal, clear_signal};

fn signal() -> libc::c_int {
    SIGRTMIN() + 1
}

/// The kick's signal.
pub(crate) fn number() -> libc::c_int {
    signal()
}

/// True if the kick's signal is pending.
#[cfg(test)]
pub(crate) fn is_pending() -> bool {
    // SAFETY: an all-zero set is valid and is what sigpending fills in.
    unsafe {
        let mut set: libc::sigset_t = std::mem::MaybeUninit::zeroed().assume_init();
        assert_eq!(libc::sigpending(&raw mut set), 0);
        libc::sigismember(&raw const set, signal()) == 1
    }
}

/// Waits until the kick's signal is pending, and takes it.
#[cfg(test)]
pub(crate) fn wait() {
    // SAFETY: an all-zero set is valid, sigemptyset makes it so, and sigwaitinfo takes a null pointer for no information.
    unsafe {
        let mut set: libc::sigset_t = std::mem::MaybeUninit::zeroed().assume_init();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal());
        assert_eq!(libc::sigwaitinfo(&raw const set, std::ptr::null_mut()), signal());
    }
}

/// Blocks the kick's signal in this thread and those it starts. Call before anything else runs.
///
/// # Errors
/// The host's error as text.
pub fn prepare() -> Result<(), String> {
    match block_signal(signal()) {
        Ok(()) | Err(vmm_sys_util::signal::Error::SignalAlreadyBlocked(_)) => Ok(()),
        Err(error) => Err(format!("blocking signal {}: {error:?}", signal())),
    }
}

/// The signals to block while a vCPU runs, as the kernel's 64-bit set: what the thread blocks now, less the kick.
pub(crate) fn blocked_while_running() -> u64 {
    let blocked = vmm_sys_util::signal::get_blocked_signals().unwrap_or_default();
    blocked.iter().filter(|&&n| n != signal() && (1..=64).contains(&n)).fold(0, |set, n| set | 1 << (n - 1))
}

/// Takes a pending kick, after KVM_RUN returned EINTR because of it.
pub(crate) fn clear() {
    // A failure means that none was pending: another cause of EINTR.
    let _ = clear_signal(signal());
}

thread_local! {
    static FLAG: Arc<AtomicBool> = Arc::default();
}

/// Calls `run` with the flag that says that this thread was kicked.
pub(crate) fn with_flag<T>(run: impl FnOnce(&AtomicBool) -> T) -> T {
    FLAG.with(|flag| run(flag))
}

/// True if this thread was kicked and nobody has taken the kick.
pub(crate) fn is_up() -> bool {
    with_flag(|flag| flag.load(Ordering::Acquire))
}

/// Takes a kick off the flag, and the signal that came with it. What was said before the kick can be read after this.
pub(crate) fn take() {
    // The signal first: one that is sent later belongs to a kick whose flag stays up, or is taken with the next.
    clear();
    with_flag(|flag| flag.swap(false, Ordering::AcqRel));
}

/// A thread that can be kicked: the one that runs the vCPU.
#[derive(Debug, Clone)]
pub struct Target {
    thread: libc::pthread_t,
    flag: Arc<AtomicBool>,
}

impl Target {
    /// The calling thread. It must outlive every use of the target.
    pub fn current() -> Self {
        // SAFETY: pthread_self has no preconditions.
        Self { thread: unsafe { libc::pthread_self() }, flag: FLAG.with(Arc::clone) }
    }

    /// Kicks the thread.
    pub fn kick(&self) {
        self.flag.store(true, Ordering::Release);
        // SAFETY: the thread outlives the target (see `current`), and the signal is blocked everywhere but in KVM_RUN,
        // so that it never kills.
        unsafe { libc::pthread_kill(self.thread, signal()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kick_is_taken_once() {
        prepare().unwrap();
        let target = Target::current();
        std::thread::spawn(move || target.kick()).join().unwrap();
        assert!(with_flag(|flag| flag.load(Ordering::Acquire)));
        take();
        assert!(!with_flag(|flag| flag.load(Ordering::Acquire)));
    }
}
