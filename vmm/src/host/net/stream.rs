//! Frames in a stream of bytes: each behind its length, four bytes, big endian (the protocol of QEMU's stream sockets,
//! which passt speaks).

use scribe_devices::virtio::net::Frame;

/// Longest frame that a peer may send: more is no frame but a stream that got out of step.
const MOST: usize = 64 * 1024 + 18;

/// The stream makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it sent a frame of {0} bytes; the most is {MOST}")]
pub(super) struct TooLong(usize);

/// Appends a frame to a stream.
pub(super) fn put(out: &mut Vec<u8>, frame: &[u8]) {
    out.extend_from_slice(&u32::try_from(frame.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(frame);
}

/// Takes frames out of a stream that comes in pieces.
#[derive(Debug, Default)]
pub(super) struct Unframer {
    /// less than a whole frame
    rest: Vec<u8>,
}

impl Unframer {
    /// The frames that are whole with these bytes. Frames longer than the guest's network has, or shorter, are left out.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<Vec<Frame>, TooLong> {
        self.rest.extend_from_slice(bytes);
        let mut frames = Vec::new();
        let mut left = self.rest.as_slice();
        while let Some((length, behind)) = left.split_first_chunk::<4>() {
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
            if length > MOST {
                return Err(TooLong(length));
            }
            let Some((frame, behind)) = behind.split_at_checked(length) else { break };
            frames.extend(Frame::new(frame.to_vec()));
            left = behind;
        }
        self.rest = left.to_vec();
        Ok(frames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_in_pieces() {
        let mut bytes = Vec::new();
        for length in [60, 3, 1514, 9000, 14] {
            put(&mut bytes, &vec![1; length]);
        }
        for piece in [1, 7, 1000, bytes.len()] {
            let mut unframer = Unframer::default();
            let frames: Vec<Frame> =
                bytes.chunks(piece).flat_map(|part| unframer.take(part).unwrap()).collect();
            let lengths: Vec<usize> = frames.iter().map(|frame| frame.bytes().len()).collect();
            assert_eq!(lengths, [60, 1514, 14], "in pieces of {piece}");
            assert!(unframer.rest.is_empty());
        }
    }

    #[test]
    fn a_stream_out_of_step_is_found() {
        assert_eq!(Unframer::default().take(&[0xff; 4]), Err(TooLong(0xffff_ffff)));
    }
}
