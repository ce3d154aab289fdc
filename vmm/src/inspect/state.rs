//! A processor's state as named registers, and the first difference of two.

use std::collections::{BTreeMap, BTreeSet};

use scribe_log::Register;

use super::decode;
use crate::engine::cpu::{CpuState, DescriptorTable, Segment};

const GENERAL: [&str; 18] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15", "rip", "rflags",
];
const SEGMENTS: [&str; 8] = ["es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"];

/// Bit of `interrupt` and `exception` that says that one is pending.
const PENDING: u128 = 1 << 8;
/// Bit of `exception` that says that it has an error code, which is in the bits from 32 on.
const HAS_CODE: u128 = 1 << 9;

/// What differs between a recording and a machine, where they were compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// what was compared
    pub what: String,
    /// its recorded value
    pub recorded: String,
    /// its value in the machine
    pub found: String,
}

/// All registers by name, RIP and the general ones first. Only what each engine can tell: MXCSR is left out, as in digests.
pub fn registers(state: &CpuState, halted: bool) -> Vec<Register> {
    let mut list = List(Vec::with_capacity(112));
    let words = state.registers.words();
    list.add("rip", 8, words[16]);
    list.add("rflags", 8, words[17]);
    for (name, value) in GENERAL[..16].iter().zip(words) {
        list.add(name, 8, value);
    }
    for (name, segment) in SEGMENTS.iter().zip(state.segments) {
        list.segment(name, segment);
    }
    list.table("gdtr", state.gdt);
    list.table("idtr", state.idt);
    let control = [
        ("cr0", state.cr0),
        ("cr2", state.cr2),
        ("cr3", state.cr3),
        ("cr4", state.cr4),
        ("cr8", state.cr8),
        ("efer", state.efer),
        ("dr0", state.debug[0]),
        ("dr1", state.debug[1]),
        ("dr2", state.debug[2]),
        ("dr3", state.debug[3]),
        ("dr6", state.dr6),
        ("dr7", state.dr7),
    ];
    for (name, value) in control {
        list.add(name, 8, value);
    }
    for (index, value) in state.msrs.iter().copied() {
        match decode::msr_name(index) {
            Some(name) => list.add(&name.to_ascii_lowercase(), 8, value),
            None => list.add(&format!("msr.{index:#x}"), 8, value),
        }
    }
    list.floating_point(state);
    list.events(state, halted);
    list.0
}

struct List(Vec<Register>);

impl List {
    fn add(&mut self, name: &str, bytes: u8, value: impl Into<u128>) {
        self.0.push(Register { name: name.to_owned(), bytes, value: value.into() });
    }

    fn segment(&mut self, name: &str, segment: Segment) {
        let Segment { base, limit, selector, attributes } = segment;
        self.add(name, 2, selector);
        self.add(&format!("{name}.base"), 8, base);
        self.add(&format!("{name}.limit"), 4, limit);
        self.add(&format!("{name}.attributes"), 4, attributes);
    }

    fn table(&mut self, name: &str, table: DescriptorTable) {
        self.add(&format!("{name}.base"), 8, table.base);
        self.add(&format!("{name}.limit"), 2, table.limit);
    }

    fn floating_point(&mut self, state: &CpuState) {
        let fpu = &state.fpu;
        self.add("fcw", 2, fpu.fcw);
        self.add("fsw", 2, fpu.fsw);
        self.add("ftw", 1, fpu.ftw);
        for (number, value) in fpu.st.iter().enumerate() {
            // 80 bits; what the form has behind them is no part of the register.
            self.add(&format!("st{number}"), 10, u128::from_le_bytes(*value) & ((1 << 80) - 1));
        }
        for (number, value) in fpu.xmm.iter().enumerate() {
            self.add(&format!("xmm{number}"), 16, u128::from_le_bytes(*value));
        }
    }

    /// What is pending between two instructions.
    fn events(&mut self, state: &CpuState, halted: bool) {
        let events = &state.events;
        self.add("interrupt", 2, events.interrupt.map_or(0, |vector| PENDING | u128::from(vector)));
        let exception = events.exception.map_or(0, |(vector, code)| {
            let code = code.map_or(0, |code| HAS_CODE | u128::from(code) << 32);
            PENDING | u128::from(vector) | code
        });
        self.add("exception", 8, exception);
        self.add("shadow", 1, events.shadow);
        self.add("nmi_masked", 1, events.nmi_masked);
        self.add("halted", 1, halted);
    }
}

