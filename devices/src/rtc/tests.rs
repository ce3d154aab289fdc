//! Known times in every format, setting the clock, and arbitrary accesses.

use proptest::prelude::*;

use super::*;
use crate::testing::conforms;

const SECOND: u64 = 1_000_000_000;
/// Friday, 13 February 2009, 23:31:30 UTC.
const UNIX: u64 = 1_234_567_890;

fn get(rtc: &mut Rtc, index: u8, now: u64) -> u8 {
    rtc.write(0x70, index, now);
    rtc.read(0x71, now)
}

fn set(rtc: &mut Rtc, index: u8, value: u8, now: u64) {
    rtc.write(0x70, index, now);
    rtc.write(0x71, value, now);
}

fn time(rtc: &mut Rtc, now: u64) -> [u8; 8] {
    TIME.map(|index| get(rtc, index, now))
}

#[test]
fn linux_reads_the_time() {
    // `mc146818_get_time`: no update in progress, valid, 24-hour BCD.
    let mut rtc = Rtc::new(UNIX);
    assert_eq!(get(&mut rtc, 0x0a, 0) & 0x80, 0);
    assert_eq!(get(&mut rtc, 0x0d, 0), 0x80);
    assert_eq!(get(&mut rtc, 0x0b, 0), 0x02);
    assert_eq!(time(&mut rtc, 0), [0x30, 0x31, 0x23, 0x06, 0x13, 0x02, 0x09, 0x20]);
    let later = 1710 * SECOND;
    assert_eq!(time(&mut rtc, later - 1), [0x59, 0x59, 0x23, 0x06, 0x13, 0x02, 0x09, 0x20]);
    assert_eq!(time(&mut rtc, later), [0x00, 0x00, 0x00, 0x07, 0x14, 0x02, 0x09, 0x20]);
}

#[test]
fn the_clock_is_set_from_outside() {
    let mut rtc = Rtc::new(UNIX);
    let now = 500 * SECOND + 7;
    rtc.set(951_782_400, now); // 29 February 2000
    assert_eq!(time(&mut rtc, now), [0x00, 0x00, 0x00, 0x03, 0x29, 0x02, 0x00, 0x20]);
    assert_eq!(time(&mut rtc, now + SECOND)[0], 0x01);
    set(&mut rtc, 0x00, 0x30, now);
    rtc.set(0, now);
    assert_eq!(
        time(&mut rtc, now),
        [0x00, 0x00, 0x00, 0x05, 0x01, 0x01, 0x70, 0x19],
        "what the guest set is over"
    );
    rtc.set(u64::MAX, u64::MAX);
    assert_eq!(time(&mut rtc, u64::MAX), [0x59, 0x59, 0x23, 0x06, 0x31, 0x12, 0x99, 0x99]);
}

#[test]
fn every_format() {
    let mut rtc = Rtc::new(UNIX);
    for (format, expected) in [
        (0x06, [30, 31, 23, 6, 13, 2, 9, 20]),
        (0x04, [30, 31, 0x80 | 11, 6, 13, 2, 9, 20]),
        (0x00, [0x30, 0x31, 0x80 | 0x11, 6, 0x13, 2, 9, 0x20]),
    ] {
        set(&mut rtc, 0x0b, format, 0);
        assert_eq!(time(&mut rtc, 0), expected);
    }
    // Midnight is 12 a.m., noon is 12 p.m.
    set(&mut rtc, 0x0b, 0x04, 0);
    assert_eq!(get(&mut rtc, 0x04, 1710 * SECOND), 12);
    assert_eq!(get(&mut rtc, 0x04, (1710 + 43_200) * SECOND), 0x80 | 12);
}

#[test]
fn linux_sets_the_time() {
    // `mc146818_set_time`: SET, the fields, then SET is cleared.
    let mut rtc = Rtc::new(UNIX);
    set(&mut rtc, 0x0b, 0x82, 5 * SECOND);
    assert_eq!(get(&mut rtc, 0x00, 100 * SECOND), 0x35, "the time stands still");
    for (index, value) in [(9, 0x31), (8, 0x12), (7, 0x31), (4, 0x23), (2, 0x59), (0, 0x58)] {
        set(&mut rtc, index, value, 100 * SECOND);
    }
    set(&mut rtc, 0x0b, 0x02, 100 * SECOND);
    assert_eq!(time(&mut rtc, 100 * SECOND), [0x58, 0x59, 0x23, 0x04, 0x31, 0x12, 0x31, 0x20]);
    assert_eq!(time(&mut rtc, 102 * SECOND), [0x00, 0x00, 0x00, 0x05, 0x01, 0x01, 0x32, 0x20]);
}

