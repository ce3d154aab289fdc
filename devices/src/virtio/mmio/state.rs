//! The transport's registers, and saving and restoring them together with the queues and the device.

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};
use virtio_queue::QueueT;

use super::{DRIVER_BITS, DRIVER_OK, FEATURES_OK, NEEDS_RESET, VERSION_1, VirtioMmio};
use crate::snapshot::{RestoreError, Snapshot, require};
use crate::virtio::queue::{self, SavedQueue};
use crate::virtio::{Fault, VirtioDevice};

/// Version of the transport's part of the state.
const TRANSPORT_VERSION: u16 = 1;

/// The transport's registers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registers {
    /// Device status (section 2.1).
    pub status: u32,
    /// Why DEVICE_NEEDS_RESET is set.
    pub fault: Option<Fault>,
    /// DeviceFeaturesSel.
    pub device_features_sel: u32,
    /// DriverFeaturesSel.
    pub driver_features_sel: u32,
    /// Features that the driver has accepted.
    pub driver_features: u64,
    /// QueueSel.
    pub queue_sel: u32,
    /// InterruptStatus.
    pub interrupt_status: u32,
    /// ConfigGeneration.
    pub config_generation: u32,
}

/// State of [`VirtioMmio`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MmioState<S> {
    /// The transport's registers.
    pub registers: Registers,
    /// The queues.
    pub queues: Vec<SavedQueue>,
    /// The device behind the transport.
    pub device: S,
}

impl<D: VirtioDevice + Snapshot> Snapshot for VirtioMmio<D> {
    const KIND: &'static str = D::KIND;
    const VERSION: u16 = TRANSPORT_VERSION * 0x100 + D::VERSION;
    type State = MmioState<D::State>;

    fn save(&self) -> Self::State {
        MmioState {
            registers: self.registers.clone(),
            queues: self.queues.iter().map(queue::save).collect(),
            device: self.device.save(),
        }
    }

    fn restore(&mut self, state: Self::State) -> Result<(), RestoreError> {
        let MmioState { registers, queues: saved, device } = state;
        let status = registers.status;
        require(status & !(DRIVER_BITS | NEEDS_RESET) == 0, D::KIND, "status", status, "of known bits")?;
        let needs_reset = status & NEEDS_RESET != 0;
        require(needs_reset == registers.fault.is_some(), D::KIND, "status", status, "faulty with a fault")?;
        let running = status & DRIVER_OK != 0;
        require(
            !running || status & FEATURES_OK != 0,
            D::KIND,
            "status",
            status,
            "running with FEATURES_OK",
        )?;
        let accepted = registers.driver_features;
        let known = accepted & !self.offered() == 0 && accepted & VERSION_1 != 0;
        require(known || status & FEATURES_OK == 0, D::KIND, "driver features", accepted, "offered")?;
        let causes = registers.interrupt_status;
        let all = VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG;
        require(causes & !all == 0, D::KIND, "interrupt status", causes, "of known bits")?;
        require(saved.len() == self.queues.len(), D::KIND, "number of queues", saved.len(), "the device's")?;
        let queues = saved
            .into_iter()
            .zip(&self.queues)
            .map(|(saved, queue)| queue::restore(saved, D::KIND, queue.max_size()))
            .collect::<Result<Vec<_>, _>>()?;
        self.device.restore(device)?;
        self.queues = queues;
        self.registers = registers;
        Ok(())
    }
}
