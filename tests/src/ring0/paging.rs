//! Page faults: every kind of page, access and privilege; which address and error code, and what has happened before.

use iced_x86::code_asm::*;

use super::Suite;
use super::layout::{DATA, PML4, PT, Start, TEST, USER_DATA};

const WP: u64 = 1 << 16;
const SMEP: u64 = 1 << 20;
const SMAP: u64 = 1 << 21;
const NX: u64 = 1 << 63;
const AC: u64 = 1 << 18;

/// Page-table entries' bits.
const PAGES: [(&str, u64); 9] = [
    ("absent", 0),
    ("read-only", 1),
    ("writable", 3),
    ("user-read-only", 5),
    ("user", 7),
    ("no-execute", 3 | NX),
    ("user-no-execute", 7 | NX),
    ("reserved-51", 7 | 1 << 51),
    ("reserved-40-absent", 6 | 1 << 40),
];
/// CR0.WP, SMEP and SMAP, RFLAGS.AC.
const GUARDS: [(&str, bool, u64, bool); 4] = [
    ("", true, 0, false),
    ("-unguarded", false, 0, false),
    ("-smep-smap", true, SMEP | SMAP, false),
    ("-smep-smap-ac", true, SMEP | SMAP, true),
];

pub(super) fn add(suite: &mut Suite) {
    every_page(suite);
    levels(suite);
    crossing(suite);
    updates(suite);
    smap(suite);
    tlb(suite);
}

fn every_page(suite: &mut Suite) {
    for start in [Start::Kernel, Start::User] {
        for (page, entry) in PAGES {
            for (guard, protect, guards, access) in GUARDS {
                if start == Start::User && (guard == "-unguarded" || guard == "-smep-smap-ac") {
                    continue;
                }
                for kind in ["read", "write", "execute"] {
                    let who = if start == Start::Kernel { "kernel" } else { "user" };
                    suite
                        .add(format!("page {page} {kind} {who}{guard}"), start, |a| {
                            a.mov(rdi, TEST + 0x18)?;
                            match kind {
                                "read" => a.mov(eax, dword_ptr(rdi)),
                                "write" => a.mov(dword_ptr(rdi), esi),
                                _ => a.call(rdi),
                            }
                        })
                        .poke(TEST + 0x18, &[0xc3])
                        .page(TEST, TEST | entry)
                        .with(|s| {
                            s.cr4 |= guards;
                            s.registers.rflags |= if access { AC } else { 0 };
                            if !protect {
                                s.cr0 &= !WP;
                            }
                        });
                }
            }
        }
    }
}

