//! The processor's counters, as perf_event_open(2) gives them: what a thread's guests retire, and an interrupt after so many.
//!
//! Everything here counts while the calling thread is in a guest and not otherwise (`exclude_host`), at all of the guest's
//! privilege levels, and in this thread alone. An event is pinned: it is on the processor all the time or in error, never
//! shared out with others and scaled.
//!
//! Two descriptors count the same event. One is only read. The other interrupts: its overflow becomes the kick's signal for
//! this thread, which leaves KVM_RUN with EINTR, and is blocked everywhere else ([`super::kick`]). That counter is set anew
//! for each interrupt, which would lose counts if it was the one to be read.
//!
//! An overflow can get lost. So a timer sends the same signal every now and then: whoever waits for an overflow looks at the
//! count at least so often.
#![allow(unsafe_code)] // perf_event_open, its ioctls, fcntl for signals, a POSIX timer

use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use perf_event_open_sys::bindings::{
    PERF_COUNT_HW_INSTRUCTIONS, PERF_FLAG_FD_CLOEXEC, PERF_TYPE_HARDWARE, PERF_TYPE_RAW, perf_event_attr,
};
use perf_event_open_sys::{bindings, ioctls, perf_event_open};

use super::kick;

/// The perf type of the processor's own event codes, where all cores are of one kind.
pub const RAW: u32 = PERF_TYPE_RAW;

/// How long (ns) a lost overflow goes unnoticed at most.
const LOOK_EVERY_NS: i64 = 100_000_000;

/// fcntl(2): the signal of a descriptor, and to whom it goes. Not all are in the libc crate.
const F_SETSIG: libc::c_int = 10;
const F_SETOWN_EX: libc::c_int = 15;
const F_OWNER_TID: libc::c_int = 0;

/// `struct f_owner_ex` of fcntl(2).
#[repr(C)]
struct Owner {
    kind: libc::c_int,
    id: libc::pid_t,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// type of the PMU: [`RAW`], or that of one kind of cores (`/sys/bus/event_source/devices/NAME/type`)
    pub pmu: u32,
    /// the processor's code: event, unit mask
    pub config: u64,
}

fn attributes(kind: u32, config: u64) -> perf_event_attr {
    let mut attributes = perf_event_attr { type_: kind, config, ..perf_event_attr::default() };
    // The size is that of this structure in every kernel that knows no newer one; it is a constant below 4 GiB.
    attributes.size = u32::try_from(size_of::<perf_event_attr>()).unwrap_or(0);
    attributes.set_pinned(1);
    attributes.set_exclude_host(1);
    attributes
}

