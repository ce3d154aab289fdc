//! What random guests hardly come to: code and page tables on one page, an instruction that runs twice because it stores to
//! its own page.

use iced_x86::code_asm::*;
use scribe_types::cpu::Registers;
use scribe_types::stop::{Answer, Exit, Progress, Stop};

use crate::testing::{Bench, CODE, DATA};

/// Linear addresses from 1 GiB on: a page directory, and tables of 4 KiB pages for its first and third 2 MiB.
const LINEAR: u64 = 0x4000_0000;
const DIRECTORY: u64 = 0x5000;
const FIRST: u64 = 0xa000;
const THIRD: u64 = 0xb000;
/// Of the third 2 MiB: the same slot of the TLB as [`LINEAR`].
const SAME_SLOT: u64 = LINEAR + 0x40_0000;

fn map(bench: &mut Bench, tables: [u64; 2]) {
    bench.write(0x2008, &(DIRECTORY | 3).to_le_bytes());
    bench.write(DIRECTORY, &(tables[0] | 3).to_le_bytes());
    bench.write(DIRECTORY + 16, &(tables[1] | 3).to_le_bytes());
}

fn to_halt(bench: &mut Bench) {
    assert_eq!(bench.cpu.run(None, &false.into()), Stop::Exit(Exit::Halt), "{}", bench.cpu.registers());
    bench.cpu.answer(Answer::Done);
    assert_eq!(bench.cpu.finish(), None);
}

/// The registers at the guest's HLT: straight, and with a stop at each place.
#[track_caller]
fn both_ways(make: impl Fn() -> Bench) -> Registers {
    let (mut straight, mut stepped) = (make(), make());
    to_halt(&mut straight);
    loop {
        let at = stepped.cpu.progress();
        let next = Progress { steps: at.steps + 1, ..at };
        match stepped.cpu.run(Some(next), &false.into()) {
            Stop::Reached => {}
            Stop::Exit(Exit::Halt) => break,
            other => panic!("{other:?}"),
        }
    }
    stepped.cpu.answer(Answer::Done);
    assert_eq!(stepped.cpu.finish(), None);
    assert_eq!(stepped.cpu.registers(), straight.cpu.registers());
    assert!(stepped.cpu.save().unwrap() == straight.cpu.save().unwrap());
    straight.cpu.registers()
}

#[test]
fn a_walk_that_writes_into_the_running_block_is_seen_by_the_next_instruction() {
    // The code's page is a page table too: an entry of it is ADD EAX, ECX, with the A bit set AND EAX, ECX.
    let make = || {
        let mut bench = Bench::with_code(&[]);
        let mut a = CodeAssembler::new(64).unwrap();
        a.mov(eax, 0x20_0110).unwrap();
        a.mov(ecx, 0x20_0030).unwrap();
        a.mov(rbx, LINEAR + 0x5000).unwrap();
        let start = CODE + 0x28 - 0x17;
        let mut code = a.assemble(start).unwrap();
        code.extend([0x8b, 0x13]); // mov edx, [rbx]
        let entry = CODE + 0x28;
        bench.write(entry - code.len() as u64, &code);
        bench.write(entry, &[0x03, 0xc1, 0x20, 0, 0, 0, 0, 0, 0xf4]);
        map(&mut bench, [CODE, CODE]);
        bench.change(|state| state.registers.rip = entry - code.len() as u64);
        bench
    };
    assert_eq!(both_ways(make).general[0], 0x20_0110 & 0x20_0030);
}

#[test]
fn a_walk_for_code_that_writes_over_it_is_seen() {
    // ADD EAX, [RCX] is the entry that maps it at LINEAR; when it is fetched from there it is AND EAX, [RCX].
    let mut bench = Bench::with_code(&[]);
    let offset = 0x40;
    bench.write(CODE + offset, &[0x03, 0x01, 0x10, 0, 0, 0, 0, 0, 0xf4]);
    bench.write(DATA, &0x10u32.to_le_bytes());
    map(&mut bench, [CODE, CODE]);
    for (rip, expected) in [(CODE, DATA + 0x110), (LINEAR + (offset << 9), 0)] {
        bench.change(|state| {
            state.registers.general[0] = DATA + 0x100;
            state.registers.general[1] = DATA;
            state.registers.rip = rip + offset;
        });
        to_halt(&mut bench);
        assert_eq!(bench.general(0), expected);
    }
}

#[test]
fn an_instruction_that_has_to_run_alone_does_so_wherever_its_block_begins() {
    // MOVSQ at the end of a page, from a page whose translation is stale to its own page, in the same slot of the TLB.
    let make = || {
        let mut bench = Bench::with_code(&[]);
        map(&mut bench, [FIRST, THIRD]);
        bench.write(FIRST, &((DATA) | 3).to_le_bytes());
        bench.write(THIRD, &(CODE | 3).to_le_bytes());
        bench.write(DATA, &1u64.to_le_bytes());
        bench.write(DATA + 0x1000, &2u64.to_le_bytes());
        let mut a = CodeAssembler::new(64).unwrap();
        a.mov(rax, qword_ptr(rsi)).unwrap();
        a.mov(qword_ptr(rbx), rcx).unwrap(); // another page, and no INVLPG
        a.movsq().unwrap();
        let code = a.assemble(CODE + 0x1000 - 8).unwrap();
        assert_eq!(code.len(), 8);
        bench.write(CODE + 0x1000 - 8, &code);
        bench.write(CODE + 0x1000, &[0x48, 0x8b, 0x57, 0xf8, 0xf4]); // mov rdx, [rdi - 8]; hlt
        bench.change(|state| {
            let general = &mut state.registers.general;
            (general[1], general[3]) = ((DATA + 0x1000) | 3, FIRST);
            (general[6], general[7]) = (LINEAR, SAME_SLOT);
            state.registers.rip = CODE + 0x1000 - 8;
        });
        bench
    };
    both_ways(make);
}

#[test]
fn a_store_that_is_only_watched_does_not_walk() {
    // D is cleared without INVLPG: the processor does not set it again, whether somebody watches stores or not.
    let make = |watch: bool| {
        let mut bench = Bench::new(|a| {
            a.mov(qword_ptr(rsi), rax)?;
            a.and(byte_ptr(rbx), 0x9f)?;
            a.nop()?;
            a.mov(qword_ptr(rsi), rax)?;
            a.movzx(edx, byte_ptr(rbx))?;
            a.hlt()
        });
        map(&mut bench, [FIRST, THIRD]);
        bench.write(FIRST, &(DATA | 3).to_le_bytes());
        bench.change(|state| {
            state.registers.general[3] = FIRST;
            state.registers.general[6] = LINEAR;
        });
        bench.cpu.track_dirty_pages();
        bench.steps(3);
        if watch {
            assert!(bench.cpu.take_dirty_pages().contains(&(DATA >> 12)));
        }
        to_halt(&mut bench);
        assert_eq!(bench.general(2), 3);
        assert!(bench.cpu.take_dirty_pages().contains(&(DATA >> 12)));
    };
    make(false);
    make(true);
}
