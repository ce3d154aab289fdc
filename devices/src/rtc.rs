//! The MC146818 real-time clock and its CMOS memory, ports 0x70 and 0x71.
//!
//! The time is the base given at construction plus guest time, and never the host's. The guest may set it, and so may a
//! machine that leaves its recording; what they set is kept as an offset (MC146818A data sheet, "Programming the time and calendar"). There is no update cycle
//! that a read could hit, so UIP is always 0, and there are no interrupts: alarm, periodic and update-ended enables
//! are kept in register B without effect, and register C reads 0. The century is register 0x32, as on PCs.

use serde::{Deserialize, Serialize};

use crate::snapshot::{RestoreError, Snapshot, require};

mod calendar;
#[cfg(test)]
mod tests;

use calendar::Date;

/// Bytes of CMOS memory, clock registers included.
pub const CMOS_SIZE: usize = 128;

const INDEX_PORT: u16 = 0x70;
const DATA_PORT: u16 = 0x71;

const REGISTER_A: u8 = 0x0a;
const REGISTER_B: u8 = 0x0b;
const REGISTER_C: u8 = 0x0c;
const REGISTER_D: u8 = 0x0d;

/// Update in progress.
const A_UIP: u8 = 0x80;
/// The guest sets the time: it stands still in the registers.
const B_SET: u8 = 0x80;
/// Binary instead of BCD.
const B_BINARY: u8 = 0x04;
/// 24 hours instead of 12.
const B_24_HOURS: u8 = 0x02;
/// Valid RAM and time.
const D_VALID: u8 = 0x80;
/// In the 12-hour form, hours after noon.
const PM: u8 = 0x80;

/// The registers that hold the time: seconds, minutes, hours, day of week, day, month, year, century.
const TIME: [u8; 8] = [0x00, 0x02, 0x04, 0x06, 0x07, 0x08, 0x09, 0x32];

/// The clock.
#[derive(Clone, Debug)]
pub struct Rtc {
    state: RtcState,
}

/// State of [`Rtc`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RtcState {
    /// Time at guest time 0, in seconds since 1970.
    pub base: u64,
    /// Seconds that the clock has been moved by.
    pub offset: i64,
    /// Register selected through port 0x70, 0..128.
    pub index: u8,
    /// Registers and memory, [`CMOS_SIZE`] bytes. The registers of the time are used only while it is being set.
    pub cmos: Vec<u8>,
}

impl Rtc {
    /// A clock that shows `unix_seconds` at guest time 0. Times after the year 9999 show as its last second.
    pub fn new(unix_seconds: u64) -> Self {
        let mut cmos = vec![0; CMOS_SIZE];
        // 32.768 kHz time base, 1.024 kHz periodic rate: what firmware leaves behind.
        cmos[usize::from(REGISTER_A)] = 0x26;
        cmos[usize::from(REGISTER_B)] = B_24_HOURS;
        Rtc { state: RtcState { base: unix_seconds, offset: 0, index: 0, cmos } }
    }

    /// Reads port 0x71. Port 0x70 is write-only and, like ports that are not the clock's, gives all ones.
    pub fn read(&mut self, port: u16, now: u64) -> u8 {
        if port != DATA_PORT {
            return 0xff;
        }
        match self.state.index {
            REGISTER_A => self.register(REGISTER_A) & !A_UIP,
            REGISTER_C => 0,
            REGISTER_D => D_VALID,
            index => match TIME.iter().position(|register| *register == index) {
                Some(field) if !self.is_being_set() => self.time(now)[field],
                _ => self.register(index),
            },
        }
    }

    /// Writes port 0x70, which selects a register (bit 7, the NMI mask, is ignored), or 0x71.
    pub fn write(&mut self, port: u16, value: u8, now: u64) {
        match port {
            INDEX_PORT => self.state.index = value & 0x7f,
            DATA_PORT => self.write_register(self.state.index, value, now),
            _ => {}
        }
    }

    fn write_register(&mut self, index: u8, value: u8, now: u64) {
        match index {
            REGISTER_A => self.set_register(REGISTER_A, value & !A_UIP),
            REGISTER_B => self.write_b(value, now),
            REGISTER_C | REGISTER_D => {}
            index => match TIME.iter().position(|register| *register == index) {
                Some(field) if !self.is_being_set() => {
                    let mut time = self.time(now);
                    time[field] = value;
                    self.set_time(time, now);
                }
                _ => self.set_register(index, value),
            },
        }
    }

