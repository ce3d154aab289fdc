//! What only markers say: registers and page hashes at a checkpoint, exits as they were served.
//!
//! A marker follows from the rest of a recording and takes no part in a replay, so all of them can be dropped.

use crate::event::Body;

/// Most registers in one [`Body::State`].
pub const MAX_REGISTERS: usize = 256;
/// Most bytes of a register's name: printable ASCII, at least one.
pub const MAX_REGISTER_NAME: usize = 32;
/// Most page hashes in one [`Body::State`]. [`Body::states`] makes as many events as are needed.
pub const MAX_PAGES: usize = 4096;

/// One register by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register {
    /// Its name, such as "rax", 1 to [`MAX_REGISTER_NAME`] characters of printable ASCII without spaces.
    pub name: String,
    /// Its width in bytes, 1 to 16.
    pub bytes: u8,
    /// Its value, less than 256^`bytes`.
    pub value: u128,
}

impl Register {
    /// A register of 8 bytes.
    pub fn u64(name: &str, value: u64) -> Register {
        Register { name: name.to_owned(), bytes: 8, value: value.into() }
    }
}

/// What the guest did to cause an exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExitKind {
    /// IN, or one element of INS.
    PortRead,
    /// OUT, or one element of OUTS.
    PortWrite,
    /// A load from an address that is not RAM.
    MmioRead,
    /// A store to an address that is not RAM.
    MmioWrite,
    /// HLT.
    Halt,
    /// RDMSR of an MSR that the machine serves.
    MsrRead,
    /// WRMSR of an MSR that the machine serves.
    MsrWrite,
}

impl ExitKind {
    /// All of them, in the order of the format's numbers.
    pub const ALL: [ExitKind; 7] = [
        ExitKind::PortRead,
        ExitKind::PortWrite,
        ExitKind::MmioRead,
        ExitKind::MmioWrite,
        ExitKind::Halt,
        ExitKind::MsrRead,
        ExitKind::MsrWrite,
    ];

    /// Its name, as `scribe-vmm log` prints it.
    pub fn name(self) -> &'static str {
        match self {
            ExitKind::PortRead => "port-read",
            ExitKind::PortWrite => "port-write",
            ExitKind::MmioRead => "mmio-read",
            ExitKind::MmioWrite => "mmio-write",
            ExitKind::Halt => "halt",
            ExitKind::MsrRead => "msr-read",
            ExitKind::MsrWrite => "msr-write",
        }
    }

    /// Whether the guest gave a value.
    pub fn writes(self) -> bool {
        matches!(self, ExitKind::PortWrite | ExitKind::MmioWrite | ExitKind::MsrWrite)
    }
}

/// What the machine answered to an exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitAnswer {
    /// A write or a halt was served.
    Done,
    /// The value read.
    Value(u64),
    /// The MSR does not exist: #GP(0).
    GeneralProtection,
}

impl Body {
    /// Registers and page hashes (frame number and hash, frames ascending) as one [`Body::State`], or, if there are more
    /// than [`MAX_PAGES`] hashes, as several for the same position, of which only the first has the registers.
    pub fn states(registers: Vec<Register>, pages: &[(u64, u64)]) -> Vec<Body> {
        let mut registers = Some(registers);
        let mut chunks = pages.chunks(MAX_PAGES);
        // Also without any page there is a state.
        let first = chunks.next().unwrap_or_default();
        std::iter::once(first)
            .chain(chunks)
            .map(|pages| Body::State {
                registers: registers.take().unwrap_or_default(),
                pages: pages.to_vec(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_pages_are_several_states() {
        let count = |pages: u64| {
            let pages: Vec<(u64, u64)> = (0..pages).map(|frame| (frame, !frame)).collect();
            let states = Body::states(vec![Register::u64("rax", 1)], &pages);
            let mut back: Vec<(u64, u64)> = Vec::new();
            for (at, state) in states.iter().enumerate() {
                let Body::State { registers, pages } = state else { panic!("{state:?}") };
                assert_eq!(registers.len(), usize::from(at == 0));
                back.extend(pages);
            }
            assert_eq!(back, pages);
            states.len()
        };
        assert_eq!([0, 1, 4096, 4097, 10_000].map(count), [1, 1, 1, 2, 3]);
    }
}
