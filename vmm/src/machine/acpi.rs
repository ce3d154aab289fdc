//! The ACPI tables of a machine, as firmware would leave them below 1 MiB (ACPI 6.5, chapter 5).
//!
//! A pure function from a [`Description`] to bytes: RSDP, XSDT, FADT, FACS, MADT, DSDT. What the tables leave out is not
//! there: no PM timer (a kernel that finds one checks its other clocks with it, an exit each time, and wakes up for it),
//! no 8042 (so nobody looks for a keyboard), no VGA, no PCI, no general-purpose events, no sleep but S5. SMI_CMD is 0:
//! the machine is always in ACPI mode.
//!
//! All lines are active high. A level-triggered one whose number is that of an ISA interrupt needs an override in the
//! MADT: without it Linux takes it for edge-triggered, whatever `_CRS` says.

use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, facs::FACS};
use scribe_devices::acpi_pm;

mod dsdt;
#[cfg(test)]
mod tests;

/// Where the tables go; the RSDP is first, for kernels look for it from here to 1 MiB on (5.2.5.1).
pub const BASE: u64 = 0xe_0000;
/// Bytes there are for them.
const ROOM: usize = 0x2_0000;

const OEM: [u8; 6] = *b"SCRIBE";
const OEM_TABLE: [u8; 8] = *b"SCRIBEPC";
const OEM_REVISION: u32 = 1;

/// FADT boot flags (5.2.9.3): devices of a PC are there, no VGA, no MSI. Bit 1, the 8042, is clear.
const BOOT_FLAGS: u16 = 1 << 0 | 1 << 2 | 1 << 3;
/// The CMOS byte that holds the century.
const CENTURY: u8 = 0x32;
/// MADT flags: an 8259A pair is there too.
const PCAT_COMPAT: u32 = 1;
/// MADT interrupt flags (5.2.12.5): active high and level-triggered; and as the bus has it.
const LEVEL_HIGH: u16 = 0x000d;
const AS_BUS: u16 = 0;

/// A device behind virtio-mmio.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VirtioDevice {
    /// address of its registers
    pub address: u32,
    /// bytes there
    pub size: u32,
    /// its interrupt, level-triggered: number of the I/O APIC's pin, and below 16 also the IRQ of the 8259A pair
    pub irq: u8,
}

/// What the tables are to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// processors; their local APICs have the IDs from 0 on
    pub processors: u8,
    /// address of the local APICs
    pub local_apic: u32,
    /// ID and address of the I/O APIC
    pub io_apic: (u8, u32),
    /// pin of the I/O APIC that IRQ 0, the 8254, is connected to
    pub timer_pin: u8,
    /// system control interrupt
    pub sci: u8,
    /// first port of [`scribe_devices::AcpiPm`]
    pub pm_port: u16,
    /// first port and IRQ of the serial port
    pub serial: (u16, u8),
    /// first port of the real-time clock
    pub rtc_port: u16,
    /// in the order of their unit numbers
    pub virtio: Vec<VirtioDevice>,
}

/// Why there are no tables.
#[derive(Debug, thiserror::Error)]
pub enum AcpiError {
    /// They do not fit.
    #[error(
        "the ACPI tables have {bytes} bytes, there is room for {ROOM} at {BASE:#x}; describe fewer devices or processors"
    )]
    TooLarge {
        /// their size
        bytes: usize,
    },
    /// Too many devices.
    #[error("{0} virtio devices in the ACPI tables, the most is 256")]
    Devices(usize),
}

/// The tables, to be written at [`BASE`], where the RSDP is.
///
/// # Errors
/// They do not fit.
pub fn tables(machine: &Description) -> Result<Vec<u8>, AcpiError> {
    if machine.virtio.len() > 256 {
        return Err(AcpiError::Devices(machine.virtio.len()));
    }
    let mut blob = Blob { bytes: vec![0; Rsdp::len()] };
    let facs = blob.append(&bytes_of(&FACS::new()));
    let dsdt = blob.append(dsdt::table(machine).as_slice());
    let fadt = blob.append(&bytes_of(&fadt(machine, facs, dsdt).finalize()));
    let madt = blob.append(madt(machine).as_slice());
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt.into());
    xsdt.add_entry(madt.into());
    let xsdt = blob.append(&bytes_of(&xsdt));
    let rsdp = bytes_of(&Rsdp::new(OEM, xsdt.into()));
    blob.bytes.splice(..rsdp.len(), rsdp);
    if blob.bytes.len() > ROOM {
        return Err(AcpiError::TooLarge { bytes: blob.bytes.len() });
    }
    Ok(blob.bytes)
}

