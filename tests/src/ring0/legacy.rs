//! Real mode and protected mode, as far as a start-up trampoline goes, and the way from there to long mode.

use iced_x86::code_asm::*;

use super::Suite;
use super::layout::{
    self, CODE, DATA, GDT, PML4, RSP0, SHORT_IDT, SHORT_TSS, STACK, Start, USER_CODE, USER_DATA, sel,
};

pub(super) fn add(suite: &mut Suite) {
    real(suite);
    protected(suite);
    trampoline(suite);
}

fn real(suite: &mut Suite) {
    let mut case = |name: &str, emit: fn(&mut CodeAssembler) -> crate::tiny::Emitted| {
        suite.add(format!("real {name}"), Start::Real, emit).poke(CODE + 0x40, &[0xf4]).resumed(1);
    };
    case("moves", |a| {
        a.mov(ax, 0x4000)?;
        a.mov(es, ax)?;
        a.mov(bx, word_ptr(0x10).es())?;
        a.mov(ecx, dword_ptr(bx))?;
        a.push(ax)?;
        a.push(ecx)
    });
    case("int 80h", |a| a.int(0x80));
    case("int3", |a| a.int3());
    case("into", |a| {
        a.mov(al, 0x7f)?;
        a.add(al, 1)?;
        a.into()
    });
    case("divide", |a| {
        a.xor(cl, cl)?;
        a.div(cl)
    });
    case("ud2", |a| a.ud2());
    case("limit", |a| {
        a.mov(ebx, 0x1_0000)?;
        a.mov(al, byte_ptr(ebx))
    });
    case("across the limit", |a| {
        a.mov(bx, 0xffff)?;
        a.mov(ax, word_ptr(bx))
    });
    case("stack limit", |a| {
        a.mov(sp, 1)?;
        a.push(ax)
    });
    case("far call", |a| a.db(&[0x9a, 0x40, 0, 0, 0x30, 0xf4, 0x90]));
    case("far jump", |a| a.db(&[0xea, 0x40, 0, 0, 0x30]));
    case("lldt", |a| a.db(&[0x0f, 0x00, 0xd0]));
    case("lar", |a| a.db(&[0x0f, 0x02, 0xc0]));
    case("syscall", |a| a.db(&[0x0f, 0x05]));
    case("pushf popf", |a| {
        a.pushf()?;
        a.pop(ax)?;
        a.mov(ax, 0x7ed7)?;
        a.push(ax)?;
        a.popf()
    });
    case("smsw", |a| a.smsw(eax));
    case("sgdt", |a| a.sgdt(ptr(0x80)));
    case("a20", |a| {
        a.mov(ax, 0xffff)?;
        a.mov(es, ax)?;
        a.mov(al, byte_ptr(0x10).es())
    });
    case("hlt", |a| a.hlt());
    case("rep movsw", |a| {
        a.mov(cx, 3)?;
        a.mov(si, 4)?;
        a.mov(di, 0x84)?;
        a.rep().movsw()
    });
    case("cr0 without pe again", |a| {
        a.mov(eax, cr0)?;
        a.mov(cr0, eax)
    });
    suite.add("real ivt too short", Start::Real, |a| a.int(0x80)).with(|s| s.idt.limit = 0x201);
    suite
        .add("real step", Start::Real, |a| {
            a.nop()?;
            a.nop()
        })
        .with(|s| s.registers.rflags |= 0x100)
        .resumed(3);
    suite
        .add("real iret", Start::Real, |a| {
            a.mov(sp, 0x4000)?;
            a.iret()
        })
        .poke(0x1_4000, &[0x40, 0, 0, 0x30, 0xd7, 0x7e])
        .poke(CODE + 0x40, &[0xf4])
        .resumed(1);
}

