//! Every x87 encoding: all of D8 to DF.
#![allow(clippy::print_stderr, reason = "tests report")]

use super::host::{Host, State};
use super::values::Random;
use crate::cpu::RAX;
use crate::testing::{Bench, CODE, DATA};

/// Forms that the tests leave out: they have tests of their own, or do not end.
fn skipped(opcode: u8, modrm: u8) -> bool {
    let (register, reg) = (modrm >= 0xc0, modrm >> 3 & 7);
    match (opcode, register) {
        // FLDENV and FRSTOR: any image may make an exception pending.
        (0xd9, false) => matches!(reg, 1 | 4),
        // Undefined.
        (0xd9, true) => {
            matches!(modrm, 0xd1..=0xd7 | 0xe2 | 0xe3 | 0xe6 | 0xe7 | 0xef) || transcendental(modrm)
        }
        (0xda, true) => reg >= 4 && modrm != 0xe9,
        (0xdb, true) => matches!(modrm, 0xe5..=0xe7 | 0xf8..=0xff),
        (0xdb, false) => matches!(reg, 4 | 6),
        (0xdd, true) => modrm >= 0xf0,
        (0xdd, false) => matches!(reg, 4 | 5),
        (0xde, true) => reg == 3 && modrm != 0xd9,
        (0xdf, true) => matches!(modrm, 0xe1..=0xe7 | 0xf8..=0xff),
        _ => false,
    }
}

fn transcendental(modrm: u8) -> bool {
    matches!(modrm, 0xf0..=0xf3 | 0xf9 | 0xfb | 0xfe | 0xff)
}

fn memory_operand(random: &mut Random, opcode: u8, modrm: u8) -> [u8; 128] {
    let reg = modrm >> 3 & 7;
    let bits = match (opcode, reg) {
        _ if random.one_in(20) => random.extended(),
        (0xdb, 5 | 7) => random.extended(),
        (0xdf, 4 | 6) => random.decimal(),
        (0xd8 | 0xd9, _) => random.real(23, 8).into(),
        (0xdc | 0xdd, _) => random.real(52, 11).into(),
        _ => random.integer().into(),
    };
    let mut memory = [0xa5; 128];
    memory[..10].copy_from_slice(&bits.to_le_bytes()[..10]);
    if (opcode, reg) == (0xd9, 5) {
        // FLDCW must not make an exception pending.
        memory[0] |= 0x3f;
    }
    memory
}

fn state(random: &mut Random, opcode: u8, modrm: u8) -> State {
    let masks = if random.one_in(2) { 0x3f } else { random.next() as u16 & 0x3f };
    let fcw = random.next() as u16 & 0x1f00 | masks | 0x40;
    // Exceptions that are there already must be masked.
    let old = if random.one_in(4) { random.next() as u16 & masks } else { 0 };
    let fsw = random.next() as u16 & 0x7f00 | old;
    let mut regs = [0; 8];
    for n in 0..8 {
        regs[n] = match random.below(8) {
            0 if n != 0 => regs[n - 1],
            1 if n != 0 => regs[n - 1] ^ 1 << random.below(80),
            2 if n != 0 => regs[n - 1] & !0xffff | u128::from(random.next() as u16),
            _ => random.extended(),
        };
    }
    let empty = if random.one_in(3) { random.next() as u8 } else { 0 };
    let full = random.one_in(4);
    let top = fsw >> 11 & 7;
    let tags = (0..8).fold(0, |tags, n| {
        let free = !full && (empty >> n & 1 != 0 || (top + 7) & 7 == n);
        tags | if free { 3 << (2 * n) } else { 0 }
    });
    State {
        fcw,
        fsw,
        tags,
        regs,
        rax: random.next(),
        flags: random.next() & crate::flags::ARITHMETIC,
        memory: memory_operand(random, opcode, modrm),
    }
}

/// The same on this processor.
struct Soft(Bench);

impl Soft {
    fn new(instruction: &[u8]) -> Self {
        Self(Bench::with_code(instruction))
    }

    fn run(&mut self, state: &State) -> State {
        let cpu = &mut self.0.cpu.cpu;
        cpu.rip = CODE;
        cpu.regs[6] = DATA;
        cpu.regs[usize::from(RAX)] = state.rax;
        cpu.flags.set_known(state.flags);
        cpu.fpu.regs = state.regs;
        cpu.fpu.fcw = state.fcw;
        cpu.fpu.fsw = state.fsw;
        cpu.fpu.ftw = (0..8).fold(0, |ftw, n| ftw | u8::from(state.tags >> (2 * n) & 3 != 3) << n);
        self.0.write(DATA, &state.memory);
        let stop = self.0.run(1);
        assert_eq!(stop, scribe_types::stop::Stop::Reached, "{state:?}");
        let memory = self.0.read(DATA);
        let cpu = &mut self.0.cpu.cpu;
        State {
            fcw: cpu.fpu.fcw,
            fsw: cpu.fpu.fsw,
            tags: super::super::control::full_tags(cpu),
            regs: cpu.fpu.regs,
            rax: cpu.regs[usize::from(RAX)],
            flags: cpu.flags.value() & crate::flags::ARITHMETIC,
            memory,
        }
    }
}

/// What is not compared: FIP, FDP, FOP and their selectors, which this processor keeps as 0.
fn comparable(mut state: State, opcode: u8, modrm: u8) -> State {
    if modrm < 0xc0 && modrm >> 3 & 7 == 6 && matches!(opcode, 0xd9 | 0xdd) {
        state.memory[12..26].fill(0);
    }
    state
}

fn compare(opcode: u8, modrm: u8, cases: u64) -> u64 {
    let instruction = [opcode, modrm];
    let mut random = Random(u64::from(opcode) << 8 | u64::from(modrm));
    let mut host = Host::new();
    host.prepare(&instruction);
    let mut soft = Soft::new(&instruction);
    let mut wrong = 0;
    for _ in 0..cases {
        let before = state(&mut random, opcode, modrm);
        let ours = comparable(soft.run(&before), opcode, modrm);
        let real = comparable(host.run(&before), opcode, modrm);
        if ours != real {
            wrong += 1;
            if wrong <= 1 {
                eprintln!("{opcode:02x} {modrm:02x}\n  from {before:?}\n  ours {ours:?}\n  host {real:?}");
            }
        }
    }
    wrong
}

fn compare_all(cases: u64) {
    let mut wrong = Vec::new();
    for opcode in 0xd8..=0xdf {
        let forms = (0..8).map(|reg| reg << 3 | 6).chain(0xc0..=0xff);
        for modrm in forms.filter(|modrm| !skipped(opcode, *modrm)) {
            let count = compare(opcode, modrm, cases);
            if count != 0 {
                wrong.push(format!("{opcode:02x} {modrm:02x}: {count}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn all_instructions_are_the_hosts() {
    compare_all(std::env::var("X87_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(2000));
}
