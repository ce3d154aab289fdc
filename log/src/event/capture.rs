//! What a captured sync point says: where no counter names the place, the state at the place is in the log.
//!
//! Its pages come first, in as many [`CapturePages`] as are needed, then one [`Capture`], all at the same position. Each
//! page is XORed with what it was when it was captured last (zeros the first time), so a page in which little has changed
//! packs to little.

use std::io;

/// Most pages in one [`CapturePages`].
pub const MAX_CAPTURE_PAGES: usize = 16;
/// Most bytes of a captured processor's state, encoded.
pub const MAX_CAPTURE_STATE: usize = super::MAX_DATA;
/// Bytes of a page.
const PAGE_BYTES: usize = 4096;
/// Fast: a captured guest waits for it.
const ZSTD_LEVEL: i32 = 1;

/// How the pages are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageCodec {
    /// as they are
    Raw,
    /// one zstd frame
    Zstd,
}

/// Some pages of a captured sync point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturePages {
    /// Frame numbers (address / 4096), ascending, 1 to [`MAX_CAPTURE_PAGES`].
    pub frames: Vec<u64>,
    /// How their bytes are stored.
    pub codec: PageCodec,
    /// The pages, one behind the other, as stored: raw 4096 bytes each, with zstd less.
    pub stored: Vec<u8>,
}

/// A captured sync point: what the guest has become since the exit before, without executing it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    /// Guest time that has passed since the guest came to run at the position before, in nanoseconds.
    pub nanoseconds: u64,
    /// External interrupts that the guest took on the way.
    pub interrupts: u8,
    /// Pages in the [`CapturePages`] before it.
    pub pages: u64,
    /// Bytes that these are stored in.
    pub bytes: u64,
    /// Version of the state's encoding.
    pub version: u16,
    /// The processor's state, at most [`MAX_CAPTURE_STATE`] bytes.
    pub state: Vec<u8>,
}

/// Why stored pages are none.
#[derive(Debug, thiserror::Error)]
#[error("{count} captured pages do not unpack to {count} pages")]
pub struct UnpackError {
    count: usize,
}

impl CapturePages {
    /// Packs these pages, `bytes` one behind the other.
    ///
    /// # Errors
    /// The compressor has no memory.
    pub fn pack(frames: Vec<u64>, bytes: &[u8]) -> io::Result<Self> {
        let packed = zstd::bulk::compress(bytes, ZSTD_LEVEL)?;
        let (codec, stored) = match packed.len() < bytes.len() {
            true => (PageCodec::Zstd, packed),
            false => (PageCodec::Raw, bytes.to_vec()),
        };
        Ok(Self { frames, codec, stored })
    }

    /// The pages, one behind the other: 4096 bytes for each of the frames.
    ///
    /// # Errors
    /// What is stored is something else.
    pub fn unpack(&self) -> Result<Vec<u8>, UnpackError> {
        let count = self.frames.len();
        let length = count.saturating_mul(PAGE_BYTES);
        let bytes = match self.codec {
            PageCodec::Raw => Some(self.stored.clone()),
            // No more than so many bytes come out of it, whatever it says of itself.
            PageCodec::Zstd if count <= MAX_CAPTURE_PAGES => {
                zstd::bulk::decompress(&self.stored, length).ok()
            }
            PageCodec::Zstd => None,
        };
        bytes.filter(|bytes| bytes.len() == length).ok_or(UnpackError { count })
    }

    /// Whether the lengths are possible.
    pub(crate) fn fits(&self) -> bool {
        let length = self.frames.len().saturating_mul(PAGE_BYTES);
        (1..=MAX_CAPTURE_PAGES).contains(&self.frames.len())
            && match self.codec {
                PageCodec::Raw => self.stored.len() == length,
                PageCodec::Zstd => (1..length).contains(&self.stored.len()),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_back() {
        let mut noise = 1_u64;
        let mut random = || {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            noise.to_le_bytes()[0]
        };
        let random: Vec<u8> = (0..2 * PAGE_BYTES).map(|_| random()).collect();
        for (bytes, codec) in [(vec![0; 2 * PAGE_BYTES], PageCodec::Zstd), (random, PageCodec::Raw)] {
            let packed = CapturePages::pack(vec![3, 9], &bytes).unwrap();
            assert_eq!((packed.codec, packed.fits()), (codec, true));
            assert_eq!(packed.unpack().unwrap(), bytes);
        }
    }

    #[test]
    fn what_is_no_page_does_not_unpack() {
        let good = CapturePages::pack(vec![3, 9], &[7; 2 * PAGE_BYTES]).unwrap();
        for frames in [vec![3], vec![3, 9, 10], vec![0; 17], vec![]] {
            assert!(CapturePages { frames, ..good.clone() }.unpack().is_err());
        }
        assert!(CapturePages { codec: PageCodec::Raw, ..good.clone() }.unpack().is_err());
        let cut = good.stored[..good.stored.len() - 1].to_vec();
        assert!(CapturePages { stored: cut, ..good }.unpack().is_err());
    }
}
