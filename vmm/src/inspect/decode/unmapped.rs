//! Ports and addresses where a PC has something and this machine has nothing: what guests look for in vain.

/// Ports: first, last, name; ascending.
const PORTS: &[(u16, u16, &str)] = &[
    (0x00, 0x0f, "DMA controller 1"),
    (0x22, 0x23, "chip configuration"),
    (0x80, 0x80, "POST code"),
    (0x81, 0x8f, "DMA page"),
    (0x92, 0x92, "fast A20 and reset"),
    (0xb2, 0xb3, "SMI command"),
    (0xc0, 0xdf, "DMA controller 2"),
    (0xed, 0xed, "delay"),
    (0xf0, 0xf1, "FPU error"),
    (0x170, 0x177, "IDE 2"),
    (0x1f0, 0x1f7, "IDE 1"),
    (0x200, 0x207, "game port"),
    (0x220, 0x233, "sound card"),
    (0x278, 0x27f, "parallel port 2"),
    (0x2e8, 0x2ef, "serial port 4"),
    (0x2f8, 0x2ff, "serial port 2"),
    (0x330, 0x331, "MIDI"),
    (0x376, 0x376, "IDE 2 control"),
    (0x378, 0x37f, "parallel port 1"),
    (0x3b0, 0x3bb, "VGA monochrome"),
    (0x3c0, 0x3cf, "VGA"),
    (0x3d4, 0x3d5, "VGA CRT controller"),
    (0x3d6, 0x3df, "VGA colour"),
    (0x3e8, 0x3ef, "serial port 3"),
    (0x3f0, 0x3f5, "floppy"),
    (0x3f6, 0x3f6, "IDE 1 control"),
    (0x3f7, 0x3f7, "floppy"),
    (0x510, 0x511, "QEMU configuration"),
    (0x5658, 0x5659, "VMware back door"),
    (0xcf8, 0xcfb, "PCI configuration address"),
    (0xcfc, 0xcff, "PCI configuration data"),
];

/// Addresses: first, last, name; ascending.
const ADDRESSES: &[(u64, u64, &str)] = &[
    (0xfec0_0000, 0xfec0_0fff, "I/O APIC"),
    (0xfed0_0000, 0xfed0_0fff, "HPET"),
    (0xfed4_0000, 0xfed4_4fff, "TPM"),
    (0xfee0_0000, 0xfee0_0fff, "local APIC"),
];

/// What a PC has at this port.
pub(super) fn port(port: u16) -> Option<&'static str> {
    find(PORTS, port)
}

/// What a PC has at this guest physical address.
pub(super) fn address(address: u64) -> Option<&'static str> {
    find(ADDRESSES, address)
}

fn find<T: PartialOrd + Copy>(table: &[(T, T, &'static str)], at: T) -> Option<&'static str> {
    table.iter().find(|(first, last, _)| (*first..=*last).contains(&at)).map(|(_, _, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_guests_look_for_has_a_name() {
        assert_eq!(port(0x80), Some("POST code"));
        assert_eq!(port(0xcf8), Some("PCI configuration address"));
        assert_eq!(port(0xcff), Some("PCI configuration data"));
        assert_eq!(port(0x1234), None);
        assert_eq!(address(0xfee0_0030), Some("local APIC"));
        assert_eq!(address(0xd000_1000), None);
    }
}
