//! Exceptions and interrupts in long mode.

use iced_x86::code_asm::*;
use scribe_types::stop::{Fault, Stop};

use super::*;
use crate::testing::STACK;

#[test]
fn page_fault_of_a_kernel_write_to_an_absent_page() {
    let mut b = Bench::kernel(|a| {
        a.mov(rax, 0x50_0000u64)?;
        a.mov(qword_ptr(rax), 1)
    });
    b.steps(1);
    let frame = b.fault(14);
    assert_eq!(frame, [2, after(10), KERNEL_CODE.into(), 2, STACK, KERNEL_DATA.into()]);
    assert_eq!(b.cpu.state().cr2, 0x50_0000);
    // the frame's RSP is 16-byte aligned and RF was pushed as 1
    let flags = u64::from_le_bytes(b.read(b.general(4) + 24));
    assert_eq!((b.general(4), flags), (STACK - 48, 0x1_0002));
}

#[test]
fn page_fault_codes() {
    // (present, writable, user bits of the page), CPL 3, access, code
    let cases = [
        (0u64, 0, 4), // read of an absent page
        (0, 1, 6),    // write
        (0x83, 0, 5), // read of a kernel's page
        (0x85, 1, 7), // write to a read-only page
    ];
    for (entry, write, code) in cases {
        let mut b = Bench::user(|a| {
            a.mov(rax, 0x40_0000u64)?;
            if write == 1 { a.mov(dword_ptr(rax), eax) } else { a.mov(eax, dword_ptr(rax)) }
        });
        b.write(0x3010, &entry.to_le_bytes());
        b.steps(1);
        let frame = b.fault(14);
        assert_eq!(
            frame,
            [code, USER + 10, USER_CODE.into(), 0x202, USER_STACK, USER_DATA.into()],
            "{entry:#x}"
        );
        assert_eq!(b.general(4), RSP0 - 48);
        let s = b.cpu.state();
        assert_eq!((s.segments[2].selector, s.segments[2].attributes), (0, 1 << 16));
        assert_eq!(s.registers.rflags & 0x200, 0, "interrupt gate");
    }
}

#[test]
fn reserved_bit_is_said_with_rsvd() {
    let mut b = Bench::kernel(|a| a.mov(rax, qword_ptr(0x40_0000)));
    b.write(0x3010, &(1u64 << 45 | 0x83).to_le_bytes());
    assert_eq!(b.fault(14)[0], 9);
}

#[test]
fn no_execute_and_smep() {
    let mut b = Bench::kernel(|a| a.jmp(0x40_0000));
    b.write(0x3010, &(1u64 << 63 | 0x83).to_le_bytes());
    b.steps(1);
    let frame = b.fault(14);
    assert_eq!((frame[0], frame[1]), (0x11, 0x40_0000));

    for smep in [false, true] {
        let mut b = Bench::kernel(|a| a.jmp(USER));
        b.write(USER, &[0x90; 8]);
        b.change(|s| s.cr4 |= u64::from(smep) << 20);
        b.steps(1);
        if smep {
            let frame = b.fault(14);
            assert_eq!((frame[0], frame[1]), (0x11, USER));
        } else {
            b.steps(1);
            assert_eq!(b.rip(), USER + 1);
        }
    }
}

#[test]
fn smap_and_ac() {
    let mut b = Bench::kernel(|a| {
        a.stac()?;
        a.mov(rax, qword_ptr(DATA))?;
        a.clac()?;
        a.mov(rax, qword_ptr(DATA))
    });
    b.change(|s| s.cr4 |= 1 << 21);
    b.steps(3);
    let frame = b.fault(14);
    assert_eq!((frame[0], frame[1]), (1, after(16)));
}

#[test]
fn ist_is_taken_even_at_the_same_privilege() {
    let mut b = Bench::kernel(|a| a.ud2());
    b.write(IDT + 6 * 16, &gate(handler(6), KERNEL_CODE, 1, 0x8e));
    let frame = b.fault(6);
    assert_eq!(frame[1..], [CODE, KERNEL_CODE.into(), 2, STACK, KERNEL_DATA.into()]);
    assert_eq!(b.general(4), IST1 - 40);
    assert_eq!(b.cpu.state().segments[2].selector, KERNEL_DATA);
}

