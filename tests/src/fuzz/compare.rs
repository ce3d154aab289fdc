//! What must be the same on both, and what need not.

use super::case::{Case, Outcome, fx};
use super::flags;
use super::forms::{Accuracy, accuracy};
use super::layout::{DATA, USER_END};
use iced_x86::{Mnemonic, OpKind};

/// RFLAGS that are never compared: RF, which exception frames push differently.
const RF: u64 = 1 << 16;
/// The flags that arithmetic sets.
const ARITHMETIC: u64 = 0x8d5;

/// What was found about a case.
#[derive(Debug)]
pub enum Verdict {
    /// the same
    Same,
    /// different, and in what
    Different(Vec<String>),
    /// no comparison: the case ran for ever, made a system call, or killed its process
    Skipped,
}

/// Instructions that write several words and may have written some of them when they fault.
fn partial(mnemonic: Mnemonic) -> bool {
    use Mnemonic::{
        Enter, Fnsave, Fnstenv, Fsave, Fstenv, Fxsave, Fxsave64, Maskmovdqu, Maskmovq, Pusha, Pushad,
    };
    matches!(
        mnemonic,
        Enter
            | Fnsave
            | Fsave
            | Fnstenv
            | Fstenv
            | Fxsave
            | Fxsave64
            | Maskmovq
            | Maskmovdqu
            | Pusha
            | Pushad
    )
}

/// Instructions that reach many words, in an order of the processor's own: which of them faults first is open.
fn scattered(mnemonic: Mnemonic) -> bool {
    use Mnemonic::{Fldenv, Fnsave, Fnstenv, Frstor, Fsave, Fstenv, Fxrstor, Fxrstor64, Fxsave, Fxsave64};
    matches!(
        mnemonic,
        Fldenv | Frstor | Fnstenv | Fstenv | Fnsave | Fsave | Fxsave | Fxsave64 | Fxrstor | Fxrstor64
    )
}

/// The instruction at an address of the case; FSTENV and FSAVE have one behind their FWAIT too.
fn stopped_at(case: &Case, rip: u64) -> Option<Mnemonic> {
    let fits = |at: u64, waits: bool| at == rip || waits && at + 1 == rip;
    case.remaining()
        .find(|(at, piece)| fits(*at, piece.instruction.code().op_code().fwait()))
        .map(|(_, piece)| piece.instruction.mnemonic())
}

/// Compares outcomes; with `strict` undefined flags too.
pub fn compare(case: &Case, native: &Outcome, soft: &Outcome, strict: bool) -> Verdict {
    let skip = [Outcome::ENDLESS, Outcome::SYSTEM_CALL, Outcome::NONE];
    if skip.contains(&native.vector) {
        return Verdict::Skipped;
    }
    let mut found = Vec::new();
    let (n, s) = (&native.machine, &soft.machine);
    let mut differ = |what: &str, native: u64, soft: u64| {
        if native != soft {
            found.push(format!("{what}: native {native:#x}, soft {soft:#x}"));
        }
    };
    differ("vector", native.vector.into(), soft.vector.into());
    if native.vector != soft.vector {
        differ("rip", n.rip, s.rip);
        let note = |side: &Outcome| format!("error code {:#x} address {:#x}", side.error, side.cr2);
        found.push(format!("(native: {}; soft: {})", note(native), note(soft)));
        return Verdict::Different(found);
    }
    // hosts hide what is mapped behind the user's part
    let hidden = u64::from(native.vector == 14 && native.cr2 >= USER_END);
    let anywhere = native.vector == 14 && n.rip == s.rip && stopped_at(case, n.rip).is_some_and(scattered);
    if !anywhere {
        differ("error code", u64::from(native.error) & !hidden, u64::from(soft.error) & !hidden);
    }
    if native.vector == 14 && !anywhere {
        differ("fault address", native.cr2, soft.cr2);
    }
    differ("rip", n.rip, s.rip);
    let undefined = if strict { 0 } else { undefined_at(case, n.rip) };
    differ("rflags", n.rflags & !RF & !undefined, s.rflags & !RF & !undefined);
    let (count, mask) = if case.compatibility { (8, 0xffff_ffff) } else { (16, u64::MAX) };
    // POPA that faults has loaded some registers, and loads them again
    let popped =
        native.vector != 3 && matches!(stopped_at(case, n.rip), Some(Mnemonic::Popa | Mnemonic::Popad));
    for (index, name) in NAMES.into_iter().enumerate().take(count) {
        if !(popped && index != 4) {
            differ(name, n.general[index] & mask, s.general[index] & mask);
        }
    }
    differ("mxcsr", n.mxcsr().into(), s.mxcsr().into());
    differ("fcw", n.word(fx::FCW).into(), s.word(fx::FCW).into());
    let last = case.remaining().last().map(|(_, piece)| piece.instruction);
    let accuracy = last.map_or(Accuracy::Exact, |last| accuracy(last.mnemonic()));
    // C1 and what says that a result was rounded
    let rounding = if accuracy == Accuracy::Transcendental { 0x232 } else { 0 };
    differ("fsw", (n.word(fx::FSW) & !rounding).into(), (s.word(fx::FSW) & !rounding).into());
    differ("ftw", n.fx[fx::FTW].into(), s.fx[fx::FTW].into());
    for index in 0..8 {
        let (a, b) = (n.bytes::<10>(fx::ST + 16 * index), s.bytes::<10>(fx::ST + 16 * index));
        let near = accuracy == Accuracy::Transcendental && close(a, b);
        if a != b && !near {
            found.push(format!("st{index}: native {}, soft {}", hex(&a), hex(&b)));
        }
    }
    let destination =
        last.filter(|_| accuracy == Accuracy::Reciprocal).map(|last| last.op0_register().number());
    for index in 0..count {
        let (a, b) = (n.bytes::<16>(fx::XMM + 16 * index), s.bytes::<16>(fx::XMM + 16 * index));
        if a != b && !(destination == Some(index) && lanes_close(a, b)) {
            found.push(format!("xmm{index}: native {}, soft {}", hex(&a), hex(&b)));
        }
    }
    if native.data != soft.data && !half_done(case, native) {
        let at = native.data.iter().zip(&soft.data).position(|(a, b)| a != b).unwrap_or_default() & !7;
        let (a, b) = (&native.data[at..at + 8], &soft.data[at..at + 8]);
        found.push(format!("memory at {:#x}: native {}, soft {}", DATA + at as u64, hex(a), hex(b)));
    }
    if !found.is_empty() {
        found.push(format!("(native ended by vector {:#x} at {:#x})", native.vector, n.rip));
    }
    if found.is_empty() { Verdict::Same } else { Verdict::Different(found) }
}

