//! Single steps, breakpoints, debug registers, and the shadows behind STI and MOV SS.

use iced_x86::code_asm::*;

use super::Suite;
use super::layout::{self, CODE, DATA, HANDLERS, IDT, STACK, Start, USER_CODE, USER_DATA};
use crate::tiny::Emitted;

const TF: u64 = 0x100;

pub(super) fn add(suite: &mut Suite) {
    steps(suite);
    breakpoints(suite);
    registers(suite);
    shadows(suite);
}

fn steps(suite: &mut Suite) {
    for (start, who) in [(Start::Kernel, "kernel"), (Start::User, "user"), (Start::User32, "user32")] {
        let mut case = |name: &str, emit: fn(&mut CodeAssembler) -> Emitted| {
            suite
                .add(format!("step {name} {who}"), start, emit)
                .with(|s| s.registers.rflags |= TF)
                .resumed(8);
        };
        case("nops", |a| {
            a.nop()?;
            a.nop()
        });
        case("mov ss", |a| {
            a.mov(eax, ss)?;
            a.mov(ss, eax)?;
            a.nop()?;
            a.nop()
        });
        case("rep stosb", |a| {
            a.mov(ecx, 3)?;
            a.mov(edi, u32::try_from(USER_DATA).unwrap())?;
            a.rep().stosb()
        });
        case("repe cmpsb", |a| {
            a.mov(ecx, 4)?;
            a.mov(edi, u32::try_from(USER_DATA).unwrap())?;
            a.mov(esi, edi)?;
            a.repe().cmpsb()
        });
        case("jump", |a| {
            let mut over = a.create_label();
            a.jmp(over)?;
            a.nop()?;
            a.set_label(&mut over)?;
            a.nop()
        });
        case("int3", |a| {
            a.int3()?;
            a.nop()
        });
        case("int 80h", |a| {
            a.int(0x80)?;
            a.nop()
        });
        case("icebp", |a| {
            a.db(&[0xf1])?;
            a.nop()
        });
        case("syscall", |a| {
            a.db(&[0x0f, 5])?;
            a.nop()
        });
        case("cpuid", |a| {
            a.xor(eax, eax)?;
            a.cpuid()?;
            a.nop()
        });
        case("out", |a| {
            a.out(0x80, al)?;
            a.nop()
        });
        case("ud2", |a| a.ud2());
    }
    suite
        .add("step by popf", Start::User, |a| {
            a.push(0x102)?;
            a.popfq()?;
            a.nop()?;
            a.nop()
        })
        .resumed(6);
    suite
        .add("step ended by popf", Start::User, |a| {
            a.push(2)?;
            a.popfq()?;
            a.nop()?;
            a.nop()
        })
        .with(|s| s.registers.rflags |= TF)
        .resumed(6);
    suite
        .add("step pushf", Start::User, |a| {
            a.pushfq()?;
            a.pop(rax)
        })
        .with(|s| s.registers.rflags |= TF)
        .resumed(6);
    suite
        .add("step by iret", Start::Kernel, |a| {
            a.mov(rsp, DATA + 0x80)?;
            a.iretq()
        })
        .poke(DATA + 0x80, &[CODE + 0x30, 8, 0x102, STACK, 0x10].map(u64::to_le_bytes).concat())
        .poke(CODE + 0x30, &[0x90, 0x90, 0xf4])
        .resumed(4);
    suite
        .add("step syscall unmasked", Start::User, |a| a.syscall())
        .with(|s| {
            s.registers.rflags |= TF;
            s.msrs[7].1 = 0x200;
        })
        .resumed(4);
    suite
        .add("step by sysret", Start::Kernel, |a| {
            a.mov(rcx, USER_CODE)?;
            a.mov(r11d, 0x102)?;
            a.sysretq()
        })
        .poke(USER_CODE, &[0x90, 0x90, 0xcd, 0x8f])
        .resumed(4);
    suite
        .add("step into page fault", Start::User, |a| a.mov(eax, dword_ptr(0x10_0000)))
        .page(0x10_0000, 0)
        .with(|s| s.registers.rflags |= TF);
    suite
        .add("step through far call", Start::User32, |a| a.db(&[0x9a, 0x40, 0, 8, 0, 0x1b, 0]))
        .poke(USER_CODE + 0x40, &[0xcb])
        .with(|s| s.registers.rflags |= TF)
        .resumed(5);
    suite
        .add("step call gate", Start::User, |a| a.db(&[0xff, 0x1c, 0x25, 0x80, 0x10, 0x09, 0]))
        .poke(USER_DATA + 0x80, &[0, 0, 0, 0, 0xc3, 0])
        .with(|s| s.registers.rflags |= TF)
        .resumed(3);
    suite
        .add("step wrmsr and mov cr", Start::Kernel, |a| {
            a.mov(rax, cr3)?;
            a.mov(cr3, rax)?;
            a.mov(rax, cr0)?;
            a.mov(cr0, rax)?;
            a.invlpg(ptr(DATA))?;
            a.mov(ecx, 0xc000_0102_u32)?;
            a.rdmsr()?;
            a.wrmsr()
        })
        .with(|s| s.registers.rflags |= TF)
        .resumed(9);
}

