//! The full profile: ranges that become zeros, read-only disks, and errors of the host that a replay repeats.

use virtio_bindings::virtio_blk::*;
use vm_memory::GuestAddress;

use super::super::testing::*;
use super::*;
use crate::virtio::mmio::VirtioMmio;

const HEADER: u64 = 0xa000;
const ANSWER: u64 = 0xb000;
const DATA: u64 = 0x1_0000;

/// Sends one request with `data` for the device; gives the status byte.
fn request(machine: &mut Machine<Blk<Full>>, kind: u32, sector: u64, data: &[u8]) -> u8 {
    machine.put_header(HEADER, kind, sector);
    machine.mem.write_slice(data, GuestAddress(DATA)).unwrap();
    machine.mem.write_slice(&[0xee], GuestAddress(ANSWER)).unwrap();
    let len = u32::try_from(data.len()).unwrap();
    machine.submit(&[(HEADER, 16, 0), (DATA, len, 0), (ANSWER, 1, WRITE)]);
    machine.notify();
    assert!(machine.take_used().is_some());
    machine.bytes(ANSWER, 1)[0]
}

fn ranges(list: &[(u64, u32, u32)]) -> Vec<u8> {
    let one = |(sector, count, flags): &(u64, u32, u32)| {
        [&sector.to_le_bytes()[..], &count.to_le_bytes(), &flags.to_le_bytes()].concat()
    };
    list.iter().flat_map(one).collect()
}

#[test]
fn what_is_offered_and_configured() {
    let mut machine = Machine::full(true);
    assert_eq!(machine.features(), 1 << 32 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 13 | 1 << 14);
    let fields: Vec<u64> = (0..16).map(|field| machine.mmio.read(0x100 + 4 * field, 4)).collect();
    let range = 1 << 19;
    assert_eq!(fields, [SECTORS, 0, 0, 254, 0, 512, 0, 0, 0, range, 16, 8, range, 16, 1, 0]);
    assert_eq!(VirtioMmio::<Blk<Full>>::VERSION, 0x102);
    assert_eq!(VirtioMmio::<Blk>::VERSION, 0x101, "the disk of scribe-pc-1 is frozen");
}

#[test]
fn ranges_become_zeros() {
    for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
        let mut machine = Machine::full(false);
        let mut expected = machine.disk.bytes.clone();
        let list = [(3, 1, 0), (SECTORS - 40, 40, 0), (7, 0, 0)];
        assert_eq!(request(&mut machine, kind, 0, &ranges(&list)), 0);
        for (sector, count, _) in list {
            let start = usize::try_from(sector).unwrap() * 512;
            expected[start..][..usize::try_from(count).unwrap() * 512].fill(0);
        }
        assert_eq!(machine.disk.bytes, expected);
    }
    let mut machine = Machine::full(false);
    assert_eq!(request(&mut machine, VIRTIO_BLK_T_WRITE_ZEROES, 0, &ranges(&[(1, 1, 1)])), 0);
    assert_eq!(machine.disk.bytes[512..1024], [0; 512]);
}

#[test]
fn ranges_that_make_no_sense_change_nothing() {
    let (io_error, unsupported) = (1, 2);
    let many = vec![(0, 1, 0); 17];
    let cases: [(u32, Vec<u8>, u8); 10] = [
        (VIRTIO_BLK_T_DISCARD, ranges(&[(0, 1, 0), (SECTORS, 1, 0)]), io_error),
        (VIRTIO_BLK_T_DISCARD, ranges(&[(u64::MAX, 2, 0)]), io_error),
        (VIRTIO_BLK_T_WRITE_ZEROES, ranges(&[(0, u32::MAX, 0)]), io_error),
        (VIRTIO_BLK_T_WRITE_ZEROES, ranges(&many), io_error),
        (VIRTIO_BLK_T_WRITE_ZEROES, vec![0; 15], io_error),
        (VIRTIO_BLK_T_WRITE_ZEROES, vec![], io_error),
        (VIRTIO_BLK_T_DISCARD, ranges(&[(0, 1, 1)]), unsupported),
        (VIRTIO_BLK_T_WRITE_ZEROES, ranges(&[(0, 1, 2)]), unsupported),
        (VIRTIO_BLK_T_WRITE_ZEROES, ranges(&[(0, 1, 0), (0, 1, 1 << 31)]), unsupported),
        (VIRTIO_BLK_T_SECURE_ERASE, ranges(&[(0, 1, 0)]), unsupported),
    ];
    for (kind, data, status) in cases {
        let mut machine = Machine::full(false);
        let before = machine.disk.clone();
        assert_eq!(request(&mut machine, kind, 0, &data), status, "{kind} {data:x?}");
        assert_eq!(machine.disk, before);
        assert!(machine.mmio.device_mut().take_backend_errors().is_empty());
    }
}

