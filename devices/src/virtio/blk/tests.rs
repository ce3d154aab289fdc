//! Requests as a driver lays them out, requests no driver would send, and garbage in the rings.

use proptest::prelude::*;
use virtio_bindings::virtio_blk::*;
use vm_memory::GuestAddress;

use super::super::testing::*;
use super::*;

const HEADER: u64 = 0x8000;
const ANSWER: u64 = 0x9000;
const DATA: u64 = 0x1_0000;
const IN: u32 = VIRTIO_BLK_T_IN;
const OUT: u32 = VIRTIO_BLK_T_OUT;

/// Sends one request with `data` between header and status; gives the status byte and the used length.
fn request<P: Profile + 'static>(
    machine: &mut Machine<Blk<P>>,
    kind: u32,
    sector: u64,
    data: &[(u64, u32, u16)],
) -> (u8, u32) {
    machine.put_header(HEADER, kind, sector);
    machine.mem.write_slice(&[0xee], GuestAddress(ANSWER)).unwrap();
    let chain = [&[(HEADER, 16, 0)], data, &[(ANSWER, 1, WRITE)]].concat();
    let head = machine.submit(&chain);
    machine.notify();
    let (used, written) = machine.take_used().expect("the request is answered");
    assert_eq!(used, u32::from(head));
    (machine.bytes(ANSWER, 1)[0], written)
}

#[test]
fn reading_and_writing() {
    let mut machine = Machine::started();
    assert_eq!(request(&mut machine, IN, 7, &[(DATA, 1024, WRITE)]), (0, 1025));
    assert_eq!(machine.bytes(DATA, 1024), [[7; 512], [8; 512]].concat());

    machine.mem.write_slice(&[0xab; 512], GuestAddress(DATA)).unwrap();
    assert_eq!(request(&mut machine, OUT, 7, &[(DATA, 512, 0)]), (0, 1));
    assert_eq!(request(&mut machine, IN, 6, &[(DATA, 1536, WRITE)]), (0, 1537));
    assert_eq!(machine.bytes(DATA, 1536), [[6; 512], [0xab; 512], [8; 512]].concat());
    assert_eq!(machine.mmio.device_mut().take_backend_error().map(|error| error.sector), None);
}

#[test]
fn requests_split_anywhere() {
    let mut machine = Machine::started();
    machine.put_header(HEADER, IN, 3);
    // The header in three pieces; data and status share the last buffer.
    machine.submit(&[
        (HEADER, 1, 0),
        (HEADER + 1, 8, 0),
        (0, 0, 0),
        (HEADER + 9, 7, 0),
        (DATA, 100, WRITE),
        (u64::MAX, 0, WRITE),
        (DATA + 100, 413, WRITE),
    ]);
    machine.notify();
    assert_eq!(machine.take_used(), Some((0, 513)));
    assert_eq!(machine.bytes(DATA, 513), [&[3; 512][..], &[0]].concat());

    // Header and data in one buffer.
    machine.put_header(DATA, OUT, 9);
    machine.mem.write_slice(&[0x77; 512], GuestAddress(DATA + 16)).unwrap();
    let head = machine.submit(&[(DATA, 528, 0), (ANSWER, 1, WRITE)]);
    machine.notify();
    assert_eq!(machine.take_used(), Some((head.into(), 1)));
    assert_eq!(machine.disk.bytes[9 * 512..10 * 512], [0x77; 512]);
}

#[test]
fn long_requests_move_in_chunks() {
    let mut machine = Machine::started();
    let before = machine.disk.bytes.clone();
    let (len, cut) = (300 * 1024, 300 * 1024 - 1000);
    let read = request(&mut machine, IN, 100, &[(DATA, 1000, WRITE), (DATA + 1000, cut, WRITE)]);
    assert_eq!(read, (0, len + 1));
    assert_eq!(machine.bytes(DATA, 300 * 1024), before[100 * 512..700 * 512]);
    let written = request(&mut machine, OUT, 0, &[(DATA, cut, 0), (DATA + u64::from(cut), 1000, 0)]);
    assert_eq!(written, (0, 1));
    assert_eq!(machine.disk.bytes[..600 * 512], before[100 * 512..700 * 512]);
    assert_eq!(machine.disk.bytes[600 * 512..], before[600 * 512..]);
}

