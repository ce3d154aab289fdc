//! Captured sync points confirmed: the way that a replay does not execute is executed after all, on an engine that counts,
//! instruction by instruction, until the machine is what was captured. Then everything is put back.

use std::collections::{BTreeMap, BTreeSet};

use scribe_log::{Capture, CapturePages};

use super::capture::{CaptureError, decode};
use super::digest::{ACCESSED_DIRTY, of_cpu};
use super::memory::PAGE_SIZE;
use super::{Machine, MachineError};
use crate::engine::{Answer, Progress, Stop};

const PAGE_BYTES: usize = 4096;
/// Instructions between two looks at whether to go on.
const LOOK_EVERY: u64 = 1 << 16;

/// What came of executing the way to a captured sync point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmed {
    /// the machine was the captured one here, counted from the exit before
    At(Progress),
    /// it was not within so many instructions
    Not(u64),
    /// it came to something that ends the way, after so many instructions
    Ended(u64),
    /// it was not looked for any further
    Interrupted,
}

/// Contents of RAM, and what of them is to be.
struct Contents {
    /// all of RAM before, region by region: first frame and bytes
    before: Vec<(u64, Vec<u8>)>,
    /// captured pages
    wanted: BTreeMap<u64, Vec<u8>>,
    /// frames written since
    written: BTreeSet<u64>,
}

impl Contents {
    fn old(&self, frame: u64) -> Option<&[u8]> {
        let (first, bytes) = self.before.iter().rev().find(|(first, _)| *first <= frame)?;
        let at = usize::try_from(frame - first).ok()?.checked_mul(PAGE_BYTES)?;
        bytes.get(at..at.checked_add(PAGE_BYTES)?)
    }
}

/// True if two pages are equal, page-table A and D apart.
fn same(a: &[u8], b: &[u8]) -> bool {
    let word = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes) & !ACCESSED_DIRTY;
    a.as_chunks::<8>().0.iter().map(word).eq(b.as_chunks::<8>().0.iter().map(word))
}

impl Machine {
    /// Executes the way to the captured sync point that `pages` and `capture` tell of, for at most `most` instructions, and
    /// says where it was met. `go_on` is asked now and then. The machine, at a sync point and about to run, is what it was
    /// afterwards.
    ///
    /// # Errors
    /// They do not fit this machine, the engine does not count, or the host failed.
    pub fn confirm_capture(
        &mut self,
        pages: &[CapturePages],
        capture: &Capture,
        most: u64,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Confirmed, CaptureError> {
        let state = decode(capture)?;
        self.check_frames(pages, capture)?;
        let cpu = of_cpu(state.clone(), false).map_err(MachineError::from)?;
        // Digests must still hear of what was written before.
        self.engine.track_dirty_pages()?;
        self.take_written()?;
        let parts = self.save()?;
        let mut contents = Contents { before: Vec::new(), wanted: BTreeMap::new(), written: BTreeSet::new() };
        for region in self.ram.regions() {
            let mut bytes = vec![0; usize::try_from(region.size).unwrap_or(0)];
            self.ram.read(region.start, &mut bytes).map_err(MachineError::from)?;
            contents.before.push((region.start / PAGE_SIZE, bytes));
        }
        for packed in pages {
            for (frame, page) in packed.frames.iter().zip(packed.unpack()?.chunks(PAGE_BYTES)) {
                let mut page = page.to_vec();
                self.captures.unpack(*frame, &mut page);
                contents.wanted.insert(*frame, page);
            }
        }
        let observer = self.observer.take();
        let wanted = (state.registers.rip, cpu, capture.interrupts);
        let found = self.search(&mut contents, wanted, most, go_on);
        self.observer = observer;
        self.note_searched(&mut contents)?;
        for frame in &contents.written {
            if let Some(old) = contents.old(*frame) {
                self.ram.write(frame.saturating_mul(PAGE_SIZE), old).map_err(MachineError::from)?;
            }
        }
        let written: Vec<u64> = contents.written.into_iter().collect();
        self.engine.invalidate(&written);
        self.restore(parts).map_err(|error| CaptureError::State(error.to_string()))?;
        found
    }

    /// `(rip, cpu, interrupts)`: what the processor is there, and how many interrupts it has taken.
    fn search(
        &mut self,
        contents: &mut Contents,
        (rip, cpu, interrupts): (u64, u64, u8),
        most: u64,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Confirmed, CaptureError> {
        let mut steps = 0;
        loop {
            let at = self.engine.progress();
            if self.captures.interrupts() == interrupts
                && self.engine.registers().rip == rip
                && of_cpu(self.engine.state()?, false).map_err(MachineError::from)? == cpu
                && self.is_captured(contents)?
            {
                return Ok(Confirmed::At(at));
            }
            if steps == most {
                return Ok(Confirmed::Not(steps));
            }
            if steps % LOOK_EVERY == 0 && !go_on() {
                return Ok(Confirmed::Interrupted);
            }
            match self.engine.run(Some(Progress { steps: at.steps.saturating_add(1), ..at }))? {
                Stop::Reached => steps += 1,
                Stop::InterruptWindow => self.deliver()?,
                Stop::Kicked if go_on() => {}
                Stop::Kicked => return Ok(Confirmed::Interrupted),
                Stop::Exit(_) => {
                    // Nothing of it is real: it only has to be over before a state is loaded.
                    self.engine.answer(Answer::Done);
                    while self.engine.finish()?.is_some() {
                        self.engine.answer(Answer::Done);
                    }
                    return Ok(Confirmed::Ended(steps));
                }
                Stop::Fault(_) => return Ok(Confirmed::Ended(steps)),
            }
        }
    }

    fn note_searched(&mut self, contents: &mut Contents) -> Result<(), MachineError> {
        contents.written.extend(self.engine.take_dirty_pages()?);
        contents.written.extend(self.ram.take_written_frames());
        Ok(())
    }

    /// True if RAM is what was captured: each page that was, and all others as before.
    fn is_captured(&mut self, contents: &mut Contents) -> Result<bool, MachineError> {
        self.note_searched(contents)?;
        let mut page = vec![0; PAGE_BYTES];
        let frames = contents.wanted.keys().chain(&contents.written);
        for frame in frames {
            self.ram.read(frame.saturating_mul(PAGE_SIZE), &mut page)?;
            let wanted = contents.wanted.get(frame).map(Vec::as_slice).or_else(|| contents.old(*frame));
            if !wanted.is_some_and(|wanted| same(wanted, &page)) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
