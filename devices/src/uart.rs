//! The first serial port: a 16550A on ports 0x3f8 to 0x3ff and IRQ 4.
//!
//! Registers, loopback and the receive buffer are [`vm_superio::Serial`]'s. Three things are added here:
//!
//! - **The interrupt is a level**, derived from the conditions that are pending and enabled, and the interrupt
//!   identification register reports those same conditions in their order of priority (PC16550D data sheet, section
//!   8.5). The wrapped model triggers single events instead and forgets both at a read of the register; a driver
//!   that takes one byte per interrupt would lose the rest. Linux's 8250 driver repeats its handler until the
//!   register reports nothing, so the line has been low when the handler ends, and the next condition is a new edge
//!   for an edge-triggered interrupt controller.
//! - **Receiving takes time.** Input waits in a backlog, and one byte moves on per 86 806 ns of guest time (115 200
//!   baud, ten bits a byte, whatever the divisor says), only while the guest has the receive interrupt enabled, is
//!   not in loopback mode, and has room. So where a byte arrives follows from guest state alone, and none overruns.
//! - **The FIFO is 16 bytes**, as a 16550A's is. The wrapped buffer of 64 bytes makes Linux find another chip.
//!
//! Transmission takes no time: the transmitter is always empty. There are no modem status or line status interrupts.

use std::collections::VecDeque;
use std::convert::Infallible;

use serde::{Deserialize, Serialize};
use vm_superio::serial::{NoEvents, SerialState};
use vm_superio::{Serial, Trigger};

use crate::snapshot::{RestoreError, Snapshot, require};

#[cfg(test)]
mod tests;

/// Guest time one byte takes on the line.
pub const BYTE_NS: u64 = 86_806;
/// Bytes of input that can wait outside the FIFO.
pub const BACKLOG_MAX: usize = 64 * 1024;
/// Bytes of output kept for the machine. It collects them at every exit, which writes at most one; more than this
/// means that nobody does, and then the newest are dropped.
pub const OUTPUT_MAX: usize = 64 * 1024;
/// Size of the receive FIFO.
const FIFO_SIZE: usize = 16;
/// Size of the wrapped device's buffer.
const WRAPPED_FIFO_SIZE: usize = 64;

const DATA: u8 = 0;
const IER: u8 = 1;
/// Interrupt identification when read, FIFO control when written.
const IIR_FCR: u8 = 2;
const LCR: u8 = 3;
const MCR: u8 = 4;

const IER_RECEIVE: u8 = 0x01;
const IER_TRANSMIT: u8 = 0x02;
const FCR_CLEAR_RECEIVE: u8 = 0x02;
const LCR_DLAB: u8 = 0x80;
const MCR_LOOPBACK: u8 = 0x10;
const LSR_DATA_READY: u8 = 0x01;

const IIR_FIFO_ENABLED: u8 = 0xc0;
const IIR_NONE: u8 = 0x01;
const IIR_TRANSMIT: u8 = 0x02;
const IIR_RECEIVE: u8 = 0x04;

/// The wrapped device's own interrupts are not used.
#[derive(Clone, Copy, Debug)]
struct Ignore;

impl Trigger for Ignore {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        Ok(())
    }
}

type Wrapped = Serial<Ignore, NoEvents, Vec<u8>>;

/// The serial port.
#[derive(Debug)]
pub struct Uart {
    serial: Wrapped,
    /// The wrapped device's interrupt enable register, which it shows only while DLAB is 0.
    interrupt_enable: u8,
    /// The wrapped device is in loopback mode.
    looped: bool,
    /// The transmitter became empty, and the guest has not been told.
    transmit_pending: bool,
    backlog: VecDeque<u8>,
    /// When the byte that is on the line has arrived.
    next_rx: Option<u64>,
}

/// State of [`Uart`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UartState {
    /// Divisor latch, least significant byte.
    pub divisor_low: u8,
    /// Divisor latch, most significant byte.
    pub divisor_high: u8,
    /// Interrupt enable register.
    pub interrupt_enable: u8,
    /// Line control register.
    pub line_control: u8,
    /// Modem control register.
    pub modem_control: u8,
    /// Scratch register.
    pub scratch: u8,
    /// The receive FIFO, oldest byte first.
    pub fifo: Vec<u8>,
    /// The transmitter became empty, and the guest has not been told.
    pub transmit_pending: bool,
    /// Input that has not reached the FIFO.
    pub backlog: Vec<u8>,
    /// Guest time at which the byte on the line arrives.
    pub next_rx: Option<u64>,
    /// Output that the machine has not collected.
    pub output: Vec<u8>,
}

