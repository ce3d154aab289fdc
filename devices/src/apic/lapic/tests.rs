//! Registers, priorities, messages and arbitrary accesses; the timer's and the x2APIC's own are in files beside this one.

use proptest::prelude::*;

use super::super::message::{Delivered, Delivery, Destination, Message, Signal, deliver};
use super::*;
use crate::testing::conforms;

mod messages;
mod timer;
mod x2apic;

pub(super) const TSC: Tsc = Tsc { khz: 1_000_000, offset: 0 };

pub(super) fn config(id: u32) -> LapicConfig {
    LapicConfig { id, bootstrap: id == 0, x2apic: true, tsc_deadline: true }
}

/// Enabled, spurious vector 0xff.
pub(super) fn enabled(id: u32) -> Lapic {
    let mut lapic = Lapic::new(config(id));
    put(&mut lapic, 0xf0, 0x1ff);
    lapic
}

pub(super) fn put(lapic: &mut Lapic, offset: u64, value: u32) -> Option<Request> {
    lapic.write(offset, 4, value.into(), 0)
}

pub(super) fn get(lapic: &mut Lapic, offset: u64) -> u64 {
    lapic.read(offset, 4, 0).unwrap()
}

pub(super) fn fixed(vector: u8) -> Message {
    Message { destination: Destination::All, delivery: Delivery::Fixed, vector, level: false }
}

pub(super) fn send(lapic: &mut Lapic, vector: u8) {
    assert!(deliver(std::slice::from_mut(lapic), &fixed(vector)).accepted);
}

fn eoi(lapic: &mut Lapic) -> Option<Request> {
    put(lapic, 0xb0, 0)
}

#[test]
fn registers_after_power_on() {
    let mut lapic = Lapic::new(config(3));
    let expected: [(u64, u64); 17] = [
        (0x20, 0x0300_0000),
        (0x30, 0x0005_0014),
        (0x80, 0),
        (0xa0, 0),
        (0xd0, 0),
        (0xe0, 0xffff_ffff),
        (0xf0, 0xff),
        (0x280, 0),
        (0x300, 0),
        (0x320, 0x1_0000),
        (0x330, 0x1_0000),
        (0x340, 0x1_0000),
        (0x350, 0x1_0000),
        (0x360, 0x1_0000),
        (0x370, 0x1_0000),
        (0x390, 0),
        (0x3e0, 0),
    ];
    for (offset, value) in expected {
        assert_eq!(get(&mut lapic, offset), value, "{offset:#x}");
    }
    assert_eq!(lapic.state.errors, 0);
}

#[test]
fn registers_keep_what_they_have_bits_for() {
    let mut lapic = enabled(0);
    for (offset, value) in [
        (0x20, 0),
        (0x30, 0x0005_0014),
        (0x80, 0xff),
        (0xd0, 0xff00_0000),
        (0xe0, 0xffff_ffff),
        (0xf0, 0x3ff),
        (0x310, 0xff00_0000),
        (0x320, 0x7_00ff),
        (0x330, 0x1_07ff),
        (0x340, 0x1_07ff),
        (0x350, 0x1_a7ff),
        (0x360, 0x1_a7ff),
        (0x370, 0x1_00ff),
        (0x3e0, 0xb),
    ] {
        put(&mut lapic, offset, u32::MAX);
        assert_eq!(get(&mut lapic, offset), value, "{offset:#x}");
    }
}

#[test]
fn odd_accesses_and_a_disabled_apic_do_not_answer() {
    let mut lapic = enabled(0);
    assert_eq!(lapic.read(0x30, 1, 0), Some(0xff));
    assert_eq!(lapic.read(0x30, 8, 0), Some(u64::MAX));
    assert_eq!(lapic.read(0x34, 4, 0), Some(0xffff_ffff));
    assert_eq!(lapic.write(0x80, 2, 0xff, 0), None);
    assert_eq!(lapic.read(0x80, 4, 0), Some(0));
    assert_eq!(lapic.read(0x1000, 4, 0), None);
    assert_eq!(lapic.state.errors, 0);
    lapic.write_msr(APIC_BASE, BASE_ADDRESS, 0, TSC).unwrap();
    assert_eq!(lapic.read(0x30, 4, 0), None);
}

