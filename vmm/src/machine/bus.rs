//! The devices of a machine and where they answer: those of `scribe-pc-1`, and what `scribe-pc-2` has beside them.
//!
//! Unmapped ports and addresses read as all ones and ignore writes; the access is an exit like any other and so is
//! visible in the digests.

use scribe_devices::Snapshot;
use scribe_devices::acpi_pm::{AcpiPm, PowerRequest};
use scribe_devices::apic::{IoApic, Lapic};
use scribe_devices::guest_interface::{CommandTooLong, GuestInterface, GuestRequest};
use scribe_devices::i8042::I8042;
use scribe_devices::pic::PicPair;
use scribe_devices::pit::Pit;
use scribe_devices::rtc::Rtc;
use scribe_devices::uart::Uart;
use scribe_devices::virtio::blk::{BackendError, Blk, BlockBackend, RequestRecord};
use scribe_devices::virtio::mmio::VirtioMmio;
use scribe_devices::virtio::slot::Bank;
use serde::Serialize;

use super::apics::{Apics, SCI_IRQ};
use super::disk::Disk;
use super::memory::Memory;
use super::msr;
use super::platform::{
    DISK_ID, DISK_IRQ, GUEST_INTERFACE_PORT, GUEST_INTERFACE_PORTS, MMIO_BASE, MMIO_SLOT, Platform,
    TIMER_IRQ, UART_IRQ, UART_PORT,
};
use super::virtio::Outbox;
use crate::engine::Answer;

/// The disk's register that makes it read and write RAM (virtio 1.2, 4.2.2).
const QUEUE_NOTIFY: u64 = 0x50;

/// What a device asks of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// something the guest interface was asked for
    Guest(GuestRequest),
    /// reset: by the keyboard controller's line, or by the register that ACPI names
    Reset,
    /// ACPI's soft off
    PowerOff,
}

/// The machine's disk: the device and what is behind it.
pub struct DiskSlot {
    pub(super) device: VirtioMmio<Blk>,
    pub(super) backend: Disk,
}

/// All devices.
pub struct Devices {
    /// the interrupt controllers
    pub pic: PicPair,
    pub(super) pit: Pit,
    /// the console
    pub uart: Uart,
    pub(super) rtc: Rtc,
    pub(super) i8042: I8042,
    pub(super) guest: GuestInterface,
    pub(super) disk: Option<DiskSlot>,
    /// virtio devices in the slots behind the disk
    pub(super) virtio: Bank<Disk>,
    pub(super) outbox: Outbox,
    /// from `scribe-pc-2` on
    pub(super) apics: Option<Apics>,
}

/// State of all devices, for digests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DevicesState {
    pic: <PicPair as Snapshot>::State,
    pit: <Pit as Snapshot>::State,
    uart: <Uart as Snapshot>::State,
    rtc: <Rtc as Snapshot>::State,
    i8042: <I8042 as Snapshot>::State,
    guest: <GuestInterface as Snapshot>::State,
    disk: Option<<VirtioMmio<Blk> as Snapshot>::State>,
    /// not in the digests of `scribe-pc-1`, which are what they were before there was this
    #[serde(skip_serializing_if = "Option::is_none")]
    apics: Option<ApicsState>,
}

type ApicsState = (<Lapic as Snapshot>::State, <IoApic as Snapshot>::State, <AcpiPm as Snapshot>::State);

fn all_ones(size: u8) -> u64 {
    u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)))
}

impl Devices {
    /// The devices after power-on.
    ///
    /// `command`: CMD and ARGS, each followed by NUL. `rtc_base`: seconds since 1970 that the RTC shows at power-on.
    ///
    /// # Errors
    /// The command is too long.
    pub fn new(
        platform: Platform,
        command: Vec<u8>,
        rtc_base: u64,
        disk: Option<Disk>,
    ) -> Result<Self, CommandTooLong> {
        let mut pic = PicPair::new();
        if disk.is_some() {
            // Firmware would set the disk's line to level-triggered.
            pic.write(0x4d0, 1 << DISK_IRQ);
        }
        let apics = (platform >= Platform::Pc2).then(Apics::new);
        if apics.is_some() {
            pic.write(0x4d1, 1 << (SCI_IRQ - 8));
        }
        Ok(Self {
            pic,
            pit: Pit::new(),
            uart: Uart::new(),
            rtc: Rtc::new(rtc_base),
            i8042: I8042::new(),
            guest: GuestInterface::new(command)?,
            disk: disk.map(|backend| {
                let device = VirtioMmio::new(Blk::new(backend.sectors(), false, DISK_ID));
                DiskSlot { device, backend }
            }),
            virtio: Bank::new(MMIO_BASE, Vec::new()),
            outbox: Outbox::default(),
            apics,
        })
    }

