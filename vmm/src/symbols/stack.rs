//! The way from where the guest's kernel is to where it came from: a stack trace as Linux prints it.
//!
//! From one return address to the next there are three ways, the surest first: what the function's code does to the stack
//! pointer (`unwind`), which takes symbols; a frame pointer that leads to a return address; and else the next word of
//! the stack that looks like one. Those that were only found by looking for them have a `?`, as with Linux: they may be left
//! over from an earlier call.

mod entry;
#[cfg(test)]
mod tests;

use std::fmt;

use iced_x86::FlowControl;
use serde::Serialize;

use super::paging::Virtual;
use super::table::{Symbols, UPPER_HALF};
use super::unwind::{Realigned, Spot, Stack, decode, frame_at};
use crate::engine::cpu::CpuState;
use crate::machine::memory::GuestRam;
use entry::Entry;

/// Most lines of a trace.
const MAX_FRAMES: usize = 64;
/// Linux's THREAD_SIZE: stacks have this many bytes and are aligned to as many.
const STACK_BYTES: u64 = 16 << 10;
/// A CALL has at least and at most this many bytes.
const CALL_BYTES: std::ops::RangeInclusive<u64> = 2..=8;

/// EFER: long mode is active.
pub const EFER_LMA: u64 = 1 << 10;
/// In a code segment's attributes: 64-bit code.
pub const CODE_64: u32 = 1 << 13;
const CS: usize = 1;

/// What the guest is in the middle of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StackTrace {
    /// who executes
    pub mode: Mode,
    /// instruction pointer
    pub rip: u64,
    /// stack pointer
    pub rsp: u64,
    /// the innermost first; without the guest's kernel in 64-bit mode there are none
    pub frames: Vec<Frame>,
    /// there may be more
    pub cut: bool,
}

/// Who executes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// the kernel, in 64-bit mode
    Kernel,
    /// a program
    User,
    /// privileged code in another mode: firmware, a boot loader, the start of a kernel
    Early,
}

/// One line of a trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Frame {
    /// a place in code: where the guest is, or where a call returns to
    Code {
        /// its address
        address: u64,
        /// by its symbol, such as `do_idle+0x5a/0x120`
        symbol: Option<String>,
        /// it was not only found by looking for something like it
        certain: bool,
    },
    /// the kernel was interrupted: what follows is where
    Interrupted,
    /// the kernel was entered from a program, which is there
    Entered {
        /// its instruction pointer
        rip: u64,
        /// its stack pointer
        rsp: u64,
    },
}

/// As Linux writes it, but for the brackets around marks.
impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code { address, symbol, certain } => {
                f.write_str(if *certain { "  " } else { "? " })?;
                match symbol {
                    Some(symbol) => f.write_str(symbol),
                    None => write!(f, "{address:#018x}"),
                }
            }
            Self::Interrupted => f.write_str("  -- interrupted --"),
            Self::Entered { rip, rsp } => {
                write!(f, "  -- entered from a program: rip {rip:#x}, rsp {rsp:#x} --")
            }
        }
    }
}

/// What the processor in `state` over `ram` is in the middle of. `symbols` are those of its kernel, where it runs.
pub fn trace(state: &CpuState, ram: &GuestRam, symbols: Option<&Symbols>) -> StackTrace {
    let (rip, rcx, rsp) = (state.registers.rip, state.registers.general[1], state.registers.general[4]);
    let code = state.segments[CS];
    let mode = if code.selector & 3 == 3 {
        Mode::User
    } else if state.efer & EFER_LMA != 0 && code.attributes & CODE_64 != 0 {
        Mode::Kernel
    } else {
        Mode::Early
    };
    let memory = Virtual::new(state, ram);
    let mut tracer = Tracer { memory: &memory, symbols, kernel: code.selector, rcx, frames: Vec::new() };
    let here = Here { spot: Spot::Before(rip), rsp, rbp: Some(state.registers.general[5]), certain: true };
    let cut = mode == Mode::Kernel && tracer.from(here);
    StackTrace { mode, rip, rsp, frames: tracer.frames, cut }
}

/// The instruction at `address`, as the processor would execute it in 64-bit mode.
pub fn instruction(address: u64, memory: &Virtual<'_>) -> Option<iced_x86::Instruction> {
    decode(address, memory)
}

/// A place in code, and the registers there as far as they are known.
#[derive(Debug, Clone, Copy)]
struct Here {
    spot: Spot,
    rsp: u64,
    rbp: Option<u64>,
    certain: bool,
}

struct Tracer<'a> {
    memory: &'a Virtual<'a>,
    symbols: Option<&'a Symbols>,
    /// the kernel's code segment
    kernel: u16,
    /// where the guest is
    rcx: u64,
    frames: Vec<Frame>,
}

