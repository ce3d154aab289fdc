//! The payloads of inputs to virtio devices: u8 number of the slot, then what came.

use crate::bytes::{Input, Malformed, put_varint};
use crate::event::{Body, DeviceInput, MAX_DATA, MAX_ENTROPY, MAX_FRAME, MIN_FRAME};

use super::Unfit;

pub(super) const NET_FRAME: u8 = 0x90;
pub(super) const NET_LINK: u8 = 0x91;
pub(super) const ENTROPY: u8 = 0x92;
pub(super) const TYPED: u8 = 0x93;
pub(super) const RESIZE: u8 = 0x94;
pub(super) const DISK_FAILED: u8 = 0x95;

/// Numbers of operations of a disk: one less than this.
const OPERATIONS: u8 = 4;

// Frozen once recordings exist. A new meaning gets a new number.
const _: () = assert!(NET_FRAME == 0x90 && NET_LINK == 0x91 && ENTROPY == 0x92);
const _: () = assert!(TYPED == 0x93 && RESIZE == 0x94 && DISK_FAILED == 0x95);
const _: () = assert!(MIN_FRAME == 14 && MAX_FRAME == 1518 && MAX_ENTROPY == 256 && OPERATIONS == 4);

pub(super) fn kind(input: &DeviceInput) -> u8 {
    match input {
        DeviceInput::Frame(_) => NET_FRAME,
        DeviceInput::Link { .. } => NET_LINK,
        DeviceInput::Entropy(_) => ENTROPY,
        DeviceInput::Typed(_) => TYPED,
        DeviceInput::Resize { .. } => RESIZE,
        DeviceInput::DiskFailed { .. } => DISK_FAILED,
    }
}

/// Least and most bytes of data, and what is wrong with others.
fn bounds(input: &DeviceInput) -> (usize, usize, &'static str) {
    match input {
        DeviceInput::Frame(_) => (MIN_FRAME, MAX_FRAME, "a frame is 14 to 1518 bytes"),
        DeviceInput::Entropy(_) => (1, MAX_ENTROPY, "entropy comes in 1 to 256 bytes"),
        _ => (0, MAX_DATA, "its data is longer than 64 KiB"),
    }
}

pub(super) fn put(out: &mut Vec<u8>, slot: u8, input: &DeviceInput) -> Result<(), Unfit> {
    let (least, most, wrong) = bounds(input);
    out.push(slot);
    match input {
        DeviceInput::Frame(bytes) | DeviceInput::Entropy(bytes) | DeviceInput::Typed(bytes) => {
            if bytes.len() > most {
                return Err(Unfit::TooLong { length: bytes.len(), limit: most });
            }
            if bytes.len() < least {
                return Err(Unfit::Invalid(wrong));
            }
            out.extend_from_slice(bytes);
        }
        DeviceInput::Link { up } => out.push(u8::from(*up)),
        DeviceInput::Resize { cols, rows } => {
            out.extend_from_slice(&cols.to_le_bytes());
            out.extend_from_slice(&rows.to_le_bytes());
        }
        DeviceInput::DiskFailed { operation, number, sector } => {
            if *operation >= OPERATIONS {
                return Err(Unfit::Invalid("a disk has no such operation"));
            }
            out.push(*operation);
            put_varint(out, *number);
            put_varint(out, *sector);
        }
    }
    Ok(())
}

/// The body of one of these kinds; `None` for any other kind. What follows it is for the caller to refuse.
pub(super) fn take(kind: u8, input: &mut Input<'_>) -> Result<Option<Body>, Malformed> {
    if !(NET_FRAME..=DISK_FAILED).contains(&kind) {
        return Ok(None);
    }
    let slot = input.u8()?;
    let what = match kind {
        NET_FRAME => DeviceInput::Frame(input.rest().to_vec()),
        ENTROPY => DeviceInput::Entropy(input.rest().to_vec()),
        TYPED => DeviceInput::Typed(input.rest().to_vec()),
        NET_LINK => match input.u8()? {
            0 => DeviceInput::Link { up: false },
            1 => DeviceInput::Link { up: true },
            _ => return Err(Malformed("a link is up or down")),
        },
        RESIZE => DeviceInput::Resize {
            cols: u16::from_le_bytes(input.array()?),
            rows: u16::from_le_bytes(input.array()?),
        },
        _ => {
            let operation = input.u8()?;
            if operation >= OPERATIONS {
                return Err(Malformed("a disk has no such operation: made by a newer scribe-vmm"));
            }
            DeviceInput::DiskFailed { operation, number: input.varint()?, sector: input.varint()? }
        }
    };
    let (least, most, wrong) = bounds(&what);
    let has_data = matches!(kind, NET_FRAME | ENTROPY | TYPED);
    if has_data && !(least..=most).contains(&what.len()) {
        return Err(Malformed(wrong));
    }
    Ok(Some(Body::Device { slot, input: what }))
}

#[cfg(test)]
mod tests {
    use super::super::{decode, encode};
    use super::*;

    #[test]
    fn payloads_byte_by_byte() {
        let frame = vec![7; 14];
        let cases = [
            (0x90, DeviceInput::Frame(frame.clone()), [&[3][..], &frame].concat()),
            (0x91, DeviceInput::Link { up: true }, vec![3, 1]),
            (0x92, DeviceInput::Entropy(vec![1, 2]), vec![3, 1, 2]),
            (0x93, DeviceInput::Typed(vec![]), vec![3]),
            (0x94, DeviceInput::Resize { cols: 80, rows: 0x1234 }, vec![3, 80, 0, 0x34, 0x12]),
            (0x95, DeviceInput::DiskFailed { operation: 1, number: 300, sector: 5 }, vec![3, 1, 0xac, 2, 5]),
        ];
        for (number, input, payload) in cases {
            assert_eq!(kind(&input), number);
            let body = Body::Device { slot: 3, input };
            assert_eq!(encode(&body), Ok(payload.clone()));
            assert_eq!(decode(number, &payload), Ok(Some(body)));
        }
    }

    #[test]
    fn what_the_format_cannot_say_is_refused() {
        for input in [
            DeviceInput::Frame(vec![0; 13]),
            DeviceInput::Frame(vec![0; 1519]),
            DeviceInput::Entropy(vec![]),
            DeviceInput::Entropy(vec![0; 257]),
            DeviceInput::Typed(vec![0; 65_537]),
            DeviceInput::DiskFailed { operation: 4, number: 0, sector: 0 },
        ] {
            assert!(encode(&Body::Device { slot: 0, input: input.clone() }).is_err(), "{input:?}");
        }
        let cases: [(u8, &[u8]); 11] = [
            (0x90, &[0; 14]),
            (0x90, &[0; 1520]),
            (0x91, &[0, 2]),
            (0x91, &[0]),
            (0x91, &[0, 1, 0]),
            (0x92, &[0]),
            (0x92, &[0; 258]),
            (0x94, &[0, 1, 2, 3]),
            (0x94, &[0, 1, 2, 3, 4, 5]),
            (0x95, &[0, 4, 0, 0]),
            (0x95, &[]),
        ];
        for (kind, payload) in cases {
            assert!(decode(kind, payload).is_err(), "{kind:#x} {payload:?}");
        }
    }
}
