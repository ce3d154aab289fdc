//! Which lane an exit belongs to, and what to call it there.

use super::lane::Kind;
use crate::engine::{Answer, Exit};
use crate::machine::platform::{
    GUEST_INTERFACE_PORT, GUEST_INTERFACE_PORTS, MMIO_BASE, MMIO_SLOT, UART_PORT,
};

/// An exit as its lane takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// the lane's name
    pub(super) lane: &'static str,
    pub(super) kind: Kind,
    /// port, address or number of the MSR
    pub(super) address: u64,
    /// what was read or written
    pub(super) value: u64,
}

/// Classifies an exit; `None` for HLT, which the idle time behind it shows.
pub(super) fn exit(exit: &Exit, answer: Answer) -> Option<Seen> {
    let read = match answer {
        Answer::Value(value) => value,
        Answer::Done | Answer::GeneralProtection => 0,
    };
    let (verb, bits, address, value, write) = match *exit {
        Exit::PortRead { port, size } => ("in", 8 * size, u64::from(port), read, false),
        Exit::PortWrite { port, size, value } => ("out", 8 * size, port.into(), value.into(), true),
        Exit::MmioRead { address, size } => ("load", size.saturating_mul(8), address, read, false),
        Exit::MmioWrite { address, size, value } => ("store", size.saturating_mul(8), address, value, true),
        Exit::MsrRead { index } => ("rdmsr", 0, index.into(), read, false),
        Exit::MsrWrite { index, value } => ("wrmsr", 0, index.into(), value, true),
        Exit::Halt => return None,
    };
    let (lane, name) = match *exit {
        Exit::PortRead { port, .. } | Exit::PortWrite { port, .. } => of_port(port, write),
        Exit::MmioRead { .. } | Exit::MmioWrite { .. } => match address.checked_sub(MMIO_BASE) {
            Some(offset) if offset < MMIO_SLOT => ("virtio", format!("{offset:#05x}")),
            _ => ("unmapped", String::new()),
        },
        _ => ("msr", format!("{address:#x}")),
    };
    let verb = if bits == 0 { verb.to_owned() } else { format!("{verb}{bits}") };
    Some(Seen { lane, kind: Kind { verb, name, write }, address, value })
}

fn of_port(port: u16, write: bool) -> (&'static str, String) {
    if let Some(offset @ 0..GUEST_INTERFACE_PORTS) = port.checked_sub(GUEST_INTERFACE_PORT) {
        return ("guest", format!("+{offset:#04x}"));
    }
    if let Some(offset @ 0..8) = port.checked_sub(UART_PORT) {
        let names = ["RBR", "IER", "IIR", "LCR", "MCR", "LSR", "MSR", "SCR"];
        let name = match (offset, write) {
            (0, true) => "THR",
            (2, true) => "FCR",
            _ => names[usize::from(offset)],
        };
        return ("uart", name.into());
    }
    match port {
        0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1 => ("pic", format!("{port:#x}")),
        0x40..=0x42 => ("pit", format!("counter {}", port - 0x40)),
        0x43 => ("pit", "control".into()),
        0x61 => ("pit", "port 0x61".into()),
        0x60 | 0x64 => ("i8042", format!("{port:#x}")),
        0x70 => ("rtc", "index".into()),
        0x71 => ("rtc", "data".into()),
        _ => ("unmapped", String::new()),
    }
}