#[test]
fn what_was_not_negotiated_is_not_there() {
    let mut machine = Machine::with(Blk::<Full>::new(SECTORS, false, b"data"));
    machine.start_with(1 << 32 | 1 << 9);
    assert_eq!(request(&mut machine, VIRTIO_BLK_T_DISCARD, 0, &ranges(&[(0, 1, 0)])), 2);
    assert_eq!(request(&mut machine, VIRTIO_BLK_T_WRITE_ZEROES, 0, &ranges(&[(0, 1, 0)])), 2);
}

#[test]
fn a_read_only_disk_keeps_its_contents() {
    let mut machine = Machine::full(true);
    let before = machine.disk.clone();
    for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
        assert_eq!(request(&mut machine, kind, 0, &ranges(&[(0, 1, 0)])), 1);
    }
    assert_eq!(request(&mut machine, VIRTIO_BLK_T_OUT, 0, &[7; 512]), 1);
    assert_eq!(machine.disk, before);
}

/// Four requests in one notification: the first three meet a broken disk, each with its own number.
fn four_requests(machine: &mut Machine<Blk<Full>>) -> Vec<u8> {
    machine.mem.write_slice(&ranges(&[(9, 1, 0)]), GuestAddress(DATA)).unwrap();
    for (index, (kind, len, flags)) in [
        (VIRTIO_BLK_T_IN, 512, WRITE),
        (VIRTIO_BLK_T_OUT, 512, 0),
        (VIRTIO_BLK_T_DISCARD, 16, 0),
        (VIRTIO_BLK_T_GET_ID, 20, WRITE),
    ]
    .into_iter()
    .enumerate()
    {
        let index = index as u64;
        let data = if kind == VIRTIO_BLK_T_DISCARD { DATA } else { DATA + 0x1000 * (1 + index) };
        machine.put_header(HEADER + 16 * index, kind, 5);
        machine.submit(&[(HEADER + 16 * index, 16, 0), (data, len, flags), (ANSWER + index, 1, WRITE)]);
    }
    machine.notify();
    machine.bytes(ANSWER, 4)
}

#[test]
fn errors_of_the_host_can_be_repeated_without_it() {
    let mut broken = Machine::full(false);
    broken.disk.broken = true;
    assert_eq!(four_requests(&mut broken), [1, 1, 1, 0]);
    let errors = broken.mmio.device_mut().take_backend_errors();
    let seen: Vec<_> = errors.iter().map(|error| (error.operation, error.sector, error.number)).collect();
    use BlockOperation::{Read, Write, Zero};
    assert_eq!(seen, [(Read, 5, 0), (Write, 5, 1), (Zero, 9, 2)]);

    let mut replayed = Machine::full(false);
    let before = replayed.disk.clone();
    replayed.mmio.device_mut().fail_operations([0, 1, 2]);
    assert_eq!(four_requests(&mut replayed), [1, 1, 1, 0]);
    assert!(replayed.mmio.device_mut().take_backend_errors().is_empty());
    assert!(replayed.mmio.device_mut().take_unfailed().is_empty());
    assert_eq!(replayed.bytes(0, RAM), broken.bytes(0, RAM));
    assert_eq!(replayed.mmio.save(), broken.mmio.save());
    assert_eq!(replayed.disk, before, "the backend was not asked");

    // The next notification counts from 0 again, and what never happens is found.
    replayed.mmio.device_mut().fail_operations([4]);
    assert_eq!(four_requests(&mut replayed), [0, 0, 0, 0]);
    assert_eq!(replayed.mmio.device_mut().take_unfailed().into_iter().collect::<Vec<_>>(), [4]);
}

#[test]
fn a_disk_that_shrinks_gives_errors_not_other_data() {
    let mut machine = Machine::full(false);
    machine.disk.bytes.truncate(3 * 512);
    machine.disk.short = true;
    machine.put_header(HEADER, VIRTIO_BLK_T_IN, 2);
    machine.submit(&[(HEADER, 16, 0), (DATA, 1024, WRITE), (ANSWER, 1, WRITE)]);
    machine.notify();
    assert_eq!(machine.bytes(ANSWER, 1), [1]);
    assert_eq!(machine.mmio.device_mut().take_backend_errors().len(), 1);
    machine.put_header(HEADER, VIRTIO_BLK_T_IN, 2);
    machine.submit(&[(HEADER, 16, 0), (DATA, 512, WRITE), (ANSWER, 1, WRITE)]);
    machine.notify();
    assert_eq!((machine.bytes(ANSWER, 1), machine.bytes(DATA, 512)), (vec![0], vec![2; 512]));
}
