//! The virtio MMIO transport, register layout version 2 (section 4.2).
//!
//! The rules for a driver are enforced: who breaks one finds the device with DEVICE_NEEDS_RESET set, and it does
//! nothing more until it is reset. That covers control registers written with the wrong size, status bits cleared or
//! set out of order, features changed after FEATURES_OK, a queue changed while it is ready, and anything wrong with
//! the queues' contents. Reads never have an effect; a control register read with the wrong size gives 0.

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio::*;
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemory};

use super::{Fault, VirtioDevice};
use crate::guest_interface;

mod state;
#[cfg(test)]
mod tests;

pub use state::{MmioState, Registers};

/// Bytes of MMIO space that a device takes: the control registers and as much configuration space.
pub const SIZE: u64 = 0x200;
/// Offset of the register whose write makes a device read and write guest memory.
pub const QUEUE_NOTIFY: u64 = VIRTIO_MMIO_QUEUE_NOTIFY as u64;
/// "virt", little endian.
const MAGIC: u32 = 0x7472_6976;
const REGISTER_LAYOUT: u32 = 2;
/// The vendor is the machine.
const VENDOR: u32 = guest_interface::MAGIC;
const CONFIG: u64 = VIRTIO_MMIO_CONFIG as u64;
const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;

const ACKNOWLEDGE: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE;
const DRIVER: u32 = VIRTIO_CONFIG_S_DRIVER;
const DRIVER_OK: u32 = VIRTIO_CONFIG_S_DRIVER_OK;
const FEATURES_OK: u32 = VIRTIO_CONFIG_S_FEATURES_OK;
const NEEDS_RESET: u32 = VIRTIO_CONFIG_S_NEEDS_RESET;
const FAILED: u32 = VIRTIO_CONFIG_S_FAILED;
/// Bits that the driver sets.
const DRIVER_BITS: u32 = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK | FAILED;

/// A virtio device behind the MMIO transport.
#[derive(Debug)]
pub struct VirtioMmio<D> {
    device: D,
    queues: Vec<Queue>,
    registers: Registers,
}

impl<D: VirtioDevice> VirtioMmio<D> {
    /// `device`, as after a reset.
    pub fn new(device: D) -> Self {
        // A size that is no power of two is a mistake in the device: that queue then does not exist.
        let queues = D::QUEUE_SIZES.iter().filter_map(|size| Queue::new(*size).ok()).collect();
        VirtioMmio { device, queues, registers: Registers::default() }
    }

    /// The device behind the transport.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The device behind the transport.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// The interrupt line: true until the driver has acknowledged every cause.
    pub fn irq_level(&self) -> bool {
        self.registers.interrupt_status != 0
    }

    /// Why the device demands a reset, if it does.
    pub fn fault(&self) -> Option<Fault> {
        self.registers.fault
    }

    /// Reads `size` bytes, 1, 2, 4 or 8, at `offset` from the device's first address.
    pub fn read(&self, offset: u64, size: u8) -> u64 {
        if let Some(offset) = offset.checked_sub(CONFIG) {
            let mut bytes = [0; 8];
            if let (1 | 2 | 4 | 8, Some(bytes)) = (size, bytes.get_mut(..usize::from(size))) {
                self.device.read_config(offset, bytes);
            }
            return u64::from_le_bytes(bytes);
        }
        match (u32::try_from(offset), size) {
            (Ok(register), 4) => u64::from(self.read_register(register)),
            _ => 0,
        }
    }

    fn read_register(&self, register: u32) -> u32 {
        let registers = &self.registers;
        match register {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => REGISTER_LAYOUT,
            VIRTIO_MMIO_DEVICE_ID => D::DEVICE_ID,
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => match registers.device_features_sel {
                0 => (self.offered() & 0xffff_ffff) as u32,
                1 => (self.offered() >> 32 & 0xffff_ffff) as u32,
                _ => 0,
            },
            VIRTIO_MMIO_QUEUE_NUM_MAX => self.queue().map_or(0, |queue| u32::from(queue.max_size())),
            VIRTIO_MMIO_QUEUE_READY => self.queue().map_or(0, |queue| u32::from(queue.ready())),
            VIRTIO_MMIO_INTERRUPT_STATUS => registers.interrupt_status,
            VIRTIO_MMIO_STATUS => registers.status,
            // There are no shared memory regions: length -1.
            VIRTIO_MMIO_SHM_LEN_LOW | VIRTIO_MMIO_SHM_LEN_HIGH => u32::MAX,
            VIRTIO_MMIO_SHM_BASE_LOW | VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            VIRTIO_MMIO_CONFIG_GENERATION => registers.config_generation,
            _ => 0,
        }
    }

