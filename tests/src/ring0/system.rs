//! Control registers, MSRs, the I/O bitmap, FXSAVE, and what is denied to whom.

use iced_x86::code_asm::*;

use super::Suite;
use super::layout::{DATA, Start, TSS, USER_DATA};
use crate::tiny::Emitted;

pub(super) fn add(suite: &mut Suite) {
    controls(suite);
    msrs(suite);
    ports(suite);
    denied(suite);
    floats(suite);
    flags(suite);
}

fn controls(suite: &mut Suite) {
    for (name, value) in [
        ("as it is", 0x8001_0033_u64),
        ("paging without protection", 0x8000_0032),
        ("nw without cd", 0xa001_0033),
        ("cd and nw", 0xe001_0033),
        ("reserved low", 0x8001_0073),
        ("reserved high", 1 << 32 | 0x8001_0033),
        ("without et", 0x8001_0023),
        ("without paging in 64-bit code", 0x33),
        ("ts em am", 0x8005_003f),
    ] {
        suite.add(format!("cr0 {name}"), Start::Kernel, |a| {
            a.mov(rax, value)?;
            a.mov(cr0, rax)?;
            a.mov(rbx, cr0)
        });
    }
    for (name, value) in [
        ("as it is", 0x620_u64),
        ("all of the profile", 0x30_06b8),
        ("without pae", 0x600),
        ("vmxe", 0x2620),
        ("smxe", 0x4620),
        ("reserved 15", 0x8620),
        ("fsgsbase", 0x1_0620),
        ("pcide", 0x2_0620),
        ("osxsave", 0x4_0620),
        ("pke", 0x40_0620),
        ("umip", 0xe20),
        ("la57", 0x1620),
        ("high", 1 << 32 | 0x620),
    ] {
        suite.add(format!("cr4 {name}"), Start::Kernel, |a| {
            a.mov(rax, value)?;
            a.mov(cr4, rax)?;
            a.mov(rbx, cr4)
        });
    }
    for (name, value) in [
        ("low bits", 0x1018_u64),
        ("reserved low bits", 0x1fe7),
        ("bit 45", 1 << 45 | 0x1000),
        ("bit 63", 1 << 63 | 0x1000),
    ] {
        suite.add(format!("cr3 {name}"), Start::Kernel, |a| {
            a.mov(rax, value)?;
            a.mov(cr3, rax)?;
            a.mov(rbx, cr3)
        });
    }
    for (name, value) in [("5", 5_u64), ("16", 16)] {
        suite.add(format!("cr8 {name}"), Start::Kernel, |a| {
            a.mov(rax, value)?;
            a.mov(cr8, rax)?;
            a.mov(rbx, cr8)
        });
    }
    suite.add("cr2", Start::Kernel, |a| {
        a.mov(rax, 0x1234_5678_9abc_def0_u64)?;
        a.mov(cr2, rax)?;
        a.mov(rbx, cr2)
    });
    for n in [1_u8, 5, 7] {
        suite.raw(format!("cr{n} does not exist"), Start::Kernel, &[0x0f, 0x20, 0xc0 | n << 3, 0xf4]);
    }
    suite.raw("lock mov cr0 is cr8", Start::Kernel, &[0xf0, 0x0f, 0x20, 0xc0, 0xf4]);
    suite.raw("mov cr with memory form", Start::Kernel, &[0x0f, 0x20, 0x00, 0xf4]);
    suite.add("clts", Start::Kernel, |a| a.clts()).with(|s| s.cr0 |= 8);
    suite.add("ts denies x87", Start::Kernel, |a| a.fld1()).with(|s| s.cr0 |= 8);
    suite.add("ts denies sse", Start::User, |a| a.addps(xmm0, xmm1)).with(|s| s.cr0 |= 8);
    suite.add("ts and mp deny wait", Start::User, |a| a.wait()).with(|s| s.cr0 |= 8);
    suite.add("em denies sse", Start::User, |a| a.addps(xmm0, xmm1)).with(|s| s.cr0 |= 4);
    suite.add("em denies x87", Start::User, |a| a.fld1()).with(|s| s.cr0 |= 4);
    suite.add("no osfxsr denies sse", Start::User, |a| a.addps(xmm0, xmm1)).with(|s| s.cr4 &= !0x200);
    suite.add("tsd denies rdtsc", Start::User, |a| a.rdtsc()).with(|s| s.cr4 |= 4);
    suite
        .add("alignment check", Start::User, |a| {
            a.mov(rdi, USER_DATA)?;
            a.mov(eax, dword_ptr(rdi + 4))?;
            a.mov(eax, dword_ptr(rdi + 5))
        })
        .with(|s| {
            s.cr0 |= 0x4_0000;
            s.registers.rflags |= 0x4_0000;
        });
    suite.add("alignment unchecked at kernel", Start::Kernel, |a| a.mov(eax, dword_ptr(DATA + 5))).with(
        |s| {
            s.cr0 |= 0x4_0000;
            s.registers.rflags |= 0x4_0000;
        },
    );
}

