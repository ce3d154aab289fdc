//! The virtio devices besides the platform's disk: which there are, what comes to them from outside, what they send.
//!
//! Slot 0 is the disk; these are in the slots behind it. Inputs come at sync points only. What a device sends is in the
//! rolling digest, in the order it was sent, before the exit that sent it.

use scribe_devices::virtio::console::{Console, Size};
use scribe_devices::virtio::net::{Frame, Net};
use scribe_devices::virtio::rng::Rng;
use scribe_devices::virtio::slot::{Bank, Output, Served, Slot, SlotState, WINDOW};
use scribe_log::DeviceInput;
use scribe_log::header::Device;

use super::bus::Devices;
use super::disk::Disk;
use super::memory::Memory;
use super::platform::{DISK_IRQ, MMIO_BASE, VIRTIO_IRQS};
use super::{Machine, digest};

/// Number of the first slot of a [`Bank`].
const FIRST: u8 = 1;

/// More devices than there are slots with an interrupt line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} virtio devices besides the disk; the most is {most}", most = VIRTIO_IRQS.len())]
pub struct TooManyDevices(usize);

/// An input that the machine has no device for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the input {name} is for slot {slot}, where there is no such device")]
pub struct NoDevice {
    slot: u8,
    name: &'static str,
}

/// Which way a frame went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// from outside to the guest
    Received,
    /// from the guest
    Sent,
}

/// What devices have sent and nobody has taken.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    frames: Vec<(u8, Frame)>,
    text: Vec<u8>,
}

/// The devices of a header, in their slots.
///
/// # Errors
/// There are more than slots.
pub(super) fn bank(devices: &[Device]) -> Result<Bank<Disk>, TooManyDevices> {
    if devices.len() > VIRTIO_IRQS.len() {
        return Err(TooManyDevices(devices.len()));
    }
    let slot = |device: &Device| match *device {
        Device::Net { mac } => Slot::net(Net::new(mac.0)),
        Device::Rng {} => Slot::rng(Rng::new()),
        Device::Console { cols, rows } => Slot::console(Console::new(Size { cols, rows })),
    };
    let slots = VIRTIO_IRQS.into_iter().zip(devices.iter().map(slot)).collect();
    Ok(Bank::new(MMIO_BASE + u64::from(FIRST) * WINDOW, slots))
}

/// Address and interrupt line of each virtio device of a machine: the disk, if there is one, and these.
///
/// # Errors
/// There are more than slots.
pub fn places(has_disk: bool, devices: &[Device]) -> Result<Vec<(u64, u8)>, TooManyDevices> {
    let disk = has_disk.then_some((MMIO_BASE, DISK_IRQ));
    Ok(disk.into_iter().chain(bank(devices)?.places()).collect())
}

impl Devices {
    /// Adds the devices of a header behind the disk.
    ///
    /// # Errors
    /// There are more than slots.
    pub fn add_virtio(&mut self, devices: &[Device]) -> Result<(), TooManyDevices> {
        self.virtio = bank(devices)?;
        // Firmware would set their lines to level-triggered.
        for (line, _) in self.virtio.lines() {
            let (port, bit) = if line < 8 { (0x4d0, line) } else { (0x4d1, line - 8) };
            let elcr = self.pic.read(port);
            self.pic.write(port, elcr | 1 << bit);
        }
        Ok(())
    }

    /// States of the devices in slots behind the disk, in order.
    fn virtio_states(&self) -> Vec<SlotState> {
        self.virtio.slots().map(Slot::save).collect()
    }

    /// Digest of all devices.
    pub(super) fn digest(&self) -> Result<u64, postcard::Error> {
        // A machine without these devices has the digest that it had before there were any.
        if self.virtio.is_empty() {
            return digest::of_state(&self.save());
        }
        digest::of_state(&(self.save(), self.virtio_states()))
    }

    /// A store to one of the slots; none if there is none, true if the device may have written guest memory.
    pub(super) fn virtio_write(
        &mut self,
        address: u64,
        size: u8,
        value: u64,
        memory: &Memory,
    ) -> Option<bool> {
        let Served { slot, notified, output } = self.virtio.write(address, size, value, memory)?;
        let slot = u8::try_from(slot).unwrap_or(u8::MAX).saturating_add(FIRST);
        match output {
            Output::Nothing => {}
            Output::Frames(frames) => {
                self.outbox.frames.extend(frames.into_iter().map(|frame| (slot, frame)))
            }
            Output::Text(text) => self.outbox.text.extend(text),
        }
        Some(notified)
    }

