//! One-shot, periodic, TSC-deadline; changes on the way.

use super::*;

const ONE_SHOT: u32 = 0x30;
const PERIODIC: u32 = 0x2_0030;
const DEADLINE: u32 = 0x4_0030;

fn with_timer(entry: u32) -> Lapic {
    let mut lapic = enabled(0);
    put(&mut lapic, 0x320, entry);
    put(&mut lapic, 0x3e0, 0xb); // divide by 1
    lapic
}

fn fired(lapic: &mut Lapic) -> bool {
    if lapic.pending().is_none() {
        return false;
    }
    assert_eq!(lapic.acknowledge(), 0x30);
    lapic.write(0xb0, 4, 0, 0);
    true
}

fn arm(lapic: &mut Lapic, tsc: u64, now: u64) {
    lapic.write_msr(TSC_DEADLINE, tsc, now, TSC).unwrap();
}

#[test]
fn one_shot_counts_down_once() {
    let mut lapic = with_timer(ONE_SHOT);
    assert_eq!(lapic.next_wake(), None);
    lapic.write(0x380, 4, 1000, 500);
    assert_eq!(lapic.next_wake(), Some(1500));
    assert_eq!(lapic.read(0x390, 4, 500), Some(1000));
    assert_eq!(lapic.read(0x390, 4, 1499), Some(1));
    lapic.advance(1499);
    assert!(!fired(&mut lapic));
    lapic.advance(1500);
    assert!(fired(&mut lapic));
    assert_eq!((lapic.read(0x390, 4, 2000), lapic.read(0x380, 4, 2000)), (Some(0), Some(1000)));
    lapic.advance(1_000_000);
    assert!(!fired(&mut lapic));
    assert_eq!(lapic.next_wake(), None);
    lapic.write(0x380, 4, 10, 2_000_000);
    lapic.write(0x380, 4, 0, 2_000_005);
    lapic.advance(3_000_000);
    assert!(!fired(&mut lapic), "0 stops it");
}

#[test]
fn every_divisor() {
    for (value, divisor) in [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)] {
        let mut lapic = with_timer(ONE_SHOT);
        put(&mut lapic, 0x3e0, value);
        lapic.write(0x380, 4, 100, 0);
        assert_eq!(lapic.next_wake(), Some(100 * divisor), "{value}");
        assert_eq!(lapic.read(0x390, 4, 10 * divisor - 1), Some(91));
        assert_eq!(lapic.read(0x390, 4, 10 * divisor), Some(90));
    }
}

#[test]
fn periodic_keeps_its_rhythm() {
    let mut lapic = with_timer(PERIODIC);
    lapic.write(0x380, 4, 1000, 0);
    for period in 1..5 {
        assert_eq!(lapic.next_wake(), Some(period * 1000));
        lapic.advance(period * 1000 + 3);
        assert!(fired(&mut lapic));
        assert!(!fired(&mut lapic));
    }
    assert_eq!(lapic.read(0x390, 4, 4003), Some(997));
    lapic.advance(9_500);
    assert!(fired(&mut lapic));
    assert!(!fired(&mut lapic), "missed periods are one");
    assert_eq!(lapic.next_wake(), Some(10_000));
    // A period that nobody takes does not wake anybody twice.
    lapic.advance(10_000);
    assert_eq!(lapic.next_wake(), None);
    assert!(fired(&mut lapic));
    assert_eq!(lapic.next_wake(), Some(11_000));
    put(&mut lapic, 0x80, 0xff);
    lapic.advance(11_000);
    assert_eq!((lapic.pending(), lapic.next_wake()), (None, None));
}

#[test]
fn a_masked_timer_counts_and_does_not_interrupt() {
    let mut lapic = with_timer(PERIODIC | 1 << 16);
    lapic.write(0x380, 4, 1000, 0);
    assert_eq!(lapic.next_wake(), None);
    assert_eq!(lapic.read(0x390, 4, 1500), Some(500));
    assert!(!fired(&mut lapic));
    lapic.write(0x320, 4, PERIODIC.into(), 1600);
    assert_eq!(lapic.next_wake(), Some(2000));
}

#[test]
fn what_is_due_is_not_lost_by_reprogramming() {
    let mut lapic = with_timer(ONE_SHOT);
    lapic.write(0x380, 4, 1000, 0);
    lapic.write(0x380, 4, 5000, 1000);
    assert!(fired(&mut lapic));
    assert_eq!(lapic.next_wake(), Some(6000));
}

