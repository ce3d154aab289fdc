//! Lanes as the page's script reads them: columns of varints, deflated, in base64.
//!
//! Per lane and in this order: time, span, kind, exit, branches, steps, count, address, value, text. Time and exit are
//! differences to the record before; of the count, 1 is taken off. A column is as long as the lane has records. Columns of
//! mostly equal numbers cost next to nothing this way: an event of the demo is less than three bytes of the page.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::DeflateEncoder;

use super::lane::{Lane, Record};

/// Unsigned LEB128, as in the log.
fn varint(mut value: u64, out: &mut Vec<u8>) {
    loop {
        let low = value.to_le_bytes()[0] & 0x7f;
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

fn columns(lane: &Lane, out: &mut Vec<u8>) {
    let records = lane.records();
    differences(records, |r| r.time, out);
    plain(records, |r| r.span, out);
    plain(records, |r| r.kind.into(), out);
    differences(records, |r| r.position.exit, out);
    plain(records, |r| r.position.branches, out);
    plain(records, |r| r.position.steps, out);
    plain(records, |r| r.count.saturating_sub(1), out);
    plain(records, |r| r.address, out);
    plain(records, |r| r.value, out);
    plain(records, |r| r.text.into(), out);
}

fn plain(records: &[Record], of: impl Fn(&Record) -> u64, out: &mut Vec<u8>) {
    records.iter().for_each(|record| varint(of(record), out));
}

fn differences(records: &[Record], of: impl Fn(&Record) -> u64, out: &mut Vec<u8>) {
    let mut before = 0;
    for record in records {
        let value = of(record);
        varint(value.saturating_sub(before), out);
        before = value;
    }
}

/// All lanes, packed.
///
/// # Errors
/// Never in practice: the bytes go to memory.
pub fn pack<'a>(lanes: impl Iterator<Item = &'a Lane>) -> io::Result<String> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    for lane in lanes {
        let mut bytes = Vec::new();
        columns(lane, &mut bytes);
        encoder.write_all(&bytes)?;
    }
    Ok(base64(&encoder.finish()?))
}

/// RFC 4648, section 4.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let digit = (word >> (18 - 6 * at)) & 0x3f;
            let known = at <= chunk.len();
            out.push(if known { char::from(ALPHABET[digit as usize]) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::super::lane::{Entry, Kind, Measure};
    use super::*;
    use scribe_log::Position;

    #[test]
    fn base64_is_the_rfcs() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn columns_are_in_their_order() {
        let mut lane = Lane::new(Measure::Bytes);
        let kind = |name: &str| Kind { verb: "", name: name.to_owned().into(), write: true };
        let position = Position { exit: 7, branches: 8, steps: 9 };
        lane.push(kind("a"), Entry { time: 300, span: 1, position, address: 2, value: 3, text: "" });
        let position = Position { exit: 9, branches: 0, steps: 0 };
        lane.push(kind("b"), Entry { time: 301, span: 0, position, address: u64::MAX, value: 0, text: "x" });
        let mut out = Vec::new();
        columns(&lane, &mut out);
        let expected = [
            &[0xac, 2, 1][..],                                    // time
            &[1, 0],                                              // span
            &[0, 1],                                              // kind
            &[7, 2],                                              // exit
            &[8, 0],                                              // branches
            &[9, 0],                                              // steps
            &[0, 0],                                              // count
            &[2, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1], // address
            &[3, 0],                                              // value
            &[0, 1],                                              // text
        ];
        assert_eq!(out, expected.concat());
        let packed = pack([&lane, &lane].into_iter()).unwrap();
        assert!(packed.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte)));
        // The page's script does the same with the browser's means.
        let digits = packed.trim_end_matches('=').bytes().map(|byte| match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            _ => 63,
        });
        let bits: Vec<u8> = digits.flat_map(|digit| (0..6).rev().map(move |bit| digit >> bit & 1)).collect();
        let bytes: Vec<u8> =
            bits.chunks_exact(8).map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | bit)).collect();
        let mut unpacked = Vec::new();
        flate2::read::DeflateDecoder::new(&bytes[..]).read_to_end(&mut unpacked).unwrap();
        assert_eq!(unpacked, [&out[..], &out[..]].concat());
    }
}
