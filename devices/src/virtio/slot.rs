//! Several virtio devices of different kinds: each in a window of its own, with an interrupt line of its own.
//!
//! The kinds are an enum, because what a device needs and what it gives differ: a disk has a backend, a network
//! device sends frames, a console prints. Rejected: `Box<dyn ...>`, behind which inputs (a frame, a resize) would need
//! a downcast, and saved states a registry.

use serde::{Deserialize, Serialize};
use vm_memory::GuestMemory;

use super::Fault;
use super::blk::{Blk, BlkState, BlockBackend, Full};
use super::console::{Console, ConsoleState};
use super::mmio::{self, MmioState, VirtioMmio};
use super::net::{Frame, Net, NetState};
use super::rng::{Rng, RngState};
use crate::snapshot::{RestoreError, Snapshot, require_same};

#[cfg(test)]
mod tests;

/// Bytes of a slot's window. The device answers in the first [`mmio::SIZE`].
pub const WINDOW: u64 = 0x1000;

/// A device behind the MMIO transport, with what it needs.
#[derive(Debug)]
pub enum Slot<B> {
    /// A disk, and what is behind it.
    Disk {
        /// The device.
        device: VirtioMmio<Blk<Full>>,
        /// The disk's contents.
        backend: B,
    },
    /// A network device.
    Net(VirtioMmio<Net>),
    /// An entropy device.
    Rng(VirtioMmio<Rng>),
    /// A console.
    Console(VirtioMmio<Console>),
}

/// State of a [`Slot`]. A disk's contents are not part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SlotState {
    /// Of a disk.
    Disk(MmioState<BlkState>),
    /// Of a network device.
    Net(MmioState<NetState>),
    /// Of an entropy device.
    Rng(MmioState<RngState>),
    /// Of a console.
    Console(MmioState<ConsoleState>),
}

impl SlotState {
    /// The kind of the device it was saved from.
    pub fn kind(&self) -> &'static str {
        match self {
            SlotState::Disk(_) => Blk::<Full>::KIND,
            SlotState::Net(_) => Net::KIND,
            SlotState::Rng(_) => Rng::KIND,
            SlotState::Console(_) => Console::KIND,
        }
    }
}

/// What a device gave to the outside while it served an access.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// Nothing.
    #[default]
    Nothing,
    /// Frames that the guest has sent, in order.
    Frames(Vec<Frame>),
    /// Bytes that the guest has printed.
    Text(Vec<u8>),
}

impl<B: BlockBackend + 'static> Slot<B> {
    /// A disk of the backend's size, with [`Full`] features. Of `id`, the first [`super::blk::ID_SIZE`] bytes count.
    pub fn disk(backend: B, read_only: bool, id: &[u8]) -> Self {
        Slot::Disk { device: VirtioMmio::new(Blk::new(backend.sectors(), read_only, id)), backend }
    }

    /// A network device.
    pub fn net(net: Net) -> Self {
        Slot::Net(VirtioMmio::new(net))
    }

    /// An entropy device.
    pub fn rng(rng: Rng) -> Self {
        Slot::Rng(VirtioMmio::new(rng))
    }

    /// A console.
    pub fn console(console: Console) -> Self {
        Slot::Console(VirtioMmio::new(console))
    }

    /// Name of the device's kind in recordings and messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Slot::Disk { .. } => Blk::<Full>::KIND,
            Slot::Net(_) => Net::KIND,
            Slot::Rng(_) => Rng::KIND,
            Slot::Console(_) => Console::KIND,
        }
    }

    /// Version of the device's state.
    pub fn version(&self) -> u16 {
        match self {
            Slot::Disk { .. } => VirtioMmio::<Blk<Full>>::VERSION,
            Slot::Net(_) => VirtioMmio::<Net>::VERSION,
            Slot::Rng(_) => VirtioMmio::<Rng>::VERSION,
            Slot::Console(_) => VirtioMmio::<Console>::VERSION,
        }
    }

    /// [`VirtioMmio::read`].
    pub fn read(&self, offset: u64, size: u8) -> u64 {
        match self {
            Slot::Disk { device, .. } => device.read(offset, size),
            Slot::Net(device) => device.read(offset, size),
            Slot::Rng(device) => device.read(offset, size),
            Slot::Console(device) => device.read(offset, size),
        }
    }

    /// [`VirtioMmio::write`]; gives what the device gave.
    pub fn write<M: GuestMemory>(&mut self, offset: u64, size: u8, value: u64, mem: &M) -> Output {
        match self {
            Slot::Disk { device, backend } => {
                device.write(offset, size, value, mem, backend);
                Output::Nothing
            }
            Slot::Net(device) => {
                let mut sent = Vec::new();
                device.write(offset, size, value, mem, &mut sent);
                if sent.is_empty() { Output::Nothing } else { Output::Frames(sent) }
            }
            Slot::Rng(device) => {
                device.write(offset, size, value, mem, &mut ());
                Output::Nothing
            }
            Slot::Console(device) => {
                let mut text = Vec::new();
                device.write(offset, size, value, mem, &mut text);
                if text.is_empty() { Output::Nothing } else { Output::Text(text) }
            }
        }
    }

    /// The interrupt line.
    pub fn irq_level(&self) -> bool {
        match self {
            Slot::Disk { device, .. } => device.irq_level(),
            Slot::Net(device) => device.irq_level(),
            Slot::Rng(device) => device.irq_level(),
            Slot::Console(device) => device.irq_level(),
        }
    }

    /// Why the device demands a reset, if it does.
    pub fn fault(&self) -> Option<Fault> {
        match self {
            Slot::Disk { device, .. } => device.fault(),
            Slot::Net(device) => device.fault(),
            Slot::Rng(device) => device.fault(),
            Slot::Console(device) => device.fault(),
        }
    }

    /// The device's whole state.
    pub fn save(&self) -> SlotState {
        match self {
            Slot::Disk { device, .. } => SlotState::Disk(device.save()),
            Slot::Net(device) => SlotState::Net(device.save()),
            Slot::Rng(device) => SlotState::Rng(device.save()),
            Slot::Console(device) => SlotState::Console(device.save()),
        }
    }

    /// Replaces the device's state.
    ///
    /// # Errors
    /// The state is inconsistent, or of another device. The device is then unchanged.
    pub fn restore(&mut self, state: SlotState) -> Result<(), RestoreError> {
        let (own, saved) = (self.kind(), state.kind());
        match (self, state) {
            (Slot::Disk { device, .. }, SlotState::Disk(state)) => device.restore(state),
            (Slot::Net(device), SlotState::Net(state)) => device.restore(state),
            (Slot::Rng(device), SlotState::Rng(state)) => device.restore(state),
            (Slot::Console(device), SlotState::Console(state)) => device.restore(state),
            _ => require_same(own, "kind", &saved, &own),
        }
    }

    /// The network device, if it is one.
    pub fn as_net(&mut self) -> Option<&mut VirtioMmio<Net>> {
        if let Slot::Net(device) = self { Some(device) } else { None }
    }

    /// The entropy device, if it is one.
    pub fn as_rng(&mut self) -> Option<&mut VirtioMmio<Rng>> {
        if let Slot::Rng(device) = self { Some(device) } else { None }
    }

    /// The console, if it is one.
    pub fn as_console(&mut self) -> Option<&mut VirtioMmio<Console>> {
        if let Slot::Console(device) = self { Some(device) } else { None }
    }

    /// The disk and its backend, if it is one.
    pub fn as_disk(&mut self) -> Option<(&mut VirtioMmio<Blk<Full>>, &mut B)> {
        if let Slot::Disk { device, backend } = self { Some((device, backend)) } else { None }
    }
}

