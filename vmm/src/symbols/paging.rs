//! Guest memory by virtual address, as the processor would see it (Intel SDM vol. 3, chapter 4), without the traces that a
//! processor leaves: no accessed or dirty bit is set, no fault is raised.

use crate::engine::cpu::CpuState;
use crate::machine::memory::GuestRam;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;

const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;

/// Bits 12 to 51: a physical address in an entry of 8 bytes.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// How a virtual address is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapped {
    /// guest physical address; it need not be RAM
    pub physical: u64,
    /// bytes of the page that it is in
    pub page: u64,
    /// user mode can reach it
    pub user: bool,
    /// it can be written
    pub writable: bool,
    /// it can be executed
    pub executable: bool,
}

/// Guest memory as a processor in this state sees it.
#[derive(Debug, Clone, Copy)]
pub struct Virtual<'a> {
    ram: &'a GuestRam,
    cr3: u64,
    kind: Kind,
    no_execute: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// no paging: 32 bits of physical address
    None,
    /// entries of 4 bytes, with or without pages of 4 MiB
    Two { large: bool },
    /// entries of 8 bytes, 32 bits of address
    Pae,
    /// long mode
    Long { levels: u32 },
}

impl<'a> Virtual<'a> {
    /// For a processor in `state` over `ram`.
    pub fn new(state: &CpuState, ram: &'a GuestRam) -> Self {
        let kind = if state.cr0 & CR0_PG == 0 {
            Kind::None
        } else if state.efer & EFER_LMA != 0 {
            Kind::Long { levels: if state.cr4 & CR4_LA57 != 0 { 5 } else { 4 } }
        } else if state.cr4 & CR4_PAE != 0 {
            Kind::Pae
        } else {
            Kind::Two { large: state.cr4 & CR4_PSE != 0 }
        };
        Self { ram, cr3: state.cr3, kind, no_execute: state.efer & EFER_NXE != 0 }
    }

    /// How `address` is mapped; `None`: it is not, or its tables are not in RAM.
    pub fn translate(&self, address: u64) -> Option<Mapped> {
        let all = Rights { user: true, writable: true, executable: true };
        let short = u32::try_from(address).ok();
        match self.kind {
            Kind::None => Some(all.over(u64::from(short?), 4096)),
            Kind::Two { large } => self.two(short?.into(), large),
            Kind::Pae => {
                short?;
                // The four entries of the first level have no rights, and bit 7 means nothing in them.
                let entry = self.entry((self.cr3 & 0xffff_ffe0) + (address >> 30) * 8)?;
                (entry & PRESENT != 0).then_some(())?;
                self.levels(address, entry & ADDRESS, 2, all)
            }
            Kind::Long { levels } => {
                let unused = 64 - (12 + 9 * levels);
                let canonical = (address.cast_signed() << unused >> unused).cast_unsigned();
                (canonical == address).then_some(())?;
                self.levels(address, self.cr3 & ADDRESS, levels, all)
            }
        }
    }

    /// The last `level`s of tables with entries of 8 bytes.
    fn levels(&self, address: u64, mut table: u64, level: u32, mut rights: Rights) -> Option<Mapped> {
        for level in (1..=level).rev() {
            let shift = 12 + 9 * (level - 1);
            let entry = self.entry(table + (address >> shift & 0x1ff) * 8)?;
            (entry & PRESENT != 0).then_some(())?;
            rights.user &= entry & USER != 0;
            rights.writable &= entry & WRITABLE != 0;
            rights.executable &= !self.no_execute || entry & NO_EXECUTE == 0;
            let is_page = level == 1 || level <= 3 && entry & LARGE != 0;
            if is_page {
                let page = 1 << shift;
                return Some(rights.over(entry & ADDRESS & !(page - 1) | address & (page - 1), page));
            }
            table = entry & ADDRESS;
        }
        None
    }

