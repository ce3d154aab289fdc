//! Recording and replaying hand-made guests through the library, each in a folder of its own.

use std::cell::RefCell;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use iced_x86::code_asm::CodeAssembler;
use scribe_log::header::{Host, Level, Pace};
use scribe_log::{EVENTS_FILE, Event, HEADER_FILE, Recording};
use scribe_vmm::session::config::{GuestConfig, Moved};
use scribe_vmm::session::console::Console;
use scribe_vmm::session::files::DigestCache;
use scribe_vmm::session::journal::Noting;
use scribe_vmm::session::replay::Outcome;
use scribe_vmm::session::start::{
    self, Connections, LiveReport, ReplayConfig, ReplayReport, StartError, Target,
};

use crate::engines;
use crate::places::Theatre;
use crate::tiny::{self, Emitted};

/// Kicks at intervals of so many microseconds.
pub const KICKS: (u64, u64) = (500, 3000);

/// A folder with guests and recordings. It belongs to the calling thread.
pub struct Bench {
    dir: tempfile::TempDir,
    cache: DigestCache,
}

/// What was recorded or run.
#[derive(Debug)]
pub struct Recorded {
    /// how it ended
    pub report: LiveReport,
    /// the guest's console
    pub output: Vec<u8>,
}

/// What was replayed.
#[derive(Debug)]
pub struct Replayed {
    /// how it ended
    pub report: ReplayReport,
    /// the guest's console
    pub output: Vec<u8>,
}

impl Bench {
    /// An empty one.
    #[expect(clippy::new_without_default, reason = "it makes a folder and blocks signals")]
    pub fn new() -> Self {
        start::prepare_process().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let cache = DigestCache::new(dir.path());
        Self { dir, cache }
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file and gives its path.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// The configuration of a guest made of what `emit` assembles, in file `kernel`.
    pub fn guest(&self, emit: impl FnOnce(&mut CodeAssembler) -> Emitted) -> GuestConfig {
        config(self.file("kernel", &tiny::kernel(emit)))
    }

    /// Records into `name`.
    pub fn record(&self, name: &str, guest: &GuestConfig, connections: Connections) -> Recorded {
        self.record_at(Level::Inputs, name, guest, connections)
    }

    /// Records into `name` what is of this level.
    pub fn record_at(
        &self,
        level: Level,
        name: &str,
        guest: &GuestConfig,
        connections: Connections,
    ) -> Recorded {
        self.record_noting(name, guest, connections, Noting { level, ..Noting::default() })
    }

    /// Records into `name`, and notes more.
    pub fn record_noting(
        &self,
        name: &str,
        guest: &GuestConfig,
        connections: Connections,
        noting: Noting,
    ) -> Recorded {
        let (mut console, output) = console();
        let directory = self.path(name);
        let target = Target { directory: &directory, overwrite: false, store: None, noting };
        let host = made_up_host();
        let report = start::record(guest, &self.cache, host, connections, &target, &mut console).unwrap();
        Recorded { report, output: output.take() }
    }

    /// Runs without recording.
    pub fn run(&self, guest: &GuestConfig, connections: Connections) -> Recorded {
        let (mut console, output) = console();
        let report =
            start::run(guest, &self.cache, connections, self.dir.path(), &mut console, false).unwrap();
        Recorded { report, output: output.take() }
    }

    /// Replays `name`.
    ///
    /// # Errors
    /// The library's: among them a divergence.
    pub fn replay(&self, name: &str, perturb: Option<(u64, u64)>) -> Result<Replayed, StartError> {
        self.replay_moved(&self.path(name), &Moved::default(), perturb)
    }

    /// Replays the recording in `directory`, whose files were moved.
    ///
    /// # Errors
    /// As [`replay`](Self::replay).
    pub fn replay_moved(
        &self,
        directory: &Path,
        moved: &Moved,
        perturb: Option<(u64, u64)>,
    ) -> Result<Replayed, StartError> {
        let (mut console, output) = console();
        let config = ReplayConfig {
            counter: Err("not in tests".into()),
            snapshots: false,
            directory,
            moved: moved.clone(),
            engine: engines::current().wish(),
            behaviour: None,
            quiet: true,
            perturb,
        };
        let report = start::replay(&config, &self.cache, &made_up_host(), self.dir.path(), &mut console)?;
        Ok(Replayed { report, output: output.take() })
    }

    /// Replays `name` `times` times, every other time under kicks: each must come to the recorded end with the recorded
    /// output. Gives the kicks sent.
    #[track_caller]
    pub fn replay_equal(&self, name: &str, recorded: &Recorded, times: u32) -> u64 {
        let end = &recorded.report.recorded.as_ref().unwrap().end;
        let mut kicks = 0;
        for time in 0..times {
            let replayed = self.replay(name, (time % 2 == 1).then_some(KICKS)).unwrap();
            assert_eq!(replayed.report.outcome, Outcome::Complete(end.clone()), "replay {time}");
            assert_eq!(replayed.report.exits, recorded.report.exits, "replay {time}");
            assert!(replayed.report.checks >= 1, "replay {time}: nothing was compared");
            assert!(replayed.output == recorded.output, "replay {time}: another output");
            kicks += replayed.report.kicks;
        }
        kicks
    }

    /// Recording `name`, to be played in this process.
    pub fn theatre(&self, name: &str) -> Theatre {
        let cache = DigestCache::new(self.dir.path());
        Theatre::at(self.path(name), self.path(""), engines::current().wish(), cache)
    }

    /// The recording's files, header and events.
    pub fn bytes(&self, name: &str) -> [Vec<u8>; 2] {
        [HEADER_FILE, EVENTS_FILE].map(|file| std::fs::read(self.path(name).join(file)).unwrap())
    }

    /// All events of a recording.
    pub fn events(&self, name: &str) -> Vec<Event> {
        let recording = Recording::open(&self.path(name)).unwrap();
        recording.events().map(Result::unwrap).collect()
    }
}

/// A guest of kernel file `kernel`, everything else fixed.
pub fn config(kernel: PathBuf) -> GuestConfig {
    GuestConfig {
        image: None,
        kernel: Some(kernel),
        initrd: None,
        append: None,
        platform: None,
        devices: Vec::new(),
        memory: tiny::RAM,
        command: Vec::new(),
        seed: [0x5a; 32],
        rtc: 1_767_225_600, // 2026-01-01
        pace: Pace::Max,
        digest_every: 0,
        engine: engines::current().wish(),
        cpu: None,
        sync_points: Some(engines::current().sync_points()),
        behaviour: None,
        counter: Err("no counter in tests".into()),
        chaos: None,
    }
}

/// Host facts that are no host's.
pub fn made_up_host() -> Host {
    Host {
        cpu_model: "no processor".into(),
        microcode: "0x0".into(),
        kernel_release: "0.0.0".into(),
        kvm_module: "none".into(),
    }
}

/// A console that keeps what it is given.
#[derive(Clone, Default)]
pub(crate) struct Kept(Rc<RefCell<Vec<u8>>>);

impl Kept {
    pub(crate) fn take(&self) -> Vec<u8> {
        self.0.take()
    }
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn console() -> (Console, Kept) {
    let kept = Kept::default();
    (Console::to(Box::new(kept.clone())), kept)
}