    /// Writes `size` bytes at `offset` from the device's first address. A write to QueueNotify serves the queue,
    /// which reads and writes `mem` and uses `host`; no other access touches either, except that QueueReady looks
    /// whether the queue lies within `mem`, and that a device may use `host` for its configuration space.
    pub fn write<M: GuestMemory>(&mut self, offset: u64, size: u8, value: u64, mem: &M, host: &mut D::Host) {
        if let Some(offset) = offset.checked_sub(CONFIG) {
            if let (1 | 2 | 4 | 8, Some(bytes)) = (size, value.to_le_bytes().get(..usize::from(size))) {
                self.device.write_config(offset, bytes, host);
            }
            return;
        }
        match (u32::try_from(offset), size) {
            (Ok(register), 4) if register.is_multiple_of(4) => {
                self.write_register(register, (value & 0xffff_ffff) as u32, mem, host);
            }
            _ => self.fail(Fault::AccessSize),
        }
    }

    fn write_register<M: GuestMemory>(&mut self, register: u32, value: u32, mem: &M, host: &mut D::Host) {
        match register {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.registers.device_features_sel = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.registers.driver_features_sel = value,
            VIRTIO_MMIO_DRIVER_FEATURES => self.write_features(value),
            VIRTIO_MMIO_QUEUE_SEL => self.registers.queue_sel = value,
            VIRTIO_MMIO_INTERRUPT_ACK => self.registers.interrupt_status &= !value,
            VIRTIO_MMIO_STATUS => self.write_status(value),
            VIRTIO_MMIO_QUEUE_NOTIFY => self.notify(value, mem, host),
            VIRTIO_MMIO_QUEUE_READY => self.write_queue_ready(value, mem),
            VIRTIO_MMIO_QUEUE_NUM
            | VIRTIO_MMIO_QUEUE_DESC_LOW
            | VIRTIO_MMIO_QUEUE_DESC_HIGH
            | VIRTIO_MMIO_QUEUE_AVAIL_LOW
            | VIRTIO_MMIO_QUEUE_AVAIL_HIGH
            | VIRTIO_MMIO_QUEUE_USED_LOW
            | VIRTIO_MMIO_QUEUE_USED_HIGH => self.configure_queue(register, value),
            _ => {}
        }
    }

    /// Features offered to the driver.
    fn offered(&self) -> u64 {
        self.device.features() | VERSION_1
    }

    fn has(&self, bits: u32) -> bool {
        self.registers.status & bits == bits
    }

    fn selected(&self) -> Option<usize> {
        usize::try_from(self.registers.queue_sel).ok().filter(|index| *index < self.queues.len())
    }

    fn queue(&self) -> Option<&Queue> {
        self.queues.get(self.selected()?)
    }

    /// Sets DEVICE_NEEDS_RESET, with the notification that section 2.1.2 asks for if the driver is running.
    fn fail(&mut self, fault: Fault) {
        if self.registers.fault.is_none() {
            self.registers.fault = Some(fault);
            self.registers.status |= NEEDS_RESET;
            if self.has(DRIVER_OK) {
                self.registers.interrupt_status |= VIRTIO_MMIO_INT_CONFIG;
            }
        }
    }

    fn reset(&mut self) {
        self.registers = Registers::default();
        for queue in &mut self.queues {
            queue.reset();
        }
        self.device.reset();
    }