    fn two(&self, address: u64, large: bool) -> Option<Mapped> {
        let first = self.short_entry((self.cr3 & 0xffff_f000) + (address >> 22) * 4)?;
        (first & PRESENT != 0).then_some(())?;
        let mut rights =
            Rights { user: first & USER != 0, writable: first & WRITABLE != 0, executable: true };
        if large && first & LARGE != 0 {
            // PSE-36: bits 13 to 20 are bits 32 to 39 of the address.
            let high = (first >> 13 & 0xff) << 32;
            return Some(rights.over(high | first & 0xffc0_0000 | address & 0x3f_ffff, 4 << 20));
        }
        let second = self.short_entry((first & 0xffff_f000) + (address >> 12 & 0x3ff) * 4)?;
        (second & PRESENT != 0).then_some(())?;
        rights.user &= second & USER != 0;
        rights.writable &= second & WRITABLE != 0;
        Some(rights.over(second & 0xffff_f000 | address & 0xfff, 4096))
    }

    fn entry(&self, physical: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.ram.read(physical, &mut bytes).ok()?;
        Some(u64::from_le_bytes(bytes))
    }

    fn short_entry(&self, physical: u64) -> Option<u64> {
        let mut bytes = [0; 4];
        self.ram.read(physical, &mut bytes).ok()?;
        Some(u32::from_le_bytes(bytes).into())
    }

    /// Reads from `address` on, as far as it is mapped to RAM; gives how many bytes that was.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            let Some(at) = address.checked_add(done as u64) else { break };
            let Some(mapped) = self.translate(at) else { break };
            let left = mapped.page - (at & (mapped.page - 1));
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - done);
            if self.ram.read(mapped.physical, &mut bytes[done..done + length]).is_err() {
                // Of a large page a part may be RAM.
                let small = usize::try_from(4096 - (at & 4095)).unwrap_or(0).min(length);
                if small == length || self.ram.read(mapped.physical, &mut bytes[done..done + small]).is_err()
                {
                    break;
                }
                done += small;
                continue;
            }
            done += length;
        }
        done
    }

    /// The 8 bytes at `address`.
    pub fn word(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        (self.read(address, &mut bytes) == bytes.len()).then_some(u64::from_le_bytes(bytes))
    }

    /// True if the kernel can execute what is at `address`, and user mode cannot.
    pub fn is_kernel_code(&self, address: u64) -> bool {
        self.translate(address).is_some_and(|mapped| mapped.executable && !mapped.user)
    }
}

#[derive(Debug, Clone, Copy)]
struct Rights {
    user: bool,
    writable: bool,
    executable: bool,
}