fn protected(suite: &mut Suite) {
    suite.add("protected int 80h", Start::Protected, |a| a.int(0x80));
    suite.add("protected ud2", Start::Protected, |a| a.ud2());
    suite.add("protected fault with code", Start::Protected, |a| {
        a.mov(eax, 0x1f8)?;
        a.mov(ds, eax)
    });
    suite.add("protected user int 80h and back", Start::ProtectedUser, |a| a.int(0x80)).resumed(1);
    suite.add("protected user fault", Start::ProtectedUser, |a| a.hlt());
    suite
        .add("protected user bad inner stack", Start::ProtectedUser, |a| a.int(0x80))
        .poke(SHORT_TSS + 8, &[0x23]);
    suite
        .add("protected user absent inner stack", Start::ProtectedUser, |a| a.int(0x80))
        .poke(GDT + 0x10 + 5, &[0x13]);
    suite
        .add("protected user tss too short", Start::ProtectedUser, |a| a.int(0x80))
        .with(|s| s.segments[7].limit = 8);
    suite
        .add("protected 16-bit gate", Start::ProtectedUser, |a| a.int(0x80))
        .word(SHORT_IDT + 8 * 0x80, layout::gate(sel::CODE32, 0x6800, 0xe6, 0));
    suite
        .add("protected call gate with parameters", Start::ProtectedUser, |a| {
            a.push(0x1111)?;
            a.push(0x2222)?;
            a.db(&[0x9a, 0, 0, 0, 0, 0x23, 1])
        })
        .poke(layout::GATE, &[0xf4, 0xca, 8, 0])
        .resumed(1);
    suite
        .add("protected iret to user", Start::Protected, |a| {
            a.push(0x23)?;
            a.push(i32::try_from(USER_DATA).unwrap())?;
            a.push(0x3246)?;
            a.push(0x1b)?;
            a.push(i32::try_from(USER_CODE).unwrap())?;
            a.iretd()
        })
        .poke(USER_CODE, &[0xcd, 0x8f]);
    suite
        .add("protected iret to virtual-8086", Start::Protected, |a| {
            for word in [0x5000, 0x4000, 0x4000, 0x4000, 0x8900] {
                a.push(word)?;
            }
            a.push(0x1000)?;
            a.push(0x2_3202)?;
            a.push(0x8000)?;
            a.push(0x10)?;
            a.iretd()
        })
        .poke(USER_CODE + 0x10, &[0x50, 0x8c, 0xd8, 0xa3, 0x80, 0, 0xcd, 0x8f]);
    suite
        .add("protected iret to virtual-8086 iopl 0", Start::Protected, |a| {
            for word in [0x5000, 0x4000, 0x4000, 0x4000, 0x8900] {
                a.push(word)?;
            }
            a.push(0x1000)?;
            a.push(0x2_0202)?;
            a.push(0x8000)?;
            a.push(0x10)?;
            a.iretd()
        })
        .poke(USER_CODE + 0x10, &[0xcd, 0x8f]);
    suite
        .add("protected sysenter and sysexit", Start::ProtectedUser, |a| a.sysenter())
        .with(|s| {
            s.msrs[0].1 = 0x30;
            s.msrs[1].1 = RSP0;
            s.msrs[2].1 = 0x3_0100;
        })
        .poke(CODE + 0x100, &[0xf4]);
    suite
        .add("protected syscall", Start::ProtectedUser, |a| a.db(&[0x0f, 5]))
        .with(|s| {
            s.efer = 1;
            s.msrs[4].1 = 0x001b_0030_0003_0100;
        })
        .poke(CODE + 0x100, &[0xf4]);
    suite.add("protected code read", Start::Protected, |a| {
        a.mov(eax, dword_ptr(i32::try_from(CODE).unwrap()).cs())
    });
    suite.add("protected code write", Start::Protected, |a| {
        a.mov(dword_ptr(i32::try_from(DATA).unwrap()).cs(), eax)
    });
    suite.add("protected pusha popa", Start::Protected, |a| {
        a.pushad()?;
        a.popad()
    });
    // PAE paging: one table at 0xd000, its directory at 0xe000 maps 2 MiB.
    let pae = |suite: &mut Suite, name: &str, pdpte: u64, pde: u64, address: u32| {
        suite
            .add(format!("protected pae {name}"), Start::Protected, |a| {
                a.mov(eax, 0xd000)?;
                a.mov(cr3, eax)?;
                a.mov(eax, cr4)?;
                a.or(eax, 0x20)?;
                a.mov(cr4, eax)?;
                a.mov(eax, cr0)?;
                a.or(eax, 0x8000_0000_u32)?;
                a.mov(cr0, eax)?;
                a.mov(dword_ptr(address), esi)
            })
            .word(0xd000, pdpte)
            .word(0xe000, pde)
            .word(0xe008, 0x85);
    };
    pae(suite, "writes", 0xe001, 0x87, 0x4_0000);
    pae(suite, "absent", 0xe001, 0x87, 0x40_0000);
    pae(suite, "read-only", 0xe001, 0x87, 0x20_0000);
    pae(suite, "reserved pdpte", 0xe003, 0x87, 0x4_0000);
    suite
        .add("protected 32-bit paging", Start::Protected, |a| {
            a.mov(eax, 0xd000)?;
            a.mov(cr3, eax)?;
            a.mov(eax, cr4)?;
            a.or(eax, 0x10)?;
            a.mov(cr4, eax)?;
            a.mov(eax, cr0)?;
            a.or(eax, 0x8000_0000_u32)?;
            a.mov(cr0, eax)?;
            a.mov(dword_ptr(0x4_0000), esi)?;
            a.mov(dword_ptr(0x40_0000), esi)
        })
        .word(0xd000, 0x83);
}

