//! What a probe guest's memory looks like: page tables, descriptor tables, entry stubs.
//!
//! The same 2 MiB are mapped twice, as Linux would see them: low for CPL 3, at the top of the address space for CPL 0
//! only. The selectors are Linux's too, so that SYSCALL and SYSRET find what they expect.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::guest::ProbeError;

/// Guest-physical size of the ordinary RAM at 0.
pub(super) const RAM_BYTES: usize = 2 << 20;
/// Guest-physical address of the second memory slot, whose dirty pages are logged.
pub(super) const LOGGED: u64 = 2 << 20;
/// Size of the second slot.
pub(super) const LOGGED_BYTES: usize = 64 << 10;
/// A guest-physical address with no memory behind it, mapped for CPL 0.
pub(super) const HOLE: u64 = 3 << 20;
/// A virtual address that no page table maps.
pub(super) const UNMAPPED: u64 = 0x4000_0000;
/// What CPL 0 adds to a guest-physical address.
pub(super) const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;

const PML4: u64 = 0x1000;
const PDPT_LOW: u64 = 0x2000;
const PD_LOW: u64 = 0x3000;
const PDPT_HIGH: u64 = 0x4000;
const PD_HIGH: u64 = 0x5000;
/// The GDT, guest-physical.
pub(super) const GDT: u64 = 0x6000;
/// GDT limit.
pub(super) const GDT_LIMIT: u16 = 10 * 8 - 1;
const TSS: u64 = 0x7000;
/// The TSS proper and an I/O bitmap of 256 ports.
const TSS_LIMIT: u32 = 0x68 + 32;
/// The IDT, guest-physical.
pub(super) const IDT: u64 = 0x8000;
/// IDT limit: the vectors that have a gate.
pub(super) const IDT_LIMIT: u16 = VECTORS * 16 - 1;
const STUBS: u64 = 0x10000;
/// Room for one vector's handler.
const STUB_BYTES: u64 = 64;
/// Where SYSCALL arrives, guest-physical.
pub(super) const SYSCALL_ENTRY: u64 = 0x18000;
const KERNEL_STACK: u64 = 0x30000;
const KERNEL_CODE: u64 = 0x40000;
const USER_CODE: u64 = 0x50000;
const USER_STACK: u64 = 0x60000;
/// A zeroed page for the code under test, guest-physical.
pub(super) const DATA: u64 = 0x70000;

/// CPL 0 code selector.
pub(super) const KERNEL_CS: u16 = 0x10;
/// CPL 0 stack selector.
pub(super) const KERNEL_SS: u16 = 0x18;
const USER_CS32: u16 = 0x23;
const USER_SS: u16 = 0x2b;
const USER_CS: u16 = 0x33;
/// Selector of the TSS descriptor.
pub(super) const TSS_SELECTOR: u16 = 0x40;

/// IA32_STAR: selectors for SYSCALL and SYSRET.
pub(super) const STAR: u64 = (USER_CS32 as u64) << 48 | (KERNEL_CS as u64) << 32;
/// IA32_FMASK as Linux sets it: IF, TF, DF, AC, NT, IOPL are cleared at SYSCALL.
pub(super) const FMASK: u64 = 0x4_7700;

/// Vectors with a gate. A handler says which it is by an OUT to port `0x80 | vector`, so there can be 128.
pub(super) const VECTORS: u16 = 0x80;
/// The vector of the software interrupt; its gate may be used from CPL 3.
pub(super) const INT_VECTOR: u8 = 0x50;
/// The vector injected as an external interrupt.
pub(super) const IRQ_VECTOR: u8 = 0x30;

/// Extra bits of CR4.
pub(super) const CR4_TSD: u64 = 1 << 2;
/// PAE, PGE, OSFXSR, OSXMMEXCPT.
const CR4: u64 = 0x6a0;

/// A privilege level a guest starts at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ring {
    /// CPL 0, in the upper half of the address space.
    Kernel,
    /// CPL 3, in the lower half. Its OUT reaches the VMM directly, by IOPL 3 and by the TSS: there are KVMs that do
    /// not keep IOPL, and QEMU's AMD-V does not find the TSS.
    User,
}

impl Ring {
    /// The CPL.
    pub(super) fn cpl(self) -> u8 {
        match self {
            Self::Kernel => 0,
            Self::User => 3,
        }
    }

    /// The virtual address at which this ring sees a guest-physical one.
    pub(super) fn at(self, gpa: u64) -> u64 {
        match self {
            Self::Kernel => KERNEL_BASE + gpa,
            Self::User => gpa,
        }
    }

    /// Guest-physical address of the code under test.
    pub(super) fn code(self) -> u64 {
        match self {
            Self::Kernel => KERNEL_CODE,
            Self::User => USER_CODE,
        }
    }

    /// General registers at the start: RIP at the code, RDI at the data page, RSI half a page further.
    pub(super) fn registers(self) -> kvm_regs {
        let (stack, rflags) = match self {
            Self::Kernel => (KERNEL_STACK - 0x1000, 0x2),
            Self::User => (USER_STACK, 0x3002),
        };
        kvm_regs {
            rip: self.at(self.code()),
            rsp: self.at(stack),
            rdi: self.at(DATA),
            rsi: self.at(DATA + 0x800),
            rflags,
            ..Default::default()
        }
    }

