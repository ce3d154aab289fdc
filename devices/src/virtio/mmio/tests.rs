//! The registers as Linux's `virtio_mmio` uses them, and everything a driver must not do.

use proptest::prelude::*;

use super::super::testing::*;
use super::*;
use crate::snapshot::{RestoreError, Snapshot};
use crate::testing::conforms;
use crate::virtio::blk::{Basic, Blk};

const FEATURES_BLK: u64 = 1 << 2 | 1 << 6 | 1 << 9;

fn register(register: u32) -> u64 {
    u64::from(register)
}

#[test]
fn linux_identifies_the_device() {
    let machine = Machine::new();
    assert_eq!(machine.read(0).to_le_bytes()[..4], *b"virt");
    assert_eq!((machine.read(4), machine.read(8), machine.read(12)), (2, 2, 0x4252_4353));
    assert_eq!(machine.read(register(VIRTIO_MMIO_QUEUE_NUM_MAX)), 256);
    assert_eq!(machine.read(register(VIRTIO_MMIO_CONFIG_GENERATION)), 0);
    assert_eq!(machine.read(register(VIRTIO_MMIO_SHM_LEN_LOW)), 0xffff_ffff);
}

#[test]
fn features_are_offered_and_accepted() {
    let mut machine = Machine::new();
    assert_eq!(machine.features(), 1 << 32 | FEATURES_BLK);
    machine.write(register(VIRTIO_MMIO_DEVICE_FEATURES_SEL), 2);
    assert_eq!(machine.read(register(VIRTIO_MMIO_DEVICE_FEATURES)), 0);
    for (features, accepted) in [
        (1 << 32 | FEATURES_BLK, true),
        (1 << 32, true),
        (FEATURES_BLK, false),
        (1 << 32 | 1 << 5, false),
        (1 << 32 | 1 << 34, false),
    ] {
        machine.write(STATUS, 0);
        machine.write(STATUS, 1);
        machine.write(STATUS, 3);
        machine.accept(features);
        machine.write(STATUS, 0x0b);
        assert_eq!(machine.read(STATUS), if accepted { 0x0b } else { 3 });
    }
    // The driver gives up.
    machine.write(STATUS, 0x83);
    assert_eq!(machine.read(STATUS), 0x83);
    assert!(!machine.needs_reset());
}

#[test]
fn the_queue_of_a_reset_device_is_gone() {
    let mut machine = Machine::started();
    assert_eq!(machine.read(register(VIRTIO_MMIO_QUEUE_READY)), 1);
    machine.write(STATUS, 0);
    assert_eq!(machine.mmio.save(), Machine::new().mmio.save());
}

#[test]
fn a_queue_can_be_taken_back() {
    let mut machine = Machine::started();
    machine.write(register(VIRTIO_MMIO_QUEUE_READY), 0);
    assert_eq!(machine.read(register(VIRTIO_MMIO_QUEUE_READY)), 0);
    machine.set_up_queue();
    machine.write(register(VIRTIO_MMIO_QUEUE_READY), 1);
    assert_eq!(machine.read(register(VIRTIO_MMIO_QUEUE_READY)), 1);
    assert!(!machine.needs_reset());
}

#[test]
fn a_queue_that_does_not_exist_is_ignored() {
    let mut machine = Machine::started();
    machine.write(register(VIRTIO_MMIO_QUEUE_SEL), 1);
    assert_eq!(machine.read(register(VIRTIO_MMIO_QUEUE_NUM_MAX)), 0);
    assert_eq!(machine.read(register(VIRTIO_MMIO_QUEUE_READY)), 0);
    machine.write(register(VIRTIO_MMIO_QUEUE_NUM), 3);
    machine.write(register(VIRTIO_MMIO_QUEUE_READY), 1);
    machine.write(register(VIRTIO_MMIO_QUEUE_NOTIFY), 1);
    machine.write(register(VIRTIO_MMIO_QUEUE_NOTIFY), u64::MAX);
    assert_eq!(machine.read(STATUS), ALIVE);
}

#[test]
fn the_interrupt_lasts_until_it_is_acknowledged() {
    let mut machine = Machine::started();
    machine.put_header(0x8000, 4, 0);
    machine.submit(&[(0x8000, 16, 0), (0x9000, 1, WRITE)]);
    assert!(!machine.mmio.irq_level());
    machine.notify();
    assert!(machine.mmio.irq_level());
    assert_eq!(machine.read(register(VIRTIO_MMIO_INTERRUPT_STATUS)), 1);
    machine.write(register(VIRTIO_MMIO_INTERRUPT_ACK), 2);
    assert!(machine.mmio.irq_level());
    machine.write(register(VIRTIO_MMIO_INTERRUPT_ACK), 1);
    assert!(!machine.mmio.irq_level());
    // Nothing new: no interrupt.
    machine.notify();
    assert!(!machine.mmio.irq_level());
}

