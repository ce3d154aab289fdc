//! The platforms: every number of `scribe-pc-1` that a guest can see, which `scribe-pc-2` shares; what that has beside is
//! in [`super::apics`]. `scribe-pc-1` is frozen: a change is a new platform version.

/// What a guest sees of a machine; a later one has more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Platform {
    /// `scribe-pc-1`: 8259A pair, no firmware tables
    #[default]
    Pc1,
    /// `scribe-pc-2`, in the making: local APIC, I/O APIC, ACPI
    Pc2,
}

impl Platform {
    /// All of them, the default first.
    pub const ALL: [Self; 2] = [Self::Pc1, Self::Pc2];

    /// Its name, in recordings and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pc1 => "scribe-pc-1",
            Self::Pc2 => "scribe-pc-2",
        }
    }

    /// The platform of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|platform| platform.name() == name)
    }
}

/// Least RAM: real-mode area, boot tables and something to run.
pub const MINIMUM_RAM: u64 = 2 << 20;
/// Most RAM of this version. The profile's 40 physical address bits would allow more.
pub const MAXIMUM_RAM: u64 = 64 << 30;
/// RAM below this address, if there is that much.
pub const LOW_RAM_END: u64 = 3 << 30;
/// RAM beyond [`LOW_RAM_END`] goes here.
pub const HIGH_RAM_START: u64 = 4 << 30;

/// virtio-mmio slots: 4 KiB each from here on.
pub const MMIO_BASE: u64 = 0xd000_0000;
/// bytes of one virtio-mmio slot
pub const MMIO_SLOT: u64 = 0x1000;
/// IRQ of slot 0, the disk; level-triggered (ELCR)
pub const DISK_IRQ: u8 = 5;
/// serial number of the disk (virtio GET_ID)
pub const DISK_ID: &[u8] = b"scribe-disk-0";

/// IRQs of the slots behind it, in order; level-triggered. 9 is ACPI's
pub const VIRTIO_IRQS: [u8; 8] = [10, 11, 12, 14, 15, 6, 7, 3];

/// IRQ of the 8254's channel 0
pub const TIMER_IRQ: u8 = 0;
/// IRQ of the 16550 at 0x3f8
pub const UART_IRQ: u8 = 4;
/// first port of the 16550
pub const UART_PORT: u16 = 0x3f8;
/// first port of the guest interface (docs/guest-interface.md)
pub const GUEST_INTERFACE_PORT: u16 = 0x5c0;
/// ports of the guest interface
pub const GUEST_INTERFACE_PORTS: u16 = 0x30;

/// Guest nanoseconds per retired conditional branch, where there is a counter (k1).
pub const NS_PER_BRANCH: u64 = 8;
/// Guest nanoseconds per exit (k2).
pub const NS_PER_EXIT: u64 = 2_000;
