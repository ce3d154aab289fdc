//! What an engine and the machine say to each other: stops, exits, answers, progress.

/// Why the engine stopped running the guest. Owned, so that it can be logged, compared and faked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// The guest did something the machine must serve. The only kind that counts.
    Exit(Exit),
    /// The host interrupted the engine (a signal). Never counted, never changes guest state.
    Kicked,
    /// The guest has come to the place that the engine was asked to stop at. Only engines that count come to it.
    Reached,
    /// The guest can take an interrupt now, as asked for.
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

/// How far a vCPU has come since its last exit was finished (or since power-on): the second and third part of a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Progress {
    /// Conditional branches retired: Jcc, JCXZ/JECXZ/JRCXZ, LOOP/LOOPcc, taken or not.
    pub branches: u64,
    /// Instructions retired since the last of these branches; each iteration of a REP string instruction is one.
    pub steps: u64,
}

impl Progress {
    /// Right behind the exit.
    pub const NONE: Self = Self { branches: 0, steps: 0 };
}
