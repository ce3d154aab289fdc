//! What `scribe-pc-2` has beside the devices of `scribe-pc-1`: the local APIC, the I/O APIC and the fixed hardware of
//! ACPI, where they answer and how their lines run (docs/platform.md).
//!
//! A device's line goes to the 8259A pair and to the I/O APIC's pin of the same number, but for the 8254's, which goes to
//! pin 2; the guest masks what it does not use. The pair's INTR is LINT0. What the processor takes first is INTR, if LINT0
//! is ExtINT, then the local APIC's highest vector.

use scribe_devices::acpi_pm::{self, AcpiPm, PowerRequest};
use scribe_devices::apic::{
    BASE_ADDRESS, GeneralProtection, Interrupt, IoApic, Lapic, LapicConfig, PINS, Request, Signal, Tsc,
    deliver, is_apic_msr,
};
use scribe_devices::pic::PicPair;

use super::acpi::{Description, VirtioDevice};
use super::platform::{MMIO_SLOT, TIMER_IRQ, UART_IRQ, UART_PORT};
use crate::engine::Answer;

#[cfg(test)]
mod tests;

/// Address of the I/O APIC's registers.
pub const IO_APIC_ADDRESS: u64 = 0xfec0_0000;
/// ID of the I/O APIC.
const IO_APIC_ID: u8 = 1;
/// Bytes from an APIC's address on in which it answers.
const WINDOW: u64 = 0x1000;
/// Pin of the I/O APIC that the 8254 is connected to.
pub const TIMER_PIN: u8 = 2;
/// System control interrupt: level-triggered.
pub const SCI_IRQ: u8 = 9;
/// First port of the fixed hardware of ACPI.
pub const PM_PORT: u16 = 0x600;
/// What is told of as the line of an interrupt of the local APIC's own: timer, error, interprocessor.
pub const LOCAL_LINE: u8 = PINS;

/// The TSC that an armed deadline would be of. No CPU profile has TSC-deadline mode yet.
const TSC: Tsc = Tsc { khz: 1_000_000, offset: 0 };

/// The APICs and the fixed hardware of ACPI, of one processor.
pub struct Apics {
    pub(super) lapic: Lapic,
    pub(super) io: IoApic,
    pub(super) pm: AcpiPm,
    /// the processor was sent an INIT, for the machine to take
    init: bool,
}

impl Apics {
    /// As firmware leaves them: virtual wire mode.
    pub fn new() -> Self {
        let config = LapicConfig { id: 0, bootstrap: true, x2apic: false, tsc_deadline: false };
        let mut lapic = Lapic::new(config);
        lapic.set_virtual_wire();
        Self { lapic, io: IoApic::new(IO_APIC_ID), pm: AcpiPm::new(), init: false }
    }

    /// A load from an address that is not RAM; `None`: nothing of this answers there.
    pub fn read(&mut self, address: u64, size: u8, now: u64) -> Option<u64> {
        if let Some(offset) = offset_in(address, BASE_ADDRESS) {
            return self.lapic.read(offset, size, now);
        }
        offset_in(address, IO_APIC_ADDRESS).map(|offset| self.io.read(offset, size))
    }

    /// A store to an address that is not RAM; false: nothing of this answers there.
    pub fn write(&mut self, address: u64, size: u8, value: u64, now: u64) -> bool {
        if let Some(offset) = offset_in(address, BASE_ADDRESS) {
            let request = self.lapic.write(offset, size, value, now);
            self.serve(request);
            return true;
        }
        let Some(offset) = offset_in(address, IO_APIC_ADDRESS) else { return false };
        self.io.write(offset, size, value);
        true
    }

    /// RDMSR; `None`: not an MSR of the local APIC.
    pub fn read_msr(&mut self, index: u32, now: u64) -> Option<Answer> {
        is_apic_msr(index).then(|| match self.lapic.read_msr(index, now) {
            Ok(value) => Answer::Value(value),
            Err(GeneralProtection) => Answer::GeneralProtection,
        })
    }

    /// WRMSR; `None`: not an MSR of the local APIC.
    pub fn write_msr(&mut self, index: u32, value: u64, now: u64) -> Option<Answer> {
        is_apic_msr(index).then(|| match self.lapic.write_msr(index, value, now, TSC) {
            Ok(request) => {
                self.serve(request);
                Answer::Done
            }
            Err(GeneralProtection) => Answer::GeneralProtection,
        })
    }

    /// A read of a port; `None`: not one of these.
    pub fn port_read(&self, port: u16, size: u8) -> Option<u32> {
        let offset = pm_offset(port)?;
        Some(if size <= 2 { self.pm.read(offset, size).into() } else { u32::MAX })
    }

