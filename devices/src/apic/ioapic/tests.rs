//! The registers, both trigger modes, and arbitrary accesses.

use proptest::prelude::*;

use super::*;
use crate::testing::conforms;

fn put(ioapic: &mut IoApic, register: u8, value: u32) {
    ioapic.write(0, 4, register.into());
    ioapic.write(0x10, 4, value.into());
}

fn get(ioapic: &mut IoApic, register: u8) -> u64 {
    ioapic.write(0, 4, register.into());
    ioapic.read(0x10, 4)
}

fn entry(ioapic: &mut IoApic, pin: u8, low: u32, destination: u8) {
    put(ioapic, 0x11 + 2 * pin, u32::from(destination) << 24);
    put(ioapic, 0x10 + 2 * pin, low);
}

/// What is sent, all of it accepted or none.
fn sent(ioapic: &mut IoApic, accept: bool) -> Vec<Message> {
    let mut messages = Vec::new();
    ioapic.service(|message| {
        messages.push(*message);
        accept
    });
    messages
}

fn vectors(ioapic: &mut IoApic) -> Vec<u8> {
    sent(ioapic, true).into_iter().map(|message| message.vector).collect()
}

#[test]
fn registers() {
    let mut ioapic = IoApic::new(2);
    assert_eq!([0, 1, 2, 3].map(|n| get(&mut ioapic, n)), [0x0200_0000, 0x0017_0020, 0x0200_0000, 0]);
    put(&mut ioapic, 0, u32::MAX);
    put(&mut ioapic, 1, u32::MAX);
    put(&mut ioapic, 2, 0);
    assert_eq!([0, 1, 2].map(|n| get(&mut ioapic, n)), [0x0f00_0000, 0x0017_0020, 0x0f00_0000]);
    for register in 0x10..0x40 {
        let reset = if register % 2 == 0 { 0x1_0000 } else { 0 };
        assert_eq!(get(&mut ioapic, register), reset);
        put(&mut ioapic, register, u32::MAX);
        let kept = if register % 2 == 0 { 0x1_afff } else { 0xff00_0000 };
        assert_eq!(get(&mut ioapic, register), kept);
    }
    for register in [0x0f, 0x40, 0xff] {
        put(&mut ioapic, register, 0);
        assert_eq!(get(&mut ioapic, register), 0);
    }
    assert_eq!(ioapic.read(0, 4), 0xff);
    assert_eq!((ioapic.read(0x10, 1), ioapic.read(0x20, 4), ioapic.read(0x40, 4)), (0xff, 0xffff_ffff, 0));
    ioapic.write(0, 1, 0x10);
    assert_eq!(ioapic.read(0, 4), 0xff);
}

#[test]
fn an_edge_is_one_message() {
    let mut ioapic = IoApic::new(0);
    ioapic.pulse(4);
    assert_eq!(sent(&mut ioapic, true), [], "masked");
    entry(&mut ioapic, 4, 0x34, 1);
    assert_eq!(sent(&mut ioapic, true), [], "the edge on the masked pin is lost");
    ioapic.set_line(4, true);
    assert_eq!(sent(&mut ioapic, true), [], "no edge");
    ioapic.pulse(4);
    ioapic.pulse(4);
    let expected = Message {
        destination: Destination::Physical(1),
        delivery: Delivery::Fixed,
        vector: 0x34,
        level: false,
    };
    assert_eq!(sent(&mut ioapic, false), [expected]);
    assert_eq!(sent(&mut ioapic, true), [], "taken or not");
    // Active low.
    entry(&mut ioapic, 4, 0x2934, 0x81);
    let expected =
        Message { destination: Destination::Logical(0x81), delivery: Delivery::LowestPriority, ..expected };
    ioapic.set_line(4, false);
    assert_eq!(sent(&mut ioapic, true), [expected]);
    ioapic.set_line(4, true);
    assert_eq!(sent(&mut ioapic, true), []);
}

#[test]
fn a_level_is_sent_until_it_is_taken_and_again_after_its_end() {
    let mut ioapic = IoApic::new(0);
    entry(&mut ioapic, 9, 0x8039, 0xff);
    ioapic.set_line(9, true);
    let expected =
        Message { destination: Destination::All, delivery: Delivery::Fixed, vector: 0x39, level: true };
    assert_eq!(sent(&mut ioapic, false), [expected]);
    assert_eq!(sent(&mut ioapic, true), [expected]);
    assert_eq!(get(&mut ioapic, 0x22), 0xc039, "remote IRR");
    assert_eq!(vectors(&mut ioapic), []);
    ioapic.end_of_interrupt(0x38);
    assert_eq!(vectors(&mut ioapic), []);
    ioapic.end_of_interrupt(0x39);
    assert_eq!(vectors(&mut ioapic), [0x39], "still active");
    ioapic.set_line(9, false);
    ioapic.write(0x40, 4, 0x39);
    assert_eq!(vectors(&mut ioapic), []);
    assert_eq!(get(&mut ioapic, 0x22), 0x8039);
}

