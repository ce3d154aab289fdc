//! Telling the guest that its machine has left a recording (docs/guest-interface.md, "Notices"): fresh entropy, and
//! another wall clock. The guest's kernel must have asked for such notices, in its clock page.

use scribe_devices::guest_interface::{CLOCK_PAGE_BYTES, ClockPage};

use super::Machine;
use super::memory::{MemoryError, PAGE_SIZE};

/// Why the guest cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum NoticeError {
    /// The guest's kernel has not asked for notices.
    #[error(
        "the guest's kernel cannot be given fresh entropy (--reseed) or another time (--rtc) here: it has not said that \
         it takes notice (it is not our guest kernel, or an old one, or is still starting); go live without these \
         options, or from a later place"
    )]
    NotAskedFor,
    /// Guest memory failed.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

impl Machine {
    /// Whether the guest can be told here.
    ///
    /// # Errors
    /// Why not.
    pub fn takes_notices(&self) -> Result<(), NoticeError> {
        self.asking_page().map(drop)
    }

    /// Gives the guest's kernel a `seed`, sets the guest's clock to `wall_clock` (seconds since 1970), or both. It acts on
    /// it in its next timer interrupt. An input: only at a sync point, or while the guest is idle.
    ///
    /// # Errors
    /// The guest has not asked for notices, and is as it was.
    pub fn notify_branch(
        &mut self,
        seed: Option<&[u8; 32]>,
        wall_clock: Option<u64>,
    ) -> Result<(), NoticeError> {
        let (frame, mut page) = self.asking_page()?;
        if let Some(seed) = seed {
            page.reseed(seed);
        }
        if let Some(seconds) = wall_clock {
            page.clock_has_moved();
            self.devices.set_rtc(seconds, self.clock.now());
        }
        self.ram.write(frame * PAGE_SIZE, page.bytes())?;
        self.engine.invalidate(&[frame]);
        Ok(())
    }

    /// The clock page, if the guest looks at notices there, and its frame.
    fn asking_page(&self) -> Result<(u64, ClockPage), NoticeError> {
        let (frame, _) = self.clock_page.ok_or(NoticeError::NotAskedFor)?;
        let mut bytes = [0; CLOCK_PAGE_BYTES];
        self.ram.read(frame * PAGE_SIZE, &mut bytes)?;
        let page = ClockPage::new(bytes);
        if page.asks_for_notices() { Ok((frame, page)) } else { Err(NoticeError::NotAskedFor) }
    }
}
