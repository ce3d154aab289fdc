//! The guest that is interrupted: a few hundred instructions with every way in which an interrupt may have to wait.
//!
//! In kernel mode: REP instructions in both directions, STI behind CLI and behind itself, MOV SS, POPF, each kind of branch,
//! a software interrupt and a fault whose handlers run with interrupts off. In user mode: a loop, REP MOVS, and SYSCALL, once
//! into a kernel that keeps interrupts off and once into one that lets them in.
//!
//! IRQ 4's handler reads the serial port until it is empty and writes down where it was called ([`calls`]).

use iced_x86::code_asm::*;
use scribe_devices::uart;
use scribe_vmm::machine::memory::GuestRam;
use scribe_vmm::machine::platform::UART_PORT;

use crate::tiny::{self, DATA, Emitted, IDT, PIC_VECTORS};

/// Guest time (ns) that a byte takes to the guest.
pub const BYTE_NS: u64 = uart::BYTE_NS;
/// The status with which the guest switches off.
pub const STATUS: u8 = 3;

const SOURCE: u64 = DATA;
const TARGET: u64 = DATA + 0x1000;
const GDT: u64 = DATA + 0x2000;
const TSS: u64 = DATA + 0x2800;
/// Calls of the handler so far, and then 32 bytes for each.
const LOG: u64 = DATA + 0x3000;
const STACK: u64 = DATA + 0x8000;
const INTERRUPT_STACK: u64 = DATA + 0x9000;
const SYSCALL_STACK: u64 = DATA + 0xa000;
const USER_STACK: u64 = DATA + 0xb000;
/// Tables of the boot protocol (vmm/src/machine/boot.rs): the first entry of each level is made open to user mode.
const PAGE_TABLES: [u64; 3] = [0x9000, 0xa000, 0xb000];
const KERNEL_CODE: u64 = 0x10;
const KERNEL_DATA: u32 = 0x18;
const USER_DATA: u64 = 0x28;
const USER_CODE: u64 = 0x30;
const TSS_SELECTOR: u32 = 0x38;
const EFER: u32 = 0xc000_0080;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const SFMASK: u32 = 0xc000_0084;
const IF: u64 = 0x200;
const INT_KERNEL: u8 = 0x41;
const INT_USER: u8 = 0x42;
const UNDEFINED: u8 = 6;

/// What the handler wrote down of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// where the guest was interrupted
    pub rip: u64,
    /// with these flags
    pub rflags: u64,
    /// RCX then: inside a REP instruction what is left of it
    pub rcx: u64,
    /// RSP then
    pub rsp: u64,
}