impl Uart {
    /// A port at rest, with an empty backlog.
    pub fn new() -> Self {
        Uart {
            serial: Wrapped::with_events(Ignore, NoEvents, Vec::new()),
            interrupt_enable: 0,
            looped: false,
            transmit_pending: false,
            backlog: VecDeque::new(),
            next_rx: None,
        }
    }

    /// Reads the register at `offset`, 0 to 7; others read 0.
    pub fn read(&mut self, offset: u8, now: u64) -> u8 {
        self.advance(now);
        let value = match offset {
            IIR_FCR => self.identify(),
            _ => self.serial.read(offset),
        };
        self.pace(now);
        value
    }

    /// Writes the register at `offset`, 0 to 7; others are ignored.
    pub fn write(&mut self, offset: u8, value: u8, now: u64) {
        self.advance(now);
        match offset {
            DATA if !self.dlab() => self.transmit(value),
            IER if !self.dlab() => {
                let before = self.interrupt_enable;
                self.write_wrapped(IER, value);
                // The transmitter is empty, so enabling its interrupt is a reason for one.
                self.transmit_pending |= self.interrupt_enable & !before & IER_TRANSMIT != 0;
            }
            IIR_FCR if value & FCR_CLEAR_RECEIVE != 0 => {
                self.rebuild(|state| state.in_buffer.clear());
            }
            _ => self.write_wrapped(offset, value),
        }
        self.pace(now);
    }

    /// The interrupt line: true while a condition is pending and enabled.
    pub fn irq_level(&self) -> bool {
        self.cause().is_some()
    }

    /// Bytes that [`offer`](Self::offer) would take.
    pub fn room(&self) -> usize {
        BACKLOG_MAX.saturating_sub(self.backlog.len())
    }

    /// Puts input into the backlog at guest time `now`, as much as fits; gives how many bytes that was.
    pub fn offer(&mut self, bytes: &[u8], now: u64) -> usize {
        self.advance(now);
        let taken = bytes.len().min(self.room());
        self.backlog.extend(bytes.iter().take(taken));
        self.pace(now);
        taken
    }

    /// Input that has not reached the FIFO, the byte on the line included, is gone.
    pub fn drop_backlog(&mut self, now: u64) {
        self.advance(now);
        self.backlog.clear();
        self.next_rx = None;
        self.pace(now);
    }

    /// The bytes transmitted since [`take_output`](Self::take_output) was last called.
    pub fn output(&self) -> &[u8] {
        self.serial.writer()
    }

    /// The bytes transmitted since the last call.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(self.serial.writer_mut())
    }

    /// Guest time at which the next byte of input arrives.
    pub fn next_deadline(&self) -> Option<u64> {
        self.next_rx
    }

    /// Lets time pass up to `now`: bytes whose time has come arrive.
    pub fn advance(&mut self, now: u64) {
        while let Some(due) = self.next_rx.filter(|due| *due <= now) {
            self.next_rx = None;
            if let Some(byte) = self.backlog.pop_front() {
                // Room and loopback were checked when the byte was scheduled, and have not changed since.
                let _ = self.serial.enqueue_raw_bytes(&[byte]);
            }
            self.pace(due);
        }
    }

    /// Schedules the next byte if one can arrive, from `now` on.
    fn pace(&mut self, now: u64) {
        let listening = self.interrupt_enable & IER_RECEIVE != 0 && !self.looped;
        if listening && self.fifo_len() < FIFO_SIZE && !self.backlog.is_empty() {
            self.next_rx = self.next_rx.or_else(|| now.checked_add(BYTE_NS));
        } else {
            self.next_rx = None;
        }
    }

    fn transmit(&mut self, value: u8) {
        let room =
            if self.looped { self.fifo_len() < FIFO_SIZE } else { self.serial.writer().len() < OUTPUT_MAX };
        if room {
            self.write_wrapped(DATA, value);
        }
        self.transmit_pending = true;
    }

    fn write_wrapped(&mut self, offset: u8, value: u8) {
        // It can only fail if its trigger or its writer does, and neither can.
        let _ = self.serial.write(offset, value);
        if matches!(offset, IER | MCR) {
            self.mirror();
        }
    }

    /// Copies what every access needs to know out of the wrapped device's state.
    fn mirror(&mut self) {
        let state = self.serial.state();
        self.interrupt_enable = state.interrupt_enable;
        self.looped = state.modem_control & MCR_LOOPBACK != 0;
    }

    fn fifo_len(&self) -> usize {
        WRAPPED_FIFO_SIZE.saturating_sub(self.serial.fifo_capacity())
    }

    fn dlab(&mut self) -> bool {
        self.serial.read(LCR) & LCR_DLAB != 0
    }

    /// The most urgent condition that is pending and enabled, as the identification register encodes it.
    fn cause(&self) -> Option<u8> {
        if self.interrupt_enable & IER_RECEIVE != 0 && self.fifo_len() > 0 {
            Some(IIR_RECEIVE)
        } else if self.interrupt_enable & IER_TRANSMIT != 0 && self.transmit_pending {
            Some(IIR_TRANSMIT)
        } else {
            None
        }
    }

    /// A read of the identification register: it answers a transmitter interrupt that it reports.
    fn identify(&mut self) -> u8 {
        let cause = self.cause();
        if cause == Some(IIR_TRANSMIT) {
            self.transmit_pending = false;
        }
        IIR_FIFO_ENABLED | cause.unwrap_or(IIR_NONE)
    }

    /// Replaces the wrapped device by one with a changed state.
    fn rebuild(&mut self, change: impl FnOnce(&mut SerialState)) {
        let mut state = self.serial.state();
        change(&mut state);
        let output = self.take_output();
        if let Some(serial) = wrap(state, output) {
            self.serial = serial;
        }
    }
}

