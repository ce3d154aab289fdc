//! Pixels of a screenshot: as much of PNG (ISO/IEC 15948) as a browser writes.

use std::io::Read;

use flate2::read::ZlibDecoder;

/// A picture of 8 bits a channel.
#[derive(Debug)]
pub struct Picture {
    /// pixels in a row
    pub width: usize,
    /// rows
    pub height: usize,
    channels: usize,
    bytes: Vec<u8>,
}

impl Picture {
    /// Decodes one without interlacing, in RGB or RGBA.
    ///
    /// # Panics
    /// It is another.
    pub fn decode(png: &[u8]) -> Self {
        assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n");
        let word = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap()) as usize;
        let (width, height) = (word(16), word(20));
        let channels = match png[24..29] {
            [8, 2, 0, 0, 0] => 3,
            [8, 6, 0, 0, 0] => 4,
            ref other => panic!("a PNG of depth, colour type, methods, interlacing {other:?}"),
        };
        let (mut at, mut packed) = (8, Vec::new());
        while at < png.len() {
            let length = word(at);
            if &png[at + 4..at + 8] == b"IDAT" {
                packed.extend_from_slice(&png[at + 8..at + 8 + length]);
            }
            at += 12 + length;
        }
        let mut raw = Vec::new();
        ZlibDecoder::new(&packed[..]).read_to_end(&mut raw).unwrap();
        let stride = width * channels;
        let mut bytes: Vec<u8> = Vec::with_capacity(stride * height);
        for (row, line) in raw.chunks_exact(stride + 1).enumerate() {
            for (x, value) in line[1..].iter().enumerate() {
                let left = if x >= channels { bytes[bytes.len() - channels] } else { 0 };
                let up = if row > 0 { bytes[bytes.len() - stride] } else { 0 };
                let corner =
                    if x >= channels && row > 0 { bytes[bytes.len() - stride - channels] } else { 0 };
                let predicted = match line[0] {
                    0 => 0,
                    1 => left,
                    2 => up,
                    3 => left.midpoint(up),
                    4 => paeth(left, up, corner),
                    other => panic!("filter {other}"),
                };
                bytes.push(value.wrapping_add(predicted));
            }
        }
        assert_eq!(bytes.len(), stride * height);
        Self { width, height, channels, bytes }
    }

    /// The pixel at a place.
    pub fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        let at = (y * self.width + x) * self.channels;
        [self.bytes[at], self.bytes[at + 1], self.bytes[at + 2]]
    }
}

/// ISO/IEC 15948, 9.4.
fn paeth(left: u8, up: u8, corner: u8) -> u8 {
    let estimate = i16::from(left) + i16::from(up) - i16::from(corner);
    let distance = |value: u8| (estimate - i16::from(value)).abs();
    [left, up, corner].into_iter().min_by_key(|value| distance(*value)).unwrap_or(left)
}