/// What upper levels forbid, and their reserved bits.
fn levels(suite: &mut Suite) {
    // A second way to TEST through tables of their own at DATA: 1 GiB up.
    let tables: [(&str, u64, u64, u64); 10] = [
        ("open", 7, 7, 7),
        ("pdpte-absent", 6, 7, 7),
        ("pdpte-read-only", 5, 7, 7),
        ("pdpte-kernel", 3, 7, 7),
        ("pdpte-no-execute", 7 | NX, 7, 7),
        ("pdpte-reserved", 7 | 1 << 45, 7, 7),
        ("pde-absent", 7, 6, 7),
        ("pde-read-only", 7, 5, 7),
        ("pde-reserved-large", 7, 0x80 | 7 | 1 << 13, 7),
        ("pde-no-execute", 7, 7 | NX, 7),
    ];
    for (name, pdpte, pde, pte) in tables {
        for (kind, start) in [
            ("read", Start::User),
            ("write", Start::User),
            ("execute", Start::User),
            ("write", Start::Kernel),
        ] {
            let who = if start == Start::Kernel { "kernel" } else { "user" };
            suite
                .add(format!("level {name} {kind} {who}"), start, |a| {
                    a.mov(rdi, 0x4000_0018_u64)?;
                    match kind {
                        "read" => a.mov(eax, dword_ptr(rdi)),
                        "write" => a.mov(dword_ptr(rdi), esi),
                        _ => a.call(rdi),
                    }
                })
                .poke(TEST + 0x18, &[0xc3])
                .word(0x2008, (DATA + 0x1000) | pdpte)
                .word(DATA + 0x1000, (DATA + 0x2000) | pde)
                .word(DATA + 0x2000, TEST | pte);
        }
    }
    suite
        .add("level large page", Start::User, |a| {
            a.mov(rdi, 0x4010_0018_u64)?;
            a.mov(eax, dword_ptr(rdi))?;
            a.mov(dword_ptr(rdi + 8), eax)
        })
        .word(0x2008, (DATA + 0x1000) | 7)
        .word(DATA + 0x1000, 0x87);
    suite
        .add("level pml4e with PS", Start::Kernel, |a| {
            a.mov(rdi, 0x80_0000_0000_u64)?;
            a.mov(eax, dword_ptr(rdi))
        })
        .word(PML4 + 8, 0x2087);
    suite
        .add("no-execute reserved without NXE", Start::Kernel, |a| a.mov(eax, dword_ptr(TEST)))
        .page(TEST, TEST | 7 | NX)
        .with(|s| s.efer &= !0x800);
    for (name, address) in [("low", 0x8000_0000_0000_u64), ("high", 0xffff_7fff_ffff_fff8)] {
        suite.add(format!("not canonical {name} read"), Start::Kernel, |a| {
            a.mov(rdi, address)?;
            a.mov(eax, dword_ptr(rdi))
        });
        suite.add(format!("not canonical {name} stack"), Start::Kernel, |a| {
            a.mov(rbp, address)?;
            a.mov(eax, dword_ptr(rbp))
        });
        suite.add(format!("not canonical {name} push"), Start::User, |a| {
            a.mov(rsp, address)?;
            a.push(rax)
        });
        suite.add(format!("not canonical {name} jump"), Start::User, |a| {
            a.mov(rdi, address)?;
            a.jmp(rdi)
        });
        suite.add(format!("not canonical {name} call"), Start::Kernel, |a| {
            a.mov(rdi, address)?;
            a.call(rdi)
        });
        suite.add(format!("not canonical {name} ret"), Start::User, |a| {
            a.mov(rdi, address)?;
            a.push(rdi)?;
            a.ret()
        });
    }
    suite.add("not canonical across", Start::Kernel, |a| {
        a.mov(rdi, 0x7fff_ffff_fffc_u64)?;
        a.mov(rax, qword_ptr(rdi))
    });
}

