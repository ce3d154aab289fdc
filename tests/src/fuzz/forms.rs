//! The opcode forms that are fuzzed, and those that are not, with the reason.

use iced_x86::{Code, CpuidFeature, EncodingKind, Mnemonic, OpCodeInfo, OpCodeOperandKind as Op};

/// What the processor of the profile can do (x86-64-v2).
const FEATURES: &[CpuidFeature] = &[
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL486,
    CpuidFeature::X64,
    CpuidFeature::CET_IBT, // ENDBR is a NOP
    CpuidFeature::CLFSH,
    CpuidFeature::CMOV,
    CpuidFeature::CMPXCHG16B,
    CpuidFeature::CX8,
    CpuidFeature::FPU,
    CpuidFeature::FPU287,
    CpuidFeature::FPU387,
    CpuidFeature::FXSR,
    CpuidFeature::LZCNT,
    CpuidFeature::BMI1, // TZCNT: the others are VEX-encoded
    CpuidFeature::MMX,
    CpuidFeature::MSR,
    CpuidFeature::MULTIBYTENOP,
    CpuidFeature::PAUSE,
    CpuidFeature::POPCNT,
    CpuidFeature::PREFETCHW,
    CpuidFeature::SMAP,
    CpuidFeature::SSE,
    CpuidFeature::SSE2,
    CpuidFeature::SSE3,
    CpuidFeature::SSSE3,
    CpuidFeature::SSE4_1,
    CpuidFeature::SSE4_2,
];

/// Mnemonics that are left out, and why.
pub const EXCLUDED: &[(&str, &[Mnemonic])] = &[
    (
        "enters the host's kernel, or leaves it",
        &[
            Mnemonic::Syscall,
            Mnemonic::Sysenter,
            Mnemonic::Sysret,
            Mnemonic::Sysretq,
            Mnemonic::Sysexit,
            Mnemonic::Sysexitq,
        ],
    ),
    ("the platform's answer, not the processor's", &[Mnemonic::Cpuid, Mnemonic::Rdtsc, Mnemonic::Rdpmc]),
    (
        "hosts emulate them for programs (UMIP)",
        &[Mnemonic::Sgdt, Mnemonic::Sidt, Mnemonic::Sldt, Mnemonic::Str, Mnemonic::Smsw],
    ),
    (
        "look at the host's descriptor tables",
        &[
            Mnemonic::Lar,
            Mnemonic::Lsl,
            Mnemonic::Verr,
            Mnemonic::Verw,
            Mnemonic::Lds,
            Mnemonic::Les,
            Mnemonic::Lfs,
            Mnemonic::Lgs,
            Mnemonic::Lss,
            Mnemonic::Iret,
            Mnemonic::Iretd,
            Mnemonic::Iretq,
            Mnemonic::Retf,
        ],
    ),
    ("processors differ in its length", &[Mnemonic::Ud0, Mnemonic::Ud1]),
    ("virtual hosts report its trap at the instruction or behind it", &[Mnemonic::Int1]),
    ("SMM only", &[Mnemonic::Rsm]),
    ("not deterministic", &[Mnemonic::Rdrand, Mnemonic::Rdseed]),
    ("processors differ in whether a program may", &[Mnemonic::Clac, Mnemonic::Stac]),
];

/// Why a form is left out.
fn excluded(op: &OpCodeInfo, bitness: u32) -> Option<&'static str> {
    if let Some((why, _)) = EXCLUDED.iter().find(|(_, list)| list.contains(&op.mnemonic())) {
        return Some(why);
    }
    let kinds = op.op_kinds();
    let far = matches!(op.code(), Code::Jmp_m1616 | Code::Jmp_m1632 | Code::Jmp_m1664)
        || matches!(op.code(), Code::Call_m1616 | Code::Call_m1632 | Code::Call_m1664)
        || kinds.iter().any(|kind| matches!(kind, Op::farbr2_2 | Op::farbr4_2));
    let loads_segment = op.mnemonic() == Mnemonic::Mov && kinds[0] == Op::seg_reg
        || op.mnemonic() == Mnemonic::Pop
            && matches!(kinds[0], Op::es | Op::cs | Op::ss | Op::ds | Op::fs | Op::gs);
    if far || loads_segment {
        return Some("look at the host's descriptor tables");
    }
    if op.code() == Code::Bswap_r16 {
        return Some("result undefined");
    }
    if bitness == 64 && !(op.intel_decoder64() && op.amd_decoder64()) {
        return Some("decoded by one maker's processors only");
    }
    let near = kinds.iter().any(|kind| matches!(kind, Op::br16_1 | Op::br16_2));
    let near16 =
        near || matches!(op.code(), Code::Jmp_rm16 | Code::Call_rm16 | Code::Retnw | Code::Retnw_imm16);
    if bitness == 64 && near16 {
        return Some("operand-size prefix on a near branch: processors differ");
    }
    None
}

