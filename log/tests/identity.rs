//! What is written is what is read, and a closed recording depends on its events alone.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;

use common::*;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use scribe_log::{
    Body, Capture, CapturePages, DeviceInput, End, EndCause, Event, ExitAnswer, ExitKind, FullDigest,
    GeneralRegisters, PageCodec, Position, Recording, Register, State, StopReason, Writer,
};
use tempfile::tempdir;

fn full_digests() -> impl Strategy<Value = Option<FullDigest>> {
    option::of(any::<(u64, u128, u64, u64)>().prop_map(|(cpu, ram, devices, guest_time)| FullDigest {
        cpu,
        ram,
        devices,
        guest_time,
    }))
}

fn bodies() -> impl Strategy<Value = Body> {
    prop_oneof![
        4 => vec(any::<u8>(), 0..200).prop_map(|bytes| Body::ConsoleInput { bytes }),
        1 => (any::<u8>(), 0usize..=65_536).prop_map(|(byte, count)| Body::ConsoleInput { bytes: vec![byte; count] }),
        2 => any::<u64>().prop_map(|nanoseconds| Body::TimeAdjust { nanoseconds }),
        1 => (any::<[u8; 32]>(), any::<u64>(), 0..3).prop_map(|(seed, seconds, which)| Body::Branch {
            seed: (which != 0).then_some(seed),
            wall_clock: (which != 1).then_some(seconds),
        }),
        3 => (any::<u8>(), device_inputs()).prop_map(|(slot, input)| Body::Device { slot, input }),
        2 => (any::<u64>(), full_digests()).prop_map(|(registers, full)| Body::Checkpoint { registers, full }),
        1 => any::<String>().prop_map(|name| Body::Bookmark { name }),
        1 => any::<(u8, u8)>().prop_map(|(vector, irq)| Body::Interrupt { vector, irq }),
        2 => (vec(registers(), 0..30), btree_map(any::<u64>(), any::<u64>(), 0..50))
            .prop_map(|(registers, pages)| Body::State { registers, pages: pages.into_iter().collect() }),
        4 => exits(),
        1 => any::<(u8, u32, u64, u64, u8)>().prop_map(|(device, request, sector, bytes, status)| {
            Body::DiskRequest { device, request, sector, bytes, status }
        }),
        1 => vec(any::<u8>(), 0..200).prop_map(|bytes| Body::ConsoleOutput { bytes }),
        1 => capture_pages(),
        1 => captures(),
    ]
}

fn capture_pages() -> impl Strategy<Value = Body> {
    let stored = prop_oneof![vec(any::<u8>(), 1..4096), Just(Vec::new())];
    (btree_set(any::<u64>(), 1..=16), stored, any::<u8>()).prop_map(|(frames, stored, byte)| {
        let frames: Vec<u64> = frames.into_iter().collect();
        let (codec, stored) = match stored.is_empty() {
            true => (PageCodec::Raw, vec![byte; frames.len() * 4096]),
            false => (PageCodec::Zstd, stored),
        };
        Body::CapturePages(CapturePages { frames, codec, stored })
    })
}

fn captures() -> impl Strategy<Value = Body> {
    let numbers = any::<(u64, u8, u64, u64, u16)>();
    (numbers, vec(any::<u8>(), 0..2000)).prop_map(
        |((nanoseconds, interrupts, pages, bytes, version), state)| {
            Body::Capture(Capture { nanoseconds, interrupts, pages, bytes, version, state })
        },
    )
}

fn device_inputs() -> impl Strategy<Value = DeviceInput> {
    prop_oneof![
        vec(any::<u8>(), 14..=1518).prop_map(DeviceInput::Frame),
        any::<bool>().prop_map(|up| DeviceInput::Link { up }),
        vec(any::<u8>(), 1..=256).prop_map(DeviceInput::Entropy),
        vec(any::<u8>(), 0..200).prop_map(DeviceInput::Typed),
        any::<(u16, u16)>().prop_map(|(cols, rows)| DeviceInput::Resize { cols, rows }),
        (0u8..4, any::<u64>(), any::<u64>())
            .prop_map(|(operation, number, sector)| DeviceInput::DiskFailed { operation, number, sector }),
    ]
}

fn registers() -> impl Strategy<Value = Register> {
    ("[!-~]{1,32}", 1u8..=16, any::<u128>()).prop_map(|(name, bytes, value)| {
        let value = value >> (128 - 8 * u32::from(bytes));
        Register { name, bytes, value }
    })
}

