//! The host's event loop: one thread that waits for the terminal, signals and time, puts what happens into a queue and
//! kicks the vCPU where waiting for the next exit is not enough.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use scribe_devices::virtio::net::Frame;
use scribe_log::StopReason;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::timerfd::TimerFd;

use super::net::{Incoming, Taken};
use super::signals::Wish;
use super::silence::Silence;
use super::terminal::{Key, Keys};
use super::{clock, kick, signals};

/// Something from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostEvent {
    /// bytes for the console
    Console(Vec<u8>),
    /// no more bytes will come
    ConsoleClosed,
    /// a frame for the guest's network
    Frame(Frame),
    /// the network's other end has gone: why
    NetLost(String),
    /// the run is to end
    Stop(StopReason),
    /// a recording or replay is to end, and its guest to live on
    GoLive,
    /// a bookmark, here and now
    Mark(MarkSource),
    /// the name of the bookmark set by a key; empty if the user gave none, `None` if there is to be no bookmark
    MarkName(Option<String>),
}

/// Who wants a bookmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkSource {
    /// a signal
    Signal,
    /// a key at the console; its name comes later
    Key,
}

/// What the two threads tell each other without a queue.
#[derive(Debug, Default)]
pub struct Shared {
    /// exits served, stored by the guest's thread at sync points
    pub exits: AtomicU64,
    /// guest time (ns), stored by the guest's thread at sync points
    pub guest_time: AtomicU64,
    /// the guest's thread is inside the guest, not waiting on the host
    pub running: AtomicBool,
    /// it is time to seal what was recorded
    pub seal_due: AtomicBool,
    /// the guest did not reach a sync point in time after a stop was asked for: end where it last was
    pub force_stop: AtomicBool,
    /// captured sync points are made: a guest that computes is not deaf
    pub captures: AtomicBool,
    /// of the exits served, those that were captured sync points
    pub captured: AtomicU64,
    /// host time (ns) at which a captured sync point may be due; 0: none
    pub capture_at: AtomicU64,
    /// console bytes read and not admitted yet
    pub queued: AtomicUsize,
    /// frames read and not admitted yet
    pub frames: AtomicUsize,
    stopping: AtomicBool,
    quit: AtomicBool,
}

/// The way to the guest's thread.
#[derive(Debug, Clone)]
struct Line {
    sender: Sender<HostEvent>,
    shared: Arc<Shared>,
    target: kick::Target,
    anywhere: bool,
}

impl Line {
    fn send(&self, event: HostEvent) {
        let _ = self.sender.send(event);
        if self.anywhere {
            self.target.kick();
        }
    }

    fn stop(&self, reason: StopReason) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.send(HostEvent::Stop(reason));
    }
}

/// Where console input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsoleSource {
    /// nowhere
    None,
    /// standard input, a pipe or socket: every byte is the guest's
    Stream,
    /// standard input, a terminal in raw mode: Ctrl-A starts a command
    Terminal,
}

/// What the event loop watches for.
#[derive(Debug, Clone, Copy)]
pub struct Watch {
    /// console input
    pub console: ConsoleSource,
    /// end the run after this many ns of host time
    pub host_limit: Option<u64>,
    /// end the run if the guest makes no exit for this many ns of host time
    pub max_silence: Option<u64>,
    /// the guest can be stopped between two exits: kick it for whatever comes
    pub anywhere: bool,
    /// kick it for captured sync points after this many ns of host time without an exit
    pub capture_after: Option<u64>,
    /// time and input come from outside: a guest that neither reaches is named
    pub lives: bool,
}

/// Host time between two seals of a recording.
const SEAL_EVERY_NS: u64 = 250_000_000;
/// Console bytes that may wait for the guest.
const MOST_QUEUED: usize = 64 << 10;
const FULL_PAUSE_NS: u64 = 5_000_000;
/// Frames that may wait for the guest.
const MOST_FRAMES: usize = 512;
const NET_PAUSE_NS: u64 = 500_000;
const TICK: Duration = Duration::from_millis(50);
/// A guest that computes this long without an exit is named on stderr.
const SILENCE_NS: u64 = 2_000_000_000;
/// How long a guest has to reach a sync point once a stop was asked for.
const STOP_GRACE_NS: u64 = 300_000_000;

/// How long console output may wait for more to come.
const OUTPUT_WAITS: Duration = Duration::from_millis(1);

/// Kicks the guest's thread a moment after it is set.
#[derive(Debug, Clone)]
pub struct Alarm(Arc<Mutex<TimerFd>>);