/// Tables one behind the other.
struct Blob {
    bytes: Vec<u8>,
}

impl Blob {
    /// Appends a table; gives its address. FACS must be at a multiple of 64 (5.2.10), so all are.
    fn append(&mut self, table: &[u8]) -> u32 {
        self.bytes.resize(self.bytes.len().next_multiple_of(64), 0);
        let address = BASE + self.bytes.len() as u64;
        self.bytes.extend_from_slice(table);
        // Beyond 4 GiB it does not fit, which is checked when all are there.
        u32::try_from(address).unwrap_or(u32::MAX)
    }
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn port(address: u16, bits: u8, size: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, bits, 0, size, address.into())
}

/// 5.2.9. A power button is "fixed hardware" because its flag is clear; the flag of the sleep button says there is none.
fn fadt(machine: &Description, facs: u32, dsdt: u32) -> FADTBuilder {
    let control = machine.pm_port.saturating_add(acpi_pm::CONTROL);
    let reset = machine.pm_port.saturating_add(acpi_pm::RESET);
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .firmware_ctrl_32(facs)
        .dsdt_32(dsdt)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless);
    fadt.x_dsdt = u64::from(dsdt).into();
    fadt.sci_int = u16::from(machine.sci).into();
    fadt.pm1a_evt_blk = u32::from(machine.pm_port).into();
    fadt.pm1a_cnt_blk = u32::from(control).into();
    (fadt.pm1_evt_len, fadt.pm1_cnt_len) = (4, 2);
    fadt.x_pm1a_evt_blk = port(machine.pm_port, 32, AccessSize::WordAccess);
    fadt.x_pm1a_cnt_blk = port(control, 16, AccessSize::WordAccess);
    // Latencies from which on there is no C2 and no C3.
    fadt.p_lvl2_lat = 101.into();
    fadt.p_lvl3_lat = 1001.into();
    fadt.century = CENTURY;
    fadt.iapc_boot_arch = BOOT_FLAGS.into();
    fadt.reset_reg = port(reset, 8, AccessSize::ByteAccess);
    fadt.reset_value = acpi_pm::RESET_VALUE;
    fadt
}

/// 5.2.12. Revision 5 is that of ACPI 6.3 to 6.5. The crate's MADT has no flags, so it is put together here.
fn madt(machine: &Description) -> Sdt {
    const HEADER: u32 = 44;
    let mut madt = Sdt::new(*b"APIC", HEADER, 5, OEM, OEM_TABLE, OEM_REVISION);
    madt.write_u32(36, machine.local_apic);
    madt.write_u32(40, PCAT_COMPAT);
    for id in 0..machine.processors {
        madt.append_slice(&bytes_of(&ProcessorLocalApic::new(id, id, EnabledStatus::Enabled)));
    }
    let (id, address) = machine.io_apic;
    madt.append_slice(&bytes_of(&IoApic::new(id, address, 0)));
    madt.append_slice(&interrupt_override(0, machine.timer_pin, AS_BUS));
    let mut level: Vec<u8> = machine.virtio.iter().map(|device| device.irq).chain([machine.sci]).collect();
    level.sort_unstable();
    level.dedup();
    for irq in level.into_iter().filter(|irq| *irq < 16) {
        madt.append_slice(&interrupt_override(irq, irq, LEVEL_HIGH));
    }
    madt.append_slice(&LOCAL_NMI);
    madt
}

/// Interrupt source override of ISA interrupt `irq` (5.2.12.5).
fn interrupt_override(irq: u8, pin: u8, flags: u16) -> [u8; 10] {
    let [low, high] = flags.to_le_bytes();
    [2, 10, 0, irq, pin, 0, 0, 0, low, high]
}

/// Local APIC NMI (5.2.12.7): LINT1 of all processors, as the bus has it.
const LOCAL_NMI: [u8; 6] = [4, 6, 0xff, 0, 0, 1];
