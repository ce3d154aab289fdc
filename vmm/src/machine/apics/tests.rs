//! Interrupts from the devices to the processor, by way of the 8259A pair and by way of the I/O APIC.

use scribe_devices::apic::APIC_BASE;

use super::*;
use crate::machine::bus::{Devices, Request as Asked};
use crate::machine::memory::GuestRam;
use crate::machine::platform::Platform;

struct Machine {
    devices: Devices,
    ram: GuestRam,
    now: u64,
}

impl Machine {
    fn new() -> Self {
        let devices = Devices::new(Platform::Pc2, Vec::new(), 0, None).unwrap();
        Self { devices, ram: GuestRam::new(2 << 20).unwrap(), now: 0 }
    }

    fn out(&mut self, port: u16, value: u8) -> Option<Asked> {
        self.devices.port_write(port, 1, value.into(), self.now)
    }

    fn store(&mut self, address: u64, value: u32) {
        assert!(!self.devices.mmio_write(address, 4, value.into(), self.now, self.ram.memory()));
    }

    fn load(&mut self, address: u64) -> u64 {
        self.devices.mmio_read(address, 4, self.now)
    }

    /// An entry of the I/O APIC, for the processor with APIC ID 0.
    fn entry(&mut self, pin: u8, low: u32) {
        self.store(IO_APIC_ADDRESS, u32::from(0x10 + 2 * pin));
        self.store(IO_APIC_ADDRESS + 0x10, low);
    }

    /// What a kernel with a driver for APICs does first.
    fn mask_pair(&mut self) {
        self.out(0x21, 0xff);
        self.out(0xa1, 0xff);
    }

    /// Counter 0 of the 8254 at 100 ticks a period.
    fn timer(&mut self) {
        for (port, value) in [(0x43, 0x34), (0x40, 100), (0x40, 0)] {
            self.out(port, value);
        }
    }

    fn pass(&mut self, ns: u64) {
        self.now += ns;
        self.devices.advance(self.now);
    }

    fn take(&mut self) -> Option<(u8, Option<u8>)> {
        self.devices.interrupt_pending().then(|| self.devices.acknowledge())
    }
}

/// A little more than the timer's period, ns.
const PERIOD: u64 = 85_000;

#[test]
fn without_a_driver_for_apics_the_8259_pair_works_as_before() {
    let mut machine = Machine::new();
    for (port, value) in [(0x20, 0x11), (0x21, 0x30), (0x21, 4), (0x21, 1), (0x21, 0xfe)] {
        machine.out(port, value);
    }
    machine.timer();
    assert_eq!(machine.take(), None);
    assert!(machine.devices.next_wake().is_some());
    machine.pass(PERIOD);
    assert_eq!(machine.take(), Some((0x30, Some(0))));
    assert_eq!(machine.take(), None);
    machine.out(0x21, 0xff);
    assert_eq!(machine.devices.next_wake(), None, "masked here and there");
}

#[test]
fn the_timer_comes_at_pin_2() {
    let mut machine = Machine::new();
    machine.mask_pair();
    machine.timer();
    machine.entry(0, 0x50);
    assert_eq!(machine.devices.next_wake(), None);
    machine.entry(2, 0x52);
    assert!(machine.devices.next_wake().is_some());
    machine.pass(PERIOD);
    assert_eq!(machine.take(), Some((0x52, Some(0))));
    machine.pass(PERIOD);
    assert_eq!(machine.take(), None, "in service");
    machine.store(0xfee0_00b0, 0);
    assert_eq!(machine.take(), Some((0x52, Some(0))));
}

#[test]
fn the_local_timer_and_interrupts_to_oneself() {
    let mut machine = Machine::new();
    machine.store(0xfee0_03e0, 0xb);
    machine.store(0xfee0_0320, 0x61);
    machine.store(0xfee0_0380, 5000);
    assert_eq!(machine.devices.next_wake(), Some(5000));
    machine.pass(5000);
    assert_eq!(machine.take(), Some((0x61, Some(LOCAL_LINE))));
    machine.store(0xfee0_0300, 0x4_0071);
    assert_eq!(machine.take(), Some((0x71, Some(LOCAL_LINE))));
    assert!(!machine.devices.take_init());
    machine.store(0xfee0_0300, 0x500);
    assert!(machine.devices.take_init(), "INIT to processor 0");
    assert!(!machine.devices.take_init());
}

#[test]
fn a_level_triggered_line_comes_back_until_it_is_low() {
    let mut machine = Machine::new();
    machine.mask_pair();
    machine.entry(SCI_IRQ, 0x8059);
    machine.devices.port_write(PM_PORT + 2, 2, 0x100, 0);
    assert_eq!(machine.take(), None);
    machine.devices.apics.as_mut().unwrap().pm.press();
    machine.pass(1);
    assert_eq!(machine.take(), Some((0x59, Some(SCI_IRQ))));
    machine.store(0xfee0_00b0, 0);
    assert_eq!(machine.take(), Some((0x59, Some(SCI_IRQ))), "still high");
    assert_eq!(machine.devices.port_read(PM_PORT, 2, 0), 0x100);
    machine.devices.port_write(PM_PORT, 2, 0x100, 0);
    machine.store(0xfee0_00b0, 0);
    assert_eq!(machine.take(), None);
}

#[test]
fn soft_off_and_reset() {
    let mut machine = Machine::new();
    assert_eq!(machine.devices.port_write(PM_PORT + 4, 2, 5 << 10 | 1 << 13, 0), Some(Asked::PowerOff));
    assert_eq!(machine.out(PM_PORT + 6, 1), Some(Asked::Reset));
    assert_eq!(machine.devices.port_read(PM_PORT, 4, 0), u32::MAX);
    assert_eq!(machine.devices.port_read(PM_PORT + 8, 1, 0), 0xff);
}

#[test]
fn the_first_platform_has_none_of_it() {
    let mut machine = Machine::new();
    let with = machine.devices.save();
    assert_eq!(machine.load(0xfee0_0030), 0x0005_0014);
    assert_eq!(machine.devices.msr_read(APIC_BASE, 0), Answer::Value(0xfee0_0900));
    assert_eq!(machine.devices.msr_write(APIC_BASE, 0xfee0_0800, 0), Answer::Done);
    assert_eq!(machine.devices.msr_read(0x802, 0), Answer::GeneralProtection);
    machine.devices = Devices::new(Platform::Pc1, Vec::new(), 0, None).unwrap();
    assert_eq!(machine.load(0xfee0_0030), 0xffff_ffff);
    assert_eq!(machine.load(IO_APIC_ADDRESS), 0xffff_ffff);
    assert_eq!(machine.devices.msr_read(APIC_BASE, 0), Answer::GeneralProtection);
    assert_eq!(machine.devices.msr_write(APIC_BASE, 0xfee0_0800, 0), Answer::GeneralProtection);
    assert_eq!(machine.devices.port_read(PM_PORT + 4, 2, 0), 0xffff);
    assert_eq!(machine.devices.port_write(PM_PORT + 4, 2, 5 << 10 | 1 << 13, 0), None);
    // Its digest is without a trace of it: the encoded state ends where it did before there was a second platform.
    let without = postcard::to_stdvec(&machine.devices.save()).unwrap();
    assert_eq!(without.last(), Some(&0), "no disk");
    assert!(postcard::to_stdvec(&with).unwrap().len() > without.len() + 100);
}
