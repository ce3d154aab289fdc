//! Whole exits.

use super::*;

fn out(port: u16, size: u8, value: u32) -> (Exit, Answer) {
    (Exit::PortWrite { port, size, value }, Answer::Done)
}

fn input(port: u16, size: u8, value: u64) -> (Exit, Answer) {
    (Exit::PortRead { port, size }, Answer::Value(value))
}

#[test]
fn exits_print_as_one_phrase() {
    let mut decoder = Decoder::default();
    let load = Exit::MmioRead { address: 0xd000_0070, size: 4 };
    let store = Exit::MmioWrite { address: 0xd000_0050, size: 4, value: 0 };
    for ((exit, answer), device, text) in [
        (out(0x20, 1, 0x11), "pic", "out8 0x20 ICW1 <- 0x11: edge, cascade, ICW4 follows"),
        (out(0x43, 1, 0x34), "pit", "out8 0x43 control <- 0x34: counter 0, low and high byte, mode 2"),
        (input(0x61, 1, 0x20), "pit", "in8 0x61 port B -> 0x20: OUT of counter 2"),
        (out(0x70, 1, 9), "rtc", "out8 0x70 index <- 0x9: year"),
        (input(0x71, 1, 0x26), "rtc", "in8 0x71 year -> 0x26"),
        (input(0x64, 1, 0), "i8042", "in8 0x64 status -> 0x0"),
        (out(0x64, 1, 0xfe), "i8042", "out8 0x64 command <- 0xfe: reset"),
        (out(0x3f8, 1, 0x41), "uart", r#"out8 0x3f8 THR <- 0x41: "A""#),
        (input(0x3f8, 2, 0xffff), "uart", "in16 0x3f8 -> 0xffff: ignored: it takes single bytes"),
        (out(0x5d0, 4, 2), "guest", "out32 0x5d0 CLOCK_PAGE <- 0x2: page at 0x2000"),
        (out(0x80, 1, 0), "unmapped", "out8 0x80 POST code <- 0x0"),
        (input(0x1234, 4, 0xffff_ffff), "unmapped", "in32 0x1234 -> 0xffffffff"),
        ((load, Answer::Value(7)), "disk", "load32 0xd0000070 Status -> 0x7: ACKNOWLEDGE, DRIVER, DRIVER_OK"),
        ((store, Answer::Done), "disk", "store32 0xd0000050 QueueNotify <- 0x0: queue 0"),
        (
            (Exit::MmioRead { address: 0xd000_0070, size: 1 }, Answer::Value(0)),
            "disk",
            "load8 0xd0000070 -> 0x0: ignored: registers take four bytes",
        ),
        (
            (Exit::MmioRead { address: 0xfee0_0030, size: 4 }, Answer::Value(0xffff_ffff)),
            "unmapped",
            "load32 0xfee00030 local APIC -> 0xffffffff",
        ),
        ((Exit::Halt, Answer::Done), "cpu", "hlt"),
        (
            (Exit::MsrRead { index: 0x8b }, Answer::Value(0x0100_0065)),
            "cpu",
            "rdmsr 0x8b PATCH_LEVEL -> 0x1000065",
        ),
        (
            (Exit::MsrWrite { index: 0xdead, value: 1 }, Answer::GeneralProtection),
            "cpu",
            "wrmsr 0xdead <- 0x1 -> #GP",
        ),
    ] {
        let decoded = decoder.exit(&exit, answer);
        assert_eq!((decoded.device.name(), decoded.to_string().as_str()), (device, text));
    }
}

#[test]
fn an_access_that_is_ignored_selects_nothing() {
    let mut decoder = Decoder::default();
    let (exit, answer) = out(0x3fb, 2, 0x83);
    decoder.exit(&exit, answer);
    let (exit, answer) = out(0x3f8, 1, 0x41);
    assert_eq!(decoder.exit(&exit, answer).register, "THR");
}

#[test]
fn no_exit_is_too_strange() {
    let mut decoder = Decoder::default();
    for port in 0..=u16::MAX {
        for (size, value) in [(1, 0), (1, u32::MAX), (2, 1), (4, u32::MAX), (0, 7), (255, 7)] {
            let (exit, answer) = out(port, size, value);
            assert!(!decoder.exit(&exit, answer).to_string().is_empty());
            let (exit, answer) = input(port, size, u64::MAX);
            assert!(!decoder.exit(&exit, answer).to_string().contains('\n'));
        }
    }
    for address in (0..0x1100).map(|offset| MMIO_BASE + offset).chain([0, u64::MAX]) {
        for size in [0, 1, 4, 8, 255] {
            let exit = Exit::MmioWrite { address, size, value: u64::MAX };
            assert!(!decoder.exit(&exit, Answer::Done).to_string().contains('\n'));
        }
    }
}

#[test]
fn lines_have_sources() {
    let names = |irq| Device::of_irq(irq).name();
    assert_eq!([Some(0), Some(4), Some(5), Some(2), None].map(names), ["pit", "uart", "disk", "pic", "pic"]);
    assert_eq!([Some(10), Some(7)].map(names), ["virtio", "virtio"]);
    let all: Vec<&str> = Device::ALL.iter().map(|device| device.name()).collect();
    assert_eq!(all.len(), 12);
    assert!(all.iter().all(|name| all.iter().filter(|other| *other == name).count() == 1));
}