fn msrs(suite: &mut Suite) {
    for (name, index, value) in [
        ("efer as it is", 0xc000_0080_u32, 0xd01_u64),
        ("efer reserved", 0xc000_0080, 0xd03),
        ("efer svme", 0xc000_0080, 0x1d01),
        ("efer ffxsr", 0xc000_0080, 0x4d01),
        ("efer without lme", 0xc000_0080, 0xc01),
        ("efer without nxe", 0xc000_0080, 0x501),
        ("efer without lma", 0xc000_0080, 0x901),
        ("efer high", 0xc000_0080, 1 << 32 | 0xd01),
        ("star", 0xc000_0081, 0x1234_5678_9abc_def0),
        ("lstar", 0xc000_0082, 0xffff_8000_0000_0000),
        ("lstar not canonical", 0xc000_0082, 1 << 47),
        ("cstar not canonical", 0xc000_0083, 1 << 47),
        ("sfmask", 0xc000_0084, 0xffff_ffff),
        ("fs base", 0xc000_0100, 0x1234_5678),
        ("fs base not canonical", 0xc000_0100, 1 << 47),
        ("gs base not canonical", 0xc000_0101, 1 << 47),
        ("kernel gs base not canonical", 0xc000_0102, 1 << 47),
        ("sysenter cs", 0x174, 0x1234),
        ("sysenter esp", 0x175, 0x1_2345_6789),
        ("sysenter eip not canonical", 0x176, 1 << 47),
        ("pat", 0x277, 0x0001_0405_0607_0406),
        ("pat reserved", 0x277, 2),
        ("tsc", 0x10, 0),
        ("apic base", 0x1b, 0),
        ("unknown", 0x1234_5678, 0),
    ] {
        suite.add(format!("wrmsr {name}"), Start::Kernel, |a| {
            a.mov(ecx, index)?;
            a.mov(eax, u32::try_from(value & 0xffff_ffff).unwrap())?;
            a.mov(edx, u32::try_from(value >> 32).unwrap())?;
            a.wrmsr()?;
            a.rdmsr()
        });
    }
    suite.add("rdmsr at user", Start::User, |a| {
        a.mov(ecx, 0xc000_0100_u32)?;
        a.rdmsr()
    });
    suite.add("rdmsr clears high halves", Start::Kernel, |a| {
        a.mov(rcx, 0xffff_ffff_c000_0082_u64)?;
        a.mov(rax, -1_i64)?;
        a.mov(rdx, -1_i64)?;
        a.rdmsr()
    });
}

fn ports(suite: &mut Suite) {
    for (start, who) in [(Start::User, "user"), (Start::User32, "user32")] {
        for (port, bytes) in
            [(0x80_u8, 1), (0x81, 1), (0x82, 2), (0x82, 4), (0x84, 2), (0x85, 2), (0xff, 1), (0xff, 2)]
        {
            suite.add(format!("port {port:x} of {bytes} {who}"), start, |a| match bytes {
                1 => a.out(u32::from(port), al),
                2 => a.out(u32::from(port), ax),
                _ => a.out(u32::from(port), eax),
            });
        }
        suite.add(format!("port beyond bitmap {who}"), start, |a| {
            a.mov(edx, 0x100)?;
            a.out(dx, al)
        });
        suite
            .add(format!("port with iopl {who}"), start, |a| a.out(0x40, al))
            .with(|s| s.registers.rflags |= 0x3000);
        suite.add(format!("port outsb denied {who}"), start, |a| {
            a.mov(edx, 0x81)?;
            a.outsb()
        });
        suite.add(format!("port insb allowed {who}"), start, |a| {
            a.mov(edx, 0x80)?;
            a.mov(edi, u32::try_from(USER_DATA).unwrap())?;
            a.insb()
        });
    }
    suite.add("port without bitmap", Start::User, |a| a.out(0x80, al)).poke(TSS + 0x66, &[0x89, 0]);
    suite.add("port bitmap at limit", Start::User, |a| a.out(0x80, al)).with(|s| s.segments[7].limit = 0x78);
    suite.add("port tss too short", Start::User, |a| a.out(0x80, al)).with(|s| s.segments[7].limit = 0x66);
    suite.add("port bitmap on absent page", Start::User, |a| a.out(0x80, al)).page(TSS, 0);
}

