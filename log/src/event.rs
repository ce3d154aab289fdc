//! What a recording holds: events, each at a position of one vCPU.

use crate::position::Position;

mod capture;
mod device;
mod marker;

pub use capture::{Capture, CapturePages, MAX_CAPTURE_PAGES, MAX_CAPTURE_STATE, PageCodec, UnpackError};
pub use device::{DeviceInput, MAX_ENTROPY, MAX_FRAME, MIN_FRAME};
pub use marker::{ExitAnswer, ExitKind, MAX_PAGES, MAX_REGISTER_NAME, MAX_REGISTERS, Register};

/// Line number of a spurious interrupt, in [`Body::Interrupt`].
pub const SPURIOUS: u8 = 255;

/// Most bytes in one event's data: console bytes, a name, a message. Longer input is several events.
pub const MAX_DATA: usize = 64 * 1024;
/// Most bytes of one x86 instruction (Intel SDM volume 2, 2.3.11).
pub const MAX_INSTRUCTION: usize = 15;

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Number of the vCPU whose execution `position` counts.
    pub vcpu: u32,
    /// Where that vCPU was.
    pub position: Position,
    /// What happened there.
    pub body: Body,
}

/// What happened. A reader refuses an unknown kind that must be understood and skips the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Bytes from outside offered to serial port 0. Must be understood.
    ConsoleInput {
        /// The bytes, at most [`MAX_DATA`].
        bytes: Vec<u8>,
    },
    /// While the guest idled at the position, guest time moved on: to an input that arrived before the next deadline, or
    /// to a stop. What follows at the position happens then. Must be understood.
    TimeAdjust {
        /// Nanoseconds since the guest came to the position, deadlines that passed meanwhile included.
        nanoseconds: u64,
    },
    /// A machine that has left its parent recording here was told so: the guest's kernel gets fresh entropy, the guest's
    /// clock is moved, or both. Must be understood.
    Branch {
        /// The entropy.
        seed: Option<[u8; 32]>,
        /// What the real-time clock shows from here on, in seconds since 1970.
        wall_clock: Option<u64>,
    },
    /// Pages of the captured sync point whose [`Body::Capture`] follows at the same position. Must be understood.
    CapturePages(CapturePages),
    /// What the guest has become on its way from the exit before to this position: a replay goes on from there. Takes the
    /// place of an exit. Must be understood.
    Capture(Capture),
    /// Something from outside came to a virtio device. Must be understood.
    Device {
        /// Number of its slot.
        slot: u8,
        /// What came.
        input: DeviceInput,
    },
    /// Digests to compare with those of a replay. Must be understood.
    Checkpoint {
        /// Rolling digest of the registers at every exit so far.
        registers: u64,
        /// Digests of the whole state, when they were taken here.
        full: Option<FullDigest>,
    },
    /// A checkpoint that is there only because a segment was sealed here. Must be understood, and is dropped when the
    /// recording is closed: where a recording was sealed depends on the host's clock.
    Seal {
        /// Rolling digest of the registers at every exit so far.
        registers: u64,
        /// Guest time here, in nanoseconds.
        guest_time: u64,
    },
    /// The guest named this position. May be skipped.
    Bookmark {
        /// The name, at most [`MAX_DATA`] bytes of UTF-8.
        name: String,
    },
    /// The vCPU took an external interrupt here. Follows from device state, so it is for reading and checking only.
    /// May be skipped.
    Interrupt {
        /// The vector in the IDT.
        vector: u8,
        /// The line of the interrupt controllers; [`SPURIOUS`] if no line asked for it.
        irq: u8,
    },
    /// Registers here, and hashes of the pages of RAM written since the last such marker at another position. May be
    /// skipped. More pages than [`MAX_PAGES`] are several of these at one position: [`Body::states`].
    State {
        /// All registers, or none in those that only hold more pages.
        registers: Vec<Register>,
        /// Frame number (address / 4096) and hash of each page, frames ascending.
        pages: Vec<(u64, u64)>,
    },
    /// The exit that ends at this position, served. May be skipped.
    Exit {
        /// What the guest did.
        what: ExitKind,
        /// Port, guest physical address or number of the MSR; 0 for HLT.
        address: u64,
        /// Bytes of the access; 0 for HLT.
        size: u8,
        /// The value written; 0 if none.
        value: u64,
        /// What the machine answered.
        answer: ExitAnswer,
        /// Conditional branches retired between the exit before and this one.
        branches: u64,
        /// Instructions since the last of these.
        steps: u64,
    },
    /// A disk served a request. May be skipped.
    DiskRequest {
        /// Number of the disk.
        device: u8,
        /// Its type in the virtio specification, 5.2.6: 0 read, 1 write, 4 flush, ...
        request: u32,
        /// Where it starts, in sectors of 512 bytes.
        sector: u64,
        /// Bytes moved.
        bytes: u64,
        /// The status the guest was given: 0 done, 1 error, 2 not supported.
        status: u8,
    },
    /// Bytes that the guest sent to serial port 0. May be skipped.
    ConsoleOutput {
        /// The bytes, at most [`MAX_DATA`].
        bytes: Vec<u8>,
    },
    /// The recording is over. Must be understood, always the last event, and in every closed recording.
    End(End),
}

