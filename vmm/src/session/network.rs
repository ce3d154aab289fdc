//! The network of a live machine: frames between the device and the host's side, and its link; and its entropy.
//!
//! Frames wait here until the guest has buffers for them. Those that come while no driver is there to take them are
//! dropped, and when the other end goes the link goes down, which the guest is told.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use scribe_devices::virtio::net::Frame;
use scribe_log::{Body, DeviceInput};

use super::SessionError;
use super::journal::Journal;
use crate::host::entropy;
use crate::host::events::Shared;
use crate::host::net::Outgoing;
use crate::machine::Machine;
use crate::machine::boot::SEED_BYTES;

/// Guest time (ns) for which the link stays down when a machine goes live with another network, so that the guest notices
/// and asks for an address anew.
const UNPLUGGED: u64 = 500_000_000;

/// What connects a live machine's network.
#[derive(Debug, Default)]
pub struct Network {
    outgoing: Option<Outgoing>,
    waiting: VecDeque<Frame>,
    /// what the link is to become, and not before which guest time (ns)
    plan: VecDeque<(bool, u64)>,
}

impl Network {
    /// The network of a machine that has just been switched on.
    pub fn new(outgoing: Option<Outgoing>) -> Self {
        Self { outgoing, ..Self::default() }
    }

    /// The network of a machine that goes live at guest time `now` (ns): the cable is taken out, and another put in if there
    /// is one.
    pub fn replugged(outgoing: Option<Outgoing>, now: u64) -> Self {
        let mut plan = VecDeque::from([(false, now)]);
        plan.extend(outgoing.is_some().then_some((true, now.saturating_add(UNPLUGGED))));
        Self { outgoing, plan, ..Self::default() }
    }

    /// True if something may still come from outside.
    pub fn is_open(&self) -> bool {
        self.outgoing.is_some()
    }

    /// A frame has come.
    pub fn frame(&mut self, frame: Frame) {
        self.waiting.push_back(frame);
    }

    /// The other end has gone.
    pub fn lost(&mut self, why: &str, now: u64) {
        let words = self.outgoing.as_mut().and_then(Outgoing::last_words).map(|words| format!(": {words}"));
        say!(
            "the guest's network has lost its other end ({why}{}); its link goes down, the guest goes on",
            words.unwrap_or_default()
        );
        self.outgoing = None;
        self.waiting.clear();
        self.plan.push_back((false, now));
    }

    /// Hands what the guest has sent to the host.
    pub fn send(&mut self, machine: &mut Machine) {
        for (_, frame) in machine.take_frames() {
            if let Some(outgoing) = &mut self.outgoing {
                outgoing.send(frame);
            }
        }
    }

    /// The guest time (ns) from which on there is something for the machine, if there is.
    pub fn ready(&self, machine: &mut Machine) -> Option<u64> {
        let slot = machine.net_slot()?;
        if let Some((_, time)) = self.plan.front() {
            return Some(*time);
        }
        let takes = machine.frame_room(slot) > 0 || !machine.has_net_driver(slot);
        (takes && !self.waiting.is_empty()).then_some(0)
    }

    /// Gives the machine what is there for it, as far as it has room; true if it got something.
    ///
    /// # Errors
    /// The recording cannot be written.
    pub fn admit<J: Journal>(
        &mut self,
        machine: &mut Machine,
        journal: &mut J,
        shared: &Shared,
    ) -> Result<bool, SessionError> {
        let Some(slot) = machine.net_slot() else {
            self.plan.clear();
            return Ok(false);
        };
        let mut admitted = false;
        while let Some((up, _)) = self.plan.front().copied().filter(|(_, time)| *time <= machine.guest_time())
        {
            self.plan.pop_front();
            input(machine, journal, slot, DeviceInput::Link { up })?;
            admitted = true;
        }
        let before = self.waiting.len();
        if !machine.has_net_driver(slot) {
            self.waiting.clear();
        }
        let room = machine.frame_room(slot).min(self.waiting.len());
        for frame in self.waiting.drain(..room) {
            input(machine, journal, slot, DeviceInput::Frame(frame.into_bytes()))?;
            admitted = true;
        }
        shared.frames.fetch_sub(before - self.waiting.len(), Ordering::Relaxed);
        Ok(admitted)
    }
}

/// Where the entropy device's bytes come from.
#[derive(Debug, Default)]
pub enum Entropy {
    /// the host
    #[default]
    Host,
    /// the guest's seed: the same bytes in each run with the same seed
    Seeded(Box<blake3::OutputReader>),
}

impl Entropy {
    /// The bytes that follow from a seed.
    pub fn seeded(seed: &[u8; SEED_BYTES]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("scribe-vmm virtio-rng 1");
        hasher.update(seed);
        Self::Seeded(Box::new(hasher.finalize_xof()))
    }

    /// The next bytes.
    ///
    /// # Errors
    /// The host has none.
    pub fn take(&mut self, count: usize) -> Result<Vec<u8>, SessionError> {
        let mut bytes = vec![0; count];
        match self {
            Self::Host => entropy::fill(&mut bytes)
                .map_err(|source| SessionError::Io { what: "reading entropy from /dev/urandom", source })?,
            Self::Seeded(reader) => reader.fill(&mut bytes),
        }
        Ok(bytes)
    }
}

/// An input to a device, noted.
pub(super) fn input<J: Journal>(
    machine: &mut Machine,
    journal: &mut J,
    slot: u8,
    input: DeviceInput,
) -> Result<(), SessionError> {
    // Its slot came from the machine, so there is a device.
    if machine.device_input(slot, &input).is_ok() {
        journal.input(machine, Body::Device { slot, input })?;
    }
    Ok(())
}