/// The first register that differs. Those that only one of the two has are none: another version of this program may know
/// more.
pub fn compare(recorded: &[Register], found: &[Register]) -> Option<Difference> {
    let mut others = found.iter();
    for register in recorded {
        // The same order is the usual case.
        let other = match others.next() {
            Some(other) if other.name == register.name => other,
            _ => {
                others = [].iter();
                match found.iter().find(|other| other.name == register.name) {
                    Some(other) => other,
                    None => continue,
                }
            }
        };
        if other.value != register.value {
            let hex = |value| format!("{value:#0width$x}", width = 2 + 2 * usize::from(register.bytes));
            return Some(Difference {
                what: format!("register {}", register.name),
                recorded: hex(register.value),
                found: hex(other.value),
            });
        }
    }
    None
}

/// The first page, by address, that differs. `found`: hash of a page now. `changed`: pages that have changed in the machine
/// since the last comparison; `None` if that is not known.
pub fn compare_pages(
    recorded: &[(u64, u64)],
    changed: Option<&[(u64, u64)]>,
    found: impl Fn(u64) -> Option<u64>,
) -> Option<Difference> {
    let wrong = recorded.iter().find_map(|(frame, hash)| {
        let found = found(*frame);
        let text = |hash: u64| format!("its hash is {hash:016x}");
        let now = || found.map_or_else(|| "it is not in RAM".into(), text);
        (found != Some(*hash)).then(|| (*frame, text(*hash), now()))
    });
    let unrecorded =
        |(frame, _): &&(u64, u64)| recorded.binary_search_by_key(frame, |(frame, _)| *frame).is_err();
    let extra = changed.and_then(|changed| changed.iter().find(unrecorded)).map(|(frame, hash)| {
        (*frame, "it had not changed".to_owned(), format!("it has changed, its hash is {hash:016x}"))
    });
    let (frame, recorded, found) = [wrong, extra].into_iter().flatten().min()?;
    Some(Difference { what: page(frame), recorded, found })
}

/// The first page, by address, whose change is not the same in two recordings.
pub fn compare_changes(recorded: &[(u64, u64)], found: &[(u64, u64)]) -> Option<Difference> {
    let hashes: BTreeMap<u64, u64> = found.iter().copied().collect();
    let recorded: BTreeMap<u64, u64> = recorded.iter().copied().collect();
    let frames: BTreeSet<u64> = recorded.keys().chain(hashes.keys()).copied().collect();
    let frame = frames.into_iter().find(|frame| recorded.get(frame) != hashes.get(frame))?;
    let text = |hash: Option<&u64>| {
        hash.map_or_else(|| "it has not changed".into(), |hash| format!("its hash is {hash:016x}"))
    };
    let (recorded, found) = (text(recorded.get(&frame)), text(hashes.get(&frame)));
    Some(Difference { what: page(frame), recorded, found })
}

