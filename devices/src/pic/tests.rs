//! The sequences Linux uses, the modes of the data sheet, and arbitrary accesses.

use proptest::prelude::*;

use super::*;
use crate::testing::conforms;

/// Vector that Linux gives IRQ 0.
const VECTORS: u8 = 0x30;

/// Linux's `init_8259A`, then everything unmasked.
fn initialised(icw4: u8) -> PicPair {
    let mut pic = PicPair::new();
    pic.write(0x21, 0xff);
    for (command, data, base, wiring) in [(0x20, 0x21, VECTORS, 0x04), (0xa0, 0xa1, VECTORS + 8, 0x02)] {
        pic.write(command, 0x11);
        pic.write(data, base);
        pic.write(data, wiring);
        pic.write(data, icw4);
        pic.write(data, 0);
    }
    pic
}

/// Takes the interrupt that is pending, checking that it is `irq`.
fn take(pic: &mut PicPair, irq: u8) {
    assert!(pic.pending());
    assert_eq!(pic.highest(), Some(irq));
    assert_eq!(pic.acknowledge(), VECTORS + irq);
}

/// Linux's `mask_and_ack_8259A`, with the mask register as it should be left.
fn mask_and_ack(pic: &mut PicPair, irq: u8) {
    let (data, bit) = if irq < 8 { (0x21, 1 << irq) } else { (0xa1, 1 << (irq - 8)) };
    let mask = pic.read(data) | bit;
    pic.write(data, mask);
    if irq >= 8 {
        pic.write(0xa0, 0x60 + (irq & 7));
        pic.write(0x20, 0x62);
    } else {
        pic.write(0x20, 0x60 + irq);
    }
}

fn unmask(pic: &mut PicPair, irq: u8) {
    let (data, bit) = if irq < 8 { (0x21, 1 << irq) } else { (0xa1, 1 << (irq - 8)) };
    let mask = pic.read(data) & !bit;
    pic.write(data, mask);
}

fn in_service(pic: &mut PicPair, command: u16) -> u8 {
    pic.write(command, 0x0b);
    let isr = pic.read(command);
    pic.write(command, 0x0a);
    isr
}

#[test]
fn linux_finds_the_controller() {
    // `probe_8259A`: the mask register must read back what was written.
    let mut pic = PicPair::new();
    pic.write(0xa1, 0xff);
    pic.write(0x21, 0xfb);
    assert_eq!(pic.read(0x21), 0xfb);
}

#[test]
fn linux_masks_and_acknowledges() {
    let mut pic = initialised(0x01);
    assert!(!pic.pending());
    for irq in [0, 1, 3, 4, 7, 8, 9, 12, 15] {
        pic.pulse(irq);
        take(&mut pic, irq);
        assert!(!pic.pending());
        let (command, line) = if irq < 8 { (0x20, irq) } else { (0xa0, irq - 8) };
        assert_eq!(in_service(&mut pic, command), 1 << line);
        mask_and_ack(&mut pic, irq);
        assert_eq!((in_service(&mut pic, 0x20), in_service(&mut pic, 0xa0)), (0, 0));
        pic.pulse(irq);
        assert!(!pic.pending(), "masked");
        unmask(&mut pic, irq);
        take(&mut pic, irq);
        mask_and_ack(&mut pic, irq);
        unmask(&mut pic, irq);
        assert!(!pic.pending());
    }
}

#[test]
fn lower_numbers_come_first_and_the_second_chip_at_2() {
    let mut pic = initialised(0x01);
    for irq in [7, 3, 15, 8, 1] {
        pic.pulse(irq);
    }
    for irq in [1, 8, 15, 3, 7] {
        take(&mut pic, irq);
        assert!(!pic.pending(), "a lower priority waits for the end of interrupt");
        mask_and_ack(&mut pic, irq);
    }
    assert!(!pic.pending());
}

#[test]
fn a_more_urgent_request_interrupts_a_handler() {
    let mut pic = initialised(0x01);
    pic.pulse(4);
    take(&mut pic, 4);
    pic.pulse(5);
    assert!(!pic.pending());
    pic.pulse(0);
    take(&mut pic, 0);
    // The non-specific end of interrupt takes the more urgent of the two.
    pic.write(0x20, 0x20);
    assert_eq!(in_service(&mut pic, 0x20), 1 << 4);
    pic.write(0x20, 0x20);
    take(&mut pic, 5);
}

#[test]
fn an_edge_is_one_request() {
    let mut pic = initialised(0x01);
    pic.set_line(4, true);
    pic.set_line(4, true);
    take(&mut pic, 4);
    pic.write(0x20, 0x64);
    pic.set_line(4, true);
    assert!(!pic.pending(), "the line has not fallen");
    pic.set_line(4, false);
    pic.set_line(4, true);
    pic.set_line(4, false);
    take(&mut pic, 4);
}

