//! Segment registers: what may be loaded, limits and types in compatibility mode, and the instructions that look.

use iced_x86::code_asm::*;

use super::Suite;
use super::layout::{DATA, GDT, Start, USER_DATA, sel};

const SELECTORS: [(&str, u16); 28] = [
    ("null", 0),
    ("null with rpl 3", 3),
    ("code64", sel::CODE64),
    ("data", sel::DATA),
    ("data rpl 3", sel::DATA | 3),
    ("user code32", sel::USER_CODE32 | 3),
    ("user code32 rpl 0", sel::USER_CODE32),
    ("user data", sel::USER_DATA | 3),
    ("user data rpl 0", sel::USER_DATA),
    ("user code64", sel::USER_CODE64 | 3),
    ("code32", sel::CODE32),
    ("user data16", sel::USER_DATA16 | 3),
    ("user down", sel::USER_DOWN | 3),
    ("user read-only", sel::USER_READ_ONLY | 3),
    ("user execute-only", sel::USER_EXECUTE_ONLY | 3),
    ("user absent", sel::USER_ABSENT | 3),
    ("code64 absent", sel::CODE64_ABSENT),
    ("conforming32", sel::CONFORMING32 | 3),
    ("user limited", sel::USER_LIMITED | 3),
    ("tss", sel::TSS),
    ("ldt", sel::LDT),
    ("gate", sel::GATE),
    ("gate rpl 3", sel::GATE | 3),
    ("unaccessed", sel::USER_UNACCESSED | 3),
    ("based", sel::USER_BASED | 3),
    ("local", sel::LOCAL | 3),
    ("beyond the table", sel::BEYOND),
    ("beyond the local table", 0x24),
];

pub(super) fn add(suite: &mut Suite) {
    loads(suite);
    looks(suite);
    tables(suite);
    limits(suite);
    bases(suite);
}

fn loads(suite: &mut Suite) {
    for (start, who) in [
        (Start::Kernel, "kernel"),
        (Start::User, "user"),
        (Start::User32, "user32"),
        (Start::Kernel32, "kernel32"),
    ] {
        for (name, selector) in SELECTORS {
            suite.add(format!("load ds {name} {who}"), start, |a| {
                a.mov(eax, u32::from(selector))?;
                a.mov(ds, eax)
            });
            suite.add(format!("load ss {name} {who}"), start, |a| {
                a.mov(eax, u32::from(selector))?;
                a.mov(ss, eax)?;
                a.nop()
            });
        }
    }
    suite.add("load fs pop", Start::User, |a| {
        a.push(0x23)?;
        a.pop(fs)
    });
    suite.add("load gs keeps or clears base", Start::Kernel, |a| {
        a.mov(ecx, 0xc000_0101_u32)?;
        a.mov(eax, 0x1234)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.xor(eax, eax)?;
        a.mov(gs, eax)
    });
    suite
        .add("load fs from memory", Start::User32, |a| a.mov(fs, word_ptr(USER_DATA + 0x80)))
        .poke(USER_DATA + 0x80, &[0x11b_u16.to_le_bytes()[0], 1]);
    suite.add("pop ds", Start::User32, |a| {
        a.push(0x23)?;
        a.pop(ds)
    });
    suite.add("push segments 32", Start::User32, |a| {
        a.push(cs)?;
        a.push(ss)?;
        a.push(ds)?;
        a.push(fs)
    });
    suite
        .add("les", Start::User32, |a| a.les(ecx, fword_ptr(USER_DATA + 0x80)))
        .poke(USER_DATA + 0x80, &[1, 2, 3, 4, 0x23, 0]);
    suite
        .add("lds to code only", Start::User32, |a| a.lds(ecx, fword_ptr(USER_DATA + 0x80)))
        .poke(USER_DATA + 0x80, &[1, 2, 3, 4, 0x73, 0]);
    suite
        .add("lfs", Start::User, |a| a.lfs(ecx, fword_ptr(USER_DATA + 0x80)))
        .poke(USER_DATA + 0x80, &[1, 2, 3, 4, 0x23, 0]);
    suite
        .add("lss", Start::User, |a| a.lss(esp, fword_ptr(USER_DATA + 0x80)))
        .poke(USER_DATA + 0x80, &[1, 2, 3, 4, 0x23, 0]);
    suite.raw("mov cs", Start::Kernel, &[0x8e, 0xc8, 0xf4]);
    suite.raw("mov segment 6", Start::Kernel, &[0x8e, 0xf0, 0xf4]);
    suite.raw("mov from segment 7", Start::Kernel, &[0x8c, 0xf8, 0xf4]);
    suite.add("mov from segments", Start::User, |a| {
        a.mov(rax, ds)?;
        a.mov(ebx, ss)?;
        a.mov(cx, cs)?;
        a.mov(word_ptr(USER_DATA), ss)
    });
    suite.add("swapgs", Start::Kernel, |a| {
        a.mov(ecx, 0xc000_0102_u32)?;
        a.mov(eax, 0x1234)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.swapgs()
    });
    suite.add("swapgs at user", Start::User, |a| a.swapgs());
    suite.raw("swapgs in compatibility mode", Start::Kernel32, &[0x0f, 0x01, 0xf8, 0xf4]);
}

