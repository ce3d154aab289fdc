//! Putting a Linux kernel into RAM and the vCPU at its 64-bit entry (Documentation/arch/x86/boot.rst).

use std::io::Cursor;

use linux_loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::loader::{BzImage, Elf, KernelLoader};
use vm_memory::{Bytes, GuestAddress};

use super::kernel::{BootFiles, Format, KernelError, format};
use super::memory::{GuestRam, MemoryError, PAGE_SIZE};
use super::{acpi, msr};
use crate::engine::cpu::{CpuState, DescriptorTable, Fpu, Registers, Segment};

/// Bytes of entropy that the kernel gets with SETUP_RNG_SEED.
pub const SEED_BYTES: usize = 32;

const GDT: u64 = 0x500;
const ZERO_PAGE: u64 = 0x7000;
const SETUP_DATA: u64 = 0x8000;
const PAGE_TABLES: u64 = 0x9000;
const STACK: u64 = 0x8ff0;
const COMMAND_LINE: u64 = 0x2_0000;
const COMMAND_LINE_MAX: usize = 0x1000;
/// Below this real-mode firmware would keep its data area.
const LOW_END: u64 = 0x9_fc00;
const HIGH_START: u64 = 0x10_0000;
/// Offset of the 64-bit entry in a bzImage's protected-mode part.
const BZIMAGE_ENTRY_64: u64 = 0x200;

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;
const SETUP_RNG_SEED: u32 = 9;

