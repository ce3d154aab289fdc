//! One event as bytes: kind, flags, vCPU, position, order, payload.

use std::collections::BTreeMap;

use crate::bytes::{Input, Malformed, put_bytes, put_varint};
use crate::event::Event;
use crate::payload::{self, MUST_UNDERSTAND, Unfit};
use crate::position::Position;

const HAS_VCPU: u8 = 1;
const HAS_BRANCHES: u8 = 2;
const HAS_STEPS: u8 = 4;
const HAS_ORDER: u8 = 8;
const ALL_FLAGS: u8 = HAS_VCPU | HAS_BRANCHES | HAS_STEPS | HAS_ORDER;

// Frozen: recordings exist.
const _: () = assert!(HAS_VCPU == 1 && HAS_BRANCHES == 2 && HAS_STEPS == 4 && HAS_ORDER == 8);

/// Why an event cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EncodeError {
    Backwards { last: Position },
    Unfit(Unfit),
}

/// Why an event cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DecodeError {
    Malformed(Malformed),
    Unknown { kind: u8, position: Position },
}

impl From<Malformed> for DecodeError {
    fn from(malformed: Malformed) -> DecodeError {
        DecodeError::Malformed(malformed)
    }
}

/// How far each vCPU is: what deltas are relative to, and the check that no position goes backwards.
#[derive(Debug, Clone)]
pub(crate) struct Track {
    vcpus: BTreeMap<u32, Place>,
    /// Exit of vCPU 0 at the start of the segment.
    start_exit: u64,
    /// Events before this segment were not seen, so their positions cannot be checked against.
    alone: bool,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    last: Position,
    /// Events at `last` so far.
    count: u64,
    /// Whether this segment has an event of this vCPU.
    in_segment: bool,
}

impl Track {
    /// In the first segment of a recording in which vCPU 0 starts at `start`.
    pub(crate) fn new(start: Position) -> Track {
        let place = Place { last: start, count: 0, in_segment: false };
        Track { vcpus: BTreeMap::from([(0, place)]), start_exit: start.exit, alone: false }
    }

    /// In a segment that starts at `start_exit` and whose predecessors are not known.
    pub(crate) fn alone(start_exit: u64) -> Track {
        Track { vcpus: BTreeMap::new(), start_exit, alone: true }
    }

    /// The exit number of vCPU 0.
    pub(crate) fn exit(&self) -> u64 {
        self.vcpus.get(&0).map_or(self.start_exit, |place| place.last.exit)
    }

    /// A new segment begins: deltas restart.
    pub(crate) fn start_segment(&mut self) {
        self.start_exit = self.exit();
        for place in self.vcpus.values_mut() {
            place.in_segment = false;
        }
    }

    /// What the exit delta of the vCPU's next event is relative to.
    fn base(&self, vcpu: u32) -> u64 {
        match self.vcpus.get(&vcpu) {
            Some(place) if place.in_segment => place.last.exit,
            _ if vcpu == 0 => self.start_exit,
            _ => 0,
        }
    }

    /// The order of the vCPU's next event: earlier events at the same position. `None` if it cannot be known.
    fn order(&self, vcpu: u32, position: Position) -> Result<Option<u64>, Position> {
        match self.vcpus.get(&vcpu) {
            Some(place) if position < place.last => Err(place.last),
            Some(place) if position == place.last => Ok(Some(place.count)),
            None if self.alone => Ok(None),
            _ => Ok(Some(0)),
        }
    }

    fn note(&mut self, vcpu: u32, position: Position, order: u64) {
        self.vcpus.insert(vcpu, Place { last: position, count: order.saturating_add(1), in_segment: true });
    }
}

/// Appends `event` to `out`. On an error neither `track` nor `out` has changed.
pub(crate) fn encode(track: &mut Track, event: &Event, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let Event { vcpu, position, body } = event;
    let order = match track.order(*vcpu, *position) {
        Ok(order) => order.unwrap_or(0),
        Err(last) => return Err(EncodeError::Backwards { last }),
    };
    let payload = payload::encode(body).map_err(EncodeError::Unfit)?;
    let optional = [
        (HAS_VCPU, u64::from(*vcpu)),
        (HAS_BRANCHES, position.branches),
        (HAS_STEPS, position.steps),
        (HAS_ORDER, order),
    ];
    let flags = optional.iter().filter(|(_, value)| *value != 0).fold(0, |flags, (flag, _)| flags | flag);
    out.push(payload::kind(body));
    out.push(flags);
    for (flag, value) in optional {
        if value != 0 {
            put_varint(out, value);
        }
        if flag == HAS_VCPU {
            // The order check means the position is not before the base, except for a first event of another vCPU,
            // whose base is 0.
            put_varint(out, position.exit - track.base(*vcpu));
        }
    }
    put_bytes(out, &payload);
    track.note(*vcpu, *position, order);
    Ok(())
}