#[test]
fn errors_are_collected_and_interrupt_once() {
    let mut lapic = enabled(0);
    put(&mut lapic, 0x370, 0x41);
    assert_eq!(get(&mut lapic, 0x2f0), 0, "no CMCI");
    put(&mut lapic, 0x3f0, 0);
    assert_eq!(get(&mut lapic, 0x280), 0, "not before it is written");
    assert_eq!(lapic.pending(), Some(Interrupt::Vector(0x41)));
    assert_eq!(lapic.acknowledge(), 0x41);
    eoi(&mut lapic);
    put(&mut lapic, 0x300, 0x0f);
    assert_eq!(lapic.pending(), None, "an error that follows another one");
    put(&mut lapic, 0x280, 0);
    assert_eq!(get(&mut lapic, 0x280), 0xa0);
    put(&mut lapic, 0x280, 0);
    assert_eq!(get(&mut lapic, 0x280), 0);
    assert!(deliver(std::slice::from_mut(&mut lapic), &fixed(15)).accepted);
    assert_eq!(lapic.pending(), Some(Interrupt::Vector(0x41)), "armed again");
    put(&mut lapic, 0x280, 0);
    assert_eq!(get(&mut lapic, 0x280), 0x40);
    put(&mut lapic, 0x370, 5);
    put(&mut lapic, 0x10, 0);
    put(&mut lapic, 0x280, 0);
    assert_eq!(get(&mut lapic, 0x280), 0xc0, "the error interrupt's own vector is illegal");
}

#[test]
fn higher_vectors_come_first_and_classes_interrupt() {
    let mut lapic = enabled(0);
    for vector in [0x31, 0x35, 0x52, 0x10, 0xff] {
        send(&mut lapic, vector);
    }
    for vector in [0xff, 0x52] {
        assert_eq!(lapic.pending(), Some(Interrupt::Vector(vector)));
        assert_eq!(lapic.acknowledge(), vector);
        assert_eq!(lapic.pending(), None);
        assert_eq!(get(&mut lapic, 0xa0), u64::from(vector & 0xf0));
        eoi(&mut lapic);
    }
    assert_eq!(lapic.acknowledge(), 0x35);
    send(&mut lapic, 0x3f);
    assert_eq!(lapic.pending(), None, "the same class waits");
    send(&mut lapic, 0x40);
    assert_eq!(lapic.acknowledge(), 0x40);
    assert_eq!(get(&mut lapic, 0x110), 1 << 0x15);
    assert_eq!(get(&mut lapic, 0x120), 1);
    eoi(&mut lapic);
    assert_eq!(lapic.pending(), None);
    eoi(&mut lapic);
    for vector in [0x3f, 0x31, 0x10] {
        assert_eq!(lapic.acknowledge(), vector);
        eoi(&mut lapic);
    }
    assert_eq!(eoi(&mut lapic), None, "nothing in service");
    assert_eq!(lapic.acknowledge(), 0xff, "spurious");
    assert_eq!(lapic.state.isr, [0; 8]);
}