/// Opens an event of the calling thread, on whatever processor it is.
fn open(mut attributes: perf_event_attr) -> io::Result<File> {
    let flags = libc::c_ulong::from(PERF_FLAG_FD_CLOEXEC);
    // SAFETY: the attributes are initialised and name no memory; this thread (0), any processor (-1), no group (-1).
    let fd = unsafe { perf_event_open(&raw mut attributes, 0, -1, -1, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that the kernel has just given to us alone.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Tries whether a counter of guest instructions opens at all.
///
/// # Errors
/// The host's refusal.
pub fn try_instructions() -> io::Result<()> {
    open(attributes(PERF_TYPE_HARDWARE, PERF_COUNT_HW_INSTRUCTIONS.into())).map(|_| ())
}

/// A counter of one event in the calling thread's guests, which is only read.
#[derive(Debug)]
pub struct Count(File);

impl Count {
    /// Opens it.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn open(event: Event) -> io::Result<Self> {
        open(attributes(event.pmu, event.config)).map(Self)
    }

    /// What it has counted.
    ///
    /// # Errors
    /// The event has lost its place on the processor: a pinned one that cannot be counted reads as end of file.
    pub fn read(&self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        match (&self.0).read(&mut bytes)? {
            8 => Ok(u64::from_ne_bytes(bytes)),
            _ => Err(io::Error::other(
                "it lost its place on the processor: somebody else uses all counters, the NMI watchdog perhaps \
                 (sudo sysctl kernel.nmi_watchdog=0)",
            )),
        }
    }
}

/// A counter whose overflow interrupts the calling thread's guest.
#[derive(Debug)]
pub struct Alarm {
    file: File,
    _looks: Looks,
}

impl Alarm {
    /// Opens it; nothing is due.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn open(event: Event) -> io::Result<Self> {
        let mut attributes = attributes(event.pmu, event.config);
        attributes.set_disabled(1);
        attributes.__bindgen_anon_1.sample_period = u64::from(u32::MAX);
        let file = open(attributes)?;
        let fd = file.as_raw_fd();
        // SAFETY: gettid has no preconditions.
        let owner = Owner { kind: F_OWNER_TID, id: unsafe { libc::gettid() } };
        // SAFETY: a descriptor of ours; F_SETOWN_EX reads an f_owner_ex, which `Owner` is laid out as, and the others take a
        // number.
        unsafe {
            checked(libc::fcntl(fd, F_SETOWN_EX, &raw const owner))?;
            checked(libc::fcntl(fd, F_SETSIG, kick::number()))?;
            let flags = libc::fcntl(fd, libc::F_GETFL);
            checked(flags)?;
            checked(libc::fcntl(fd, libc::F_SETFL, flags | libc::O_ASYNC))?;
        }
        Ok(Self { file, _looks: Looks::start()? })
    }

    /// An overflow is due after so many more events, and again each time after as many.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn arm(&self, events: u64) -> io::Result<()> {
        self.disarm()?;
        let fd: RawFd = self.file.as_raw_fd();
        let period = events.max(1);
        // SAFETY: a perf event's descriptor. PERIOD reads a u64 through a pointer, as perf_event_open(2) says (the crate's
        // `ioctls::PERIOD` passes the number itself, which is EFAULT). With a new period nothing of the old one is left.
        unsafe {
            checked(libc::ioctl(fd, libc::c_ulong::from(bindings::PERIOD), &raw const period))?;
            checked(ioctls::ENABLE(fd, 0))
        }
    }

    /// None is due any more.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn disarm(&self) -> io::Result<()> {
        // SAFETY: a perf event's descriptor.
        unsafe { checked(ioctls::DISABLE(self.file.as_raw_fd(), 0)) }
    }
}

/// A timer that sends the kick's signal, without the kick's flag, to the thread that started it.
#[derive(Debug)]
struct Looks(libc::timer_t);

// SAFETY: a timer_t is a name in the kernel's table of the process, and any thread may delete it.
unsafe impl Send for Looks {}

impl Looks {
    fn start() -> io::Result<Self> {
        let mut timer: libc::timer_t = std::ptr::null_mut();
        // SAFETY: an all-zero sigevent is valid, the three fields that SIGEV_THREAD_ID needs are set, `timer` outlives the
        // call.
        unsafe {
            let mut event: libc::sigevent = MaybeUninit::zeroed().assume_init();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = kick::number();
            event.sigev_notify_thread_id = libc::gettid();
            checked(libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer))?;
        }
        let looks = Self(timer);
        let every = libc::timespec { tv_sec: 0, tv_nsec: LOOK_EVERY_NS };
        let when = libc::itimerspec { it_interval: every, it_value: every };
        // SAFETY: the timer is ours until drop, the specification is a valid value.
        unsafe { checked(libc::timer_settime(looks.0, 0, &raw const when, std::ptr::null_mut()))? };
        Ok(looks)
    }
}

impl Drop for Looks {
    fn drop(&mut self) {
        // SAFETY: made by us, deleted once.
        unsafe { libc::timer_delete(self.0) };
    }
}

