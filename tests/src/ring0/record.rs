//! A case's course as text: each stop, and all that has changed up to it.

use std::fmt::Write;

use scribe_vmm::engine::cpu::{CpuState, Registers};
use scribe_vmm::engine::{Answer, Engine, Exit, Fault, Stop};
use scribe_vmm::machine::memory::GuestRam;

use super::Case;
use super::layout::{HANDLERS, LOOKED_AT, SHORT_HANDLERS};

/// Stops of any kind that a case may make.
const MOST: usize = 60;
const GENERAL: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];
const SEGMENTS: [&str; 8] = ["es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"];

/// Runs the vCPU to the case's end.
pub(super) fn record(case: &Case, ram: &GuestRam, engine: &mut dyn Engine) -> String {
    let mut text = format!("[{}]\n", case.name);
    let mut old = engine.state().unwrap();
    let mut before = memory(ram);
    let mut resumes = case.resumes;
    for _ in 0..MOST {
        match engine.run(None).unwrap() {
            Stop::Exit(Exit::Halt) => {
                let rip = engine.registers().rip;
                engine.answer(Answer::Done);
                let next = engine.finish().unwrap();
                let state = engine.state().unwrap();
                // KVM has gone past the HLT already, the processor in software goes now.
                let at = state.registers.rip.wrapping_sub(1);
                let place = place(case, &state, at);
                writeln!(text, "{place}").unwrap();
                assert!(next.is_none() && (rip == at || rip == at + 1), "{}: {rip:#x} {next:?}", case.name);
                changes(&mut text, &old, &state);
                let after = memory(ram);
                written(&mut text, &before, &after);
                (old, before) = (state, after);
                if resumes == 0 || place.starts_with("end") || place == "vector 143" {
                    return text;
                }
                resumes -= 1;
            }
            Stop::Exit(exit) => {
                writeln!(text, "{exit:x?}").unwrap();
                let answer = match exit {
                    Exit::MsrRead { .. } | Exit::MsrWrite { .. } => Answer::GeneralProtection,
                    Exit::PortRead { .. } | Exit::MmioRead { .. } => Answer::Value(0x5a),
                    _ => Answer::Done,
                };
                engine.answer(answer);
                if let Some(next) = engine.finish().unwrap() {
                    writeln!(text, "and then {next:x?}").unwrap();
                    return text;
                }
            }
            Stop::Kicked => {}
            Stop::Fault(Fault::TripleFault) => {
                text.push_str("triple fault\n");
                return text;
            }
            Stop::Fault(Fault::Refused { rip, bytes, .. }) => {
                writeln!(text, "refused at {rip:#x}: {:x?}", &bytes[..bytes.len().min(4)]).unwrap();
                return text;
            }
            other => panic!("{}: {other:?}", case.name),
        }
    }
    text.push_str("and so on\n");
    text
}

fn memory(ram: &GuestRam) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(LOOKED_AT).unwrap()];
    ram.read(0, &mut bytes).unwrap();
    bytes
}

/// Names the place of a HLT.
fn place(case: &Case, state: &CpuState, rip: u64) -> String {
    let linear = rip.wrapping_add(if state.efer & 0x400 != 0 && state.segments[1].attributes & 0x2000 != 0 {
        0
    } else {
        state.segments[1].base
    });
    for handlers in [HANDLERS, SHORT_HANDLERS] {
        if (handlers..handlers + 0x1000).contains(&linear) && linear & 15 == 0 {
            return format!("vector {}", (linear - handlers) >> 4);
        }
    }
    let offset = linear.wrapping_sub(case.start.code());
    if offset < 0x1000 { format!("end at +{offset:#x}") } else { format!("halt at {linear:#x}") }
}

/// MXCSR is left out: KVM does not tell it (KVM_GET_FPU).
fn changes(text: &mut String, old: &CpuState, new: &CpuState) {
    let mut change = |name: &str, old: u64, new: u64| {
        if old != new {
            writeln!(text, "  {name} {new:x}").unwrap();
        }
    };
    for (name, (old, new)) in GENERAL.iter().zip(old.registers.general.iter().zip(new.registers.general)) {
        change(name, *old, new);
    }
    // Without RF, which KVM leaves set or clear behind what it emulates.
    change("rflags", old.registers.rflags & !Registers::RF, new.registers.rflags & !Registers::RF);
    for (name, old, new) in [
        ("cr0", old.cr0, new.cr0),
        ("cr2", old.cr2, new.cr2),
        ("cr3", old.cr3, new.cr3),
        ("cr4", old.cr4, new.cr4),
        ("cr8", old.cr8, new.cr8),
        ("efer", old.efer, new.efer),
        ("dr0", old.debug[0], new.debug[0]),
        ("dr1", old.debug[1], new.debug[1]),
        ("dr2", old.debug[2], new.debug[2]),
        ("dr3", old.debug[3], new.debug[3]),
        ("dr6", old.dr6, new.dr6),
        ("dr7", old.dr7, new.dr7),
        ("gdt base", old.gdt.base, new.gdt.base),
        ("gdt limit", old.gdt.limit.into(), new.gdt.limit.into()),
        ("idt base", old.idt.base, new.idt.base),
        ("idt limit", old.idt.limit.into(), new.idt.limit.into()),
        ("fcw", old.fpu.fcw.into(), new.fpu.fcw.into()),
        ("fsw", old.fpu.fsw.into(), new.fpu.fsw.into()),
        ("ftw", old.fpu.ftw.into(), new.fpu.ftw.into()),
    ] {
        change(name, old, new);
    }
    for (old, new) in old.msrs.iter().zip(&new.msrs) {
        change(&format!("msr {:x}", new.0), old.1, new.1);
    }
    for (name, (old, new)) in SEGMENTS.iter().zip(old.segments.iter().zip(&new.segments)) {
        if old != new {
            let unusable = new.attributes >> 16 != 0;
            let hidden = if unusable {
                format!("unusable, base {:x}", new.base)
            } else {
                format!("base {:x} limit {:x} attributes {:x}", new.base, new.limit, new.attributes)
            };
            writeln!(text, "  {name} {:x}: {hidden}", new.selector).unwrap();
        }
    }
    for (n, (old, new)) in old.fpu.xmm.iter().zip(&new.fpu.xmm).enumerate() {
        if old != new {
            writeln!(text, "  xmm{n} {:x}", u128::from_le_bytes(*new)).unwrap();
        }
    }
    for (n, (old, new)) in old.fpu.st.iter().zip(&new.fpu.st).enumerate() {
        if old != new {
            writeln!(text, "  st{n} {:x}", u128::from_le_bytes(*new)).unwrap();
        }
    }
    if old.events != new.events {
        writeln!(text, "  {:?}", new.events).unwrap();
    }
}

/// Words of RAM that have changed.
fn written(text: &mut String, before: &[u8], after: &[u8]) {
    for (page, (before, after)) in before.chunks(4096).zip(after.chunks(4096)).enumerate() {
        if before == after {
            continue;
        }
        for (n, (old, new)) in before.chunks(8).zip(after.chunks(8)).enumerate() {
            if old != new {
                let word = u64::from_le_bytes(new.try_into().unwrap());
                writeln!(text, "  [{:x}] {word:x}", page * 4096 + n * 8).unwrap();
            }
        }
    }
}
