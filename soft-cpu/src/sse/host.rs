//! Floating-point instructions, executed by the host with the guest's MXCSR.
//!
//! IEEE 754 and the manuals define their results, NaN operands included, so each processor has the same. The host runs
//! with all exceptions masked; [`crate::sse::float`] looks at the flags and decides whether the guest gets an exception.
//! An instruction is executed twice at most: first as it is, which does if the guest's rounding and masks are the host's
//! and no flag comes up that the guest has not got already; then with MXCSR changed to the guest's and back.
#![allow(unsafe_code)] // the host's own instructions

use std::arch::asm;
use std::arch::x86_64::__m128i;

/// What Rust's code runs with: round to nearest, all exceptions masked.
const DEFAULT: u32 = 0x1f80;
/// All of MXCSR but the flags.
const CONTROL: u32 = 0xffc0;
/// Rounding, flush to zero, denormals are zero.
const ARITHMETIC: u32 = 0xe040;
const FLUSH: u32 = 1 << 15;
const UNDERFLOW_MASKED: u32 = 1 << 11;

/// A result, and flags of MXCSR that come up with it; those that the guest has already may be missing if no exception is
/// unmasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outcome<T> {
    pub value: T,
    pub raised: u32,
}

#[inline(always)]
pub(super) fn vector(value: u128) -> __m128i {
    // SAFETY: both are 128 bits, each pattern of which is a value.
    unsafe { std::mem::transmute(value) }
}

#[inline(always)]
pub(super) fn from_vector(value: __m128i) -> u128 {
    // SAFETY: as in `vector`.
    unsafe { std::mem::transmute(value) }
}

/// The host's MXCSR for a guest's. Results are flushed to zero only if underflow is masked (Intel SDM vol. 1, 10.2.3.3).
fn control(mxcsr: u32) -> u32 {
    let control = mxcsr & ARITHMETIC | DEFAULT;
    if mxcsr & UNDERFLOW_MASKED == 0 { control & !FLUSH } else { control }
}

/// Executes `$code`; gives the flags that came up.
macro_rules! execute {
    ($mxcsr:ident, $code:literal, $($operands:tt)*) => { 'done: {
        if $mxcsr & CONTROL == DEFAULT {
            let mut flags = 0u32;
            // SAFETY: the instruction reads and writes the named registers; besides it the flags of MXCSR change, which
            // an asm block without `preserves_flags` may; `flags` is 4 bytes that may be written.
            unsafe {
                asm!(
                    $code,
                    "stmxcsr [{at}]",
                    at = in(reg) &raw mut flags,
                    $($operands)*
                    options(nostack)
                );
            }
            if flags & !$mxcsr & 0x3f == 0 {
                break 'done 0;
            }
        }
        let mut environment = [control($mxcsr), 0, DEFAULT];
        // SAFETY: as above, and MXCSR ends as Rust's code expects it; all exceptions are masked in between;
        // `environment` is 12 bytes that may be read and written.
        unsafe {
            asm!(
                "ldmxcsr [{at}]",
                $code,
                "stmxcsr [{at} + 4]",
                "ldmxcsr [{at} + 8]",
                at = in(reg) environment.as_mut_ptr(),
                $($operands)*
                options(nostack)
            );
        }
        environment[1] & 0x3f
    } };
}

/// Instructions with two XMM registers, the first of which is changed.
macro_rules! on_registers {
    ($($name:ident = $code:literal;)*) => { $(
        pub(super) fn $name(a: u128, b: u128, mxcsr: u32) -> Outcome<u128> {
            let (a, b) = (vector(a), vector(b));
            let mut value: __m128i;
            let raised = execute!(mxcsr, $code, a = inout(xmm_reg) a => value, b = in(xmm_reg) b,);
            Outcome { value: from_vector(value), raised }
        }
    )* };
}

/// Conversions of an XMM register to an integer.
macro_rules! to_integer {
    ($($name:ident = $code:literal;)*) => { $(
        pub(super) fn $name(b: u128, mxcsr: u32) -> Outcome<u64> {
            let b = vector(b);
            let mut value: u64;
            let raised = execute!(mxcsr, $code, n = out(reg) value, b = in(xmm_reg) b,);
            Outcome { value, raised }
        }
    )* };
}