#[test]
fn masking_and_switching_a_level() {
    let mut ioapic = IoApic::new(0);
    entry(&mut ioapic, 5, 0x1_8035, 0);
    ioapic.set_line(5, true);
    assert!(ioapic.is_masked(5) && ioapic.is_masked(24));
    assert_eq!(vectors(&mut ioapic), []);
    put(&mut ioapic, 0x1a, 0x8035);
    assert_eq!(vectors(&mut ioapic), [0x35]);
    put(&mut ioapic, 0x1a, 0x1_8035);
    assert_eq!(get(&mut ioapic, 0x1a), 0x1_c035, "being handled");
    put(&mut ioapic, 0x1a, 0x1_0035);
    assert_eq!(get(&mut ioapic, 0x1a), 0x1_0035, "edge: no remote IRR");
    put(&mut ioapic, 0x1a, 0x8035);
    assert_eq!(vectors(&mut ioapic), [0x35]);
}

#[test]
fn pins_come_in_their_order_and_each_once() {
    let mut ioapic = IoApic::new(0);
    for (pin, low) in [(7, 0x37), (2, 0x8032), (23, 0x47)] {
        entry(&mut ioapic, pin, low, 0);
        ioapic.pulse(pin);
    }
    ioapic.set_line(24, true);
    assert_eq!(vectors(&mut ioapic), [0x32, 0x37, 0x47]);
}

#[test]
fn nmi_is_an_edge_and_reserved_modes_send_nothing() {
    let mut ioapic = IoApic::new(0);
    entry(&mut ioapic, 3, 0x8400, 0);
    ioapic.pulse(3);
    let messages = sent(&mut ioapic, true);
    assert_eq!(messages.iter().map(|m| (m.delivery, m.level)).collect::<Vec<_>>(), [(Delivery::Nmi, false)]);
    assert_eq!(sent(&mut ioapic, true), []);
    entry(&mut ioapic, 3, 0x8300, 0);
    ioapic.pulse(3);
    assert_eq!(sent(&mut ioapic, true), []);
}

#[derive(Clone, Debug)]
enum Op {
    Read { offset: u64, size: u8 },
    Write { offset: u64, size: u8, value: u64 },
    Line { pin: u8, level: bool },
    Service { accept: u32 },
    End(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let offset = prop_oneof![4 => Just(0_u64), 6 => Just(0x10_u64), 1 => Just(0x40_u64), 1 => any::<u64>()];
    let size = prop_oneof![8 => Just(4_u8), 1 => any::<u8>()];
    let value = prop_oneof![any::<u64>(), 0..0x40_u64, 0..0x2_0000_u64];
    prop_oneof![
        1 => (offset.clone(), size.clone()).prop_map(|(offset, size)| Op::Read { offset, size }),
        6 => (offset, size, value).prop_map(|(offset, size, value)| Op::Write { offset, size, value }),
        3 => (any::<u8>(), any::<bool>()).prop_map(|(pin, level)| Op::Line { pin: pin % 26, level }),
        2 => any::<u32>().prop_map(|accept| Op::Service { accept }),
        1 => any::<u8>().prop_map(Op::End),
    ]
}

fn apply(ioapic: &mut IoApic, op: &Op) -> String {
    match *op {
        Op::Read { offset, size } => return ioapic.read(offset, size).to_string(),
        Op::Write { offset, size, value } => ioapic.write(offset, size, value),
        Op::Line { pin, level } => ioapic.set_line(pin, level),
        Op::Service { mut accept } => {
            let mut sent = String::new();
            ioapic.service(|message| {
                sent += &format!("{message:?}");
                accept = accept.rotate_right(1);
                accept & 1 == 1
            });
            return sent;
        }
        Op::End(vector) => ioapic.end_of_interrupt(vector),
    }
    String::new()
}

proptest! {
    #[test]
    fn whatever_happens_it_can_be_saved_and_goes_on_the_same_way(ops in prop::collection::vec(op(), 0..100)) {
        let mut ioapic = IoApic::new(1);
        for op in &ops {
            let mut twin = IoApic::new(1);
            twin.restore(ioapic.save()).unwrap();
            let did = apply(&mut ioapic, op);
            prop_assert_eq!(apply(&mut twin, op), did);
            prop_assert_eq!(twin.save(), ioapic.save());
            // Once all is taken nothing waits.
            twin.service(|_| true);
            prop_assert_eq!(sent(&mut twin, true), []);
        }
    }

    #[test]
    fn conformance(ops in prop::collection::vec(op(), 0..50)) {
        let mut ioapic = IoApic::new(1);
        for op in &ops {
            apply(&mut ioapic, op);
        }
        conforms(&mut ioapic, |ioapic| {
            let index = ioapic.state.index;
            ioapic.write(0, 4, (!index).into());
        });
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let good = IoApic::new(1).save();
    let mut ioapic = IoApic::new(1);
    let mut refused = |change: &dyn Fn(&mut IoApicState)| {
        let mut state = good.clone();
        change(&mut state);
        ioapic.restore(state).unwrap_err();
        assert_eq!(ioapic.save(), good);
    };
    refused(&|state| state.id = 16);
    refused(&|state| state.arbitration = 16);
    refused(&|state| state.lines = 1 << 24);
    refused(&|state| state.edges = 1);
    refused(&|state| state.entries[0] = 1 << 17);
    refused(&|state| state.entries[0] = 1 << 14);
}