#[test]
fn a_notification_needs_a_running_driver() {
    let mut machine = Machine::new();
    machine.set_up_queue();
    machine.write(register(VIRTIO_MMIO_QUEUE_READY), 1);
    machine.put_header(0x8000, 4, 0);
    machine.submit(&[(0x8000, 16, 0), (0x9000, 1, WRITE)]);
    machine.notify();
    assert_eq!(machine.take_used(), None);
}

/// Every forbidden act, on a running device, and the fault it must lead to.
#[test]
fn a_driver_that_breaks_the_rules_must_reset() {
    type Act = fn(&mut Machine);
    let acts: [(Fault, Act); 16] = [
        (Fault::AccessSize, |m| m.mmio.write(STATUS, 1, 0x0f, &m.mem, &mut m.disk)),
        (Fault::AccessSize, |m| m.mmio.write(STATUS, 8, 0x0f, &m.mem, &mut m.disk)),
        (Fault::AccessSize, |m| m.mmio.write(STATUS + 2, 4, 0x0f, &m.mem, &mut m.disk)),
        (Fault::Status, |m| m.write(STATUS, 3)),
        (Fault::Features, |m| m.accept(1 << 32)),
        (Fault::QueueInUse, |m| m.write(register(VIRTIO_MMIO_QUEUE_NUM), 64)),
        (Fault::QueueInUse, |m| m.write(register(VIRTIO_MMIO_QUEUE_DESC_LOW), 0x4000)),
        (Fault::QueueInUse, |m| m.write(register(VIRTIO_MMIO_QUEUE_USED_HIGH), 0)),
        (Fault::QueueInUse, |m| m.write(register(VIRTIO_MMIO_QUEUE_READY), 1)),
        (Fault::QueueShape, |m| {
            m.write(register(VIRTIO_MMIO_QUEUE_READY), 0);
            m.write(register(VIRTIO_MMIO_QUEUE_NUM), 0x1_0040);
        }),
        (Fault::QueueShape, |m| {
            m.write(register(VIRTIO_MMIO_QUEUE_READY), 0);
            m.write(register(VIRTIO_MMIO_QUEUE_NUM), 512);
        }),
        (Fault::QueueShape, |m| {
            m.write(register(VIRTIO_MMIO_QUEUE_READY), 0);
            m.write(register(VIRTIO_MMIO_QUEUE_DESC_LOW), 0x4008);
        }),
        (Fault::QueueMemory, |m| {
            m.write(register(VIRTIO_MMIO_QUEUE_READY), 0);
            m.set_up_queue();
            m.write(register(VIRTIO_MMIO_QUEUE_AVAIL_HIGH), 1);
            m.write(register(VIRTIO_MMIO_QUEUE_READY), 1);
        }),
        (Fault::QueueMemory, |m| {
            m.write(register(VIRTIO_MMIO_QUEUE_READY), 0);
            m.set_up_queue();
            m.write(register(VIRTIO_MMIO_QUEUE_DESC_LOW), 0xffff_fff0);
            m.write(register(VIRTIO_MMIO_QUEUE_DESC_HIGH), 0xffff_ffff);
            m.write(register(VIRTIO_MMIO_QUEUE_READY), 1);
        }),
        (Fault::AvailableRing, |m| {
            for _ in 0..=RING_SIZE {
                m.make_available(0);
            }
            m.notify();
        }),
        (Fault::Chain, |m| {
            m.make_available(RING_SIZE);
            m.notify();
        }),
    ];
    for (fault, act) in acts {
        let mut machine = Machine::started();
        act(&mut machine);
        assert_eq!(machine.mmio.fault(), Some(fault));
        assert_eq!(machine.read(STATUS), ALIVE | u64::from(NEEDS_RESET), "{fault}");
        assert_ne!(machine.read(register(VIRTIO_MMIO_INTERRUPT_STATUS)) & 2, 0, "{fault}");

        // Nothing more happens, and the driver cannot clear the bit.
        machine.write(STATUS, ALIVE);
        machine.write(register(VIRTIO_MMIO_QUEUE_READY), 0);
        machine.notify();
        assert!(machine.needs_reset());
        let mut copy = Machine::new();
        copy.mmio.restore(machine.mmio.save()).unwrap();
        assert_eq!(copy.mmio.save(), machine.mmio.save());

        machine.mem = memory();
        machine.start();
        assert_eq!(machine.mmio.fault(), None);
    }
}

#[test]
fn a_driver_cannot_run_without_features() {
    let mut machine = Machine::new();
    machine.write(STATUS, 7);
    assert_eq!(machine.mmio.fault(), Some(Fault::Status));
    assert!(!machine.mmio.irq_level(), "no driver is there to be told");
}

