//! Hand-made guests that more than one test uses.
//!
//! At each of their exits all flags are defined: a CMP follows what leaves some of them open (AND, shifts). So their
//! recordings are the same on every host, and can be golden.

use iced_x86::code_asm::*;
use scribe_vmm::machine::platform::{GUEST_INTERFACE_PORT, UART_PORT};

use crate::tiny::{self, DATA, Emitted, PIC_VECTORS};

/// The status with which [`ticks`] switches off.
pub const TICKS_STATUS: u8 = 7;
/// The byte that ends [`echo`] and [`busy_echo`] (EOT).
pub const END_OF_INPUT: u8 = 4;
/// PIT ticks in 10 ms.
pub const TEN_MS: u16 = 11_932;
/// Status and data ports of the UART.
const LSR: u32 = UART_PORT as u32 + 5;
const RBR: u32 = UART_PORT as u32;

/// Counts `count` ticks of the PIT at 100 Hz, halted between them, writes RAM and prints a dot at every 32nd, and
/// switches off.
///
/// # Errors
/// The assembler's.
pub fn ticks(a: &mut CodeAssembler, count: u32) -> Emitted {
    ticks_of(a, TEN_MS, count)
}

/// As [`ticks`], with another period in PIT ticks.
///
/// # Errors
/// The assembler's.
pub fn ticks_of(a: &mut CodeAssembler, period: u16, count: u32) -> Emitted {
    let (mut again, mut tick, mut quiet) = (a.create_label(), a.create_label(), a.create_label());
    tiny::gate(a, PIC_VECTORS, tick)?;
    tiny::load_idt(a)?;
    tiny::pic(a, &[0])?;
    tiny::pit_periodic(a, period)?;
    a.mov(rbx, DATA)?;
    a.mov(r12d, 0)?;
    a.set_label(&mut again)?;
    a.sti()?;
    a.hlt()?;
    a.cmp(r12d, count)?;
    a.jb(again)?;
    tiny::print(a, "done\n")?;
    tiny::power_off(a, TICKS_STATUS)?;
    a.set_label(&mut tick)?;
    a.push(rax)?;
    a.push(rdx)?;
    a.inc(r12d)?;
    a.mov(qword_ptr(rbx + r12 * 8), r12)?;
    a.mov(eax, r12d)?;
    a.and(eax, 31)?;
    a.cmp(eax, 0)?;
    a.jne(quiet)?;
    tiny::print(a, ".")?;
    a.set_label(&mut quiet)?;
    tiny::end_of_interrupt(a)?;
    a.pop(rdx)?;
    a.pop(rax)?;
    tiny::return_with_interrupts_off(a)
}

/// Echoes console input, taken by interrupts, while the PIT ticks at 100 Hz; halted in between. [`END_OF_INPUT`] switches
/// off, with the number of bytes as its status.
///
/// # Errors
/// The assembler's.
pub fn echo(a: &mut CodeAssembler) -> Emitted {
    let (mut again, mut tick, mut input) = (a.create_label(), a.create_label(), a.create_label());
    let (mut none, mut end) = (a.create_label(), a.create_label());
    tiny::gate(a, PIC_VECTORS, tick)?;
    tiny::gate(a, PIC_VECTORS + 4, input)?;
    tiny::load_idt(a)?;
    tiny::pic(a, &[0, 4])?;
    tiny::pit_periodic(a, TEN_MS)?;
    tiny::out8(a, UART_PORT + 4, 0x0b)?; // DTR, RTS, OUT2
    tiny::out8(a, UART_PORT + 1, 1)?; // receive interrupt
    a.mov(rbx, DATA)?;
    a.mov(r13d, 0)?;
    tiny::print(a, "ready\n")?;
    a.set_label(&mut again)?;
    a.sti()?;
    a.hlt()?;
    a.jmp(again)?;

    a.set_label(&mut tick)?;
    a.inc(r12)?;
    tiny::end_of_interrupt(a)?;
    tiny::return_with_interrupts_off(a)?;

    a.set_label(&mut input)?;
    a.mov(edx, LSR)?;
    a.in_(al, dx)?;
    a.and(al, 1)?;
    a.cmp(al, 0)?;
    a.je(none)?;
    a.mov(edx, RBR)?;
    a.in_(al, dx)?;
    a.cmp(al, u32::from(END_OF_INPUT))?;
    a.je(end)?;
    a.mov(byte_ptr(rbx + r13), al)?;
    a.inc(r13)?;
    a.out(dx, al)?;
    a.jmp(input)?;
    a.set_label(&mut none)?;
    tiny::end_of_interrupt(a)?;
    tiny::return_with_interrupts_off(a)?;
    a.set_label(&mut end)?;
    finish(a)
}

