//! Exits from the middle of an instruction: ports, memory that is not RAM, MSRs.
//!
//! An instruction that needs the machine stops with [`Trap::Exit`] and has changed nothing. When the machine has answered,
//! it runs again from its start; accesses that have been served are answered from the list kept here, in order, until it
//! comes to one that has not. So an instruction may make several exits (read-modify-write, halves on two pages, 16 bytes),
//! and no handler has a second half of its own.

use scribe_types::stop::{Answer, Exit};

use crate::cpu::{Cpu, Done, Trap};

/// The exits that the running instruction has made.
#[derive(Debug, Default)]
pub(crate) struct Accesses {
    served: Vec<(Exit, Answer)>,
    next: usize,
    /// elements of INS that still come without a sync point between them
    pub batch: u64,
    /// elements of a REP instruction have been read from a device and no sync point has come since
    pub unbroken: bool,
}

impl Accesses {
    /// The instruction runs (again) from its start.
    #[inline(always)]
    pub(crate) fn rewind(&mut self) {
        self.next = 0;
    }

    /// An iteration has retired.
    #[inline(always)]
    pub(crate) fn retire(&mut self) {
        self.served.clear();
        self.next = 0;
    }

    /// The instruction has retired, or it faults for good.
    #[inline(always)]
    pub(crate) fn clear(&mut self) {
        self.retire();
        self.batch = 0;
        self.unbroken = false;
    }

    /// True while an instruction waits in the middle.
    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.served.is_empty()
    }

    /// True if there is nothing that the next instruction would find: it is at its start.
    pub(crate) fn is_idle(&self) -> bool {
        self.served.is_empty() && self.next == 0 && self.batch == 0 && !self.unbroken
    }

    /// The last exit that was served.
    pub(crate) fn last(&self) -> Option<Exit> {
        self.served.last().map(|(exit, _)| *exit)
    }

    pub(crate) fn push(&mut self, exit: Exit, answer: Answer) {
        self.served.push((exit, answer));
    }
}

impl Cpu {
    /// Has the machine serve `exit`.
    #[cold]
    pub(crate) fn ask(&mut self, exit: Exit) -> Result<Answer, Trap> {
        match self.accesses.served.get(self.accesses.next) {
            Some((_, answer)) => {
                self.accesses.next += 1;
                Ok(*answer)
            }
            None => {
                self.wanted = Some(exit);
                Err(Trap::Exit)
            }
        }
    }

    fn ask_value(&mut self, exit: Exit) -> Result<u64, Trap> {
        Ok(match self.ask(exit)? {
            Answer::Value(value) => value,
            _ => 0,
        })
    }

    /// A load of 1 to 8 bytes from an address that is not RAM.
    pub(crate) fn mmio_read(&mut self, address: u64, size: u8) -> Result<u64, Trap> {
        self.ask_value(Exit::MmioRead { address, size })
    }

    /// A store of 1 to 8 bytes to an address that is not RAM.
    pub(crate) fn mmio_write(&mut self, address: u64, size: u8, value: u64) -> Done {
        self.ask(Exit::MmioWrite { address, size, value }).map(|_| ())
    }

    /// IN or an element of INS, 1, 2 or 4 bytes. Permission is the caller's affair.
    pub(crate) fn port_read(&mut self, port: u16, size: u8) -> Result<u32, Trap> {
        let value = self.ask_value(Exit::PortRead { port, size })?;
        Ok((value & (u64::MAX >> (64 - 8 * u32::from(size)))) as u32)
    }

    /// OUT or an element of OUTS.
    pub(crate) fn port_write(&mut self, port: u16, size: u8, value: u32) -> Done {
        self.ask(Exit::PortWrite { port, size, value }).map(|_| ())
    }

    /// RDMSR of an MSR of the machine's; #GP(0) if it has none such.
    pub(crate) fn msr_read(&mut self, index: u32) -> Result<u64, Trap> {
        match self.ask(Exit::MsrRead { index })? {
            Answer::Value(value) => Ok(value),
            _ => Err(self.general_protection()),
        }
    }

    /// WRMSR of an MSR of the machine's; #GP(0) if it does not take it.
    pub(crate) fn msr_write(&mut self, index: u32, value: u64) -> Done {
        match self.ask(Exit::MsrWrite { index, value })? {
            Answer::GeneralProtection => Err(self.general_protection()),
            _ => Ok(()),
        }
    }
}
