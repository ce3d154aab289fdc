//! The programs Linux uses, the mode diagrams of the data sheet, and arbitrary programs.

use proptest::prelude::*;

use super::*;
use crate::testing::conforms;

/// Guest time of the first nanosecond in which `tick` is complete.
fn at(tick: u64) -> u64 {
    tick_end(tick).unwrap()
}

/// Programs a counter with a control word and a 16-bit count, low byte first.
fn program(pit: &mut Pit, control: u8, count: u16, now: u64) {
    let [low, high] = count.to_le_bytes();
    let port = 0x40 + u16::from(control >> 6);
    pit.write(0x43, control, now);
    pit.write(port, low, now);
    pit.write(port, high, now);
}

fn read_word(pit: &mut Pit, port: u16, now: u64) -> u16 {
    u16::from_le_bytes([pit.read(port, now), pit.read(port, now)])
}

#[test]
fn conversions_round_away_from_early_edges() {
    assert_eq!((at(0), at(1), at(2)), (0, 839, 1677));
    assert_eq!(at(FREQUENCY_HZ), 1_000_000_000);
    assert_eq!((ticks(838), ticks(839), ticks(999_999_999)), (0, 1, FREQUENCY_HZ - 1));
    assert_eq!(tick_end(ticks(u64::MAX) + 1), None);
}

#[test]
fn linux_periodic_tick() {
    // `pit_set_periodic` at HZ=250: mode 2, the count is PIT_LATCH = 4773.
    let mut pit = Pit::new();
    assert_eq!(pit.next_deadline(), None);
    program(&mut pit, 0x34, 4773, at(1000));
    for period in 1..=5 {
        let edge = 1001 + 4773 * period;
        assert_eq!(pit.next_deadline(), Some(at(edge)));
        assert!(!pit.advance(at(edge) - 1));
        assert!(pit.advance(at(edge)));
        assert!(!pit.advance(at(edge)));
    }
    // Missed periods are one edge, and the next one keeps the rhythm.
    assert!(pit.advance(at(1001 + 4773 * 9 + 12)));
    assert_eq!(pit.next_deadline(), Some(at(1001 + 4773 * 10)));
}

#[test]
fn linux_one_shot() {
    // `pit_set_oneshot` sets mode 4, `pit_next_event` writes the count: the strobe ends one tick after it.
    let mut pit = Pit::new();
    pit.write(0x43, 0x38, at(500));
    assert_eq!(pit.next_deadline(), None);
    for (now, delta) in [(500, 100), (1000, 1), (2000, 0x7fff)] {
        let [low, high] = u16::to_le_bytes(delta);
        pit.write(0x40, low, at(now));
        assert!(!pit.advance(at(now)));
        pit.write(0x40, high, at(now));
        let edge = now + 1 + u64::from(delta) + 1;
        assert_eq!(pit.next_deadline(), Some(at(edge)));
        assert!(!pit.advance(at(edge) - 1));
        assert!(pit.advance(at(edge)));
        assert_eq!(pit.next_deadline(), None);
    }
    // `pit_shutdown`: mode 0 without a count never fires.
    program(&mut pit, 0x38, 100, at(100_000));
    pit.write(0x43, 0x30, at(100_001));
    assert_eq!(pit.next_deadline(), None);
    assert!(!pit.advance(at(1_000_000)));
}

#[test]
fn mode_0_rises_once_at_the_end_of_the_count() {
    let mut pit = Pit::new();
    program(&mut pit, 0x30, 4, 0);
    assert_eq!(pit.next_deadline(), Some(at(5)));
    assert!(pit.advance(at(5)));
    assert_eq!(pit.next_deadline(), None);
    assert!(!pit.advance(at(70_000)));
    // The first byte of a new count stops the counter.
    program(&mut pit, 0x30, 1000, at(80_000));
    pit.write(0x40, 10, at(80_100));
    assert_eq!(pit.next_deadline(), None);
    pit.write(0x40, 0, at(80_200));
    assert_eq!(pit.next_deadline(), Some(at(80_211)));
}

