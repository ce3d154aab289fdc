//! Captured sync points: where no counter names the place at which the guest is, its state at the place goes into the log,
//! and a replay goes on from that state instead of executing the way to it.
//!
//! A captured sync point takes the next exit number. Its state is the processor's, the pages that were written on the way,
//! the interrupts that were acknowledged on the way, and the time that passed; devices do nothing between two exits.
//!
//! **Pages.** What was written since the last capture or [harvest](Machine::harvest), whichever was later: perhaps more than
//! was written on the way, and never less. Each is XORed with what it was when it was captured last. These *bases* are kept
//! by recorder and replay alike, at most [`MOST_BASES`], and follow from the captures alone, so they are part of a snapshot.

use std::collections::{BTreeMap, BTreeSet};

use scribe_log::snapshots::Part;
use scribe_log::{Capture, CapturePages, MAX_CAPTURE_PAGES, UnpackError};
use serde::{Deserialize, Serialize};

use super::memory::{GuestRam, PAGE_SIZE};
use super::state::{CPU_VERSION, Parts, StateError, part};
use super::{Machine, MachineError, digest};
use crate::engine::cpu::CpuState;
use crate::engine::{EngineError, Progress};

/// Most pages whose last captured contents are kept.
pub const MOST_BASES: usize = 4096;
/// Most bytes that a capture's pages are stored in. One segment of the log holds a whole capture, so that none is torn.
pub const MOST_STORED: usize = 8 << 20;
const PAGE_BYTES: usize = 4096;

const PART: &str = "captures";
const PART_VERSION: u16 = 1;

// Frozen: which bases there are decides what a recording's pages mean.
const _: () = assert!(MOST_BASES == 4096);

/// Why a captured sync point of a recording cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// Its events are not all there, or not in order.
    #[error("its events are not those of one capture: {0}")]
    Torn(&'static str),
    /// Its pages do not unpack.
    #[error(transparent)]
    Pages(#[from] UnpackError),
    /// A page that the machine does not have.
    #[error("page {0:#x} is not in the guest's memory")]
    Outside(u64),
    /// The state is of a version that this program does not know.
    #[error("the processor's state has version {found}; this program knows version {known}")]
    Version {
        /// its version
        found: u16,
        /// the version that is known
        known: u16,
    },
    /// The state cannot be decoded.
    #[error("the processor's state is malformed: {0}")]
    State(String),
    /// The guest took more interrupts than were waiting for it.
    #[error("the guest took {taken} interrupts on the way, and here {waiting} waited")]
    Interrupts {
        /// in the recording
        taken: u8,
        /// here
        waiting: u8,
    },
    /// The processor's state or the pages cannot be put into the machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
}

impl From<EngineError> for CaptureError {
    fn from(error: EngineError) -> Self {
        Self::Machine(error.into())
    }
}

/// A captured sync point that the machine can be brought to: what goes into the log.
#[derive(Debug)]
pub struct Prepared {
    /// its pages
    pub pages: Vec<CapturePages>,
    /// the rest of it
    pub capture: Capture,
    frames: Vec<u64>,
    state: CpuState,
}

/// What a machine keeps for captured sync points.
#[derive(Debug, Default)]
pub(super) struct Captures {
    bases: Bases,
    /// frames written since the last capture or harvest, if anybody wants to know
    written: Option<BTreeSet<u64>>,
    /// interrupts that the guest took since all that happens at its last sync point had happened
    interrupts: u8,
}

impl Captures {
    /// What the guest takes from here on, it takes on its way.
    pub(super) fn leaves(&mut self) {
        self.interrupts = 0;
    }

    /// The guest takes an interrupt.
    pub(super) fn interrupt(&mut self) {
        self.interrupts = self.interrupts.saturating_add(1);
    }

    /// How many it took on its way.
    pub(super) fn interrupts(&self) -> u8 {
        self.interrupts
    }

    /// Turns a captured page into what it is.
    pub(super) fn unpack(&self, frame: u64, bytes: &mut [u8]) {
        self.bases.apply(frame, bytes);
    }

    /// These frames were written.
    pub(super) fn wrote(&mut self, frames: &[u64]) {
        if let Some(written) = &mut self.written {
            written.extend(frames);
        }
    }
}

/// Pages as they were captured last.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Bases {
    /// captures so far
    captures: u64,
    /// by frame: the capture it was in, and its contents
    pages: BTreeMap<u64, (u64, Box<[u8]>)>,
    /// capture and frame, those that go next first
    order: BTreeSet<(u64, u64)>,
}