    /// Section 3.1.1: ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK, in this order; 0 resets.
    fn write_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        let value = value & DRIVER_BITS;
        let old = self.registers.status & DRIVER_BITS;
        let mut status = old | value;
        let negotiated = self.registers.driver_features & !self.offered() == 0
            && self.registers.driver_features & VERSION_1 != 0
            && status & (ACKNOWLEDGE | DRIVER) == ACKNOWLEDGE | DRIVER;
        if old & FEATURES_OK == 0 && !negotiated {
            // Refused: the driver finds the bit still clear.
            status &= !FEATURES_OK;
        }
        let running_without_features = status & DRIVER_OK != 0 && status & FEATURES_OK == 0;
        if old & !value != 0 || running_without_features {
            return self.fail(Fault::Status);
        }
        self.registers.status = status | self.registers.status & NEEDS_RESET;
    }

    fn write_features(&mut self, value: u32) {
        if self.has(FEATURES_OK) {
            return self.fail(Fault::Features);
        }
        let (features, value) = (self.registers.driver_features, u64::from(value));
        self.registers.driver_features = match self.registers.driver_features_sel {
            0 => features & !0xffff_ffff | value,
            1 => features & 0xffff_ffff | value << 32,
            // There are no features above bit 63, so none can be accepted.
            _ => features,
        };
    }

    fn configure_queue(&mut self, register: u32, value: u32) {
        let Some(queue) = self.selected().and_then(|index| self.queues.get_mut(index)) else {
            return;
        };
        if queue.ready() {
            return self.fail(Fault::QueueInUse);
        }
        let low = |addr: u64| GuestAddress(addr & !0xffff_ffff | u64::from(value));
        let high = |addr: u64| GuestAddress(addr & 0xffff_ffff | u64::from(value) << 32);
        let result = match register {
            VIRTIO_MMIO_QUEUE_NUM => queue.try_set_size(u16::try_from(value).unwrap_or(0)),
            VIRTIO_MMIO_QUEUE_DESC_LOW => queue.try_set_desc_table_address(low(queue.desc_table())),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => queue.try_set_desc_table_address(high(queue.desc_table())),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => queue.try_set_avail_ring_address(low(queue.avail_ring())),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => queue.try_set_avail_ring_address(high(queue.avail_ring())),
            VIRTIO_MMIO_QUEUE_USED_LOW => queue.try_set_used_ring_address(low(queue.used_ring())),
            _ => queue.try_set_used_ring_address(high(queue.used_ring())),
        };
        if result.is_err() {
            self.fail(Fault::QueueShape);
        }
    }

    fn write_queue_ready<M: GuestMemory>(&mut self, value: u32, mem: &M) {
        let Some(queue) = self.selected().and_then(|index| self.queues.get_mut(index)) else {
            return;
        };
        if value & 1 == 0 {
            // The driver takes the queue back; it must set it up anew.
            return queue.reset();
        }
        if queue.ready() {
            return self.fail(Fault::QueueInUse);
        }
        queue.set_ready(true);
        if !queue.is_valid(mem) {
            queue.set_ready(false);
            self.fail(Fault::QueueMemory);
        }
    }

    /// Whether queue number `index` is served: the driver is running, nothing is wrong and the queue is ready.
    pub(super) fn serves(&self, index: usize) -> bool {
        self.is_running() && self.queues.get(index).is_some_and(Queue::ready)
    }

    fn is_running(&self) -> bool {
        self.has(DRIVER_OK) && self.registers.status & (NEEDS_RESET | FAILED) == 0
    }

    /// Queue number `index`, if it is [served](Self::serves).
    pub(super) fn served_queue(&self, index: usize) -> Option<&Queue> {
        self.queues.get(index).filter(|_| self.serves(index))
    }

    /// Lets the device work on queue number `index`, if it is [served](Self::serves); `work` gives its result and
    /// whether the driver is to be interrupted because buffers were used. None if the queue is not served, or after a
    /// fault, which leads to DEVICE_NEEDS_RESET.
    pub(super) fn with_queue<R>(
        &mut self,
        index: usize,
        work: impl FnOnce(&mut D, &mut Queue, u64) -> Result<(R, bool), Fault>,
    ) -> Option<R> {
        if !self.serves(index) {
            return None;
        }
        let queue = self.queues.get_mut(index)?;
        match work(&mut self.device, queue, self.registers.driver_features) {
            Ok((result, interrupt)) => {
                if interrupt {
                    self.registers.interrupt_status |= VIRTIO_MMIO_INT_VRING;
                }
                Some(result)
            }
            Err(fault) => {
                // Buffers may have been used before the one that is wrong.
                self.registers.interrupt_status |= VIRTIO_MMIO_INT_VRING;
                self.fail(fault);
                None
            }
        }
    }

    /// The configuration space has changed by itself: the driver is told (section 2.5.1), if it is running.
    pub(super) fn config_changed(&mut self) {
        self.registers.config_generation = self.registers.config_generation.wrapping_add(1);
        if self.is_running() {
            self.registers.interrupt_status |= VIRTIO_MMIO_INT_CONFIG;
        }
    }

    /// Notifications before DRIVER_OK, after a fault, or for a queue that is not ready are ignored.
    fn notify<M: GuestMemory>(&mut self, index: u32, mem: &M, host: &mut D::Host) {
        let Ok(index) = usize::try_from(index) else { return };
        self.with_queue(index, |device, queue, features| {
            device.notify(index, queue, features, mem, host).map(|interrupt| ((), interrupt))
        });
    }
}