#[test]
fn task_priority_holds_back_its_class_and_lower() {
    let mut lapic = enabled(0);
    send(&mut lapic, 0x4f);
    put(&mut lapic, 0x80, 0x40);
    assert_eq!((lapic.pending(), get(&mut lapic, 0xa0), lapic.cr8()), (None, 0x40, 4));
    assert_eq!(lapic.acknowledge(), 0xff, "held back: spurious");
    lapic.set_cr8(3);
    assert_eq!(get(&mut lapic, 0x80), 0x30);
    assert_eq!(lapic.acknowledge(), 0x4f);
    put(&mut lapic, 0x80, 0x45);
    assert_eq!(get(&mut lapic, 0xa0), 0x45, "the class is equal: TPR as it is");
    put(&mut lapic, 0x80, 0x3f);
    assert_eq!(get(&mut lapic, 0xa0), 0x40);
    // SDM 11.6.2.4.
    assert_eq!(lapic.arbitration_priority(), 0);
    send(&mut lapic, 0x22);
    assert_eq!(lapic.arbitration_priority(), 0x20);
    put(&mut lapic, 0x80, 0x52);
    assert_eq!(lapic.arbitration_priority(), 0x52);
}

#[test]
fn disabled_by_software_it_holds_what_it_has() {
    let mut lapic = enabled(0);
    put(&mut lapic, 0x320, 0x30);
    send(&mut lapic, 0x40);
    put(&mut lapic, 0xf0, 0xfe);
    assert_eq!(lapic.pending(), None);
    assert_eq!(get(&mut lapic, 0x320), 0x1_0030, "masked");
    put(&mut lapic, 0x320, 0x31);
    assert_eq!(get(&mut lapic, 0x320), 0x1_0031, "and stays so");
    assert!(!deliver(std::slice::from_mut(&mut lapic), &fixed(0x41)).accepted);
    let nmi = Message { delivery: Delivery::Nmi, ..fixed(0) };
    assert_eq!(deliver(std::slice::from_mut(&mut lapic), &nmi).signals, [(0, Signal::Nmi)]);
    put(&mut lapic, 0xf0, 0x1fe);
    assert_eq!(lapic.pending(), Some(Interrupt::Vector(0x40)));
    assert_eq!(get(&mut lapic, 0x320), 0x1_0031);
}

#[test]
fn virtual_wire_mode_and_no_apic_pass_the_8259_on() {
    let mut lapic = Lapic::new(config(0));
    lapic.set_line(0, true);
    assert_eq!(lapic.pending(), None, "LINT0 is masked");
    lapic.set_virtual_wire();
    assert_eq!(lapic.pending(), Some(Interrupt::External));
    put(&mut lapic, 0x80, 0xff);
    send(&mut lapic, 0x80);
    assert_eq!(lapic.pending(), Some(Interrupt::External), "whatever the priority");
    lapic.set_line(0, false);
    assert_eq!(lapic.pending(), None);
    assert_eq!(lapic.set_line(1, true), Some(Signal::Nmi));
    assert_eq!(lapic.set_line(1, true), None, "no edge");
    lapic.write_msr(APIC_BASE, BASE_ADDRESS, 0, TSC).unwrap();
    assert_eq!(lapic.pending(), None);
    lapic.set_line(0, true);
    assert_eq!(lapic.pending(), Some(Interrupt::External));
    lapic.set_line(1, false);
    assert_eq!(lapic.set_line(1, true), Some(Signal::Nmi));
    assert_eq!(lapic.set_line(2, true), None);
    assert!(!deliver(std::slice::from_mut(&mut lapic), &fixed(0x41)).accepted);
}

#[test]
fn a_level_triggered_pin_waits_for_its_end_of_interrupt() {
    let mut lapic = enabled(0);
    put(&mut lapic, 0x350, 0x8050);
    lapic.set_line(0, true);
    assert_eq!(get(&mut lapic, 0x350), 0xc050);
    assert_eq!(lapic.acknowledge(), 0x50);
    assert_eq!(get(&mut lapic, 0x1a0), 1 << 16, "TMR");
    assert_eq!(lapic.pending(), None);
    assert_eq!(eoi(&mut lapic), Some(Request::EndOfInterrupt(0x50)));
    assert_eq!(lapic.pending(), Some(Interrupt::Vector(0x50)), "still active");
    lapic.acknowledge();
    lapic.set_line(0, false);
    eoi(&mut lapic);
    assert_eq!(lapic.pending(), None);
    assert_eq!(get(&mut lapic, 0x350), 0x8050);
    // Edge-triggered, active low.
    put(&mut lapic, 0x350, 0x2051);
    lapic.set_line(0, true);
    assert_eq!(lapic.pending(), None);
    lapic.set_line(0, false);
    assert_eq!(lapic.acknowledge(), 0x51);
    assert_eq!(eoi(&mut lapic), None);
    // INIT by the pin resets.
    put(&mut lapic, 0x360, 0x500);
    assert_eq!(lapic.set_line(1, true), Some(Signal::Init));
    assert_eq!(get(&mut lapic, 0xf0), 0xff);
}

