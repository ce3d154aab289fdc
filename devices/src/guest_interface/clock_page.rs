//! The first bytes of the clock page: guest time, and what the machine tells the guest: that it has left its recording, or
//! that its power button was pressed (docs/guest-interface.md, "Notices").
//!
//! The page is guest RAM, so all of it may hold anything. A guest that has not asked for notices is told nothing.

/// Bytes of the page that mean something.
pub const CLOCK_PAGE_BYTES: usize = 72;
/// What a guest that looks at notices writes.
const ASKS_FOR_NOTICES: [u8; 8] = *b"NOTICES1";
/// What a guest that also looks at the power button writes.
const ASKS_FOR_BUTTON: [u8; 8] = *b"NOTICES2";

const NOTICES: usize = 8;
const RESEEDS: usize = 16;
const CLOCKS: usize = 24;
const SEED: usize = 32;
const BUTTON: usize = 64;

/// The page's beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockPage {
    bytes: [u8; CLOCK_PAGE_BYTES],
}

impl ClockPage {
    /// As it is in RAM.
    pub fn new(bytes: [u8; CLOCK_PAGE_BYTES]) -> Self {
        ClockPage { bytes }
    }

    /// As it is to be in RAM.
    pub fn bytes(&self) -> &[u8; CLOCK_PAGE_BYTES] {
        &self.bytes
    }

    /// True if the guest looks at notices of a machine that leaves its recording.
    pub fn asks_for_notices(&self) -> bool {
        [ASKS_FOR_NOTICES, ASKS_FOR_BUTTON].contains(&self.word(NOTICES))
    }

    /// True if the guest looks at the power button.
    pub fn asks_for_button(&self) -> bool {
        self.word(NOTICES) == ASKS_FOR_BUTTON
    }

    /// Gives the guest's kernel fresh entropy.
    pub fn reseed(&mut self, seed: &[u8; 32]) {
        self.count(RESEEDS);
        self.bytes[SEED..BUTTON].copy_from_slice(seed);
    }

    /// Makes the guest's kernel take its wall clock from the real-time clock.
    pub fn clock_has_moved(&mut self) {
        self.count(CLOCKS);
    }

    /// Asks the guest's kernel to shut down.
    pub fn press_power_button(&mut self) {
        self.count(BUTTON);
    }

    fn word(&self, offset: usize) -> [u8; 8] {
        self.bytes[offset..].first_chunk().copied().unwrap_or([0; 8])
    }

    fn count(&mut self, offset: usize) {
        let count = u64::from_le_bytes(self.word(offset)).wrapping_add(1);
        self.bytes[offset..offset + 8].copy_from_slice(&count.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_asks_for_notices_by_one_word() {
        let mut bytes = [0; CLOCK_PAGE_BYTES];
        assert!(!ClockPage::new(bytes).asks_for_notices());
        bytes[8..16].copy_from_slice(&0x3153_4543_4954_4f4e_u64.to_le_bytes());
        let page = ClockPage::new(bytes);
        assert!(page.asks_for_notices() && !page.asks_for_button());
        bytes[15] = b'2';
        let page = ClockPage::new(bytes);
        assert!(page.asks_for_notices() && page.asks_for_button());
        bytes[15] = b'3';
        let page = ClockPage::new(bytes);
        assert!(!page.asks_for_notices() && !page.asks_for_button());
    }

    #[test]
    fn notices_are_counted_apart_and_touch_nothing_else() {
        let mut bytes = [0x5a; CLOCK_PAGE_BYTES];
        bytes[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
        bytes[24..32].copy_from_slice(&6_u64.to_le_bytes());
        let mut page = ClockPage::new(bytes);
        page.reseed(&[0xa5; 32]);
        bytes[16..24].copy_from_slice(&[0; 8]);
        bytes[32..64].copy_from_slice(&[0xa5; 32]);
        assert_eq!(page.bytes(), &bytes);
        page.clock_has_moved();
        bytes[24] = 7;
        assert_eq!(page.bytes(), &bytes);
        page.press_power_button();
        bytes[64] = 0x5b;
        assert_eq!(page.bytes(), &bytes);
    }
}
