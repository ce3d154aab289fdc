//! From a decoded instruction to an [`Op`]: operands here, handlers by group.
//!
//! Each group of instructions has a `lower` of its own that knows an instruction or passes. What no group knows, and what
//! the CPU profile does not have, is #UD.

use iced_x86::{CpuidFeature, Instruction, Mnemonic, OpKind, Register};

use crate::Behaviour;
use crate::cpu::{BLOCK_RIP, Cpu, DS, Done, HIGH, Mode, SS, ZERO};
use crate::op::{Ends, Handler, Lowered, Op};

/// What lowering depends on, besides the instruction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context {
    pub mode: Mode,
    pub behaviour: Behaviour,
    /// RDTSC and RDTSCP exist
    pub tsc: bool,
    /// RIP at the start of the block
    pub start: u64,
    /// the instruction has more than 15 bytes
    pub too_long: bool,
    /// width of the last instruction of the block that set all arithmetic flags; `None`: none has (see `int::bits`)
    pub flags_width: Option<u8>,
}

/// What a group answers.
pub(crate) struct Choice {
    pub run: Handler,
    pub ends: Ends,
}

impl Choice {
    /// An instruction after which the block goes on.
    pub(crate) fn on(run: Handler) -> Option<Self> {
        Some(Self { run, ends: Ends::No })
    }

    /// An instruction after which the block ends, because the processor's mode or pending events may have changed.
    pub(crate) fn last(run: Handler) -> Option<Self> {
        Some(Self { run, ends: Ends::Behind })
    }

    /// An instruction that sets RIP.
    pub(crate) fn jump(run: Handler) -> Option<Self> {
        Some(Self { run, ends: Ends::Jump })
    }

    /// A conditional branch.
    pub(crate) fn branch(run: Handler) -> Option<Self> {
        Some(Self { run, ends: Ends::Branch })
    }
}

/// Lowers one instruction. Never fails: what is not known raises #UD when it runs.
pub(crate) fn lower(i: &Instruction, c: &Context) -> Lowered {
    let mut op = operands(i, c);
    let undefined = Choice { run: undefined_opcode, ends: Ends::Jump };
    let choice = if i.is_invalid() {
        Choice { run: if c.too_long { too_long } else { undefined_opcode }, ends: Ends::Jump }
    } else if !in_profile(i, c) {
        undefined
    } else {
        crate::int::lower(i, &mut op, c)
            .or_else(|| crate::string::lower(i, &mut op, c))
            .or_else(|| crate::system::lower(i, &mut op, c))
            .or_else(|| crate::sse::lower(i, &mut op, c))
            .or_else(|| crate::x87::lower(i, &mut op, c))
            .unwrap_or(undefined)
    };
    op.run = choice.run;
    Lowered { op, ends: choice.ends }
}

fn undefined_opcode(cpu: &mut Cpu, _: &Op) -> Done {
    Err(cpu.undefined())
}

/// More than 15 bytes (Intel SDM vol. 2, 2.3.11).
fn too_long(cpu: &mut Cpu, _: &Op) -> Done {
    Err(cpu.general_protection())
}

/// True if the CPU profile has the instruction. CET's instructions are in the space of NOPs, and are NOPs without CET.
fn in_profile(i: &Instruction, c: &Context) -> bool {
    if matches!(i.mnemonic(), Mnemonic::Tzcnt | Mnemonic::Lzcnt) {
        return true; // REP BSF and REP BSR: docs/determinism.md
    }
    i.cpuid_features().iter().all(|feature| match feature {
        CpuidFeature::RDTSCP => c.tsc,
        // Its handler decides: CR4.TSD makes it #GP at CPL 3, as on processors, even where CPUID has no TSC.
        CpuidFeature::TSC => true,
        feature => PROFILE.contains(feature),
    })
}

/// The features of `scribe-v1`.
const PROFILE: &[CpuidFeature] = {
    use CpuidFeature as F;
    &[
        F::INTEL8086,
        F::INTEL8086_ONLY,
        F::INTEL186,
        F::INTEL286,
        F::INTEL286_ONLY,
        F::INTEL386,
        F::INTEL386_ONLY,
        F::INTEL486,
        F::X64,
        F::FPU,
        F::FPU287,
        F::FPU287XL_ONLY,
        F::FPU387,
        F::FPU387SL_ONLY,
        F::CMOV,
        F::CX8,
        F::CMPXCHG16B,
        F::CPUID,
        F::CLFSH,
        F::FXSR,
        F::MMX,
        F::MSR,
        F::MULTIBYTENOP,
        F::PAUSE,
        F::POPCNT,
        F::RDPMC,
        F::SEP,
        F::SMAP,
        F::SSE,
        F::SSE2,
        F::SSE3,
        F::SSSE3,
        F::SSE4_1,
        F::SSE4_2,
        F::SYSCALL,
        F::CET_IBT,
        F::CET_SS,
        F::PREFETCHW,
    ]
};