impl Bases {
    /// Turns the contents of a page into their difference from the base, or back.
    fn apply(&self, frame: u64, bytes: &mut [u8]) {
        if let Some((_, base)) = self.pages.get(&frame) {
            bytes.iter_mut().zip(base).for_each(|(byte, base)| *byte ^= base);
        }
    }

    fn store(&mut self, frame: u64, capture: u64, bytes: Box<[u8]>) {
        if let Some((old, _)) = self.pages.insert(frame, (capture, bytes)) {
            self.order.remove(&(old, frame));
        }
        self.order.insert((capture, frame));
        if self.pages.len() > MOST_BASES
            && let Some((_, frame)) = self.order.pop_first()
        {
            self.pages.remove(&frame);
        }
    }

    /// The machine was captured: `frames`, ascending, are what they are.
    fn captured(
        &mut self,
        frames: impl IntoIterator<Item = u64>,
        ram: &GuestRam,
    ) -> Result<(), MachineError> {
        self.captures = self.captures.saturating_add(1);
        for frame in frames {
            self.store(frame, self.captures, page(ram, frame)?);
        }
        Ok(())
    }
}

fn page(ram: &GuestRam, frame: u64) -> Result<Box<[u8]>, MachineError> {
    let mut bytes = vec![0; PAGE_BYTES].into_boxed_slice();
    ram.read(frame.saturating_mul(PAGE_SIZE), &mut bytes)?;
    Ok(bytes)
}

impl Machine {
    /// From now on it is known which pages were written, so that sync points can be captured. Only at a sync point. Costs
    /// a fault for each page's first write after that, and after each capture and harvest.
    ///
    /// # Errors
    /// Failures of the host.
    pub fn watch_writes(&mut self) -> Result<(), MachineError> {
        self.engine.track_dirty_pages()?;
        self.captures.written.get_or_insert_default();
        self.harvest().map(drop)
    }

    /// From now on it is not known.
    pub fn unwatch_writes(&mut self) {
        self.captures.written = None;
    }

    /// Forgets which pages were written up to here, where a replay comes too. Only at a sync point. Gives how many there
    /// were since the last time.
    ///
    /// # Errors
    /// Failures of the host.
    pub fn harvest(&mut self) -> Result<usize, MachineError> {
        self.take_written()?;
        Ok(self.captures.written.as_mut().map_or(0, |written| std::mem::take(written).len()))
    }

    /// Hears which pages the guest and the machine have written since the last time, for digests and captures alike.
    pub(super) fn take_written(&mut self) -> Result<(), MachineError> {
        let guest = self.engine.take_dirty_pages()?;
        let machine = self.ram.take_written_frames();
        self.captures.wrote(&guest);
        self.captures.wrote(&machine);
        if self.ram_digest.is_started() {
            self.written.extend(guest);
            self.written.extend(machine);
        }
        Ok(())
    }

