//! The guest where a divergence was found: its registers, the way it came there, and instructions near it that are known to
//! have results of their own.

use iced_x86::{Formatter, Instruction, IntelFormatter};
use scribe_log::header::Header;
use serde::{Serialize, Serializer};

use super::open::{self, Open};
use crate::engine::cpu::Registers;
use crate::machine::{Machine, MachineError};
use crate::symbols::paging::Virtual;
use crate::symbols::stack::{self, CODE_64, EFER_LMA, Frame, Mode, StackTrace};
use crate::symbols::{self, Symbols};

/// Most bytes of a function that are looked through, instructions of it, functions of a trace, and instructions named.
const MOST_BYTES: u64 = 16 << 10;
const MOST_INSTRUCTIONS: usize = 4096;
const MOST_FUNCTIONS: usize = 12;
const MOST_NAMED: usize = 6;
/// How far before a place one begins where it is not known where its function does.
const BEFORE: u64 = 64;

/// The guest at a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Guest {
    /// general registers, RIP and RFLAGS
    #[serde(serialize_with = "by_name")]
    pub registers: Registers,
    /// what it is in the middle of
    pub trace: StackTrace,
    /// where the kernel's symbols are from
    pub symbols: Option<String>,
    /// why there are none
    pub no_symbols: Option<String>,
    /// instructions near it that have results of their own, those that say most first
    pub near: Vec<Near>,
}

/// An instruction whose result is not given by its operands alone, or not by the manuals.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Near {
    /// where its result comes from
    #[serde(skip)]
    pub open: Open,
    /// the instruction
    pub instruction: String,
    /// where it is, by its symbol if there is one
    pub at: String,
    /// what of it is open
    pub says: &'static str,
}

impl Guest {
    /// The guest of `machine`, whose recording has this header.
    ///
    /// # Errors
    /// Failures of the host.
    pub fn of(machine: &Machine, header: &Header) -> Result<Self, MachineError> {
        let state = machine.cpu_state()?;
        let memory = Virtual::new(&state, machine.ram());
        let (symbols, no_symbols) = match symbols::of_guest(header, &state, &memory) {
            Ok(symbols) => (Some(symbols), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let trace = stack::trace(&state, machine.ram(), symbols.as_ref());
        // Programs of 32 bits are not looked through.
        let long = state.efer & EFER_LMA != 0 && state.segments[1].attributes & CODE_64 != 0;
        let near = if long { near(&trace, symbols.as_ref(), &memory) } else { Vec::new() };
        let source = symbols.map(|symbols| symbols.source().to_owned());
        Ok(Self { registers: state.registers, trace, symbols: source, no_symbols, near })
    }
}

/// Looks through the functions of a trace, the innermost as far as the guest has come.
fn near(trace: &StackTrace, symbols: Option<&Symbols>, memory: &Virtual<'_>) -> Vec<Near> {
    let mut found: Vec<Near> = Vec::new();
    let mut note = |instruction: &Instruction, (open, says): (Open, &'static str)| {
        let at = symbols.and_then(|symbols| symbols.function(instruction.ip())).map_or_else(
            || format!("{:#x}", instruction.ip()),
            |symbol| format!("{}+{:#x}", symbol.name, symbol.offset),
        );
        found.push(Near { open, instruction: text(instruction), at, says });
    };
    let start = match (trace.mode, symbols.and_then(|symbols| symbols.function(trace.rip))) {
        (Mode::Kernel, Some(function)) => Some(function.start),
        _ => synchronized(trace.rip, memory),
    };
    let mut flags = None;
    for instruction in start.into_iter().flat_map(|start| between(start, trace.rip, memory)) {
        match open::look(&instruction) {
            Some(result @ (Open::Flags, _)) => flags = Some((instruction, result)),
            other => {
                if let Some(result) = other {
                    note(&instruction, result);
                }
                if open::settles_flags(&instruction) {
                    flags = None;
                }
            }
        }
    }
    if let Some((instruction, result)) = flags {
        note(&instruction, result);
    }
    let callers = trace.frames.iter().skip(1).filter_map(|frame| match frame {
        Frame::Code { address, certain: true, .. } => symbols?.function(address.wrapping_sub(1)),
        _ => None,
    });
    for function in callers.take(MOST_FUNCTIONS) {
        let end = function.start.wrapping_add(function.size.min(MOST_BYTES));
        for instruction in between(function.start, end, memory) {
            if let Some(result @ (Open::Noise | Open::Value, _)) = open::look(&instruction) {
                note(&instruction, result);
            }
        }
    }
    found.sort_by_key(|near| near.open);
    found.dedup();
    found.truncate(MOST_NAMED);
    found
}

/// The instructions from `start` up to `end`.
fn between<'a>(start: u64, end: u64, memory: &'a Virtual<'_>) -> impl Iterator<Item = Instruction> + 'a {
    let mut at = start;
    let next = move || {
        let instruction = stack::instruction(at, memory).filter(|_| at < end)?;
        at = instruction.next_ip();
        Some(instruction)
    };
    std::iter::from_fn(next).take(MOST_INSTRUCTIONS)
}

/// A place before `address` from which instructions lead to it. The last of them are the ones that were executed: decoding
/// falls into step after a few.
fn synchronized(address: u64, memory: &Virtual<'_>) -> Option<u64> {
    let starts = (1..=BEFORE).rev().filter_map(|before| address.checked_sub(before));
    starts
        .into_iter()
        .find(|start| between(*start, address, memory).last().is_some_and(|last| last.next_ip() == address))
}

fn text(instruction: &Instruction) -> String {
    let mut formatter = IntelFormatter::new();
    let options = formatter.options_mut();
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_uppercase_hex(false);
    options.set_space_after_operand_separator(true);
    let mut text = String::new();
    formatter.format(instruction, &mut text);
    text
}

/// Names of the registers in the order of [`Registers::words`].
pub(super) const NAMES: [&str; 18] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15", "rip", "rflags",
];

fn by_name<S: Serializer>(registers: &Registers, serializer: S) -> Result<S::Ok, S::Error> {
    serializer
        .collect_map(NAMES.iter().zip(registers.words()).map(|(name, value)| (name, format!("{value:#x}"))))
}