/// What an access to a [`Bank`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Number of the slot.
    pub slot: usize,
    /// The device had the chance to write guest memory.
    pub notified: bool,
    /// What it gave.
    pub output: Output,
}

/// Slots one behind the other in the address space.
#[derive(Debug)]
pub struct Bank<B> {
    base: u64,
    slots: Vec<(u8, Slot<B>)>,
}

impl<B: BlockBackend + 'static> Bank<B> {
    /// `slots`, each with its interrupt line, in windows from `base` on.
    pub fn new(base: u64, slots: Vec<(u8, Slot<B>)>) -> Self {
        Bank { base, slots }
    }

    /// Number of slots.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// First address and interrupt line of each slot, in order.
    pub fn places(&self) -> impl Iterator<Item = (u64, u8)> + '_ {
        (0u64..).zip(&self.slots).map(|(index, (line, _))| (self.base + index * WINDOW, *line))
    }

    /// Slot number `index`.
    pub fn slot(&mut self, index: usize) -> Option<&mut Slot<B>> {
        self.slots.get_mut(index).map(|(_, slot)| slot)
    }

    /// All slots, in order.
    pub fn slots(&self) -> impl Iterator<Item = &Slot<B>> + '_ {
        self.slots.iter().map(|(_, slot)| slot)
    }

    /// All slots, in order.
    pub fn slots_mut(&mut self) -> impl Iterator<Item = &mut Slot<B>> + '_ {
        self.slots.iter_mut().map(|(_, slot)| slot)
    }

    /// Takes the slots apart.
    pub fn into_slots(self) -> impl Iterator<Item = Slot<B>> {
        self.slots.into_iter().map(|(_, slot)| slot)
    }

    /// Interrupt lines and their levels, in order.
    pub fn lines(&self) -> impl Iterator<Item = (u8, bool)> + '_ {
        self.slots.iter().map(|(line, slot)| (*line, slot.irq_level()))
    }

    /// Reads `size` bytes at a guest physical address; none if no slot is there.
    pub fn read(&self, address: u64, size: u8) -> Option<u64> {
        let (index, offset) = self.find(address)?;
        self.slots.get(index).map(|(_, slot)| slot.read(offset, size))
    }

    /// Writes `size` bytes at a guest physical address; none if no slot is there.
    pub fn write<M: GuestMemory>(&mut self, address: u64, size: u8, value: u64, mem: &M) -> Option<Served> {
        let (index, offset) = self.find(address)?;
        let (_, slot) = self.slots.get_mut(index)?;
        let output = slot.write(offset, size, value, mem);
        Some(Served { slot: index, notified: offset == mmio::QUEUE_NOTIFY, output })
    }

    /// Number of the slot at an address, and the offset in its window.
    fn find(&self, address: u64) -> Option<(usize, u64)> {
        let offset = address.checked_sub(self.base)?;
        let index = usize::try_from(offset / WINDOW).ok()?;
        (index < self.slots.len()).then_some((index, offset % WINDOW))
    }
}
