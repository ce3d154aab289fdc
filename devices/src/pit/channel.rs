//! One counter of the 8254, as a function of the tick count.
//!
//! Nothing counts here: a counter is the tick at which it was loaded and the count it was loaded with, and OUT, the
//! readable value and the next rising edge follow from the current tick ("Mode Definitions" in the data sheet,
//! Intel order number 231164).

use serde::{Deserialize, Serialize};

/// Which bytes of the 16-bit count an access moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// Least significant byte only; the other is 0.
    Low,
    /// Most significant byte only; the other is 0.
    High,
    /// Least significant byte, then most significant byte.
    LowHigh,
}

/// What the counting element does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Counting {
    /// Nothing: no count since the control word, or a count that waits for its trigger.
    Waiting,
    /// It was loaded with `count` at tick `start` and decrements at every tick.
    Running {
        /// Tick of the load.
        start: u64,
        /// The count, 1 to 65536.
        count: u32,
    },
    /// GATE is low and stops it, `elapsed` ticks after its load (modes 0 and 4).
    Held {
        /// Ticks counted.
        elapsed: u64,
        /// The count, 1 to 65536.
        count: u32,
    },
}

/// A count that takes over at the end of the current period (modes 2 and 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextCount {
    /// The count, 2 to 65536.
    pub count: u32,
    /// Tick at which the current period ends.
    pub at: u64,
}

/// State of one counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelState {
    /// Mode 0 to 5.
    pub mode: u8,
    /// Counts in binary-coded decimal, 10000 instead of 65536 long.
    pub bcd: bool,
    /// How the count is read and written.
    pub access: Access,
    /// Level of the GATE input.
    pub gate: bool,
    /// The count register, 1 to 65536; none since the control word.
    pub reload: Option<u32>,
    /// The counting element.
    pub counting: Counting,
    /// A count written while a period runs.
    pub next: Option<NextCount>,
    /// First byte of a two-byte write.
    pub low_byte: Option<u8>,
    /// The next byte read is the most significant one.
    pub read_high: bool,
    /// Value held by a latch command.
    pub count_latch: Option<u16>,
    /// Status held by a read-back command.
    pub status_latch: Option<u8>,
}

impl ChannelState {
    pub(super) fn new(gate: bool) -> Self {
        ChannelState {
            mode: 0,
            bcd: false,
            access: Access::LowHigh,
            gate,
            reload: None,
            counting: Counting::Waiting,
            next: None,
            low_byte: None,
            read_high: false,
            count_latch: None,
            status_latch: None,
        }
    }

    fn is_periodic(&self) -> bool {
        matches!(self.mode, 2 | 3)
    }

