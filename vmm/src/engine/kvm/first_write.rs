//! What the first write to a page costs a guest while KVM logs dirty pages: a tiny guest of its own is timed, once for a
//! process.

use std::sync::OnceLock;

use super::Kvm;
use crate::engine::cpu::Segment;
use crate::engine::{Answer, Engine, EngineError, Exit, Stop};
use crate::host::clock;
use crate::machine::memory::{GuestRam, PAGE_SIZE};

/// Pages written.
const PAGES: u64 = 64;
/// Where they are, and the code.
const DATA: u64 = 0x10_0000;
const CODE: u64 = 0x1000;
/// In real mode: `mov [ebx], al; add ebx, 4096; loop` back to both; `hlt`.
const PROGRAM: [u8; 13] = [0x67, 0x88, 0x03, 0x66, 0x81, 0xc3, 0x00, 0x10, 0x00, 0x00, 0xe2, 0xf4, 0xf4];
/// Times measured; the least counts, since anything on the host can only make it longer.
const TRIES: usize = 3;
/// Present, writable data, 32-bit, limit in pages: all of memory.
const FLAT: u32 = 0xc093;

/// Nanoseconds. 0 where that cannot be measured: then only what is measured of a capture itself counts.
pub(super) fn nanoseconds() -> u64 {
    static COST: OnceLock<u64> = OnceLock::new();
    *COST.get_or_init(|| {
        measure().unwrap_or_else(|error| {
            tracing::debug!("the cost of a first write is not known: {error}");
            0
        })
    })
}

fn measure() -> Result<u64, EngineError> {
    let memory = |error: crate::machine::memory::MemoryError| EngineError::Memory(error.to_string());
    let ram = GuestRam::new(DATA + (1 << 20)).map_err(memory)?;
    ram.write(CODE, &PROGRAM).map_err(memory)?;
    let mut kvm = Kvm::new(&ram)?;
    kvm.track_dirty_pages()?;
    run(&mut kvm)?; // the host backs the pages
    let mut least = u64::MAX;
    for _ in 0..TRIES {
        kvm.take_dirty_pages()?;
        let first = run(&mut kvm)?;
        let again = run(&mut kvm)?;
        least = least.min(first.saturating_sub(again));
    }
    Ok(least / PAGES)
}

/// Writes to all pages once; gives how long that took, ns.
fn run(kvm: &mut Kvm) -> Result<u64, EngineError> {
    let mut state = kvm.state()?;
    state.registers.general[1] = PAGES; // CX
    state.registers.general[3] = DATA; // EBX
    state.registers.rip = CODE;
    for (index, segment) in state.segments.iter_mut().enumerate().take(6) {
        let attributes = if index == 1 { 0x9b } else { FLAT };
        let limit = if index == 1 { 0xffff } else { u32::MAX };
        *segment = Segment { base: 0, limit, selector: 0, attributes };
    }
    kvm.set_state(&state)?;
    let began = clock::monotonic_ns();
    loop {
        match kvm.run(None)? {
            Stop::Kicked => {}
            Stop::Exit(Exit::Halt) => break,
            other => return Err(EngineError::Unexpected(format!("{other:?} in a loop of writes"))),
        }
    }
    let took = clock::monotonic_ns().saturating_sub(began);
    kvm.answer(Answer::Done);
    kvm.finish()?;
    Ok(took)
}

const _: () = assert!(PAGES * PAGE_SIZE <= 1 << 20);