/// Spins on a counter that only the PIT's handler moves, as a kernel does on jiffies, and never sleeps; echoes console input,
/// taken by interrupts. [`END_OF_INPUT`] switches off, with the number of bytes as its status; so do `ticks` ticks, unless
/// that is 0. `period` is the PIT's, in its ticks.
///
/// # Errors
/// The assembler's.
pub fn jiffies(a: &mut CodeAssembler, period: u16, ticks: u32) -> Emitted {
    let [mut again, mut same, mut tick, mut input, mut none, mut end] = [(); 6].map(|()| a.create_label());
    tiny::gate(a, PIC_VECTORS, tick)?;
    tiny::gate(a, PIC_VECTORS + 4, input)?;
    tiny::load_idt(a)?;
    tiny::pic(a, &[0, 4])?;
    tiny::pit_periodic(a, period)?;
    tiny::out8(a, UART_PORT + 4, 0x0b)?; // DTR, RTS, OUT2
    tiny::out8(a, UART_PORT + 1, 1)?; // receive interrupt
    a.mov(rbx, DATA)?;
    a.mov(r12d, 0)?;
    a.mov(r13d, 0)?;
    tiny::print(a, "ready\n")?;
    a.sti()?;
    a.set_label(&mut again)?;
    if ticks != 0 {
        a.cmp(r12d, ticks)?;
        a.jae(end)?;
    }
    a.mov(rsi, r12)?;
    a.set_label(&mut same)?;
    a.add(r8, r12)?;
    a.mov(qword_ptr(rbx + 0x800), r8)?;
    a.cmp(rsi, r12)?;
    a.je(same)?;
    a.jmp(again)?;

    a.set_label(&mut tick)?;
    a.push(rax)?;
    a.push(rdx)?;
    a.inc(r12)?;
    tiny::end_of_interrupt(a)?;
    a.pop(rdx)?;
    a.pop(rax)?;
    a.iretq()?;

    a.set_label(&mut input)?;
    a.push(rax)?;
    a.push(rdx)?;
    let mut more = a.create_label();
    a.set_label(&mut more)?;
    a.mov(edx, LSR)?;
    a.in_(al, dx)?;
    a.test(al, 1)?;
    a.jz(none)?;
    a.mov(edx, RBR)?;
    a.in_(al, dx)?;
    a.cmp(al, u32::from(END_OF_INPUT))?;
    a.je(end)?;
    a.inc(r13)?;
    a.out(dx, al)?;
    a.jmp(more)?;
    a.set_label(&mut none)?;
    tiny::end_of_interrupt(a)?;
    a.pop(rdx)?;
    a.pop(rax)?;
    a.iretq()?;
    a.set_label(&mut end)?;
    a.cli()?;
    finish(a)
}

/// As [`echo`], but it polls, computes between two looks, and takes no interrupt.
///
/// # Errors
/// The assembler's.
pub fn busy_echo(a: &mut CodeAssembler) -> Emitted {
    let (mut again, mut end) = (a.create_label(), a.create_label());
    tiny::out8(a, UART_PORT + 1, 1)?; // without it nothing is received
    a.mov(rbx, DATA)?;
    a.mov(r13d, 0)?;
    tiny::print(a, "ready\n")?;
    a.set_label(&mut again)?;
    tiny::spin(a, 100)?;
    a.mov(edx, LSR)?;
    a.in_(al, dx)?;
    a.and(al, 1)?;
    a.cmp(al, 0)?;
    a.je(again)?;
    a.mov(edx, RBR)?;
    a.in_(al, dx)?;
    a.cmp(al, u32::from(END_OF_INPUT))?;
    a.je(end)?;
    a.mov(byte_ptr(rbx + r13), al)?;
    a.inc(r13)?;
    a.out(dx, al)?;
    a.jmp(again)?;
    a.set_label(&mut end)?;
    finish(a)
}

/// Switches off with status R13.
fn finish(a: &mut CodeAssembler) -> Emitted {
    a.mov(eax, r13d)?;
    a.mov(edx, u32::from(GUEST_INTERFACE_PORT) + 0x14)?;
    a.out(dx, eax)?;
    a.mov(edx, u32::from(GUEST_INTERFACE_PORT) + 0x18)?;
    a.out(dx, eax)
}
