//! Every x87 encoding: all of D8 to DF.

use super::host::{Host, State};
use super::values::Random;
use crate::cpu::RAX;
use crate::testing::{Bench, CODE, DATA};

/// Forms that the tests leave out: they have tests of their own, or do not end.
fn skipped(opcode: u8, modrm: u8) -> bool {
    let (register, reg) = (modrm >= 0xc0, modrm >> 3 & 7);
    match (opcode, register) {
        (0xd9, false) => reg == 1,
        // Undefined.
        (0xd9, true) => matches!(modrm, 0xd1..=0xd7 | 0xe2 | 0xe3 | 0xe6 | 0xe7 | 0xef),
        (0xda, true) => reg >= 4 && modrm != 0xe9,
        (0xdb, true) => matches!(modrm, 0xe5..=0xe7 | 0xf8..=0xff),
        (0xdb, false) => matches!(reg, 4 | 6),
        (0xdd, true) => modrm >= 0xf0,
        (0xdd, false) => reg == 5,
        (0xde, true) => reg == 3 && modrm != 0xd9,
        (0xdf, true) => matches!(modrm, 0xe1..=0xe7 | 0xf8..=0xff),
        _ => false,
    }
}

fn transcendental(modrm: u8) -> bool {
    matches!(modrm, 0xf0..=0xf3 | 0xf9 | 0xfb | 0xfe | 0xff)
}

fn memory_operand(random: &mut Random, opcode: u8, modrm: u8, width: usize) -> [u8; 128] {
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
    if matches!((opcode, reg), (0xd9 | 0xdd, 4)) {
        // FLDENV and FRSTOR: any control, status and tag word in both formats, the rest zero but registers.
        memory[..28].fill(0);
        let words: [u16; 3] = std::array::from_fn(|_| random.next() as u16);
        for (n, word) in words.into_iter().enumerate() {
            memory[width * n..][..2].copy_from_slice(&word.to_le_bytes());
        }
        for n in 0..8 {
            let bits = random.extended().to_le_bytes();
            memory[7 * width + 10 * n..][..10].copy_from_slice(&bits[..10]);
        }
    }
    memory
}

/// True if an instruction runs although an exception is pending.
fn does_not_wait(opcode: u8, modrm: u8) -> bool {
    matches!((opcode, modrm), (0xd9, 0x36 | 0x3e) | (0xdb, 0xe0..=0xe4) | (0xdd, 0x36 | 0x3e) | (0xdf, 0xe0))
}

fn state(random: &mut Random, opcode: u8, modrm: u8, width: usize) -> State {
    let masks = if random.one_in(2) { 0x3f } else { random.next() as u16 & 0x3f };
    let fcw = random.next() as u16 & 0x1f00 | masks | 0x40;
    // Exceptions that are there already must be masked.
    let old = if random.one_in(4) { random.next() as u16 & masks } else { 0 };
    let mut fsw = random.next() as u16 & 0x7f00 | old;
    if does_not_wait(opcode, modrm) && random.one_in(2) {
        fsw |= random.next() as u16 & 0x7f;
        fsw |= if fsw & !fcw & 0x3f != 0 { 0x8080 } else { 0 };
    }
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
        memory: memory_operand(random, opcode, modrm, width),
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
fn comparable(mut state: State, opcode: u8, modrm: u8, width: usize) -> State {
    if modrm < 0xc0 && modrm >> 3 & 7 == 6 && matches!(opcode, 0xd9 | 0xdd) {
        let reserved = if width == 4 { 2 } else { 0 };
        state.memory[3 * width..7 * width - reserved].fill(0);
    }
    state
}

/// Distance of two values in units of the last place; 0 for equal ones.
fn distance(a: u128, b: u128) -> u64 {
    let order = |bits: u128| {
        let magnitude = (bits as i128 & ((1 << 79) - 1)) >> 64 << 63 | bits as i128 & ((1 << 63) - 1);
        if bits >> 79 != 0 { -magnitude } else { magnitude }
    };
    (order(a) - order(b)).unsigned_abs() as u64
}

/// Transcendental functions: results may be one unit off, and then C1 is of another rounding.
fn near(mut ours: State, real: &State) -> State {
    let top = usize::from(real.fsw >> 11 & 7);
    if ours.fsw & !0x200 == real.fsw & !0x200 {
        ours.fsw = real.fsw;
        for n in [top, (top + 1) & 7] {
            if distance(ours.regs[n], real.regs[n]) <= 1 {
                ours.regs[n] = real.regs[n];
            }
        }
        // Two registers where a unit makes another class.
        ours.tags = if ours.regs == real.regs { real.tags } else { ours.tags };
    }
    ours
}

/// Compares one encoding; `width` 2: with an operand size prefix.
fn compare(opcode: u8, modrm: u8, width: usize, cases: u64) -> u64 {
    let bytes = [0x66, opcode, modrm];
    let instruction = if width == 2 { &bytes[..] } else { &bytes[1..] };
    let mut random = Random(u64::from(opcode) << 8 | u64::from(modrm));
    let mut host = Host::new();
    host.prepare(instruction);
    let mut soft = Soft::new(instruction);
    let mut wrong = 0;
    for _ in 0..cases {
        let before = state(&mut random, opcode, modrm, width);
        let mut ours = comparable(soft.run(&before), opcode, modrm, width);
        let real = comparable(host.run(&before), opcode, modrm, width);
        if opcode == 0xd9 && transcendental(modrm) {
            ours = near(ours, &real);
        }
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
            let environment = modrm < 0xc0 && matches!((opcode, modrm >> 3 & 7), (0xd9 | 0xdd, 4 | 6));
            let short = if environment { compare(opcode, modrm, 2, cases) } else { 0 };
            let count = short + compare(opcode, modrm, 4, cases);
            if count != 0 {
                wrong.push(format!("{opcode:02x} {modrm:02x}: {count}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Processors differ where manuals leave results open; these are AMD's.
fn host_is_comparable() -> bool {
    let vendor = std::arch::x86_64::__cpuid(0);
    let amd = (vendor.ebx, vendor.edx, vendor.ecx) == (0x6874_7541, 0x6974_6e65, 0x444d_4163);
    if !amd {
        eprintln!("skipped: the host's processor is not AMD's");
    }
    amd
}

#[test]
fn all_instructions_are_the_hosts() {
    if host_is_comparable() {
        compare_all(1000);
    }
}

/// Minutes.
#[test]
#[ignore = "a soak"]
fn all_instructions_are_the_hosts_for_long() {
    if host_is_comparable() {
        compare_all(300_000);
    }
}
