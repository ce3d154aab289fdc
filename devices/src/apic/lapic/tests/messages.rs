//! Interprocessor interrupts between several local APICs.

use super::*;

/// `count` enabled local APICs, IDs from 0, logical ID bit `id`, flat model.
fn several(count: u32) -> Vec<Lapic> {
    (0..count)
        .map(|id| {
            let mut lapic = enabled(id);
            put(&mut lapic, 0xd0, 1 << (24 + id));
            lapic
        })
        .collect()
}

/// Processor `from` writes its ICR; the message is delivered.
fn ipi(lapics: &mut [Lapic], from: usize, high: u32, low: u32) -> Delivered {
    put(&mut lapics[from], 0x310, high);
    match put(&mut lapics[from], 0x300, low) {
        Some(Request::Send(message)) => deliver(lapics, &message),
        other => panic!("{other:?}"),
    }
}

/// Who has `vector` in IRR now; it is taken and ended.
fn takers(lapics: &mut [Lapic], vector: u8) -> Vec<u32> {
    let mut takers = Vec::new();
    for lapic in lapics.iter_mut() {
        if lapic.pending() == Some(Interrupt::Vector(vector)) {
            assert_eq!(lapic.acknowledge(), vector);
            assert_eq!(put(lapic, 0xb0, 0), None);
            takers.push(lapic.id());
        }
    }
    takers
}

#[test]
fn physical_logical_and_shorthands() {
    let mut lapics = several(4);
    for (high, low, expected) in [
        (0x0200_0000, 0x40, vec![2]),
        (0xff00_0000, 0x40, vec![0, 1, 2, 3]),
        (0x0900_0000, 0x40, vec![]),
        (0x0500_0000, 0x840, vec![0, 2]),
        (0xff00_0000, 0x840, vec![0, 1, 2, 3]),
        (0x0300_0000, 0x4_0040, vec![1]),
        (0, 0x8_0040, vec![0, 1, 2, 3]),
        (0, 0xc_0040, vec![0, 2, 3]),
    ] {
        let delivered = ipi(&mut lapics, 1, high, low);
        assert_eq!((delivered.accepted, delivered.signals), (!expected.is_empty(), vec![]));
        assert_eq!(takers(&mut lapics, 0x40), expected, "{high:#x} {low:#x}");
    }
    assert_eq!(get(&mut lapics[1], 0x300), 0xc_0040);
    assert_eq!(get(&mut lapics[1], 0x310), 0);
}

#[test]
fn cluster_model() {
    let mut lapics = several(4);
    for (lapic, logical) in lapics.iter_mut().zip([0x11, 0x12, 0x21, 0x22]) {
        put(lapic, 0xe0, 0x0fff_ffff);
        put(lapic, 0xd0, logical << 24);
    }
    for (mask, expected) in [
        (0x13_u32, vec![0, 1]),
        (0x22, vec![3]),
        (0xf1, vec![0, 2]),
        (0xff, vec![0, 1, 2, 3]),
        (0x10, vec![]),
        (0x31, vec![]),
    ] {
        ipi(&mut lapics, 0, mask << 24, 0x855);
        assert_eq!(takers(&mut lapics, 0x55), expected, "{mask:#x}");
    }
    put(&mut lapics[0], 0xe0, 0x7fff_ffff);
    ipi(&mut lapics, 1, 0x1100_0000, 0x855);
    assert!(takers(&mut lapics, 0x55).is_empty(), "a model that does not exist");
}

#[test]
fn the_lowest_priority_takes_it() {
    let mut lapics = several(4);
    for (lapic, tpr) in lapics.iter_mut().zip([0x50, 0x20, 0x10, 0x10]) {
        put(lapic, 0x80, tpr);
    }
    ipi(&mut lapics, 0, 0xff00_0000, 0x960);
    assert_eq!(takers(&mut lapics, 0x60), [2], "of two equal ones the first");
    ipi(&mut lapics, 0, 0x0300_0000, 0x960);
    assert_eq!(takers(&mut lapics, 0x60), [1], "among those it is for");
    put(&mut lapics[2], 0xf0, 0xff);
    ipi(&mut lapics, 0, 0xff00_0000, 0x960);
    assert_eq!(takers(&mut lapics, 0x60), [3], "not one that is disabled");
    assert!(!ipi(&mut lapics, 0, 0x0400_0000, 0x960).accepted);
}

#[test]
fn starting_another_processor() {
    let mut lapics = several(3);
    put(&mut lapics[2], 0x80, 0x55);
    let delivered = ipi(&mut lapics, 0, 0x0200_0000, 0xc500);
    assert_eq!(delivered.signals, [(2, Signal::Init)]);
    assert_eq!((get(&mut lapics[2], 0x80), get(&mut lapics[2], 0x20)), (0, 0x0200_0000));
    assert!(!lapics[2].is_enabled());
    assert_eq!(put(&mut lapics[0], 0x300, 0x8500), None, "INIT level de-assert");
    for _ in 0..2 {
        assert_eq!(ipi(&mut lapics, 0, 0x0200_0000, 0x69a).signals, [(2, Signal::Startup(0x9a))]);
    }
    assert_eq!(ipi(&mut lapics, 1, 0, 0xc_0400).signals, [(0, Signal::Nmi), (2, Signal::Nmi)]);
    assert_eq!(ipi(&mut lapics, 1, 0, 0xc_0200), Delivered { accepted: true, signals: vec![] }, "SMI");
}

#[test]
fn what_cannot_be_sent() {
    let mut lapics = several(2);
    for low in [0x300, 0x700, 0x4_0140, 0x4_0400, 0x8_0140, 0x8_0500, 0x8_0610] {
        assert_eq!(put(&mut lapics[0], 0x300, low), None, "{low:#x}");
    }
    put(&mut lapics[0], 0x280, 0);
    assert_eq!(get(&mut lapics[0], 0x280), 0);
    for low in [0x0f, 0x100] {
        assert_eq!(put(&mut lapics[0], 0x300, low), None, "{low:#x}");
        put(&mut lapics[0], 0x280, 0);
        assert_eq!(get(&mut lapics[0], 0x280), 0x20, "send illegal vector");
    }
    let external = Message { delivery: Delivery::External, ..fixed(0x40) };
    assert_eq!(deliver(&mut lapics, &external), Delivered::default());
}

#[test]
fn a_level_triggered_message_is_ended_by_a_broadcast() {
    let mut lapics = several(1);
    deliver(&mut lapics, &Message { level: true, ..fixed(0x70) });
    assert_eq!(lapics[0].acknowledge(), 0x70);
    assert_eq!(put(&mut lapics[0], 0xb0, 0), Some(Request::EndOfInterrupt(0x70)));
    // The trigger mode is the last one's.
    deliver(&mut lapics, &Message { level: true, ..fixed(0x70) });
    deliver(&mut lapics, &fixed(0x70));
    assert_eq!(lapics[0].acknowledge(), 0x70);
    assert_eq!(put(&mut lapics[0], 0xb0, 0), None);
}