/// Takes the next event from `input`. `None` if it is of an unknown kind that may be skipped.
pub(crate) fn decode(track: &mut Track, input: &mut Input<'_>) -> Result<Option<Event>, DecodeError> {
    let kind = input.u8()?;
    let flags = input.u8()?;
    if flags & !ALL_FLAGS != 0 {
        return Err(Malformed("its flags are unknown").into());
    }
    let optional = |input: &mut Input<'_>, flag| match flags & flag {
        0 => Ok(0),
        _ => match input.varint()? {
            0 => Err(Malformed("a field is written though it is 0")),
            value => Ok(value),
        },
    };
    let vcpu =
        u32::try_from(optional(input, HAS_VCPU)?).map_err(|_| Malformed("its vCPU is above 2^32 - 1"))?;
    let exit =
        track.base(vcpu).checked_add(input.varint()?).ok_or(Malformed("its exit is above 2^64 - 1"))?;
    let position =
        Position { exit, branches: optional(input, HAS_BRANCHES)?, steps: optional(input, HAS_STEPS)? };
    let order = optional(input, HAS_ORDER)?;
    let length = usize::try_from(input.varint()?).unwrap_or(usize::MAX);
    let payload = input.take(length)?;
    match track.order(vcpu, position) {
        Err(_) => return Err(Malformed("its position is before the previous one").into()),
        Ok(Some(expected)) if expected != order => {
            return Err(Malformed("its order at this position is wrong").into());
        }
        Ok(_) => {}
    }
    track.note(vcpu, position, order);
    match payload::decode(kind, payload)? {
        Some(body) => Ok(Some(Event { vcpu, position, body })),
        None if kind & MUST_UNDERSTAND != 0 => Err(DecodeError::Unknown { kind, position }),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Body;

    fn adjust(vcpu: u32, exit: u64, branches: u64, steps: u64) -> Event {
        let body = Body::TimeAdjust { nanoseconds: 1 };
        Event { vcpu, position: Position { exit, branches, steps }, body }
    }

    fn bytes(track: &mut Track, event: &Event) -> Vec<u8> {
        let mut out = Vec::new();
        encode(track, event, &mut out).unwrap();
        out
    }

    #[test]
    fn what_is_zero_takes_no_bytes() {
        let mut track = Track::new(Position::START);
        assert_eq!(bytes(&mut track, &adjust(0, 0, 0, 0)), [0x82, 0, 0, 1, 1]);
        assert_eq!(bytes(&mut track, &adjust(0, 5, 0, 0)), [0x82, 0, 5, 1, 1]);
        assert_eq!(bytes(&mut track, &adjust(0, 5, 0, 0)), [0x82, 8, 0, 1, 1, 1]);
        assert_eq!(bytes(&mut track, &adjust(0, 5, 300, 0)), [0x82, 2, 0, 0xac, 0x02, 1, 1]);
        assert_eq!(bytes(&mut track, &adjust(0, 5, 300, 9)), [0x82, 6, 0, 0xac, 0x02, 9, 1, 1]);
        assert_eq!(bytes(&mut track, &adjust(0, 5, 300, 9)), [0x82, 14, 0, 0xac, 0x02, 9, 1, 1, 1]);
        assert_eq!(bytes(&mut track, &adjust(0, 8, 0, 0)), [0x82, 0, 3, 1, 1]);
    }

    #[test]
    fn deltas_restart_with_each_segment() {
        let mut track = Track::new(Position::START);
        bytes(&mut track, &adjust(0, 100, 0, 0));
        bytes(&mut track, &adjust(1, 7, 0, 0));
        assert_eq!(bytes(&mut track, &adjust(1, 9, 0, 0)), [0x82, 1, 1, 2, 1, 1]);
        track.start_segment();
        // vCPU 0 counts from the segment's start, the others from power-on.
        assert_eq!(bytes(&mut track, &adjust(0, 101, 0, 0)), [0x82, 0, 1, 1, 1]);
        assert_eq!(bytes(&mut track, &adjust(1, 9, 0, 0)), [0x82, 9, 1, 9, 1, 1, 1]);

        let mut alone = Track::alone(100);
        let mut input = Input::new(&[0x82, 0, 1, 1, 1, 0x82, 9, 1, 9, 1, 1, 1]);
        assert_eq!(decode(&mut alone, &mut input), Ok(Some(adjust(0, 101, 0, 0))));
        assert_eq!(decode(&mut alone, &mut input), Ok(Some(adjust(1, 9, 0, 0))));
        assert_eq!(alone.exit(), 101);
    }

    #[test]
    fn a_refused_event_changes_nothing() {
        let mut track = Track::new(Position::START);
        bytes(&mut track, &adjust(0, 5, 2, 0));
        let mut out = Vec::new();
        for event in [adjust(0, 4, 9, 9), adjust(0, 5, 1, 0)] {
            let last = Position { exit: 5, branches: 2, steps: 0 };
            assert_eq!(encode(&mut track, &event, &mut out), Err(EncodeError::Backwards { last }));
        }
        let long = Event::new(Position::exit(9), Body::ConsoleInput { bytes: vec![0; 65_537] });
        assert!(matches!(
            encode(&mut track, &long, &mut out),
            Err(EncodeError::Unfit(Unfit::TooLong { .. }))
        ));
        assert!(out.is_empty());
        assert_eq!(bytes(&mut track, &adjust(0, 5, 2, 0)), [0x82, 10, 0, 2, 1, 1, 1]);
    }

    #[test]
    fn the_largest_numbers_fit() {
        let mut track = Track::new(Position::START);
        let event = adjust(u32::MAX, u64::MAX, u64::MAX, u64::MAX);
        let out = bytes(&mut track, &event);
        let mut input = Input::new(&out);
        assert_eq!(decode(&mut Track::new(Position::START), &mut input), Ok(Some(event)));
        let over = [0x82, 0, 1, 1, 1];
        let mut track = Track::alone(u64::MAX);
        assert!(matches!(decode(&mut track, &mut Input::new(&over)), Err(DecodeError::Malformed(_))));
    }
}