    /// How many states the counting element has: it wraps from 0 to this number less 1.
    fn modulus(&self) -> u32 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }

    /// A control word that programs this counter: it stops until a count is written.
    pub(super) fn program(&mut self, mode: u8, access: Access, bcd: bool) {
        *self = ChannelState { mode, bcd, access, ..ChannelState::new(self.gate) };
    }

    /// A byte written to the counter's port at tick `t`.
    pub(super) fn write(&mut self, value: u8, t: u64) {
        let count = match (self.access, self.low_byte.take()) {
            (Access::Low, _) => u16::from(value),
            (Access::High, _) => u16::from(value) << 8,
            (Access::LowHigh, Some(low)) => u16::from_le_bytes([low, value]),
            (Access::LowHigh, None) => {
                self.low_byte = Some(value);
                if self.mode == 0 {
                    // "Writing the first byte disables counting. OUT is set low immediately."
                    self.counting = Counting::Waiting;
                }
                return;
            }
        };
        self.load(self.decode(count), t);
    }

    /// A count written at tick `t` reaches the counting element with the following tick.
    fn load(&mut self, count: u32, t: u64) {
        self.settle(t);
        // A count of 1 is illegal in modes 2 and 3; it acts as 2.
        let count = if self.is_periodic() { count.max(2) } else { count };
        self.reload = Some(count);
        match (self.mode, self.counting) {
            (0 | 4, _) if self.gate => self.start(t),
            (0 | 4, _) => self.counting = Counting::Held { elapsed: 0, count },
            (2 | 3, Counting::Running { start, count: period }) => {
                let at = self.next.map_or_else(|| period_end(start, period, t), |next| next.at);
                self.next = Some(NextCount { count, at });
            }
            (2 | 3, _) if self.gate => self.start(t),
            // Modes 1 and 5 wait for a rising GATE, as do 2 and 3 while it is low.
            _ => {}
        }
    }

    fn start(&mut self, t: u64) {
        if let Some(count) = self.reload {
            self.counting = Counting::Running { start: t.saturating_add(1), count };
        }
    }

    /// Drives the GATE input at tick `t` ("Gate Pin Operations").
    pub(super) fn set_gate(&mut self, gate: bool, t: u64) {
        if gate == self.gate {
            return;
        }
        self.settle(t);
        self.gate = gate;
        match (self.mode, gate, self.counting) {
            (0 | 4, false, Counting::Running { start, count }) => {
                self.counting = Counting::Held { elapsed: t.saturating_sub(start), count };
            }
            (0 | 4, true, Counting::Held { elapsed, count }) => {
                self.counting = Counting::Running { start: t.saturating_sub(elapsed), count };
            }
            (2 | 3, false, _) => {
                self.counting = Counting::Waiting;
                self.next = None;
            }
            (1 | 2 | 3 | 5, true, _) => self.start(t),
            _ => {}
        }
    }

    /// The counting element at tick `t`: a count whose time has come has taken over.
    fn counting_at(&self, t: u64) -> Counting {
        match self.next {
            Some(next) if next.at <= t => Counting::Running { start: next.at, count: next.count },
            _ => self.counting,
        }
    }

    /// Takes over a count whose time has come. Reading never does: it must not change what is to come.
    pub(super) fn settle(&mut self, t: u64) {
        self.counting = self.counting_at(t);
        self.next = self.next.filter(|next| next.at > t);
    }

    /// The OUT pin at tick `t`.
    pub(super) fn out(&self, t: u64) -> bool {
        let (elapsed, count) = match self.counting_at(t) {
            Counting::Waiting => return self.mode != 0,
            Counting::Running { start, .. } if t < start => return !matches!(self.mode, 0 | 1),
            Counting::Running { start, count } => (t - start, u64::from(count)),
            Counting::Held { elapsed, count } => (elapsed, u64::from(count)),
        };
        match self.mode {
            0 | 1 => elapsed >= count,
            2 => elapsed % count != count - 1,
            3 => elapsed % count < count.div_ceil(2),
            // A strobe of one tick.
            _ => elapsed != count,
        }
    }

    /// Tick of the next rising edge of OUT that counting causes, after tick `t`. A control word also raises OUT
    /// where it was low, but that is no end of a count, and as in KVM it is no edge.
    pub(super) fn next_rise(&self, t: u64) -> Option<u64> {
        let Counting::Running { start, count } = self.counting else {
            return None;
        };
        if self.is_periodic() {
            return Some(match self.next {
                Some(next) if t >= next.at => period_end(next.at, next.count, t),
                Some(next) => next.at,
                None => period_end(start, count, t),
            });
        }
        let strobe = u64::from(matches!(self.mode, 4 | 5));
        let end = start.saturating_add(u64::from(count)).saturating_add(strobe);
        (end > t).then_some(end)
    }

    /// The value of the counting element at tick `t`, as the guest reads it. Mode 3 counts down by two.
    fn value(&self, t: u64) -> u16 {
        let (elapsed, count) = match self.counting_at(t) {
            Counting::Waiting => (0, self.reload.unwrap_or(0)),
            Counting::Running { start, count } => (t.saturating_sub(start), count),
            Counting::Held { elapsed, count } => (elapsed, count),
        };
        let modulus = u64::from(self.modulus());
        let count = u64::from(count);
        let value = match self.mode {
            2 if count > 0 => count - elapsed % count,
            3 if count > 0 => count - (2 * (elapsed % count)) % count,
            _ => count + modulus - elapsed % modulus,
        };
        self.encode(value % modulus)
    }

    /// Status byte of the read-back command.
    fn status(&self, t: u64) -> u8 {
        let not_loaded = match self.counting_at(t) {
            Counting::Waiting => true,
            Counting::Running { start, .. } => t < start || self.next.is_some_and(|next| t < next.at),
            Counting::Held { .. } => false,
        };
        let access = match self.access {
            Access::Low => 1,
            Access::High => 2,
            Access::LowHigh => 3,
        };
        u8::from(self.out(t)) << 7
            | u8::from(not_loaded) << 6
            | access << 4
            | self.mode << 1
            | u8::from(self.bcd)
    }

    /// Holds the count for reading; a count already held stays.
    pub(super) fn latch_count(&mut self, t: u64) {
        self.count_latch = self.count_latch.or_else(|| Some(self.value(t)));
    }

    /// Holds the status for reading; a status already held stays.
    pub(super) fn latch_status(&mut self, t: u64) {
        self.status_latch = self.status_latch.or_else(|| Some(self.status(t)));
    }

    /// A byte read from the counter's port at tick `t`: latched status first, then the count.
    pub(super) fn read(&mut self, t: u64) -> u8 {
        if let Some(status) = self.status_latch.take() {
            return status;
        }
        let [low, high] = self.count_latch.unwrap_or_else(|| self.value(t)).to_le_bytes();
        match (self.access, self.read_high) {
            (Access::LowHigh, false) => {
                self.read_high = true;
                low
            }
            (access, _) => {
                self.read_high = false;
                self.count_latch = None;
                if access == Access::Low { low } else { high }
            }
        }
    }

    /// The count that a written 16-bit value stands for; 0 is the largest.
    fn decode(&self, value: u16) -> u32 {
        let value = u32::from(value);
        let count = if self.bcd {
            (value >> 12) * 1000 + (value >> 8 & 0xf) * 100 + (value >> 4 & 0xf) * 10 + (value & 0xf)
        } else {
            value
        };
        if count == 0 { self.modulus() } else { count }
    }

    fn encode(&self, value: u64) -> u16 {
        let value = (value & 0xffff) as u16;
        if self.bcd {
            (value / 1000 % 10) << 12 | (value / 100 % 10) << 8 | (value / 10 % 10) << 4 | (value % 10)
        } else {
            value
        }
    }
}

/// First end of a period after tick `t`, for periods of `count` ticks from tick `start`.
fn period_end(start: u64, count: u32, t: u64) -> u64 {
    let count = u64::from(count.max(1));
    let whole = if t < start { 0 } else { (t - start) / count };
    start.saturating_add(whole.saturating_add(1).saturating_mul(count))
}
