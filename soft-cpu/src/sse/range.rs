//! Overflow and underflow where one of them is unmasked.
//!
//! The host, which masks them, then does not say all: an unmasked underflow is any tiny result, a masked one only an
//! inexact one, and with an unmasked exception PE says whether the result would be inexact if the exponent had no bounds
//! (Intel SDM vol. 1, 4.9.1.5 and E.4.2.2). So the lanes are looked at one by one.

use rustc_apfloat::ieee::{Double, X87DoubleExtended};
use rustc_apfloat::{Float, FloatConvert, Status};

use crate::cpu::{Cpu, Done};

use super::float::{MASKS, PE, RANGE, UE};
use super::host;

const DAZ: u32 = 1 << 6;

/// What a lane of a result comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Add,
    Sub,
    Mul,
    Div,
    /// a double of the second operand becomes a single
    Narrow,
    /// differences in even lanes, sums in odd ones
    SubAdd,
    /// neighbours' sums: the first operand's, then the second's
    Sums,
    /// neighbours' differences
    Differences,
}

/// The shape of an instruction that may overflow or underflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// it cannot
    Safe,
    /// so many lanes of 32 bits
    Single(usize, Operation),
    /// so many lanes of 64 bits
    Double(usize, Operation),
}

/// True if [`raised`] must be asked.
#[inline(always)]
pub(super) fn is_unmasked(mxcsr: u32) -> bool {
    !mxcsr & RANGE << MASKS != 0
}

/// Lane `n` of a value, of `bits` bits.
fn lane(value: u128, n: usize, bits: usize) -> u128 {
    value >> (bits * n) & u128::MAX >> (128 - bits)
}

/// The flags of an instruction.
#[cold]
pub(super) fn raised(shape: Shape, a: u128, b: u128, mxcsr: u32) -> u32 {
    let (lanes, operation, bits) = match shape {
        Shape::Safe => return 0,
        Shape::Single(lanes, Operation::Narrow) => (lanes, Operation::Narrow, 64),
        Shape::Single(lanes, operation) => (lanes, operation, 32),
        Shape::Double(lanes, operation) => (lanes, operation, 64),
    };
    (0..lanes).fold(0, |raised, n| {
        let half = lanes / 2;
        let (operation, a, b) = match operation {
            Operation::Sums | Operation::Differences => {
                let (from, pair) = if n < half { (a, n) } else { (b, n - half) };
                let single = if operation == Operation::Sums { Operation::Add } else { Operation::Sub };
                (single, lane(from, 2 * pair, bits), lane(from, 2 * pair + 1, bits))
            }
            Operation::SubAdd => {
                let single = if n & 1 == 0 { Operation::Sub } else { Operation::Add };
                (single, lane(a, n, bits), lane(b, n, bits))
            }
            _ => (operation, lane(a, n, bits), lane(b, n, bits)),
        };
        raised | scalar(operation, bits == 32, a, b, mxcsr).1
    })
}

/// A result and its flags.
fn scalar(operation: Operation, single: bool, a: u128, b: u128, mxcsr: u32) -> (u128, u32) {
    use Operation as O;
    let run = match (operation, single) {
        (O::Sub, true) => host::subss,
        (O::Sub, false) => host::subsd,
        (O::Mul, true) => host::mulss,
        (O::Mul, false) => host::mulsd,
        (O::Div, true) => host::divss,
        (O::Div, false) => host::divsd,
        (O::Narrow, _) => host::cvtsd2ss,
        (_, true) => host::addss,
        (_, false) => host::addsd,
    };
    let outcome = run(if operation == O::Narrow { 0 } else { a }, b, mxcsr);
    let mut raised = outcome.raised;
    let small = single || operation == O::Narrow;
    let tiny = if small {
        f32::from_bits(outcome.value as u32).is_subnormal()
    } else {
        f64::from_bits(outcome.value as u64).is_subnormal()
    };
    let unmasked = !(mxcsr >> MASKS);
    if tiny && unmasked & UE != 0 {
        raised |= UE;
    }
    if raised & RANGE & unmasked != 0 {
        let number = |bits: u128| {
            let (value, zero) = if single {
                let value = f32::from_bits(bits as u32);
                (f64::from(value), value.is_subnormal())
            } else {
                (f64::from_bits(bits as u64), f64::from_bits(bits as u64).is_subnormal())
            };
            extended(if zero && mxcsr & DAZ != 0 { 0.0 } else { value })
        };
        raised &= !PE;
        if is_inexact(operation, number(a), number(b), if small { 24 } else { 53 }) {
            raised |= PE;
        }
    }
    (outcome.value, raised)
}

fn extended(value: f64) -> X87DoubleExtended {
    Double::from_bits(value.to_bits().into()).convert(&mut false).value
}

/// True if the result has more than `precision` significant bits. The wider format has 64 and an exponent large enough.
fn is_inexact(operation: Operation, a: X87DoubleExtended, b: X87DoubleExtended, precision: u32) -> bool {
    let result = match operation {
        Operation::Sub => a - b,
        Operation::Mul => a * b,
        Operation::Div => a / b,
        Operation::Narrow => Status::OK.and(b),
        _ => a + b,
    };
    let significand = result.value.to_bits() as u64;
    result.status.contains(Status::INEXACT) || significand << precision != 0
}

/// A dot product step by step: products, their sums, the sum of those. Each step's exceptions come before the next.
#[cold]
pub(super) fn dot(cpu: &mut Cpu, single: bool, a: u128, b: u128) -> Done {
    let (bits, lanes) = if single { (32, 4) } else { (64, 2) };
    let mut values = [0; 4];
    let mut raised = 0;
    for (n, value) in values.iter_mut().enumerate().take(lanes) {
        let (product, flags) =
            scalar(Operation::Mul, single, lane(a, n, bits), lane(b, n, bits), cpu.fpu.mxcsr);
        *value = lane(product, 0, bits);
        raised |= flags;
    }
    cpu.take_flags(raised)?;
    let mut left = lanes;
    while left > 1 {
        left /= 2;
        raised = 0;
        for n in 0..left {
            let (sum, flags) =
                scalar(Operation::Add, single, values[2 * n], values[2 * n + 1], cpu.fpu.mxcsr);
            values[n] = lane(sum, 0, bits);
            raised |= flags;
        }
        cpu.take_flags(raised)?;
    }
    Ok(())
}
