//! A capture of the guest's network: the classic pcap format, version 2.4, Ethernet, which every analyser reads.
//! Its times have nanoseconds (magic a1b23c4d) and are guest time since power-on, so a recording and its replays give
//! the same bytes.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::machine::observe::{Moment, Observer};
use crate::machine::virtio::Direction;

/// Longest frame, as the file's header says.
const SNAPLEN: u32 = 65_535;
const LINKTYPE_ETHERNET: u32 = 1;
/// Magic of a file whose times have nanoseconds, written little endian as all fields are.
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;

/// Writes a capture while it watches a machine.
#[derive(Debug)]
pub struct Capture<W: Write = BufWriter<File>> {
    /// none after a failure, which was told
    out: Option<W>,
    path: PathBuf,
}

impl Capture {
    /// A capture in a new file, in place of what was there.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        Self::to(BufWriter::new(File::create(path)?), path)
    }
}

impl<W: Write> Capture<W> {
    fn to(mut out: W, path: &Path) -> std::io::Result<Self> {
        let mut header = MAGIC_NANOSECONDS.to_le_bytes().to_vec();
        header.extend([2u16, 4].map(u16::to_le_bytes).as_flattened());
        header.extend([0, 0, SNAPLEN, LINKTYPE_ETHERNET].map(u32::to_le_bytes).as_flattened());
        out.write_all(&header)?;
        Ok(Self { out: Some(out), path: path.to_owned() })
    }

    fn put(&mut self, guest_time: u64, frame: &[u8]) -> std::io::Result<()> {
        let Some(out) = &mut self.out else { return Ok(()) };
        let length = u32::try_from(frame.len()).unwrap_or(SNAPLEN);
        let seconds = u32::try_from(guest_time / 1_000_000_000).unwrap_or(u32::MAX);
        let nanoseconds = u32::try_from(guest_time % 1_000_000_000).unwrap_or(0);
        out.write_all([seconds, nanoseconds, length, length].map(u32::to_le_bytes).as_flattened())?;
        out.write_all(frame)
    }

    fn check(&mut self, result: std::io::Result<()>) {
        if let Err(error) = result {
            say!("{}: the network capture ends here: {error}; the guest goes on", self.path.display());
            self.out = None;
        }
    }
}

impl<W: Write> Observer for Capture<W> {
    fn frame(&mut self, at: Moment, _direction: Direction, bytes: &[u8]) {
        let result = self.put(at.guest_time, bytes);
        self.check(result);
    }

    fn ending(&mut self, _at: Moment) {
        let result = self.out.as_mut().map_or(Ok(()), Write::flush);
        self.check(result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_byte_by_byte() {
        let mut bytes = Vec::new();
        let mut capture = Capture::to(&mut bytes, Path::new("x")).unwrap();
        let at = Moment { guest_time: 3_000_000_005, ..Moment::default() };
        capture.frame(at, Direction::Sent, &[0xaa; 14]);
        capture.ending(at);
        drop(capture);
        let header =
            [0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0];
        let record = [3, 0, 0, 0, 5, 0, 0, 0, 14, 0, 0, 0, 14, 0, 0, 0];
        assert_eq!(bytes, [&header[..], &record, &[0xaa; 14]].concat());
    }

    #[test]
    fn a_disk_that_is_full_ends_the_capture_only() {
        let file = File::options().write(true).open("/dev/full").unwrap();
        assert!(Capture::to(file.try_clone().unwrap(), Path::new("/dev/full")).is_err());
        let mut capture = Capture { out: Some(file), path: "/dev/full".into() };
        capture.frame(Moment::default(), Direction::Sent, &[0; 14]);
        assert!(capture.out.is_none());
        capture.frame(Moment::default(), Direction::Sent, &[0; 14]);
    }
}