fn denied(suite: &mut Suite) {
    let mut case = |name: &str, bytes: &[u8]| {
        let code = [bytes, &[0xcd, 0x8f]].concat();
        suite.raw(format!("denied {name}"), Start::User, &code);
    };
    case("invd", &[0x0f, 0x08]);
    case("wbinvd", &[0x0f, 0x09]);
    case("invlpg", &[0x0f, 0x01, 0x38]);
    case("mov cr0", &[0x0f, 0x20, 0xc0]);
    case("mov to cr3", &[0x0f, 0x22, 0xd8]);
    case("clts", &[0x0f, 0x06]);
    case("wrmsr", &[0x0f, 0x30]);
    case("rdpmc", &[0x0f, 0x33]);
    case("cli", &[0xfa]);
    case("lock nop", &[0xf0, 0x90]);
    case("lock add to register", &[0xf0, 0x01, 0xc0]);
    case("lock mov", &[0xf0, 0x89, 0x00]);
    case("ud0", &[0x0f, 0xff, 0xc0]);
    case("ud1", &[0x0f, 0xb9, 0xc0]);
    case("push cs in 64-bit code", &[0x0e]);
    case("into in 64-bit code", &[0xce]);
    case("aam 0", &[0xd4, 0]);
    case("call far direct in 64-bit code", &[0x9a]);
    case("monitor", &[0x0f, 0x01, 0xc8]);
    case("vmmcall", &[0x0f, 0x01, 0xd9]);
    case("vmrun", &[0x0f, 0x01, 0xd8]);
    case("vmcall", &[0x0f, 0x01, 0xc1]);
    case("xgetbv", &[0x0f, 0x01, 0xd0]);
    case("xsave", &[0x0f, 0xae, 0x20]);
    case("sixteen bytes", &[0x66; 15]);
    case("cmpxchg16b unaligned", &[0x48, 0x0f, 0xc7, 0x0c, 0x25, 0x08, 0x10, 0x09, 0x00]);
    case("movaps unaligned", &[0x0f, 0x28, 0x04, 0x25, 0x08, 0x10, 0x09, 0x00]);
    case("divide overflow", &[0x31, 0xc0, 0xff, 0xc0, 0x89, 0xc2, 0xf7, 0xf0]);
    let mut case = |name: &str, bytes: &[u8]| {
        let code = [bytes, &[0xf4]].concat();
        suite.raw(format!("kernel {name}"), Start::Kernel, &code);
    };
    case("wbinvd", &[0x0f, 0x09]);
    case("invlpg of register", &[0x0f, 0x01, 0xf8 | 2]);
    case("vmmcall", &[0x0f, 0x01, 0xd9]);
    case("vmrun", &[0x0f, 0x01, 0xd8]);
    case("clgi", &[0x0f, 0x01, 0xdd]);
    case("xsetbv", &[0x0f, 0x01, 0xd1]);
    case("invpcid", &[0x66, 0x0f, 0x38, 0x82, 0x00]);
    case("rdpmc", &[0x31, 0xc9, 0x0f, 0x33]);
    case("monitor", &[0x0f, 0x01, 0xc8]);
    case("mwait", &[0x0f, 0x01, 0xc9]);
    case("rsm", &[0x0f, 0xaa]);
}

