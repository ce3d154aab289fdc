//! The DSDT: the devices that a kernel cannot find by itself, and how to switch off.

use acpi_tables::Aml;
use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, Path, ResourceTemplate, Scope, Zero,
};
use acpi_tables::sdt::Sdt;
use scribe_devices::acpi_pm::SLEEP_TYPE_S5;

use super::{Description, OEM, OEM_REVISION, OEM_TABLE, VirtioDevice, bytes_of};

/// Revision 2: integers have 64 bits (19.6.29).
const REVISION: u8 = 2;
const HEADER: u32 = 36;

/// The table.
pub(super) fn table(machine: &Description) -> Sdt {
    let processors: Vec<Vec<u8>> = (0..machine.processors).map(processor).collect();
    let virtio: Vec<Vec<u8>> =
        (0..=u8::MAX).zip(&machine.virtio).map(|(unit, device)| virtio(unit, *device)).collect();
    let (serial, rtc) = (serial(machine), rtc(machine));
    let devices = processors.into_iter().chain([serial, rtc]).chain(virtio).map(Raw).collect::<Vec<_>>();
    let scope = Scope::new("_SB_".into(), devices.iter().map(|device| device as &dyn Aml).collect());
    let mut dsdt = Sdt::new(*b"DSDT", HEADER, REVISION, OEM, OEM_TABLE, OEM_REVISION);
    dsdt.append_slice(&bytes_of(&scope));
    dsdt.append_slice(&bytes_of(&soft_off()));
    dsdt
}

/// AML that is encoded already: a device's parts need not outlive the function that makes it.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

/// `_S5` (7.4.2.6): SLP_TYP for PM1a; nothing looks at the others.
fn soft_off() -> Name {
    let zero = Zero {};
    Name::new("_S5_".into(), &Package::new(vec![&SLEEP_TYPE_S5, &zero, &zero, &zero]))
}

/// Processor `unit`, whose local APIC has the same ID: `C000` (8.4).
fn processor(unit: u8) -> Vec<u8> {
    let path = Path::new(&format!("C0{unit:02X}"));
    bytes_of(&Device::new(
        path,
        vec![&Name::new("_HID".into(), &"ACPI0007"), &Name::new("_UID".into(), &unit)],
    ))
}

fn serial(machine: &Description) -> Vec<u8> {
    let (port, irq) = machine.serial;
    bytes_of(&Device::new(
        "COM1".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &1_u8),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &IO::new(port, port, 1, 8),
                    &Interrupt::new(true, true, false, false, irq.into()),
                ]),
            ),
        ],
    ))
}

/// Without an interrupt: it has no alarm.
fn rtc(machine: &Description) -> Vec<u8> {
    let port = machine.rtc_port;
    bytes_of(&Device::new(
        "RTC0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0B00")),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&IO::new(port, port, 1, 2)])),
        ],
    ))
}

/// `VR00` and so on: the name that Linux's virtio-mmio driver knows such a device by.
fn virtio(unit: u8, device: VirtioDevice) -> Vec<u8> {
    let path = Path::new(&format!("VR{unit:02X}"));
    bytes_of(&Device::new(
        path,
        vec![
            &Name::new("_HID".into(), &"LNRO0005"),
            &Name::new("_UID".into(), &unit),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &Memory32Fixed::new(true, device.address, device.size),
                    &Interrupt::new(true, false, false, false, device.irq.into()),
                ]),
            ),
        ],
    ))
}
