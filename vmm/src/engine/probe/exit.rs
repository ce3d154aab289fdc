//! Why a probe guest stopped, as an owned value that can be compared and shown.

use std::fmt;

use kvm_bindings::kvm_run;
use kvm_ioctls::{MsrExitReason, VcpuExit};

use super::layout::{INT_VECTOR, IRQ_VECTOR};

/// One stop of a probe guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// An OUT to a port below 0x80: the guest reached a marked place.
    Mark(u8),
    /// The default handler of this vector ran.
    Vector(u8),
    /// An IN from this port.
    In(u16),
    /// A read or write of memory that is not there.
    Mmio { address: u64, write: bool },
    /// HLT.
    Halt,
    /// The guest can take an interrupt.
    InterruptWindow,
    /// A single-step or breakpoint was reported to the VMM.
    Debug { pc: u64, dr6: u64 },
    /// RDMSR of a filtered or unknown MSR.
    ReadMsr { index: u32, filtered: bool },
    /// WRMSR of a filtered or unknown MSR.
    WriteMsr { index: u32, filtered: bool },
    /// Triple fault.
    Shutdown,
    /// KVM gave up; suberror 1 is an instruction that its emulator does not know.
    InternalError { suberror: u32 },
    /// The processor refused to enter the guest.
    FailEntry { reason: u64 },
    /// The alarm had to bring it back after this many milliseconds.
    DidNotComeBack { after_ms: u64 },
    /// Not entered: earlier guests used up the time of the whole probe.
    NotRun,
    /// An exit reason that no probe expects.
    Other(u32),
}

impl Exit {
    /// Copies what KVM reported. `suberror` is that of an internal error, which `VcpuExit` does not carry.
    pub(super) fn from_kvm(exit: &VcpuExit<'_>, suberror: u32) -> Self {
        match exit {
            VcpuExit::IoOut(port, _) => match u8::try_from(*port) {
                Ok(port) if port & 0x80 != 0 => Self::Vector(port & 0x7f),
                Ok(port) => Self::Mark(port),
                Err(_) => Self::Other(kvm_bindings::KVM_EXIT_IO),
            },
            VcpuExit::IoIn(port, _) => Self::In(*port),
            VcpuExit::MmioRead(address, _) => Self::Mmio { address: *address, write: false },
            VcpuExit::MmioWrite(address, _) => Self::Mmio { address: *address, write: true },
            VcpuExit::Hlt => Self::Halt,
            VcpuExit::IrqWindowOpen => Self::InterruptWindow,
            VcpuExit::Debug(debug) => Self::Debug { pc: debug.pc, dr6: debug.dr6 },
            VcpuExit::X86Rdmsr(msr) => {
                Self::ReadMsr { index: msr.index, filtered: msr.reason == MsrExitReason::Filter }
            }
            VcpuExit::X86Wrmsr(msr) => {
                Self::WriteMsr { index: msr.index, filtered: msr.reason == MsrExitReason::Filter }
            }
            VcpuExit::Shutdown => Self::Shutdown,
            VcpuExit::InternalError => Self::InternalError { suberror },
            VcpuExit::FailEntry(reason, _) => Self::FailEntry { reason: *reason },
            VcpuExit::Unsupported(reason) => Self::Other(*reason),
            VcpuExit::Exception => Self::Other(kvm_bindings::KVM_EXIT_EXCEPTION),
            VcpuExit::SetTpr => Self::Other(kvm_bindings::KVM_EXIT_SET_TPR),
            VcpuExit::Nmi => Self::Other(kvm_bindings::KVM_EXIT_NMI),
            VcpuExit::Hypercall(_) => Self::Other(kvm_bindings::KVM_EXIT_HYPERCALL),
            VcpuExit::MemoryFault { .. } => Self::Other(kvm_bindings::KVM_EXIT_MEMORY_FAULT),
            VcpuExit::SystemEvent(..) => Self::Other(kvm_bindings::KVM_EXIT_SYSTEM_EVENT),
            _ => Self::Other(kvm_bindings::KVM_EXIT_UNKNOWN),
        }
    }

    /// Whether KVM itself could not go on with the guest's instruction.
    pub(super) fn is_refusal(self) -> bool {
        matches!(self, Self::InternalError { .. } | Self::FailEntry { .. })
    }
}

/// The suberror of an internal error; meaningless after any other exit.
#[allow(unsafe_code)] // a field of the kvm_run union
pub(super) fn suberror(run: &kvm_run) -> u32 {
    if run.exit_reason != kvm_bindings::KVM_EXIT_INTERNAL_ERROR {
        return 0;
    }
    // SAFETY: the exit reason says that this is the member the kernel wrote; every bit pattern is a valid u32.
    unsafe { run.__bindgen_anon_1.internal.suberror }
}

/// The mnemonic of an exception vector.
fn exception(vector: u8) -> &'static str {
    match vector {
        0 => "#DE",
        1 => "#DB",
        2 => "NMI",
        3 => "#BP",
        4 => "#OF",
        5 => "#BR",
        6 => "#UD",
        7 => "#NM",
        8 => "#DF",
        10 => "#TS",
        11 => "#NP",
        12 => "#SS",
        13 => "#GP",
        14 => "#PF",
        16 => "#MF",
        17 => "#AC",
        18 => "#MC",
        19 => "#XM",
        _ => "an exception",
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mark(port) => write!(f, "it went on to mark {port:#x}"),
            Self::Vector(INT_VECTOR) => write!(f, "the software interrupt arrived"),
            Self::Vector(IRQ_VECTOR) => write!(f, "the interrupt arrived"),
            Self::Vector(vector) => write!(f, "it raised {} (vector {vector})", exception(*vector)),
            Self::In(port) => write!(f, "it read port {port:#x}"),
            Self::Mmio { address, write: true } => write!(f, "MMIO write at {address:#x}"),
            Self::Mmio { address, write: false } => write!(f, "MMIO read at {address:#x}"),
            Self::Halt => write!(f, "it halted"),
            Self::InterruptWindow => write!(f, "interrupt window"),
            Self::Debug { pc, dr6 } => write!(f, "debug exit at {pc:#x}, DR6 {dr6:#x}"),
            Self::ReadMsr { index, filtered } => {
                write!(f, "RDMSR {index:#x} exit ({})", if *filtered { "filtered" } else { "not filtered" })
            }
            Self::WriteMsr { index, filtered } => {
                write!(f, "WRMSR {index:#x} exit ({})", if *filtered { "filtered" } else { "not filtered" })
            }
            Self::Shutdown => write!(f, "triple fault"),
            Self::InternalError { suberror: 1 } => write!(f, "KVM could not emulate the instruction"),
            Self::InternalError { suberror } => write!(f, "KVM internal error, suberror {suberror}"),
            Self::FailEntry { reason } => write!(f, "guest entry failed, reason {reason:#x}"),
            Self::DidNotComeBack { after_ms } => write!(f, "it did not come back within {after_ms} ms"),
            Self::NotRun => write!(f, "not run: earlier probes used up the time"),
            Self::Other(reason) => write!(f, "unexpected exit, reason {reason}"),
        }
    }
}
