//! An engine that counts, brought to places of a loop.

use crate::engine::cpu::{CpuState, Fpu, Registers, Segment};
use crate::engine::{Engine, Progress, Stop};
use crate::machine::memory::GuestRam;

const CODE: u64 = 0x1000;

/// Real mode: `dec ecx`, `jnz` back, for ever.
const SPIN: [u8; 4] = [0x66, 0x49, 0x75, 0xfc];

/// Has an engine stop at places of a loop, near and far, between its instructions, and looks at its registers.
pub(super) fn stops_at_places(mut engine: impl Engine, ram: &GuestRam, skid: u64) -> Result<(), String> {
    const RCX: usize = 1;
    ram.write(CODE, &SPIN).map_err(|error| error.to_string())?;
    let segment = Segment { base: 0, limit: 0xffff, selector: 0, attributes: 0x93 };
    let code = Segment { attributes: 0x9b, ..segment };
    let ldt = Segment { attributes: 1 << 16, ..Segment::default() };
    let tss = Segment { limit: 0x67, attributes: 0x8b, ..Segment::default() };
    let [es, ss, ds, fs, gs] = [segment; 5];
    let state = engine.state().map_err(|error| error.to_string())?;
    let state = CpuState {
        registers: Registers { rip: CODE, rflags: 2, ..Registers::default() },
        segments: [es, code, ss, ds, fs, gs, ldt, tss],
        cr0: 0x10,
        dr6: 0xffff_0ff0,
        dr7: 0x400,
        fpu: Fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Fpu::default() },
        msrs: state.msrs,
        ..CpuState::default()
    };
    engine.set_state(&state).map_err(|error| error.to_string())?;
    let mut branches = 0;
    for ahead in [1, 3, skid / 2, skid + 2, 2 * skid, 10 * skid + 7, 1_000_000, skid + 100] {
        branches += ahead;
        for steps in 0..2 {
            let place = Progress { branches, steps };
            loop {
                match engine.run(Some(place)).map_err(|error| error.to_string())? {
                    Stop::Kicked => {}
                    Stop::Reached => break,
                    other => return Err(format!("{other:?} in a loop")),
                }
            }
            let registers = engine.registers();
            let (rcx, rip) = (registers.general[RCX] & 0xffff_ffff, registers.rip);
            let wanted = (0u64.wrapping_sub(branches + steps) & 0xffff_ffff, CODE + 2 * steps);
            if (rcx, rip) != wanted || engine.progress() != place {
                return Err(format!(
                    "{branches} branches and {steps} instructions on, ECX is {rcx:#x} and RIP {rip:#x}, where they should be \
                     {:#x} and {:#x}",
                    wanted.0, wanted.1
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use scribe_soft_cpu::Behaviour;

    use super::*;
    use crate::engine::soft::Soft;
    use crate::machine::cpuid;

    #[test]
    fn an_engine_that_counts_stops_at_places() {
        let ram = GuestRam::new(2 << 20).unwrap();
        let soft = Soft::new(&ram, cpuid::profile(cpuid::SCRIBE_V1).unwrap(), Behaviour::Zen);
        stops_at_places(soft, &ram, 100).unwrap();
    }
}