fn looks(suite: &mut Suite) {
    for (start, who) in [(Start::Kernel, "kernel"), (Start::User, "user"), (Start::User32, "user32")] {
        for (name, selector) in SELECTORS {
            suite.add(format!("look {name} {who}"), start, |a| {
                a.mov(ecx, u32::from(selector))?;
                a.mov(eax, 0x77)?;
                a.mov(ebx, 0x77)?;
                a.xor(edx, edx)?;
                a.lar(eax, ecx)?;
                a.setz(dl)?;
                a.lsl(ebx, ecx)?;
                a.setz(dh)?;
                a.verr(cx)?;
                a.mov(esi, 0)?;
                a.lahf()?;
                a.mov(ebp, eax)?;
                a.verw(cx)?;
                a.mov(edi, 0)?;
                a.lahf()
            });
        }
    }
    suite.add("lar to 16 bits", Start::Kernel, |a| {
        a.mov(ecx, u32::from(sel::DATA))?;
        a.lar(ax, cx)?;
        a.lsl(bx, cx)
    });
    suite
        .add("lar from memory", Start::User32, |a| a.lar(eax, word_ptr(USER_DATA + 0x80)))
        .poke(USER_DATA + 0x80, &[0x23, 0]);
    suite.add("arpl", Start::User32, |a| {
        a.mov(eax, 0x20)?;
        a.mov(ecx, 3)?;
        a.arpl(ax, cx)
    });
    suite.add("arpl of none", Start::User32, |a| {
        a.mov(eax, 0x23)?;
        a.mov(ecx, 2)?;
        a.arpl(ax, cx)
    });
}

fn tables(suite: &mut Suite) {
    for (name, selector) in [
        ("null", 0),
        ("ldt", sel::LDT),
        ("absent", sel::LDT_ABSENT),
        ("tss", sel::TSS),
        ("data", sel::DATA),
        ("beyond", sel::BEYOND),
        ("local", sel::LOCAL),
    ] {
        suite.add(format!("lldt {name}"), Start::Kernel, |a| {
            a.mov(eax, u32::from(selector))?;
            a.lldt(ax)
        });
    }
    for (name, selector) in [
        ("null", 0),
        ("free", sel::TSS_FREE),
        ("busy", sel::TSS),
        ("ldt", sel::LDT),
        ("data", sel::DATA),
        ("local", sel::LOCAL),
    ] {
        suite.add(format!("ltr {name}"), Start::Kernel, |a| {
            a.mov(eax, u32::from(selector))?;
            a.ltr(ax)
        });
    }
    suite
        .add("ltr absent", Start::Kernel, |a| {
            a.mov(eax, u32::from(sel::TSS_FREE))?;
            a.ltr(ax)
        })
        .poke(GDT + u64::from(sel::TSS_FREE) + 5, &[0x09]);
    suite.add("lldt at user", Start::User, |a| a.lldt(ax));
    suite.add("ltr at user", Start::User, |a| a.ltr(ax));
    suite.add("str sldt smsw at user", Start::User, |a| {
        a.str(eax)?;
        a.sldt(ebx)?;
        a.smsw(ecx)?;
        a.str(word_ptr(USER_DATA))?;
        a.smsw(word_ptr(USER_DATA + 8))
    });
    suite.add("sgdt sidt at user", Start::User, |a| {
        a.sgdt(ptr(USER_DATA))?;
        a.sidt(ptr(USER_DATA + 0x10))
    });
    suite.add("sgdt in compatibility mode", Start::User32, |a| a.sgdt(ptr(USER_DATA)));
    suite
        .add("lgdt lidt", Start::Kernel, |a| {
            a.lgdt(ptr(DATA + 0x80))?;
            a.lidt(ptr(DATA + 0x90))
        })
        .poke(DATA + 0x80, &[0x34, 0x12, 0, 0x80, 0, 0, 0, 0xff, 0xff, 0xff])
        .poke(DATA + 0x90, &[0xff, 0x0f, 0, 0x90, 0, 0, 0, 0, 0, 0]);
    suite
        .add("lgdt not canonical", Start::Kernel, |a| a.lgdt(ptr(DATA + 0x80)))
        .poke(DATA + 0x80, &[0x34, 0x12, 0, 0x80, 0, 0, 0, 0, 1, 0]);
    suite.add("lgdt at user", Start::User, |a| a.lgdt(ptr(USER_DATA)));
    suite
        .add("lgdt in compatibility mode", Start::Kernel32, |a| a.lgdt(ptr(DATA + 0x80)))
        .poke(DATA + 0x80, &[0x34, 0x12, 0, 0x80, 0, 0x80]);
    suite.add("lmsw", Start::Kernel, |a| {
        a.mov(eax, 0x8)?;
        a.lmsw(ax)
    });
    suite.add("lmsw at user", Start::User, |a| a.lmsw(ax));
}

