//! What executes guest instructions: one trait, and the types that cross it.
//!
//! An engine runs the guest until a [`Stop`] and knows nothing of devices, logs or policies. The loop that uses it is
//! in [`crate::machine`]: run, serve the exit, `finish`, and only then is the machine at a sync point.

pub mod kvm;
pub mod probe;

pub use scribe_types::cpu;
pub use scribe_types::stop::{Answer, Exit, Fault, Progress, Stop};

use cpu::{CpuState, Registers};

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
    /// Guest memory could not be registered or reached.
    #[error("guest memory: {0}")]
    Memory(String),
}

/// One virtual CPU and the hardware under it.
pub trait Engine {
    /// Runs the guest until something happens.
    ///
    /// After [`Stop::Exit`] the caller must [`answer`](Engine::answer) and then [`finish`](Engine::finish).
    ///
    /// # Errors
    /// Host-side failures only; everything a guest can cause is a [`Stop`].
    fn run(&mut self) -> Result<Stop, EngineError>;

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

    /// Replaces the whole architectural state of the vCPU. Only at a sync point.
    ///
    /// # Errors
    /// Host-side failures, or a state this host cannot hold.
    fn set_state(&mut self, state: &CpuState) -> Result<(), EngineError>;

    /// Starts tracking which pages the guest writes. Idempotent.
    ///
    /// # Errors
    /// Host-side failures only.
    fn track_dirty_pages(&mut self) -> Result<(), EngineError>;

    /// Guest frame numbers written since the last call, ascending. Empty unless tracking.
    ///
    /// # Errors
    /// Host-side failures only.
    fn take_dirty_pages(&mut self) -> Result<Vec<u64>, EngineError>;
}