    fn virtio_slot(&mut self, slot: u8) -> Option<&mut Slot<Disk>> {
        self.virtio.slot(usize::from(slot.checked_sub(FIRST)?))
    }

    fn virtio_input(&mut self, slot: u8, input: &DeviceInput, memory: &Memory) -> Result<(), NoDevice> {
        let missing = NoDevice { slot, name: input.name() };
        let device = self.virtio_slot(slot).ok_or_else(|| missing.clone())?;
        match input {
            DeviceInput::Frame(bytes) => {
                let frame = Frame::new(bytes.clone()).ok_or_else(|| missing.clone())?;
                // Whether it was taken follows from the guest's state.
                device.as_net().ok_or(missing)?.receive(&frame, memory);
            }
            DeviceInput::Link { up } => device.as_net().ok_or(missing)?.set_link(*up),
            DeviceInput::Entropy(bytes) => drop(device.as_rng().ok_or(missing)?.supply(bytes, memory)),
            DeviceInput::Typed(bytes) => drop(device.as_console().ok_or(missing)?.receive(bytes, memory)),
            DeviceInput::Resize { cols, rows } => {
                device.as_console().ok_or(missing)?.resize(Size { cols: *cols, rows: *rows });
            }
            DeviceInput::DiskFailed { .. } => return Err(missing),
        }
        Ok(())
    }
}

impl Machine {
    /// An input to the device in a slot. Only at a sync point.
    ///
    /// # Errors
    /// There is no such device. Whether the device had a use for the input is no error: it follows from the guest's state.
    pub fn device_input(&mut self, slot: u8, input: &DeviceInput) -> Result<(), NoDevice> {
        self.devices.virtio_input(slot, input, self.ram.memory())?;
        self.devices.route();
        self.note_written();
        if let DeviceInput::Frame(bytes) = input {
            self.tell(|observer, at| observer.frame(at, Direction::Received, bytes));
        }
        Ok(())
    }

    /// Slot of the first network device, if there is one.
    pub fn net_slot(&mut self) -> Option<u8> {
        let index = self.devices.virtio.slots().position(|slot| matches!(slot, Slot::Net(_)))?;
        u8::try_from(index).ok()?.checked_add(FIRST)
    }

    /// True if there is a network device in this slot whose link is up.
    pub fn is_link_up(&mut self, slot: u8) -> bool {
        let net = self.devices.virtio_slot(slot).and_then(Slot::as_net);
        net.is_some_and(|net| net.device().is_link_up())
    }

    /// How many frames the network device in this slot can take now.
    pub fn frame_room(&mut self, slot: u8) -> usize {
        let memory = self.ram.memory();
        let net = self.devices.virtio_slot(slot).and_then(Slot::as_net);
        net.map_or(0, |net| net.receive_room(memory).into())
    }

    /// True if the network device in this slot has a driver that may take frames later.
    pub fn has_net_driver(&mut self, slot: u8) -> bool {
        self.devices.virtio_slot(slot).and_then(Slot::as_net).is_some_and(|net| net.can_receive())
    }

    /// Slot of an entropy device whose guest waits for bytes, and for how many.
    pub fn entropy_wanted(&mut self) -> Option<(u8, usize)> {
        (FIRST..).zip(self.devices.virtio.slots_mut()).find_map(|(number, slot)| {
            let wanted = slot.as_rng()?.wanted();
            (wanted > 0).then_some((number, usize::try_from(wanted).ok()?))
        })
    }

    /// Frames that the guest has sent since the last call, and by which slot.
    pub fn take_frames(&mut self) -> Vec<(u8, Frame)> {
        std::mem::take(&mut self.sent)
    }

    /// What devices have sent during the exit that is being served.
    pub(super) fn note_outbox(&mut self) {
        let Outbox { frames, text } = std::mem::take(&mut self.devices.outbox);
        for (slot, frame) in frames {
            self.rolling.output(slot, frame.bytes());
            self.tell(|observer, at| observer.frame(at, Direction::Sent, frame.bytes()));
            self.sent.push((slot, frame));
        }
        if !text.is_empty() {
            self.rolling.output(0, &text);
            self.printed.extend(text);
        }
    }
}