/// Conversions of an integer, to the low lane of an XMM register.
macro_rules! from_integer {
    ($($name:ident = $code:literal;)*) => { $(
        pub(super) fn $name(a: u128, n: u64, mxcsr: u32) -> Outcome<u128> {
            let a = vector(a);
            let mut value: __m128i;
            let raised = execute!(mxcsr, $code, a = inout(xmm_reg) a => value, n = in(reg) n,);
            Outcome { value: from_vector(value), raised }
        }
    )* };
}

/// Comparisons to RFLAGS: the value is ZF, PF and CF in their places.
macro_rules! to_flags {
    ($($name:ident = $code:literal;)*) => { $(
        pub(super) fn $name(a: u128, b: u128, mxcsr: u32) -> Outcome<u64> {
            let (a, b) = (vector(a), vector(b));
            let mut flags: u64;
            let raised = execute!(mxcsr, $code, out("rax") flags, a = in(xmm_reg) a, b = in(xmm_reg) b,);
            Outcome { value: flags >> 8 & 0x45, raised }
        }
    )* };
}

on_registers! {
    addps = "addps {a}, {b}";
    addpd = "addpd {a}, {b}";
    addss = "addss {a}, {b}";
    addsd = "addsd {a}, {b}";
    subps = "subps {a}, {b}";
    subpd = "subpd {a}, {b}";
    subss = "subss {a}, {b}";
    subsd = "subsd {a}, {b}";
    mulps = "mulps {a}, {b}";
    mulpd = "mulpd {a}, {b}";
    mulss = "mulss {a}, {b}";
    mulsd = "mulsd {a}, {b}";
    divps = "divps {a}, {b}";
    divpd = "divpd {a}, {b}";
    divss = "divss {a}, {b}";
    divsd = "divsd {a}, {b}";
    minps = "minps {a}, {b}";
    minpd = "minpd {a}, {b}";
    minss = "minss {a}, {b}";
    minsd = "minsd {a}, {b}";
    maxps = "maxps {a}, {b}";
    maxpd = "maxpd {a}, {b}";
    maxss = "maxss {a}, {b}";
    maxsd = "maxsd {a}, {b}";
    sqrtps = "sqrtps {a}, {b}";
    sqrtpd = "sqrtpd {a}, {b}";
    sqrtss = "sqrtss {a}, {b}";
    sqrtsd = "sqrtsd {a}, {b}";
    addsubps = "addsubps {a}, {b}";
    addsubpd = "addsubpd {a}, {b}";
    haddps = "haddps {a}, {b}";
    haddpd = "haddpd {a}, {b}";
    hsubps = "hsubps {a}, {b}";
    hsubpd = "hsubpd {a}, {b}";
    dpps_all = "dpps {a}, {b}, 0xff";
    dppd_all = "dppd {a}, {b}, 0x33";
    cvtps2pd = "cvtps2pd {a}, {b}";
    cvtpd2ps = "cvtpd2ps {a}, {b}";
    cvtss2sd = "cvtss2sd {a}, {b}";
    cvtsd2ss = "cvtsd2ss {a}, {b}";
    cvtdq2ps = "cvtdq2ps {a}, {b}";
    cvtdq2pd = "cvtdq2pd {a}, {b}";
    cvtps2dq = "cvtps2dq {a}, {b}";
    cvttps2dq = "cvttps2dq {a}, {b}";
    cvtpd2dq = "cvtpd2dq {a}, {b}";
    cvttpd2dq = "cvttpd2dq {a}, {b}";
    roundps = "roundps {a}, {b}, 4";
    roundpd = "roundpd {a}, {b}, 4";
    roundss = "roundss {a}, {b}, 4";
    roundsd = "roundsd {a}, {b}, 4";
    roundps_quietly = "roundps {a}, {b}, 12";
    roundpd_quietly = "roundpd {a}, {b}, 12";
    roundss_quietly = "roundss {a}, {b}, 12";
    roundsd_quietly = "roundsd {a}, {b}, 12";
}