/// Something that happens to a local APIC.
#[derive(Clone, Debug)]
enum Op {
    Read { offset: u64, size: u8 },
    Write { offset: u64, size: u8, value: u64 },
    ReadMsr(u32),
    WriteMsr { index: u32, value: u64, tsc: Tsc },
    Line { pin: usize, level: bool },
    Deliver(Message),
    Acknowledge,
    Advance(u64),
    SetTsc(u64),
    Cr8(u8),
    VirtualWire,
}

fn message() -> impl Strategy<Value = Message> {
    use Delivery::{External, Fixed, Init, LowestPriority, Nmi, Smi, Startup};
    let destination = prop_oneof![
        Just(Destination::All),
        any::<u32>().prop_map(Destination::AllBut),
        (0..4_u32).prop_map(Destination::Physical),
        any::<u32>().prop_map(Destination::Logical),
    ];
    let delivery =
        prop::sample::select(vec![Fixed, Fixed, LowestPriority, Smi, Nmi, Init, Startup, External]);
    (destination, delivery, any::<u8>(), any::<bool>())
        .prop_map(|(destination, delivery, vector, level)| Message { destination, delivery, vector, level })
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![8 => (0..0x40_u64).prop_map(|register| register << 4), 1 => any::<u64>(), 1 => 0..0x1000_u64]
}

fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0..0x400_u64,
        (0..64_u32).prop_map(|bit| 1 << bit),
        any::<u32>().prop_map(u64::from)
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let size = prop_oneof![8 => Just(4_u8), 1 => any::<u8>()];
    let msr = prop_oneof![0x800..0x840_u32, Just(APIC_BASE), Just(TSC_DEADLINE), any::<u32>()];
    let base = (0..16_u64).prop_map(|bits| BASE_ADDRESS | bits << 8);
    prop_oneof![
        2 => (offset(), size.clone()).prop_map(|(offset, size)| Op::Read { offset, size }),
        6 => (offset(), size, value()).prop_map(|(offset, size, value)| Op::Write { offset, size, value }),
        2 => msr.clone().prop_map(Op::ReadMsr),
        4 => (msr, value(), 0..=u64::MAX, any::<u64>()).prop_map(|(index, value, khz, offset)| Op::WriteMsr {
            index,
            value,
            tsc: Tsc { khz, offset },
        }),
        1 => base.prop_map(|value| Op::WriteMsr { index: APIC_BASE, value, tsc: TSC }),
        2 => (0..3_usize, any::<bool>()).prop_map(|(pin, level)| Op::Line { pin, level }),
        3 => message().prop_map(Op::Deliver),
        3 => Just(Op::Acknowledge),
        2 => prop_oneof![0..1000_u64, any::<u64>()].prop_map(Op::Advance),
        1 => any::<u64>().prop_map(Op::SetTsc),
        1 => any::<u8>().prop_map(Op::Cr8),
        1 => Just(Op::VirtualWire),
    ]
}