#[test]
fn a_level_requests_until_it_falls() {
    let mut pic = initialised(0x01);
    pic.write(0x4d0, 0xff);
    pic.write(0x4d1, 0xff);
    assert_eq!((pic.read(0x4d0), pic.read(0x4d1)), (0xf8, 0xde));
    for irq in [5, 10] {
        pic.set_line(irq, true);
        take(&mut pic, irq);
        mask_and_ack(&mut pic, irq);
        unmask(&mut pic, irq);
        take(&mut pic, irq);
        pic.set_line(irq, false);
        mask_and_ack(&mut pic, irq);
        unmask(&mut pic, irq);
        assert!(!pic.pending());
    }
    // IRQ 0 stays edge-triggered.
    pic.set_line(0, true);
    take(&mut pic, 0);
    pic.write(0x20, 0x60);
    assert!(!pic.pending());
}

#[test]
fn an_acknowledge_without_a_request_is_spurious() {
    let mut pic = initialised(0x01);
    assert_eq!(pic.highest(), None);
    assert_eq!(pic.acknowledge(), VECTORS + 7);
    assert_eq!(in_service(&mut pic, 0x20), 0);

    // A request of the second chip that is masked before the acknowledge leaves nothing behind either.
    pic.pulse(12);
    pic.write(0xa1, 0xff);
    assert!(!pic.pending());
    assert_eq!(pic.acknowledge(), VECTORS + 7);
    assert_eq!((in_service(&mut pic, 0x20), in_service(&mut pic, 0xa0)), (0, 0));
}

#[test]
fn automatic_end_of_interrupt_and_rotation() {
    let mut pic = initialised(0x03);
    pic.pulse(3);
    pic.pulse(4);
    take(&mut pic, 3);
    assert_eq!(in_service(&mut pic, 0x20), 0);
    take(&mut pic, 4);

    // Rotate in automatic EOI mode: what was served becomes the least urgent.
    pic.write(0x20, 0x80);
    pic.pulse(3);
    take(&mut pic, 3);
    pic.pulse(3);
    pic.pulse(4);
    take(&mut pic, 4);
    take(&mut pic, 3);
}

#[test]
fn rotating_and_setting_priorities() {
    let mut pic = initialised(0x01);
    pic.pulse(4);
    take(&mut pic, 4);
    pic.write(0x20, 0xa0); // rotate on non-specific EOI
    pic.pulse(4);
    pic.pulse(5);
    take(&mut pic, 5);
    pic.write(0x20, 0xe5); // rotate on specific EOI
    take(&mut pic, 4);
    pic.write(0x20, 0x64);
    pic.write(0x20, 0xc0 | 6); // set priority: 6 is the lowest, 7 the highest
    for irq in [0, 6, 7] {
        pic.pulse(irq);
    }
    for irq in [7, 0, 6] {
        take(&mut pic, irq);
        pic.write(0x20, 0x60 + irq);
    }
}

#[test]
fn special_mask_mode_lets_lower_priorities_in() {
    let mut pic = initialised(0x01);
    pic.pulse(1);
    take(&mut pic, 1);
    pic.pulse(6);
    assert!(!pic.pending());
    pic.write(0x21, 0x02);
    assert!(!pic.pending());
    pic.write(0x20, 0x68);
    take(&mut pic, 6);
    // A non-specific EOI passes over the masked bit.
    pic.write(0x20, 0x20);
    assert_eq!(in_service(&mut pic, 0x20), 0x02);
    pic.write(0x20, 0x48);
    pic.write(0x20, 0x20);
    assert_eq!(in_service(&mut pic, 0x20), 0);
}

#[test]
fn special_fully_nested_mode_lets_the_second_chip_nest() {
    let mut pic = initialised(0x11);
    pic.pulse(12);
    take(&mut pic, 12);
    pic.pulse(9);
    take(&mut pic, 9);
    assert_eq!(in_service(&mut pic, 0xa0), 0x12);

    let mut plain = initialised(0x01);
    plain.pulse(12);
    take(&mut plain, 12);
    plain.pulse(9);
    assert!(!plain.pending(), "IR2 is in service");
}

#[test]
fn polling_acknowledges() {
    let mut pic = initialised(0x01);
    pic.write(0x20, 0x0c);
    assert_eq!(pic.read(0x20), 0);
    pic.pulse(12);
    pic.write(0x20, 0x0c);
    assert_eq!(pic.read(0x20), 0x82);
    pic.write(0xa0, 0x0c);
    assert_eq!(pic.read(0xa0), 0x84);
    assert_eq!((in_service(&mut pic, 0x20), in_service(&mut pic, 0xa0)), (0x04, 0x10));
    assert!(!pic.pending());
}

