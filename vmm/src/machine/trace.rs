//! The last exits served, kept for reports.

use std::collections::VecDeque;
use std::fmt;

use crate::engine::{Answer, Exit};

/// How many exits are kept.
const KEPT: usize = 16;

/// One exit and what was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// number of the exit
    pub exit: u64,
    /// the exit
    pub what: Exit,
    /// the answer
    pub answer: Answer,
}

/// The last exits, oldest first.
#[derive(Debug, Clone, Default)]
pub struct Trace(VecDeque<Entry>);

impl Trace {
    pub(super) fn push(&mut self, exit: u64, what: Exit, answer: Answer) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(Entry { exit, what, answer });
    }

    /// The entries, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter()
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit:{} ", self.exit)?;
        match self.what {
            Exit::PortRead { port, size } => write!(f, "in{} {port:#x}", 8 * size)?,
            Exit::PortWrite { port, size, value } => write!(f, "out{} {port:#x} <- {value:#x}", 8 * size)?,
            Exit::MmioRead { address, size } => write!(f, "load{} {address:#x}", 8 * u32::from(size))?,
            Exit::MmioWrite { address, size, value } => {
                write!(f, "store{} {address:#x} <- {value:#x}", 8 * u32::from(size))?;
            }
            Exit::Halt => write!(f, "hlt")?,
            Exit::MsrRead { index } => write!(f, "rdmsr {index:#x}")?,
            Exit::MsrWrite { index, value } => write!(f, "wrmsr {index:#x} <- {value:#x}")?,
        }
        match self.answer {
            Answer::Value(value) => write!(f, " -> {value:#x}"),
            Answer::Done => Ok(()),
            Answer::GeneralProtection => write!(f, " -> #GP"),
        }
    }
}
