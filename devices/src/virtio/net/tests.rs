//! Frames in both directions, frames that are none, and a link that goes down.

use vm_memory::{Bytes, GuestAddress};

use super::super::testing::*;
use super::*;
use crate::testing::conforms;

const DATA: u64 = 0x1_0000;
const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];

fn started() -> Machine<Net> {
    let mut machine = Machine::hosted(Net::new(MAC), Vec::new());
    machine.start();
    machine
}

fn frame(len: usize) -> Frame {
    Frame::new((0..len).map(|index| index.to_le_bytes()[0]).collect()).unwrap()
}

/// Puts `bytes` behind a header whose first two bytes are these, and sends it.
fn send(machine: &mut Machine<Net>, header: [u8; 2], bytes: &[u8]) {
    let mut all = header.to_vec();
    all.extend([0; 10]);
    all.extend(bytes);
    machine.mem.write_slice(&all, GuestAddress(DATA)).unwrap();
    let len = u32::try_from(all.len()).unwrap();
    // Cut somewhere in the header, as a driver may.
    machine.submit_to(1, &[(DATA, 5, 0), (DATA + 5, len - 5, 0)]);
    machine.notify_queue(1);
    assert!(machine.take_used_from(1).is_some_and(|(_, written)| written == 0));
}

#[test]
fn only_ethernet_has_frames() {
    for (len, is_frame) in [(0, false), (13, false), (14, true), (1518, true), (1519, false)] {
        assert_eq!(Frame::new(vec![0; len]).is_some(), is_frame, "{len}");
    }
    assert_eq!(frame(20).into_bytes().len(), 20);
}

#[test]
fn what_is_offered_and_configured() {
    let mut machine = started();
    assert_eq!(machine.read(8), 1);
    assert_eq!(machine.features(), 1 << 32 | 1 << 5 | 1 << 16);
    assert_eq!(machine.mmio.read(0x100, 4), 0x0100_5452);
    assert_eq!(machine.mmio.read(0x104, 2), 0x0302);
    assert_eq!(machine.mmio.read(0x106, 2), 1);
    assert_eq!(machine.mmio.read(0x108, 8), 0);
}

#[test]
fn sent_frames_are_handed_out_in_order() {
    let mut machine = started();
    for len in [14, 60, 1514, 1518] {
        send(&mut machine, [0, 0], frame(len).bytes());
    }
    assert_eq!(machine.disk, [14, 60, 1514, 1518].map(frame));
    assert_eq!(machine.take_interrupt(), 1);
    // A driver that reclaims by itself is not interrupted.
    machine.mem.write_obj(1u16, GuestAddress(AVAIL_RING + QUEUE_STRIDE)).unwrap();
    send(&mut machine, [0, 0], frame(60).bytes());
    assert_eq!((machine.take_interrupt(), machine.disk.len()), (0, 5));
}

#[test]
fn what_is_no_frame_is_not_sent() {
    let mut machine = started();
    let cases: [([u8; 2], usize); 5] =
        [([0, 0], 13), ([0, 0], 1519), ([1, 0], 60), ([0, 1], 60), ([0, 0], 9000)];
    for (header, len) in cases {
        send(&mut machine, header, &vec![1; len]);
    }
    // Not even a header.
    machine.submit_to(1, &[(DATA, 11, 0)]);
    machine.notify_queue(1);
    assert!(machine.disk.is_empty());
    assert!(!machine.needs_reset());
    // Gigabytes.
    machine.submit_to(1, &[(0, 0x10_0000, 0); 100]);
    machine.notify_queue(1);
    assert!(machine.disk.is_empty() && !machine.needs_reset());
}