/// Accesses to two pages, the second of which is absent or read-only.
fn crossing(suite: &mut Suite) {
    let end = TEST + 0x1000;
    for (page, entry) in [("absent", 0), ("read-only", 5)] {
        let mut case = |name: &str, emit: fn(&mut CodeAssembler) -> crate::tiny::Emitted| {
            suite
                .add(format!("crossing {page} {name}"), Start::User, |a| {
                    a.mov(rdi, TEST + 0xffc)?;
                    a.mov(rsi, USER_DATA)?;
                    emit(a)
                })
                .page(TEST + 0x1000, end | entry);
        };
        case("read", |a| a.mov(rax, qword_ptr(rdi)));
        case("write", |a| a.mov(qword_ptr(rdi), rax));
        case("write of 2", |a| a.mov(word_ptr(rdi + 3), ax));
        case("add", |a| a.add(qword_ptr(rdi), rax));
        case("xchg", |a| a.xchg(qword_ptr(rdi), rax));
        case("locked cmpxchg", |a| a.lock().cmpxchg(qword_ptr(rdi), rbx));
        case("movups store", |a| a.movups(xmmword_ptr(rdi - 4), xmm0));
        case("movups load", |a| a.movups(xmm1, xmmword_ptr(rdi - 4)));
        case("rep movsb", |a| {
            a.mov(ecx, 9)?;
            a.rep().movsb()
        });
        case("rep movsq", |a| {
            a.mov(ecx, 3)?;
            a.sub(rdi, 8)?;
            a.rep().movsq()
        });
        case("rep stosd", |a| {
            a.mov(ecx, 5)?;
            a.sub(rdi, 6)?;
            a.rep().stosd()
        });
        case("rep lodsw down", |a| {
            a.mov(ecx, 5)?;
            a.lea(rsi, ptr(rdi + 7))?;
            a.std()?;
            a.rep().lodsw()
        });
        case("repe cmpsb", |a| {
            a.mov(ecx, 9)?;
            a.mov(rsi, rdi)?;
            a.repe().cmpsb()
        });
        case("push", |a| {
            a.lea(rsp, ptr(rdi + 8))?;
            a.push(rax)
        });
        case("pop to memory", |a| a.pop(qword_ptr(rdi)));
        case("enter", |a| {
            a.lea(rsp, ptr(rdi + 0x0c))?;
            a.enter(8, 0)
        });
        case("call", |a| {
            a.lea(rsp, ptr(rdi + 8))?;
            a.call(rsi)
        });
        case("bts", |a| {
            a.mov(eax, 40)?;
            a.bts(dword_ptr(rdi), eax)
        });
        case("fxsave", |a| {
            a.sub(rdi, 0x1c)?;
            a.fxsave(ptr(rdi + 0))
        });
        case("fstp of 10", |a| {
            a.fld1()?;
            a.fstp(tbyte_ptr(rdi))
        });
    }
    suite
        .add("crossing code", Start::User, |a| {
            a.mov(rdi, TEST + 0xffd)?;
            a.jmp(rdi)
        })
        .poke(TEST + 0xffd, &[0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8])
        .page(TEST + 0x1000, 0);
    suite
        .add("crossing code into no-execute", Start::User, |a| {
            a.mov(rdi, TEST + 0xffd)?;
            a.jmp(rdi)
        })
        .poke(TEST + 0xffd, &[0x90, 0x90, 0x90, 0x90])
        .page(TEST + 0x1000, end | 7 | NX);
}

/// Read-modify-write on pages that cannot be written, and what faults leave behind.
fn updates(suite: &mut Suite) {
    for (page, entry) in [("absent", 0), ("read-only", 5)] {
        let mut case = |name: &str, emit: fn(&mut CodeAssembler) -> crate::tiny::Emitted| {
            suite
                .add(format!("update {page} {name}"), Start::User, |a| {
                    a.mov(rdi, TEST + 0x20)?;
                    emit(a)
                })
                .page(TEST, TEST | entry);
        };
        case("add", |a| a.add(dword_ptr(rdi), eax));
        case("inc", |a| a.inc(byte_ptr(rdi)));
        case("not", |a| a.not(word_ptr(rdi)));
        case("shl", |a| a.shl(dword_ptr(rdi), 3));
        case("xchg", |a| a.xchg(dword_ptr(rdi), eax));
        case("xadd", |a| a.xadd(dword_ptr(rdi), eax));
        case("cmpxchg", |a| a.cmpxchg(dword_ptr(rdi), ebx));
        case("cmpxchg8b", |a| a.cmpxchg8b(qword_ptr(rdi)));
        case("locked add", |a| a.lock().add(dword_ptr(rdi), eax));
        case("btr", |a| a.btr(dword_ptr(rdi), 3));
        case("setcc", |a| a.setz(byte_ptr(rdi)));
        case("push memory", |a| a.push(qword_ptr(rdi)));
        case("div", |a| a.div(dword_ptr(rdi)));
        case("stmxcsr", |a| a.stmxcsr(dword_ptr(rdi)));
        case("sgdt", |a| a.sgdt(ptr(rdi + 0)));
        case("movnti", |a| a.movnti(dword_ptr(rdi), eax));
        case("rep stosb of none", |a| {
            a.xor(ecx, ecx)?;
            a.rep().stosb()
        });
    }
}

