//! Control transfers between segments and privileges: IRET, INT, far CALL, JMP and RET, gates.

use iced_x86::code_asm::*;

use super::layout::{
    self, CODE, DATA, GATE, GDT, HANDLERS, IDT, STACK, Start, TSS, USER_CODE, USER_DATA, USER_STACK, sel,
};
use super::{Case, Suite};
use crate::tiny::Emitted;

/// An IRETQ at CPL 0 to a frame.
fn iret<'a>(suite: &'a mut Suite, name: &str, frame: [u64; 5]) -> &'a mut Case {
    let top = STACK - 0x80;
    let case = suite.add(format!("iret {name}"), Start::Kernel, |a| {
        a.mov(rsp, top)?;
        a.iretq()
    });
    for (n, word) in (0..).zip(frame) {
        case.word(top + 8 * n, word);
    }
    // INT 8Fh where user code is returned to.
    case.poke(USER_CODE, &[0xcd, 0x8f])
}

/// An INT 80h at CPL 3, whose gate the case changes.
fn gate<'a>(suite: &'a mut Suite, name: &str) -> &'a mut Case {
    suite.add(format!("gate {name}"), Start::User, |a| a.int(0x80))
}

/// A far CALL at CPL 3 through the call gate, which the case changes.
fn through<'a>(suite: &'a mut Suite, name: &str) -> &'a mut Case {
    suite
        .raw(format!("call gate {name}"), Start::User, &[0xff, 0x1c, 0x25, 0x80, 0x10, 0x09, 0, 0xcd, 0x8f])
        .poke(USER_DATA + 0x80, &[0, 0, 0, 0, 0xc3, 0])
}

/// BOUND EAX, USER_DATA + 80h.
fn bound(bitness: u32) -> &'static [u8] {
    if bitness == 16 {
        &[0x67, 0x66, 0x62, 0x05, 0x80, 0x10, 0x09, 0]
    } else {
        &[0x62, 0x05, 0x80, 0x10, 0x09, 0]
    }
}

/// Something at CPL 3 whose delivery goes wrong.
fn double<'a>(suite: &'a mut Suite, name: &str, emit: fn(&mut CodeAssembler) -> Emitted) -> &'a mut Case {
    suite.add(format!("double {name}"), Start::User, emit)
}

pub(super) fn add(suite: &mut Suite) {
    irets(suite);
    interrupts(suite);
    far(suite);
    gates(suite);
}

