//! x87 and SSE to and from the XSAVE area of KVM_GET_XSAVE and KVM_SET_XSAVE.
//!
//! Not KVM_GET_FPU and KVM_SET_FPU: their structure has a field for MXCSR, and KVM neither fills nor reads it. Of the
//! area only the legacy part and the header are used (Intel SDM vol. 1, 13.4.1 and 13.4.2): the guest has no XSAVE, so
//! its XCR0 never holds more than x87 and SSE.

use kvm_bindings::kvm_xsave;

use crate::engine::cpu::Fpu;

const FCW: usize = 0;
const FSW: usize = 2;
const FTW: usize = 4;
const MXCSR: usize = 24;
const ST: usize = 32;
const XMM: usize = 160;
const XSTATE_BV: usize = 512;
const AREA: usize = 4096;

/// XSTATE_BV: the part of the area is meant; without, the component is in its initial state.
const X87: u64 = 1 << 0;
const SSE: u64 = 1 << 1;
/// Bytes of an ST register that exist; the 6 behind them are reserved.
const ST_BYTES: usize = 10;

fn bytes_of(area: &kvm_xsave) -> Vec<u8> {
    area.region.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

/// What KVM_GET_XSAVE has given.
pub(super) fn read(area: &kvm_xsave) -> Fpu {
    let bytes = bytes_of(area);
    let present = u64::from_le_bytes(array(&bytes, XSTATE_BV));
    // KVM writes initial values where a bit is clear; MXCSR belongs to neither component (13.6).
    let mut fpu = Fpu { fcw: 0x37f, mxcsr: u32::from_le_bytes(array(&bytes, MXCSR)), ..Fpu::default() };
    if present & X87 != 0 {
        fpu.fcw = u16::from_le_bytes(array(&bytes, FCW));
        fpu.fsw = u16::from_le_bytes(array(&bytes, FSW));
        [fpu.ftw] = array(&bytes, FTW);
        for (n, st) in fpu.st.iter_mut().enumerate() {
            st[..ST_BYTES].copy_from_slice(&array::<ST_BYTES>(&bytes, ST + 16 * n));
        }
    }
    if present & SSE != 0 {
        for (n, xmm) in fpu.xmm.iter_mut().enumerate() {
            *xmm = array(&bytes, XMM + 16 * n);
        }
    }
    fpu
}

/// What KVM_SET_XSAVE takes: FIP, FDP and FOP are 0, and components that the guest does not have are initial.
pub(super) fn area(fpu: &Fpu) -> kvm_xsave {
    let mut bytes = [0; AREA];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(FCW, &fpu.fcw.to_le_bytes());
    put(FSW, &fpu.fsw.to_le_bytes());
    put(FTW, &[fpu.ftw]);
    put(MXCSR, &fpu.mxcsr.to_le_bytes());
    for (n, st) in fpu.st.iter().enumerate() {
        put(ST + 16 * n, &st[..ST_BYTES]);
    }
    for (n, xmm) in fpu.xmm.iter().enumerate() {
        put(XMM + 16 * n, xmm);
    }
    put(XSTATE_BV, &(X87 | SSE).to_le_bytes());
    let mut area = kvm_xsave::default();
    for (word, four) in area.region.iter_mut().zip(bytes.as_chunks().0) {
        *word = u32::from_le_bytes(*four);
    }
    area
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Fpu {
        let mut fpu = Fpu { fcw: 0x27f, fsw: 0x3900, ftw: 0x81, mxcsr: 0xdf80, ..Fpu::default() };
        for n in 0..8_u8 {
            fpu.st[usize::from(n)][..10].copy_from_slice(&[n + 1; 10]);
        }
        for n in 0..16_u8 {
            fpu.xmm[usize::from(n)] = [0x80 | n; 16];
        }
        fpu
    }

    #[test]
    fn there_and_back() {
        assert_eq!(read(&area(&sample())), sample());
    }

    #[test]
    fn the_area_is_laid_out_as_fxsave_has_it() {
        let bytes = bytes_of(&area(&sample()));
        assert_eq!(bytes[..8], [0x7f, 0x02, 0x00, 0x39, 0x81, 0, 0, 0]);
        assert_eq!(bytes[8..24], [0; 16], "no instruction pointers");
        assert_eq!(bytes[24..28], [0x80, 0xdf, 0, 0]);
        assert_eq!((&bytes[32..42], &bytes[42..48]), (&[1; 10][..], &[0; 6][..]));
        assert_eq!((bytes[160], bytes[160 + 15 * 16]), (0x80, 0x8f));
        assert_eq!(bytes[512..528], [3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!(bytes[416..512].iter().chain(&bytes[528..]).all(|byte| *byte == 0));
    }

    #[test]
    fn a_component_that_is_not_there_is_initial() {
        let mut saved = area(&sample());
        saved.region[XSTATE_BV / 4] = 0;
        assert_eq!(read(&saved), Fpu { fcw: 0x37f, mxcsr: 0xdf80, ..Fpu::default() });
    }
}