fn apply(lapic: &mut Lapic, now: &mut u64, op: &Op) -> String {
    *now = now.saturating_add(7);
    match *op {
        Op::Read { offset, size } => format!("{:?}", lapic.read(offset, size, *now)),
        Op::Write { offset, size, value } => format!("{:?}", lapic.write(offset, size, value, *now)),
        Op::ReadMsr(index) => format!("{:?}", lapic.read_msr(index, *now)),
        Op::WriteMsr { index, value, tsc } => format!("{:?}", lapic.write_msr(index, value, *now, tsc)),
        Op::Line { pin, level } => format!("{:?}", lapic.set_line(pin, level)),
        Op::Deliver(message) => format!("{:?}", deliver(std::slice::from_mut(lapic), &message)),
        Op::Acknowledge => format!("{:?} {}", lapic.pending(), lapic.acknowledge()),
        Op::Advance(by) => {
            *now = now.saturating_add(by);
            lapic.advance(*now);
            format!("{:?}", lapic.next_wake())
        }
        Op::SetTsc(offset) => {
            lapic.set_tsc(*now, Tsc { offset, ..TSC });
            String::new()
        }
        Op::Cr8(value) => {
            lapic.set_cr8(value & 15);
            String::new()
        }
        Op::VirtualWire => {
            lapic.set_virtual_wire();
            String::new()
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_it_can_be_saved_and_goes_on_the_same_way(
        id in 0..4_u32,
        x2apic: bool,
        tsc_deadline: bool,
        ops in prop::collection::vec(op(), 0..80),
    ) {
        let config = LapicConfig { x2apic, tsc_deadline, ..config(id) };
        let mut lapic = Lapic::new(config);
        let mut now = 0;
        for op in &ops {
            let mut twin = Lapic::new(config);
            twin.restore(lapic.save()).unwrap();
            let mut twin_now = now;
            let did = apply(&mut lapic, &mut now, op);
            prop_assert_eq!(apply(&mut twin, &mut twin_now, op), did);
            prop_assert_eq!(twin.save(), lapic.save());
            if let Some(Interrupt::Vector(vector)) = lapic.pending() {
                prop_assert!(vector & 0xf0 > lapic.processor_priority() & 0xf0);
                prop_assert_eq!(lapic.clone().acknowledge(), vector);
            }
            if let Some(wake) = lapic.next_wake().filter(|_| now < u64::MAX) {
                let mut later = lapic.clone();
                later.advance(wake.max(now));
                prop_assert!(later.state.irr != lapic.state.irr || later.state.errors != lapic.state.errors);
                prop_assert!(later.next_wake().is_none_or(|next| next > wake));
            }
        }
    }

    #[test]
    fn conformance(ops in prop::collection::vec(op(), 0..50)) {
        let mut lapic = Lapic::new(config(1));
        let mut now = 0;
        for op in &ops {
            apply(&mut lapic, &mut now, op);
        }
        conforms(&mut lapic, |lapic| {
            let [line, _] = lapic.state.lines;
            lapic.set_line(0, !line);
        });
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let good = enabled(0).save();
    let mut lapic = Lapic::new(config(0));
    lapic.restore(good.clone()).unwrap();
    let mut refused = |change: &dyn Fn(&mut LapicState)| {
        let mut state = good.clone();
        change(&mut state);
        lapic.restore(state).unwrap_err();
        assert_eq!(lapic.save(), good);
    };
    refused(&|state| state.config.id = 1);
    refused(&|state| state.mode = Mode::Disabled);
    refused(&|state| state.irr[0] = 1);
    refused(&|state| state.lvt[0] = 1 << 19);
    refused(&|state| state.lvt[5] = 1 << 15);
    refused(&|state| (state.svr, state.lvt[1]) = (0xff, 0));
    refused(&|state| state.lvt[3] = 1 << 14);
    refused(&|state| state.counting = Some(Counting { since: 0, from: 1 }));
    refused(&|state| state.counting = Some(Counting { since: 0, from: 0 }));
    refused(&|state| state.deadline = Some(Deadline { tsc: 1, at: 1 }));
    refused(&|state| state.divide = 4);
    refused(&|state| state.icr = 1 << 32);
    refused(&|state| state.model = 16);
    refused(&|state| state.svr = 1 << 12);
    refused(&|state| state.esr = 1);
}