#[test]
fn mode_and_divisor_can_change_on_the_way() {
    let mut lapic = with_timer(ONE_SHOT);
    lapic.write(0x380, 4, 1000, 0);
    lapic.write(0x320, 4, PERIODIC.into(), 100);
    lapic.write(0x3e0, 4, 0, 400);
    assert_eq!(lapic.next_wake(), Some(400 + 600 * 2));
    lapic.advance(1600);
    assert!(fired(&mut lapic));
    assert_eq!(lapic.next_wake(), Some(1600 + 1000 * 2));
    lapic.write(0x320, 4, DEADLINE.into(), 1700);
    assert_eq!((lapic.next_wake(), lapic.read(0x390, 4, 1700)), (None, Some(0)));
    lapic.write(0x380, 4, 1000, 1700);
    assert_eq!((lapic.next_wake(), lapic.read(0x380, 4, 1700)), (None, Some(0)), "ignored in this mode");
    arm(&mut lapic, 9000, 1700);
    lapic.write(0x320, 4, ONE_SHOT.into(), 1800);
    assert_eq!((lapic.next_wake(), lapic.read_msr(TSC_DEADLINE, 1800)), (None, Ok(0)), "disarmed");
    lapic.write(0x320, 4, 0x6_0030, 1800);
    lapic.write(0x380, 4, 5, 1800);
    assert_eq!(lapic.next_wake(), None, "a reserved mode does not count");
}

#[test]
fn deadlines_are_of_the_tsc() {
    let mut lapic = with_timer(DEADLINE);
    arm(&mut lapic, 5000, 1000);
    assert_eq!((lapic.next_wake(), lapic.read_msr(TSC_DEADLINE, 1000)), (Some(5000), Ok(5000)));
    lapic.advance(4999);
    assert!(!fired(&mut lapic));
    lapic.advance(5000);
    assert!(fired(&mut lapic));
    assert_eq!((lapic.next_wake(), lapic.read_msr(TSC_DEADLINE, 5000)), (None, Ok(0)));
    arm(&mut lapic, 4000, 5001);
    assert!(fired(&mut lapic), "past: at once");
    arm(&mut lapic, 9000, 5001);
    arm(&mut lapic, 0, 5002);
    assert_eq!(lapic.next_wake(), None);
    // 3 GHz, 100 ahead of guest time.
    let tsc = Tsc { khz: 3_000_000, offset: 100 };
    lapic.write_msr(TSC_DEADLINE, 100 + 3 * 7000 + 1, 5002, tsc).unwrap();
    assert_eq!(lapic.next_wake(), Some(7001));
    lapic.set_tsc(6000, Tsc { khz: 3_000_000, offset: 100 + 3 * 500 });
    assert_eq!(lapic.next_wake(), Some(6501));
    lapic.set_tsc(6000, Tsc { khz: 3_000_000, offset: 100 + 3 * 2000 });
    assert!(fired(&mut lapic), "the TSC was set beyond the deadline");
    // The TSC wraps.
    let tsc = Tsc { khz: 1_000_000, offset: u64::MAX - 6999 };
    lapic.write_msr(TSC_DEADLINE, 50, 7000, tsc).unwrap();
    assert_eq!(lapic.next_wake(), Some(7050));
    lapic.write_msr(TSC_DEADLINE, u64::MAX, 7000, TSC).unwrap();
    assert_eq!(lapic.next_wake(), Some(u64::MAX));
}

#[test]
fn a_timer_with_an_illegal_vector_reports_it_and_rests() {
    let mut lapic = with_timer(PERIODIC & !0xff | 3);
    lapic.write(0x380, 4, 10, 0);
    assert_eq!(lapic.next_wake(), Some(10));
    lapic.advance(10);
    assert_eq!(lapic.next_wake(), None);
    put(&mut lapic, 0x280, 0);
    assert_eq!(lapic.state.esr, 0x40);
}

#[test]
fn without_tsc_deadline_there_is_none() {
    let mut lapic = Lapic::new(LapicConfig { tsc_deadline: false, ..config(0) });
    put(&mut lapic, 0xf0, 0x1ff);
    put(&mut lapic, 0x320, DEADLINE);
    assert_eq!(get(&mut lapic, 0x320), u64::from(ONE_SHOT));
    assert_eq!(lapic.read_msr(TSC_DEADLINE, 0), Err(GeneralProtection));
    assert_eq!(lapic.write_msr(TSC_DEADLINE, 0, 0, TSC), Err(GeneralProtection));
}

#[test]
fn the_end_of_guest_time_is_no_overflow() {
    let mut lapic = with_timer(PERIODIC);
    put(&mut lapic, 0x3e0, 10);
    lapic.write(0x380, 4, u32::MAX.into(), u64::MAX - 5);
    assert_eq!(lapic.next_wake(), None);
    lapic.advance(u64::MAX);
    assert_eq!(lapic.read(0x390, 4, u64::MAX), Some(u32::MAX.into()));
}
