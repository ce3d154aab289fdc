//! Printing, typing, resizing, and emergencies.

use virtio_bindings::virtio_mmio::VIRTIO_MMIO_QUEUE_READY;
use vm_memory::{Bytes, GuestAddress};

use super::super::testing::*;
use super::*;
use crate::testing::conforms;

const DATA: u64 = 0x1_0000;
const SIZE: Size = Size { cols: 80, rows: 25 };

fn started() -> Machine<Console> {
    let mut machine = Machine::hosted(Console::new(SIZE), Vec::new());
    machine.start();
    machine
}

#[test]
fn what_is_offered_and_configured() {
    let mut machine = started();
    assert_eq!((machine.read(8), machine.features()), (3, 1 << 32 | 1 << 0 | 1 << 2));
    assert_eq!((machine.mmio.read(0x100, 2), machine.mmio.read(0x102, 2)), (80, 25));
    assert_eq!((machine.read(0x104), machine.read(0x108)), (0, 0));
}

#[test]
fn printed_bytes_are_handed_out() {
    let mut machine = started();
    machine.mem.write_slice(b"hello, world", GuestAddress(DATA)).unwrap();
    machine.submit_to(1, &[(DATA, 5, 0), (DATA + 5, 2, 0)]);
    machine.submit_to(1, &[(DATA + 7, 5, 0)]);
    machine.submit_to(1, &[(DATA, 0, 0)]);
    machine.notify_queue(1);
    assert_eq!(machine.disk, b"hello, world");
    assert_eq!([(); 4].map(|()| machine.take_used_from(1)), [Some((0, 0)), Some((2, 0)), Some((3, 0)), None]);
    assert_eq!(machine.take_interrupt(), 1);
}

#[test]
fn typed_bytes_wait_for_room() {
    let mut machine = started();
    assert_eq!(machine.mmio.receive(b"abcdef", &machine.mem), 6);
    assert_eq!((machine.mmio.backlog_len(), machine.take_interrupt()), (6, 0));
    machine.submit(&[(DATA, 2, WRITE), (DATA + 0x10, 2, WRITE)]);
    machine.notify();
    assert_eq!((machine.take_used(), machine.bytes(DATA, 3)), (Some((0, 4)), b"ab\0".to_vec()));
    assert_eq!((machine.bytes(DATA + 0x10, 3), machine.take_interrupt()), (b"cd\0".to_vec(), 1));
    for index in 1..4 {
        machine.submit(&[(DATA + 0x100 * index, 16, WRITE)]);
    }
    machine.notify();
    assert_eq!((machine.take_used(), machine.bytes(DATA + 0x100, 3)), (Some((2, 2)), b"ef\0".to_vec()));
    assert_eq!(machine.take_used(), None, "nothing more to give");
    // There is room now: bytes go in at once.
    machine.take_interrupt();
    assert_eq!(machine.mmio.receive(b"0123456789abcdef+", &machine.mem), 17);
    assert_eq!((machine.take_used(), machine.take_used()), (Some((3, 16)), Some((4, 1))));
    assert_eq!((machine.mmio.backlog_len(), machine.take_interrupt()), (0, 1));
}

#[test]
fn the_backlog_has_an_end_and_outlives_the_driver() {
    let mut machine = Machine::hosted(Console::new(SIZE), Vec::new());
    assert_eq!(machine.mmio.receive(&[b'x'; BACKLOG + 5], &machine.mem), BACKLOG);
    assert_eq!((machine.mmio.receive(b"y", &machine.mem), machine.mmio.receive_room()), (0, 0));
    machine.start();
    assert_eq!(machine.mmio.backlog_len(), BACKLOG);
    machine.submit(&[(DATA, 0x8000, WRITE)]);
    machine.notify();
    assert_eq!((machine.take_used(), machine.mmio.receive_room()), (Some((0, 0x8000)), 0x8000));
}

#[test]
fn malformed_buffers_end_in_a_fault() {
    let long = [(0, 0x8000, 0), (0, 0x8000, 0), (0, 1, 0)];
    type Buffers<'a> = &'a [(u64, u32, u16)];
    let cases: [(u16, Buffers<'_>); 4] =
        [(0, &[(DATA, 4, 0)]), (0, &[(DATA, 0, WRITE)]), (1, &[(DATA, 4, WRITE)]), (1, &long)];
    for (queue, chain) in cases {
        let mut machine = started();
        machine.submit_to(queue, chain);
        machine.notify_queue(queue);
        if queue == 0 {
            machine.mmio.receive(b"x", &machine.mem);
        }
        assert_eq!(machine.mmio.fault(), Some(Fault::Chain), "{queue} {chain:x?}");
        assert!(machine.disk.is_empty());
    }
    let mut machine = started();
    machine.submit_to(1, &long[..2]);
    machine.notify_queue(1);
    assert_eq!((machine.mmio.fault(), machine.disk.len()), (None, MAX_WRITE));
}

#[test]
fn the_driver_is_told_of_a_new_size() {
    let mut machine = started();
    machine.mmio.resize(SIZE);
    assert_eq!((machine.take_interrupt(), machine.read(0xfc)), (0, 0));
    machine.mmio.resize(Size { cols: 132, rows: 50 });
    assert_eq!((machine.take_interrupt(), machine.read(0xfc)), (2, 1));
    assert_eq!((machine.mmio.read(0x100, 2), machine.mmio.read(0x102, 2)), (132, 50));
}

#[test]
fn emergency_writes_need_no_driver() {
    let mut machine = Machine::hosted(Console::new(SIZE), Vec::new());
    for (offset, size, value) in [
        (0x108, 4, 0x1234_5641),
        (0x108, 1, 0x42),
        (0x108, 8, 0x43),
        (0x109, 1, 0x44),
        (0x100, 4, 0x45),
        (0x108, 3, 0x46),
    ] {
        machine.write_sized(offset, size, value);
    }
    assert_eq!(machine.disk, b"ABC");
    assert_eq!(machine.mmio.read(0x100, 2), 80);
}

#[test]
fn conformance() {
    let mut machine = started();
    let mem = memory();
    conforms(&mut machine.mmio, |mmio| mmio.resize(Size { cols: 1, rows: 2 }));
    conforms(&mut machine.mmio, |mmio| assert_eq!(mmio.receive(b"typed", &mem), 5));
    conforms(&mut machine.mmio, |mmio| {
        mmio.write(VIRTIO_MMIO_QUEUE_READY.into(), 4, 0, &mem, &mut Vec::new());
    });
    let mut bad = machine.mmio.save();
    bad.device.backlog = vec![0; BACKLOG + 1];
    assert!(matches!(machine.mmio.restore(bad), Err(RestoreError::Invalid { .. })));
}
