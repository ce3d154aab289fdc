//! The payloads of the two kinds of a captured sync point.

use crate::bytes::{Input, Malformed, put_varint};
use crate::event::{Body, Capture, CapturePages, MAX_CAPTURE_PAGES, MAX_CAPTURE_STATE, PageCodec};

use super::{Unfit, limited};

const RAW: u8 = 0;
const ZSTD: u8 = 1;

// Frozen: recordings exist. A new meaning gets a new number.
const _: () = assert!(RAW == 0 && ZSTD == 1);
const _: () = assert!(MAX_CAPTURE_PAGES == 16 && MAX_CAPTURE_STATE == 65_536);

pub(super) fn put_pages(out: &mut Vec<u8>, pages: &CapturePages) -> Result<(), Unfit> {
    if !pages.fits() {
        return Err(Unfit::Invalid("its pages are not 1 to 16, or not as long as they should be"));
    }
    put_varint(out, pages.frames.len() as u64);
    let mut last = None;
    for frame in &pages.frames {
        let delta = match last {
            None => *frame,
            Some(last) if *frame > last => frame - last,
            Some(_) => return Err(Unfit::Invalid("its pages are not in ascending order")),
        };
        put_varint(out, delta);
        last = Some(*frame);
    }
    out.push(match pages.codec {
        PageCodec::Raw => RAW,
        PageCodec::Zstd => ZSTD,
    });
    out.extend_from_slice(&pages.stored);
    Ok(())
}

pub(super) fn pages(input: &mut Input<'_>) -> Result<Body, Malformed> {
    let count = match usize::try_from(input.varint()?) {
        Ok(count @ 1..=MAX_CAPTURE_PAGES) => count,
        _ => return Err(Malformed("it does not have 1 to 16 pages")),
    };
    let mut frames: Vec<u64> = Vec::with_capacity(count);
    for _ in 0..count {
        let delta = input.varint()?;
        let frame = match frames.last() {
            None => Some(delta),
            Some(_) if delta == 0 => None,
            Some(last) => last.checked_add(delta),
        };
        frames.push(frame.ok_or(Malformed("its pages are not in ascending order"))?);
    }
    let codec = match input.u8()? {
        RAW => PageCodec::Raw,
        ZSTD => PageCodec::Zstd,
        _ => return Err(Malformed("its pages are packed in an unknown way: made by a newer scribe-vmm")),
    };
    let pages = CapturePages { frames, codec, stored: input.rest().to_vec() };
    if !pages.fits() {
        return Err(Malformed("its pages have an impossible length"));
    }
    Ok(Body::CapturePages(pages))
}

pub(super) fn put(out: &mut Vec<u8>, capture: &Capture) -> Result<(), Unfit> {
    let Capture { nanoseconds, interrupts, pages, bytes, version, state } = capture;
    put_varint(out, *nanoseconds);
    out.push(*interrupts);
    put_varint(out, *pages);
    put_varint(out, *bytes);
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(limited(state, MAX_CAPTURE_STATE)?);
    Ok(())
}

pub(super) fn capture(input: &mut Input<'_>) -> Result<Body, Malformed> {
    let nanoseconds = input.varint()?;
    let interrupts = input.u8()?;
    let (pages, bytes) = (input.varint()?, input.varint()?);
    let version = u16::from_le_bytes(input.array()?);
    if input.len() > MAX_CAPTURE_STATE {
        return Err(Malformed("its state is longer than 64 KiB"));
    }
    let state = input.rest().to_vec();
    Ok(Body::Capture(Capture { nanoseconds, interrupts, pages, bytes, version, state }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{CAPTURE, CAPTURE_PAGES, decode, encode};

    #[test]
    fn pages_that_cannot_be_are_refused() {
        let page = |frames: Vec<u64>, codec, length| {
            Body::CapturePages(CapturePages { frames, codec, stored: vec![1; length] })
        };
        for bad in [
            page(vec![], PageCodec::Raw, 0),
            page((0..17).collect(), PageCodec::Zstd, 9),
            page(vec![5, 5], PageCodec::Zstd, 9),
            page(vec![6, 5], PageCodec::Zstd, 9),
            page(vec![5], PageCodec::Raw, 4095),
            page(vec![5], PageCodec::Zstd, 4096),
            page(vec![5], PageCodec::Zstd, 0),
        ] {
            assert!(encode(&bad).is_err(), "{bad:?}");
        }
        let good = page(vec![5, 9, u64::MAX], PageCodec::Zstd, 3);
        let bytes = encode(&good).unwrap();
        assert_eq!(decode(CAPTURE_PAGES, &bytes), Ok(Some(good)));
        let head = [1, 5, ZSTD, 7];
        assert!(decode(CAPTURE_PAGES, &head).is_ok());
        for bad in [
            &[][..],
            &[0, ZSTD, 7],                                                             // no page
            &[17],                                                                     // too many
            &[2, 5, 0, ZSTD, 7],                                                       // twice the same
            &[1, 5, 2, 7],                                                             // another codec
            &[1, 5, ZSTD],                                                             // nothing stored
            &[1, 5, RAW, 7],                                                           // not a page
            &[2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1, ZSTD, 7], // above the last frame
        ] {
            assert!(decode(CAPTURE_PAGES, bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_state_is_not_longer_than_it_may_be() {
        let capture = |length| {
            let state = vec![0; length];
            let (nanoseconds, interrupts, pages, bytes) = (5, 1, 2, 300);
            Body::Capture(Capture { nanoseconds, interrupts, pages, bytes, version: 0x0102, state })
        };
        let bytes = encode(&capture(2)).unwrap();
        assert_eq!(bytes, [5, 1, 2, 0xac, 0x02, 2, 1, 0, 0]);
        assert_eq!(decode(CAPTURE, &bytes), Ok(Some(capture(2))));
        for length in 0..7 {
            assert!(decode(CAPTURE, &bytes[..length]).is_err(), "{length}");
        }
        assert!(encode(&capture(MAX_CAPTURE_STATE)).is_ok());
        assert!(encode(&capture(MAX_CAPTURE_STATE + 1)).is_err());
    }
}
