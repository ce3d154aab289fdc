//! Checks of a saved timer state.

use super::{ChannelState, Counting, Pit, PitState, ticks};
use crate::snapshot::{RestoreError, Snapshot, require};

const KIND: &str = Pit::KIND;
const COUNT: &str = "a count from 1 to 65536";
const TICK: &str = "a tick within guest time";

pub(super) fn check(state: &PitState) -> Result<(), RestoreError> {
    for channel in &state.channels {
        check_channel(channel)?;
    }
    for gate in [state.channels[0].gate, state.channels[1].gate] {
        require(gate, KIND, "gate", gate, "high for counters 0 and 1")?;
    }
    require(state.port61 & 0xf0 == 0, KIND, "port61", state.port61, "four bits")?;
    let gate = state.channels[2].gate;
    require(gate == (state.port61 & 1 != 0), KIND, "gate", gate, "bit 0 of port 0x61 for counter 2")?;
    check_schedule(state)
}

fn check_count(field: &'static str, count: u32) -> Result<(), RestoreError> {
    require((1..=0x1_0000).contains(&count), KIND, field, count, COUNT)
}

fn check_tick(field: &'static str, tick: u64) -> Result<(), RestoreError> {
    // A count loaded in the last tick of guest time ends beyond it.
    require(tick <= ticks(u64::MAX).saturating_add(0x2_0000), KIND, field, tick, TICK)
}

fn check_channel(channel: &ChannelState) -> Result<(), RestoreError> {
    require(channel.mode <= 5, KIND, "mode", channel.mode, "0 to 5")?;
    if let Some(count) = channel.reload {
        check_count("reload", count)?;
    }
    match channel.counting {
        Counting::Waiting => {}
        Counting::Running { start, count } => {
            check_count("count", count)?;
            check_tick("start", start)?;
        }
        Counting::Held { elapsed, count } => {
            check_count("count", count)?;
            check_tick("elapsed", elapsed)?;
        }
    }
    if let Some(next) = channel.next {
        check_count("next count", next.count)?;
        check_tick("end of period", next.at)?;
        let periodic = matches!((channel.mode, channel.counting), (2 | 3, Counting::Running { .. }));
        require(periodic, KIND, "next count", next.count, "absent, for no period runs")?;
    }
    Ok(())
}

/// The schedule must be one that the counter leads to.
fn check_schedule(state: &PitState) -> Result<(), RestoreError> {
    let channel = &state.channels[0];
    if let Some(owed) = state.owed {
        check_tick("owed edge", owed)?;
    }
    match state.next_rise {
        Some(rise) => {
            let before = rise.saturating_sub(1);
            require(
                channel.next_rise(before) == Some(rise),
                KIND,
                "next edge",
                rise,
                "one of counter 0's edges",
            )
        }
        None => {
            let runs = matches!((channel.mode, channel.counting), (2 | 3, Counting::Running { .. }));
            require(!runs, KIND, "next edge", "absent", "present while a period runs")
        }
    }
}