/// STAC, CLAC, and accesses of the processor's own.
fn smap(suite: &mut Suite) {
    suite
        .add("smap stac clac", Start::Kernel, |a| {
            a.mov(rdi, TEST)?;
            a.stac()?;
            a.mov(eax, dword_ptr(rdi))?;
            a.mov(dword_ptr(rdi + 4), esi)?;
            a.clac()?;
            a.mov(ebx, dword_ptr(rdi))
        })
        .with(|s| s.cr4 |= SMAP);
    suite
        .add("smap push to user page", Start::Kernel, |a| {
            a.mov(rsp, TEST + 0x800)?;
            a.push(rax)
        })
        .with(|s| s.cr4 |= SMAP);
    suite
        .add("smap interrupt onto user stack with ac", Start::Kernel, |a| {
            a.mov(rsp, TEST + 0x800)?;
            a.stac()?;
            a.int3()
        })
        .with(|s| s.cr4 |= SMAP);
    suite
        .add("smap gdt in user page", Start::Kernel, |a| {
            a.stac()?;
            a.mov(eax, 0x10)?;
            a.mov(ds, eax)
        })
        .with(|s| {
            s.cr4 |= SMAP;
            s.gdt.base = TEST;
        });
    suite.add("gdt in kernel page from user", Start::User, |a| {
        a.mov(eax, 0x23)?;
        a.mov(ds, eax)
    });
    suite.add("stac at user", Start::User, |a| a.stac()).with(|s| s.cr4 |= SMAP);
    suite.add("clac in compatibility mode", Start::Kernel32, |a| a.clac()).with(|s| {
        s.cr4 |= SMAP;
        s.registers.rflags |= AC;
    });
    suite.add("stac without smap", Start::Kernel, |a| a.stac());
}

/// Translations that change while they are in use.
fn tlb(suite: &mut Suite) {
    let entry = PT + (TEST >> 12) * 8;
    suite.add("tlb invlpg after unmapping", Start::Kernel, |a| {
        a.mov(eax, dword_ptr(TEST))?;
        a.mov(qword_ptr(entry), 0)?;
        a.invlpg(ptr(TEST))?;
        a.mov(ebx, dword_ptr(TEST))
    });
    suite.add("tlb remapping with mov cr3", Start::Kernel, |a| {
        a.mov(dword_ptr(TEST), 1)?;
        a.mov(dword_ptr(TEST + 0x1000), 2)?;
        a.mov(rax, qword_ptr(entry + 8))?;
        a.mov(qword_ptr(entry), rax)?;
        a.mov(rax, cr3)?;
        a.mov(cr3, rax)?;
        a.mov(ebx, dword_ptr(TEST))
    });
    suite.add("tlb write protection on", Start::Kernel, |a| {
        a.mov(qword_ptr(entry), i32::try_from(TEST | 1).unwrap())?;
        a.invlpg(ptr(TEST))?;
        a.mov(rax, cr0)?;
        a.and(eax, !0x1_0000)?;
        a.mov(cr0, rax)?;
        a.mov(dword_ptr(TEST), esi)?;
        a.or(eax, 0x1_0000)?;
        a.mov(cr0, rax)?;
        a.mov(dword_ptr(TEST + 4), esi)
    });
    suite
        .add("tlb absent to present needs no flush", Start::Kernel, |a| {
            a.mov(qword_ptr(entry), i32::try_from(TEST | 3).unwrap())?;
            a.mov(dword_ptr(TEST), esi)
        })
        .page(TEST, 0);
    suite.add("dirty after accessed", Start::User, |a| {
        a.mov(eax, dword_ptr(TEST))?;
        a.mov(dword_ptr(TEST + 8), eax)?;
        a.mov(dword_ptr(TEST + 0x1008), eax)
    });
    suite
        .add("stack switch onto absent page", Start::User, |a| a.int3())
        .word(super::layout::TSS + 4, 0x10_2000)
        .page(0x10_1000, 0);
    suite
        .add("stack switch across absent page", Start::User, |a| a.int3())
        .word(super::layout::TSS + 4, 0x10_2010)
        .page(0x10_1000, 0);
    suite.add("idt on absent page", Start::User, |a| a.int3()).page(super::layout::IDT, 0);
    suite.add("tss on absent page", Start::User, |a| a.int3()).page(super::layout::TSS, 0);
}
