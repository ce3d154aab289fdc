//! Differences and coverage, for people.

use super::case::{Case, Machine, fx};
use super::compare::{NAMES, hex};
use super::layout::DATA;
use iced_x86::{Formatter, Instruction, IntelFormatter};
use std::fmt::Write as _;

/// An instruction in Intel's syntax.
pub fn disassembly(instruction: &Instruction) -> String {
    let mut text = String::new();
    IntelFormatter::new().format(instruction, &mut text);
    text
}

/// State, code and what differs.
pub fn difference(seed: u64, case: &Case, found: &[String], note: &str, pool: &[u8]) -> String {
    let mut text = String::new();
    let mode = if case.compatibility { ", compatibility mode" } else { "" };
    let _ = writeln!(text, "seed {seed} case {}{mode}", case.number);
    for (at, piece) in case.remaining() {
        let bytes: Vec<String> = piece.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(text, "  {at:#06x}  {:32} {}", bytes.join(" "), disassembly(&piece.instruction));
    }
    state(&mut text, &case.machine);
    for (_, piece) in case.remaining() {
        let i = &piece.instruction;
        if super::compare::touches_memory(i) {
            let value = |register: iced_x86::Register, _, _| match register {
                r if r.is_gpr() => Some(case.machine.general[r.full_register().number()]),
                _ => Some(0),
            };
            let operand =
                (0..i.op_count()).find(|n| i.op_kind(*n) == iced_x86::OpKind::Memory).unwrap_or_default();
            if let Some(address) = i.virtual_address(operand, 0, value) {
                let at = address.wrapping_sub(DATA) as usize;
                if let Some(bytes) = pool[case.pool_offset..].get(at..at.saturating_add(16)) {
                    let _ = writeln!(text, "  [{address:#x}] = {} at first", hex(bytes));
                }
            }
        }
    }
    for line in found {
        let _ = writeln!(text, "  * {line}");
    }
    if !note.is_empty() {
        let _ = writeln!(text, "  * soft: {note}");
    }
    text
}

fn state(text: &mut String, machine: &Machine) {
    let plain = Machine::new();
    let _ = write!(text, "  rflags={:#x}", machine.rflags);
    for (name, value) in NAMES.iter().zip(machine.general).filter(|(_, value)| *value != 0) {
        let _ = write!(text, " {name}={value:#x}");
    }
    for (name, at) in [("fcw", fx::FCW), ("fsw", fx::FSW)] {
        if machine.word(at) != plain.word(at) {
            let _ = write!(text, " {name}={:#x}", machine.word(at));
        }
    }
    if machine.fx[fx::FTW] != 0 {
        let _ = write!(text, " ftw={:#x}", machine.fx[fx::FTW]);
    }
    if machine.mxcsr() != plain.mxcsr() {
        let _ = write!(text, " mxcsr={:#x}", machine.mxcsr());
    }
    for index in 0..24 {
        let (name, number) = if index < 8 { ("st", index) } else { ("xmm", index - 8) };
        let bytes = machine.bytes::<16>(fx::ST + 16 * index);
        if bytes != [0; 16] {
            let _ = write!(text, "\n  {name}{number}={}", hex(&bytes[..if index < 8 { 10 } else { 16 }]));
        }
    }
    text.push('\n');
}