#[test]
fn received_frames_are_in_the_next_buffer() {
    let mut machine = started();
    assert_eq!(machine.mmio.receive_room(&machine.mem), 0);
    assert_eq!(machine.mmio.receive(&frame(60), &machine.mem), Receipt::NoBuffer);
    for index in 0..3 {
        machine.submit(&[(DATA + 0x1000 * index, 12, WRITE), (DATA + 0x1000 * index + 12, 1514, WRITE)]);
    }
    machine.notify();
    assert!(!machine.mmio.irq_level());
    assert_eq!(machine.mmio.receive_room(&machine.mem), 3);
    assert_eq!(machine.mmio.receive(&frame(60), &machine.mem), Receipt::Accepted);
    assert_eq!(machine.mmio.receive(&frame(1514), &machine.mem), Receipt::Accepted);
    assert_eq!(machine.take_interrupt(), 1);
    assert_eq!(machine.mmio.receive_room(&machine.mem), 1);
    assert_eq!(machine.take_used(), Some((0, 72)));
    assert_eq!(machine.take_used(), Some((2, 1526)));
    assert_eq!(machine.take_used(), None);
    assert_eq!(machine.bytes(DATA, 12), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(machine.bytes(DATA + 12, 60), frame(60).bytes());
    assert_eq!(machine.bytes(DATA + 0x1000 + 12, 1514), frame(1514).bytes());
}

#[test]
fn a_buffer_that_is_too_small_waits_for_a_shorter_frame() {
    let mut machine = started();
    machine.submit(&[(DATA, 100, WRITE)]);
    let before = machine.mmio.save();
    assert_eq!(machine.mmio.receive(&frame(89), &machine.mem), Receipt::SmallBuffer);
    assert_eq!(machine.mmio.save(), before);
    assert_eq!(machine.mmio.receive(&frame(88), &machine.mem), Receipt::Accepted);
    assert_eq!(machine.take_used(), Some((0, 100)));
}

#[test]
fn malformed_buffers_end_in_a_fault() {
    // A receive buffer that the device cannot write, a transmit buffer that it shall write.
    for (queue, flags) in [(0, 0), (1, WRITE)] {
        let mut machine = started();
        machine.submit_to(queue, &[(DATA, 1600, flags)]);
        machine.notify_queue(queue);
        if queue == 0 {
            assert_eq!(machine.mmio.receive(&frame(60), &machine.mem), Receipt::NotRunning);
        }
        assert_eq!(machine.mmio.fault(), Some(Fault::Chain), "{queue}");
        assert_eq!(machine.mmio.receive(&frame(60), &machine.mem), Receipt::NotRunning);
        assert_eq!(machine.mmio.receive_room(&machine.mem), 0);
    }
    // A ring that makes no sense is found out by the notification.
    let mut machine = started();
    machine.mem.write_obj(999u16, GuestAddress(AVAIL_RING + 2)).unwrap();
    assert_eq!(machine.mmio.receive_room(&machine.mem), 0);
    machine.notify();
    assert_eq!(machine.mmio.fault(), Some(Fault::AvailableRing));
}

#[test]
fn without_a_driver_nothing_is_received() {
    let mut machine = Machine::hosted(Net::new(MAC), Vec::new());
    let before = machine.mmio.save();
    assert_eq!(machine.mmio.receive(&frame(60), &machine.mem), Receipt::NotRunning);
    assert_eq!(machine.mmio.save(), before);
    machine.start();
    machine.submit(&[(DATA, 1600, WRITE)]);
    machine.write(STATUS, 0);
    assert_eq!(machine.mmio.receive(&frame(60), &machine.mem), Receipt::NotRunning);
}

#[test]
fn the_driver_is_told_of_the_link() {
    let mut machine = started();
    machine.submit(&[(DATA, 1600, WRITE)]);
    machine.mmio.set_link(true);
    assert_eq!(machine.take_interrupt(), 0, "no change");
    machine.mmio.set_link(false);
    assert_eq!((machine.take_interrupt(), machine.mmio.read(0x106, 2), machine.read(0xfc)), (2, 0, 1));
    assert_eq!(machine.mmio.receive(&frame(60), &machine.mem), Receipt::LinkDown);
    assert_eq!(machine.mmio.receive_room(&machine.mem), 0);
    send(&mut machine, [0, 0], frame(60).bytes());
    assert!(machine.disk.is_empty(), "the wire is cut");
    assert_eq!(machine.take_interrupt(), 1);

    // The link is the wire's: a reset does not mend it.
    machine.start();
    assert_eq!(machine.mmio.read(0x106, 2), 0);
    machine.mmio.set_link(true);
    assert_eq!((machine.take_interrupt(), machine.mmio.read(0x106, 2)), (2, 1));

    // Nobody is there to be told.
    machine.write(STATUS, 0);
    machine.mmio.set_link(false);
    assert!(!machine.mmio.irq_level());
}

#[test]
fn conformance() {
    let mut machine = started();
    machine.submit(&[(DATA, 1600, WRITE)]);
    let mem = memory();
    conforms(&mut machine.mmio, |mmio| mmio.set_link(false));
    conforms(&mut machine.mmio, |mmio| {
        mmio.write(STATUS, 4, 0, &mem, &mut Vec::new());
    });
    let mut machine = started();
    machine.submit(&[(DATA, 1600, WRITE)]);
    let index = [1u8, 0];
    conforms(&mut machine.mmio, |mmio| {
        machine.mem.write_slice(&index, GuestAddress(AVAIL_RING + 2)).unwrap();
        machine.mem.write_slice(&[0, 0], GuestAddress(USED_RING + 2)).unwrap();
        assert_eq!(mmio.receive(&frame(60), &machine.mem), Receipt::Accepted);
    });
    let other = VirtioMmio::new(Net::new([2; 6])).save();
    assert!(matches!(machine.mmio.restore(other), Err(RestoreError::Configuration { .. })));
}