/// Names of the general registers.
pub const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];

/// Bytes of a number, the highest first.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect()
}

/// Flags undefined where the case ended.
fn undefined_at(case: &Case, rip: u64) -> u64 {
    let Some(places) = flags::undefined(case) else { return ARITHMETIC };
    let all = places.iter().fold(0, |all, (_, set)| all | set);
    let end = places.last().map_or(0, |(_, set)| *set);
    match places.iter().rev().find(|(at, _)| *at == rip) {
        Some((_, set)) => *set,
        // behind the INT3 at the end; anywhere else: a wild jump, or a trap behind an instruction
        None if places.last().is_some_and(|(at, _)| rip == at + 1) => end,
        None => all,
    }
}

/// True if memory holds half of what an instruction writes, or what is not defined and would have been overwritten.
fn half_done(case: &Case, native: &Outcome) -> bool {
    let rip = native.machine.rip;
    let guarded = case.remaining().any(|(at, piece)| at == rip && piece.guard);
    native.vector != 3 && (guarded || stopped_at(case, rip).is_some_and(partial))
}

/// Equal but for the last few bits of the significand, also across a power of two.
fn close(a: [u8; 10], b: [u8; 10]) -> bool {
    // Without the integer bit neighbours are neighbours.
    let number = |bytes: [u8; 10]| {
        let mut wide = [0; 16];
        wide[..10].copy_from_slice(&bytes);
        let whole = i128::from_le_bytes(wide);
        (whole >> 64 << 63) | (whole & ((1 << 63) - 1))
    };
    (number(a) - number(b)).abs() <= 4
}

/// Single-precision lanes equal within the manual's bound for approximations.
fn lanes_close(a: [u8; 16], b: [u8; 16]) -> bool {
    let lanes = |bytes: [u8; 16]| -> [f32; 4] {
        std::array::from_fn(|n| f32::from_le_bytes(std::array::from_fn(|i| bytes[4 * n + i])))
    };
    lanes(a).into_iter().zip(lanes(b)).all(|(a, b)| {
        a.to_bits() == b.to_bits() || (f64::from(a) - f64::from(b)).abs() <= f64::from(a).abs() * 3.0 / 4096.0
    })
}

/// True if an instruction has an operand in memory.
pub fn touches_memory(instruction: &iced_x86::Instruction) -> bool {
    (0..instruction.op_count()).any(|i| instruction.op_kind(i) == OpKind::Memory)
}