/// What an instruction works on, roughly: sequences mostly stay with one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Theme {
    /// general registers
    Integer,
    /// x87
    X87,
    /// MMX
    Mmx,
    /// SSE
    Sse,
    /// faults at CPL 3 or ends in a trap by itself
    Trap,
}

/// One opcode form.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// iced's number for it
    pub code: Code,
    /// its description
    pub op: &'static OpCodeInfo,
    /// what it works on
    pub theme: Theme,
}

fn theme(op: &OpCodeInfo) -> Theme {
    let features = op.code().cpuid_features();
    let vector = op.op_kinds().iter().any(|kind| matches!(kind, Op::xmm_reg | Op::xmm_rm | Op::xmm_or_mem));
    let mmx = op.op_kinds().iter().any(|kind| matches!(kind, Op::mm_reg | Op::mm_rm | Op::mm_or_mem));
    let traps = matches!(
        op.mnemonic(),
        Mnemonic::Int | Mnemonic::Int1 | Mnemonic::Int3 | Mnemonic::Ud1 | Mnemonic::Ud2 | Mnemonic::Into
    );
    let x87 = [CpuidFeature::FPU, CpuidFeature::FPU287, CpuidFeature::FPU387];
    match () {
        () if op.must_be_cpl0() || op.is_privileged() || op.is_input_output() || traps => Theme::Trap,
        () if mmx || op.mnemonic() == Mnemonic::Emms => Theme::Mmx,
        () if vector || matches!(op.mnemonic(), Mnemonic::Ldmxcsr | Mnemonic::Stmxcsr) => Theme::Sse,
        () if features.iter().any(|feature| x87.contains(feature)) => Theme::X87,
        () => Theme::Integer,
    }
}

fn candidates(bitness: u32) -> impl Iterator<Item = Form> {
    Code::values().map(|code| Form { code, op: code.op_code(), theme: theme(code.op_code()) }).filter(
        move |form| {
            form.op.is_instruction()
                && form.op.encoding() == EncodingKind::Legacy
                && form.op.is_available_in_mode(bitness)
                && form.op.cpl3() | form.op.must_be_cpl0()
                && form.code.cpuid_features().iter().all(|feature| FEATURES.contains(feature))
        },
    )
}

/// The forms that are fuzzed in a mode (64 or 32).
pub fn list(bitness: u32) -> Vec<Form> {
    candidates(bitness).filter(|form| excluded(form.op, bitness).is_none()).collect()
}

/// The forms of the profile that are left out in a mode, and why.
pub fn left_out(bitness: u32) -> Vec<(Form, &'static str)> {
    candidates(bitness).filter_map(|form| excluded(form.op, bitness).map(|why| (form, why))).collect()
}

/// How exactly results are defined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accuracy {
    /// to the bit
    Exact,
    /// reciprocals: relative error 1.5 * 2^-12
    Reciprocal,
    /// x87 transcendentals: the last bits of ST0 and ST1, and the flags that say how they were rounded
    Transcendental,
}

/// How exactly an instruction's result is defined.
pub fn accuracy(mnemonic: Mnemonic) -> Accuracy {
    match mnemonic {
        Mnemonic::Rcpps | Mnemonic::Rcpss | Mnemonic::Rsqrtps | Mnemonic::Rsqrtss => Accuracy::Reciprocal,
        Mnemonic::Fsin | Mnemonic::Fcos | Mnemonic::Fsincos | Mnemonic::Fptan | Mnemonic::Fpatan => {
            Accuracy::Transcendental
        }
        Mnemonic::F2xm1 | Mnemonic::Fyl2x | Mnemonic::Fyl2xp1 => Accuracy::Transcendental,
        _ => Accuracy::Exact,
    }
}
