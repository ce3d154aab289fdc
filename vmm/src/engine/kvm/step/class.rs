//! Which instruction comes next, and who may execute it for one step.

use iced_x86::{Decoder, DecoderError, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

use crate::engine::cpu::CpuState;
use crate::machine::memory::{GuestRam, PAGE_SIZE};
use crate::symbols::paging::Virtual;

/// The longest instruction, in bytes.
const LONGEST: usize = 15;
const CS: usize = 1;
const SS: usize = 2;
const CR0_PE: u64 = 1;
/// RFLAGS: virtual-8086 mode
const VM: u64 = 1 << 17;
const EFER_LMA: u64 = 1 << 10;
const L: u32 = 1 << 13;
const DB: u32 = 1 << 14;

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Next {
    /// who executes it
    pub class: Class,
    /// RIP behind it, unless it is one that goes elsewhere
    pub behind: Option<u64>,
    /// BT or its kind: what becomes of some flags depends, on QEMU's processor, on what has run before
    pub tests_bit: bool,
}

impl Next {
    /// Before the instruction something is delivered, or watches it.
    pub(super) const EVENT: Self = Self { class: Class::Software, behind: None, tests_bit: false };
}

/// Who executes an instruction for one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// it would see RFLAGS.TF, change what a single step of KVM rests upon, or cast an interrupt shadow
    Software,
    /// HLT where it is allowed: an exit, which KVM's emulator would forget for the sake of the single step
    Halt,
    /// any other
    Hardware(Hardware),
}

/// An instruction that KVM can step over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hardware {
    /// it is a conditional branch: Jcc, JCXZ, JECXZ, JRCXZ, LOOP, LOOPcc
    pub branch: bool,
    /// a string instruction with REP: the bits of RCX that count its iterations
    pub counter: Option<u64>,
    /// it may change more than general registers, RFLAGS, x87, SSE and memory
    pub changes_state: bool,
}

/// The instruction at RIP. `tcg`: the processor is QEMU's. What cannot be fetched is for the soft CPU to say: the fault is the whole step.
pub(super) fn of(state: &CpuState, memory: &GuestRam, tcg: bool) -> Next {
    let bitness = bitness(state);
    let rip = state.registers.rip;
    let linear = if bitness == 64 { rip } else { rip.wrapping_add(state.segments[CS].base) & 0xffff_ffff };
    let mut bytes = [0; LONGEST];
    let fetched = fetch(state, memory, linear, &mut bytes);
    let bytes = bytes.get(..fetched).unwrap_or_default();
    let mut decoder = Decoder::with_ip(bitness, bytes, rip, DecoderOptions::FORCE_RESERVED_NOP);
    let instruction = decoder.decode();
    if decoder.last_error() == DecoderError::NoMoreBytes {
        return Next::EVENT;
    }
    let tests_bit =
        tcg && matches!(instruction.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc);
    let class = if tests_bit || is_software(&instruction) {
        Class::Software
    } else if instruction.mnemonic() == Mnemonic::Hlt {
        if is_kernel(state) { Class::Halt } else { Class::Software }
    } else {
        Class::Hardware(Hardware {
            branch: instruction.flow_control() == FlowControl::ConditionalBranch,
            counter: counter(&instruction),
            changes_state: changes_state(&instruction),
        })
    };
    let goes_on = instruction.flow_control() == FlowControl::Next;
    Next { class, behind: goes_on.then(|| instruction.next_ip()), tests_bit }
}

/// True at CPL 0 (Intel SDM vol. 3, 6.5).
fn is_kernel(state: &CpuState) -> bool {
    let real = state.cr0 & CR0_PE == 0;
    real || state.registers.rflags & VM == 0 && state.segments[SS].attributes >> 5 & 3 == 0
}

/// Bits of the code segment: 16, 32 or 64.
fn bitness(state: &CpuState) -> u32 {
    let cs = state.segments[CS].attributes;
    match (state.efer & EFER_LMA != 0 && cs & L != 0, cs & DB != 0) {
        (true, _) => 64,
        (false, true) => 32,
        (false, false) => 16,
    }
}

/// Copies what can be read at `linear`; gives how many bytes that is.
fn fetch(state: &CpuState, memory: &GuestRam, linear: u64, bytes: &mut [u8; LONGEST]) -> usize {
    let space = Virtual::new(state, memory);
    let on_page = usize::try_from(PAGE_SIZE - linear % PAGE_SIZE).unwrap_or(LONGEST).min(LONGEST);
    let (first, second) = bytes.split_at_mut(on_page);
    let next = linear.wrapping_add(on_page.try_into().unwrap_or(u64::MAX));
    let read = |at: u64, part: &mut [u8]| {
        let mapped = space.translate(at).filter(|mapped| mapped.executable);
        mapped.is_some_and(|mapped| memory.read(mapped.physical, part).is_ok())
    };
    match (read(linear, first), second.is_empty()) {
        (false, _) => 0,
        (true, false) if read(next, second) => LONGEST,
        (true, _) => on_page,
    }
}

/// * RFLAGS is pushed or saved: PUSHF, INT n, SYSCALL.
/// * RFLAGS is loaded, and TF with it: POPF, IRET, SYSRET. Some are here for their company's sake.
/// * The IDT's limit, which is 0 meanwhile, is read or loaded.
/// * Debug registers: KVM keeps the guest's out of the processor while it steps.
/// * STI, MOV SS and POP SS cast an interrupt shadow, in which a step does not end; on some processors LSS does too.
fn is_software(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    match instruction.mnemonic() {
        M::Pushf | M::Pushfd | M::Pushfq | M::Popf | M::Popfd | M::Popfq => true,
        M::Iret | M::Iretd | M::Iretq | M::Int | M::Int1 | M::Int3 | M::Into => true,
        M::Syscall | M::Sysret | M::Sysretq | M::Sysenter | M::Sysexit | M::Sysexitq => true,
        M::Sidt | M::Lidt | M::Sti | M::Lss => true,
        M::Mov | M::Pop => {
            instruction.op0_register() == Register::SS
                || instruction.op0_register().is_dr()
                || instruction.op1_register().is_dr()
        }
        _ => false,
    }
}

fn counter(instruction: &Instruction) -> Option<u64> {
    let repeats = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    if !repeats || !instruction.is_string_instruction() {
        return None;
    }
    instruction.op_kinds().find_map(|kind| match kind {
        OpKind::MemorySegRSI | OpKind::MemoryESRDI => Some(u64::MAX),
        OpKind::MemorySegESI | OpKind::MemoryESEDI => Some(0xffff_ffff),
        OpKind::MemorySegSI | OpKind::MemoryESDI => Some(0xffff),
        _ => None,
    })
}

fn changes_state(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    match instruction.mnemonic() {
        M::Cli | M::Clac | M::Stac => false,
        M::Lds | M::Les | M::Lfs | M::Lgs | M::Wrfsbase | M::Wrgsbase | M::Retf | M::Swapgs => true,
        M::Jmp | M::Call => {
            let code = instruction.code();
            code.is_jmp_far()
                || code.is_jmp_far_indirect()
                || code.is_call_far()
                || code.is_call_far_indirect()
        }
        _ => instruction.is_privileged() || instruction.op0_register().is_segment_register(),
    }
}
