//! A guest driver for any device, guest memory, and what devices need of a host, for the tests.

use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;
use virtio_bindings::virtio_mmio::*;
use vm_memory::bitmap::AtomicBitmap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::VirtioDevice;
use super::blk::{Blk, BlockBackend, BlockError, Full, Profile, SECTOR_SIZE};
use super::console::Console;
use super::mmio::VirtioMmio;
use super::net::{Frame, Net};
use super::rng::Rng;

pub(super) type Memory = GuestMemoryMmap<AtomicBitmap>;

/// Size of guest memory.
pub(super) const RAM: usize = 0x10_0000;
pub(super) const DESC_TABLE: u64 = 0x1000;
pub(super) const AVAIL_RING: u64 = 0x2000;
pub(super) const USED_RING: u64 = 0x3000;
pub(super) const RING_SIZE: u16 = 128;
/// From one queue's rings to the next one's.
pub(super) const QUEUE_STRIDE: u64 = 0x4000;
/// Sectors of the disk.
pub(super) const SECTORS: u64 = 1024;

pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;

pub(super) const STATUS: u64 = VIRTIO_MMIO_STATUS as u64;
pub(super) const ALIVE: u64 = 0x0f;

pub(super) fn memory() -> Memory {
    Memory::from_ranges(&[(GuestAddress(0), RAM)]).unwrap()
}

/// A disk in memory that can be told to fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MemoryDisk {
    pub(super) bytes: Vec<u8>,
    pub(super) flushes: u32,
    pub(super) broken: bool,
    /// Sectors may have gone from the end.
    pub(super) short: bool,
}

impl MemoryDisk {
    /// Every sector holds its number in every byte.
    pub(super) fn new() -> Self {
        let mut bytes = vec![0; usize::try_from(SECTORS).unwrap() * SECTOR_SIZE];
        for (number, sector) in (0u64..).zip(bytes.chunks_mut(SECTOR_SIZE)) {
            sector.fill(number.to_le_bytes()[0]);
        }
        MemoryDisk { bytes, flushes: 0, broken: false, short: false }
    }

    fn range(&self, sector: u64, len: usize) -> Result<std::ops::Range<usize>, BlockError> {
        assert!(len > 0 && len.is_multiple_of(SECTOR_SIZE) && len <= super::blk::CHUNK_SIZE);
        let start = usize::try_from(sector).unwrap() * SECTOR_SIZE;
        let fits = start + len <= self.bytes.len();
        assert!(fits || self.short);
        if self.broken || !fits { Err(BlockError::new("medium error")) } else { Ok(start..start + len) }
    }
}

impl BlockBackend for MemoryDisk {
    fn sectors(&self) -> u64 {
        SECTORS
    }

    fn read_at(&mut self, sector: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        let range = self.range(sector, buf.len())?;
        buf.copy_from_slice(&self.bytes[range]);
        Ok(())
    }

    fn write_at(&mut self, sector: u64, buf: &[u8]) -> Result<(), BlockError> {
        let range = self.range(sector, buf.len())?;
        self.bytes[range].copy_from_slice(buf);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BlockError> {
        self.flushes += 1;
        if self.broken { Err(BlockError::new("medium error")) } else { Ok(()) }
    }
}

/// A device under test: with what it needs of the host.
pub(super) trait Hosted: VirtioDevice {
    type Store;
    fn host(store: &mut Self::Store) -> &mut Self::Host;
}

impl<P: Profile + 'static> Hosted for Blk<P> {
    type Store = MemoryDisk;
    fn host(store: &mut MemoryDisk) -> &mut (dyn BlockBackend + 'static) {
        store
    }
}

impl Hosted for Net {
    type Store = Vec<Frame>;
    fn host(store: &mut Vec<Frame>) -> &mut Vec<Frame> {
        store
    }
}

impl Hosted for Console {
    type Store = Vec<u8>;
    fn host(store: &mut Vec<u8>) -> &mut Vec<u8> {
        store
    }
}

impl Hosted for Rng {
    type Store = ();
    fn host(store: &mut ()) -> &mut () {
        store
    }
}

