//! The sequences of Linux's 8250 driver, pacing, and arbitrary accesses.

use proptest::prelude::*;

use super::*;
use crate::testing::conforms;

const LSR: u8 = 5;
const MSR: u8 = 6;
const SCR: u8 = 7;

/// A port whose receive interrupt is enabled.
fn listening() -> Uart {
    let mut uart = Uart::new();
    uart.write(IER, IER_RECEIVE, 0);
    uart
}

#[test]
fn linux_finds_a_16550a() {
    let mut uart = Uart::new();
    let mut io = |offset: u8, value: Option<u8>| match value {
        Some(value) => {
            uart.write(offset, value, 0);
            0
        }
        None => uart.read(offset, 0),
    };
    // `autoconfig`: the interrupt enable register holds exactly four bits.
    io(IER, Some(0));
    assert_eq!(io(IER, None), 0);
    io(IER, Some(0x0f));
    assert_eq!(io(IER, None), 0x0f);
    io(IER, Some(0));
    // Loopback: modem control comes back as modem status.
    io(MCR, Some(0x1a));
    assert_eq!(io(MSR, None) & 0xf0, 0x90);
    io(MCR, Some(0x08));
    // A working FIFO.
    io(LCR, Some(0xbf));
    io(IIR_FCR, Some(0));
    io(LCR, Some(0));
    io(IIR_FCR, Some(0x01));
    assert_eq!(io(IIR_FCR, None) >> 6, 3);
    // `autoconfig_16550a`: not a 16650, whose EFR reads 0 ...
    for lcr in [0x80, 0xbf] {
        io(LCR, Some(lcr));
        assert_ne!(io(IIR_FCR, None), 0);
    }
    // ... not a National Semiconductor chip, whose EXCR1 follows the loopback bit ...
    let mut excr1 = |mcr: u8| {
        io(LCR, Some(0));
        io(MCR, Some(mcr));
        io(LCR, Some(0xe0));
        io(IIR_FCR, None)
    };
    assert_eq!((excr1(0x08) ^ excr1(0x18)) & 0x10, 0);
    excr1(0x08);
    // ... not a TI16750, whose 64-byte mode needs DLAB ...
    for lcr in [0x00, 0x80] {
        io(LCR, Some(lcr));
        io(IIR_FCR, Some(0x21));
        assert_eq!(io(IIR_FCR, None) & 0xe0, 0xc0);
    }
    // ... not an XScale, which has a unit enable bit ...
    io(LCR, Some(0));
    io(IER, Some(0x40));
    assert_eq!(io(IER, None) & 0x40, 0);
    io(IER, Some(0));
    // ... and with a FIFO of 16 bytes (`size_fifo`): a 16550A.
    io(IIR_FCR, Some(0x07));
    io(MCR, Some(0x10));
    for byte in 0..=255 {
        io(DATA, Some(byte));
    }
    let mut count = 0;
    while io(LSR, None) & LSR_DATA_READY != 0 {
        assert_eq!(io(DATA, None), count);
        count += 1;
    }
    assert_eq!(count, 16);
    assert_eq!(uart.take_output(), b"");
}

#[test]
fn linux_trusts_the_transmitter_interrupt() {
    // `serial8250_do_startup`: enabling the interrupt twice asserts it twice.
    let mut uart = Uart::new();
    for _ in 0..2 {
        uart.write(IER, IER_TRANSMIT, 0);
        assert!(uart.irq_level());
        assert_eq!(uart.read(IIR_FCR, 0), 0xc2);
        assert!(!uart.irq_level());
        assert_eq!(uart.read(IIR_FCR, 0), 0xc1);
        uart.write(IER, 0, 0);
    }
    assert_eq!(uart.read(LSR, 0), 0x60);
}

#[test]
fn a_message_is_sent_by_interrupts() {
    let mut uart = Uart::new();
    let mut message = b"Linux version".iter();
    uart.write(IER, IER_RECEIVE | IER_TRANSMIT, 0);
    while uart.irq_level() {
        assert_eq!(uart.read(IIR_FCR, 0), 0xc2);
        assert!(!uart.irq_level());
        match message.next() {
            Some(byte) => uart.write(DATA, *byte, 0),
            None => uart.write(IER, IER_RECEIVE, 0),
        }
    }
    assert_eq!(uart.take_output(), b"Linux version");
    assert_eq!(uart.take_output(), b"");
}

