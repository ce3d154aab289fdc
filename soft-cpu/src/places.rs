//! Every place is reached exactly, and code that is written is never run as it was: the run loop and the block cache.

use iced_x86::code_asm::*;
use scribe_types::cpu::Registers;
use scribe_types::stop::{Answer, Exit, Progress, Stop};

use crate::Behaviour;
use crate::testing::{Bench, CODE, DATA, RAM};

/// A loop with a call, both kinds of branches, and REP instructions inside; ends in a HLT.
fn mixed() -> Bench {
    Bench::new(|a| {
        let mut again = a.create_label();
        let mut over = a.create_label();
        let mut function = a.create_label();
        a.mov(ebx, 4)?;
        a.set_label(&mut again)?;
        a.mov(rsi, CODE)?;
        a.mov(rdi, DATA)?;
        a.mov(ecx, 5)?;
        a.rep().movsb()?;
        a.test(bl, 1)?;
        a.jz(over)?;
        a.call(function)?;
        a.set_label(&mut over)?;
        a.xor(ecx, ecx)?;
        a.rep().stosb()?; // none
        a.mov(ecx, 3)?;
        a.rep().stosq()?;
        a.dec(ebx)?;
        a.jnz(again)?;
        a.hlt()?;
        a.set_label(&mut function)?;
        a.add(eax, 7)?;
        a.sti()?;
        a.nop()?;
        a.cli()?;
        a.ret()
    })
}

