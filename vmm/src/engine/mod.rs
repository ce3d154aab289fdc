//! What executes guest instructions: one trait, and the types that cross it.
//!
//! An engine runs the guest until a [`Stop`] and knows nothing of devices, logs or policies. The loop that uses it is
//! in [`crate::machine`]: run, serve the exit, `finish`, and only then is the machine at a sync point.

pub mod approach;
pub mod kvm;
pub mod pmu;
pub mod probe;
pub mod soft;

pub use scribe_types::cpu;
pub use scribe_types::executed::{BlockSink, ExecutedBlock};
pub use scribe_types::stop::{Answer, Exit, Fault, Progress, Stop};

use cpu::{CpuState, Registers};
use scribe_log::snapshots::Part;

/// Kinds of parts that some engine keeps beyond the architectural state; another engine has no use for them.
pub const PRIVATE_KINDS: [&str; 1] = [scribe_soft_cpu::SoftPrivate::KIND];

/// A host-side failure of the engine: not the guest's doing.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// An ioctl failed.
    #[error("{operation}: {source}")]
    Ioctl {
        /// the ioctl's name
        operation: &'static str,
        /// errno
        source: std::io::Error,
    },
    /// The host's KVM lacks something the engine needs.
    #[error("this host's KVM cannot be used: {0}")]
    Unsuitable(String),
    /// KVM stopped in a way that no guest on this platform can cause.
    #[error("unexpected KVM exit: {0}")]
    Unexpected(String),
    /// The guest went past a place that it was to stop at, or may have.
    #[error(
        "the guest ran past a place: it was to stop {} branches and {} instructions behind its last exit, and came back \
         from a run {branches} branches behind it; the processor's overflow interrupt was lost, or came more than {skid} \
         branches late (`scribe-vmm doctor --pmu` checks that)", wanted.branches, wanted.steps
    )]
    Overshoot {
        /// where it was to stop
        wanted: Progress,
        /// branches behind the last exit where it came back
        branches: u64,
        /// by how many branches an overflow was expected to be late at most
        skid: u64,
    },
    /// The counter and single steps disagree.
    #[error(
        "the processor's counter says {counter} branches since the last exit, where single steps say {stepped}: it cannot \
         be used (`scribe-vmm doctor --pmu` says why, --counter off does without)"
    )]
    Miscounted {
        /// the counter's number
        counter: u64,
        /// the number known from steps, or from the counter before
        stepped: u64,
    },
    /// The engine was asked for something it cannot do.
    #[error("{0}")]
    Unsupported(&'static str),
    /// A state that the engine's CPU cannot hold.
    #[error(transparent)]
    State(#[from] scribe_soft_cpu::StateError),
    /// A part that an engine keeps for itself cannot be written or read.
    #[error("the processor's part {kind:?} of a saved state: {reason}")]
    Private {
        /// the part's kind
        kind: String,
        /// what is wrong
        reason: String,
    },
    /// Guest memory could not be registered or reached.
    #[error("guest memory: {0}")]
    Memory(String),
}

/// One virtual CPU and the hardware under it.
pub trait Engine {
    /// Runs the guest until something happens, at the latest until it is at `until` or, if that lies in the middle of a
    /// longer way, right behind it, counted from the last exit: [`Stop::Reached`]. That comes as soon as the instruction
    /// before the place has retired, before anything else happens there and before any other stop. Only engines that
    /// [`count`](Engine::counts) or [`step`](Engine::can_step) take a place to stop at.
    ///
    /// After [`Stop::Exit`] the caller must [`answer`](Engine::answer) and then [`finish`](Engine::finish).
    ///
    /// # Errors
    /// Host-side failures only; everything a guest can cause is a [`Stop`].
    fn run(&mut self, until: Option<Progress>) -> Result<Stop, EngineError>;

    /// True if the engine counts branches and steps, and can stop at any of them.
    fn counts(&self) -> bool {
        false
    }

    /// True if [`progress`](Engine::progress) has the steps at every stop; else at places that were asked for only.
    fn counts_steps(&self) -> bool {
        self.counts()
    }

    /// True if the engine, where it does not count, comes to any place by stepping all the way from the exit before: no run
    /// without a place to stop at may lie between.
    fn can_step(&self) -> bool {
        false
    }

    /// How far the vCPU has come since its last exit was finished. At an exit that is not finished yet: up to the
    /// instruction that causes it. [`Progress::NONE`] where nobody counts.
    fn progress(&self) -> Progress {
        Progress::NONE
    }

    /// The vCPU, whose state has just been set, is `at` so far behind its last exit. For a state that was saved without parts
    /// of this engine's own, which know.
    ///
    /// # Errors
    /// An engine that stops at exits only.
    fn set_progress(&mut self, at: Progress) -> Result<(), EngineError> {
        if at == Progress::NONE {
            return Ok(());
        }
        Err(EngineError::Unsupported("a state between two exits needs an engine with a branch counter"))
    }

    /// After a kick: the next place, counted from the last exit, at which the guest can be stopped. Not where it is: what
    /// has been delivered there a replay would not know of. `None`: none can be named.
    fn place_ahead(&self) -> Option<Progress> {
        let Progress { branches, steps } = self.progress();
        Some(Progress { branches, steps: steps.saturating_add(1) })
    }

    /// The guest is not going to run any more: counters of the host's processor can be used by others.
    fn stop_counting(&mut self) {}

    /// Instructions retired since the vCPU was made (REP: iterations), where somebody counts them.
    fn instructions(&self) -> Option<u64> {
        None
    }

    /// The machine has written these guest frames (devices, the clock page), ascending: what the engine keeps of the
    /// code in them is out of date. The processor of a host sees to that itself.
    fn invalidate(&mut self, _frames: &[u64]) {}

    /// What RDTSC reads, where the guest has one: `now` at the last exit, and `ns_per_branch` more for each branch since.
    fn set_clock(&mut self, _now: u64, _ns_per_branch: u64) {}

    /// Supplies the answer to the exit being served.
    fn answer(&mut self, answer: Answer);

    /// Retires the instruction that caused the last exit. `Some` is the next exit of the same instruction (a further
    /// element of string I/O, the second half of a wide MMIO access): it counts, and must be served and finished too.
    /// `None`: the instruction is complete, and this is a sync point.
    ///
    /// # Errors
    /// Host-side failures only.
    fn finish(&mut self) -> Result<Option<Exit>, EngineError>;

    /// General registers, RIP and RFLAGS as of the last stop. Free.
    fn registers(&self) -> Registers;

    /// True if an external interrupt can be injected right now: IF is set, nothing is pending, no interrupt shadow.
    fn can_inject(&self) -> bool;

    /// Injects external interrupt `vector`. Only at a sync point or an interrupt window, only if
    /// [`can_inject`](Engine::can_inject), and at most once before the next [`run`](Engine::run).
    ///
    /// # Errors
    /// Host-side failures, or an injection that the vCPU cannot take.
    fn inject(&mut self, vector: u8) -> Result<(), EngineError>;

    /// Asks for [`Stop::InterruptWindow`] as soon as the guest can take an interrupt; `false` takes that back.
    fn request_window(&mut self, wanted: bool);

    /// The whole architectural state of the vCPU. Only at a sync point.
    ///
    /// # Errors
    /// Host-side failures only.
    fn state(&self) -> Result<CpuState, EngineError>;

    /// Replaces the whole architectural state of the vCPU. Only at a sync point. What the engine keeps beyond it is as at
    /// power-on, and nothing has been counted since the last exit.
    ///
    /// # Errors
    /// Host-side failures, or a state this host cannot hold.
    fn set_state(&mut self, state: &CpuState) -> Result<(), EngineError>;

    /// What the engine keeps beyond the architectural state and needs to go on in exactly the same way, as parts. Where
    /// [`state`](Self::state) may be called, unless the guest cannot go on.
    ///
    /// # Errors
    /// Host-side failures, or a place where the vCPU cannot be saved.
    fn save_private(&self) -> Result<Vec<Part>, EngineError> {
        Ok(Vec::new())
    }

    /// The kinds of parts that [`restore_private`](Self::restore_private) takes.
    fn private_kinds(&self) -> &'static [&'static str] {
        &[]
    }

    /// Takes back a part that an engine of the same kind has saved, after [`set_state`](Self::set_state). With both, over
    /// the same RAM, the guest goes on exactly as from where they were taken, counts included.
    ///
    /// # Errors
    /// It is damaged, of another version, or does not fit the state and the RAM that are there. Nothing has changed then.
    fn restore_private(&mut self, _part: &Part) -> Result<(), EngineError> {
        Ok(())
    }

    /// From now on `sink` is told of each block of instructions that has retired, up to each stop; `None`: nobody is. The
    /// guest, its counts and digests see nothing of it.
    ///
    /// # Errors
    /// An engine that does not know what it executes.
    fn trace_blocks(&mut self, sink: Option<BlockSink>) -> Result<(), EngineError> {
        match sink {
            None => Ok(()),
            Some(_) => Err(EngineError::Unsupported("executed code can be told by the soft engine only")),
        }
    }

    /// Starts tracking which pages the guest writes. Idempotent.
    ///
    /// # Errors
    /// Host-side failures only.
    fn track_dirty_pages(&mut self) -> Result<(), EngineError>;

    /// What the first write to a page costs the guest (ns of host time) while tracking, after each call of
    /// [`take_dirty_pages`](Engine::take_dirty_pages).
    fn first_write_ns(&self) -> u64 {
        0
    }

    /// Guest frame numbers written since the last call, ascending. Empty unless tracking.
    ///
    /// # Errors
    /// Host-side failures only.
    fn take_dirty_pages(&mut self) -> Result<Vec<u64>, EngineError>;
}
