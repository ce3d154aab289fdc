//! The devices of `scribe-pc-1` and where they answer.
//!
//! Unmapped ports and addresses read as all ones and ignore writes; the access is an exit like any other and so is
//! visible in the digests.

use scribe_devices::Snapshot;
use scribe_devices::guest_interface::{CommandTooLong, GuestInterface, GuestRequest};
use scribe_devices::i8042::I8042;
use scribe_devices::pic::PicPair;
use scribe_devices::pit::Pit;
use scribe_devices::rtc::Rtc;
use scribe_devices::uart::Uart;
use scribe_devices::virtio::blk::{BackendError, Blk, BlockBackend, RequestRecord};
use scribe_devices::virtio::mmio::VirtioMmio;
use scribe_devices::virtio::slot::Bank;
use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::memory::Memory;
use super::platform::{
    DISK_ID, DISK_IRQ, GUEST_INTERFACE_PORT, GUEST_INTERFACE_PORTS, MMIO_BASE, MMIO_SLOT, TIMER_IRQ,
    UART_IRQ, UART_PORT,
};
use super::virtio::Outbox;

/// The disk's register that makes it read and write RAM (virtio 1.2, 4.2.2).
const QUEUE_NOTIFY: u64 = 0x50;

/// What a device asks of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// something the guest interface was asked for
    Guest(GuestRequest),
    /// the keyboard controller's reset line
    Reset,
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
}

/// State of all devices, for digests and snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicesState {
    pic: <PicPair as Snapshot>::State,
    pit: <Pit as Snapshot>::State,
    uart: <Uart as Snapshot>::State,
    rtc: <Rtc as Snapshot>::State,
    i8042: <I8042 as Snapshot>::State,
    guest: <GuestInterface as Snapshot>::State,
    disk: Option<<VirtioMmio<Blk> as Snapshot>::State>,
}

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
    pub fn new(command: Vec<u8>, rtc_base: u64, disk: Option<Disk>) -> Result<Self, CommandTooLong> {
        let mut pic = PicPair::new();
        if disk.is_some() {
            // Firmware would set the disk's line to level-triggered.
            pic.write(0x4d0, 1 << DISK_IRQ);
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
        })
    }

    /// Serves a read of `size` (1, 2, 4) bytes from `port` at guest time `now`.
    pub fn port_read(&mut self, port: u16, size: u8, now: u64) -> u32 {
        let ones = u32::try_from(all_ones(size)).unwrap_or(u32::MAX);
        if let Some(offset) = guest_interface_offset(port) {
            return self.guest.read(offset, size, now);
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
    pub fn mmio_read(&mut self, address: u64, size: u8) -> u64 {
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
    pub fn mmio_write(&mut self, address: u64, size: u8, value: u64, memory: &Memory) -> bool {
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
        let pit = self.pit.next_deadline().filter(|_| !self.pic.is_masked(TIMER_IRQ));
        let uart = self.uart.next_deadline().filter(|_| !self.pic.is_masked(UART_IRQ));
        [pit, uart].into_iter().flatten().min()
    }

    /// Lets time pass: timers whose deadline has come raise their line.
    pub fn advance(&mut self, now: u64) {
        if self.pit.advance(now) {
            self.pic.pulse(TIMER_IRQ);
        }
        self.uart.advance(now);
        self.route();
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
        }
    }

    /// Takes interrupts from the devices to the controllers.
    pub(super) fn route(&mut self) {
        self.pic.set_line(UART_IRQ, self.uart.irq_level());
        if let Some(disk) = &self.disk {
            self.pic.set_line(DISK_IRQ, disk.device.irq_level());
        }
        for (line, level) in self.virtio.lines() {
            self.pic.set_line(line, level);
        }
    }
}

fn guest_interface_offset(port: u16) -> Option<u16> {
    port.checked_sub(GUEST_INTERFACE_PORT).filter(|offset| *offset < GUEST_INTERFACE_PORTS)
}
