//! Windows, lines and saved states of several devices.

use vm_memory::{Bytes, GuestAddress};

use super::super::testing::*;
use super::*;
use crate::virtio::console::Size;

const BASE: u64 = 0xd000_0000;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn bank() -> Bank<MemoryDisk> {
    Bank::new(
        BASE,
        vec![
            (5, Slot::disk(MemoryDisk::new(), false, b"root")),
            (9, Slot::net(Net::new(MAC))),
            (10, Slot::rng(Rng::new())),
            (11, Slot::console(Console::new(Size { cols: 80, rows: 25 }))),
            (12, Slot::disk(MemoryDisk::new(), true, b"data")),
        ],
    )
}

#[test]
fn every_slot_has_a_window_and_a_line() {
    let mut bank = bank();
    let places: Vec<_> = bank.places().collect();
    let expected = [(0, 5), (1, 9), (2, 10), (3, 11), (4, 12)];
    assert_eq!(places, expected.map(|(index, line)| (BASE + 0x1000 * index, line)));
    for (slot, id) in (0u64..).zip([2, 1, 4, 3, 2]) {
        assert_eq!(bank.read(BASE + 0x1000 * slot, 4), Some(0x7472_6976));
        assert_eq!(bank.read(BASE + 0x1000 * slot + 8, 4), Some(id));
        assert_eq!(bank.read(BASE + 0x1000 * slot + 0xffc, 4), Some(0));
    }
    let mem = memory();
    for outside in [0, BASE - 4, BASE + 0x5000, u64::MAX] {
        assert_eq!(bank.read(outside, 4), None);
        assert_eq!(bank.write(outside, 4, 0, &mem), None);
    }
    // Each answers for itself.
    let at = BASE + 0x3000 + 0x108;
    let served = bank.write(at, 1, b'!'.into(), &mem);
    let output = Output::Text(b"!".to_vec());
    assert_eq!(served, Some(Served { slot: 3, notified: false, output }));
    assert!(bank.write(BASE + 0x50, 4, 0, &mem).is_some_and(|served| served.notified));
    assert!(bank.lines().all(|(_, level)| !level));
    assert!(bank.slot(0).unwrap().as_net().is_none() && bank.slot(1).unwrap().as_net().is_some());
    assert!(bank.slot(2).unwrap().as_rng().is_some() && bank.slot(3).unwrap().as_console().is_some());
    assert!(bank.slot(4).unwrap().as_disk().is_some() && bank.slot(5).is_none());
}

#[test]
fn a_frame_comes_out_of_the_slot_that_sent_it() {
    let mut bank = bank();
    let mem = memory();
    let mut driver = Machine::hosted(Net::new(MAC), Vec::new());
    driver.start();
    // The driver's rings and registers, in the bank's device and memory.
    bank.slot(1).unwrap().restore(SlotState::Net(driver.mmio.save())).unwrap();
    driver.submit_to(1, &[(0x1_0000, 72, 0)]);
    let bytes = driver.bytes(0, RAM);
    mem.write_slice(&bytes, GuestAddress(0)).unwrap();
    let served = bank.write(BASE + 0x1000 + mmio::QUEUE_NOTIFY, 4, 1, &mem).unwrap();
    assert_eq!((served.slot, served.notified), (1, true));
    assert_eq!(served.output, Output::Frames(vec![Frame::new(vec![0; 60]).unwrap()]));
    assert_eq!(
        bank.lines().collect::<Vec<_>>(),
        [(5, false), (9, true), (10, false), (11, false), (12, false)]
    );
}

#[test]
fn a_state_fits_its_own_slot_only() {
    let mut bank = bank();
    let states: Vec<_> = bank.slots().map(Slot::save).collect();
    for (index, state) in states.iter().enumerate() {
        for (target, (slot, own)) in bank.slots_mut().zip(&states).enumerate() {
            let result = slot.restore(state.clone());
            assert_eq!(result.is_ok(), index == target, "{index} into {target}: {result:?}");
            assert_eq!(slot.save(), *own);
        }
    }
    let kinds: Vec<_> = bank.slots().map(|slot| (slot.kind(), slot.version())).collect();
    let expected = [
        ("virtio-blk", 0x102),
        ("virtio-net", 0x101),
        ("virtio-rng", 0x101),
        ("virtio-console", 0x101),
        ("virtio-blk", 0x102),
    ];
    assert_eq!(kinds, expected);
}
