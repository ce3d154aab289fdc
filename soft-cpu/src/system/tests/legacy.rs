//! Real mode, virtual-8086 mode, protected mode without paging; and the way from there to long mode.

use iced_x86::code_asm::*;
use scribe_types::stop::{Fault, Stop};

use super::*;
use crate::testing::STACK;

/// A gate of protected mode's IDT.
fn gate_32(offset: u64, selector: u16, attributes: u8) -> [u8; 8] {
    gate(offset, selector, 0, attributes)[..8].try_into().unwrap()
}

/// 32-bit protected mode at `cpl`, no paging, a 32-bit TSS.
fn protected(cpl: u16, emit: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Bench {
    let mut assembler = CodeAssembler::new(32).unwrap();
    emit(&mut assembler).unwrap();
    let code = assembler.assemble(CODE).unwrap();
    let mut b = Bench::with_code(&code);
    b.tables();
    for vector in 0..=255u8 {
        let attributes = if vector == 0x80 { 0xef } else { 0x8e };
        b.write(IDT + 8 * u64::from(vector), &gate_32(handler(vector), KERNEL_CODE_32, attributes));
    }
    b.write(TSS + 4, &(RSP0 as u32).to_le_bytes());
    b.write(TSS + 8, &u32::from(KERNEL_DATA).to_le_bytes());
    b.change(|s| {
        (s.cr0, s.cr4, s.efer) = (0x33, 0x600, 0);
        let dpl = u32::from(cpl) << 5;
        let (code, data) = if cpl == 3 { (USER_CODE_32, USER_DATA) } else { (KERNEL_CODE_32, KERNEL_DATA) };
        let data = Segment { base: 0, limit: u32::MAX, selector: data, attributes: 0xc093 | dpl };
        let code = Segment { selector: code, attributes: 0xc09b | dpl, ..data };
        s.segments[..6].copy_from_slice(&[data, code, data, data, data, data]);
    });
    b
}

fn words(b: &Bench, at: u64, count: u64) -> Vec<u32> {
    (0..count).map(|n| u32::from_le_bytes(b.read(at + 4 * n))).collect()
}

fn real(code: &[u8]) -> Bench {
    let mut b = Bench::with_code(&[0x90]);
    b.write(0x1_0000, code);
    b.change(|s| {
        (s.cr0, s.cr4, s.efer) = (0x30, 0, 0);
        let data = Segment { base: 0, limit: 0xffff, selector: 0, attributes: 0x93 };
        let code = Segment { base: 0x1_0000, selector: 0x1000, attributes: 0x9b, ..data };
        s.segments[..6].copy_from_slice(&[data, code, data, data, data, data]);
        s.idt.base = 0;
        s.idt.limit = 0x3ff;
        s.registers.rip = 0;
        s.registers.general[4] = 0x8000;
        s.registers.rflags = 0x202;
    });
    b
}

#[test]
fn real_mode_interrupt_and_return() {
    // INT 0x21; its handler is IRET at 0x0500:0x0010
    let mut b = real(&[0xcd, 0x21]);
    b.write(4 * 0x21, &[0x10, 0, 0, 5]);
    b.write(0x5010, &[0xcf]);
    b.steps(1);
    let s = b.cpu.state();
    assert_eq!((s.registers.rip, s.segments[1].selector, s.segments[1].base), (0x10, 0x500, 0x5000));
    assert_eq!((s.registers.general[4], s.registers.rflags), (0x7ffa, 2));
    assert_eq!(b.read::<6>(0x7ffa), [2, 0, 0, 0x10, 2, 2]);
    b.steps(1);
    let s = b.cpu.state();
    assert_eq!((s.registers.rip, s.segments[1].selector), (2, 0x1000));
    assert_eq!((s.registers.general[4], s.registers.rflags), (0x8000, 0x202));
}

#[test]
fn real_mode_limits_and_shutdown() {
    // MOV AX, [0xffff] is #GP; with no vector table it shuts down.
    let mut b = real(&[0xa1, 0xff, 0xff]);
    b.write(4 * 13, &[0, 0, 0, 5]);
    b.write(0x5000, &[0x90]);
    b.steps(1);
    assert_eq!(b.rip(), 1);
    let mut b = real(&[0xa1, 0xff, 0xff]);
    b.change(|s| s.idt.limit = 0);
    assert_eq!(b.run(5), Stop::Fault(Fault::TripleFault));
}

#[test]
fn from_real_mode_to_long_mode() {
    // LGDT [0x600]; MOV EAX, 0x11; MOV CR0, EAX; JMP 0x38:0x00010020
    let mut b = real(&[
        0x0f, 0x01, 0x16, 0x00, 0x06, // lgdt [0x600]
        0x66, 0xb8, 0x31, 0, 0, 0, // mov eax, 0x31
        0x0f, 0x22, 0xc0, // mov cr0, eax
        0x66, 0xea, 0x20, 0, 1, 0, 0x38, 0, // jmp 0x38:0x10020
    ]);
    let mut assembler = CodeAssembler::new(32).unwrap();
    let a = &mut assembler;
    a.mov(eax, 0x620).unwrap();
    a.mov(cr4, eax).unwrap();
    a.mov(eax, 0x1000).unwrap();
    a.mov(cr3, eax).unwrap();
    a.mov(ecx, 0xc000_0080u32).unwrap();
    a.mov(eax, 0x100).unwrap();
    a.xor(edx, edx).unwrap();
    a.wrmsr().unwrap();
    a.mov(eax, 0x8000_0011u32).unwrap();
    a.mov(cr0, eax).unwrap();
    let code = assembler.assemble(0x1_0020).unwrap();
    b.write(0x1_0020, &code);
    let mut jump = vec![0xea];
    jump.extend(u32::try_from(CODE).unwrap().to_le_bytes());
    jump.extend(KERNEL_CODE.to_le_bytes());
    b.write(0x1_0020 + code.len() as u64, &jump);
    b.tables_in_memory();
    b.write(0x600, &[0x7f, 0, 0, 5, 0, 0]);
    b.steps(4);
    assert_eq!((b.rip(), b.cpu.state().segments[1].attributes), (0x1_0020, 0xc09b));
    b.steps(10);
    assert_eq!(b.cpu.state().efer, 0x500);
    b.steps(2);
    let s = b.cpu.state();
    assert_eq!((s.registers.rip, s.segments[1].attributes), (CODE + 1, 0xa09b));
}

#[test]
fn protected_mode_trap_gate_from_the_user_and_back() {
    let mut b = protected(3, |a| a.int(0x80));
    b.write(handler(0x80), &[0xcf]);
    b.change(|s| s.registers.rflags = 0x202);
    b.steps(1);
    let s = b.cpu.state();
    assert_eq!((s.registers.rip, s.registers.general[4]), (handler(0x80), RSP0 - 20));
    assert_eq!((s.segments[1].selector, s.segments[2].selector), (KERNEL_CODE_32, KERNEL_DATA));
    let frame = [CODE as u32 + 2, USER_CODE_32.into(), 0x202, STACK as u32, USER_DATA.into()];
    assert_eq!(words(&b, RSP0 - 20, 5), frame);
    b.steps(1);
    let s = b.cpu.state();
    assert_eq!((s.registers.rip, s.registers.general[4]), (CODE + 2, STACK));
    assert_eq!((s.segments[1].selector, s.segments[2].selector), (USER_CODE_32, USER_DATA));
}

#[test]
fn call_gate_of_protected_mode_copies_parameters() {
    let mut b = protected(3, |a| {
        a.push(11)?;
        a.push(22)?;
        a.db(&[0x9a, 0, 0, 0, 0, 0x7b, 0]) // CALL FAR 0x78:0
    });
    let mut entry = gate_32(handler(0x40), KERNEL_CODE_32, 0xec);
    entry[4] = 2;
    b.write(GDT + 0x78, &entry);
    b.write(handler(0x40), &[0xca, 8, 0]); // RETF 8
    b.steps(3);
    let frame = [CODE as u32 + 11, USER_CODE_32.into(), 22, 11, STACK as u32 - 8, USER_DATA.into()];
    assert_eq!(words(&b, RSP0 - 24, 6), frame);
    assert_eq!(b.general(4), RSP0 - 24);
    b.steps(1);
    assert_eq!((b.rip(), b.general(4)), (CODE + 11, STACK));
}

#[test]
fn virtual_8086_mode_and_out_of_it() {
    // IRET to virtual-8086 code at 0x2000:0, which executes HLT: #GP, through the IDT to CPL 0.
    let mut b = protected(0, |a| a.iretd());
    let frame: [u32; 9] = [0, 0x2000, 0x2_0202, 0x100, 0x3000, 1, 2, 3, 4];
    for (n, word) in (0..).zip(frame) {
        b.write(STACK + 4 * n, &word.to_le_bytes());
    }
    b.write(0x2_0000, &[0xf4]);
    b.steps(1);
    let s = b.cpu.state();
    assert_eq!((s.registers.rip, s.registers.rflags), (0, 0x2_0202));
    assert_eq!(s.segments[2], Segment { base: 0x3_0000, limit: 0xffff, selector: 0x3000, attributes: 0xf3 });
    assert_eq!([s.segments[0].selector, s.segments[3].selector, s.segments[4].selector], [1, 2, 3]);
    b.steps(1);
    let s = b.cpu.state();
    assert_eq!((s.registers.rip, s.registers.rflags), (handler(13) + 1, 2));
    assert_eq!((s.segments[3].selector, s.segments[3].attributes), (0, 1 << 16));
    let frame = [0, 0, 0x2000, 0x3_0202, 0x100, 0x3000, 1, 2, 3, 4];
    assert_eq!(words(&b, s.registers.general[4], 10), frame);
}

#[test]
fn sysenter_and_sysexit_outside_long_mode() {
    let mut b = protected(3, |a| a.sysenter());
    b.write(handler(0), &[0x0f, 0x35]);
    b.change(|s| {
        s.msrs[0].1 = 0x38;
        s.msrs[1].1 = RSP0;
        s.msrs[2].1 = handler(0);
        s.registers.general[1] = STACK;
        s.registers.general[2] = CODE + 2;
    });
    b.steps(1);
    let s = b.cpu.state();
    assert_eq!((s.registers.rip, s.registers.general[4]), (handler(0), RSP0));
    assert_eq!((s.segments[1].attributes, s.segments[2].selector), (0xc09b, 0x40));
    b.steps(1);
    let s = b.cpu.state();
    assert_eq!((s.registers.rip, s.registers.general[4]), (CODE + 2, STACK));
    assert_eq!((s.segments[1].selector, s.segments[2].selector), (0x4b, 0x53));
}