    /// Serves a read of `size` (1, 2, 4) bytes from `port` at guest time `now`.
    pub fn port_read(&mut self, port: u16, size: u8, now: u64) -> u32 {
        let ones = u32::try_from(all_ones(size)).unwrap_or(u32::MAX);
        if let Some(offset) = guest_interface_offset(port) {
            return self.guest.read(offset, size, now);
        }
        if let Some(value) = self.apics.as_ref().and_then(|apics| apics.port_read(port, size)) {
            return value & ones;
        }
        if size != 1 {
            return ones;
        }
        let value = match port {
            0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1 => self.pic.read(port),
            0x40..=0x43 => self.pit.read(port, now),
            0x61 => self.pit.port61_read(now),
            0x60 | 0x64 => self.i8042.read(port),
            0x70 | 0x71 => self.rtc.read(port, now),
            _ => match port.checked_sub(UART_PORT) {
                Some(offset @ 0..8) => self.uart.read(offset.to_le_bytes()[0], now),
                _ => return ones,
            },
        };
        self.route();
        u32::from(value)
    }

    /// Serves a write of `size` bytes to `port`.
    pub fn port_write(&mut self, port: u16, size: u8, value: u32, now: u64) -> Option<Request> {
        if let Some(offset) = guest_interface_offset(port) {
            return self.guest.write(offset, size, value, now).map(Request::Guest);
        }
        if let Some(request) = self.apics.as_mut().and_then(|apics| apics.port_write(port, size, value)) {
            self.route();
            return request.map(|request| match request {
                PowerRequest::Off => Request::PowerOff,
                PowerRequest::Reset => Request::Reset,
            });
        }
        if size != 1 {
            return None;
        }
        let value = value.to_le_bytes()[0];
        match port {
            0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1 => self.pic.write(port, value),
            0x40..=0x43 => self.pit.write(port, value, now),
            0x61 => self.pit.port61_write(value, now),
            0x60 | 0x64 => {
                if self.i8042.write(port, value).is_some() {
                    return Some(Request::Reset);
                }
            }
            0x70 | 0x71 => self.rtc.write(port, value, now),
            _ => {
                if let Some(offset @ 0..8) = port.checked_sub(UART_PORT) {
                    self.uart.write(offset.to_le_bytes()[0], value, now);
                }
            }
        }
        self.route();
        None
    }

    /// Serves a load of `size` (1 to 8) bytes from an address that is not RAM.
    pub fn mmio_read(&mut self, address: u64, size: u8, now: u64) -> u64 {
        if let Some(value) = self.apics.as_mut().and_then(|apics| apics.read(address, size, now)) {
            return value;
        }
        let slot = address.checked_sub(MMIO_BASE).filter(|offset| *offset < MMIO_SLOT);
        let value = match (slot, &mut self.disk) {
            (Some(offset), Some(disk)) => disk.device.read(offset, size),
            _ => self.virtio.read(address, size).unwrap_or(all_ones(size)),
        };
        self.route();
        value
    }

    /// Serves a store of `size` (1 to 8) bytes to an address that is not RAM; a device may read and write `memory`. True
    /// if one had the chance to.
    pub fn mmio_write(&mut self, address: u64, size: u8, value: u64, now: u64, memory: &Memory) -> bool {
        if self.apics.as_mut().is_some_and(|apics| apics.write(address, size, value, now)) {
            self.route();
            return false;
        }
        let slot = address.checked_sub(MMIO_BASE).filter(|offset| *offset < MMIO_SLOT);
        let mut served = false;
        if let (Some(offset), Some(disk)) = (slot, &mut self.disk) {
            disk.device.write(offset, size, value, memory, &mut disk.backend);
            served = offset == QUEUE_NOTIFY;
        } else if let Some(notified) = self.virtio_write(address, size, value, memory) {
            served = notified;
        }
        self.route();
        served
    }

    /// The next guest time at which a device does something by itself, if its line is not masked: until the next exit
    /// nothing unmasks it.
    pub fn next_wake(&self) -> Option<u64> {
        let uart = self.uart.next_deadline().filter(|_| !self.is_masked(UART_IRQ));
        [self.next_tick(), uart].into_iter().flatten().min()
    }

    /// As [`next_wake`](Self::next_wake), of timers alone.
    pub(super) fn next_tick(&self) -> Option<u64> {
        let pit = self.pit.next_deadline().filter(|_| !self.is_masked(TIMER_IRQ));
        let lapic = self.apics.as_ref().and_then(|apics| apics.lapic.next_wake());
        [pit, lapic].into_iter().flatten().min()
    }