#[test]
fn a_field_can_be_set_alone() {
    let mut rtc = Rtc::new(UNIX);
    set(&mut rtc, 0x04, 0x07, 0);
    assert_eq!(time(&mut rtc, 0), [0x30, 0x31, 0x07, 0x06, 0x13, 0x02, 0x09, 0x20]);
    set(&mut rtc, 0x32, 0x19, 0);
    assert_eq!(get(&mut rtc, 0x32, 0), 0x19);
    // 12-hour form, p.m.
    set(&mut rtc, 0x0b, 0x00, 0);
    set(&mut rtc, 0x04, 0x80 | 0x12, 0);
    set(&mut rtc, 0x0b, 0x02, 0);
    assert_eq!(get(&mut rtc, 0x04, 0), 0x12);
}

#[test]
fn nonsense_becomes_a_date() {
    let mut rtc = Rtc::new(UNIX);
    set(&mut rtc, 0x0b, 0x82, 0);
    for index in TIME {
        set(&mut rtc, index, 0xff, 0);
    }
    assert_eq!(time(&mut rtc, 0), [0xff; 8]);
    set(&mut rtc, 0x0b, 0x02, 0);
    assert_eq!(time(&mut rtc, 0), [0x59, 0x59, 0x23, 0x06, 0x31, 0x12, 0x99, 0x99]);
    // 31 February is in March.
    set(&mut rtc, 0x0b, 0x82, 0);
    for (index, value) in [(0x32, 0x20), (9, 0x09), (8, 0x02), (7, 0x31)] {
        set(&mut rtc, index, value, 0);
    }
    set(&mut rtc, 0x0b, 0x02, 0);
    assert_eq!((get(&mut rtc, 8, 0), get(&mut rtc, 7, 0)), (0x03, 0x03));
}

#[test]
fn memory_holds_and_status_registers_do_not() {
    let mut rtc = Rtc::new(u64::MAX);
    set(&mut rtc, 0x7f, 0xa5, 0);
    set(&mut rtc, 0x80 | 0x0e, 0x5a, 0);
    assert_eq!((get(&mut rtc, 0xff, 0), get(&mut rtc, 0x0e, 0)), (0xa5, 0x5a));
    set(&mut rtc, 0x0a, 0xff, 0);
    set(&mut rtc, 0x0c, 0xff, 0);
    set(&mut rtc, 0x0d, 0xff, 0);
    assert_eq!((get(&mut rtc, 0x0a, 0), get(&mut rtc, 0x0c, 0), get(&mut rtc, 0x0d, 0)), (0x7f, 0, 0x80));
    assert_eq!((rtc.read(0x70, 0), rtc.read(0x72, 0)), (0xff, 0xff));
    assert_eq!(get(&mut rtc, 0x32, 0), 0x99);
}

#[test]
fn an_impossible_state_is_refused() {
    let mut rtc = Rtc::new(UNIX);
    let good = rtc.save();
    let spoilers: [fn(&mut RtcState); 4] = [
        |state| state.cmos.truncate(64),
        |state| state.index = 0x80,
        |state| state.cmos[0x0a] |= 0x80,
        |state| state.cmos[0x0d] = 1,
    ];
    for spoil in spoilers {
        let mut bad = good.clone();
        spoil(&mut bad);
        assert!(matches!(rtc.restore(bad), Err(RestoreError::Invalid { device: "mc146818", .. })));
        assert_eq!(rtc.save(), good);
    }
}

proptest! {
    #[test]
    fn any_access_is_survived_and_repeats(
        base: u64,
        ops in prop::collection::vec((any::<bool>(), 0x6f..0x73u16, any::<u8>(), any::<u64>()), 1..100),
    ) {
        let (mut rtc, mut twin, mut now) = (Rtc::new(base), Rtc::new(base), 0u64);
        for (write, port, value, step) in ops {
            now = now.saturating_add(step >> 8);
            if write {
                // Half of the indices are clock registers.
                let value = if port == 0x70 && value & 0x80 != 0 { value & 0x0f } else { value };
                rtc.write(port, value, now);
                twin.write(port, value, now);
            } else {
                prop_assert_eq!(rtc.read(port, now), twin.read(port, now));
            }
            let mut restored = Rtc::new(0);
            restored.restore(rtc.save()).unwrap();
            prop_assert_eq!(restored.save(), twin.save());
            twin = restored;
        }
    }

    #[test]
    fn a_time_that_is_set_is_read_back(unix in 0..253_402_300_799u64, format in 0..4u8, now in 0..u64::MAX / 2) {
        let (mut source, mut rtc) = (Rtc::new(unix), Rtc::new(UNIX));
        set(&mut source, 0x0b, format << 1, 0);
        set(&mut rtc, 0x0b, 0x80 | format << 1, now);
        let expected = time(&mut source, 0);
        for (index, value) in TIME.into_iter().zip(expected) {
            set(&mut rtc, index, value, now);
        }
        set(&mut rtc, 0x0b, format << 1, now);
        prop_assert_eq!(time(&mut rtc, now), expected);
    }

    #[test]
    fn conformance(base: u64, now: u64, memory: u8) {
        let mut rtc = Rtc::new(base);
        set(&mut rtc, 0x40, memory, now);
        conforms(&mut rtc, |rtc| {
            set(rtc, 0x40, !memory, now);
            set(rtc, 0x0b, 0x82, now);
        });
    }
}