#[test]
fn wrong_reads_give_nothing_and_have_no_effect() {
    let machine = Machine::started();
    let before = machine.mmio.save();
    for (offset, size) in
        [(0, 1), (0, 2), (0, 8), (2, 4), (0x0fe, 4), (0, 0), (0, 255), (0x100, 3), (0x100, 0)]
    {
        assert_eq!(machine.mmio.read(offset, size), 0);
    }
    assert_eq!(machine.mmio.save(), before);
}

#[test]
fn the_configuration_space_takes_every_size() {
    let mut machine = Machine::new();
    assert_eq!(machine.mmio.read(0x100, 8), SECTORS);
    assert_eq!((machine.mmio.read(0x100, 1), machine.mmio.read(0x101, 1)), (0x00, 0x04));
    assert_eq!(machine.mmio.read(0x101, 2), 0x0004);
    assert_eq!((machine.read(0x10c), machine.read(0x114)), (254, 512));
    assert_eq!(machine.mmio.read(0x115, 8), 2);
    assert_eq!((machine.mmio.read(0x1000, 8), machine.mmio.read(u64::MAX, 8)), (0, 0));
    let before = machine.mmio.save();
    for size in [0, 1, 2, 4, 8, 9] {
        machine.mmio.write(0x100, size, u64::MAX, &machine.mem, &mut machine.disk);
    }
    assert_eq!(machine.mmio.save(), before);
}

#[test]
fn an_impossible_or_foreign_state_is_refused() {
    let mut machine = Machine::started();
    let good = machine.mmio.save();
    let spoilers: [fn(&mut MmioState<<Blk as Snapshot>::State>); 9] = [
        |state| state.registers.status = 0x10,
        |state| state.registers.status |= NEEDS_RESET,
        |state| state.registers.fault = Some(Fault::Chain),
        |state| state.registers.status = 7,
        |state| state.registers.driver_features |= 1 << 63,
        |state| state.registers.interrupt_status = 4,
        |state| state.queues.clear(),
        |state| state.queues[0].size = 3,
        |state| state.queues[0].desc_table = 1,
    ];
    for spoil in spoilers {
        let mut bad = good.clone();
        spoil(&mut bad);
        assert!(matches!(machine.mmio.restore(bad), Err(RestoreError::Invalid { device: "virtio-blk", .. })));
        assert_eq!(machine.mmio.save(), good);
    }
    for other in [
        Blk::<Basic>::new(1, false, b"root"),
        Blk::new(SECTORS, true, b"root"),
        Blk::new(SECTORS, false, b"data"),
    ] {
        let result = VirtioMmio::new(other).restore(good.clone());
        assert!(matches!(result, Err(RestoreError::Configuration { device: "virtio-blk", .. })));
    }
    let mut bad = good;
    bad.queues[0].max_size = 512;
    assert!(machine.mmio.restore(bad).is_err());
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![(0..0x60u64).prop_map(|index| index * 4), 0..SIZE, any::<u64>()]
}

/// Values that mean something somewhere, so that random programs get far.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(1),
        prop::sample::select(vec![3, 0x0b, 0x0f, RING_SIZE.into(), DESC_TABLE, AVAIL_RING, USED_RING]),
        any::<u64>(),
    ]
}

proptest! {
    #[test]
    fn any_access_is_survived_and_repeats(
        started: bool,
        ops in prop::collection::vec((offset(), prop_oneof![Just(4u8), any::<u8>()], value()), 1..100),
    ) {
        let (mut machine, mut twin) = (Machine::new(), Machine::new());
        if started {
            machine.start();
            twin.start();
        }
        for (offset, size, value) in ops {
            prop_assert_eq!(machine.mmio.read(offset, size), twin.mmio.read(offset, size));
            for machine in [&mut machine, &mut twin] {
                machine.mmio.write(offset, size, value, &machine.mem, &mut machine.disk);
            }
            let mut restored = VirtioMmio::<Blk>::new(Blk::new(SECTORS, false, b"root"));
            restored.restore(machine.mmio.save()).unwrap();
            prop_assert_eq!(restored.save(), twin.mmio.save());
            twin.mmio = restored;
        }
    }

    #[test]
    fn conformance(started: bool, select: u32) {
        let mut machine = Machine::new();
        if started {
            machine.start();
        }
        let (mem, mut disk) = (memory(), MemoryDisk::new());
        conforms(&mut machine.mmio, |mmio| {
            mmio.write(register(VIRTIO_MMIO_QUEUE_SEL), 4, u64::from(select | 1), &mem, &mut disk);
            mmio.write(STATUS, 2, 0, &mem, &mut disk);
        });
    }
}
