//! Requests that wait for bytes, are taken back, or are none.

use virtio_bindings::virtio_mmio::VIRTIO_MMIO_QUEUE_READY;
use vm_memory::{Bytes, GuestAddress};

use super::super::testing::*;
use super::*;
use crate::testing::conforms;

const DATA: u64 = 0x1_0000;

fn started() -> Machine<Rng> {
    let mut machine = Machine::hosted(Rng::new(), ());
    machine.start();
    machine
}

#[test]
fn what_is_offered() {
    let mut machine = started();
    assert_eq!((machine.read(8), machine.features()), (4, 1 << 32));
    assert_eq!(machine.mmio.read(0x100, 8), 0);
}

#[test]
fn a_request_waits_for_bytes() {
    let mut machine = started();
    assert_eq!((machine.mmio.wanted(), machine.mmio.supply(&[1; 8], &machine.mem)), (0, 0));
    machine.submit(&[(DATA, 6, WRITE), (DATA + 0x100, 10, WRITE)]);
    assert_eq!(machine.mmio.wanted(), 0, "nobody has said so yet");
    machine.notify();
    assert_eq!((machine.mmio.wanted(), machine.take_used()), (16, None));
    assert!(!machine.mmio.irq_level());
    assert_eq!(machine.mmio.supply(&[], &machine.mem), 0);
    let bytes: Vec<u8> = (1..=20).collect();
    assert_eq!(machine.mmio.supply(&bytes, &machine.mem), 16);
    assert_eq!((machine.mmio.wanted(), machine.take_used()), (0, Some((0, 16))));
    assert_eq!(machine.take_interrupt(), 1);
    assert_eq!(machine.bytes(DATA, 8), [1, 2, 3, 4, 5, 6, 0, 0]);
    assert_eq!(machine.bytes(DATA + 0x100, 11), [7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 0]);
}

#[test]
fn requests_are_answered_one_by_one_and_never_at_length() {
    let mut machine = started();
    machine.submit(&[(DATA, 4096, WRITE)]);
    machine.submit(&[(DATA + 0x1000, 4, WRITE)]);
    machine.notify();
    assert_eq!(machine.mmio.wanted(), MAX_SUPPLY);
    assert_eq!(machine.mmio.supply(&[7; 1000], &machine.mem), 256);
    assert_eq!((machine.mmio.wanted(), machine.take_used()), (4, Some((0, 256))));
    // Fewer than it asked for.
    assert_eq!(machine.mmio.supply(&[8; 3], &machine.mem), 3);
    assert_eq!((machine.mmio.wanted(), machine.take_used()), (0, Some((1, 3))));
    assert_eq!(machine.mmio.supply(&[9; 3], &machine.mem), 0);
}

#[test]
fn a_request_that_is_taken_back_gets_nothing() {
    // By a reset of the device, or of the queue, or quietly.
    let mut machine = started();
    machine.submit(&[(DATA, 4, WRITE)]);
    machine.notify();
    machine.write(STATUS, 0);
    assert_eq!((machine.mmio.wanted(), machine.mmio.supply(&[1; 4], &machine.mem)), (0, 0));

    let mut machine = started();
    machine.submit(&[(DATA, 4, WRITE)]);
    machine.notify();
    machine.write(VIRTIO_MMIO_QUEUE_READY.into(), 0);
    assert_eq!((machine.mmio.wanted(), machine.mmio.supply(&[1; 4], &machine.mem)), (0, 0));

    let mut machine = started();
    machine.submit(&[(DATA, 4, WRITE)]);
    machine.notify();
    machine.mem.write_obj(0u16, GuestAddress(AVAIL_RING + 2)).unwrap();
    assert_eq!((machine.mmio.wanted(), machine.mmio.supply(&[1; 4], &machine.mem)), (4, 0));
    assert_eq!((machine.mmio.wanted(), machine.bytes(DATA, 4)), (0, vec![0; 4]));
    assert!(!machine.needs_reset());
}

#[test]
fn a_request_that_changes_gets_what_it_asks_for_then() {
    let mut machine = started();
    machine.submit(&[(DATA, 4, WRITE)]);
    machine.notify();
    machine.put_descriptor(DESC_TABLE, 0, DATA, 2, WRITE, 0);
    assert_eq!((machine.mmio.wanted(), machine.mmio.supply(&[1; 4], &machine.mem)), (4, 2));
    // Into something that lies outside RAM.
    let mut machine = started();
    machine.submit(&[(DATA, 4, WRITE)]);
    machine.notify();
    machine.put_descriptor(DESC_TABLE, 0, RAM as u64 - 2, 4, WRITE, 0);
    assert_eq!(machine.mmio.supply(&[1; 4], &machine.mem), 0);
    assert_eq!((machine.mmio.fault(), machine.mmio.wanted()), (Some(Fault::Chain), 0));
}

#[test]
fn requests_that_are_none_end_in_a_fault() {
    let cases: [&[(u64, u32, u16)]; 3] =
        [&[(DATA, 4, 0)], &[(DATA, 4, 0), (DATA, 4, WRITE)], &[(DATA, 0, WRITE)]];
    for chain in cases {
        let mut machine = started();
        machine.submit(chain);
        machine.notify();
        assert_eq!((machine.mmio.fault(), machine.mmio.wanted()), (Some(Fault::Chain), 0));
        assert_eq!(machine.take_used(), None);
    }
    // The second of two, when the first is answered.
    let mut machine = started();
    machine.submit(&[(DATA, 4, WRITE)]);
    machine.submit(&[(DATA, 4, 0)]);
    machine.notify();
    machine.mmio.supply(&[5; 4], &machine.mem);
    assert_eq!(machine.mmio.fault(), Some(Fault::Chain));
    assert_eq!((machine.take_used(), machine.bytes(DATA, 4)), (Some((0, 4)), vec![5; 4]));
}

#[test]
fn conformance() {
    let mut machine = started();
    machine.submit(&[(DATA, 40, WRITE)]);
    let mem = &machine.mem;
    conforms(&mut machine.mmio, |mmio| mmio.write(super::super::mmio::QUEUE_NOTIFY, 4, 0, mem, &mut ()));
    machine.notify();
    conforms(&mut machine.mmio, |mmio| assert_eq!(mmio.supply(&[3; 40], &machine.mem), 40));
    let mut bad = machine.mmio.save();
    bad.device.wanted = MAX_SUPPLY + 1;
    assert!(matches!(machine.mmio.restore(bad), Err(RestoreError::Invalid { .. })));
}