/// The calls of the handler so far.
///
/// # Panics
/// There are more than the handler has room for.
pub fn calls(ram: &GuestRam) -> Vec<Call> {
    let word = |address| {
        let mut bytes = [0; 8];
        ram.read(address, &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    };
    let count = word(LOG);
    assert!(count < 0x40, "{count} calls");
    (0..count)
        .map(|n| LOG + 32 * (n + 1))
        .map(|at| Call { rip: word(at), rflags: word(at + 8), rcx: word(at + 16), rsp: word(at + 24) })
        .collect()
}

fn write_msr(a: &mut CodeAssembler, index: u32, value: u64) -> Emitted {
    a.mov(ecx, index)?;
    a.mov(eax, u32::try_from(value & 0xffff_ffff).unwrap())?;
    a.mov(edx, u32::try_from(value >> 32).unwrap())?;
    a.wrmsr()
}

fn write(a: &mut CodeAssembler, address: u64, value: u64) -> Emitted {
    a.mov(rdi, address)?;
    a.mov(rax, value)?;
    a.mov(qword_ptr(rdi), rax)
}

/// Code and data of user mode, a TSS for the way back.
fn user_mode(a: &mut CodeAssembler, syscall: CodeLabel) -> Emitted {
    for table in PAGE_TABLES {
        a.mov(rdi, table)?;
        a.or(qword_ptr(rdi), 4)?;
    }
    a.mov(rax, cr3)?;
    a.mov(cr3, rax)?;
    let tss = [0x67 | (TSS & 0xff_ffff) << 16 | 0x89 << 40 | (TSS >> 24 & 0xff) << 56, TSS >> 32];
    let descriptors = [
        (KERNEL_CODE, 0x00af_9b00_0000_ffff),
        (KERNEL_DATA.into(), 0x00cf_9300_0000_ffff),
        (USER_DATA, 0x00cf_f300_0000_ffff),
        (USER_CODE, 0x00af_fb00_0000_ffff),
        (TSS_SELECTOR.into(), tss[0]),
        (u64::from(TSS_SELECTOR) + 8, tss[1]),
    ];
    for (selector, descriptor) in descriptors {
        write(a, GDT + selector, descriptor)?;
    }
    write(a, TSS + 4, INTERRUPT_STACK)?; // RSP0
    write(a, TSS + 0x700, 0x7f | GDT << 16)?; // the pseudo-descriptor
    a.lgdt(ptr(rdi))?;
    a.mov(eax, TSS_SELECTOR)?;
    a.ltr(ax)?;
    a.mov(ecx, EFER)?;
    a.rdmsr()?;
    a.or(eax, 1)?; // SCE
    a.wrmsr()?;
    write_msr(a, STAR, 0x20 << 48 | KERNEL_CODE << 32)?;
    write_msr(a, SFMASK, IF)?;
    a.lea(rax, ptr(syscall))?;
    a.mov(rdx, rax)?;
    a.shr(rdx, 32)?;
    a.mov(ecx, LSTAR)?;
    a.wrmsr()
}

/// `vector` may be asked for by INT of user mode.
fn open_gate(a: &mut CodeAssembler, vector: u8) -> Emitted {
    a.mov(rdi, IDT + 16 * u64::from(vector) + 5)?;
    a.or(byte_ptr(rdi), 0x60)
}

fn strings(a: &mut CodeAssembler) -> Emitted {
    let copy = |a: &mut CodeAssembler, offset: u64, count: u32| {
        a.mov(rsi, SOURCE + offset)?;
        a.mov(rdi, TARGET + offset)?;
        a.mov(ecx, count)
    };
    copy(a, 0, 12)?;
    a.rep().movsb()?;
    copy(a, 0x21, 5)?;
    a.rep().movsq()?;
    copy(a, 0xfff - 0x40, 9)?;
    a.rep().movsw()?;
    a.std()?;
    copy(a, 0x80, 4)?;
    a.rep().movsb()?;
    a.cld()?;
    copy(a, 0, 6)?;
    a.repe().cmpsb()?;
    copy(a, 0x100, 7)?;
    a.rep().stosb()?;
    a.xor(ecx, ecx)?;
    a.rep().movsb() // none
}

fn branches(a: &mut CodeAssembler) -> Emitted {
    tiny::spin(a, 3)?;
    let mut again = a.create_label();
    let mut over = a.create_label();
    a.mov(ecx, 3)?;
    a.set_label(&mut again)?;
    a.inc(r8)?;
    a.loop_(again)?;
    a.jrcxz(over)?;
    a.nop()?;
    a.set_label(&mut over)?;
    a.cmp(rcx, rcx)
}

/// STI, MOV SS and POPF, each before what is interrupted in another way.
fn shadows(a: &mut CodeAssembler) -> Emitted {
    let mut taken = a.create_label();
    a.cli()?;
    a.nop()?;
    a.nop()?;
    a.sti()?;
    a.nop()?;
    a.nop()?;
    a.sti()?; // they are on: no shadow
    a.nop()?;
    a.cli()?;
    a.sti()?;
    a.cli()?; // never open
    a.nop()?;
    a.sti()?;
    a.inc(r8)?;
    a.cli()?;
    a.mov(rsi, SOURCE)?;
    a.mov(rdi, TARGET + 0x200)?;
    a.mov(ecx, 3)?;
    a.sti()?;
    a.rep().movsb()?; // its first iteration in the shadow
    a.cli()?;
    a.cmp(rcx, rcx)?;
    a.sti()?;
    a.je(taken)?; // a branch in the shadow
    a.nop()?;
    a.set_label(&mut taken)?;
    a.mov(eax, KERNEL_DATA)?;
    a.mov(ss, eax)?;
    a.nop()?;
    a.nop()?;
    a.mov(ecx, 3)?;
    a.mov(ss, eax)?;
    a.rep().movsb()?;
    a.mov(ss, eax)?;
    a.mov(rax, rsp)?;
    a.pushfq()?;
    a.cli()?;
    a.nop()?;
    a.popfq()?; // on again, without a shadow
    a.nop()
}

/// Before it returns, with interrupts off.
fn handler_work(a: &mut CodeAssembler) -> Emitted {
    a.push(rcx)?;
    a.push(rsi)?;
    a.push(rdi)?;
    a.mov(rsi, SOURCE)?;
    a.mov(rdi, TARGET + 0x300)?;
    a.mov(ecx, 3)?;
    a.rep().movsb()?;
    a.pop(rdi)?;
    a.pop(rsi)?;
    a.pop(rcx)
}

fn input_handler(a: &mut CodeAssembler) -> Emitted {
    let (mut again, mut done) = (a.create_label(), a.create_label());
    let saved = 24;
    a.push(rax)?;
    a.push(rdx)?;
    a.push(rdi)?;
    a.mov(rdx, LOG)?;
    a.inc(qword_ptr(rdx))?;
    a.mov(rdi, qword_ptr(rdx))?;
    a.and(rdi, 0x3f)?; // the last ones, if there are many
    a.shl(rdi, 5)?;
    a.add(rdi, rdx)?;
    for (frame, field) in [(0, 0), (16, 8), (24, 24)] {
        a.mov(rax, qword_ptr(rsp + saved + frame))?;
        a.mov(qword_ptr(rdi + field), rax)?;
    }
    a.mov(qword_ptr(rdi + 16), rcx)?;
    a.set_label(&mut again)?;
    a.mov(edx, u32::from(UART_PORT) + 5)?;
    a.in_(al, dx)?;
    a.test(al, 1)?;
    a.jz(done)?;
    a.mov(edx, u32::from(UART_PORT))?;
    a.in_(al, dx)?;
    a.add(r9, rax)?;
    a.jmp(again)?;
    a.set_label(&mut done)?;
    handler_work(a)?;
    tiny::end_of_interrupt(a)?;
    a.pop(rdi)?;
    a.pop(rdx)?;
    a.pop(rax)?;
    a.iretq()
}

/// Assembles the guest, which goes through all of it so many times and switches off with [`STATUS`]. `period`: of the PIT's
/// ticks, in its own; 0: it does not tick.
///
/// # Errors
/// The assembler's.
pub fn course(a: &mut CodeAssembler, turns: u32, period: u16) -> Emitted {
    let (mut again, mut tick) = (a.create_label(), a.create_label());
    let [mut input, mut spurious, mut kernel, mut back, mut undefined] = [(); 5].map(|()| a.create_label());
    let [mut syscall, mut plain, mut user, mut home] = [(); 4].map(|()| a.create_label());
    a.mov(rsp, STACK)?;
    for (vector, handler) in [
        (PIC_VECTORS, tick),
        (PIC_VECTORS + 4, input),
        (PIC_VECTORS + 7, spurious),
        (INT_KERNEL, kernel),
        (INT_USER, back),
        (UNDEFINED, undefined),
    ] {
        tiny::gate(a, vector, handler)?;
    }
    open_gate(a, INT_USER)?;
    tiny::load_idt(a)?;
    user_mode(a, syscall)?;
    if period == 0 {
        tiny::pic(a, &[4])?;
    } else {
        tiny::pic(a, &[0, 4])?;
        tiny::pit_periodic(a, period)?;
    }
    tiny::out8(a, UART_PORT + 4, 0x0b)?; // DTR, RTS, OUT2
    tiny::out8(a, UART_PORT + 1, 1)?; // receive interrupt
    a.mov(rdi, SOURCE)?;
    a.mov(eax, 0x7b)?;
    a.mov(ecx, 0x40)?;
    a.rep().stosd()?;
    a.mov(r13d, turns)?;
    a.sti()?;
    a.set_label(&mut again)?;
    strings(a)?;
    branches(a)?;
    shadows(a)?;
    a.int(i32::from(INT_KERNEL))?;
    a.nop()?;
    a.ud2()?;
    a.nop()?;
    // To user mode, and back by INT.
    a.lea(rax, ptr(user))?;
    for word in [USER_DATA | 3, USER_STACK, 2 | IF, USER_CODE | 3] {
        a.mov(rdx, word)?;
        a.push(rdx)?;
    }
    a.push(rax)?;
    a.iretq()?;
    a.set_label(&mut home)?;
    a.sti()?;
    a.nop()?;
    a.dec(r13d)?;
    a.jnz(again)?;
    a.cli()?;
    tiny::power_off(a, STATUS)?;

    a.set_label(&mut user)?;
    tiny::spin(a, 2)?;
    a.xor(ebx, ebx)?;
    a.syscall()?; // plain
    a.nop()?;
    a.mov(rsi, SOURCE)?;
    a.mov(rdi, TARGET + 0x400)?;
    a.mov(ecx, 5)?;
    a.rep().movsb()?;
    a.inc(ebx)?;
    a.syscall()?; // open
    a.nop()?;
    a.nop()?;
    a.int(i32::from(INT_USER))?;

    a.set_label(&mut syscall)?;
    a.test(ebx, ebx)?;
    a.jz(plain)?;
    a.mov(r14, rsp)?;
    a.mov(rsp, SYSCALL_STACK)?;
    a.push(rcx)?;
    a.push(r11)?;
    a.sti()?;
    handler_work(a)?;
    a.cli()?;
    a.pop(r11)?;
    a.pop(rcx)?;
    a.mov(rsp, r14)?;
    a.set_label(&mut plain)?;
    a.inc(r15)?;
    a.sysretq()?;

    a.set_label(&mut kernel)?;
    handler_work(a)?;
    a.iretq()?;

    a.set_label(&mut back)?; // from user mode for good
    a.lea(rax, ptr(home))?;
    a.mov(qword_ptr(rsp), rax)?;
    a.mov(rax, KERNEL_CODE)?;
    a.mov(qword_ptr(rsp + 8), rax)?;
    a.mov(rax, STACK)?;
    a.mov(qword_ptr(rsp + 24), rax)?;
    a.mov(eax, KERNEL_DATA)?;
    a.mov(qword_ptr(rsp + 32), rax)?;
    a.iretq()?;

    a.set_label(&mut undefined)?;
    a.add(qword_ptr(rsp), 2)?;
    a.iretq()?;

    a.set_label(&mut tick)?;
    a.push(rax)?;
    a.push(rdx)?;
    a.inc(r12)?;
    tiny::end_of_interrupt(a)?;
    a.pop(rdx)?;
    a.pop(rax)?;
    a.iretq()?;

    a.set_label(&mut spurious)?;
    a.inc(r10)?;
    a.iretq()?;

    a.set_label(&mut input)?;
    input_handler(a)
}