fn irets(suite: &mut Suite) {
    let user = |s: u16| u64::from(s) | 3;
    let kernel = u64::from;
    let end = CODE + 0x20; // HLT
    iret(suite, "same level", [end, 8, 0x246, STACK - 0x100, 0x10]).poke(end, &[0xf4]);
    iret(suite, "same level null ss", [end, 8, 2, STACK - 0x100, 0]).poke(end, &[0xf4]);
    iret(suite, "same level user ss", [end, 8, 2, STACK - 0x100, user(sel::USER_DATA)]).poke(end, &[0xf4]);
    iret(suite, "same level all flags", [end, 8, 0x3f_7ed7, STACK - 0x100, 0x10]).poke(end, &[0xf4]);
    iret(suite, "same level no flags", [end, 8, 0, STACK - 0x100, 0x10])
        .poke(end, &[0xf4])
        .with(|s| s.registers.rflags = 0x24_3ad7);
    iret(suite, "same level to code32", [end, kernel(sel::CODE32), 2, STACK - 0x100, 0x10])
        .poke(end, &[0xf4]);
    iret(suite, "to user64", [USER_CODE, user(sel::USER_CODE64), 0x202, USER_STACK, user(sel::USER_DATA)]);
    iret(suite, "to user32", [USER_CODE, user(sel::USER_CODE32), 0x202, USER_STACK, user(sel::USER_DATA)]);
    iret(
        suite,
        "to user32 with high halves",
        [1 << 32 | USER_CODE, user(sel::USER_CODE32), 0x202, 1 << 32 | USER_STACK, user(sel::USER_DATA)],
    );
    iret(suite, "to user16", [0, user(sel::USER_CODE16), 0x202, 0x1_8000, user(sel::USER_DATA16)]);
    iret(suite, "to user with null ss", [USER_CODE, user(sel::USER_CODE64), 2, USER_STACK, 0]);
    iret(suite, "to user with null ss rpl 3", [USER_CODE, user(sel::USER_CODE64), 2, USER_STACK, 3]);
    iret(suite, "to user with kernel ss", [USER_CODE, user(sel::USER_CODE64), 2, USER_STACK, 0x10]);
    iret(
        suite,
        "to user with read-only ss",
        [USER_CODE, user(sel::USER_CODE64), 2, USER_STACK, user(sel::USER_READ_ONLY)],
    );
    iret(
        suite,
        "to user with absent ss",
        [USER_CODE, user(sel::USER_CODE64), 2, USER_STACK, user(sel::USER_ABSENT)],
    );
    iret(suite, "to null cs", [USER_CODE, 0, 2, USER_STACK, 0]);
    iret(suite, "to data cs", [USER_CODE, user(sel::USER_DATA), 2, USER_STACK, user(sel::USER_DATA)]);
    iret(suite, "to absent cs", [end, kernel(sel::CODE64_ABSENT), 2, STACK, 0x10]);
    iret(suite, "to cs with rpl of other", [end, kernel(sel::CODE64) | 3, 2, STACK, 0x10]);
    iret(suite, "to user cs with rpl 0", [USER_CODE, kernel(sel::USER_CODE64), 2, STACK, 0x10]);
    iret(
        suite,
        "to conforming at user",
        [USER_CODE, user(sel::CONFORMING64), 2, USER_STACK, user(sel::USER_DATA)],
    );
    iret(suite, "to cs beyond", [end, kernel(sel::BEYOND), 2, STACK, 0x10]);
    iret(suite, "to cs with l and d", [end, kernel(sel::CODE_BOTH), 2, STACK, 0x10]);
    iret(suite, "to unaccessed cs", [end, kernel(sel::CODE64_UNACCESSED), 2, STACK - 0x100, 0x10])
        .poke(end, &[0xf4]);
    iret(suite, "to not canonical", [1 << 47, 8, 2, STACK, 0x10]);
    iret(
        suite,
        "to not canonical user",
        [1 << 47, user(sel::USER_CODE64), 2, USER_STACK, user(sel::USER_DATA)],
    );
    iret(
        suite,
        "beyond limit of code16",
        [0x1_0000, user(sel::USER_CODE16), 2, 0x8000, user(sel::USER_DATA16)],
    );
    iret(suite, "with nt", [end, 8, 2, STACK - 0x100, 0x10]).with(|s| s.registers.rflags |= 0x4000);
    iret(
        suite,
        "drops kernel segments",
        [USER_CODE, user(sel::USER_CODE64), 2, USER_STACK, user(sel::USER_DATA)],
    )
    .with(|s| {
        s.segments[4].base = 0x1234;
        s.segments[0] = s.segments[2];
    });
    iret(
        suite,
        "to user sets tf",
        [USER_CODE + 8, user(sel::USER_CODE64), 0x102, USER_STACK, user(sel::USER_DATA)],
    )
    .poke(USER_CODE + 8, &[0x90, 0xcd, 0x8f])
    .resumed(3);
    suite
        .add("iretd in 64-bit code", Start::Kernel, |a| {
            a.mov(rsp, DATA + 0x80)?;
            a.iretd()
        })
        .poke(DATA + 0x80, &frame32(&[0x3_0030, 8, 0x46, 0x1_f000, 0x10]))
        .poke(CODE + 0x30, &[0xf4]);
    suite
        .add("iretw in 64-bit code", Start::Kernel, |a| {
            a.mov(rsp, DATA + 0x80)?;
            a.iret()
        })
        .poke(DATA + 0x80, &frame16(&[0x5000, 8, 0x46, 0xf000, 0x10]));
    suite
        .add("iretd in kernel32 same level", Start::Kernel32, |a| {
            a.mov(esp, u32::try_from(DATA + 0x80).unwrap())?;
            a.iretd()
        })
        .poke(DATA + 0x80, &frame32(&[0x3_0030, 0x30, 0x46, 0x1_f000, 0x10]))
        .poke(CODE + 0x30, &[0xf4]);
    suite
        .add("iretd in kernel32 to user", Start::Kernel32, |a| {
            a.mov(esp, u32::try_from(DATA + 0x80).unwrap())?;
            a.iretd()
        })
        .poke(DATA + 0x80, &frame32(&[0x8_0000, 0x1b, 0x246, 0x8_f000, 0x23]))
        .poke(USER_CODE, &[0xcd, 0x8f]);
    suite
        .add("iretd at user32", Start::User32, |a| {
            a.mov(esp, u32::try_from(USER_DATA + 0x80).unwrap())?;
            a.iretd()
        })
        .poke(USER_DATA + 0x80, &frame32(&[0x8_0030, 0x1b, 0x25_7ed7, 0x1_f000, 0x10]))
        .poke(USER_CODE + 0x30, &[0xcd, 0x8f])
        .resumed(2);
    suite
        .add("iretd at user32 to kernel", Start::User32, |a| {
            a.mov(esp, u32::try_from(USER_DATA + 0x80).unwrap())?;
            a.iretd()
        })
        .poke(USER_DATA + 0x80, &frame32(&[0x8_0030, 0x30, 2, 0x1_f000, 0x10]));
    suite
        .add("iretq at user64", Start::User, |a| {
            a.mov(rsp, USER_DATA + 0x80)?;
            a.iretq()
        })
        .poke(
            USER_DATA + 0x80,
            &[USER_CODE + 0x30, 0x2b, 0x3e46, USER_STACK - 8, 0x23].map(u64::to_le_bytes).concat(),
        )
        .poke(USER_CODE + 0x30, &[0xcd, 0x8f]);
}

