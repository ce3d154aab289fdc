//! Names for what happens in a machine of platform `scribe-pc-1`: ports, registers and their bits, MSRs, interrupts,
//! disk requests, ends.
//!
//! Nothing here looks at a machine: it decodes what is said of exits, so that a log made elsewhere reads the same. What
//! a register is can depend on earlier accesses (an index port, a sequence of words), so a [`Decoder`] is shown all
//! exits in order.

mod fields;
mod guest;
mod msr;
mod pic;
mod pit;
mod rtc;
mod uart;
mod unmapped;
mod virtio;

pub use fields::{Field, Meaning, Quoted};
pub use msr::name as msr_name;
pub use virtio::{Request, request as request_name, status as request_status};

use std::fmt;

use crate::engine::{Answer, Exit};
use crate::machine::platform::{
    DISK_IRQ, GUEST_INTERFACE_PORT, GUEST_INTERFACE_PORTS, MMIO_BASE, MMIO_SLOT, TIMER_IRQ, UART_IRQ,
    UART_PORT, VIRTIO_IRQS,
};

/// A register's name, and what its value means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Named(&'static str, Meaning);

/// Who an event is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Device {
    /// the processor: HLT, MSRs, registers
    Cpu,
    /// outside: bookmarks that the guest has not set
    Host,
    /// the machine as a whole: digests, seals, time, the end
    Machine,
    /// the pair of interrupt controllers
    Pic,
    /// the timer, and port 0x61
    Pit,
    /// the real-time clock and CMOS memory
    Rtc,
    /// the keyboard controller
    I8042,
    /// the serial port: the console
    Uart,
    /// the guest interface
    Guest,
    /// the disk
    Disk,
    /// a virtio device besides the disk
    Virtio,
    /// nothing answers there
    Unmapped,
}

impl Device {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Cpu,
        Self::Host,
        Self::Machine,
        Self::Pic,
        Self::Pit,
        Self::Rtc,
        Self::I8042,
        Self::Uart,
        Self::Guest,
        Self::Disk,
        Self::Virtio,
        Self::Unmapped,
    ];

    /// Its name, on the command line and in every form of the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Host => "host",
            Self::Machine => "machine",
            Self::Pic => "pic",
            Self::Pit => "pit",
            Self::Rtc => "rtc",
            Self::I8042 => "i8042",
            Self::Uart => "uart",
            Self::Guest => "guest",
            Self::Disk => "disk",
            Self::Virtio => "virtio",
            Self::Unmapped => "unmapped",
        }
    }

    /// Whose line of the interrupt controllers this is; `None` (spurious) and lines that nobody drives are the
    /// controllers' own.
    pub fn of_irq(irq: Option<u8>) -> Self {
        match irq {
            Some(TIMER_IRQ) => Self::Pit,
            Some(UART_IRQ) => Self::Uart,
            Some(DISK_IRQ) => Self::Disk,
            Some(irq) if VIRTIO_IRQS.contains(&irq) => Self::Virtio,
            _ => Self::Pic,
        }
    }
}

/// An exit, decoded. It prints as one phrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    exit: Exit,
    answer: Answer,
    /// who was accessed
    pub device: Device,
    /// the register's name; empty if it has none
    pub register: &'static str,
    /// what was read or written there
    pub meaning: Meaning,
}

impl fmt::Display for Decoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, bits, address, value) = match self.exit {
            Exit::PortRead { port, size } => ("in", bits(size), u64::from(port), None),
            Exit::PortWrite { port, size, value } => ("out", bits(size), port.into(), Some(value.into())),
            Exit::MmioRead { address, size } => ("load", bits(size), address, None),
            Exit::MmioWrite { address, size, value } => ("store", bits(size), address, Some(value)),
            Exit::Halt => return f.write_str("hlt"),
            Exit::MsrRead { index } => ("rdmsr", "", index.into(), None),
            Exit::MsrWrite { index, value } => ("wrmsr", "", index.into(), Some(value)),
        };
        write!(f, "{verb}{bits} {address:#x}")?;
        if !self.register.is_empty() {
            write!(f, " {}", self.register)?;
        }
        if let Some(value) = value {
            write!(f, " <- {value:#x}")?;
        }
        match self.answer {
            Answer::Value(value) => write!(f, " -> {value:#x}")?,
            Answer::Done => {}
            Answer::GeneralProtection => f.write_str(" -> #GP")?,
        }
        if !self.meaning.is_empty() {
            write!(f, ": {}", self.meaning)?;
        }
        Ok(())
    }
}

