//! The course of a hand-made guest to its end, and whether fresh vCPUs take the rest of it from any state on the way.

use scribe_vmm::engine::cpu::{CpuState, Registers};
use scribe_vmm::engine::{Answer, Exit};
use scribe_vmm::machine::digest::{RamDigest, of_cpu};

use crate::vcpu::Vcpu;

/// The vector that is injected on the way.
pub const VECTOR: u8 = 0x30;

/// What was seen at a sync point: its exit, the registers behind it, and whether an interrupt could be injected.
type Seen = (Exit, Registers, bool);

/// Runs to the next sync point. Answers, and the interrupts that are injected where one can be taken, depend on the number
/// of the turn and of exits so far alone: one in three comes before a state is taken at the sync point, one in three when
/// the guest goes on. False at the end, which is a HLT with interrupts off.
fn step(vcpu: &mut Vcpu, turn: u64, trace: &mut Vec<Seen>) -> bool {
    if turn % 3 == 1 && vcpu.engine.can_inject() {
        vcpu.engine.inject(VECTOR).unwrap();
    }
    let mut next = Some(vcpu.exit());
    while let Some(exit) = next {
        let value = turn * 0x0101_0101_0101 + trace.len() as u64;
        next = vcpu.answer(match exit {
            Exit::MsrRead { .. } => Answer::GeneralProtection,
            _ => Answer::Value(value),
        });
        let halted = exit == Exit::Halt;
        trace.push((exit, vcpu.registers(), vcpu.engine.can_inject()));
        if halted && !vcpu.registers().interrupts_enabled() {
            return false;
        }
    }
    if turn.is_multiple_of(3) && vcpu.engine.can_inject() {
        vcpu.engine.inject(VECTOR).unwrap();
    }
    true
}

/// Digest of RAM, which leaves out the A and D bits of page tables.
fn ram(vcpu: &Vcpu) -> u128 {
    let mut digest = RamDigest::default();
    digest.full(&vcpu.ram);
    digest.value()
}

/// Runs the guest to its end and takes its state at every sync point, with a copy of RAM. From each a fresh vCPU must go
/// the same way to the same end. Returns the states, the last one at the end.
///
/// # Panics
/// It does not.
#[track_caller]
pub fn goes_on_from_any_state(mut original: Vcpu) -> Vec<CpuState> {
    let mut copies = Vec::new();
    let mut trace = Vec::new();
    let mut turn = 0;
    while step(&mut original, turn, &mut trace) {
        turn += 1;
        let state = original.engine.state().unwrap();
        copies.push((turn, trace.len(), original.copy(&state), state, original.engine.can_inject()));
    }
    let end = original.engine.state().unwrap();
    let mut states = Vec::new();
    for (mut turn, done, mut copy, state, can_inject) in copies {
        assert_eq!(copy.engine.state().unwrap(), state, "after turn {turn}");
        assert_eq!(copy.engine.can_inject(), can_inject, "after turn {turn}");
        let mut tail = trace[..done].to_vec();
        let from = turn;
        while step(&mut copy, turn, &mut tail) {
            turn += 1;
        }
        if let Some(n) = (0..trace.len().max(tail.len())).find(|n| tail.get(*n) != trace.get(*n)) {
            panic!("from turn {from} on exit {n} is {:?}, not {:?}", tail.get(n), trace.get(n));
        }
        let copied = copy.engine.state().unwrap();
        assert_eq!(copied, end, "from turn {from} on");
        assert_eq!(of_cpu(copied, true).unwrap(), of_cpu(end.clone(), true).unwrap());
        assert_eq!(ram(&copy), ram(&original), "from turn {from} on");
        states.push(state);
    }
    states.push(end);
    states
}
