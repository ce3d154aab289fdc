//! The flags that the manuals leave open, as Zen sets them: rows measured on a Zen 5.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use crate::Behaviour;
use crate::testing::Bench;

/// The arithmetic flags.
const FLAGS: u64 = 0x8d5;

type Emit = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// Name, code, AX and flags before, AX and flags behind.
type Decimal = (&'static str, &'static [u8], u64, u64, u64, u64);

/// One instruction: RAX, RDX, RCX and flags before, RAX and flags behind.
struct Row {
    name: &'static str,
    emit: Emit,
    operands: [u64; 3],
    before: u64,
    result: u64,
    flags: u64,
}

macro_rules! row {
    ($f:ident($($operand:ident),*), $operands:expr, $before:expr => $result:expr, $flags:expr) => {
        Row {
            name: stringify!($f $($operand)*),
            emit: |a| a.$f($($operand),*),
            operands: $operands,
            before: $before,
            result: $result,
            flags: $flags,
        }
    };
}

#[rustfmt::skip]
const ROWS: &[Row] = &[
    // AF is 1, OF is CF != SF; no flag with a count of 0
    row!(shl(eax, cl), [0x4000_0001, 0x0, 0x3], 0x0 => 0x8, 0x10),
    // AF is 1, OF is CF != SF; no flag with a count of 0
    row!(shl(al, cl), [0x81, 0x0, 0x8], 0x0 => 0x0, 0x855),
    // AF is 1, OF is CF != SF; no flag with a count of 0
    row!(shl(al, cl), [0x81, 0x0, 0x9], 0x0 => 0x0, 0x54),
    // AF is 1, OF is CF != SF; no flag with a count of 0
    row!(shl(eax, cl), [0x1, 0x0, 0x0], 0x8d5 => 0x1, 0x8d5),
    row!(shr(eax, cl), [0x8000_0010, 0x0, 0x5], 0x0 => 0x400_0000, 0x15),
    row!(shr(ax, cl), [0x8000, 0x0, 0x1], 0x0 => 0x4000, 0x814),
    row!(sar(rax, cl), [0x8000_0000_0000_0008, 0x0, 0x4], 0x800 => 0xf800_0000_0000_0000, 0x95),
    row!(sar(al, cl), [0x80, 0x0, 0x14], 0x0 => 0xff, 0x95),
    // 16 bits by more than 16: the second operand goes round, CF is 0
    row!(shld(eax, edx, cl), [0x3000_0000, 0xc000_0000, 0x2], 0x0 => 0xc000_0003, 0x894),
    row!(shrd(eax, edx, cl), [0x3000_0000, 0xc000_0001, 0x2], 0x0 => 0x4c00_0000, 0x814),
    // 16 bits by more than 16: the second operand goes round, CF is 0
    row!(shld(ax, dx, cl), [0x8001, 0x1234, 0x10], 0x0 => 0x1234, 0x811),
    // 16 bits by more than 16: the second operand goes round, CF is 0
    row!(shld(ax, dx, cl), [0x8001, 0x1234, 0x14], 0x1 => 0x2341, 0x14),
    row!(shrd(ax, dx, cl), [0x8001, 0x5234, 0x10], 0x0 => 0x5234, 0x811),
    row!(shrd(ax, dx, cl), [0x8001, 0x1234, 0x14], 0x1 => 0x4123, 0x810),
    // OF for all counts, whole turns through the carry too
    row!(rol(ax, cl), [0x8001, 0x0, 0x4], 0xd4 => 0x18, 0xd4),
    // OF for all counts, whole turns through the carry too
    row!(rol(ax, cl), [0x8001, 0x0, 0x10], 0x0 => 0x8001, 0x1),
    row!(ror(eax, cl), [0x8001, 0x0, 0x4], 0xd4 => 0x1000_0800, 0xd4),
    row!(rcl(al, cl), [0x81, 0x0, 0x9], 0x0 => 0x81, 0x800),
    row!(rcl(al, cl), [0x41, 0x0, 0x9], 0x1 => 0x41, 0x801),
    row!(rcr(ax, cl), [0x4001, 0x0, 0x11], 0x0 => 0x4001, 0x800),
    row!(rcr(ax, cl), [0x4001, 0x0, 0x3], 0x1 => 0x6800, 0x800),
    // SF ZF AF PF stay
    row!(mul(edx), [0x10, 0x20, 0x0], 0xd4 => 0x200, 0xd4),
    // SF ZF AF PF stay
    row!(mul(edx), [0x8000_0000, 0x20, 0x0], 0xd4 => 0x0, 0x8d5),
    row!(imul_2(eax, edx), [0xffff_ffff, 0x3, 0x0], 0xd5 => 0xffff_fffd, 0xd4),
    // AF is 1, PF ZF SF are 0, CF and OF stay
    row!(div(ecx), [0x64, 0x0, 0x7], 0x8c5 => 0xe, 0x811),
    row!(idiv(cl), [0xffb0, 0x0, 0x7], 0x0 => 0xfdf5, 0x10),
    row!(idiv(rcx), [0x1, 0x0, 0x1], 0x8d5 => 0x1, 0x811),
    // PF of the number, or of 0; the others are 0
    row!(bsf(eax, edx), [0x55, 0x8, 0x0], 0x8d5 => 0x3, 0x4),
    // PF of the number, or of 0; the others are 0
    row!(bsf(eax, edx), [0x55, 0x10, 0x0], 0x8d5 => 0x4, 0x0),
    row!(bsr(eax, edx), [0x55, 0x0, 0x0], 0x895 => 0x55, 0x44),
    row!(bsr(eax, edx), [0x55, 0x1, 0x0], 0x895 => 0x0, 0x4),
    // OF stays, PF AF SF are 0
    row!(tzcnt(eax, edx), [0x0, 0x8, 0x0], 0x8d5 => 0x3, 0x800),
    row!(lzcnt(eax, edx), [0x0, 0x0, 0x0], 0x8d4 => 0x20, 0x801),
    row!(lzcnt(eax, edx), [0x0, 0x8000_0000, 0x0], 0x0 => 0x0, 0x40),
    // all but CF stay
    row!(bt(eax, edx), [0x4, 0x2, 0x0], 0x8d4 => 0x4, 0x8d5),
    row!(btc(eax, edx), [0x4, 0x2, 0x0], 0x0 => 0x0, 0x1),
    // AF is 0
    row!(and(eax, edx), [0x1f, 0xf0, 0x0], 0x8d5 => 0x10, 0x0),
    row!(xor(eax, edx), [0x1f, 0x1f, 0x0], 0x8d5 => 0x0, 0x44),
];