fn page(frame: u64) -> String {
    format!("the page at guest physical address {:#x}", u128::from(frame) * 4096)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::cpu::{Fpu, PendingEvents, Registers};
    use crate::machine::msr;

    fn state() -> CpuState {
        let mut general = [0; 16];
        for (number, value) in (0..).zip(&mut general) {
            *value = number;
        }
        CpuState {
            registers: Registers { general, rip: 0x1000, rflags: 1 << 16 | 2 },
            segments: [Segment { base: 1, limit: 2, selector: 3, attributes: 4 }; 8],
            fpu: Fpu { st: [[0xff; 16]; 8], xmm: [[0xff; 16]; 16], mxcsr: 7, ..Fpu::default() },
            msrs: msr::SAVED.iter().map(|index| (*index, 5)).collect(),
            events: PendingEvents {
                interrupt: Some(0x30),
                exception: Some((14, Some(2))),
                ..PendingEvents::default()
            },
            ..CpuState::default()
        }
    }

    #[test]
    fn every_register_has_one_name_that_the_log_can_hold() {
        let list = registers(&state(), true);
        let value = |name: &str| list.iter().find(|register| register.name == name).map(|found| found.value);
        assert!(list.len() <= scribe_log::MAX_REGISTERS);
        for (number, register) in list.iter().enumerate() {
            assert!(register.name.len() <= scribe_log::MAX_REGISTER_NAME);
            assert!(register.name.bytes().all(|byte| byte.is_ascii_graphic()));
            assert!(
                u32::from(register.bytes) == 16 || register.value >> (8 * register.bytes) == 0,
                "{register:?}"
            );
            assert!(list[..number].iter().all(|before| before.name != register.name), "{}", register.name);
        }
        assert_eq!(value("rflags"), Some(2), "RF does not count");
        assert_eq!((value("rdi"), value("rip"), value("lstar")), (Some(7), Some(0x1000), Some(5)));
        assert_eq!((value("cs"), value("tr.attributes"), value("mxcsr")), (Some(3), Some(4), None));
        assert_eq!((value("st7"), value("xmm15")), (Some((1 << 80) - 1), Some(u128::MAX)));
        assert_eq!((value("interrupt"), value("exception")), (Some(0x130), Some(2 << 32 | 0x30e)));
        assert_eq!((value("halted"), value("nmi_masked")), (Some(1), Some(0)));
    }

    #[test]
    fn the_first_register_that_differs_is_named_with_both_values() {
        let (before, mut after) = (state(), state());
        assert_eq!(compare(&registers(&before, false), &registers(&after, false)), None);
        after.registers.general[3] = 0x99;
        after.cr3 = 0x99;
        let difference = compare(&registers(&before, false), &registers(&after, false)).unwrap();
        assert_eq!(difference.what, "register rbx");
        assert_eq!(difference.recorded, "0x0000000000000003");
        assert_eq!(difference.found, "0x0000000000000099");
        let difference = compare(&registers(&before, false), &registers(&before, true)).unwrap();
        assert_eq!((&*difference.what, &*difference.found), ("register halted", "0x01"));
    }

    #[test]
    fn registers_are_found_by_name() {
        let mut recorded = registers(&state(), false);
        let found = recorded.clone();
        recorded.reverse();
        recorded.push(Register::u64("of_a_newer_version", 1));
        assert_eq!(compare(&recorded, &found), None);
        recorded[40].value ^= 1;
        assert_eq!(compare(&recorded, &found).unwrap().what, format!("register {}", recorded[40].name));
    }

    #[test]
    fn the_first_page_that_differs_is_named() {
        let recorded = [(2, 20), (5, 50), (9, 0)];
        let now = |frame| {
            [(2, 20), (5, 50), (9, 0), (7, 70)].iter().find(|(at, _)| *at == frame).map(|(_, hash)| *hash)
        };
        assert_eq!(compare_pages(&recorded, Some(&[(2, 20), (5, 50)]), now), None);
        assert_eq!(compare_pages(&recorded, None, now), None);
        let extra = compare_pages(&recorded, Some(&[(2, 20), (7, 70)]), now).unwrap();
        assert_eq!(extra.what, "the page at guest physical address 0x7000");
        assert_eq!(extra.recorded, "it had not changed");
        let wrong = compare_pages(&[(5, 51), (100, 1)], Some(&[(7, 70)]), now).unwrap();
        assert_eq!(wrong.what, "the page at guest physical address 0x5000");
        assert_eq!(
            (wrong.recorded, wrong.found),
            ("its hash is 0000000000000033".into(), "its hash is 0000000000000032".into())
        );
        let change = |a: &[_], b: &[_]| compare_changes(a, b).map(|it| (it.what, it.recorded, it.found));
        assert_eq!(change(&recorded, &recorded), None);
        let place = "the page at guest physical address 0x7000".to_owned();
        let (no, hash) = ("it has not changed".to_owned(), "its hash is 0000000000000046".to_owned());
        assert_eq!(change(&[(7, 70)], &[(9, 1)]), Some((place.clone(), hash.clone(), no.clone())));
        assert_eq!(change(&[(9, 1)], &[(7, 70)]), Some((place.clone(), no, hash.clone())));
        assert_eq!(change(&[(7, 70)], &[(7, 71)]).unwrap().1, hash);
        assert_eq!(compare_pages(&[(u64::MAX, 1)], None, now).unwrap().found, "it is not in RAM");
    }
}