impl Rights {
    fn over(self, physical: u64, page: u64) -> Mapped {
        let Rights { user, writable, executable } = self;
        Mapped { physical, page, user, writable, executable }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ram() -> GuestRam {
        GuestRam::new(4 << 20).unwrap()
    }

    fn long_mode() -> CpuState {
        CpuState {
            cr0: CR0_PG | 1,
            cr3: 0x1000,
            cr4: CR4_PAE,
            efer: EFER_LMA | EFER_NXE,
            ..CpuState::default()
        }
    }

    fn put(ram: &GuestRam, at: u64, entry: u64) {
        ram.write(at, &entry.to_le_bytes()).unwrap();
    }

    /// Upper half, one 2 MiB page of code; one 4 KiB page of data for the user; one 1 GiB page.
    fn mapped() -> GuestRam {
        let ram = ram();
        put(&ram, 0x1000 + 511 * 8, 0x2003);
        put(&ram, 0x2000 + 510 * 8, 0x3003);
        put(&ram, 0x3000 + 8 * 8, 0x20_0000 | LARGE | 1);
        put(&ram, 0x3000 + 9 * 8, 0x4007);
        put(&ram, 0x4000, 0x5000 | NO_EXECUTE | 7);
        put(&ram, 0x2000 + 511 * 8, LARGE | NO_EXECUTE | 3);
        ram
    }

    #[test]
    fn long_mode_has_pages_of_three_sizes() {
        let ram = mapped();
        let memory = Virtual::new(&long_mode(), &ram);
        let code = memory.translate(0xffff_ffff_8100_1234).unwrap();
        let expected =
            Mapped { physical: 0x20_1234, page: 2 << 20, user: false, writable: false, executable: true };
        assert_eq!(code, expected);
        let data = memory.translate(0xffff_ffff_8120_0008).unwrap();
        assert_eq!((data.physical, data.page, data.executable), (0x5008, 4096, false));
        assert!(data.writable && !data.user, "the levels above are the kernel's");
        assert_eq!(memory.translate(0xffff_ffff_c012_3456).unwrap().physical, 0x12_3456);
        assert_eq!(memory.translate(0xffff_ffff_8140_0000), None);
        assert_eq!(memory.translate(0x0000_8000_0000_0000), None, "not canonical");
        assert!(memory.is_kernel_code(0xffff_ffff_8100_0000));
        assert!(!memory.is_kernel_code(0xffff_ffff_c000_0000));
        assert!(ram.take_written_frames().iter().all(|frame| *frame <= 4), "looking changes nothing");
    }

    #[test]
    fn reading_goes_as_far_as_there_is_memory() {
        let ram = mapped();
        ram.write(0x5ff8, &[7; 8]).unwrap();
        let memory = Virtual::new(&long_mode(), &ram);
        assert_eq!(memory.word(0xffff_ffff_8120_0ff8), Some(0x0707_0707_0707_0707));
        assert_eq!(memory.word(0xffff_ffff_8120_0ffc), None);
        let mut bytes = [0; 32];
        assert_eq!(memory.read(0xffff_ffff_8120_0ff0, &mut bytes), 16);
        assert_eq!(memory.read(0xffff_ffff_c000_0000 + (4 << 20) - 16, &mut bytes), 16);
        assert_eq!(memory.read(u64::MAX, &mut bytes), 0, "the end of a 1 GiB page is no RAM");
    }

    #[test]
    fn older_modes_are_walked_too() {
        let ram = ram();
        let flat = CpuState { cr0: 1, ..CpuState::default() };
        let memory = Virtual::new(&flat, &ram);
        assert_eq!(memory.translate(0x1234).unwrap().physical, 0x1234);
        assert_eq!(memory.translate(1 << 32), None);
        let two = CpuState { cr0: CR0_PG | 1, cr3: 0x8000, cr4: CR4_PSE, ..CpuState::default() };
        ram.write(0x8000, &0x9007_u32.to_le_bytes()).unwrap();
        ram.write(0x9000 + 5 * 4, &0x6003_u32.to_le_bytes()).unwrap();
        ram.write(0x8000 + 4, &(0x40_0000_u32 | 1 << 13 | 0x81).to_le_bytes()).unwrap();
        let memory = Virtual::new(&two, &ram);
        assert_eq!(memory.translate(0x5678).unwrap().physical, 0x6678);
        assert_eq!(memory.translate(0x40_0010).unwrap().physical, 1 << 32 | 0x40_0010);
        assert_eq!(memory.translate(0x6000), None);
        let pae = CpuState { cr0: CR0_PG | 1, cr3: 0xa020, cr4: CR4_PAE, ..CpuState::default() };
        put(&ram, 0xa020 + 3 * 8, 0xb001);
        put(&ram, 0xb000, 0x20_0000 | LARGE | 3);
        let memory = Virtual::new(&pae, &ram);
        assert_eq!(memory.translate(0xc000_0042).unwrap().physical, 0x20_0042);
        assert_eq!(memory.translate(0x42), None);
    }

    proptest! {
        #[test]
        fn any_tables_can_be_walked(
            words in prop::collection::vec((0_u64..0x4000, any::<u64>()), 0..64),
            cr3 in any::<u64>(),
            modes in any::<(u64, u64, u64)>(),
            address in any::<u64>(),
        ) {
            let ram = ram();
            for (at, word) in words {
                put(&ram, at & !7, word);
            }
            let near = cr3 & 0x3fff;
            for cr3 in [cr3, near] {
                let state = CpuState { cr0: modes.0, cr3, cr4: modes.1, efer: modes.2, ..CpuState::default() };
                let memory = Virtual::new(&state, &ram);
                let mut bytes = [0; 64];
                prop_assert!(memory.read(address, &mut bytes) <= 64);
                memory.translate(address & 0xffff_ffff);
            }
        }
    }
}