    /// While SET is 1 the time stands in its registers; when it returns to 0 the clock goes on from there.
    fn write_b(&mut self, value: u8, now: u64) {
        let was_set = self.is_being_set();
        let time = self.time(now);
        self.set_register(REGISTER_B, value);
        match (was_set, self.is_being_set()) {
            (false, true) => {
                for (register, value) in TIME.into_iter().zip(time) {
                    self.set_register(register, value);
                }
            }
            (true, false) => {
                let time = TIME.map(|register| self.register(register));
                self.set_time(time, now);
            }
            _ => {}
        }
    }

    fn register(&self, index: u8) -> u8 {
        self.state.cmos.get(usize::from(index)).copied().unwrap_or(0xff)
    }

    fn set_register(&mut self, index: u8, value: u8) {
        if let Some(register) = self.state.cmos.get_mut(usize::from(index)) {
            *register = value;
        }
    }

    fn is_being_set(&self) -> bool {
        self.register(REGISTER_B) & B_SET != 0
    }

    /// Sets the clock from outside: from here on it goes on from `unix_seconds`, unless the guest is just setting it.
    pub fn set(&mut self, unix_seconds: u64, now: u64) {
        let seconds = i64::try_from(unix_seconds).unwrap_or(i64::MAX);
        self.state.offset = seconds.saturating_sub(self.unset_time(now));
    }

    /// What the clock would show had nobody ever set it.
    fn unset_time(&self, now: u64) -> i64 {
        let seconds = self.state.base.saturating_add(now / 1_000_000_000);
        i64::try_from(seconds).unwrap_or(i64::MAX)
    }

    /// The registers of [`TIME`] in the form that register B selects.
    fn time(&self, now: u64) -> [u8; 8] {
        let date = Date::from_unix(self.unset_time(now).saturating_add(self.state.offset));
        let hour = match (self.register(REGISTER_B) & B_24_HOURS != 0, date.hour) {
            (true, hour) => self.encode(hour),
            (false, hour) => self.encode((hour + 11) % 12 + 1) | if hour >= 12 { PM } else { 0 },
        };
        [
            self.encode(date.second),
            self.encode(date.minute),
            hour,
            self.encode(date.weekday),
            self.encode(date.day),
            self.encode(date.month),
            self.encode(date.year % 100),
            self.encode(date.year / 100),
        ]
    }

    /// Sets the clock to the registers of [`TIME`]. The day of the week follows from the date.
    fn set_time(&mut self, time: [u8; 8], now: u64) {
        let [second, minute, hour, _, day, month, year, century] = time;
        let hour = if self.register(REGISTER_B) & B_24_HOURS != 0 {
            self.decode(hour)
        } else {
            self.decode(hour & !PM) % 12 + if hour & PM != 0 { 12 } else { 0 }
        };
        let date = Date {
            year: self.decode(century).min(99) * 100 + self.decode(year).min(99),
            month: self.decode(month),
            day: self.decode(day),
            weekday: 0,
            hour,
            minute: self.decode(minute),
            second: self.decode(second),
        };
        self.state.offset = date.to_unix().saturating_sub(self.unset_time(now));
    }

    /// A number below 100 as register B's format has it.
    fn encode(&self, value: i64) -> u8 {
        let value = (value & 0x7f) as u8;
        if self.register(REGISTER_B) & B_BINARY != 0 { value } else { (value / 10) << 4 | (value % 10) }
    }

    fn decode(&self, value: u8) -> i64 {
        let binary = self.register(REGISTER_B) & B_BINARY != 0;
        i64::from(if binary { value } else { (value >> 4) * 10 + (value & 0x0f) })
    }
}

impl Snapshot for Rtc {
    const KIND: &'static str = "mc146818";
    const VERSION: u16 = 1;
    type State = RtcState;

    fn save(&self) -> RtcState {
        self.state.clone()
    }

    fn restore(&mut self, state: RtcState) -> Result<(), RestoreError> {
        let (length, index) = (state.cmos.len(), state.index);
        require(length == CMOS_SIZE, Self::KIND, "length of the CMOS memory", length, "128")?;
        require(index < 0x80, Self::KIND, "index", index, "below 128")?;
        for register in [REGISTER_C, REGISTER_D] {
            let value = state.cmos[usize::from(register)];
            require(value == 0, Self::KIND, "read-only register", value, "0")?;
        }
        let a = state.cmos[usize::from(REGISTER_A)];
        require(a & A_UIP == 0, Self::KIND, "register A", a, "without an update in progress")?;
        self.state = state;
        Ok(())
    }
}