fn start(bench: &mut Bench, operands: [u64; 3], before: u64) {
    bench.change(|state| {
        let [a, d, c] = operands;
        let general = &mut state.registers.general;
        (general[0], general[2], general[1]) = (a, d, c);
        state.registers.rflags = before | 2;
    });
}

fn flags(bench: &Bench) -> u64 {
    bench.cpu.registers().rflags & FLAGS
}

#[test]
fn open_flags_are_those_of_zen() {
    for row in ROWS {
        let mut bench = Bench::new(row.emit);
        start(&mut bench, row.operands, row.before);
        bench.steps(1);
        let seen = (bench.general(0), flags(&bench));
        assert_eq!(seen, (row.result, row.flags), "{} {:x?} {:#x}", row.name, row.operands, row.before);
    }
}

#[test]
fn open_flags_of_decimal_adjustments_are_those_of_the_sum_inside() {
    let rows: &[Decimal] = &[
        ("aaa", &[0x37], 0x45, 0x0, 0x5, 0x0),
        ("aaa", &[0x37], 0x7ffa, 0x0, 0x8100, 0x895),
        ("aaa", &[0x37], 0x7f3f, 0x10, 0x8005, 0x891),
        ("aas", &[0x3f], 0xba70, 0x0, 0xba00, 0x80),
        ("aas", &[0x3f], 0x8005, 0x10, 0x7e0f, 0x815),
        ("daa", &[0x27], 0x7f, 0x0, 0x85, 0x890),
        ("daa", &[0x27], 0x9a, 0x0, 0x0, 0x55),
        ("das", &[0x2f], 0xa0, 0x0, 0x40, 0x801),
        ("das", &[0x2f], 0x5, 0x11, 0x9f, 0x95),
        ("aam", &[0xd4, 10], 0x4b, 0x8d5, 0x705, 0x4),
        ("aad", &[0xd5, 10], 0x903, 0x0, 0x5d, 0x0),
        ("aad", &[0xd5, 10], 0xcfde, 0x0, 0xf4, 0x90),
        ("aad", &[0xd5, 10], 0xa28, 0x0, 0x8c, 0x880),
    ];
    for &(name, code, operand, before, result, after) in rows {
        let mut bench = Bench::with_code(code);
        // Limits of 4 GiB, 32 bits (D), not long (L).
        bench.change(|state| state.segments[1].attributes = 0xc09b);
        start(&mut bench, [operand, 0, 0], before);
        bench.steps(1);
        assert_eq!((bench.general(0), flags(&bench)), (result, after), "{name} {operand:#x} {before:#x}");
    }
}

#[test]
fn tcg_clears_the_adjust_flag_of_shifts_and_leaves_those_of_divisions() {
    let rows: [(Emit, u64); 3] =
        [(|a| a.shl(eax, cl), 4), (|a| a.shrd(eax, edx, cl), 4), (|a| a.div(ecx), FLAGS)];
    for (emit, after) in rows {
        let mut bench = Bench::new(emit);
        bench.cpu.cpu.profile.behaviour = Behaviour::Tcg;
        start(&mut bench, [0x30, 0, 4], FLAGS);
        bench.steps(1);
        assert_eq!(flags(&bench), after);
    }
}