    /// What brings a machine from the last sync point to where this one's guest is, after a kick; `nanoseconds` have passed
    /// for it since. `None`: too much was written since the last exit for the log to take.
    ///
    /// # Errors
    /// Failures of the host.
    pub fn prepare_capture(&mut self, nanoseconds: u64) -> Result<Option<Prepared>, MachineError> {
        self.take_written()?;
        let interrupts = self.captures.interrupts;
        if interrupts == u8::MAX {
            return Ok(None); // it counts no further
        }
        let written = self.captures.written.as_ref();
        let frames: Vec<u64> =
            written.into_iter().flatten().copied().filter(|frame| self.ram.has_frame(*frame)).collect();
        let mut pages = Vec::new();
        let mut stored = 0;
        for frames in frames.chunks(MAX_CAPTURE_PAGES) {
            let mut bytes = Vec::with_capacity(frames.len() * PAGE_BYTES);
            for frame in frames {
                let mut page = page(&self.ram, *frame)?;
                self.captures.bases.apply(*frame, &mut page);
                bytes.extend_from_slice(&page);
            }
            let packed = CapturePages::pack(frames.to_vec(), &bytes).map_err(MachineError::Pack)?;
            stored += packed.stored.len();
            if stored > MOST_STORED {
                return Ok(None);
            }
            pages.push(packed);
        }
        let state = self.engine.state()?;
        let capture = Capture {
            nanoseconds,
            interrupts,
            pages: frames.len() as u64,
            bytes: stored as u64,
            version: CPU_VERSION,
            state: postcard::to_stdvec(&state)?,
        };
        Ok(Some(Prepared { pages, capture, frames, state }))
    }

    /// Makes a sync point of the place where the guest is: the one that was prepared there. Gives its events.
    ///
    /// # Errors
    /// Failures of the host.
    pub fn arrive_captured(
        &mut self,
        prepared: Prepared,
    ) -> Result<(Vec<CapturePages>, Capture), MachineError> {
        let Prepared { pages, capture, frames, state } = prepared;
        // What the engine keeps beyond the state goes here as it does in a replay.
        self.engine.set_state(&state)?;
        self.captures.bases.captured(frames, &self.ram)?;
        if let Some(written) = &mut self.captures.written {
            written.clear();
        }
        self.land(&state, &capture)?;
        Ok((pages, capture))
    }

    /// Makes a sync point of the place where the guest is, `nanoseconds` after the last, for nobody to find again.
    pub fn arrive_uncaptured(&mut self, nanoseconds: u64) {
        self.pass(nanoseconds);
        self.registers = self.engine.registers();
    }

    /// Brings the machine, at a sync point and about to run, to the captured one that `pages` and `capture` tell of.
    ///
    /// # Errors
    /// They do not fit this machine, or the host failed. The machine must not be used then.
    pub fn apply_capture(&mut self, pages: &[CapturePages], capture: &Capture) -> Result<(), CaptureError> {
        let state = decode(capture)?;
        let frames = self.check_frames(pages, capture)?;
        for taken in 0..capture.interrupts {
            if !self.is_asked() {
                return Err(CaptureError::Interrupts { taken: capture.interrupts, waiting: taken });
            }
            self.acknowledge();
            self.is_asked(); // as when it was recorded: chaos may have made another late
        }
        if capture.interrupts > 0 {
            self.is_asked(); // as behind the last of them: chaos begins to hold the next
        }
        for packed in pages {
            let bytes = packed.unpack()?;
            for (frame, bytes) in packed.frames.iter().zip(bytes.chunks(PAGE_BYTES)) {
                let mut page = bytes.to_vec();
                self.captures.bases.apply(*frame, &mut page);
                self.ram.write(frame.saturating_mul(PAGE_SIZE), &page).map_err(MachineError::from)?;
            }
        }
        self.note_written();
        self.fresh = false;
        self.engine.set_state(&state)?;
        self.captures.bases.captured(frames, &self.ram)?;
        Ok(self.land(&state, capture)?)
    }

    /// The frames of these pages, if they are what `capture` says.
    pub(super) fn check_frames(
        &self,
        pages: &[CapturePages],
        capture: &Capture,
    ) -> Result<Vec<u64>, CaptureError> {
        let frames: Vec<u64> = pages.iter().flat_map(|pages| pages.frames.iter().copied()).collect();
        let stored: usize = pages.iter().map(|pages| pages.stored.len()).sum();
        if (frames.len() as u64, stored as u64) != (capture.pages, capture.bytes) {
            return Err(CaptureError::Torn("there are more or fewer pages than it says"));
        }
        if !frames.is_sorted_by(|a, b| a < b) {
            return Err(CaptureError::Torn("its pages are not in ascending order"));
        }
        match frames.iter().find(|frame| !self.ram.has_frame(**frame)) {
            Some(frame) => Err(CaptureError::Outside(*frame)),
            None => Ok(frames),
        }
    }