/// Number of a general register as handlers use it.
pub(crate) fn register(r: Register) -> u8 {
    match r {
        Register::AH => HIGH,
        Register::CH => HIGH | 1,
        Register::DH => HIGH | 2,
        Register::BH => HIGH | 3,
        Register::None => ZERO,
        Register::RIP | Register::EIP => BLOCK_RIP,
        // Of the byte registers only the whole register's number counts: SPL is RSP's.
        _ if r.is_gpr() => r.full_register().number() as u8,
        _ => r.number() as u8,
    }
}

/// Number of a segment register as in [`Cpu::segs`].
fn segment(r: Register) -> u8 {
    match r {
        Register::ES => 0,
        Register::CS => 1,
        Register::SS => 2,
        Register::FS => 4,
        Register::GS => 5,
        _ => DS as u8,
    }
}

/// The parts of an [`Op`] that most instructions use: the memory operand, immediates, the first two register operands.
fn operands(i: &Instruction, c: &Context) -> Op {
    let mut op = Op {
        run: undefined_opcode,
        imm: 0,
        disp: 0,
        next: (i.next_ip().wrapping_sub(c.start)) as u16,
        dst: ZERO,
        src: ZERO,
        base: ZERO,
        index: ZERO,
        scale: 0,
        seg: DS as u8,
        address: c.mode.bitness,
        size: 0,
        flat: false,
        rep: if i.has_repne_prefix() { 2 } else { u8::from(i.has_rep_prefix()) },
        extra: 0,
        flags: 0,
    };
    let mut registers = 0;
    for n in 0..i.op_count() {
        match i.op_kind(n) {
            OpKind::Register => {
                let number = register(i.op_register(n));
                match registers {
                    0 => op.dst = number,
                    1 => op.src = number,
                    _ => op.extra = number,
                }
                registers += 1;
            }
            OpKind::Memory => memory(i, c, &mut op),
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                op.imm = i.near_branch_target().wrapping_sub(c.start);
            }
            OpKind::Immediate8_2nd => op.extra = i.immediate8_2nd(),
            OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64 => op.imm = i.immediate(n),
            OpKind::MemorySegSI
            | OpKind::MemorySegESI
            | OpKind::MemorySegRSI
            | OpKind::MemorySegDI
            | OpKind::MemorySegEDI
            | OpKind::MemorySegRDI => {
                op.seg = segment(i.memory_segment());
                if c.mode.bitness == 64 && op.seg < 4 {
                    op.seg = DS as u8; // overrides other than FS and GS mean nothing
                }
                op.address = string_address(i.op_kind(n));
            }
            OpKind::MemoryESDI | OpKind::MemoryESEDI | OpKind::MemoryESRDI => {
                op.address = string_address(i.op_kind(n));
            }
            _ => {}
        }
    }
    op
}

fn string_address(kind: OpKind) -> u8 {
    match kind {
        OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => 16,
        OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => 32,
        _ => 64,
    }
}

fn memory(i: &Instruction, c: &Context, op: &mut Op) {
    let (base, index) = (i.memory_base(), i.memory_index());
    op.base = register(base);
    op.index = register(index);
    op.scale = i.memory_index_scale().trailing_zeros() as u8;
    op.disp = i.memory_displacement64();
    let relative = base == Register::RIP || base == Register::EIP;
    if relative {
        // The decoder gives the address it would have; here it is the distance from the block's start.
        op.disp = op.disp.wrapping_sub(c.start);
    }
    op.seg = segment(i.memory_segment());
    if c.mode.bitness == 64 && op.seg < 4 {
        // Overrides other than FS and GS mean nothing; the base alone decides whether a fault is the stack's.
        let stack = matches!(base.full_register(), Register::RSP | Register::RBP);
        op.seg = if stack { SS as u8 } else { DS as u8 };
    }
    op.address = address_bits(i, c);
    if op.address == 32 && relative {
        op.disp &= 0xffff_ffff;
    }
    op.flat = c.mode.bitness == 64 && op.address == 64 && op.seg < 4;
}

fn address_bits(i: &Instruction, c: &Context) -> u8 {
    let size = |r: Register| (r.size() * 8) as u8;
    match (i.memory_base(), i.memory_index()) {
        (Register::None, Register::None) => match i.memory_displ_size() {
            2 => 16,
            4 => 32,
            8 => 64,
            _ => c.mode.bitness,
        },
        (Register::None, index) => size(index),
        (base, _) => size(base),
    }
}