fn limits(suite: &mut Suite) {
    let end = USER_DATA + 0x103;
    for (name, selector, offset) in [
        ("limited inside", sel::USER_LIMITED, end - 3),
        ("limited last byte beyond", sel::USER_LIMITED, end - 2),
        ("limited beyond", sel::USER_LIMITED, end + 1),
        ("limited wrapped", sel::USER_LIMITED, 0xffff_fffe),
        ("down inside", sel::USER_DOWN, USER_DATA + 0x800),
        ("down at the limit", sel::USER_DOWN, USER_DATA + 0x7ff),
        ("down below", sel::USER_DOWN, USER_DATA),
        ("down 16 inside", sel::USER_DOWN16, 0x8000),
        ("down 16 at the top", sel::USER_DOWN16, 0xfffd),
        ("down 16 below", sel::USER_DOWN16, 0x7fff),
        ("based inside", sel::USER_BASED, 0xffc),
        ("based beyond", sel::USER_BASED, 0xffd),
        ("read-only", sel::USER_READ_ONLY, USER_DATA),
        ("code", sel::USER_CODE32, USER_DATA),
        ("execute-only", sel::USER_EXECUTE_ONLY, USER_DATA),
        ("null", 0, USER_DATA),
        ("local", sel::LOCAL, 0x10),
    ] {
        let offset = u32::try_from(offset).unwrap();
        for write in [false, true] {
            let kind = if write { "write" } else { "read" };
            suite.add(format!("limit {name} {kind}"), Start::User32, |a| {
                a.mov(eax, u32::from(selector) | 3)?;
                a.mov(es, eax)?;
                a.mov(edi, offset)?;
                if write { a.mov(dword_ptr(edi).es(), esi) } else { a.mov(ecx, dword_ptr(edi).es()) }
            });
        }
    }
    suite.add("limit string", Start::User32, |a| {
        a.mov(eax, u32::from(sel::USER_LIMITED) | 3)?;
        a.mov(es, eax)?;
        a.mov(edi, u32::try_from(end - 9).unwrap())?;
        a.mov(ecx, 4)?;
        a.rep().stosd()
    });
    for (name, selector, pointer) in [
        ("limited", sel::USER_LIMITED, u32::try_from(end).unwrap() + 3),
        ("limited beyond", sel::USER_LIMITED, u32::try_from(end).unwrap() + 8),
        ("down", sel::USER_DOWN, u32::try_from(USER_DATA).unwrap() + 0x802),
        ("down 16", sel::USER_DOWN16, 0x1_8002),
        ("16 wrapped", sel::USER_DATA16, 0x5_0000),
    ] {
        suite.add(format!("limit stack push {name}"), Start::User32, |a| {
            a.mov(eax, u32::from(selector) | 3)?;
            a.mov(ss, eax)?;
            a.mov(esp, pointer)?;
            a.push(eax)
        });
        suite.add(format!("limit stack read {name}"), Start::User32, |a| {
            a.mov(eax, u32::from(selector) | 3)?;
            a.mov(ss, eax)?;
            a.mov(ebp, pointer)?;
            a.mov(ecx, dword_ptr(ebp))
        });
    }
    suite.add("limit code jump beyond", Start::User16, |a| {
        a.mov(eax, 0x1_0000)?;
        a.jmp(eax)
    });
    suite.add("limit code 16 goes on", Start::User16, |a| {
        a.mov(ax, 0x1234)?;
        a.push(ax)?;
        a.pop(bx)?;
        a.mov(ecx, dword_ptr(esp - 2))
    });
    suite.add("limit address wraps at 16 bits", Start::User16, |a| {
        a.mov(bx, 0xfff0)?;
        a.mov(si, 0x30)?;
        a.mov(al, byte_ptr(bx + si).ss())
    });
    suite.add("limit across the end of 16 bits", Start::User16, |a| {
        a.mov(bx, 0xffff)?;
        a.mov(ax, word_ptr(bx).ss())
    });
}

fn bases(suite: &mut Suite) {
    suite.add("base of fs in 64-bit code", Start::User, |a| {
        a.mov(eax, u32::from(sel::USER_BASED) | 3)?;
        a.mov(fs, eax)?;
        a.mov(rax, qword_ptr(0x18).fs())?;
        a.mov(rcx, qword_ptr(0x2000).fs())
    });
    suite.add("base of ds not in 64-bit code", Start::User, |a| {
        a.mov(eax, u32::from(sel::USER_BASED) | 3)?;
        a.mov(ds, eax)?;
        a.mov(rcx, USER_DATA)?;
        a.mov(rax, qword_ptr(rcx))
    });
    suite.add("base wraps at 4 GiB", Start::User32, |a| {
        a.mov(eax, u32::from(sel::USER_DATA) | 3)?;
        a.mov(fs, eax)?;
        a.mov(ecx, 0xffff_ffff_u32)?;
        a.mov(eax, dword_ptr(ecx + i32::try_from(USER_DATA + 1).unwrap()).fs())
    });
}