/// All places of a run, each with the registers there, reached by one step from the one before.
fn walked(mut bench: Bench) -> Vec<(Progress, Registers)> {
    let mut places = Vec::new();
    loop {
        let at = bench.cpu.progress();
        places.push((at, bench.cpu.registers()));
        let next = Progress { steps: at.steps + 1, ..at };
        match bench.cpu.run(Some(next), &false.into()) {
            Stop::Reached => {}
            Stop::Exit(Exit::Halt) => return places,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn every_place_is_reached_exactly_from_every_other() {
    let places = walked(mixed());
    assert!(places.len() > 80, "{} places", places.len());
    assert!(places.is_sorted_by(|a, b| a.0 < b.0));
    for (n, &(place, registers)) in places.iter().enumerate() {
        let mut bench = mixed();
        // On the way it stops once more, at another place each time.
        let other = places[n * 7 % (n + 1)].0;
        for stop in [other, place] {
            assert_eq!(bench.cpu.run(Some(stop), &false.into()), Stop::Reached);
            assert_eq!(bench.cpu.progress(), stop);
        }
        assert_eq!(bench.cpu.registers(), registers, "{place:?}");
    }
}

#[test]
fn kicks_change_nothing() {
    let places = walked(mixed());
    let mut bench = mixed();
    for _ in 0..1000 {
        assert_eq!(bench.cpu.run(None, &true.into()), Stop::Kicked);
        let at = bench.cpu.progress();
        let next = Progress { steps: at.steps + 1, ..at };
        if bench.cpu.run(Some(next), &false.into()) == Stop::Exit(Exit::Halt) {
            break;
        }
    }
    assert_eq!(bench.cpu.progress(), places.last().unwrap().0);
    bench.cpu.answer(Answer::Done);
    assert_eq!(bench.cpu.finish(), None);
    assert_eq!(bench.cpu.progress(), Progress::NONE);
}

/// `mov eax, N; hlt` at [`DATA`], which is run over and over.
fn constant() -> Bench {
    let mut bench = Bench::with_code(&[]);
    bench.write(DATA, &[0xb8, 1, 0, 0, 0, 0xf4]);
    bench.change(|state| state.registers.rip = DATA);
    bench
}

/// Runs [`constant`] to its end.
fn value(bench: &mut Bench) -> u64 {
    assert_eq!(bench.cpu.run(None, &false.into()), Stop::Exit(Exit::Halt));
    bench.cpu.answer(Answer::Done);
    assert_eq!(bench.cpu.finish(), None);
    let value = bench.general(0);
    bench.change(|state| state.registers.rip = DATA);
    value
}

#[test]
fn code_that_a_device_has_written_is_decoded_anew() {
    let mut bench = constant();
    assert_eq!(value(&mut bench), 1);
    bench.write(DATA + 1, &[2]);
    assert_eq!(value(&mut bench), 1, "nobody has told the processor");
    bench.cpu.invalidate(&[DATA >> 12]);
    assert_eq!(value(&mut bench), 2);
    bench.write(DATA + 1, &[3]);
    bench.cpu.invalidate(&[(DATA >> 12) + 1, RAM >> 12]);
    assert_eq!(value(&mut bench), 2, "other pages do not matter");
}

#[test]
fn code_across_pages_is_decoded_anew_when_either_is_written() {
    let mut bench = Bench::with_code(&[]);
    // mov eax, imm32 with two bytes of the constant on the next page; hlt
    bench.write(DATA + 0xffd, &[0xb8, 1, 2, 3, 4, 0xf4]);
    let run = |bench: &mut Bench| {
        bench.change(|state| state.registers.rip = DATA + 0xffd);
        assert_eq!(bench.cpu.run(None, &false.into()), Stop::Exit(Exit::Halt));
        bench.cpu.answer(Answer::Done);
        assert_eq!(bench.cpu.finish(), None);
        bench.general(0)
    };
    assert_eq!(run(&mut bench), 0x0403_0201);
    for (at, byte, expected) in [(0xffe, 0x11, 0x0403_0211), (0x1001, 0x44, 0x4403_0211)] {
        bench.write(DATA + at, &[byte]);
        bench.cpu.invalidate(&[(DATA + at) >> 12]);
        assert_eq!(run(&mut bench), expected);
    }
}

#[test]
fn a_page_behind_itself_is_dropped_once() {
    // Two linear pages are the same page of RAM, and an instruction goes across them: from its end to its start.
    let mut bench = constant();
    for n in 0..512 {
        bench.write(0x4000 + 8 * n, &(DATA | 3).to_le_bytes());
    }
    bench.write(0x3008, &0x4003_u64.to_le_bytes());
    let start = DATA + 0xffd;
    bench.write(start, &[0xb8, 1, 2]);
    bench.write(DATA, &[3, 4, 0xf4]);
    for byte in [4, 5, 6] {
        bench.write(DATA + 1, &[byte]);
        bench.cpu.invalidate(&[DATA >> 12]);
        bench.change(|state| state.registers.rip = start);
        assert_eq!(bench.cpu.run(None, &false.into()), Stop::Exit(Exit::Halt));
        bench.cpu.answer(Answer::Done);
        assert_eq!(bench.cpu.finish(), None);
        assert_eq!(bench.general(0), u64::from(byte) << 24 | 0x03_0201);
    }
}

#[test]
fn rep_movs_over_itself_runs_what_it_has_written() {
    // rep movsb copies a HLT over the NOP behind itself.
    let mut bench = Bench::new(|a| {
        let mut target = a.create_label();
        let mut source = a.create_label();
        a.lea(rsi, ptr(source))?;
        a.lea(rdi, ptr(target))?;
        a.mov(ecx, 2)?;
        a.rep().movsb()?;
        a.set_label(&mut target)?;
        a.nop()?;
        a.nop()?;
        a.mov(eax, 9)?;
        a.hlt()?;
        a.set_label(&mut source)?;
        a.db(&[0x90, 0xf4])
    });
    assert_eq!(bench.cpu.run(None, &false.into()), Stop::Exit(Exit::Halt));
    assert_eq!(bench.general(0), 0);
}

#[test]
fn code_that_ends_beyond_ram_is_refused() {
    let mut bench = Bench::with_code(&[]);
    bench.write(0x2008, &0x5003_u64.to_le_bytes()); // the second GiB: RAM's last page, and then nothing
    bench.write(0x5000, &0x6003_u64.to_le_bytes());
    bench.write(0x6000, &((RAM - 0x1000) | 3).to_le_bytes());
    bench.write(0x6008, &(RAM | 3).to_le_bytes());
    bench.write(RAM - 1, &[0x48]);
    bench.change(|state| state.registers.rip = 0x4000_0fff);
    assert!(matches!(bench.cpu.run(None, &false.into()), Stop::Fault(_)));
}

#[test]
fn an_instruction_with_an_exit_is_finished_as_it_was() {
    let mut bench = Bench::new(|a| {
        a.in_(al, 0x71)?;
        a.nop()
    });
    assert_eq!(bench.cpu.run(None, &false.into()), Stop::Exit(Exit::PortRead { port: 0x71, size: 1 }));
    // The device writes over the instruction that asks it.
    bench.write(CODE, &[0xf4, 0xf4]);
    bench.cpu.invalidate(&[CODE >> 12]);
    bench.cpu.answer(Answer::Value(0x5a));
    assert_eq!(bench.cpu.finish(), None);
    assert_eq!((bench.general(0), bench.cpu.registers().rip), (0x5a, CODE + 2));
}

#[test]
fn rep_movs_from_a_device_has_a_sync_point_where_kvm_has_one() {
    const MMIO: u64 = 0x3000_0000;
    let mut bench = Bench::new(|a| {
        a.mov(rdi, DATA)?;
        a.mov(rsi, 0x4000_0000_u64)?;
        a.mov(ecx, 1026)?;
        a.rep().movsb()?;
        a.nop()
    });
    bench.write(0x2008, &0x5003_u64.to_le_bytes());
    bench.write(0x5000, &(MMIO | 0x83).to_le_bytes());
    assert_eq!(bench.cpu.run(None, &false.into()), Stop::Exit(Exit::MmioRead { address: MMIO, size: 1 }));
    let mut elements = 1;
    let mut counters = Vec::new();
    while bench.general(1) != 0 {
        bench.cpu.answer(Answer::Value(elements));
        match bench.cpu.finish() {
            Some(_) => elements += 1,
            None => {
                counters.push(bench.general(1));
                if bench.general(1) != 0 {
                    assert!(matches!(bench.cpu.run(None, &false.into()), Stop::Exit(_)));
                    elements += 1;
                }
            }
        }
    }
    assert_eq!((elements, counters), (1026, vec![1024, 0]));
}

/// A place in the middle of a block, taken up from its state alone: what `tcg`'s BT leaves depends on the block's beginning.
#[test]
fn a_block_goes_on_where_it_is_said_to_have_begun() {
    let code = |a: &mut CodeAssembler| {
        a.mov(ebx, 0x8000_0001_u32)?;
        a.add(ebx, ebx)?; // CF, OF and AF clear, then some set
        a.nop()?;
        a.bt(ecx, 1)?;
        a.hlt()
    };
    let tcg = || {
        let mut bench = Bench::new(code);
        bench.cpu.cpu.profile.behaviour = Behaviour::Tcg;
        bench
    };
    let mut whole = tcg();
    whole.steps(4);
    let behind = |begun: Option<u64>| {
        let mut bench = tcg();
        bench.steps(3);
        bench.change(|_| {});
        begun.into_iter().for_each(|begun| bench.cpu.continues_from(begun));
        bench.steps(1);
        bench.cpu.registers().rflags
    };
    let expected = whole.cpu.registers().rflags;
    assert_eq!(behind(Some(CODE)), expected);
    assert_ne!(behind(None), expected, "it makes no difference");
    assert_eq!(behind(Some(CODE + 7)), behind(None), "of what leads here from there nothing sets flags");
    assert_eq!(behind(Some(CODE + 0x1000)), behind(None), "nothing leads here from behind");
}