#[test]
fn a_byte_arrives_after_its_time() {
    let mut uart = listening();
    assert_eq!(uart.next_deadline(), None);
    assert_eq!(uart.offer(b"ab", 1000), 2);
    assert_eq!(uart.next_deadline(), Some(1000 + BYTE_NS));
    uart.advance(1000 + BYTE_NS - 1);
    assert!(!uart.irq_level());
    uart.advance(1000 + BYTE_NS);
    assert!(uart.irq_level());
    assert_eq!(uart.read(LSR, 1000 + BYTE_NS), 0x61);
    assert_eq!(uart.read(IIR_FCR, 1000 + BYTE_NS), 0xc4);
    assert!(uart.irq_level(), "identifying is not receiving");
    assert_eq!(uart.read(DATA, 1000 + BYTE_NS), b'a');
    assert!(!uart.irq_level());
    assert_eq!(uart.read(LSR, 1000 + BYTE_NS), 0x60);
    assert_eq!(uart.next_deadline(), Some(1000 + 2 * BYTE_NS));
    // A late look finds what arrived meanwhile.
    assert_eq!(uart.read(LSR, 1_000_000), 0x61);
    assert_eq!(uart.read(DATA, 1_000_000), b'b');
    assert_eq!(uart.next_deadline(), None);
}

#[test]
fn the_interrupt_stays_until_the_fifo_is_empty() {
    let mut uart = listening();
    uart.offer(b"xyz", 0);
    uart.advance(1_000_000);
    for byte in *b"xyz" {
        assert!(uart.irq_level());
        assert_eq!(uart.read(IIR_FCR, 1_000_000), 0xc4);
        assert_eq!(uart.read(DATA, 1_000_000), byte);
    }
    assert!(!uart.irq_level());
}

#[test]
fn a_full_fifo_holds_the_line() {
    let mut uart = listening();
    let text: Vec<u8> = (0..40).collect();
    uart.offer(&text, 0);
    uart.advance(1_000_000_000);
    assert_eq!(uart.next_deadline(), None);
    assert_eq!(uart.save().fifo, text[..16]);
    assert_eq!(uart.read(DATA, 1_000_000_000), 0);
    assert_eq!(uart.next_deadline(), Some(1_000_000_000 + BYTE_NS));
}

#[test]
fn a_guest_that_does_not_listen_gets_nothing() {
    let mut uart = Uart::new();
    uart.offer(b"a", 0);
    assert_eq!(uart.next_deadline(), None);
    uart.write(IER, IER_RECEIVE, 5000);
    assert_eq!(uart.next_deadline(), Some(5000 + BYTE_NS));
    // Whatever takes away a condition takes the byte off the line again.
    uart.write(MCR, 0x10, 6000);
    assert_eq!(uart.next_deadline(), None);
    uart.write(MCR, 0x00, 7000);
    assert_eq!(uart.next_deadline(), Some(7000 + BYTE_NS));
    uart.write(IER, 0, 8000);
    assert_eq!(uart.next_deadline(), None);
    assert_eq!(uart.save().backlog, b"a");
}

#[test]
fn the_backlog_is_bounded() {
    let mut uart = Uart::new();
    assert_eq!(uart.room(), BACKLOG_MAX);
    assert_eq!(uart.offer(&vec![1; BACKLOG_MAX - 1], 0), BACKLOG_MAX - 1);
    assert_eq!(uart.offer(b"abc", 0), 1);
    assert_eq!((uart.room(), uart.offer(b"abc", 0)), (0, 0));
}

#[test]
fn the_output_is_bounded() {
    let mut uart = Uart::new();
    for _ in 0..OUTPUT_MAX + 10 {
        uart.write(DATA, b'x', 0);
    }
    assert_eq!(uart.take_output().len(), OUTPUT_MAX);
}

#[test]
fn clearing_the_fifo_loses_what_is_in_it() {
    let mut uart = listening();
    uart.offer(b"ab", 0);
    uart.advance(BYTE_NS);
    uart.write(DATA, b'!', BYTE_NS);
    uart.write(IIR_FCR, 0x07, BYTE_NS);
    assert_eq!(uart.read(LSR, BYTE_NS), 0x60);
    assert!(!uart.irq_level());
    assert_eq!(uart.take_output(), b"!");
    assert_eq!(uart.read(DATA, 2 * BYTE_NS), b'b');
}