fn exits() -> impl Strategy<Value = Body> {
    let answers = prop_oneof![
        Just(ExitAnswer::Done),
        any::<u64>().prop_map(ExitAnswer::Value),
        Just(ExitAnswer::GeneralProtection),
    ];
    let numbers = any::<(u64, u8, u64, u64, u64)>();
    (select(&ExitKind::ALL), answers, numbers).prop_map(
        |(what, answer, (address, size, value, branches, steps))| Body::Exit {
            what,
            address,
            size,
            value,
            answer,
            branches,
            steps,
        },
    )
}

fn end_causes() -> impl Strategy<Value = EndCause> {
    let registers = any::<([u64; 16], u64, u64)>().prop_map(
        |([rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15], rip, rflags)| {
            Box::new(GeneralRegisters {
                rax,
                rbx,
                rcx,
                rdx,
                rsi,
                rdi,
                rsp,
                rbp,
                r8,
                r9,
                r10,
                r11,
                r12,
                r13,
                r14,
                r15,
                rip,
                rflags,
            })
        },
    );
    prop_oneof![
        any::<u8>().prop_map(|status| EndCause::PowerOff { status }),
        Just(EndCause::Reset),
        any::<String>().prop_map(|message| EndCause::Panic { message }),
        (any::<u64>(), vec(any::<u8>(), 0..=15), registers)
            .prop_map(|(rip, bytes, last_exit)| { EndCause::TripleFault { rip, bytes, last_exit } }),
        (any::<u64>(), vec(any::<u8>(), 0..=15))
            .prop_map(|(rip, bytes)| EndCause::RefusedInstruction { rip, bytes }),
        Just(EndCause::HaltedForever),
        Just(EndCause::Stopped { reason: StopReason::Silence }),
    ]
}

/// How far a vCPU goes on to its next event.
fn strides() -> impl Strategy<Value = Position> {
    let large = prop_oneof![1u64..200, 1u64..1 << 40];
    prop_oneof![
        Just(Position::START),
        large.clone().prop_map(Position::exit),
        large.clone().prop_map(|branches| Position { exit: 0, branches, steps: 0 }),
        large.clone().prop_map(|steps| Position { exit: 0, branches: 0, steps }),
        (large.clone(), large).prop_map(|(exit, branches)| Position { exit, branches, steps: 1 }),
    ]
}

fn after(last: Position, stride: Position) -> Position {
    match stride {
        Position { exit: 0, branches: 0, steps } => Position { steps: last.steps + steps, ..last },
        Position { exit: 0, branches, steps } => {
            Position { branches: last.branches + branches, steps, ..last }
        }
        Position { exit, branches, steps } => Position { exit: last.exit + exit, branches, steps },
    }
}

/// Events at rising positions, the end last.
fn recordings() -> impl Strategy<Value = Vec<Event>> {
    let steps = vec((0u32..4, strides(), bodies()), 0..40);
    let end = (end_causes(), full_digests(), any::<[u64; 4]>());
    (steps, end).prop_map(|(steps, (cause, full, [registers, exits, guest_time, inputs]))| {
        let mut last = [Position::START; 4];
        let mut events = Vec::new();
        for (vcpu, stride, body) in steps {
            let position = after(last[vcpu as usize], stride);
            last[vcpu as usize] = position;
            events.push(Event { vcpu, position, body });
        }
        let end = End { cause, registers, full, exits, guest_time, inputs };
        events.push(Event::new(last[0], Body::End(end)));
        events
    })
}