fn floats(suite: &mut Suite) {
    let fill: fn(&mut CodeAssembler) -> Emitted = |a| {
        a.fldpi()?;
        a.fld1()?;
        a.mov(rax, 0x1122_3344_5566_7788_u64)?;
        a.movq(xmm0, rax)?;
        a.movq(xmm15, rax)?;
        a.mov(rdi, USER_DATA + 0x200)
    };
    suite.add("fxsave", Start::User, |a| {
        fill(a)?;
        a.fxsave(ptr(rdi + 0))
    });
    suite.add("fxsave64", Start::Kernel, |a| {
        fill(a)?;
        a.fxsave64(ptr(rdi + 0))
    });
    suite.add("fxsave unaligned", Start::Kernel, |a| {
        fill(a)?;
        a.fxsave(ptr(rdi + 8))
    });
    suite.add("fxrstor", Start::Kernel, |a| {
        fill(a)?;
        a.fxsave64(ptr(rdi + 0))?;
        a.fninit()?;
        a.pxor(xmm0, xmm0)?;
        a.mov(dword_ptr(rdi + 24), 0x1fa0)?;
        a.fxrstor64(ptr(rdi + 0))?;
        a.stmxcsr(dword_ptr(USER_DATA))
    });
    suite.add("fxrstor reserved mxcsr", Start::Kernel, |a| {
        fill(a)?;
        a.fxsave64(ptr(rdi + 0))?;
        a.mov(dword_ptr(rdi + 24), 0x1_1f80)?;
        a.fxrstor64(ptr(rdi + 0))
    });
    suite
        .add("fxrstor without osfxsr", Start::Kernel, |a| {
            a.mov(rdi, USER_DATA + 0x200)?;
            a.fxsave(ptr(rdi + 0))
        })
        .with(|s| s.cr4 &= !0x200);
    suite.add("ldmxcsr reserved", Start::User, |a| {
        a.mov(dword_ptr(USER_DATA), 0x1_1f80)?;
        a.ldmxcsr(dword_ptr(USER_DATA))
    });
    suite.add("simd exception", Start::User, |a| {
        a.mov(dword_ptr(USER_DATA), 0x1d80)?;
        a.ldmxcsr(dword_ptr(USER_DATA))?;
        a.mov(eax, 0x3f80_0000)?;
        a.movd(xmm0, eax)?;
        a.divss(xmm0, xmm1)
    });
    suite
        .add("simd exception without osxmmexcpt", Start::User, |a| {
            a.mov(dword_ptr(USER_DATA), 0x1d80)?;
            a.ldmxcsr(dword_ptr(USER_DATA))?;
            a.mov(eax, 0x3f80_0000)?;
            a.movd(xmm0, eax)?;
            a.divss(xmm0, xmm1)
        })
        .with(|s| s.cr4 &= !0x400);
    suite.add("x87 exception", Start::User, |a| {
        a.mov(word_ptr(USER_DATA), 0x37b)?;
        a.fldcw(word_ptr(USER_DATA))?;
        a.fld1()?;
        a.fldz()?;
        a.fdivp(st1, st0)?;
        a.nop()?;
        a.wait()
    });
}

fn flags(suite: &mut Suite) {
    for (start, who) in [(Start::Kernel, "kernel"), (Start::User, "user")] {
        for (iopl, name) in [(0_u64, "iopl 0"), (3, "iopl 3")] {
            suite
                .add(format!("popf {name} {who}"), start, |a| {
                    a.push(0x0024_7ed7)?;
                    a.popfq()?;
                    a.pushfq()?;
                    a.pop(rbx)
                })
                .with(|s| s.registers.rflags |= iopl << 12);
            suite
                .add(format!("popf of none {name} {who}"), start, |a| {
                    a.push(0)?;
                    a.popfq()
                })
                .with(|s| s.registers.rflags |= iopl << 12 | 0x24_0ad5);
            suite
                .add(format!("popf of 16 {name} {who}"), start, |a| {
                    a.db(&[0x66, 0x68, 0xd7, 0x7e])?;
                    a.popf()
                })
                .with(|s| s.registers.rflags |= iopl << 12 | 0x24_0000);
        }
    }
    suite.add("popf vm vif rf", Start::Kernel, |a| {
        a.push(0x001b_0002)?;
        a.popfq()?;
        a.pushfq()?;
        a.pop(rbx)
    });
    suite.add("cli with iopl 3", Start::User, |a| a.cli()).with(|s| s.registers.rflags |= 0x3200);
}