#[test]
fn divisor_and_scratch_registers_hold() {
    let mut uart = Uart::new();
    uart.write(LCR, 0x83, 0);
    uart.write(0, 0x01, 0);
    uart.write(1, 0x02, 0);
    uart.write(SCR, 0x5a, 0);
    assert_eq!((uart.read(0, 0), uart.read(1, 0), uart.read(SCR, 0)), (0x01, 0x02, 0x5a));
    uart.write(LCR, 0x03, 0);
    assert_eq!((uart.read(0, 0), uart.read(1, 0)), (0x00, 0x00));
    assert_eq!(uart.take_output(), b"");
}

#[test]
fn an_impossible_state_is_refused() {
    let mut uart = listening();
    uart.offer(b"ab", 0);
    let good = uart.save();
    let spoilers: [fn(&mut UartState); 5] = [
        |state| state.interrupt_enable = 0x10,
        |state| state.fifo = vec![0; 17],
        |state| state.backlog = vec![0; BACKLOG_MAX + 1],
        |state| state.output = vec![0; OUTPUT_MAX + 1],
        |state| state.backlog.clear(),
    ];
    for spoil in spoilers {
        let mut bad = good.clone();
        spoil(&mut bad);
        assert!(matches!(uart.restore(bad), Err(RestoreError::Invalid { device: "uart-16550a", .. })));
        assert_eq!(uart.save(), good);
    }
}

#[derive(Clone, Debug)]
enum Op {
    Read(u8),
    Write(u8, u8),
    Offer(Vec<u8>),
    Advance,
    Deadline,
    Take,
}

fn op() -> impl Strategy<Value = (Op, u64)> {
    let op = prop_oneof![
        (0..9u8).prop_map(Op::Read),
        (0..9u8, any::<u8>()).prop_map(|(offset, value)| Op::Write(offset, value)),
        (0..4u8).prop_map(|value| Op::Write(IER, value)),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Op::Offer),
        Just(Op::Advance),
        Just(Op::Deadline),
        Just(Op::Take),
    ];
    (op, prop_oneof![Just(0u64), 0..200_000u64, any::<u64>().prop_map(|step| step >> 8)])
}

fn apply(uart: &mut Uart, op: &Op, now: u64) -> Vec<u8> {
    match op {
        Op::Read(offset) => return vec![uart.read(*offset, now)],
        Op::Write(offset, value) => uart.write(*offset, *value, now),
        Op::Offer(bytes) => return vec![u8::try_from(uart.offer(bytes, now)).unwrap()],
        Op::Advance => uart.advance(now),
        Op::Deadline => {
            if let Some(deadline) = uart.next_deadline() {
                let waiting = uart.backlog.len();
                uart.advance(deadline);
                assert!(uart.backlog.len() < waiting && uart.irq_level());
            }
        }
        Op::Take => return uart.take_output(),
    }
    vec![u8::from(uart.irq_level())]
}

proptest! {
    #[test]
    fn any_access_is_survived_and_repeats(ops in prop::collection::vec(op(), 1..150)) {
        let (mut uart, mut twin, mut now) = (Uart::new(), Uart::new(), 0u64);
        for (op, step) in &ops {
            now = now.saturating_add(*step);
            if let (Op::Deadline, Some(deadline)) = (op, uart.next_deadline()) {
                now = now.max(deadline);
            }
            let result = apply(&mut uart, op, now);
            prop_assert_eq!(apply(&mut twin, op, now), result);
            let state = uart.save();
            prop_assert!(state.fifo.len() <= FIFO_SIZE);
            let mut restored = Uart::new();
            restored.restore(state).unwrap();
            prop_assert_eq!(restored.save(), twin.save());
            twin = restored;
        }
    }

    #[test]
    fn every_byte_arrives_in_order(text in prop::collection::vec(any::<u8>(), 0..200), step in 1..400_000u64) {
        let (mut uart, mut received, mut now) = (listening(), Vec::new(), 0);
        uart.offer(&text, 0);
        while received.len() < text.len() {
            now += step;
            uart.advance(now);
            while uart.read(LSR, now) & LSR_DATA_READY != 0 {
                received.push(uart.read(DATA, now));
            }
        }
        prop_assert_eq!(received, text);
    }

    #[test]
    fn conformance(ops in prop::collection::vec(op(), 0..50)) {
        let (mut uart, mut now) = (Uart::new(), 0u64);
        for (op, step) in &ops {
            now = now.saturating_add(*step);
            apply(&mut uart, op, now);
        }
        let scratch = uart.save().scratch;
        conforms(&mut uart, |uart| uart.write(SCR, !scratch, now));
    }
}
