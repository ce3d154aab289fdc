//! A machine's whole state in named and versioned parts, and a machine back from them.
//!
//! RAM and the disk's overlay are pages and go another way ([`super::Machine::ram`], [`super::disk`]); everything else is
//! a part: the processor by logical value, what the engine keeps beyond that, each device, and the machine's own rest. A
//! part that nobody takes, a part of a version that is not known, and bytes behind a part's end are errors: a state is
//! restored as a whole or not at all. What is in a file is not trusted; every part is checked by its owner.

use scribe_devices::{RestoreError, Snapshot};
use scribe_log::snapshots::Part;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::bus::Devices;
use super::chaos::ChaosState;
use super::digest::Rolling;
use super::time::GuestClock;
use super::{Machine, MachineError};
use crate::engine::cpu::{CpuState, Registers};
use crate::engine::{EngineError, Progress};

const CPU: &str = "cpu";
pub(super) const CPU_VERSION: u16 = 1;
const MACHINE: &str = "machine";
const MACHINE_VERSION: u16 = 2;
/// Only of a machine under chaos.
const CHAOS: &str = "chaos";
const CHAOS_VERSION: u16 = 1;

/// Why a saved state was refused.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A part is not there.
    #[error("the saved state has no part {kind:?}")]
    Missing {
        /// the part's kind
        kind: String,
    },
    /// A part is of a version that this program does not know.
    #[error("the saved state's part {kind:?} has version {found}; this program knows version {known}")]
    Version {
        /// the part's kind
        kind: String,
        /// its version
        found: u16,
        /// the version that is known
        known: u16,
    },
    /// Parts that this machine has no use for.
    #[error("the saved state has parts that this machine does not know: {}", .0.join(", "))]
    Leftover(Vec<String>),
    /// A part cannot be decoded.
    #[error("the saved state's part {kind:?} is malformed: {reason}")]
    Malformed {
        /// the part's kind
        kind: String,
        /// what is wrong
        reason: String,
    },
    /// A device refused its part.
    #[error(transparent)]
    Device(#[from] RestoreError),
    /// The engine refused its part.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Parts to be taken one by one, until none is left.
#[derive(Debug)]
pub struct Parts(Vec<Part>);

impl Parts {
    /// All of these must be taken.
    pub fn new(parts: Vec<Part>) -> Self {
        Self(parts)
    }

    /// The part of this kind, decoded.
    ///
    /// # Errors
    /// It is missing, of another version, or malformed.
    pub fn take<T: DeserializeOwned>(&mut self, kind: &str, version: u16) -> Result<T, StateError> {
        self.take_if_there(kind, version)?.ok_or_else(|| StateError::Missing { kind: kind.into() })
    }

    /// As [`take`](Self::take); `None` if there is no such part.
    ///
    /// # Errors
    /// It is of another version, or malformed.
    pub fn take_if_there<T: DeserializeOwned>(
        &mut self,
        kind: &str,
        version: u16,
    ) -> Result<Option<T>, StateError> {
        let Some(part) = self.take_raw(kind) else { return Ok(None) };
        if part.version != version {
            return Err(StateError::Version { kind: kind.into(), found: part.version, known: version });
        }
        let malformed = |reason: String| StateError::Malformed { kind: kind.into(), reason };
        match postcard::take_from_bytes(&part.bytes) {
            Ok((value, [])) => Ok(Some(value)),
            Ok((_, rest)) => Err(malformed(format!("{} bytes too many", rest.len()))),
            Err(error) => Err(malformed(error.to_string())),
        }
    }

    /// The part of this kind as it is.
    pub fn take_raw(&mut self, kind: &str) -> Option<Part> {
        let index = self.0.iter().position(|part| part.kind == kind)?;
        Some(self.0.swap_remove(index))
    }

    /// Nothing may be left.
    ///
    /// # Errors
    /// Names what is.
    pub fn finish(self) -> Result<(), StateError> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(StateError::Leftover(self.0.into_iter().map(|part| part.kind).collect()))
    }
}

/// A part.
///
/// # Errors
/// The state cannot be encoded.
pub fn part<T: Serialize>(kind: &str, version: u16, state: &T) -> Result<Part, postcard::Error> {
    Ok(Part { kind: kind.into(), version, bytes: postcard::to_stdvec(state)? })
}

/// What the machine itself keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct MachinePart {
    exits: u64,
    /// conditional branches up to the last exit
    branches: u64,
    /// branches and steps since then
    progress: (u64, u64),
    /// guest time beyond what exits and branches are worth, ns
    adjustments: u64,
    rolling: u64,
    halted: bool,
    /// frame of the clock page, and the time last stored there
    clock_page: Option<(u64, u64)>,
    /// names of bookmarks that the guest has set and nobody has noted
    bookmarks: Vec<String>,
    /// at the last sync point
    registers: Registers,
    /// branches and steps at the last sync point, if the machine was paused behind it
    sync_point: Option<(u64, u64)>,
}

impl Machine {
    /// The state of everything but RAM and the disk's contents. Where the machine can be looked at: at a sync point or a
    /// pause, its output taken.
    ///
    /// # Errors
    /// Failures of the engine.
    pub fn save(&self) -> Result<Vec<Part>, MachineError> {
        let (branches, adjustments) = self.clock.parts();
        let Progress { branches: since, steps } = self.clock.progress();
        let own = MachinePart {
            exits: self.clock.exits(),
            branches,
            progress: (since, steps),
            adjustments,
            rolling: self.rolling.value(),
            halted: self.halted,
            clock_page: self.clock_page,
            bookmarks: self.bookmarks.clone(),
            registers: self.registers,
            sync_point: self.paused.map(|Progress { branches, steps }| (branches, steps)),
        };
        let mut parts =
            vec![part(MACHINE, MACHINE_VERSION, &own)?, part(CPU, CPU_VERSION, &self.engine.state()?)?];
        if let Some(chaos) = &self.chaos {
            parts.push(part(CHAOS, CHAOS_VERSION, &chaos.save())?);
        }
        parts.extend(self.engine.save_private()?);
        parts.extend(self.devices.save_parts()?);
        parts.extend(self.save_captures()?);
        Ok(parts)
    }