/// A driver's place in one queue.
#[derive(Clone, Copy, Default)]
struct Place {
    next_descriptor: u16,
    available: u16,
    used: u16,
}

/// A device with its memory and host, and the driver's view of its queues.
pub(super) struct Machine<D: Hosted = Blk> {
    pub(super) mmio: VirtioMmio<D>,
    pub(super) mem: Memory,
    pub(super) disk: D::Store,
    places: [Place; 2],
}

impl Machine {
    pub(super) fn new() -> Self {
        Machine::with(Blk::new(SECTORS, false, b"root"))
    }

    /// With the driver running.
    pub(super) fn started() -> Self {
        let mut machine = Machine::new();
        machine.start();
        machine
    }
}

impl Machine<Blk<Full>> {
    pub(super) fn full(read_only: bool) -> Self {
        let mut machine = Machine::with(Blk::new(SECTORS, read_only, b"data"));
        machine.start();
        machine
    }
}

impl<P: Profile + 'static> Machine<Blk<P>> {
    pub(super) fn with(blk: Blk<P>) -> Self {
        Machine::hosted(blk, MemoryDisk::new())
    }
}

impl<D: Hosted> Machine<D> {
    pub(super) fn hosted(device: D, host: D::Store) -> Self {
        Machine { mmio: VirtioMmio::new(device), mem: memory(), disk: host, places: Default::default() }
    }

    pub(super) fn read(&self, offset: u64) -> u64 {
        self.mmio.read(offset, 4)
    }

    pub(super) fn write(&mut self, offset: u64, value: u64) {
        self.write_sized(offset, 4, value);
    }

    pub(super) fn write_sized(&mut self, offset: u64, size: u8, value: u64) {
        self.mmio.write(offset, size, value, &self.mem, D::host(&mut self.disk));
    }

