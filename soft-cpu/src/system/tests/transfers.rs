//! SYSCALL, SYSRET, IRET, far transfers, SWAPGS in long mode.

use iced_x86::code_asm::*;

use super::*;
use crate::testing::STACK;

const STAR: u64 = 0x0020_0010 << 32;

fn with_syscall(mut b: Bench) -> Bench {
    b.change(|s| {
        for (index, value) in &mut s.msrs {
            match index {
                0xc000_0081 => *value = STAR,
                0xc000_0082 => *value = HANDLERS + 0x200,
                0xc000_0083 => *value = HANDLERS + 0x300,
                0xc000_0084 => *value = 0x4_7700,
                _ => {}
            }
        }
    });
    b
}

#[test]
fn syscall_from_64_bit_and_from_compatibility_mode() {
    let mut b = with_syscall(Bench::user(|a| a.syscall()));
    b.steps(1);
    assert_eq!(b.rip(), HANDLERS + 0x200);
    assert_eq!((b.general(1), b.general(11), b.general(4)), (USER + 2, 0x202, USER_STACK));
    let s = b.cpu.state();
    assert_eq!((s.segments[1].selector, s.segments[1].attributes), (0x10, 0xa09b));
    assert_eq!((s.segments[2].selector, s.segments[2].attributes), (0x18, 0xc093));
    assert_eq!(s.registers.rflags, 2);

    let mut b = with_syscall(Bench::compatibility(|a| a.syscall()));
    b.steps(1);
    assert_eq!((b.rip(), b.general(1)), (HANDLERS + 0x300, USER + 2));
    assert_eq!(b.cpu.state().segments[1].attributes, 0xa09b);
}

#[test]
fn sysret_to_both_widths() {
    let mut b = with_syscall(Bench::kernel(|a| a.sysretq()));
    b.write(USER, &[0x90; 4]);
    b.change(|s| {
        s.registers.general[1] = USER;
        s.registers.general[11] = 0x1_0202;
    });
    b.steps(2);
    let s = b.cpu.state();
    assert_eq!(s.registers.rip, USER + 1);
    assert_eq!((s.segments[1].selector, s.segments[1].attributes), (0x33, 0xa0fb));
    assert_eq!((s.segments[2].selector, s.segments[2].attributes >> 5 & 3), (0x2b, 3));
    assert_eq!(s.registers.rflags, 0x202);

    let mut b = with_syscall(Bench::kernel(|a| a.sysret()));
    b.write(USER, &[0x90; 4]);
    b.change(|s| s.registers.general[1] = 0xffff_0000_0000_0000 | USER);
    b.steps(2);
    let s = b.cpu.state();
    assert_eq!((s.registers.rip, s.segments[1].attributes), (USER + 1, 0xc0fb));
}

#[test]
fn syscall_without_sce_and_sysenter_are_undefined() {
    let mut b = with_syscall(Bench::user(|a| a.syscall()));
    b.change(|s| s.efer &= !1);
    assert_eq!(b.fault(6)[1], USER);
    let mut b = Bench::user(|a| a.sysenter());
    assert_eq!(b.fault(6)[1], USER);
}