#[test]
fn modes_1_and_5_wait_for_a_gate_that_counter_0_has_not() {
    for control in [0x32, 0x3a] {
        let mut pit = Pit::new();
        program(&mut pit, control, 10, 0);
        assert_eq!(pit.next_deadline(), None);
    }
}

#[test]
fn a_count_of_0_is_the_longest() {
    let mut pit = Pit::new();
    program(&mut pit, 0x34, 0, 0);
    assert_eq!(pit.next_deadline(), Some(at(65_537)));
    program(&mut pit, 0x35, 0, at(10));
    assert_eq!(pit.next_deadline(), Some(at(10_011)));
}

#[test]
fn a_new_count_takes_over_at_the_end_of_the_period() {
    let mut pit = Pit::new();
    program(&mut pit, 0x34, 100, 0);
    pit.write(0x40, 50, at(30));
    pit.write(0x40, 0, at(30));
    assert_eq!(pit.next_deadline(), Some(at(101)));
    assert!(pit.advance(at(101)));
    assert_eq!(pit.next_deadline(), Some(at(151)));
}

#[test]
fn an_edge_due_before_a_new_program_is_still_reported() {
    let mut pit = Pit::new();
    program(&mut pit, 0x30, 10, 0);
    pit.write(0x43, 0x34, at(20));
    assert_eq!(pit.next_deadline(), Some(at(11)));
    assert!(pit.advance(at(20)));
    assert_eq!(pit.next_deadline(), None);
}

#[test]
fn latching_holds_the_count() {
    let mut pit = Pit::new();
    program(&mut pit, 0x34, 1000, 0);
    pit.write(0x43, 0x00, at(101));
    pit.write(0x43, 0x00, at(300));
    assert_eq!(read_word(&mut pit, 0x40, at(400)), 900);
    assert_eq!(read_word(&mut pit, 0x40, at(401)), 600);
    // Without a latch, each byte is of its own moment.
    assert_eq!(pit.read(0x40, at(401)), 600u16.to_le_bytes()[0]);
    assert_eq!(pit.read(0x40, at(101)), 900u16.to_le_bytes()[1]);
}

#[test]
fn read_back_latches_status_and_count() {
    let mut pit = Pit::new();
    program(&mut pit, 0x34, 1000, 0);
    pit.write(0x43, 0xc2, at(101));
    // OUT high, count loaded, both bytes, mode 2.
    assert_eq!(pit.read(0x40, at(500)), 0xb4);
    assert_eq!(read_word(&mut pit, 0x40, at(500)), 900);
    // Status only, of counters 0 and 2; counter 2 has no count yet: null count, OUT of mode 0 low.
    pit.write(0x43, 0xea, at(1000));
    assert_eq!(pit.read(0x40, at(1000)), 0x34, "OUT is low in the last tick of the period");
    assert_eq!(pit.read(0x42, at(1000)), 0x70);
}

#[test]
fn one_byte_accesses() {
    let mut pit = Pit::new();
    pit.write(0x43, 0x14, 0);
    pit.write(0x40, 200, 0);
    assert_eq!(pit.next_deadline(), Some(at(201)));
    assert_eq!((pit.read(0x40, at(1)), pit.read(0x40, at(11))), (200, 190));
    pit.write(0x43, 0x24, 0);
    pit.write(0x40, 2, 0);
    assert_eq!(pit.next_deadline(), Some(at(513)));
    assert_eq!((pit.read(0x40, at(1)), pit.read(0x40, at(2))), (2, 1));
}

#[test]
fn counting_in_decimal() {
    let mut pit = Pit::new();
    program(&mut pit, 0x35, 0x1000, 0);
    assert_eq!(pit.next_deadline(), Some(at(1001)));
    assert_eq!(read_word(&mut pit, 0x40, at(2)), 0x0999);
}