/// Why a guest cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The kernel is unusable.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The kernel does not fit or is damaged.
    #[error("{kernel}: cannot be loaded: {reason}; more memory (--memory) may help")]
    Load {
        /// where the kernel came from
        kernel: String,
        /// what the loader said
        reason: String,
    },
    /// The initrd does not fit.
    #[error(
        "{initrd}: {bytes} bytes do not fit between the kernel and the end of memory; give more with --memory"
    )]
    Initrd {
        /// where the initrd came from
        initrd: String,
        /// its size
        bytes: usize,
    },
    /// The command line is too long.
    #[error("the kernel command line has {0} bytes, the most is {max}", max = COMMAND_LINE_MAX - 1)]
    CommandLine(usize),
    /// The machine cannot be described to the kernel.
    #[error(transparent)]
    Acpi(#[from] acpi::AcpiError),
    /// A table could not be written.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// Loads kernel, initrd, command line, boot parameters, entropy and, where the platform has them, ACPI tables into `ram`.
///
/// # Returns
/// The state the vCPU starts in: long mode, first 4 GiB mapped one to one, RSI at the boot parameters.
///
/// # Errors
/// What does not fit or is not a kernel.
pub fn load(
    ram: &GuestRam,
    machine: Option<&acpi::Description>,
    files: &BootFiles,
    command_line: &str,
    seed: &[u8; SEED_BYTES],
) -> Result<CpuState, BootError> {
    let kernel = &files.kernel;
    let load_error = |error: linux_loader::loader::Error| BootError::Load {
        kernel: kernel.source.clone(),
        reason: error.to_string(),
    };
    let mut reader = Cursor::new(kernel.bytes.as_slice());
    let high = Some(GuestAddress(HIGH_START));
    let mut params = boot_params::default();
    let (entry, kernel_end) = match format(kernel)? {
        Format::Elf => {
            let loaded = Elf::load(ram.memory(), None, &mut reader, high).map_err(load_error)?;
            params.hdr.boot_flag = 0xaa55;
            params.hdr.header = 0x5372_6448;
            (loaded.kernel_load.0, loaded.kernel_end)
        }
        Format::BzImage => {
            let loaded = BzImage::load(ram.memory(), None, &mut reader, high).map_err(load_error)?;
            params.hdr = loaded.setup_header.unwrap_or_default();
            let end = loaded.kernel_load.0 + u64::from(params.hdr.init_size);
            (loaded.kernel_load.0 + BZIMAGE_ENTRY_64, loaded.kernel_end.max(end))
        }
    };
    write_command_line(ram, command_line)?;
    params.hdr.type_of_loader = 0xff;
    params.hdr.loadflags |= 1;
    params.hdr.cmd_line_ptr = u32_of(COMMAND_LINE);
    params.hdr.cmdline_size = u32_of(command_line.len() as u64);
    if let Some(initrd) = &files.initrd {
        let (start, length) = place_initrd(ram, initrd.bytes.len(), kernel_end)
            .ok_or_else(|| BootError::Initrd { initrd: initrd.source.clone(), bytes: initrd.bytes.len() })?;
        ram.write(u64::from(start), &initrd.bytes)?;
        params.hdr.ramdisk_image = start;
        params.hdr.ramdisk_size = length;
    }
    write_seed(ram, seed)?;
    params.hdr.setup_data = SETUP_DATA;
    memory_map(ram, &mut params);
    if let Some(machine) = machine {
        ram.write(acpi::BASE, &acpi::tables(machine)?)?;
        params.acpi_rsdp_addr = acpi::BASE;
    }
    ram.memory()
        .write_obj(params, GuestAddress(ZERO_PAGE))
        .map_err(|error| MemoryError::Access(ZERO_PAGE, error))?;
    write_page_tables(ram)?;
    write_gdt(ram)?;
    Ok(start_state(entry))
}

fn u32_of(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn write_command_line(ram: &GuestRam, text: &str) -> Result<(), BootError> {
    if text.len() >= COMMAND_LINE_MAX {
        return Err(BootError::CommandLine(text.len()));
    }
    ram.write(COMMAND_LINE, text.as_bytes())?;
    ram.write(COMMAND_LINE + text.len() as u64, &[0])?;
    Ok(())
}

/// Highest page-aligned place below the end of low RAM. Returns start and length.
fn place_initrd(ram: &GuestRam, length: usize, kernel_end: u64) -> Option<(u32, u32)> {
    let end = ram.regions().next()?.size;
    let start = end.checked_sub(u64::try_from(length).ok()?)? & !(PAGE_SIZE - 1);
    (start >= kernel_end.max(HIGH_START)).then_some(())?;
    Some((u32::try_from(start).ok()?, u32::try_from(length).ok()?))
}

/// struct setup_data: next, type, length, data.
fn write_seed(ram: &GuestRam, seed: &[u8; SEED_BYTES]) -> Result<(), MemoryError> {
    ram.write(SETUP_DATA, &0_u64.to_le_bytes())?;
    ram.write(SETUP_DATA + 8, &SETUP_RNG_SEED.to_le_bytes())?;
    ram.write(SETUP_DATA + 12, &u32_of(SEED_BYTES as u64).to_le_bytes())?;
    ram.write(SETUP_DATA + 16, seed)
}

/// 0 to 1 MiB is RAM, so that a kernel's scans for firmware tables cause no exits, but reserved where firmware would be.
fn memory_map(ram: &GuestRam, params: &mut boot_params) {
    let mut entries = vec![
        boot_e820_entry { addr: 0, size: LOW_END, r#type: E820_RAM },
        boot_e820_entry { addr: LOW_END, size: HIGH_START - LOW_END, r#type: E820_RESERVED },
    ];
    for region in ram.regions() {
        let start = region.start.max(HIGH_START);
        entries.push(boot_e820_entry {
            addr: start,
            size: region.start + region.size - start,
            r#type: E820_RAM,
        });
    }
    params.e820_entries = u8::try_from(entries.len()).unwrap_or(0);
    for (slot, entry) in params.e820_table.iter_mut().zip(entries) {
        *slot = entry;
    }
}

/// 4 GiB one to one, in 2 MiB pages.
fn write_page_tables(ram: &GuestRam) -> Result<(), MemoryError> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    let pdpt = PAGE_TABLES + PAGE_SIZE;
    ram.write(PAGE_TABLES, &(pdpt | PRESENT_WRITABLE).to_le_bytes())?;
    for gib in 0..4 {
        let directory = pdpt + PAGE_SIZE * (1 + gib);
        ram.write(pdpt + 8 * gib, &(directory | PRESENT_WRITABLE).to_le_bytes())?;
        for page in 0..512 {
            let entry = (gib << 30 | page << 21) | PRESENT_WRITABLE | LARGE;
            ram.write(directory + 8 * page, &entry.to_le_bytes())?;
        }
    }
    Ok(())
}

/// __BOOT_CS (0x10) and __BOOT_DS (0x18), as the boot protocol wants them.
fn write_gdt(ram: &GuestRam) -> Result<(), MemoryError> {
    const TABLE: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
    for (index, descriptor) in (0..).zip(TABLE) {
        ram.write(GDT + 8 * index, &descriptor.to_le_bytes())?;
    }
    Ok(())
}

/// Long mode, flat segments, interrupts off.
fn start_state(entry: u64) -> CpuState {
    const CODE: u32 = 0xa09b; // G, L, present, code, read, accessed
    const DATA: u32 = 0xc093; // G, D/B, present, data, write, accessed
    const BUSY_TSS: u32 = 0x8b;
    const UNUSABLE: u32 = 1 << 16;
    let data = Segment { base: 0, limit: u32::MAX, selector: 0x18, attributes: DATA };
    let code = Segment { base: 0, limit: u32::MAX, selector: 0x10, attributes: CODE };
    let ldt = Segment { attributes: UNUSABLE, ..Segment::default() };
    let tss = Segment { base: 0, limit: 0x67, selector: 0, attributes: BUSY_TSS };
    let mut registers = Registers { rip: entry, rflags: 2, ..Registers::default() };
    registers.general[4] = STACK;
    registers.general[6] = ZERO_PAGE;
    CpuState {
        registers,
        segments: [data, code, data, data, data, data, ldt, tss],
        gdt: DescriptorTable { base: GDT, limit: 0x1f },
        idt: DescriptorTable { base: 0, limit: 0 },
        cr0: 0x8000_0011, // PG, ET, PE
        cr3: PAGE_TABLES,
        cr4: 0x20,   // PAE
        efer: 0x500, // LMA, LME
        dr6: 0xffff_0ff0,
        dr7: 0x400,
        fpu: Fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Fpu::default() },
        msrs: msr::SAVED.iter().map(|&index| (index, if index == 0x277 { PAT_RESET } else { 0 })).collect(),
        ..CpuState::default()
    }
}

/// PAT after reset (Intel SDM vol. 3, 12.12.4).
const PAT_RESET: u64 = 0x0007_0406_0007_0406;

/// The kernel's arguments; `--append` comes after them. `named`: the kernel looks into no tables, so that they have to say how
/// it reboots and where virtio devices are, `slots` with their interrupt lines.
pub fn default_command_line(named: bool, slots: &[(u64, u8)], has_disk: bool) -> String {
    let mut line = "console=ttyS0 quiet panic=-1".to_owned();
    if named {
        line += " reboot=k";
    }
    let mut slots = slots.iter();
    let name = |line: &mut String, (base, irq): &(u64, u8)| {
        line.push_str(&format!(" virtio_mmio.device=4K@{base:#x}:{irq}"));
    };
    if has_disk {
        if let Some(disk) = slots.next() {
            name(&mut line, disk);
        }
        line += " root=/dev/vda rw";
    }
    slots.for_each(|slot| name(&mut line, slot));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_initrd_goes_to_the_top() {
        let ram = GuestRam::new(16 << 20).unwrap();
        assert_eq!(place_initrd(&ram, 5000, 0x20_0000), Some((0xff_e000, 5000)));
        assert_eq!(place_initrd(&ram, 15 << 20, 0x20_0000), None);
        assert_eq!(place_initrd(&ram, usize::MAX, 0), None);
    }

    #[test]
    fn the_memory_map_covers_ram() {
        let ram = GuestRam::new(64 << 20).unwrap();
        let mut params = boot_params::default();
        memory_map(&ram, &mut params);
        let last = params.e820_table[2];
        assert_eq!(params.e820_entries, 3);
        assert_eq!({ last.addr }, HIGH_START);
        assert_eq!({ last.size }, (64 << 20) - HIGH_START);
    }

    #[test]
    fn a_long_command_line_is_refused() {
        let ram = GuestRam::new(4 << 20).unwrap();
        assert!(write_command_line(&ram, &"x".repeat(4095)).is_ok());
        assert!(write_command_line(&ram, &"x".repeat(4096)).is_err());
    }
}
