//! The 8254 programmable interval timer, and port 0x61, through which the guest sees and gates its counter 2.
//!
//! Ports 0x40 to 0x43 (8254 data sheet, Intel order number 231164) and 0x61 (NMI status and control register, Intel
//! 82371AB data sheet, section 4.2.6.1). Tick `n` is complete at guest time `n / 1193182` s, and every conversion
//! rounds so that no edge is reported before its tick is complete. GATE of counters 0 and 1 is tied high.

use serde::{Deserialize, Serialize};

use crate::snapshot::{RestoreError, Snapshot};

mod channel;
mod restore;
#[cfg(test)]
mod tests;

pub use channel::{Access, ChannelState, Counting, NextCount};

/// Frequency of the counters' clock.
pub const FREQUENCY_HZ: u64 = 1_193_182;
const NS_PER_SECOND: u128 = 1_000_000_000;
/// Counter 1 requests a memory refresh every 18 ticks; port 0x61 bit 4 toggles with each.
const REFRESH_TICKS: u64 = 18;

/// The interval timer.
#[derive(Clone, Debug)]
pub struct Pit {
    state: PitState,
}

/// State of [`Pit`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PitState {
    /// The three counters.
    pub channels: [ChannelState; 3],
    /// Tick of counter 0's next rising edge.
    pub next_rise: Option<u64>,
    /// Tick of an edge that was due before the guest reprogrammed the counter, and is not yet reported.
    pub owed: Option<u64>,
    /// Port 0x61 bits 0 (GATE of counter 2), 1 (speaker), 2 and 3 (NMI enables) as last written.
    pub port61: u8,
}

/// Ticks complete at guest time `now`.
fn ticks(now: u64) -> u64 {
    let ticks = u128::from(now) * u128::from(FREQUENCY_HZ) / NS_PER_SECOND;
    // The frequency is below 1 GHz, so the result is smaller than `now`.
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

/// First nanosecond at which `tick` is complete; `None` if it lies beyond the end of guest time.
fn tick_end(tick: u64) -> Option<u64> {
    let ns = (u128::from(tick) * NS_PER_SECOND).div_ceil(u128::from(FREQUENCY_HZ));
    u64::try_from(ns).ok()
}

impl Pit {
    /// A timer that the guest has not programmed, but for counter 1, which requests memory refreshes.
    pub fn new() -> Self {
        let mut channels = [true, true, false].map(ChannelState::new);
        channels[1].program(2, Access::Low, false);
        channels[1].write(18, 0);
        Pit { state: PitState { channels, next_rise: None, owed: None, port61: 0 } }
    }

    /// Reads port 0x40 to 0x43. The control port reads 0; a port that is not the timer's gives all ones.
    pub fn read(&mut self, port: u16, now: u64) -> u8 {
        match port {
            0x40..=0x42 => self.state.channels[usize::from(port - 0x40)].read(ticks(now)),
            0x43 => 0,
            _ => 0xff,
        }
    }

    /// Writes port 0x40 to 0x43; others are ignored.
    pub fn write(&mut self, port: u16, value: u8, now: u64) {
        let t = ticks(now);
        self.catch_up(t);
        match port {
            0x40..=0x42 => self.state.channels[usize::from(port - 0x40)].write(value, t),
            0x43 => self.write_control(value, t),
            _ => return,
        }
        self.state.next_rise = self.state.channels[0].next_rise(t);
    }

    fn write_control(&mut self, value: u8, t: u64) {
        let channel = match value >> 6 {
            3 => return self.read_back(value, t),
            select => &mut self.state.channels[usize::from(select)],
        };
        let access = match value >> 4 & 3 {
            0 => return channel.latch_count(t),
            1 => Access::Low,
            2 => Access::High,
            _ => Access::LowHigh,
        };
        // Modes 6 and 7 are 2 and 3 with a don't-care bit set.
        let mode = match value >> 1 & 7 {
            mode @ 0..=5 => mode,
            mode => mode & 3,
        };
        channel.program(mode, access, value & 1 != 0);
    }

    fn read_back(&mut self, value: u8, t: u64) {
        for (index, channel) in self.state.channels.iter_mut().enumerate() {
            if value & 2 << index == 0 {
                continue;
            }
            if value & 0x20 == 0 {
                channel.latch_count(t);
            }
            if value & 0x10 == 0 {
                channel.latch_status(t);
            }
        }
    }

    /// Reads port 0x61: bits 0 to 3 as written, bit 4 the refresh toggle, bit 5 OUT of counter 2.
    pub fn port61_read(&self, now: u64) -> u8 {
        let t = ticks(now);
        let speaker = &self.state.channels[2];
        let refresh = u8::from(t / REFRESH_TICKS % 2 == 1);
        self.state.port61 | refresh << 4 | u8::from(speaker.out(t)) << 5
    }

    /// Writes port 0x61: bit 0 is GATE of counter 2, bits 1 to 3 are kept.
    pub fn port61_write(&mut self, value: u8, now: u64) {
        self.state.port61 = value & 0x0f;
        self.state.channels[2].set_gate(value & 1 != 0, ticks(now));
    }

    /// Guest time at which OUT of counter 0 rises next: when [`advance`](Self::advance) is called with it, it gives
    /// true. `None` while no edge is to come.
    pub fn next_deadline(&self) -> Option<u64> {
        tick_end(self.state.owed.or(self.state.next_rise)?)
    }

    /// Lets time pass up to `now`. True if OUT of counter 0, which is IRQ 0, rose at least once since the last call
    /// that gave true; several missed periods are one edge.
    pub fn advance(&mut self, now: u64) -> bool {
        self.catch_up(ticks(now));
        self.state.owed.take().is_some()
    }

    /// Moves an edge that is due by tick `t` from the schedule to the debt.
    fn catch_up(&mut self, t: u64) {
        let Some(rise) = self.state.next_rise.filter(|rise| *rise <= t) else {
            return;
        };
        self.state.owed = self.state.owed.or(Some(rise));
        self.state.channels[0].settle(t);
        self.state.next_rise = self.state.channels[0].next_rise(t);
    }
}

impl Default for Pit {
    fn default() -> Self {
        Pit::new()
    }
}

impl Snapshot for Pit {
    const KIND: &'static str = "i8254";
    const VERSION: u16 = 1;
    type State = PitState;

    fn save(&self) -> PitState {
        self.state.clone()
    }

    fn restore(&mut self, state: PitState) -> Result<(), RestoreError> {
        restore::check(&state)?;
        self.state = state;
        Ok(())
    }
}