    /// A write to a port, and what the guest asks for by it; outer `None`: not one of these.
    pub fn port_write(&mut self, port: u16, size: u8, value: u32) -> Option<Option<PowerRequest>> {
        let offset = pm_offset(port)?;
        let value = u16::try_from(value & 0xffff).unwrap_or(0);
        Some(self.pm.write(offset, size, value))
    }

    fn serve(&mut self, request: Option<Request>) {
        match request {
            None => {}
            Some(Request::EndOfInterrupt(vector)) => self.io.end_of_interrupt(vector),
            Some(Request::Send(message)) => {
                let delivered = deliver(std::slice::from_mut(&mut self.lapic), &message);
                self.init |= is_init(&delivered.signals);
            }
        }
    }

    /// The 8254's OUT has risen.
    pub fn timer_edge(&mut self) {
        self.io.pulse(TIMER_PIN);
    }

    /// Takes the levels of the devices' lines to the I/O APIC, and what follows to the local APIC. `pic` has them already.
    pub fn route(&mut self, lines: &[(u8, bool)], pic: &mut PicPair) {
        let sci = (SCI_IRQ, self.pm.sci_level());
        pic.set_line(sci.0, sci.1);
        for &(line, level) in lines.iter().chain([&sci]) {
            self.io.set_line(line, level);
        }
        let (lapic, init) = (&mut self.lapic, &mut self.init);
        self.io.service(|message| {
            let delivered = deliver(std::slice::from_mut(lapic), message);
            *init |= is_init(&delivered.signals);
            delivered.accepted
        });
        self.see_intr(pic);
    }

    /// The 8259A pair's INTR, on LINT0. That is never NMI or INIT at its rising edge: a guest that says so gets nothing.
    fn see_intr(&mut self, pic: &PicPair) {
        let signal = self.lapic.set_line(0, pic.pending());
        self.init |= signal == Some(Signal::Init);
    }

    /// True if an interrupt waits for the processor.
    pub fn pending(&self) -> bool {
        self.lapic.pending().is_some()
    }

    /// The processor takes the interrupt that waits: its vector, and the line it is of; `None` if it is spurious.
    pub fn acknowledge(&mut self, pic: &mut PicPair) -> (u8, Option<u8>) {
        if self.lapic.pending() == Some(Interrupt::External) {
            let irq = pic.highest();
            let vector = pic.acknowledge();
            self.see_intr(pic);
            return (vector, irq);
        }
        let spurious = self.lapic.pending().is_none();
        let vector = self.lapic.acknowledge();
        let line = match self.io.pin_of(vector) {
            Some(TIMER_PIN) => TIMER_IRQ,
            Some(pin) => pin,
            None => LOCAL_LINE,
        };
        (vector, (!spurious).then_some(line))
    }

    /// True if nothing on this line gets through the I/O APIC.
    pub fn is_masked(&self, irq: u8) -> bool {
        self.io.is_masked(if irq == TIMER_IRQ { TIMER_PIN } else { irq })
    }

    /// True if the processor was sent an INIT since the last call.
    pub fn take_init(&mut self) -> bool {
        std::mem::take(&mut self.init)
    }
}

impl Default for Apics {
    fn default() -> Self {
        Self::new()
    }
}

/// What the ACPI tables of a machine say whose virtio devices have these addresses and interrupt lines.
pub fn description(virtio: Vec<(u64, u8)>) -> Description {
    let word = |address: u64| u32::try_from(address).unwrap_or(u32::MAX);
    let slot = |(base, irq)| VirtioDevice { address: word(base), size: word(MMIO_SLOT), irq };
    Description {
        processors: 1,
        local_apic: word(BASE_ADDRESS),
        io_apic: (IO_APIC_ID, word(IO_APIC_ADDRESS)),
        timer_pin: TIMER_PIN,
        sci: SCI_IRQ,
        pm_port: PM_PORT,
        serial: (UART_PORT, UART_IRQ),
        rtc_port: 0x70,
        virtio: virtio.into_iter().map(slot).collect(),
    }
}

fn offset_in(address: u64, base: u64) -> Option<u64> {
    address.checked_sub(base).filter(|offset| *offset < WINDOW)
}

fn pm_offset(port: u16) -> Option<u16> {
    port.checked_sub(PM_PORT).filter(|offset| *offset < acpi_pm::PORTS)
}

fn is_init(signals: &[(usize, Signal)]) -> bool {
    signals.iter().any(|(_, signal)| *signal == Signal::Init)
}
