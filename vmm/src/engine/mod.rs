//! What executes guest instructions: one trait, and the types that cross it.
//!
//! An engine runs the guest until a [`Stop`] and knows nothing of devices, logs or policies. The loop that uses it is
//! in [`crate::machine`]: run, serve the exit, `finish`, and only then is the machine at a sync point.

pub mod cpu;
pub mod kvm;
pub mod probe;

use cpu::{CpuState, Registers};

/// Why the engine stopped running the guest. Owned, so that it can be logged, compared and faked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// The guest did something the machine must serve. The only kind that counts.
    Exit(Exit),
    /// The host interrupted the engine (a signal). Never counted, never changes guest state.
    Kicked,
    /// The guest can take an interrupt now, as asked for by [`Engine::request_window`].
    InterruptWindow,
    /// The guest cannot go on.
    Fault(Fault),
}

/// A guest-caused stop: one port or MMIO access of at most 8 bytes, HLT, or a filtered MSR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// IN, or one element of INS. `size` is 1, 2 or 4 bytes. Wants [`Answer::Value`].
    PortRead {
        /// I/O port
        port: u16,
        /// bytes
        size: u8,
    },
    /// OUT, or one element of OUTS.
    PortWrite {
        /// I/O port
        port: u16,
        /// bytes
        size: u8,
        /// the value written, zero-extended
        value: u32,
    },
    /// A load from an address that is not RAM, 1 to 8 bytes. Wants [`Answer::Value`].
    MmioRead {
        /// guest physical address
        address: u64,
        /// bytes
        size: u8,
    },
    /// A store to an address that is not RAM, 1 to 8 bytes.
    MmioWrite {
        /// guest physical address
        address: u64,
        /// bytes
        size: u8,
        /// the value written, zero-extended
        value: u64,
    },
    /// HLT. That the vCPU is halted is the machine's state, not the engine's.
    Halt,
    /// RDMSR of an MSR that is not native. Wants [`Answer::Value`] or [`Answer::GeneralProtection`].
    MsrRead {
        /// MSR number
        index: u32,
    },
    /// WRMSR of an MSR that is not native. Wants [`Answer::Done`] or [`Answer::GeneralProtection`].
    MsrWrite {
        /// MSR number
        index: u32,
        /// the value written
        value: u64,
    },
}

/// What the machine says to an [`Exit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The value read; the engine truncates it to the access's size.
    Value(u64),
    /// A write or a halt was served.
    Done,
    /// The MSR does not exist: raise #GP(0).
    GeneralProtection,
}

/// The guest cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Triple fault. On kvm_amd the vCPU has already been reset: its registers say nothing.
    TripleFault,
    /// The host could not execute an instruction (KVM_EXIT_INTERNAL_ERROR).
    Refused {
        /// guest RIP
        rip: u64,
        /// instruction bytes at RIP as far as they can be read, at most 15
        bytes: Vec<u8>,
        /// what the host said, for people
        detail: String,
    },
}

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