    /// The machine, whose engine and RAM are at the captured sync point, comes there.
    fn land(&mut self, state: &CpuState, capture: &Capture) -> Result<(), MachineError> {
        let cpu = digest::of_cpu(state.clone(), false)?;
        self.rolling.captured(capture.interrupts, capture.nanoseconds, cpu);
        self.pass(capture.nanoseconds);
        self.registers = self.engine.registers();
        self.rolling.registers(&self.registers);
        tracing::trace!(target: "exit", "{} {:016x} {} captured", self.position(), self.rolling(), self.registers);
        Ok(())
    }

    fn pass(&mut self, nanoseconds: u64) {
        let to = self.clock.now().saturating_add(nanoseconds);
        self.paused = None;
        self.clock.count_exit(Progress::NONE);
        self.clock.jump(to);
    }

    /// The state of the captures as a part, if there were any.
    pub(super) fn save_captures(&self) -> Result<Option<Part>, MachineError> {
        let Bases { captures, pages, .. } = &self.captures.bases;
        if *captures == 0 {
            return Ok(None);
        }
        let mut bytes = Vec::with_capacity(pages.len() * PAGE_BYTES);
        for (frame, (_, base)) in pages {
            let mut page = page(&self.ram, *frame)?;
            page.iter_mut().zip(base).for_each(|(byte, base)| *byte ^= base);
            bytes.extend_from_slice(&page);
        }
        let saved = Saved {
            captures: *captures,
            pages: pages.iter().map(|(frame, (capture, _))| (*frame, *capture)).collect(),
            // Most pages are what they were: their difference is zeros.
            differences: zstd::bulk::compress(&bytes, 1).map_err(MachineError::Pack)?,
        };
        Ok(Some(part(PART, PART_VERSION, &saved)?))
    }

    /// Takes its part back, if there is one. RAM is what it was.
    pub(super) fn restore_captures(&mut self, parts: &mut Parts) -> Result<(), StateError> {
        self.captures = Captures::default();
        let Some(saved) = parts.take_if_there::<Saved>(PART, PART_VERSION)? else { return Ok(()) };
        let Saved { captures, pages, differences } = saved;
        let malformed = |reason: &str| StateError::Malformed { kind: PART.into(), reason: reason.into() };
        let ascending = pages.is_sorted_by(|(a, _), (b, _)| a < b);
        if pages.len() > MOST_BASES || !ascending || pages.iter().any(|(_, capture)| *capture > captures) {
            return Err(malformed("its pages are impossible"));
        }
        let bytes = zstd::bulk::decompress(&differences, pages.len() * PAGE_BYTES).unwrap_or_default();
        if bytes.len() != pages.len() * PAGE_BYTES {
            return Err(malformed("its pages do not unpack"));
        }
        for ((frame, capture), difference) in pages.into_iter().zip(bytes.chunks(PAGE_BYTES)) {
            let mut page = page(&self.ram, frame).map_err(|_| malformed("a page is not in RAM"))?;
            page.iter_mut().zip(difference).for_each(|(byte, difference)| *byte ^= difference);
            self.captures.bases.store(frame, capture, page);
        }
        self.captures.bases.captures = captures;
        Ok(())
    }
}

/// The processor's state of a capture.
pub(super) fn decode(capture: &Capture) -> Result<CpuState, CaptureError> {
    if capture.version != CPU_VERSION {
        return Err(CaptureError::Version { found: capture.version, known: CPU_VERSION });
    }
    match postcard::take_from_bytes(&capture.state) {
        Ok((state, [])) => Ok(state),
        Ok((_, rest)) => Err(CaptureError::State(format!("{} bytes too many", rest.len()))),
        Err(error) => Err(CaptureError::State(error.to_string())),
    }
}

/// The bases as a part of a snapshot.
#[derive(Serialize, Deserialize)]
struct Saved {
    captures: u64,
    /// frame, and the capture it was in
    pages: Vec<(u64, u64)>,
    /// what they were, XORed with RAM: one zstd frame
    differences: Vec<u8>,
}
