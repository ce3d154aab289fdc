//! SYSCALL and SYSRET, SYSENTER and SYSEXIT.

use iced_x86::code_asm::*;

use super::Suite;
use super::layout::{Start, USER_CODE};

pub(super) fn add(suite: &mut Suite) {
    suite
        .add("syscall and back", Start::User, |a| a.syscall())
        .resumed(2)
        .with(|s| s.registers.rflags |= 0x4_0ed5);
    suite
        .add("syscall from user32 and back", Start::User32, |a| a.db(&[0x0f, 5]))
        .resumed(2)
        .with(|s| s.registers.rflags |= 0x4_0ed5);
    suite.add("syscall at kernel", Start::Kernel, |a| a.syscall());
    suite.add("syscall without sce", Start::User, |a| a.syscall()).with(|s| s.efer &= !1);
    suite.add("syscall from user16", Start::User16, |a| a.db(&[0x0f, 5]));
    suite.add("sysret at user", Start::User, |a| a.sysretq());
    suite.add("sysret without sce", Start::Kernel, |a| a.sysretq()).with(|s| s.efer &= !1);
    suite
        .add("sysretd in 64-bit code", Start::Kernel, |a| {
            a.mov(rcx, 0x1_0000_0000 | USER_CODE)?;
            a.mov(r11d, 0x24_7ed7)?;
            a.db(&[0x0f, 7])
        })
        .poke(USER_CODE, &[0xcd, 0x8f])
        .resumed(2);
    for (name, target, flags) in [
        ("all flags", USER_CODE, 0x24_7ed7),
        ("flags that it ignores", USER_CODE, 0x3b_0002),
        ("no flags", USER_CODE, 0),
        ("not canonical", 1 << 47, 2),
        ("with rf", USER_CODE, 0x1_0002),
    ] {
        suite
            .add(format!("sysretq {name}"), Start::Kernel, |a| {
                a.mov(rcx, target)?;
                a.mov(r11d, flags)?;
                a.sysretq()
            })
            .poke(USER_CODE, &[0xcd, 0x8f])
            .resumed(usize::from(target == USER_CODE));
    }
    suite
        .add("sysret in compatibility mode", Start::Kernel32, |a| {
            a.mov(ecx, u32::try_from(USER_CODE).unwrap())?;
            a.db(&[0x0f, 7])
        })
        .poke(USER_CODE, &[0xcd, 0x8f]);
    suite
        .add("sysret to odd star", Start::Kernel, |a| {
            a.mov(rcx, USER_CODE)?;
            a.mov(r11d, 2)?;
            a.sysretq()
        })
        .with(|s| s.msrs[4].1 = 0x0018_0008_0000_0000)
        .poke(USER_CODE, &[0xcd, 0x8f]);
    for start in [Start::User, Start::User32, Start::Kernel] {
        suite.add(format!("sysenter {start:?}"), start, |a| a.db(&[0x0f, 0x34]));
        suite.add(format!("sysexit {start:?}"), start, |a| a.db(&[0x0f, 0x35]));
    }
}