#[test]
fn mode_3_is_a_square_wave() {
    let mut pit = Pit::new();
    pit.port61_write(0x03, 0);
    program(&mut pit, 0xb6, 5, 0);
    let out: Vec<bool> = (1..11).map(|tick| pit.port61_read(at(tick)) & 0x20 != 0).collect();
    assert_eq!(out, [true, true, true, false, false, true, true, true, false, false]);
}

#[test]
fn linux_calibrates_with_counter_2() {
    // `pit_calibrate_tsc`: gate on, speaker off, mode 0, then wait for OUT2.
    let mut pit = Pit::new();
    let port61 = pit.port61_read(0);
    pit.port61_write(port61 & !0x02 | 0x01, 0);
    program(&mut pit, 0xb0, 11_931, 0);
    assert_eq!(pit.port61_read(at(11_931)) & 0x21, 0x01);
    assert_eq!(pit.port61_read(at(11_932)) & 0x21, 0x21);
    assert_eq!(pit.next_deadline(), None, "counter 2 raises no interrupt");
}

#[test]
fn the_gate_of_counter_2() {
    let mut pit = Pit::new();
    let out = |pit: &Pit, tick| pit.port61_read(at(tick)) & 0x20 != 0;
    // Mode 0 waits while the gate is low.
    program(&mut pit, 0xb0, 10, 0);
    assert!(!out(&pit, 1000));
    pit.port61_write(1, at(1000));
    pit.port61_write(0, at(1004));
    assert!(!out(&pit, 2000));
    pit.port61_write(1, at(2000));
    assert!(!out(&pit, 2005));
    assert!(out(&pit, 2006));
    // Mode 1 is triggered by a rising gate, again and again.
    program(&mut pit, 0xb2, 10, at(3000));
    assert!(out(&pit, 3100));
    pit.port61_write(0, at(3100));
    pit.port61_write(1, at(3101));
    assert!(!out(&pit, 3111));
    assert!(out(&pit, 3112));
    // Mode 3 stops high and starts anew.
    program(&mut pit, 0xb6, 10, at(4000));
    assert!(!out(&pit, 4006));
    pit.port61_write(0, at(4006));
    assert!(out(&pit, 4006));
    pit.port61_write(1, at(4100));
    assert!(out(&pit, 4105));
    assert!(!out(&pit, 4106));
}

#[test]
fn the_refresh_toggle_follows_time() {
    let pit = Pit::new();
    let toggles = (0..18 * 8).map(|tick| pit.port61_read(at(tick)) >> 4 & 1).collect::<Vec<_>>();
    assert_eq!(toggles.windows(2).filter(|pair| pair[0] != pair[1]).count(), 7);
}

#[test]
fn other_ports_are_not_the_timers() {
    let mut pit = Pit::new();
    let before = pit.save();
    assert_eq!((pit.read(0x43, 0), pit.read(0x44, 0)), (0, 0xff));
    pit.write(0x44, 0x34, 0);
    assert_eq!(pit.save(), before);
}

#[test]
fn an_impossible_state_is_refused() {
    let mut pit = Pit::new();
    program(&mut pit, 0x34, 1000, 0);
    let good = pit.save();
    let spoilers: [fn(&mut PitState); 8] = [
        |state| state.channels[0].mode = 6,
        |state| state.channels[1].reload = Some(0),
        |state| state.channels[0].counting = Counting::Running { start: u64::MAX, count: 1000 },
        |state| state.channels[2].next = Some(NextCount { count: 5, at: 7 }),
        |state| state.channels[2].gate = true,
        |state| state.channels[0].gate = false,
        |state| state.next_rise = None,
        |state| state.next_rise = Some(7),
    ];
    for spoil in spoilers {
        let mut bad = good.clone();
        spoil(&mut bad);
        assert!(matches!(pit.restore(bad), Err(RestoreError::Invalid { device: "i8254", .. })));
        assert_eq!(pit.save(), good);
    }
}

#[derive(Clone, Debug)]
enum Op {
    Read(u16),
    Write(u16, u8),
    Port61(u8),
    Advance,
    Deadline,
}

