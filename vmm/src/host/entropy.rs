//! The host's entropy, for the seed of a guest that was given none, and for its entropy device. It is recorded.

use std::fs::File;
use std::io::Read;

/// 32 bytes from the host's random number generator.
///
/// # Errors
/// /dev/urandom cannot be read.
pub fn seed() -> std::io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    fill(&mut bytes)?;
    Ok(bytes)
}

/// Fills `bytes` from the host's random number generator.
///
/// # Errors
/// /dev/urandom cannot be read.
pub fn fill(bytes: &mut [u8]) -> std::io::Result<()> {
    File::open("/dev/urandom")?.read_exact(bytes)
}