/// An access's size in bits; empty if no access has that size.
fn bits(size: u8) -> &'static str {
    ["", "8", "16", "24", "32", "40", "48", "56", "64"].get(usize::from(size)).copied().unwrap_or("")
}

/// Decodes exits, shown to it in order from power-on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Decoder {
    pic: pic::Pair,
    uart: uart::Uart,
    rtc: rtc::Rtc,
    /// by slot: the disk, and what is behind it
    slots: [virtio::Mmio; 1 + VIRTIO_IRQS.len()],
}

impl Decoder {
    /// Decodes one exit.
    pub fn exit(&mut self, exit: &Exit, answer: Answer) -> Decoded {
        let read = match answer {
            Answer::Value(value) => value,
            Answer::Done | Answer::GeneralProtection => 0,
        };
        let (device, Named(register, meaning)) = match *exit {
            Exit::PortRead { port, size } => self.port(port, size, read, false),
            Exit::PortWrite { port, size, value } => self.port(port, size, value.into(), true),
            Exit::MmioRead { address, size } => self.mmio(address, size, read, false),
            Exit::MmioWrite { address, size, value } => self.mmio(address, size, value, true),
            Exit::Halt => (Device::Cpu, Named("", Meaning::None)),
            Exit::MsrRead { index } | Exit::MsrWrite { index, .. } => {
                (Device::Cpu, Named(msr::name(index).unwrap_or(""), Meaning::None))
            }
        };
        Decoded { exit: *exit, answer, device, register, meaning }
    }

    fn port(&mut self, port: u16, size: u8, value: u64, write: bool) -> (Device, Named) {
        if let Some(offset @ 0..GUEST_INTERFACE_PORTS) = port.checked_sub(GUEST_INTERFACE_PORT) {
            return (Device::Guest, guest::access(offset, size, value, write));
        }
        let byte = value.to_le_bytes()[0];
        let device = match port {
            0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1 => Device::Pic,
            0x40..=0x43 | 0x61 => Device::Pit,
            0x60 | 0x64 => Device::I8042,
            0x70 | 0x71 => Device::Rtc,
            _ if matches!(port.checked_sub(UART_PORT), Some(0..8)) => Device::Uart,
            _ => return (Device::Unmapped, Named(unmapped::port(port).unwrap_or(""), Meaning::None)),
        };
        if size != 1 {
            return (device, Named("", Meaning::Phrase("ignored: it takes single bytes")));
        }
        let named = match device {
            Device::Pic if write => self.pic.write(port, byte),
            Device::Pic => self.pic.read(port, byte),
            Device::Pit => pit::access(port, byte, write),
            Device::Rtc => self.rtc.access(port, byte, write),
            Device::Uart => self.uart.access(port - UART_PORT, byte, write),
            _ => keyboard(port, byte, write),
        };
        (device, named)
    }

    fn mmio(&mut self, address: u64, size: u8, value: u64, write: bool) -> (Device, Named) {
        let place = address.checked_sub(MMIO_BASE).map(|offset| (offset / MMIO_SLOT, offset % MMIO_SLOT));
        let slot = place.and_then(|(slot, offset)| {
            let index = usize::try_from(slot).ok()?;
            Some((index, offset, self.slots.get_mut(index)?))
        });
        let Some((index, offset, slot)) = slot else {
            return (Device::Unmapped, Named(unmapped::address(address).unwrap_or(""), Meaning::None));
        };
        let named = if offset < virtio::CONFIG && size != 4 {
            Named("", Meaning::Phrase("ignored: registers take four bytes"))
        } else {
            slot.access(offset, value, write)
        };
        (if index == 0 { Device::Disk } else { Device::Virtio }, named)
    }
}

/// The keyboard controller's two ports.
fn keyboard(port: u16, value: u8, write: bool) -> Named {
    match (port, write, value) {
        (0x60, _, _) => Named("data", Meaning::None),
        (_, false, _) => Named("status", Meaning::None),
        (_, true, 0xfe) => Named("command", Meaning::Phrase("reset")),
        (_, true, _) => Named("command", Meaning::None),
    }
}

#[cfg(test)]
mod tests;