    /// Puts a saved state into a machine of the same configuration, whose RAM and disk already hold their contents.
    ///
    /// # Errors
    /// The state does not fit; the machine then must not be used.
    pub fn restore(&mut self, parts: Vec<Part>) -> Result<(), StateError> {
        let mut parts = Parts::new(parts);
        let own: MachinePart = parts.take(MACHINE, MACHINE_VERSION)?;
        let cpu: CpuState = parts.take(CPU, CPU_VERSION)?;
        let chaos: Option<ChaosState> =
            self.chaos.is_some().then(|| parts.take(CHAOS, CHAOS_VERSION)).transpose()?;
        self.devices.restore_parts(&mut parts)?;
        self.restore_captures(&mut parts)?;
        self.engine.set_state(&cpu)?;
        let private = self.engine.private_kinds();
        for kind in private {
            if let Some(part) = parts.take_raw(kind) {
                self.engine.restore_private(&part)?;
            }
        }
        // What another engine keeps beyond the processor's state says nothing here.
        for kind in crate::engine::PRIVATE_KINDS {
            parts.take_raw(kind);
        }
        parts.finish()?;
        let malformed =
            |reason: &str| StateError::Malformed { kind: MACHINE.into(), reason: reason.to_owned() };
        let (branches, steps) = own.progress;
        let anywhere = self.engine.counts() || self.engine.can_step();
        if (branches, steps) != (0, 0) && !anywhere {
            return Err(malformed("it is between two exits, and this engine stops at exits only"));
        }
        if own.clock_page.is_some_and(|(frame, _)| !self.ram.has_frame(frame)) {
            return Err(malformed("the clock page is not in RAM"));
        }
        let progress = Progress { branches, steps };
        let paused = own.sync_point.map(|(branches, steps)| Progress { branches, steps });
        if paused.is_some_and(|sync_point| sync_point > progress) {
            return Err(malformed("its last sync point is ahead of it"));
        }
        if anywhere && self.engine.progress() != progress {
            // It was saved by another engine, or by one that keeps nothing of its own.
            self.engine.set_progress(progress)?;
        }
        self.paused = paused;
        self.clock =
            GuestClock::restored(self.clock.constants(), own.exits, own.branches, progress, own.adjustments);
        self.rolling = Rolling::restored(own.rolling);
        self.halted = own.halted;
        self.clock_page = own.clock_page;
        self.bookmarks = own.bookmarks;
        self.registers = own.registers;
        let mut heard = self.devices.interrupt_pending();
        if let (Some(chaos), Some(state)) = (&mut self.chaos, chaos) {
            let restored = chaos.restore(state, self.clock.now(), self.counted);
            restored.map_err(|reason| StateError::Malformed { kind: CHAOS.into(), reason: reason.into() })?;
            heard &= chaos.is_heard();
        }
        self.engine.request_window(heard);
        self.ram.take_written_frames();
        Ok(())
    }
}

impl Devices {
    fn save_parts(&self) -> Result<Vec<Part>, postcard::Error> {
        let mut parts = vec![
            device_part(&self.pic)?,
            device_part(&self.pit)?,
            device_part(&self.uart)?,
            device_part(&self.rtc)?,
            device_part(&self.i8042)?,
            device_part(&self.guest)?,
        ];
        if let Some(disk) = &self.disk {
            parts.push(device_part(&disk.device)?);
        }
        for (number, slot) in self.virtio.slots().enumerate() {
            parts.push(part(&slot_kind(slot.kind(), number), slot.version(), &slot.save())?);
        }
        if let Some(apics) = &self.apics {
            parts.extend([device_part(&apics.lapic)?, device_part(&apics.io)?, device_part(&apics.pm)?]);
        }
        Ok(parts)
    }

    fn restore_parts(&mut self, parts: &mut Parts) -> Result<(), StateError> {
        restore_device(&mut self.pic, parts)?;
        restore_device(&mut self.pit, parts)?;
        restore_device(&mut self.uart, parts)?;
        restore_device(&mut self.rtc, parts)?;
        restore_device(&mut self.i8042, parts)?;
        restore_device(&mut self.guest, parts)?;
        if let Some(disk) = &mut self.disk {
            restore_device(&mut disk.device, parts)?;
        }
        for (number, slot) in self.virtio.slots_mut().enumerate() {
            let state = parts.take(&slot_kind(slot.kind(), number), slot.version())?;
            slot.restore(state)?;
        }
        if let Some(apics) = &mut self.apics {
            restore_device(&mut apics.lapic, parts)?;
            restore_device(&mut apics.io, parts)?;
            restore_device(&mut apics.pm, parts)?;
        }
        Ok(())
    }
}

/// Name of the part of the device in a slot behind the disk.
fn slot_kind(kind: &str, number: usize) -> String {
    format!("{kind}#{}", number + 1)
}

fn device_part<D: Snapshot>(device: &D) -> Result<Part, postcard::Error> {
    part(D::KIND, D::VERSION, &device.save())
}

fn restore_device<D: Snapshot>(device: &mut D, parts: &mut Parts) -> Result<(), StateError> {
    let state = parts.take(D::KIND, D::VERSION)?;
    Ok(device.restore(state)?)
}