    fn is_masked(&self, irq: u8) -> bool {
        self.pic.is_masked(irq) && self.apics.as_ref().is_none_or(|apics| apics.is_masked(irq))
    }

    /// Lets time pass: timers whose deadline has come raise their line.
    pub fn advance(&mut self, now: u64) {
        if self.pit.advance(now) {
            self.pic.pulse(TIMER_IRQ);
            if let Some(apics) = &mut self.apics {
                apics.timer_edge();
            }
        }
        self.uart.advance(now);
        if let Some(apics) = &mut self.apics {
            apics.lapic.advance(now);
        }
        self.route();
    }

    /// Serves RDMSR of an MSR that is not the engine's.
    pub fn msr_read(&mut self, index: u32, now: u64) -> Answer {
        if let Some(answer) = self.apics.as_mut().and_then(|apics| apics.read_msr(index, now)) {
            return answer;
        }
        msr::read(index).map_or(Answer::GeneralProtection, Answer::Value)
    }

    /// Serves WRMSR.
    pub fn msr_write(&mut self, index: u32, value: u64, now: u64) -> Answer {
        if let Some(answer) = self.apics.as_mut().and_then(|apics| apics.write_msr(index, value, now)) {
            self.route();
            return answer;
        }
        if msr::write(index) { Answer::Done } else { Answer::GeneralProtection }
    }

    /// True if an interrupt waits for the processor.
    pub fn interrupt_pending(&self) -> bool {
        self.apics.as_ref().map_or_else(|| self.pic.pending(), Apics::pending)
    }

    /// The processor takes the interrupt that waits: its vector, and the line it is of; `None` if it is spurious.
    pub fn acknowledge(&mut self) -> (u8, Option<u8>) {
        match &mut self.apics {
            Some(apics) => apics.acknowledge(&mut self.pic),
            None => {
                let irq = self.pic.highest();
                (self.pic.acknowledge(), irq)
            }
        }
    }

    /// True if the processor was sent an INIT since the last call.
    pub fn take_init(&mut self) -> bool {
        self.apics.as_mut().is_some_and(Apics::take_init)
    }

    /// Sets the real-time clock, in seconds since 1970.
    pub fn set_rtc(&mut self, unix_seconds: u64, now: u64) {
        self.rtc.set(unix_seconds, now);
    }

    /// A host-side failure of the disk since the last call: it cannot be reproduced, so it must end the run.
    pub fn take_disk_error(&mut self) -> Option<BackendError> {
        self.disk.as_mut().and_then(|disk| disk.device.device_mut().take_backend_error())
    }

    /// From now on the disk's requests are kept for [`take_disk_requests`](Self::take_disk_requests).
    pub fn watch(&mut self) {
        if let Some(disk) = &mut self.disk {
            disk.device.device_mut().watch();
        }
    }

    /// From now on they are not kept.
    pub fn unwatch(&mut self) {
        if let Some(disk) = &mut self.disk {
            disk.device.device_mut().unwatch();
        }
    }

    /// The disk's requests served since the last call, if anybody watches.
    pub fn take_disk_requests(&mut self) -> Vec<RequestRecord> {
        self.disk.as_mut().map(|disk| disk.device.device_mut().take_served()).unwrap_or_default()
    }

    /// The disk, once the machine has ended.
    pub fn into_disk(self) -> Option<Disk> {
        self.disk.map(|disk| disk.backend)
    }

    /// Whole state, for digests.
    pub fn save(&self) -> DevicesState {
        DevicesState {
            pic: self.pic.save(),
            pit: self.pit.save(),
            uart: self.uart.save(),
            rtc: self.rtc.save(),
            i8042: self.i8042.save(),
            guest: self.guest.save(),
            disk: self.disk.as_ref().map(|disk| disk.device.save()),
            apics: self.apics.as_ref().map(|apics| (apics.lapic.save(), apics.io.save(), apics.pm.save())),
        }
    }

    /// Takes interrupts from the devices to the controllers.
    pub(super) fn route(&mut self) {
        let disk = self.disk.as_ref().map(|disk| (DISK_IRQ, disk.device.irq_level()));
        let lines = [(UART_IRQ, self.uart.irq_level())].into_iter().chain(disk).chain(self.virtio.lines());
        let lines: Vec<(u8, bool)> = lines.collect();
        for &(irq, level) in &lines {
            self.pic.set_line(irq, level);
        }
        if let Some(apics) = &mut self.apics {
            apics.route(&lines, &mut self.pic);
        }
    }
}

fn guest_interface_offset(port: u16) -> Option<u16> {
    port.checked_sub(GUEST_INTERFACE_PORT).filter(|offset| *offset < GUEST_INTERFACE_PORTS)
}