/// Writes `events` with a seal behind each one that `cuts` says, and closes unless `crash`.
fn write(dir: &std::path::Path, events: &[Event], cuts: &[u8], crash: bool) {
    let mut writer = Writer::create(dir, &header(), true).unwrap();
    let (end, events) = events.split_last().unwrap();
    let mut position = Position::START;
    for (at, event) in events.iter().enumerate() {
        if event.vcpu == 0 {
            position = event.position;
        }
        let cut = cuts[at % cuts.len()];
        match &event.body {
            Body::Checkpoint { .. } if cut & 1 != 0 => writer.seal(event).unwrap(),
            _ => writer.append(event).unwrap(),
        }
        if cut & 2 != 0 {
            let body = Body::Seal { registers: u64::from(cut), guest_time: at as u64 };
            writer.seal(&Event::new(position, body)).unwrap();
        }
    }
    if !crash {
        writer.close(end).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_closed_recording_reads_back_and_does_not_show_where_it_was_sealed(
        events in recordings(),
        cuts in vec(any::<u8>(), 1..20),
    ) {
        let (one, other) = (tempdir().unwrap(), tempdir().unwrap());
        write(one.path(), &events, &cuts, false);
        write(other.path(), &events, &[0], false);
        prop_assert_eq!(&read_all(one.path()).unwrap(), &events);
        for name in ["header", "events"] {
            prop_assert!(fs::read(one.path().join(name)).unwrap() == fs::read(other.path().join(name)).unwrap());
        }
        let recording = Recording::open(one.path()).unwrap();
        prop_assert_eq!(recording.state(), State::Complete);
        prop_assert_eq!(recording.last(), events.last());
        prop_assert_eq!(recording.index().iter().map(|entry| entry.events).sum::<u64>(), events.len() as u64);
    }

    #[test]
    fn a_killed_recording_reads_back_what_was_sealed(events in recordings(), cuts in vec(any::<u8>(), 1..20)) {
        let dir = tempdir().unwrap();
        write(dir.path(), &events, &cuts, true);
        let read = read_all(dir.path()).unwrap();
        let content: Vec<Event> =
            read.iter().filter(|event| !matches!(event.body, Body::Seal { .. })).cloned().collect();
        prop_assert_eq!(&content[..], &events[..content.len()]);
        let last = read.last().map(|event| (event.position, event.body.registers().unwrap()));
        prop_assert_eq!(Recording::open(dir.path()).unwrap().sealed_end(), last);
    }

    #[test]
    fn any_position_can_be_started_from(
        events in recordings(),
        cuts in vec(any::<u8>(), 1..20),
        crash: bool,
        which: proptest::sample::Index,
        stride in strides(),
    ) {
        let dir = tempdir().unwrap();
        write(dir.path(), &events, &cuts, crash);
        let recording = Recording::open(dir.path()).unwrap();
        let all: Vec<Event> = recording.events().map(Result::unwrap).collect();
        let of_first: Vec<Position> = events.iter().filter(|it| it.vcpu == 0).map(|it| it.position).collect();
        let there = *which.get(&of_first);
        for from in [Position::START, there, after(there, stride), Position { steps: u64::MAX, ..there }] {
            let expected: Vec<&Event> =
                all.iter().skip_while(|event| event.vcpu != 0 || event.position < from).collect();
            let found: Vec<Event> = recording.events_from(from).unwrap().map(Result::unwrap).collect();
            prop_assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{}", from);
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(
        bytes in vec(any::<u8>(), 0..300),
        count in 0u32..20,
        codec in 0u8..2,
        closed: bool,
    ) {
        let dir = tempdir().unwrap();
        write(dir.path(), &[end(1, EndCause::Reset)], &[0], false);
        let mut forged = Forged::first(dir.path(), count, 0, &bytes);
        (forged.codec, forged.raw_length) = (codec, (codec == 1).then_some(1000));
        fs::write(dir.path().join("events"), if closed { forged.closed() } else { forged.encode() }).unwrap();
        prop_assert!(read_all(dir.path()).is_err());
    }
}

#[test]
fn every_cause_of_an_end_reads_back() {
    let dir = tempdir().unwrap();
    for cause in causes() {
        let last = end(9, cause);
        let writer = Writer::create(dir.path(), &header(), true).unwrap();
        writer.close(&last).unwrap();
        assert_eq!(read_all(dir.path()).unwrap(), [last]);
    }
}

#[test]
fn from_every_position_of_many_segments() {
    let dir = tempdir().unwrap();
    // Several events at one exit, so that a segment ends in the middle of them.
    let events: Vec<Event> = (0..100u8).map(|at| input(u64::from(at / 5) * 2, &[at; 3000])).collect();
    write_closed(dir.path(), &events, &end(39, EndCause::Reset));
    let recording = Recording::open(dir.path()).unwrap();
    assert_eq!(recording.index().len(), 5);
    let all: Vec<Event> = recording.events().map(Result::unwrap).collect();
    for exit in 0..45 {
        for branches in 0..2 {
            let from = Position { exit, branches, steps: 0 };
            let expected: Vec<&Event> = all.iter().skip_while(|event| event.position < from).collect();
            let found: Vec<Event> = recording.events_from(from).unwrap().map(Result::unwrap).collect();
            assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{from}");
        }
    }
}

#[test]
fn closed_segments_are_cut_by_content() {
    let dir = tempdir().unwrap();
    let events: Vec<Event> = (0..100).map(|exit| input(exit, &[7; 10_000])).collect();
    write_closed(dir.path(), &events, &end(100, EndCause::Reset));
    let recording = Recording::open(dir.path()).unwrap();
    let counts: Vec<u64> = recording.index().iter().map(|entry| entry.events).collect();
    // 7 events of 10 005 bytes pass 64 KiB.
    assert_eq!(counts, [[7; 14].as_slice(), &[3]].concat());
    assert_eq!(recording.index()[1].start_exit, 6);
    assert_eq!(recording.index()[1].end_exit, 13);
}