fn frame32(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn frame16(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn interrupts(suite: &mut Suite) {
    for (start, who) in [
        (Start::Kernel, "kernel"),
        (Start::User, "user"),
        (Start::User32, "user32"),
        (Start::Kernel32, "kernel32"),
        (Start::User16, "user16"),
    ] {
        let mut case = |name: &str, emit: fn(&mut CodeAssembler) -> Emitted| {
            suite
                .add(format!("interrupt {name} {who}"), start, emit)
                .with(|s| s.registers.rflags |= 0x4_0ad5);
        };
        case("int3", |a| a.int3());
        case("int 3", |a| a.db(&[0xcd, 3]));
        case("int 80h", |a| a.int(0x80));
        case("int 40h of dpl 0", |a| a.int(0x40));
        case("int 14 of dpl 0", |a| a.int(14));
        case("icebp", |a| a.db(&[0xf1]));
        case("ud2", |a| a.ud2());
        case("divide", |a| {
            a.xor(ecx, ecx)?;
            a.div(ecx)
        });
        case("hlt", |a| a.hlt());
        case("cli sti", |a| {
            a.cli()?;
            a.sti()
        });
        case("x87 not available", |a| a.fld1());
        case("in", |a| a.in_(al, 0x70));
    }
    for (start, who) in [(Start::User32, "user32"), (Start::User16, "user16")] {
        suite.add(format!("into taken {who}"), start, |a| a.into()).with(|s| s.registers.rflags |= 0x800);
        suite.add(format!("into not taken {who}"), start, |a| a.into());
        suite
            .add(format!("bound inside {who}"), start, |a| {
                a.mov(eax, 3)?;
                a.db(bound(a.bitness()))
            })
            .poke(USER_DATA + 0x80, &frame32(&[3, 8]));
        suite
            .add(format!("bound below {who}"), start, |a| {
                a.mov(eax, 2)?;
                a.db(bound(a.bitness()))
            })
            .poke(USER_DATA + 0x80, &frame32(&[3, 8]));
    }
    let gate_at = |vector: u64| IDT + 16 * vector;
    let at = gate_at(0x80);
    gate(suite, "trap")
        .word(at, layout::gate(8, HANDLERS + 0x800, 0xef, 0))
        .with(|s| s.registers.rflags |= 0x200);
    gate(suite, "absent").word(at, layout::gate(8, HANDLERS + 0x800, 0x6e, 0));
    gate(suite, "dpl 0 and absent").word(at, layout::gate(8, HANDLERS + 0x800, 0x0e, 0));
    gate(suite, "wrong type").word(at, layout::gate(8, HANDLERS + 0x800, 0xec, 0));
    gate(suite, "16-bit type").word(at, layout::gate(8, HANDLERS + 0x800, 0xe6, 0));
    gate(suite, "task gate").word(at, layout::gate(8, HANDLERS + 0x800, 0xe5, 0));
    gate(suite, "null selector").word(at, layout::gate(0, HANDLERS + 0x800, 0xee, 0));
    gate(suite, "data selector").word(at, layout::gate(sel::DATA, HANDLERS + 0x800, 0xee, 0));
    gate(suite, "code32 selector").word(at, layout::gate(sel::CODE32, HANDLERS + 0x800, 0xee, 0));
    gate(suite, "absent selector").word(at, layout::gate(sel::CODE64_ABSENT, HANDLERS + 0x800, 0xee, 0));
    gate(suite, "selector beyond").word(at, layout::gate(sel::BEYOND, HANDLERS + 0x800, 0xee, 0));
    gate(suite, "conforming selector").word(at, layout::gate(sel::CONFORMING64, USER_CODE + 0x100, 0xee, 0));
    gate(suite, "user selector")
        .word(at, layout::gate(sel::USER_CODE64 | 3, USER_CODE + 0x100, 0xee, 0))
        .poke(USER_CODE + 0x100, &[0xcd, 0x8f]);
    gate(suite, "selector of l and d").word(at, layout::gate(sel::CODE_BOTH, HANDLERS + 0x800, 0xee, 0));
    gate(suite, "rpl in selector").word(at, layout::gate(sel::CODE64 | 3, HANDLERS + 0x800, 0xee, 0));
    gate(suite, "not canonical").word(at + 8, 0x8000);
    gate(suite, "unaccessed selector")
        .word(at, layout::gate(sel::CODE64_UNACCESSED, HANDLERS + 0x800, 0xee, 0));
    gate(suite, "ist1").word(at, layout::gate(8, HANDLERS + 0x800, 0xee, 1));
    gate(suite, "ist2 is aligned").word(at, layout::gate(8, HANDLERS + 0x800, 0xee, 2));
    gate(suite, "ist3 is null").word(at, layout::gate(8, HANDLERS + 0x800, 0xee, 3));
    gate(suite, "ist not canonical")
        .word(at, layout::gate(8, HANDLERS + 0x800, 0xee, 1))
        .word(TSS + 0x24, 1 << 47 | 0x1000);
    gate(suite, "rsp0 unaligned").word(TSS + 4, layout::RSP0 - 5);
    gate(suite, "rsp0 not canonical")
        .word(TSS + 4, 1 << 47 | 0x1000)
        .word(gate_at(12), layout::gate(8, HANDLERS + 0xc0, 0x8e, 1));
    gate(suite, "beyond the table").with(|s| s.idt.limit = 0x80e);
    gate(suite, "at the table's end").with(|s| s.idt.limit = 0x80f);
    gate(suite, "tss too short").with(|s| s.segments[7].limit = 0x0a);
    gate(suite, "ist tss too short")
        .word(at, layout::gate(8, HANDLERS + 0x800, 0xee, 1))
        .with(|s| s.segments[7].limit = 0x2a);
    suite
        .add("gate ist from kernel", Start::Kernel, |a| a.int(0x80))
        .word(at, layout::gate(8, HANDLERS + 0x800, 0xee, 1));
    suite.add("gate stack is aligned", Start::Kernel, |a| {
        a.mov(rsp, STACK - 0x33)?;
        a.int(0x80)
    });
    suite
        .add("gate ist of kernel32", Start::Kernel32, |a| a.int(0x80))
        .word(at, layout::gate(8, HANDLERS + 0x800, 0xee, 2));
    double(suite, "page fault with absent gate", |a| a.mov(eax, dword_ptr(0x1000)))
        .word(gate_at(14), layout::gate(8, HANDLERS, 0x0e, 0));
    double(suite, "page fault with absent stack", |a| a.mov(eax, dword_ptr(0x1000)))
        .word(TSS + 4, 0x10_1000)
        .page(0x10_0000, 0)
        .word(gate_at(8), layout::gate(8, HANDLERS + 0x80, 0x8e, 1));
    double(suite, "protection with bad gate", |a| a.hlt()).word(gate_at(13), 0);
    double(suite, "divide with absent gate", |a| {
        a.xor(ecx, ecx)?;
        a.div(ecx)
    })
    .word(gate_at(0), layout::gate(8, HANDLERS, 0x0e, 0));
    double(suite, "protection with absent stack", |a| a.hlt())
        .word(TSS + 4, 0x10_1000)
        .page(0x10_0000, 0)
        .word(gate_at(14), layout::gate(8, HANDLERS + 0xe0, 0x8e, 1));
    double(suite, "undefined with bad gate", |a| a.ud2()).word(gate_at(6), 0);
    double(suite, "undefined with absent stack", |a| a.ud2())
        .word(TSS + 4, 0x10_1000)
        .page(0x10_0000, 0)
        .word(gate_at(14), layout::gate(8, HANDLERS + 0xe0, 0x8e, 1));
    double(suite, "program's with absent stack", |a| a.int3())
        .word(TSS + 4, 0x10_1000)
        .page(0x10_0000, 0)
        .word(gate_at(14), layout::gate(8, HANDLERS + 0xe0, 0x8e, 1));
    double(suite, "triple", |a| a.hlt()).with(|s| s.idt.limit = 0);
    double(suite, "triple by stacks", |a| a.mov(eax, dword_ptr(0x1000)))
        .word(TSS + 4, 0x10_1000)
        .page(0x10_0000, 0);
    double(suite, "triple by gate of 8", |a| a.hlt()).word(gate_at(13), 0).word(gate_at(8), 0);
}

fn far(suite: &mut Suite) {
    for (start, who) in [
        (Start::Kernel, "kernel"),
        (Start::User, "user"),
        (Start::User32, "user32"),
        (Start::Kernel32, "kernel32"),
    ] {
        let at = start.code() + 0x40;
        let data = if start.is_kernel() { DATA } else { USER_DATA } + 0x80;
        let end: &[u8] = if start.is_kernel() { &[0xf4] } else { &[0xcd, 0x8f] };
        for (name, selector) in [
            ("null", 0),
            ("code64", sel::CODE64),
            ("code64 rpl 3", sel::CODE64 | 3),
            ("user code64", sel::USER_CODE64 | 3),
            ("user code64 rpl 0", sel::USER_CODE64),
            ("user code32", sel::USER_CODE32 | 3),
            ("code32", sel::CODE32),
            ("conforming64", sel::CONFORMING64),
            ("conforming32 rpl 3", sel::CONFORMING32 | 3),
            ("data", sel::DATA),
            ("absent", sel::CODE64_ABSENT),
            ("both", sel::CODE_BOTH),
            ("unaccessed", sel::CODE64_UNACCESSED),
            ("beyond", sel::BEYOND),
            ("tss", sel::TSS_FREE),
            ("ldt", sel::LDT),
            ("gate", sel::GATE | 3),
            ("gate of dpl 0", sel::GATE_KERNEL),
            ("gate of dpl 0 rpl 3", sel::GATE_KERNEL | 3),
            ("absent gate", sel::GATE_ABSENT),
            ("null gate", sel::GATE_NULL),
        ] {
            let pointer = [&u32::try_from(at).unwrap().to_le_bytes()[..], &selector.to_le_bytes()].concat();
            let address = i32::try_from(data).unwrap();
            // FF /3 and FF /5 with a 32-bit displacement.
            let encode = |reg: u8| -> Vec<u8> {
                let modrm = reg << 3 | 4;
                if start.bitness() == 64 {
                    [&[0xff, modrm, 0x25][..], &address.to_le_bytes(), end].concat()
                } else {
                    [&[0xff, reg << 3 | 5][..], &address.to_le_bytes(), end].concat()
                }
            };
            suite.raw(format!("far call {name} {who}"), start, &encode(3)).poke(data, &pointer).poke(at, end);
            suite.raw(format!("far jump {name} {who}"), start, &encode(5)).poke(data, &pointer).poke(at, end);
        }
    }
    suite
        .add("far call direct", Start::User32, |a| a.db(&[0x9a, 0x40, 0, 8, 0, 0x1b, 0]))
        .poke(USER_CODE + 0x40, &[0xcb]);
    suite
        .add("far jump direct to 64-bit code", Start::User32, |a| a.db(&[0xea, 0x40, 0, 8, 0, 0x2b, 0]))
        .poke(USER_CODE + 0x40, &[0x48, 0xff, 0xc0, 0xcd, 0x8f]);
    suite
        .add("far call with 16-bit operand", Start::User16, |a| a.db(&[0x9a, 0x40, 0, 0x3b, 0]))
        .poke(USER_CODE + 0x40, &[0xcb]);
    suite
        .add("far call at absent page of stack", Start::User32, |a| {
            a.mov(esp, 0x10_1004)?;
            a.db(&[0x9a, 0x40, 0, 8, 0, 0x1b, 0])
        })
        .page(0x10_0000, 0);
    for (name, selector, outer) in [
        ("to user64", sel::USER_CODE64 | 3, 0x23),
        ("to user32", sel::USER_CODE32 | 3, 0x23),
        ("same level", sel::CODE64, 0x10),
        ("to user with kernel ss", sel::USER_CODE64 | 3, 0x10),
        ("to user with null ss", sel::USER_CODE64 | 3, 0),
        ("to null", 0, 0x10),
        ("to rpl 3 of dpl 0", sel::CODE64 | 3, 0x10),
        ("to data", sel::DATA, 0x10),
        ("to absent", sel::CODE64_ABSENT, 0x10),
        ("to code32", sel::CODE32, 0x10),
    ] {
        let target = if selector & 3 == 3 { USER_CODE } else { CODE + 0x40 };
        for release in [0_u32, 8] {
            let case = suite.add(format!("far ret {release} {name}"), Start::Kernel, |a| {
                a.mov(rsp, DATA + 0x80)?;
                if release == 0 { a.db(&[0x48, 0xcb]) } else { a.db(&[0x48, 0xca, 8, 0]) }
            });
            let words = [target, selector.into(), if release == 0 { USER_STACK } else { 1 }];
            case.poke(DATA + 0x80, &words.map(u64::to_le_bytes).concat());
            let rest: &[u64] = if release == 0 { &[outer] } else { &[USER_STACK, outer] };
            for (n, word) in (0..).zip(rest) {
                case.word(DATA + 0x98 + 8 * n, *word);
            }
            case.poke(USER_CODE, &[0xcd, 0x8f]).poke(CODE + 0x40, &[0xf4]);
        }
    }
    suite
        .add("far ret at user32", Start::User32, |a| {
            a.push(0x1b)?;
            a.push(0x8_0040)?;
            a.retf()
        })
        .poke(USER_CODE + 0x40, &[0xcd, 0x8f]);
    suite.add("far ret at user32 to kernel", Start::User32, |a| {
        a.push(0x30)?;
        a.push(0x8_0040)?;
        a.retf()
    });
}

fn gates(suite: &mut Suite) {
    // There and back.
    suite
        .raw("call gate and back", Start::User, &[0xff, 0x1c, 0x25, 0x80, 0x10, 0x09, 0, 0xcd, 0x8f])
        .poke(USER_DATA + 0x80, &[0, 0, 0, 0, 0xc3, 0])
        .resumed(2);
    suite
        .raw("call gate from user32 and back", Start::User32, &[0xff, 0x1d, 0x80, 0x10, 0x09, 0, 0xcd, 0x8f])
        .poke(USER_DATA + 0x80, &[0, 0, 0, 0, 0xc3, 0])
        .resumed(2);
    let at = GDT + u64::from(sel::GATE);
    through(suite, "to code32").word(at, layout::gate(sel::CODE32, GATE, 0xec, 0));
    through(suite, "to data").word(at, layout::gate(sel::DATA, GATE, 0xec, 0));
    through(suite, "to absent code").word(at, layout::gate(sel::CODE64_ABSENT, GATE, 0xec, 0));
    through(suite, "to conforming code")
        .word(at, layout::gate(sel::CONFORMING64, USER_CODE + 0x100, 0xec, 0))
        .poke(USER_CODE + 0x100, &[0xcd, 0x8f]);
    through(suite, "to user code")
        .word(at, layout::gate(sel::USER_CODE64, USER_CODE + 0x100, 0xec, 0))
        .poke(USER_CODE + 0x100, &[0xcd, 0x8f]);
    through(suite, "to not canonical").word(at + 8, 0x8000);
    through(suite, "with a type in its upper half").word(at + 8, 0x0100_0000_0000);
    through(suite, "with not canonical rsp0")
        .word(TSS + 4, 1 << 47 | 0x1000)
        .word(IDT + 16 * 12, layout::gate(8, HANDLERS + 0xc0, 0x8e, 1));
    through(suite, "onto an absent stack").word(TSS + 4, 0x10_1000).page(0x10_0000, 0);
    through(suite, "with unaligned rsp0").word(TSS + 4, layout::RSP0 - 3);
}