/// A kernel whose IRET of `emit` finds this frame.
fn iret(frame: [u64; 5], emit: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Bench {
    let mut b = Bench::kernel(emit);
    for (n, word) in (0..).zip(frame) {
        b.write(STACK + 8 * n, &word.to_le_bytes());
    }
    b.write(USER, &[0x90; 16]);
    b
}

#[test]
fn iret_to_the_user_and_to_compatibility_mode() {
    let frame = [USER, USER_CODE.into(), 0x3202, USER_STACK, USER_DATA.into()];
    let mut b = iret(frame, |a| a.iretq());
    b.change(|s| {
        s.segments[4] = Segment { base: 0x1234_5678_0000, attributes: 1 << 16, ..Segment::default() };
        s.events.nmi_masked = true;
    });
    b.steps(2);
    let s = b.cpu.state();
    assert_eq!((s.registers.rip, s.registers.rflags, s.registers.general[4]), (USER + 1, 0x3202, USER_STACK));
    assert_eq!((s.segments[1].attributes, s.segments[2].attributes), (0xa0fb, 0xc0f3));
    // The kernel's data segments are out of the user's reach; the null FS keeps its base.
    assert_eq!((s.segments[3].selector, s.segments[3].attributes >> 16), (0, 1));
    assert_eq!(s.segments[4].base, 0x1234_5678_0000);
    assert!(!s.events.nmi_masked);
    // The descriptors have been marked as accessed.
    assert_eq!(b.read::<1>(GDT + 0x30 + 5), [0xfb]);

    let frame = [USER, USER_CODE_32.into(), 0x202, 0x1_0000_0000 | USER_STACK, USER_DATA.into()];
    let mut b = iret(frame, |a| a.iretq());
    b.steps(2);
    let s = b.cpu.state();
    assert_eq!((s.registers.rip, s.registers.general[4]), (USER + 1, USER_STACK));
    assert_eq!(s.segments[1].attributes, 0xc0fb);
}

#[test]
fn iret_to_the_same_privilege_pops_the_stack_too() {
    let mut b = iret([after(16), KERNEL_CODE.into(), 2, 0x1_2345, 0], |a| a.iretq());
    b.steps(1);
    let s = b.cpu.state();
    assert_eq!((s.registers.rip, s.registers.general[4]), (after(16), 0x1_2345));
    assert_eq!((s.segments[2].selector, s.segments[2].attributes), (0, 1 << 16));
}

#[test]
fn iret_faults() {
    let gp = |frame: [u64; 5]| iret(frame, |a| a.iretq()).fault(13);
    let (code, data) = (USER_CODE.into(), USER_DATA.into());
    assert_eq!(gp([USER, 0, 2, 0, data])[0], 0, "null CS");
    assert_eq!(gp([USER, code, 2, 0, 0])[0], 0, "null SS at CPL 3");
    assert_eq!(gp([USER, code, 2, 0, KERNEL_DATA.into()])[0], u64::from(KERNEL_DATA));
    assert_eq!(gp([USER, 0x1000, 2, 0, data])[0], 0x1000, "beyond the GDT");
    assert_eq!(gp([USER, 0x30, 2, 0, data])[0], 0x30, "DPL is not RPL");
    assert_eq!(gp([1 << 63, code, 2, 0, data])[0], 0, "RIP is not canonical");
    let mut b = iret([USER, code, 2, 0, data], |a| a.iretq());
    b.change(|s| s.registers.rflags |= 1 << 14);
    assert_eq!(b.fault(13)[0], 0, "NT");
}

#[test]
fn far_returns_and_jumps_change_the_width() {
    // RETFQ to 32-bit code at CPL 0, which comes back with a far jump.
    let mut b = Bench::kernel(|a| {
        a.push(i32::from(KERNEL_CODE_32))?;
        a.push(i32::try_from(CODE + 0x100).unwrap())?;
        a.db(&[0x48, 0xcb]) // RETFQ
    });
    let mut back = vec![0xea];
    back.extend((u32::try_from(CODE).unwrap() + 0x200).to_le_bytes());
    back.extend(KERNEL_CODE.to_le_bytes());
    b.write(CODE + 0x100, &back);
    b.steps(3);
    assert_eq!((b.rip(), b.cpu.state().segments[1].attributes), (CODE + 0x100, 0xc09b));
    b.steps(1);
    assert_eq!((b.rip(), b.cpu.state().segments[1].attributes), (CODE + 0x200, 0xa09b));
}

#[test]
fn call_gate_of_long_mode_switches_the_stack() {
    // CALL FAR [pointer]
    let mut b = Bench::user(|a| a.call(fword_ptr(DATA)));
    let mut pointer = [0; 6];
    pointer[4..].copy_from_slice(&0x7bu16.to_le_bytes());
    b.write(DATA, &pointer);
    b.write(GDT + 0x78, &gate(handler(0x40), KERNEL_CODE, 0, 0xec));
    b.steps(1);
    let s = b.cpu.state();
    assert_eq!((s.registers.rip, s.registers.general[4]), (handler(0x40), RSP0 - 32));
    assert_eq!((s.segments[1].selector, s.segments[2].selector), (KERNEL_CODE, 0));
    let word = |n: u64| u64::from_le_bytes(b.read(RSP0 - 32 + 8 * n));
    assert_eq!([word(1), word(2), word(3)], [USER_CODE.into(), USER_STACK, USER_DATA.into()]);
    assert_eq!(word(0), USER + 7);
}

#[test]
fn swapgs_and_bases() {
    let mut b = Bench::kernel(|a| {
        a.swapgs()?;
        a.mov(rax, qword_ptr(0x10).gs())
    });
    b.write(DATA + 0x10, &77u64.to_le_bytes());
    b.change(|s| {
        s.segments[5].base = 0x1000;
        s.msrs[8].1 = DATA;
    });
    b.steps(2);
    assert_eq!(b.general(0), 77);
    assert_eq!(b.cpu.state().msrs[8].1, 0x1000);
    let mut b = Bench::user(|a| a.swapgs());
    assert_eq!(b.fault(13)[0], 0);
}
