//! The tables read back, field by field; and, where it is installed, by ACPICA's own disassembler.

use std::collections::BTreeMap;

use super::*;

fn machine() -> Description {
    let virtio = |slot: u32, irq| VirtioDevice { address: 0xd000_0000 + slot * 0x1000, size: 0x1000, irq };
    Description {
        processors: 2,
        local_apic: 0xfee0_0000,
        io_apic: (2, 0xfec0_0000),
        timer_pin: 2,
        sci: 9,
        pm_port: 0x600,
        serial: (0x3f8, 4),
        rtc_port: 0x70,
        virtio: vec![virtio(0, 5), virtio(1, 16), virtio(2, 5)],
    }
}

fn number(bytes: &[u8], at: usize, size: usize) -> u64 {
    bytes[at..at + size].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The table at an address of the blob; its checksum must be right.
fn at(blob: &[u8], address: u64) -> &[u8] {
    let start = usize::try_from(address - BASE).unwrap();
    let length = usize::try_from(number(blob, start + 4, 4)).unwrap();
    let table = &blob[start..start + length];
    if &table[..4] != b"FACS" {
        assert_eq!(sum(table), 0, "checksum of {:?}", &table[..4]);
        assert_eq!(&table[10..24], b"SCRIBESCRIBEPC");
    }
    table
}

/// All tables by signature, found as a kernel finds them.
fn parse(blob: &[u8]) -> BTreeMap<String, &[u8]> {
    assert_eq!((&blob[..8], &blob[9..15], blob[15]), (&b"RSD PTR "[..], &b"SCRIBE"[..], 2));
    assert_eq!((sum(&blob[..20]), sum(&blob[..36])), (0, 0));
    let xsdt = at(blob, number(blob, 24, 8));
    let mut tables = vec![xsdt];
    tables.extend((36..xsdt.len()).step_by(8).map(|entry| at(blob, number(xsdt, entry, 8))));
    let fadt = tables.iter().find(|table| &table[..4] == b"FACP").unwrap();
    let addresses = [number(fadt, 36, 4), number(fadt, 40, 4)];
    assert_eq!((number(fadt, 132, 8), number(fadt, 140, 8)), (0, addresses[1]));
    assert_eq!(addresses[0] % 64, 0);
    tables.extend(addresses.map(|address| at(blob, address)));
    tables.into_iter().map(|table| (String::from_utf8(table[..4].to_vec()).unwrap(), table)).collect()
}

#[test]
fn a_kernel_finds_the_tables() {
    let blob = tables(&machine()).unwrap();
    let found = parse(&blob);
    assert_eq!(found.keys().collect::<Vec<_>>(), ["APIC", "DSDT", "FACP", "FACS", "XSDT"]);
    assert_eq!(tables(&machine()).unwrap(), blob, "the same every time");
    assert!(blob.len() < 0x1000, "{}", blob.len());
}

#[test]
fn the_fixed_hardware_is_where_it_is() {
    let blob = tables(&machine()).unwrap();
    let found = parse(&blob);
    let fadt = found["FACP"];
    assert_eq!((fadt.len(), fadt[8]), (276, 6));
    let field = |at, size| number(fadt, at, size);
    assert_eq!((field(46, 2), field(48, 4)), (9, 0), "SCI, SMI command");
    assert_eq!((field(56, 4), field(64, 4)), (0x600, 0x604), "PM1a");
    assert_eq!((fadt[88], fadt[89]), (4, 2));
    assert_eq!([field(60, 4), field(68, 4), field(72, 4), field(76, 4), field(80, 4), field(84, 4)], [0; 6]);
    assert_eq!((field(96, 2), field(98, 2), fadt[108]), (101, 1001, 0x32));
    assert_eq!(field(109, 2), 0b1101, "boot flags");
    // WBINVD, PROC_C1, no sleep button, no RTC wake-up, a reset register, headless; a power button, no PM timer extension.
    assert_eq!(field(112, 4), 1 << 0 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 10 | 1 << 12);
    let address = |at| (field(at, 1), field(at + 1, 1), field(at + 2, 1), field(at + 4, 8));
    assert_eq!((address(116), fadt[128]), ((1, 8, 0, 0x606), 1), "reset");
    assert_eq!((address(148), address(172)), ((1, 32, 0, 0x600), (1, 16, 0, 0x604)));
    assert_eq!(address(208), (0, 0, 0, 0), "no PM timer");
}

#[test]
fn the_apics_and_their_pins() {
    let blob = tables(&machine()).unwrap();
    let found = parse(&blob);
    let madt = found["APIC"];
    assert_eq!((number(madt, 36, 4), number(madt, 40, 4)), (0xfee0_0000, 1));
    let mut entries = Vec::new();
    let mut rest = &madt[44..];
    while let [_, length, ..] = rest {
        let (entry, behind) = rest.split_at(usize::from(*length));
        entries.push(entry);
        rest = behind;
    }
    assert_eq!(
        entries,
        [
            &[0, 8, 0, 0, 1, 0, 0, 0][..],
            &[0, 8, 1, 1, 1, 0, 0, 0],
            &[1, 12, 2, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0],
            &[2, 10, 0, 0, 2, 0, 0, 0, 0, 0],
            &[2, 10, 0, 5, 5, 0, 0, 0, 0xd, 0],
            &[2, 10, 0, 9, 9, 0, 0, 0, 0xd, 0],
            &[4, 6, 0xff, 0, 0, 1],
        ]
    );
}

#[test]
fn the_devices_are_named() {
    let blob = tables(&machine()).unwrap();
    let found = parse(&blob);
    let dsdt = found["DSDT"];
    let count = |what: &[u8]| dsdt.windows(what.len()).filter(|window| *window == what).count();
    assert_eq!(count(b"LNRO0005\0"), 3);
    assert_eq!(count(b"ACPI0007\0"), 2);
    for name in ["_SB_", "COM1", "RTC0", "VR00", "VR01", "VR02", "C000", "C001"] {
        assert_eq!(count(name.as_bytes()), 1, "{name}");
    }
    // EISA IDs of PNP0501 and PNP0B00.
    assert_eq!((count(&[0x41, 0xd0, 0x05, 0x01]), count(&[0x41, 0xd0, 0x0b, 0x00])), (1, 1));
    // Memory at 0xd0001000, then its interrupt: consumer, level-triggered, active high, exclusive.
    assert_eq!(count(&[0x86, 9, 0, 1, 0, 0x10, 0, 0xd0, 0, 0x10, 0, 0, 0x89, 6, 0, 1, 1, 16, 0, 0, 0]), 1);
    // Name (_S5_, Package () { 5, 0, 0, 0 }).
    assert_eq!(count(&[8, b'_', b'S', b'5', b'_', 0x12, 7, 4, 0x0a, 5, 0, 0, 0]), 1);
}

#[test]
fn sizes() {
    let small = Description { processors: 1, virtio: Vec::new(), ..machine() };
    parse(&tables(&small).unwrap());
    let device = machine().virtio[0];
    let large = Description { processors: 255, virtio: vec![device; 256], ..machine() };
    parse(&tables(&large).unwrap());
    let too_many = Description { virtio: vec![device; 257], ..machine() };
    assert!(matches!(tables(&too_many), Err(AcpiError::Devices(257))));
}

#[test]
fn acpica_understands_them() {
    let folder = tempfile::tempdir().unwrap();
    let blob = tables(&machine()).unwrap();
    for (signature, table) in parse(&blob) {
        let file = format!("{signature}.aml");
        std::fs::write(folder.path().join(&file), table).unwrap();
        let output =
            std::process::Command::new("iasl").args(["-d", &file]).current_dir(folder.path()).output();
        let Ok(output) = output else {
            println!("SKIPPED: iasl is not installed (package acpica-tools)");
            return;
        };
        let said = String::from_utf8_lossy(&output.stderr).to_lowercase()
            + &String::from_utf8_lossy(&output.stdout).to_lowercase();
        assert!(output.status.success(), "{signature}: {said}");
        assert!(!said.contains("warning") && !said.contains("error"), "{signature}: {said}");
        let text = std::fs::read_to_string(folder.path().join(format!("{signature}.dsl"))).unwrap();
        assert!(!text.contains("Incorrect checksum") && !text.contains("Invalid"), "{text}");
        if signature == "DSDT" {
            for part in ["Device (VR01)", "Name (_HID, \"LNRO0005\")", "0x00000010,", "EisaId (\"PNP0501\")"]
            {
                assert!(text.contains(part), "{part}: {text}");
            }
            // What was taken apart can be put together: the AML is well-formed.
            let again = std::process::Command::new("iasl")
                .args(["-p", "again", "DSDT.dsl"])
                .current_dir(folder.path())
                .output()
                .unwrap();
            assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stdout));
        }
    }
}