#[test]
fn contributory_exceptions_double_and_triple() {
    // #GP whose gate is not present: #NP while a #GP is delivered is a double fault.
    let mut b = Bench::kernel(|a| {
        a.mov(rax, 0x8000_0000_0000_0000u64)?;
        a.mov(rax, qword_ptr(rax))
    });
    b.write(IDT + 13 * 16, &gate(handler(13), KERNEL_CODE, 0, 0x0e));
    b.steps(1);
    let frame = b.fault(8);
    assert_eq!(frame[..2], [0, after(10)]);

    let mut b = Bench::kernel(|a| a.ud2());
    b.write(IDT + 6 * 16, &[0; 16]);
    let frame = b.fault(13);
    assert_eq!(frame[..2], [6 << 3 | 3, CODE], "#UD is benign: the #GP is delivered");

    let mut b = Bench::kernel(|a| a.ud2());
    b.change(|s| s.idt.limit = 0);
    let stop = b.run(10);
    assert_eq!(stop, Stop::Fault(Fault::TripleFault));
}

#[test]
fn page_fault_during_a_page_fault_is_double() {
    let mut b = Bench::kernel(|a| a.mov(rax, qword_ptr(0x40_0000)));
    b.write(IDT + 14 * 16, &gate(handler(14), KERNEL_CODE, 1, 0x8e));
    b.write(IDT + 8 * 16, &gate(handler(8), KERNEL_CODE, 2, 0x8e));
    b.write(TSS + 0x24, &0x50_0000u64.to_le_bytes());
    b.write(TSS + 0x2c, &IST1.to_le_bytes());
    let frame = b.fault(8);
    assert_eq!(frame[..2], [0, CODE]);
    assert_eq!(b.cpu.state().cr2, 0x50_0000 - 8);
    assert_eq!(frame[4], STACK, "the stack pointer is the one before");
}

#[test]
fn stack_accesses_that_are_not_canonical_are_stack_faults() {
    let mut b = Bench::kernel(|a| {
        a.mov(rsp, 0x8000_0000_0000_0000u64)?;
        a.push(rax)
    });
    b.write(IDT + 12 * 16, &gate(handler(12), KERNEL_CODE, 1, 0x8e));
    b.steps(1);
    assert_eq!(b.fault(12)[..2], [0, after(10)]);
    let mut b = Bench::kernel(|a| {
        a.mov(rbp, 0x8000_0000_0000_0000u64)?;
        a.mov(rax, qword_ptr(rbp))
    });
    b.steps(1);
    assert_eq!(b.fault(12)[..2], [0, after(10)]);
}

#[test]
fn external_interrupt_waits_for_the_shadow_of_sti() {
    let mut b = Bench::kernel(|a| {
        a.sti()?;
        a.nop()?;
        a.nop()
    });
    b.cpu.request_window(true);
    assert_eq!(b.run(5), Stop::InterruptWindow);
    assert_eq!(b.rip(), after(2));
    b.cpu.request_window(false);
    b.cpu.inject(0x30);
    b.steps(1);
    let frame = b.frame(0x30);
    assert_eq!(frame[1..4], [after(2), KERNEL_CODE.into(), 0x202]);
}

#[test]
fn sti_with_interrupts_on_has_no_shadow() {
    let mut b = Bench::kernel(|a| {
        a.sti()?;
        a.nop()
    });
    b.change(|s| s.registers.rflags |= 0x200);
    b.steps(1);
    assert_eq!(b.cpu.state().events.shadow, 0);
}

#[test]
fn program_interrupts_obey_the_gate() {
    let mut b = Bench::user(|a| a.int(0x80));
    b.steps(1);
    let frame = b.fault(0x80);
    assert_eq!(frame[1..], [USER + 2, USER_CODE.into(), 0x202, USER_STACK, USER_DATA.into()]);
    let mut b = Bench::user(|a| a.int(0x81));
    assert_eq!(b.fault(13)[..2], [0x81 << 3 | 2, USER]);
    let mut b = Bench::user(|a| a.int3());
    b.steps(1);
    assert_eq!(b.fault(3)[1], USER + 1);
    let mut b = Bench::user(|a| a.int1());
    b.steps(1);
    assert_eq!(b.fault(1)[1], USER + 1, "no gate denies INT1");
}