#[test]
fn flush_and_identification() {
    let mut machine = Machine::started();
    assert_eq!(request(&mut machine, VIRTIO_BLK_T_FLUSH, 0, &[]), (0, 1));
    assert_eq!(machine.disk.flushes, 1);
    assert_eq!(request(&mut machine, VIRTIO_BLK_T_GET_ID, 0, &[(DATA, 20, WRITE)]), (0, 21));
    assert_eq!(machine.bytes(DATA, 20), *b"root\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(request(&mut machine, VIRTIO_BLK_T_GET_ID, 0, &[(DATA, 2, WRITE)]), (0, 3));
    assert_eq!(request(&mut machine, VIRTIO_BLK_T_GET_ID, 0, &[(DATA, 99, WRITE)]), (0, 20));
    let long = Blk::<Basic>::new(SECTORS, false, &[b'x'; 30]);
    assert_eq!(long.save().id, [b'x'; 20]);
}

#[test]
fn the_whole_queue_is_served_at_once() {
    let mut machine = Machine::started();
    for sector in 0..8u32 {
        let header = HEADER + u64::from(sector) * 16;
        machine.put_header(header, IN, sector.into());
        machine.submit(&[(header, 16, 0), (DATA + u64::from(sector) * 512, 512, WRITE), (ANSWER, 1, WRITE)]);
    }
    machine.notify();
    for sector in 0..8 {
        assert_eq!(machine.take_used(), Some((sector * 3, 513)));
    }
    assert_eq!(machine.bytes(DATA, 4096), machine.disk.bytes[..4096]);
}

#[test]
fn the_rings_wrap() {
    let mut machine = Machine::started();
    for round in 0..300u64 {
        assert_eq!(request(&mut machine, IN, round, &[(DATA, 512, WRITE)]), (0, 513));
        assert_eq!(machine.bytes(DATA, 1)[0], round.to_le_bytes()[0]);
    }
}

#[test]
fn a_driver_that_polls_is_not_interrupted() {
    let mut machine = Machine::started();
    machine.mem.write_obj(1u16, GuestAddress(AVAIL_RING)).unwrap();
    assert_eq!(request(&mut machine, VIRTIO_BLK_T_FLUSH, 0, &[]).0, 0);
    assert!(!machine.mmio.irq_level());
    machine.mem.write_obj(0u16, GuestAddress(AVAIL_RING)).unwrap();
    assert_eq!(request(&mut machine, VIRTIO_BLK_T_FLUSH, 0, &[]).0, 0);
    assert!(machine.mmio.irq_level());
}

#[test]
fn impossible_requests_are_answered() {
    let mut machine = Machine::started();
    for (sector, len) in
        [(SECTORS, 512), (SECTORS - 1, 1024), (u64::MAX, 512), (0, 511), (0, 1), (1 << 55, 512)]
    {
        assert_eq!(request(&mut machine, IN, sector, &[(DATA, len, WRITE)]), (1, 0), "{sector}, {len}");
        assert_eq!(request(&mut machine, OUT, sector, &[(DATA, len, 0)]), (1, 1), "{sector}, {len}");
    }
    for kind in [2, 3, 11, 13, u32::MAX] {
        assert_eq!(request(&mut machine, kind, 0, &[]), (2, 1));
        assert_eq!(request(&mut machine, kind, 0, &[(DATA, 512, WRITE)]), (2, 0));
    }
    // Requests for no data at all.
    assert_eq!(request(&mut machine, IN, SECTORS, &[]), (0, 1));
    assert_eq!(request(&mut machine, OUT, SECTORS, &[]), (0, 1));
    // Half a header.
    machine.submit(&[(HEADER, 15, 0), (ANSWER, 1, WRITE)]);
    machine.notify();
    assert_eq!(machine.bytes(ANSWER, 1), [1]);
    assert!(!machine.needs_reset());
    assert!(
        machine.mmio.device_mut().take_backend_error().is_none(),
        "the guest's mistakes are not the host's"
    );
}

#[test]
fn a_read_only_disk_says_so() {
    let mut machine = Machine::with(Blk::<Basic>::new(SECTORS, true, b"ro"));
    assert_ne!(machine.features() & 1 << VIRTIO_BLK_F_RO, 0);
    machine.start();
    let before = machine.disk.clone();
    assert_eq!(request(&mut machine, OUT, 0, &[(DATA, 512, 0)]).0, 1);
    assert_eq!(request(&mut machine, IN, 0, &[(DATA, 512, WRITE)]).0, 0);
    assert_eq!(machine.disk, before);
}

#[test]
fn errors_of_the_host_are_kept_for_the_machine() {
    for (kind, data, operation) in [
        (IN, &[(DATA, 512, WRITE)][..], BlockOperation::Read),
        (OUT, &[(DATA, 512, 0)], BlockOperation::Write),
        (VIRTIO_BLK_T_FLUSH, &[], BlockOperation::Flush),
    ] {
        let mut machine = Machine::started();
        machine.disk.broken = true;
        let sector = if kind == VIRTIO_BLK_T_FLUSH { 0 } else { 5 };
        assert_eq!(request(&mut machine, kind, sector, data).0, 1);
        let error = machine.mmio.device_mut().take_backend_error().expect("kept");
        assert_eq!((error.operation, error.sector), (operation, sector));
        assert_eq!(error.source.to_string(), "medium error");
        assert!(machine.mmio.device_mut().take_backend_error().is_none());
    }
}

#[test]
fn malformed_chains_end_in_a_fault() {
    type Layout = fn(&mut Machine);
    let chains: [&[(u64, u32, u16)]; 6] = [
        // Nowhere to put a status.
        &[(HEADER, 16, 0)],
        &[(HEADER, 16, 0), (ANSWER, 0, WRITE)],
        // Readable after writable.
        &[(HEADER, 16, 0), (ANSWER, 1, WRITE), (DATA, 512, 0)],
        // Outside RAM.
        &[(HEADER, 16, 0), (RAM as u64 - 1, 512, WRITE), (ANSWER, 1, WRITE)],
        &[(u64::MAX - 8, 16, 0), (ANSWER, 1, WRITE)],
        // More than 4 GiB.
        &[(0, u32::MAX, 0), (0, u32::MAX, 0), (ANSWER, 1, WRITE)],
    ];
    let layouts: [Layout; 3] = [
        // A loop.
        |m| {
            m.put_descriptor(DESC_TABLE, 0, HEADER, 16, NEXT, 1);
            m.put_descriptor(DESC_TABLE, 1, HEADER, 16, NEXT, 0);
            m.make_available(0);
        },
        // The next descriptor does not exist.
        |m| {
            m.put_descriptor(DESC_TABLE, 0, HEADER, 16, NEXT, RING_SIZE);
            m.make_available(0);
        },
        // An indirect table longer than the queue.
        |m| {
            for index in 0..1000 {
                m.put_descriptor(DATA, index, HEADER, 1, NEXT, index + 1);
            }
            m.put_descriptor(DESC_TABLE, 0, DATA, 16_000, INDIRECT, 0);
            m.make_available(0);
        },
    ];
    let faulty = |mut machine: Machine| {
        machine.notify();
        assert_eq!(machine.mmio.fault(), Some(Fault::Chain));
        assert_eq!(machine.take_used(), None);
    };
    for chain in chains {
        let mut machine = Machine::started();
        machine.submit(chain);
        faulty(machine);
    }
    for layout in layouts {
        let mut machine = Machine::started();
        layout(&mut machine);
        faulty(machine);
    }
}

#[test]
fn data_that_falls_on_the_rings_cannot_keep_the_device_busy() {
    // The disk's contents become the available ring, whose index then runs ahead for ever.
    let mut machine = Machine::started();
    machine.put_header(HEADER, IN, 200);
    machine.submit(&[(HEADER, 16, 0), (AVAIL_RING, 512, WRITE), (ANSWER, 1, WRITE)]);
    machine.notify();
    assert_eq!(machine.take_used(), Some((0, 513)));
    machine.notify();
    assert_eq!(machine.mmio.fault(), Some(Fault::AvailableRing));
}

/// Descriptors that are sometimes plausible.
fn descriptor() -> impl Strategy<Value = (u64, u32, u16, u16)> {
    let addr = prop_oneof![
        Just(HEADER),
        Just(DATA),
        Just(DESC_TABLE),
        Just(AVAIL_RING),
        Just(USED_RING),
        (0..RAM as u64 + 0x100),
        any::<u64>(),
    ];
    let len = prop_oneof![Just(16u32), Just(1), Just(512), Just(1024), 0..0x2000u32, any::<u32>()];
    let flags = prop_oneof![0..4u16, 0..4u16, any::<u16>()];
    (addr, len, flags, prop_oneof![0..12u16, any::<u16>()])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn garbage_in_the_rings_is_survived_and_repeats(
        kind in prop_oneof![0..14u32, any::<u32>()],
        sector in prop_oneof![0..SECTORS + 2, any::<u64>()],
        descriptors in prop::collection::vec(descriptor(), 1..12),
        heads in prop::collection::vec(prop_oneof![0..12u16, any::<u16>()], 1..12),
        index in prop_oneof![0..16u16, any::<u16>()],
    ) {
        let mut results = Vec::new();
        for _ in 0..2 {
            let mut machine = Machine::started();
            machine.put_header(HEADER, kind, sector);
            for (slot, (addr, len, flags, next)) in (0..).zip(&descriptors) {
                machine.put_descriptor(DESC_TABLE, slot, *addr, *len, *flags, *next);
            }
            for head in &heads {
                machine.make_available(*head);
            }
            machine.notify();
            machine.mem.write_obj(index, GuestAddress(AVAIL_RING + 2)).unwrap();
            machine.notify();
            let state = machine.mmio.save();
            machine.mmio.restore(state.clone()).unwrap();
            prop_assert_eq!(machine.mmio.save(), state.clone());
            let ram = machine.bytes(0, RAM);
            results.push((state, machine.disk, ram));
        }
        prop_assert!(results[0] == results[1]);
    }

    #[test]
    fn what_is_written_is_read_back(
        sector in 0..SECTORS - 32,
        cuts in prop::collection::vec(1..3000u32, 1..6),
        sectors in 1..32u32,
        seed: u8,
    ) {
        let mut machine = Machine::started();
        let len = sectors * 512;
        let split = |flags| {
            let (mut pieces, mut at) = (Vec::new(), 0);
            for cut in &cuts {
                let piece = (*cut).min(len - at);
                pieces.push((DATA + u64::from(at), piece, flags));
                at += piece;
            }
            pieces.push((DATA + u64::from(at), len - at, flags));
            pieces
        };
        let data: Vec<u8> = (0..len).map(|index| index.to_le_bytes()[0] ^ seed).collect();
        machine.mem.write_slice(&data, GuestAddress(DATA)).unwrap();
        prop_assert_eq!(request(&mut machine, OUT, sector, &split(0)).0, 0);
        machine.mem.write_slice(&vec![0; data.len()], GuestAddress(DATA)).unwrap();
        prop_assert_eq!(request(&mut machine, IN, sector, &split(WRITE)), (0, len + 1));
        prop_assert_eq!(machine.bytes(DATA, data.len()), data);
    }
}