    /// Fills in the system registers for a start in this ring.
    pub(super) fn system_registers(self, sregs: &mut kvm_sregs, extra_cr4: u64) {
        let (code, stack) = match self {
            Self::Kernel => (KERNEL_CS, KERNEL_SS),
            Self::User => (USER_CS, USER_SS),
        };
        let flat = |selector, type_, long: bool| kvm_segment {
            base: 0,
            limit: 0xffff_ffff,
            selector,
            type_,
            present: 1,
            dpl: self.cpl(),
            db: u8::from(!long),
            s: 1,
            l: u8::from(long),
            g: 1,
            ..Default::default()
        };
        sregs.cs = flat(code, 11, true);
        sregs.ss = flat(stack, 3, false);
        for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs] {
            *segment = flat(stack, 3, false);
        }
        sregs.tr = kvm_segment {
            base: KERNEL_BASE + TSS,
            limit: TSS_LIMIT,
            selector: TSS_SELECTOR,
            type_: 11,
            present: 1,
            ..Default::default()
        };
        sregs.ldt = kvm_segment { unusable: 1, ..Default::default() };
        sregs.gdt.base = KERNEL_BASE + GDT;
        sregs.gdt.limit = GDT_LIMIT;
        sregs.idt.base = KERNEL_BASE + IDT;
        sregs.idt.limit = IDT_LIMIT;
        sregs.cr0 = 0x8005_0033; // PG AM WP NE ET MP PE
        sregs.cr2 = 0;
        sregs.cr3 = PML4;
        sregs.cr4 = CR4 | extra_cr4;
        sregs.cr8 = 0;
        sregs.efer = 0xd01; // NXE LMA LME SCE
        sregs.interrupt_bitmap = [0; 4];
    }
}

/// Guest-physical address of a vector's handler.
pub(super) fn stub(vector: u8) -> u64 {
    STUBS + u64::from(vector) * STUB_BYTES
}

/// The handler a vector has unless a probe brings its own: say which it is, stop.
pub(super) fn default_stub(vector: u8) -> [u8; 3] {
    [0xe6, 0x80 | vector, 0xf4] // out imm8, al; hlt
}

/// Writes page tables, GDT, TSS, IDT and the default handlers.
pub(super) fn write(ram: &GuestMemoryMmap<()>) -> Result<(), ProbeError> {
    let put =
        |address: u64, value: u64| ram.write_obj(value, GuestAddress(address)).map_err(ProbeError::Memory);
    let page_table_user = 7; // present, writable, user
    let page_table_kernel = 3;
    let large = 0x80;
    put(PML4, PDPT_LOW | page_table_user)?;
    put(PDPT_LOW, PD_LOW | page_table_user)?;
    put(PD_LOW, large | page_table_user)?;
    put(PML4 + 511 * 8, PDPT_HIGH | page_table_kernel)?;
    put(PDPT_HIGH + 510 * 8, PD_HIGH | page_table_kernel)?;
    put(PD_HIGH, large | page_table_kernel)?;
    put(PD_HIGH + 8, LOGGED | large | page_table_kernel)?;

    put(GDT + u64::from(KERNEL_CS), 0x00af_9b00_0000_ffff)?;
    put(GDT + u64::from(KERNEL_SS), 0x00cf_9300_0000_ffff)?;
    put(GDT + u64::from(USER_CS32 & !3), 0x00cf_fb00_0000_ffff)?;
    put(GDT + u64::from(USER_SS & !3), 0x00cf_f300_0000_ffff)?;
    put(GDT + u64::from(USER_CS & !3), 0x00af_fb00_0000_ffff)?;
    let base = KERNEL_BASE + TSS;
    let low = u64::from(TSS_LIMIT) | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
    put(GDT + u64::from(TSS_SELECTOR), low)?;
    put(GDT + u64::from(TSS_SELECTOR) + 8, base >> 32)?;
    put(TSS + 4, KERNEL_BASE + KERNEL_STACK)?; // RSP0
    put(TSS + 0x60, 0x68 << 48)?; // the I/O bitmap follows: its zeroes allow ports 0 to 0xff
    put(TSS + 0x68 + 32, 0xff)?; // and its end

    for vector in 0..0x80u8 {
        ram.write_slice(&default_stub(vector), GuestAddress(stub(vector))).map_err(ProbeError::Memory)?;
        let handler = KERNEL_BASE + stub(vector);
        let dpl = if vector == INT_VECTOR { 3 } else { 0 };
        let kind: u64 = 0x8e | dpl << 5; // present interrupt gate
        let gate =
            handler & 0xffff | u64::from(KERNEL_CS) << 16 | kind << 40 | (handler >> 16 & 0xffff) << 48;
        put(IDT + u64::from(vector) * 16, gate)?;
        put(IDT + u64::from(vector) * 16 + 8, handler >> 32)?;
    }
    Ok(())
}
