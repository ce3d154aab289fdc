//! A saved state may come from anybody: what cannot be is refused, and nothing makes the processor panic.

use proptest::prelude::*;
use scribe_types::stop::{Answer, Progress, Stop};

use super::guest::Guest;
use super::world::World;
use crate::{SoftCpu, SoftState};

/// A guest in the middle of its run.
fn running(seed: u64) -> World {
    let mut world = World::new(&Guest::long(seed));
    for _ in 0..40 {
        let at = world.cpu.progress();
        world.run(Progress { steps: at.steps + 3, ..at }, &false.into());
    }
    world
}

/// Runs a little, whatever comes.
fn run(cpu: &mut SoftCpu) {
    for _ in 0..20 {
        let at = cpu.progress();
        let until = Progress { steps: at.steps + 8, ..at };
        match cpu.run(Some(until), &false.into()) {
            Stop::Exit(_) => {
                cpu.answer(Answer::Value(1));
                for _ in 0..50 {
                    if cpu.finish().is_none() {
                        break;
                    }
                    cpu.answer(Answer::Value(2));
                }
                if cpu.save().is_err() {
                    return;
                }
            }
            Stop::InterruptWindow => cpu.request_window(false),
            Stop::Fault(_) => return,
            _ => {}
        }
    }
}

/// Bytes of a state, some of them changed.
fn changed(state: &SoftState, changes: &[(prop::sample::Index, u8)]) -> Vec<u8> {
    let mut bytes = postcard::to_stdvec(state).unwrap();
    for (at, byte) in changes {
        let at = at.index(bytes.len());
        bytes[at] = *byte;
    }
    bytes
}

proptest! {
    #[test]
    fn damaged_states_are_refused_or_run(
        seed in 0..20u64,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut world = running(seed);
        let Ok(state) = world.cpu.save() else { return Ok(()) };
        let bytes = changed(&state, &changes);
        if let Ok((other, _)) = postcard::take_from_bytes::<SoftState>(&bytes) {
            match world.cpu.restore(&other) {
                Ok(()) => run(&mut world.cpu),
                Err(_) => prop_assert!(world.cpu.save().unwrap() == state, "a refused state has changed something"),
            }
        }
    }

    #[test]
    fn states_of_the_engines_are_refused_or_run(
        seed in 0..20u64,
        cr: [u64; 5],
        general in prop::array::uniform16(any::<u64>()),
        rip: u64,
        rflags: u64,
        segments in prop::array::uniform8((any::<u64>(), any::<u32>(), any::<u16>(), 0..0x2_0000u32)),
        events: (Option<u8>, Option<(u8, Option<u32>)>, u8, bool),
        debug: ([u64; 4], u32),
        legal: bool,
    ) {
        let mut world = running(seed);
        let mut state = world.cpu.state();
        let bits = if legal { [0xe005_003f, u64::MAX, 0xff_ffff_f000, 0x30_07ff, 0xf] } else { [u64::MAX; 5] };
        (state.cr0, state.cr2, state.cr3) = (cr[0] & bits[0], cr[1], cr[2] & bits[2]);
        (state.cr4, state.cr8) = (cr[3] & bits[3], cr[4] & bits[4]);
        state.efer = if legal { 0 } else { general[0] };
        if legal && state.cr0 & 1 == 0 {
            state.cr0 &= !(1 << 31);
        }
        state.registers.general = general;
        state.registers.rip = rip;
        state.registers.rflags = rflags & if legal { 0x3f_7fd7 } else { u64::MAX };
        for (to, (base, limit, selector, attributes)) in state.segments.iter_mut().zip(segments) {
            (to.base, to.limit, to.selector, to.attributes) = (base, limit, selector, attributes);
        }
        (state.events.interrupt, state.events.exception) = (events.0, events.1);
        (state.events.shadow, state.events.nmi_masked) = (events.2 & 3, events.3);
        (state.debug, state.dr7) = (debug.0, debug.1.into());
        let before = world.cpu.save();
        match world.cpu.set_state(&state) {
            Ok(()) => run(&mut world.cpu),
            Err(_) => prop_assert!(world.cpu.save() == before, "a refused state has changed something"),
        }
    }
}

/// What refuses a state.
fn refusal(change: impl Fn(&mut serde_json::Value)) -> String {
    let mut world = running(3);
    let mut json = serde_json::to_value(world.cpu.save().unwrap()).unwrap();
    change(&mut json);
    let state: SoftState = serde_json::from_value(json).unwrap();
    world.cpu.restore(&state).unwrap_err().0
}

#[test]
fn impossible_states_are_refused_by_name() {
    let refused = |expected: &str, change: &dyn Fn(&mut serde_json::Value)| {
        let error = refusal(change);
        assert!(error.contains(expected), "{error}");
    };
    refused("CR0", &|s| s["cpu"]["cr0"] = 0x8000_0000_u64.into());
    refused("CR4", &|s| s["cpu"]["cr4"] = (1 << 18).into());
    refused("EFER", &|s| s["cpu"]["efer"] = 0x100.into());
    refused("MSR", &|s| s["cpu"]["msrs"][0][0] = 0x175.into());
    refused("MXCSR", &|s| s["cpu"]["fpu"]["mxcsr"] = 0x1_0000.into());
    refused("flags", &|s| s["private"]["flags"]["operation"] = 13.into());
    refused("flags", &|s| s["private"]["flags"]["width"] = 4.into());
    refused("flags", &|s| {
        let rflags = s["cpu"]["registers"]["rflags"].as_u64().unwrap();
        s["cpu"]["registers"]["rflags"] = (rflags ^ 0x40).into();
    });
    refused("SYSENTER_EIP", &|s| s["private"]["sysenter_eip"] = 5.into());
    refused("count", &|s| s["private"]["steps"] = (1_u64 << 40).into());
    refused("count", &|s| s["private"]["branches"] = u64::MAX.into());
    refused("block", &|s| s["private"]["behind"] = serde_json::json!([64, 0]));
    refused("block", &|s| s["private"]["behind"] = serde_json::json!([3, 5]));
    refused("RAM", &|s| s["private"]["tlb"]["data"][1][0]["frame"] = 0x40.into());
    refused("RAM", &|s| s["private"]["tlb"]["code"][0][0]["frame"] = u64::MAX.into());
    refused("order", &|s| {
        let entry = s["private"]["tlb"]["code"][0][0].clone();
        s["private"]["tlb"]["code"][0].as_array_mut().unwrap().insert(0, entry);
    });
    refused("beyond", &|s| s["private"]["tlb"]["code"][0][0]["linear"] = u64::MAX.into());
}

#[test]
fn nothing_is_saved_in_the_middle_of_an_exit() {
    let mut bench = crate::testing::Bench::with_code(&[0xe4, 0x71, 0x90]); // in al, 0x71
    assert!(matches!(bench.cpu.run(None, &false.into()), Stop::Exit(_)));
    assert!(bench.cpu.save().is_err());
    bench.cpu.answer(Answer::Value(1));
    assert!(bench.cpu.save().is_err());
    assert_eq!(bench.cpu.finish(), None);
    assert!(bench.cpu.save().is_ok());
}

#[test]
fn a_neutral_state_alone_is_enough_to_go_on() {
    let world = running(2);
    let mut other = World::new(&Guest::long(2));
    other.cpu.set_state(&world.cpu.state()).unwrap();
    assert_eq!(other.cpu.progress(), Progress::NONE);
    assert_eq!(other.cpu.state(), world.cpu.state());
    run(&mut other.cpu);
}