to_integer! {
    cvtss2si_32 = "cvtss2si {n:e}, {b}";
    cvtss2si_64 = "cvtss2si {n:r}, {b}";
    cvtsd2si_32 = "cvtsd2si {n:e}, {b}";
    cvtsd2si_64 = "cvtsd2si {n:r}, {b}";
    cvttss2si_32 = "cvttss2si {n:e}, {b}";
    cvttss2si_64 = "cvttss2si {n:r}, {b}";
    cvttsd2si_32 = "cvttsd2si {n:e}, {b}";
    cvttsd2si_64 = "cvttsd2si {n:r}, {b}";
}

from_integer! {
    cvtsi2ss_32 = "cvtsi2ss {a}, {n:e}";
    cvtsi2ss_64 = "cvtsi2ss {a}, {n:r}";
    cvtsi2sd_32 = "cvtsi2sd {a}, {n:e}";
    cvtsi2sd_64 = "cvtsi2sd {a}, {n:r}";
}

to_flags! {
    ucomiss = "ucomiss {a}, {b}\nlahf";
    ucomisd = "ucomisd {a}, {b}\nlahf";
    comiss = "comiss {a}, {b}\nlahf";
    comisd = "comisd {a}, {b}\nlahf";
}

/// A comparison with the predicate in an immediate.
macro_rules! compare {
    ($($name:ident = $code:literal;)*) => { $(
        /// The predicate is 0 to 7.
        pub(super) fn $name<const PREDICATE: u8>(a: u128, b: u128, mxcsr: u32) -> Outcome<u128> {
            let (a, b) = (vector(a), vector(b));
            let mut value: __m128i;
            let raised = execute!(mxcsr, $code, a = inout(xmm_reg) a => value, b = in(xmm_reg) b, p = const PREDICATE,);
            Outcome { value: from_vector(value), raised }
        }
    )* };
}

compare! {
    cmpps = "cmpps {a}, {b}, {p}";
    cmppd = "cmppd {a}, {b}, {p}";
    cmpss = "cmpss {a}, {b}, {p}";
    cmpsd = "cmpsd {a}, {b}, {p}";
}

/// Integer intrinsics on two XMM registers.
macro_rules! sse2 {
    ($($name:ident)*) => { $(
        #[inline(always)]
        pub(super) fn $name(a: u128, b: u128) -> u128 {
            // SAFETY: every x86-64 processor has SSE2.
            from_vector(unsafe { std::arch::x86_64::$name(vector(a), vector(b)) })
        }
    )* };
}

sse2! {
    _mm_add_epi16
    _mm_add_epi32
    _mm_add_epi64
    _mm_add_epi8
    _mm_adds_epi16
    _mm_adds_epi8
    _mm_adds_epu16
    _mm_adds_epu8
    _mm_avg_epu16
    _mm_avg_epu8
    _mm_cmpeq_epi16
    _mm_cmpeq_epi32
    _mm_cmpeq_epi8
    _mm_cmpgt_epi16
    _mm_cmpgt_epi32
    _mm_cmpgt_epi8
    _mm_madd_epi16
    _mm_max_epi16
    _mm_max_epu8
    _mm_min_epi16
    _mm_min_epu8
    _mm_mul_epu32
    _mm_mulhi_epi16
    _mm_mulhi_epu16
    _mm_mullo_epi16
    _mm_packs_epi16
    _mm_packs_epi32
    _mm_packus_epi16
    _mm_sad_epu8
    _mm_sub_epi16
    _mm_sub_epi32
    _mm_sub_epi64
    _mm_sub_epi8
    _mm_subs_epi16
    _mm_subs_epi8
    _mm_subs_epu16
    _mm_subs_epu8
    _mm_unpackhi_epi16
    _mm_unpackhi_epi32
    _mm_unpackhi_epi64
    _mm_unpackhi_epi8
    _mm_unpacklo_epi16
    _mm_unpacklo_epi32
    _mm_unpacklo_epi64
    _mm_unpacklo_epi8
}