fn breakpoints(suite: &mut Suite) {
    for (start, who) in [(Start::Kernel, "kernel"), (Start::User, "user")] {
        let code = start.code();
        let mut case = |name: &str, enable: u64, address: u64, emit: fn(&mut CodeAssembler) -> Emitted| {
            suite
                .add(format!("breakpoint {name} {who}"), start, emit)
                .with(|s| {
                    s.debug[0] = address;
                    s.dr7 |= enable;
                })
                .resumed(4);
        };
        case("execute", 1, code + 1, |a| {
            a.nop()?;
            a.nop()?;
            a.nop()
        });
        case("execute at page fault", 1, code + 1, |a| {
            a.nop()?;
            a.mov(eax, dword_ptr(0x10_0000))
        });
        case("write", 1 | 0x1_0000 | 0xc_0000, USER_DATA, |a| {
            a.mov(dword_ptr(USER_DATA), eax)?;
            a.nop()?;
            a.mov(ebx, dword_ptr(USER_DATA))
        });
        case("access", 1 | 0x3_0000, USER_DATA + 2, |a| {
            a.mov(eax, dword_ptr(USER_DATA))?;
            a.nop()
        });
        case("disabled", 0x3_0000, USER_DATA + 2, |a| {
            a.mov(eax, dword_ptr(USER_DATA))?;
            a.nop()
        });
        case("rep", 1 | 0x1_0000, USER_DATA + 2, |a| {
            a.mov(edi, u32::try_from(USER_DATA).unwrap())?;
            a.mov(ecx, 4)?;
            a.rep().stosb()
        });
    }
}

fn registers(suite: &mut Suite) {
    suite.add("debug registers moved", Start::Kernel, |a| {
        a.mov(rax, 0x1234_5678_9abc_u64)?;
        a.mov(dr0, rax)?;
        a.mov(dr3, rax)?;
        a.mov(rbx, dr3)?;
        a.mov(rcx, dr6)?;
        a.mov(rdx, dr7)
    });
    suite.add("debug dr6 written", Start::Kernel, |a| {
        a.mov(rax, 0xffff_ffff_u64)?;
        a.mov(dr6, rax)?;
        a.mov(rbx, dr6)?;
        a.xor(eax, eax)?;
        a.mov(dr6, rax)?;
        a.mov(rcx, dr6)
    });
    suite.add("debug dr7 written", Start::Kernel, |a| {
        a.xor(eax, eax)?;
        a.mov(dr7, rax)?;
        a.mov(rbx, dr7)?;
        a.mov(eax, 0x300)?;
        a.mov(dr7, rax)?;
        a.mov(rcx, dr7)
    });
    suite.add("debug dr4 is dr6", Start::Kernel, |a| {
        a.db(&[0x0f, 0x21, 0xe0])?; // mov rax, dr4
        a.db(&[0x0f, 0x21, 0xeb]) // mov rbx, dr5
    });
    suite.add("debug dr4 with de", Start::Kernel, |a| a.db(&[0x0f, 0x21, 0xe0])).with(|s| s.cr4 |= 8);
    suite.add("debug dr6 high", Start::Kernel, |a| {
        a.mov(rax, 1_u64 << 32)?;
        a.mov(dr6, rax)
    });
    suite.add("debug dr7 high", Start::Kernel, |a| {
        a.mov(rax, 1_u64 << 32)?;
        a.mov(dr7, rax)
    });
    suite.add("debug at user", Start::User, |a| a.mov(rax, dr0));
    suite
        .add("debug general detect", Start::Kernel, |a| {
            a.nop()?;
            a.mov(rax, dr0)?;
            a.nop()
        })
        .with(|s| s.dr7 |= 0x2000)
        .resumed(1);
}

/// #DB pending, TF and faults behind STI and MOV SS; interrupts themselves are in the engines' tests.
fn shadows(suite: &mut Suite) {
    let at = IDT + 16 * 0x80;
    suite.add("shadow sti", Start::Kernel, |a| {
        a.sti()?;
        a.hlt()
    });
    suite.add("shadow sti at user", Start::User, |a| a.sti()).with(|s| s.registers.rflags |= 0x3000);
    suite.add("shadow sti then int", Start::Kernel, |a| {
        a.sti()?;
        a.int(0x80)
    });
    suite
        .add("shadow mov ss then int", Start::Kernel, |a| {
            a.mov(eax, ss)?;
            a.mov(ss, eax)?;
            a.int(0x80)
        })
        .word(at, layout::gate(8, HANDLERS + 0x800, 0xee, 1));
    suite
        .add("shadow mov ss then syscall with tf", Start::User, |a| {
            a.mov(eax, ss)?;
            a.mov(ss, eax)?;
            a.syscall()
        })
        .with(|s| s.registers.rflags |= TF)
        .resumed(4);
    suite
        .add("shadow mov ss then fault", Start::User, |a| {
            a.mov(eax, ss)?;
            a.mov(ss, eax)?;
            a.ud2()
        })
        .with(|s| s.registers.rflags |= TF)
        .resumed(1);
}