/// Digests of the guest's whole state at a position. What they cover is fixed by the header's `digest_version`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FullDigest {
    /// All vCPU registers.
    pub cpu: u64,
    /// Guest RAM.
    pub ram: u128,
    /// The devices' registers; not what is on a disk.
    pub devices: u64,
    /// Guest time, in nanoseconds.
    pub guest_time: u64,
}

/// How and where a recording ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Why.
    pub cause: EndCause,
    /// Rolling digest of the registers at every exit.
    pub registers: u64,
    /// Digests of the whole state, when they were taken.
    pub full: Option<FullDigest>,
    /// Exits served, all vCPUs together.
    pub exits: u64,
    /// Guest time, in nanoseconds.
    pub guest_time: u64,
    /// Inputs recorded.
    pub inputs: u64,
}

/// Why a recording ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndCause {
    /// The guest switched the machine off.
    PowerOff {
        /// The status it gave.
        status: u8,
    },
    /// The guest reset the machine.
    Reset,
    /// The guest's kernel reported a panic.
    Panic {
        /// Its text, at most [`MAX_DATA`] bytes.
        message: String,
    },
    /// A vCPU shut down on a triple fault.
    TripleFault {
        /// Where it shut down, as far as the engine can tell.
        rip: u64,
        /// The instruction there, at most [`MAX_INSTRUCTION`] bytes; empty if it could not be read.
        bytes: Vec<u8>,
        /// The registers at the last exit: those at the fault are gone on some hosts.
        last_exit: Box<GeneralRegisters>,
    },
    /// The engine cannot execute an instruction.
    RefusedInstruction {
        /// Its address.
        rip: u64,
        /// Its bytes, at most [`MAX_INSTRUCTION`]; empty if they could not be read.
        bytes: Vec<u8>,
    },
    /// The guest halted and nothing can wake it.
    HaltedForever,
    /// It was stopped from outside.
    Stopped {
        /// By what.
        reason: StopReason,
    },
}

/// What stopped a recording from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The user, at the console.
    User,
    /// The limit on host time.
    HostTime,
    /// The limit on guest time.
    GuestTime,
    /// The limit on host time without an exit.
    Silence,
    /// A signal to the recorder.
    Signal,
}

/// The general registers of one vCPU, RIP and RFLAGS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the registers' own names")]
pub struct GeneralRegisters {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
}

impl GeneralRegisters {
    /// Name and value of each, in the order of the format.
    pub fn named(&self) -> [(&'static str, u64); 18] {
        [
            ("rax", self.rax),
            ("rbx", self.rbx),
            ("rcx", self.rcx),
            ("rdx", self.rdx),
            ("rsi", self.rsi),
            ("rdi", self.rdi),
            ("rsp", self.rsp),
            ("rbp", self.rbp),
            ("r8", self.r8),
            ("r9", self.r9),
            ("r10", self.r10),
            ("r11", self.r11),
            ("r12", self.r12),
            ("r13", self.r13),
            ("r14", self.r14),
            ("r15", self.r15),
            ("rip", self.rip),
            ("rflags", self.rflags),
        ]
    }
}

impl Event {
    /// An event of vCPU 0.
    pub fn new(position: Position, body: Body) -> Event {
        Event { vcpu: 0, position, body }
    }
}

impl Body {
    /// The kind's name, as `scribe-vmm log` prints it.
    pub fn name(&self) -> &'static str {
        match self {
            Body::ConsoleInput { .. } => "console-input",
            Body::TimeAdjust { .. } => "time-adjust",
            Body::Branch { .. } => "branch",
            Body::CapturePages(_) => "capture-pages",
            Body::Capture(_) => "capture",
            Body::Device { input, .. } => input.name(),
            Body::Checkpoint { .. } => "checkpoint",
            Body::Seal { .. } => "seal",
            Body::Bookmark { .. } => "bookmark",
            Body::Interrupt { .. } => "interrupt",
            Body::State { .. } => "state",
            Body::Exit { .. } => "exit",
            Body::DiskRequest { .. } => "disk-request",
            Body::ConsoleOutput { .. } => "console-output",
            Body::End(_) => "end",
        }
    }

    /// Whether it is only for reading: it follows from the rest, a replay does not need it, and `shrink` drops it.
    /// A bookmark is none: the guest set it, and a replay checks it.
    pub fn is_marker(&self) -> bool {
        matches!(
            self,
            Body::Interrupt { .. }
                | Body::State { .. }
                | Body::Exit { .. }
                | Body::DiskRequest { .. }
                | Body::ConsoleOutput { .. }
        )
    }

    /// The rolling digest of the registers, for the kinds that can end a segment.
    pub fn registers(&self) -> Option<u64> {
        match self {
            Body::Checkpoint { registers, .. } | Body::Seal { registers, .. } => Some(*registers),
            Body::End(end) => Some(end.registers),
            _ => None,
        }
    }
}
