//! Integer instructions in small programs; each form against a processor is the fuzzer's work.

mod zen_flags;

use iced_x86::code_asm::*;
use scribe_types::stop::{Progress, Stop};

use crate::testing::{Bench, CODE, DATA, STACK};

#[test]
fn a_loop_counts_its_branches() {
    let mut bench = Bench::new(|a| {
        let mut again = a.create_label();
        a.mov(ecx, 10)?;
        a.xor(eax, eax)?;
        a.set_label(&mut again)?;
        a.add(eax, ecx)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.mov(rbx, DATA)?;
        a.mov(qword_ptr(rbx), rax)?;
        a.jmp(again)
    });
    bench.steps(2);
    assert_eq!(bench.cpu.progress(), Progress { branches: 0, steps: 2 });
    bench.steps(3 - 1);
    assert_eq!(bench.cpu.progress(), Progress { branches: 0, steps: 4 });
    let stop = bench.cpu.run(Some(Progress { branches: 10, steps: 2 }), &false.into());
    assert_eq!(stop, Stop::Reached);
    assert_eq!(bench.cpu.progress(), Progress { branches: 10, steps: 2 });
    assert_eq!(u64::from_le_bytes(bench.read(DATA)), 55);
    assert_eq!(bench.cpu.instructions(), 2 + 30 + 2);
}

#[test]
fn iterations_of_rep_are_places_to_stop_at() {
    let mut bench = Bench::new(|a| {
        a.mov(rdi, DATA)?;
        a.mov(ecx, 100)?;
        a.mov(eax, 0x5a)?;
        a.rep().stosb()?;
        a.nop()
    });
    bench.steps(3 + 40);
    assert_eq!((bench.general(1), bench.general(7)), (60, DATA + 40));
    assert_eq!(bench.read::<2>(DATA + 39), [0x5a, 0]);
    bench.steps(60);
    assert_eq!(bench.general(1), 0);
    assert_eq!(bench.cpu.progress().steps, 103);
}

#[test]
fn code_that_changes_itself_is_decoded_anew() {
    let mut bench = Bench::new(|a| {
        let mut target = a.create_label();
        let mut again = a.create_label();
        a.mov(ecx, 3)?;
        a.set_label(&mut again)?;
        a.lea(rdx, ptr(target))?;
        a.mov(byte_ptr(rdx + 1), cl)?; // the immediate of the next instruction
        a.set_label(&mut target)?;
        a.mov(al, 0x77)?;
        a.add(ebx, eax)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.nop()
    });
    assert_eq!(bench.cpu.run(Some(Progress { branches: 3, steps: 0 }), &false.into()), Stop::Reached);
    assert_eq!(bench.general(3), 3 + 2 + 1);
}

#[test]
fn calls_and_returns() {
    let mut bench = Bench::new(|a| {
        let mut function = a.create_label();
        let mut over = a.create_label();
        a.call(function)?;
        a.push(rax)?;
        a.pop(rdx)?;
        a.jmp(over)?;
        a.set_label(&mut function)?;
        a.mov(eax, 7)?;
        a.ret()?;
        a.set_label(&mut over)?;
        a.enter(16, 0)?;
        a.leave()?;
        a.nop()
    });
    bench.steps(8);
    assert_eq!((bench.general(2), bench.general(4)), (7, STACK));
}

#[test]
fn ret_in_32_bit_code_takes_four_bytes() {
    // call +1; hlt; ret
    let mut bench = Bench::with_code(&[0xe8, 1, 0, 0, 0, 0xf4, 0xc3]);
    // Limits of 4 GiB, 32 bits (D), not long (L).
    bench.change(|state| state.segments[1].attributes = 0xc09b);
    bench.steps(2);
    assert_eq!(bench.cpu.registers().rip, CODE + 5);
    assert_eq!(bench.general(4), STACK);
}