#[test]
fn initialising_forgets_edges_and_keeps_levels() {
    let mut pic = initialised(0x01);
    pic.write(0x4d0, 0x20);
    pic.set_line(4, true);
    pic.set_line(5, true);
    pic.write(0x20, 0x11);
    assert_eq!(pic.read(0x20), 0x20);
    // A single chip (ICW1 bit 1) without ICW4 takes only ICW2.
    pic.write(0x20, 0x12);
    pic.write(0x21, 0x47);
    pic.write(0x21, 0xaa);
    assert_eq!(pic.read(0x21), 0xaa);
    assert_eq!(pic.save().primary.base, 0x40);
}

#[test]
fn other_ports_are_not_the_pairs() {
    let mut pic = PicPair::new();
    assert_eq!((pic.read(0x22), pic.read(0x4d2)), (0xff, 0xff));
    let before = pic.save();
    pic.write(0x22, 0);
    for irq in [2, 16, 255] {
        pic.set_line(irq, true);
    }
    assert_eq!(pic.save(), before);
}

#[test]
fn an_impossible_state_is_refused() {
    let good = initialised(0x01).save();
    let spoilers: [fn(&mut PicState); 5] = [
        |state| state.primary.top = 8,
        |state| state.secondary.base = 1,
        |state| state.primary.elcr = 1,
        |state| state.secondary.elcr = 1,
        |state| state.primary.irr = 4,
    ];
    let mut pic = PicPair::new();
    for spoil in spoilers {
        let mut bad = good.clone();
        spoil(&mut bad);
        assert!(matches!(pic.restore(bad), Err(RestoreError::Invalid { device: "i8259a-pair", .. })));
        assert_eq!(pic.save(), PicPair::new().save());
    }
    pic.restore(good).unwrap();
}

#[derive(Clone, Debug)]
enum Op {
    Read(u16),
    Write(u16, u8),
    Line(u8, bool),
    Pulse(u8),
    Acknowledge,
}

fn op() -> impl Strategy<Value = Op> {
    let port = prop_oneof![prop::sample::select(&[0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1][..]), any::<u16>(),];
    prop_oneof![
        port.clone().prop_map(Op::Read),
        (port, any::<u8>()).prop_map(|(port, value)| Op::Write(port, value)),
        (0..20u8, any::<bool>()).prop_map(|(irq, level)| Op::Line(irq, level)),
        (0..20u8).prop_map(Op::Pulse),
        Just(Op::Acknowledge),
    ]
}

fn apply(pic: &mut PicPair, op: &Op) -> u8 {
    match *op {
        Op::Read(port) => return pic.read(port),
        Op::Write(port, value) => pic.write(port, value),
        Op::Line(irq, level) => pic.set_line(irq, level),
        Op::Pulse(irq) => pic.pulse(irq),
        Op::Acknowledge => return pic.acknowledge(),
    }
    0
}

proptest! {
    #[test]
    fn any_access_is_survived_and_repeats(ops in prop::collection::vec(op(), 1..200)) {
        let (mut pic, mut twin) = (PicPair::new(), PicPair::new());
        for op in &ops {
            prop_assert_eq!(pic.pending(), pic.highest().is_some());
            let expected = pic.highest();
            let result = apply(&mut pic, op);
            prop_assert_eq!(apply(&mut twin, op), result);
            if let Op::Acknowledge = op {
                prop_assert_eq!(result & 7, expected.map_or(7, |irq| irq & 7));
            }
            let mut restored = PicPair::new();
            restored.restore(pic.save()).unwrap();
            prop_assert_eq!(restored.save(), twin.save());
            twin = restored;
        }
    }

    #[test]
    fn conformance(ops in prop::collection::vec(op(), 0..50)) {
        let mut pic = PicPair::new();
        for op in &ops {
            apply(&mut pic, op);
        }
        conforms(&mut pic, |pic| {
            let mask = pic.state.primary.imr;
            pic.write(0x20, 0x13);
            pic.write(0x21, 0x20);
            pic.write(0x21, 0x01);
            pic.write(0x21, !mask);
        });
    }
}

#[test]
fn a_masked_line_or_cascade_lets_nothing_through() {
    let mut pic = PicPair::new();
    pic.write(0x21, 0b0001_0000);
    pic.write(0xa1, 0b0000_0001);
    let masked: Vec<u8> = (0..17).filter(|irq| pic.is_masked(*irq)).collect();
    assert_eq!(masked, [4, 8, 16]);
    pic.write(0x21, 0b0000_0100);
    assert!((8..16).all(|irq| pic.is_masked(irq)));
}