/// The wrapped device with `state`; its receive buffer alone decides whether data is ready. `None` if the buffer is
/// too long.
fn wrap(mut state: SerialState, output: Vec<u8>) -> Option<Wrapped> {
    state.line_status &= !LSR_DATA_READY;
    state.line_status |= if state.in_buffer.is_empty() { 0 } else { LSR_DATA_READY };
    state.interrupt_identification = SerialState::default().interrupt_identification;
    Wrapped::from_state(&state, Ignore, NoEvents, output).ok()
}

impl Default for Uart {
    fn default() -> Self {
        Uart::new()
    }
}

impl Snapshot for Uart {
    const KIND: &'static str = "uart-16550a";
    const VERSION: u16 = 1;
    type State = UartState;

    fn save(&self) -> UartState {
        let state = self.serial.state();
        UartState {
            divisor_low: state.baud_divisor_low,
            divisor_high: state.baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            line_control: state.line_control,
            modem_control: state.modem_control,
            scratch: state.scratch,
            fifo: state.in_buffer,
            transmit_pending: self.transmit_pending,
            backlog: self.backlog.iter().copied().collect(),
            next_rx: self.next_rx,
            output: self.serial.writer().clone(),
        }
    }

    fn restore(&mut self, state: UartState) -> Result<(), RestoreError> {
        let enable = state.interrupt_enable;
        require(enable & 0xf0 == 0, Self::KIND, "interrupt enable register", enable, "four bits")?;
        let fifo = state.fifo.len();
        require(fifo <= FIFO_SIZE, Self::KIND, "length of the FIFO", fifo, "at most 16")?;
        let backlog = state.backlog.len();
        require(backlog <= BACKLOG_MAX, Self::KIND, "length of the backlog", backlog, "at most 65536")?;
        let output = state.output.len();
        require(output <= OUTPUT_MAX, Self::KIND, "length of the output", output, "at most 65536")?;
        let can_arrive = enable & IER_RECEIVE != 0
            && state.modem_control & MCR_LOOPBACK == 0
            && fifo < FIFO_SIZE
            && backlog > 0;
        if let Some(due) = state.next_rx {
            require(can_arrive, Self::KIND, "arrival of the next byte", due, "absent, for none can arrive")?;
        }
        let registers = SerialState {
            baud_divisor_low: state.divisor_low,
            baud_divisor_high: state.divisor_high,
            interrupt_enable: enable,
            line_control: state.line_control,
            modem_control: state.modem_control,
            scratch: state.scratch,
            in_buffer: state.fifo,
            ..SerialState::default()
        };
        let wrapped = wrap(registers, state.output);
        self.serial = wrapped.ok_or_else(|| RestoreError::Invalid {
            device: Self::KIND,
            field: "length of the FIFO",
            value: fifo.to_string(),
            expected: "at most 16",
        })?;
        self.mirror();
        self.transmit_pending = state.transmit_pending;
        self.backlog = state.backlog.into();
        self.next_rx = state.next_rx;
        Ok(())
    }
}