impl Tracer<'_> {
    /// Goes from `here` as far as it can; true if it gave up before it came to an end.
    fn from(&mut self, mut here: Here) -> bool {
        while self.frames.len() < MAX_FRAMES {
            self.note(here);
            here = match self.entry(here) {
                Some(Entry::Program { rip, rsp }) => {
                    self.frames.push(Frame::Entered { rip, rsp });
                    return false;
                }
                Some(Entry::Kernel(interrupted)) => {
                    self.frames.push(Frame::Interrupted);
                    interrupted
                }
                Some(Entry::Beginning) => return false,
                None => {
                    match self.by_code(here).or_else(|| self.by_base(here)).or_else(|| self.by_looking(here))
                    {
                        Some(caller) => caller,
                        None => return false,
                    }
                }
            };
        }
        true
    }

    fn note(&mut self, here: Here) {
        let address = match here.spot {
            Spot::Before(address) | Spot::Return(address) => address,
        };
        let symbol =
            self.symbols.and_then(|symbols| symbols.function(here.spot.inside())).map(|mut symbol| {
                // Where a call returns to may be behind the function's end.
                symbol.offset += address - here.spot.inside();
                symbol.to_string()
            });
        self.frames.push(Frame::Code { address, symbol, certain: here.certain });
    }

    /// By what the function's code does.
    fn by_code(&self, here: Here) -> Option<Here> {
        let frame = frame_at(here.spot, self.symbols?, self.memory)?;
        let realigned = match frame.realigned {
            Realigned::Saved(below) => Some((here.rbp?, below)),
            _ => None,
        };
        let entry = match (frame.stack, realigned) {
            (_, Some((rbp, below))) => self.memory.word(rbp.checked_sub(below)?)?.checked_sub(8)?,
            (Stack::Below(bytes), _) => here.rsp.checked_add(bytes)?,
            (Stack::Switched { outer, inner }, _) => {
                self.memory.word(here.rsp.checked_add(inner)?)?.checked_add(outer)?
            }
            (Stack::Aligned(_) | Stack::Unknown, _) => here.rbp?.checked_add(frame.base?)?,
        };
        let rbp = match (realigned, frame.saved_base, frame.base) {
            (Some((rbp, _)), ..) => self.memory.word(rbp),
            (_, Some(saved), _) => self.memory.word(entry.checked_sub(saved)?),
            (_, None, Some(_)) => None,
            (_, None, None) => here.rbp,
        };
        let certain = here.certain;
        let spot = self.returns(entry).or_else(|| self.gone(entry))?;
        Some(Here { spot, rsp: entry.wrapping_add(8), rbp, certain })
    }

    /// The return address in the word at `at` into code of the kernel's start, which is no more: Linux frees it.
    fn gone(&self, at: u64) -> Option<Spot> {
        let address = self.memory.word(at)?;
        self.is_of_the_start(address.checked_sub(1)?).then_some(Spot::Return(address))
    }

    fn is_of_the_start(&self, address: u64) -> bool {
        let Some(symbols) = self.symbols else { return false };
        let one = |name| symbols.addresses(name).next();
        let (Some(start), Some(end)) = (one("_sinittext"), one("_einittext")) else { return false };
        (start..end).contains(&address) && symbols.is_code(address)
    }

    /// By a frame pointer, if it is one: on this stack, with a return address above it.
    fn by_base(&self, here: Here) -> Option<Here> {
        let rbp = here.rbp?;
        let usable = rbp.is_multiple_of(8) && (here.rsp..self.end(here)).contains(&rbp);
        let spot = self.returns(rbp.checked_add(8)?).filter(|_| usable)?;
        let above = self.memory.word(rbp).filter(|above| *above > rbp);
        Some(Here { spot, rsp: rbp.wrapping_add(16), rbp: above, certain: here.certain })
    }

    /// By looking for the next return address on this stack.
    fn by_looking(&self, here: Here) -> Option<Here> {
        let words = (here.rsp & !7..self.end(here)).step_by(8);
        let (at, spot) = words
            .map_while(|at| self.memory.word(at).map(|_| at))
            .find_map(|at| Some((at, self.returns(at)?)))?;
        Some(Here { spot, rsp: at.wrapping_add(8), rbp: None, certain: false })
    }

    /// Where the stack of `here` ends.
    fn end(&self, here: Here) -> u64 {
        if here.rsp < UPPER_HALF {
            here.rsp
        } else {
            here.rsp.saturating_add(STACK_BYTES) & !(STACK_BYTES - 1)
        }
    }

    /// The return address in the word at `at`, if it is one: in the kernel's code, behind a CALL.
    fn returns(&self, at: u64) -> Option<Spot> {
        let address = self.memory.word(at).filter(|address| *address >= UPPER_HALF)?;
        let inside = address - 1;
        let known = self.symbols.is_none_or(|symbols| symbols.is_code(inside));
        (known && self.memory.is_kernel_code(inside) && self.is_behind_call(address))
            .then_some(Spot::Return(address))
    }

    fn is_behind_call(&self, address: u64) -> bool {
        CALL_BYTES.filter_map(|length| decode(address.wrapping_sub(length), self.memory)).any(|found| {
            found.next_ip() == address
                && match found.flow_control() {
                    FlowControl::Call => {
                        found.is_call_near() && self.memory.is_kernel_code(found.near_branch_target())
                    }
                    FlowControl::IndirectCall => true,
                    _ => false,
                }
        })
    }
}