/// Keeps the calling thread on these processors.
///
/// # Errors
/// The host's refusal.
pub fn stay_on(processors: &[usize]) -> io::Result<()> {
    let all = usize::try_from(libc::CPU_SETSIZE).unwrap_or(0);
    // SAFETY: an all-zero set is an empty one; CPU_SET writes inside of it, since numbers beyond it are left out.
    unsafe {
        let mut set: libc::cpu_set_t = MaybeUninit::zeroed().assume_init();
        processors.iter().filter(|n| **n < all).for_each(|n| libc::CPU_SET(*n, &mut set));
        checked(libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set))
    }
}

/// Reads an MSR of a processor through `/dev/cpu/N/msr`.
///
/// # Errors
/// There is no such file (`modprobe msr`), or it may not be read, or there is no such MSR.
pub fn read_msr(processor: usize, msr: u32) -> io::Result<u64> {
    let file = File::open(format!("/dev/cpu/{processor}/msr"))?;
    let mut bytes = [0; 8];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, msr.into())?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock;
    use crate::machine::memory::GuestRam;

    /// Conditional branches on an AMD processor: anything that has a code will do.
    const EVENT: Event = Event { pmu: RAW, config: 0x5100d1 };

    #[test]
    fn without_a_counter_the_host_says_so() {
        match Count::open(EVENT) {
            Ok(count) => assert_eq!(count.read().unwrap(), 0, "nothing has run in a guest"),
            Err(error) => {
                let known =
                    [libc::ENOENT, libc::EACCES, libc::EPERM, libc::EOPNOTSUPP, libc::ENODEV, libc::EINVAL];
                assert!(known.contains(&error.raw_os_error().unwrap_or(0)), "{error}");
                assert!(Alarm::open(EVENT).is_err());
            }
        }
    }

    /// Page faults of this thread: what the kernel counts by itself has no processor, and heeds no `exclude_host`.
    const FAULTS: Event =
        Event { pmu: bindings::PERF_TYPE_SOFTWARE, config: bindings::PERF_COUNT_SW_PAGE_FAULTS as u64 };

    /// Causes so many page faults, if pages are small.
    fn fault(times: u64) {
        let fresh = GuestRam::new(4 << 20).unwrap();
        (0..times).for_each(|page| fresh.write(page * 4096, &[1]).unwrap());
    }

    #[test]
    fn an_overflow_is_a_signal_for_its_thread_and_no_kick() {
        kick::prepare().unwrap();
        let (count, alarm) = match (Count::open(FAULTS), Alarm::open(FAULTS)) {
            (Ok(count), Ok(alarm)) => (count, alarm),
            (Err(error), _) | (_, Err(error)) => {
                eprintln!("SKIPPED: this host counts no page faults: {error}");
                return;
            }
        };
        for _ in 0..3 {
            alarm.arm(100_000).unwrap();
            let before = count.read().unwrap();
            fault(200);
            let faults = count.read().unwrap() - before;
            assert!((1..1000).contains(&faults), "{faults}");
            alarm.arm(50).unwrap();
            kick::clear();
            fault(400);
            assert!(kick::is_pending(), "50 of 400 page faults");
            assert!(!kick::is_up(), "nobody has kicked");
            alarm.disarm().unwrap();
            kick::clear();
        }
    }

    #[test]
    fn who_waits_is_woken_now_and_then_without_being_kicked() {
        kick::prepare().unwrap();
        kick::take();
        let begun = clock::monotonic_ns();
        let looks = Looks::start().unwrap();
        kick::wait();
        assert!(clock::monotonic_ns() - begun >= 90_000_000);
        kick::wait();
        drop(looks);
        kick::clear();
        assert!(!kick::is_up(), "the flag is for those who kick");
    }

    #[test]
    fn a_thread_stays_where_it_is_put() {
        std::thread::spawn(|| {
            stay_on(&[0]).unwrap();
            // SAFETY: sched_getcpu has no preconditions.
            assert_eq!(unsafe { libc::sched_getcpu() }, 0);
            assert!(stay_on(&[]).is_err());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn an_msr_that_cannot_be_read_is_an_error() {
        assert!(read_msr(usize::MAX, 0xc001_1020).is_err());
    }
}