impl Alarm {
    fn new() -> std::io::Result<Self> {
        Ok(Self(Arc::new(Mutex::new(TimerFd::new()?))))
    }

    /// Sets it; one that is set already is put off.
    pub fn set(&self) {
        // Without it the output comes with the next line, as it would have.
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).reset(OUTPUT_WAITS, None);
    }

    /// Not by reading it: one that was put off just now would block.
    fn take(&self) {
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// The running event loop. Ends with the value.
#[derive(Debug)]
pub struct HostLoop {
    /// what happened, in order
    pub events: Receiver<HostEvent>,
    /// flags and counters
    pub shared: Arc<Shared>,
    wake: EventFd,
    alarm: Option<Alarm>,
    thread: Option<JoinHandle<()>>,
}

impl HostLoop {
    /// Starts the loop; `target` is the guest's thread.
    ///
    /// # Errors
    /// The host gave no file descriptor or thread.
    pub fn start(watch: Watch, target: kick::Target) -> std::io::Result<Self> {
        Self::start_with(watch, target, None)
    }

    /// As [`start`](Self::start), and frames from the network too.
    ///
    /// # Errors
    /// The host gave no file descriptor or thread.
    pub fn start_with(watch: Watch, target: kick::Target, net: Option<Incoming>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (sender, events) = channel();
        let wake = EventFd::new(EFD_NONBLOCK)?;
        let mut timer = TimerFd::new()?;
        timer.reset(TICK, Some(TICK))?;
        let line = Line { sender, shared: shared.clone(), target, anywhere: watch.anywhere };
        let alarm = Alarm::new()?;
        let mut sources = vec![
            Source::Wake(wake.try_clone()?),
            Source::Signals { file: signals::open()?, seen: 0, line: line.clone() },
            Source::Timer(Box::new(Timer::new(timer, watch, line.clone()))),
            Source::Alarm { alarm: alarm.clone(), target: line.target.clone() },
        ];
        if let Some(after) = watch.capture_after {
            let silence = Silence::new(shared.clone(), line.target.clone(), after)?;
            sources.push(Source::Silence(Box::new(silence)));
        }
        sources.extend(net.map(|net| Source::Net(Box::new(net), line.clone())));
        match watch.console {
            ConsoleSource::None => {}
            ConsoleSource::Stream | ConsoleSource::Terminal => {
                let keys = (watch.console == ConsoleSource::Terminal).then(Keys::default);
                sources.push(Source::Console { file: standard_input()?, keys, line });
            }
        }
        let thread = {
            let shared = shared.clone();
            std::thread::Builder::new().name("host-events".into()).spawn(move || run(sources, &shared))?
        };
        Ok(Self { events, shared, wake, alarm: Some(alarm), thread: Some(thread) })
    }
}

impl HostLoop {
    /// What kicks the guest's thread a moment later.
    pub fn alarm(&self) -> Option<Alarm> {
        self.alarm.clone()
    }

    /// A loop that is told nothing: what stands in for one that is needed elsewhere.
    ///
    /// # Errors
    /// The host gave no file descriptor.
    pub fn silent() -> std::io::Result<Self> {
        let (_, events) = channel();
        let wake = EventFd::new(EFD_NONBLOCK)?;
        Ok(Self { events, shared: Arc::new(Shared::default()), wake, alarm: None, thread: None })
    }
}

#[cfg(test)]
impl HostLoop {
    /// A loop without a thread: what happens comes from the test.
    pub(crate) fn by_hand() -> (Self, Sender<HostEvent>) {
        let (sender, events) = channel();
        let wake = EventFd::new(EFD_NONBLOCK).unwrap();
        (Self { events, shared: Arc::new(Shared::default()), wake, alarm: None, thread: None }, sender)
    }
}

impl Drop for HostLoop {
    fn drop(&mut self) {
        self.shared.quit.store(true, Ordering::Relaxed);
        let _ = self.wake.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A second descriptor of standard input, to be read without the buffer of `std::io::stdin`.
fn standard_input() -> std::io::Result<File> {
    use std::os::fd::AsFd;
    let fd: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned()?;
    Ok(File::from(fd))
}

fn run(sources: Vec<Source>, shared: &Shared) {
    let Ok(mut manager) = EventManager::<Source>::new() else {
        return;
    };
    for source in sources {
        manager.add_subscriber(source);
    }
    while !shared.quit.load(Ordering::Relaxed) {
        if manager.run().is_err() {
            return;
        }
    }
}

/// What the loop waits for.
enum Source {
    /// the loop's own end
    Wake(EventFd),
    Console {
        file: File,
        keys: Option<Keys>,
        line: Line,
    },
    Signals {
        file: File,
        seen: u32,
        line: Line,
    },
    Timer(Box<Timer>),
    Silence(Box<Silence>),
    Net(Box<Incoming>, Line),
    Alarm {
        alarm: Alarm,
        target: kick::Target,
    },
}

impl MutEventSubscriber for Source {
    fn init(&mut self, ops: &mut EventOps) {
        let added = match self {
            Source::Wake(fd) => ops.add(Events::new(fd, EventSet::IN)),
            Source::Signals { file, .. } => ops.add(Events::new(file, EventSet::IN)),
            Source::Timer(timer) => ops.add(Events::new(&timer.fd, EventSet::IN)),
            Source::Silence(silence) => ops.add(Events::new(&silence.fd, EventSet::IN)),
            Source::Net(net, _) => ops.add(Events::new(net.as_ref(), EventSet::IN)),
            Source::Alarm { alarm, .. } => {
                let fd = alarm.0.lock().unwrap_or_else(PoisonError::into_inner);
                ops.add(Events::new(&*fd, EventSet::IN))
            }
            Source::Console { file, line, .. } => {
                let added = ops.add(Events::new(file, EventSet::IN));
                if added.is_err() {
                    // A file that cannot be waited for (such as /dev/null): nothing will come from it.
                    line.send(HostEvent::ConsoleClosed);
                }
                return;
            }
        };
        if let Err(error) = added {
            tracing::error!("event loop: {error}");
        }
    }

    fn process(&mut self, _events: Events, ops: &mut EventOps) {
        match self {
            Source::Wake(fd) => {
                let _ = fd.read();
            }
            Source::Signals { file, seen, line } => {
                while let Some(wish) = signals::take(file) {
                    match wish {
                        Wish::Live => line.send(HostEvent::GoLive),
                        Wish::Bookmark => line.send(HostEvent::Mark(MarkSource::Signal)),
                        Wish::End => {
                            *seen += 1;
                            line.stop(StopReason::Signal);
                            // A second signal does not wait for a sync point.
                            if *seen > 1 {
                                line.shared.force_stop.store(true, Ordering::Relaxed);
                            }
                        }
                    }
                }
            }
            Source::Timer(timer) => timer.tick(),
            Source::Silence(silence) => silence.tick(),
            Source::Net(net, line) => {
                if line.shared.frames.load(Ordering::Relaxed) >= MOST_FRAMES {
                    clock::sleep_ns(NET_PAUSE_NS); // as for the console
                    return;
                }
                match net.read() {
                    Taken::Frames(frames) => {
                        line.shared.frames.fetch_add(frames.len(), Ordering::Relaxed);
                        frames.into_iter().for_each(|frame| line.send(HostEvent::Frame(frame)));
                    }
                    Taken::Lost(why) => {
                        let _ = ops.remove(Events::new(net.as_ref(), EventSet::IN));
                        line.send(HostEvent::NetLost(why));
                    }
                }
            }
            Source::Alarm { alarm, target } => {
                alarm.take();
                target.kick();
            }
            Source::Console { file, keys, line } => {
                if line.shared.queued.load(Ordering::Relaxed) >= MOST_QUEUED {
                    // The guest is slower than its input: leave the rest where it is. The other sources still have their
                    // turn between two of these.
                    clock::sleep_ns(FULL_PAUSE_NS);
                    return;
                }
                let mut buffer = [0; 4096];
                match file.read(&mut buffer) {
                    Ok(0) | Err(_) => {
                        let _ = ops.remove(Events::new(file, EventSet::IN));
                        line.send(HostEvent::ConsoleClosed);
                    }
                    Ok(count) => {
                        line.shared.queued.fetch_add(count, Ordering::Relaxed);
                        if console_bytes(&buffer[..count], keys.as_mut(), line) {
                            line.stop(StopReason::User);
                        }
                    }
                }
            }
        }
    }
}

/// Passes console bytes on. True if the user wants to quit.
fn console_bytes(bytes: &[u8], keys: Option<&mut Keys>, line: &Line) -> bool {
    let Some(keys) = keys else {
        line.send(HostEvent::Console(bytes.to_vec()));
        return false;
    };
    let mut typed = Vec::new();
    let mut quit = false;
    for byte in bytes {
        let key = keys.take(*byte);
        if !matches!(key, Key::Byte(_)) && !typed.is_empty() {
            line.send(HostEvent::Console(std::mem::take(&mut typed)));
        }
        match key {
            Key::Byte(byte) => typed.push(byte),
            Key::Mark => {
                line.send(HostEvent::Mark(MarkSource::Key));
                prompt("");
            }
            Key::Naming(name) => prompt(&name),
            Key::Named(name) => {
                eprintln!();
                line.send(HostEvent::MarkName(Some(name)));
            }
            Key::Unmark => {
                eprintln!();
                line.send(HostEvent::MarkName(None));
            }
            Key::Quit => quit = true,
            Key::Help => {
                say!(
                    "Ctrl-A x quits, Ctrl-A b sets a bookmark, Ctrl-A Ctrl-A sends Ctrl-A, Ctrl-A h shows this"
                )
            }
            Key::Nothing => {}
        }
    }
    if !typed.is_empty() {
        line.send(HostEvent::Console(typed));
    }
    quit
}

/// Shows a bookmark's name while it is typed, on a line of its own.
fn prompt(name: &str) {
    eprint!("\r\x1b[Kscribe-vmm: name of the bookmark: {name}");
}

/// Seals, limits, silence, and stops that the guest does not come to.
struct Timer {
    fd: TimerFd,
    watch: Watch,
    line: Line,
    start: u64,
    sealed: u64,
    /// exits at the last change, when that was, and whether the silence since was named
    progress: (u64, u64, bool),
    limit_sent: bool,
    stop_sent: Option<u64>,
}

impl Timer {
    fn new(fd: TimerFd, watch: Watch, line: Line) -> Self {
        let now = clock::monotonic_ns();
        Self {
            fd,
            watch,
            line,
            start: now,
            sealed: now,
            progress: (0, now, false),
            limit_sent: false,
            stop_sent: None,
        }
    }

    fn tick(&mut self) {
        let _ = self.fd.wait();
        let now = clock::monotonic_ns();
        let shared = &self.line.shared;
        let here = shared.exits.load(Ordering::Relaxed);
        let exits = here.saturating_sub(shared.captured.load(Ordering::Relaxed)); // the guest's own
        if exits != self.progress.0 || !shared.running.load(Ordering::Relaxed) {
            self.progress = (exits, now, false);
        }
        let silent = now - self.progress.1;
        if now - self.sealed >= SEAL_EVERY_NS {
            self.sealed = now;
            shared.seal_due.store(true, Ordering::Relaxed);
            if silent >= SEAL_EVERY_NS {
                self.line.target.kick(); // no sync point will look at it soon
            }
        }
        let deaf = self.watch.lives && !self.watch.anywhere && !shared.captures.load(Ordering::Relaxed);
        if silent >= SILENCE_NS && !self.progress.2 && deaf {
            self.progress.2 = true;
            let stop = if self.watch.console == ConsoleSource::Terminal { "Ctrl-A x" } else { "Ctrl-C" };
            say!(
                "the guest has made no exit for 2 s (exit:{here}): it computes, and without a branch \
                 counter neither time nor input reaches it until it does I/O; {stop} stops"
            );
        }
        if self.watch.host_limit.is_some_and(|limit| now - self.start >= limit) {
            self.stop(StopReason::HostTime);
        } else if self.watch.max_silence.is_some_and(|limit| silent >= limit) {
            self.stop(StopReason::Silence);
        }
        if self.line.shared.stopping.load(Ordering::Relaxed) {
            self.stop_sent.get_or_insert(now);
        }
        if self.stop_sent.is_some_and(|at| now - at >= STOP_GRACE_NS) && silent >= STOP_GRACE_NS {
            self.line.shared.force_stop.store(true, Ordering::Relaxed);
            self.line.target.kick();
        } else if self.line.shared.force_stop.load(Ordering::Relaxed) {
            self.line.target.kick();
        }
    }

    fn stop(&mut self, reason: StopReason) {
        if !self.limit_sent {
            self.limit_sent = true;
            self.line.stop(reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_ends_the_run_and_forces_a_silent_guest() {
        signals::prepare().unwrap();
        kick::prepare().unwrap();
        let watch = Watch {
            console: ConsoleSource::None,
            host_limit: Some(1),
            max_silence: None,
            anywhere: false,
            capture_after: None,
            lives: true,
        };
        let host = HostLoop::start(watch, kick::Target::current()).unwrap();
        host.shared.running.store(true, Ordering::Relaxed);
        let event = host.events.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(event, HostEvent::Stop(StopReason::HostTime));
        while !host.shared.force_stop.load(Ordering::Relaxed) {
            clock::sleep_ns(1_000_000);
        }
    }
}