fn op() -> impl Strategy<Value = (Op, u64)> {
    let byte = prop_oneof![any::<u8>(), 0..8u8];
    // Control words for counter 0, which is the one with edges.
    let control = prop_oneof![any::<u8>(), 0x10..0x40u8];
    let op = prop_oneof![
        (0x40..0x45u16).prop_map(Op::Read),
        (0x40..0x43u16, byte).prop_map(|(port, value)| Op::Write(port, value)),
        control.prop_map(|value| Op::Write(0x43, value)),
        any::<u8>().prop_map(Op::Port61),
        Just(Op::Advance),
        Just(Op::Deadline),
    ];
    let step =
        prop_oneof![Just(0u64), 0..5_000u64, 0..100_000_000u64, any::<u64>().prop_map(|step| step >> 8)];
    (op, step)
}

fn apply(pit: &mut Pit, op: &Op, now: u64) -> u8 {
    match *op {
        Op::Read(port) => return pit.read(port, now),
        Op::Write(port, value) => pit.write(port, value, now),
        Op::Port61(value) => {
            pit.port61_write(value, now);
            return pit.port61_read(now);
        }
        Op::Advance => return u8::from(pit.advance(now)),
        Op::Deadline => {
            return pit.next_deadline().map_or(0, |deadline| u8::from(pit.advance(deadline)) + 1);
        }
    }
    0
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_program_is_survived_repeats_and_keeps_its_deadlines(ops in prop::collection::vec(op(), 1..120)) {
        let (mut pit, mut twin, mut now) = (Pit::new(), Pit::new(), 0u64);
        for (op, step) in &ops {
            now = now.saturating_add(*step);
            if let (Op::Deadline, Some(deadline)) = (op, pit.next_deadline()) {
                prop_assert!(deadline == 0 || pit.state.owed.is_some() || !pit.clone().advance(deadline - 1));
                now = now.max(deadline);
            }
            let result = apply(&mut pit, op, now);
            prop_assert_eq!(apply(&mut twin, op, now), result);
            if let Op::Deadline = op {
                prop_assert_ne!(result, 1, "no edge at the deadline");
            }
            let mut restored = Pit::new();
            restored.restore(pit.save()).unwrap();
            prop_assert_eq!(restored.save(), twin.save());
            twin = restored;
        }
    }

    #[test]
    fn edges_are_where_out_rises(mode in 0..6u8, counts in prop::collection::vec((2..40u32, 0..60u64), 1..6)) {
        let mut channel = ChannelState::new(true);
        channel.program(mode, Access::Low, false);
        let mut t = 0;
        for (count, after) in counts {
            channel.write(count.to_le_bytes()[0], t);
            for _ in 0..after {
                let scheduled = channel.next_rise(t) == Some(t + 1);
                let low = !channel.out(t);
                channel.settle(t + 1);
                prop_assert_eq!(scheduled, low && channel.out(t + 1), "mode {} at tick {}", mode, t + 1);
                t += 1;
            }
        }
    }

    #[test]
    fn the_time_between_deadlines_is_irrelevant(count in 2..2000u16, steps in prop::collection::vec(1..3_000_000u64, 1..50)) {
        let mut pit = Pit::new();
        program(&mut pit, 0x34, count, 0);
        let mut often = pit.clone();
        let (mut now, mut rose, mut rose_often) = (0, false, false);
        for step in steps {
            now += step;
            rose_often |= often.advance(now);
        }
        rose |= pit.advance(now);
        prop_assert_eq!(rose, rose_often);
        prop_assert_eq!(pit.save(), often.save());
    }

    #[test]
    fn conformance(ops in prop::collection::vec(op(), 0..50)) {
        let (mut pit, mut now) = (Pit::new(), 0u64);
        for (op, step) in &ops {
            now = now.saturating_add(*step);
            apply(&mut pit, op, now);
        }
        let refresh = pit.save().channels[1].bcd;
        conforms(&mut pit, |pit| pit.write(0x43, 0x54 | u8::from(!refresh), now));
    }
}