/// 16-bit to 32-bit to 64-bit code and, by far transfers, back.
fn trampoline(suite: &mut Suite) {
    // At 3000:0000 (0x30000): load the table, set PE, jump to 32-bit code at 0x30100.
    let real: &[u8] = &[
        0x66, 0x0f, 0x01, 0x16, 0x80, 0x00, // lgdt [0x80] (DS = 4000)
        0x0f, 0x20, 0xc0, // mov eax, cr0
        0x0c, 0x01, // or al, 1
        0x0f, 0x22, 0xc0, // mov cr0, eax
        0x66, 0xea, 0x00, 0x01, 0x03, 0x00, 0x30, 0x00, // jmp 0030:00030100
    ];
    let mut protected = CodeAssembler::new(32).unwrap();
    let mut emit = || -> crate::tiny::Emitted {
        let a = &mut protected;
        a.mov(eax, u32::from(sel::DATA))?;
        a.mov(ds, eax)?;
        a.mov(ss, eax)?;
        a.mov(esp, u32::try_from(STACK).unwrap())?;
        a.mov(eax, 0x620)?;
        a.mov(cr4, eax)?;
        a.mov(eax, u32::try_from(PML4).unwrap())?;
        a.mov(cr3, eax)?;
        a.mov(ecx, 0xc000_0080_u32)?;
        a.mov(eax, 0x900)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.mov(eax, 0x8001_0033_u32)?;
        a.mov(cr0, eax)?;
        a.db(&[0xea, 0, 2, 3, 0, 8, 0]) // jmp 0008:00030200
    };
    emit().unwrap();
    let protected = protected.assemble(CODE + 0x100).unwrap();
    let mut long = CodeAssembler::new(64).unwrap();
    long.rdmsr().unwrap();
    long.mov(rbx, 0x1234_5678_9abc_def0_u64).unwrap();
    long.mov(r15, rbx).unwrap();
    long.hlt().unwrap();
    let long = long.assemble(CODE + 0x200).unwrap();
    suite
        .raw("trampoline to long mode", Start::Real, real)
        .poke(CODE + 0x100, &protected)
        .poke(CODE + 0x200, &long)
        .poke(DATA + 0x80, &[0xef, 0x01, 0, 0x80, 0, 0]);
    // The way back: compatibility mode, paging off, EFER.LME off.
    suite.add("trampoline out of long mode", Start::Kernel32, |a| {
        a.mov(eax, cr0)?;
        a.and(eax, 0x7fff_ffff)?;
        a.mov(cr0, eax)?;
        a.mov(ecx, 0xc000_0080_u32)?;
        a.rdmsr()?;
        a.and(eax, !0x100)?;
        a.wrmsr()?;
        a.mov(eax, 0)?;
        a.mov(cr3, eax)
    });
    suite.add("trampoline lme without pae", Start::Protected, |a| {
        a.mov(ecx, 0xc000_0080_u32)?;
        a.mov(eax, 0x100)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.mov(eax, 0x8000_0011_u32)?;
        a.mov(cr0, eax)
    });
    suite
        .add("trampoline to real mode", Start::Protected, |a| {
            a.db(&[0xea, 0x00, 0x01, 0x00, 0x00, 0x40, 0x00]) // jmp 0040:0100
        })
        .poke(
            CODE + 0x100,
            &[
                0xb8, 0x48, 0x00, // mov ax, 48h
                0x8e, 0xd8, // mov ds, ax
                0x0f, 0x20, 0xc0, // mov eax, cr0
                0x24, 0xfe, // and al, 0feh
                0x0f, 0x22, 0xc0, // mov cr0, eax
                0xea, 0x20, 0x01, 0x00, 0x30, // jmp 3000:0120
            ],
        )
        .poke(CODE + 0x120, &[0x8c, 0xc8, 0xf4]);
}