    pub(super) fn features(&mut self) -> u64 {
        self.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL.into(), 0);
        let low = self.read(VIRTIO_MMIO_DEVICE_FEATURES.into());
        self.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL.into(), 1);
        low | self.read(VIRTIO_MMIO_DEVICE_FEATURES.into()) << 32
    }

    pub(super) fn accept(&mut self, features: u64) {
        for half in 0..2 {
            self.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL.into(), half);
            self.write(VIRTIO_MMIO_DRIVER_FEATURES.into(), features >> (32 * half) & 0xffff_ffff);
        }
    }

    /// Entries of a queue as this driver sets it up.
    pub(super) fn ring_size(queue: u16) -> u16 {
        RING_SIZE.min(D::QUEUE_SIZES[usize::from(queue)])
    }

    pub(super) fn set_up_queue(&mut self) {
        self.set_up(0);
    }

    pub(super) fn set_up(&mut self, queue: u16) {
        self.write(VIRTIO_MMIO_QUEUE_SEL.into(), queue.into());
        self.write(VIRTIO_MMIO_QUEUE_NUM.into(), Self::ring_size(queue).into());
        for (register, addr) in [
            (VIRTIO_MMIO_QUEUE_DESC_LOW, DESC_TABLE),
            (VIRTIO_MMIO_QUEUE_AVAIL_LOW, AVAIL_RING),
            (VIRTIO_MMIO_QUEUE_USED_LOW, USED_RING),
        ] {
            let addr = addr + u64::from(queue) * QUEUE_STRIDE;
            self.write(register.into(), addr & 0xffff_ffff);
            self.write(u64::from(register) + 4, addr >> 32);
        }
    }

    /// The order in which Linux's `virtio_mmio` brings a device up.
    pub(super) fn start(&mut self) {
        let features = self.features();
        self.start_with(features);
    }

    pub(super) fn start_with(&mut self, features: u64) {
        self.write(STATUS, 0);
        self.write(STATUS, 1);
        self.write(STATUS, 3);
        self.accept(features);
        self.write(STATUS, 0x0b);
        assert_eq!(self.read(STATUS), 0x0b);
        for queue in (0..).take(D::QUEUE_SIZES.len()) {
            self.write(VIRTIO_MMIO_QUEUE_SEL.into(), queue.into());
            assert_eq!(self.read(VIRTIO_MMIO_QUEUE_READY.into()), 0);
            self.set_up(queue);
            self.write(VIRTIO_MMIO_QUEUE_READY.into(), 1);
        }
        self.write(STATUS, ALIVE);
        assert_eq!(self.read(STATUS), ALIVE);
    }

    pub(super) fn put_descriptor(&self, table: u64, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = Vec::new();
        bytes.extend(addr.to_le_bytes());
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.mem.write_slice(&bytes, GuestAddress(table + 16 * u64::from(index))).unwrap();
    }

    pub(super) fn make_available(&mut self, head: u16) {
        self.make_available_in(0, head);
    }

    pub(super) fn make_available_in(&mut self, queue: u16, head: u16) {
        let ring = AVAIL_RING + u64::from(queue) * QUEUE_STRIDE;
        let place = &mut self.places[usize::from(queue)];
        let slot = ring + 4 + 2 * u64::from(place.available % Self::ring_size(queue));
        self.mem.write_obj(head, GuestAddress(slot)).unwrap();
        place.available = place.available.wrapping_add(1);
        self.mem.write_obj(place.available, GuestAddress(ring + 2)).unwrap();
    }

    /// Makes a chain of `(address, length, flags)` available; gives its head.
    pub(super) fn submit(&mut self, buffers: &[(u64, u32, u16)]) -> u16 {
        self.submit_to(0, buffers)
    }

    pub(super) fn submit_to(&mut self, queue: u16, buffers: &[(u64, u32, u16)]) -> u16 {
        let table = DESC_TABLE + u64::from(queue) * QUEUE_STRIDE;
        let head = self.places[usize::from(queue)].next_descriptor;
        for (index, (addr, len, flags)) in buffers.iter().enumerate() {
            let this = self.places[usize::from(queue)].next_descriptor;
            let next = (this + 1) % Self::ring_size(queue);
            self.places[usize::from(queue)].next_descriptor = next;
            let flags = flags | if index + 1 < buffers.len() { NEXT } else { 0 };
            self.put_descriptor(table, this, *addr, *len, flags, next);
        }
        self.make_available_in(queue, head);
        head
    }

    pub(super) fn notify(&mut self) {
        self.notify_queue(0);
    }

    pub(super) fn notify_queue(&mut self, queue: u16) {
        self.write(VIRTIO_MMIO_QUEUE_NOTIFY.into(), queue.into());
    }

    /// The next entry of the used ring: head and written length.
    pub(super) fn take_used(&mut self) -> Option<(u32, u32)> {
        self.take_used_from(0)
    }

    pub(super) fn take_used_from(&mut self, queue: u16) -> Option<(u32, u32)> {
        let ring = USED_RING + u64::from(queue) * QUEUE_STRIDE;
        let place = &mut self.places[usize::from(queue)];
        let index: u16 = self.mem.read_obj(GuestAddress(ring + 2)).unwrap();
        if index == place.used {
            return None;
        }
        let slot = ring + 4 + 8 * u64::from(place.used % Self::ring_size(queue));
        place.used = place.used.wrapping_add(1);
        Some((
            self.mem.read_obj(GuestAddress(slot)).unwrap(),
            self.mem.read_obj(GuestAddress(slot + 4)).unwrap(),
        ))
    }

    /// The causes of the interrupt, acknowledged.
    pub(super) fn take_interrupt(&mut self) -> u64 {
        let causes = self.read(VIRTIO_MMIO_INTERRUPT_STATUS.into());
        self.write(VIRTIO_MMIO_INTERRUPT_ACK.into(), causes);
        assert!(!self.mmio.irq_level());
        causes
    }

    pub(super) fn put_header(&self, addr: u64, kind: u32, sector: u64) {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.mem.write_slice(&header, GuestAddress(addr)).unwrap();
    }

    pub(super) fn bytes(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.mem.read_slice(&mut bytes, GuestAddress(addr)).unwrap();
        bytes
    }

    pub(super) fn needs_reset(&self) -> bool {
        self.read(STATUS) & u64::from(VIRTIO_CONFIG_S_NEEDS_RESET) != 0
    }
}
