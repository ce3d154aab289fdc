//! Faults of this processor that the fuzzer or a replay between engines has found, each as a test.

use iced_x86::code_asm::*;
use scribe_types::cpu::CpuState;
use scribe_types::stop::{Answer, Exit, Stop};

use crate::cpu::vector;
use crate::flags::AC;
use crate::testing::{Bench, CODE, DATA, STACK, op_at};

/// Runs the instruction at RIP alone; the vector and error code if it faults.
fn alone(bench: &mut Bench) -> Result<(), (u8, Option<u32>)> {
    let cpu = &mut bench.cpu.cpu;
    let op = op_at(cpu, cpu.rip);
    cpu.regs[usize::from(crate::cpu::BLOCK_RIP)] = cpu.rip;
    match (op.run)(cpu, &op) {
        Ok(()) => Ok(()),
        Err(crate::cpu::Trap::Fault) => Err((cpu.fault.vector, cpu.fault.code)),
        Err(trap) => panic!("{trap:?}"),
    }
}

/// A program of the user's at `code`, with all of RAM its own. `bits`: 32 or 64.
fn user(code: &[u8], bits: u8, change: impl FnOnce(&mut CpuState)) -> Bench {
    let mut bench = Bench::with_code(code);
    for (at, entry) in [(0x1000, 0x2007), (0x2000, 0x3007), (0x3000, 0x87), (0x3008, 0x20_0087_u64)] {
        bench.write(at, &entry.to_le_bytes());
    }
    bench.change(|state| {
        state.cr0 |= 1 << 18; // alignment mask
        for segment in &mut state.segments[..6] {
            segment.attributes |= 3 << 5;
            segment.selector |= 3;
        }
        state.segments[1].attributes = if bits == 64 { 0xa0fb } else { 0xc0fb };
        change(state);
    });
    bench
}

#[test]
fn byte_registers_with_rex_are_the_low_bytes() {
    let mut bench = Bench::new(|a| {
        a.mov(sil, 5)?;
        a.mov(r14b, 7)?;
        a.add(sil, r14b)?;
        a.mov(spl, 1)
    });
    bench.steps(4);
    assert_eq!((bench.general(6), bench.general(14), bench.general(4)), (12, 7, STACK | 1));
    assert_eq!(bench.general(10), 0, "no other register");
}

#[test]
fn double_shifts_of_64_bits() {
    let mut bench = Bench::new(|a| {
        a.mov(rax, 0x8000_0000_0000_0001_u64)?;
        a.mov(rbx, 0xf000_0000_0000_000f_u64)?;
        a.mov(rcx, rax)?;
        a.shld(rax, rbx, 4u32)?;
        a.shrd(rcx, rbx, 4u32)
    });
    bench.steps(5);
    assert_eq!((bench.general(0), bench.general(1)), (0x1f, 0xf800_0000_0000_0000));
}

#[test]
fn movsxd_of_16_bits_reads_32() {
    // 66 63 03: movsxd ax, [rbx], the doubleword reaching beyond RAM's last mapped byte
    let mut bench = Bench::with_code(&[0x66, 0x63, 0x03]);
    bench.change(|state| state.registers.general[3] = crate::testing::RAM - 2);
    assert_eq!(alone(&mut bench), Err((vector::PF, Some(0))));
}

#[test]
fn alignment_comes_before_pages_and_behind_canonical_addresses() {
    let check = |address: u64, expected| {
        // 8b 03: mov eax, [rbx]
        let mut bench = user(&[0x8b, 0x03], 64, |state| {
            state.registers.general[3] = address;
            state.registers.rflags |= AC;
        });
        assert_eq!(alone(&mut bench), expected, "{address:#x}");
    };
    check(DATA, Ok(()));
    check(DATA + 1, Err((vector::AC, Some(0))));
    check(crate::testing::RAM + 1, Err((vector::AC, Some(0))));
    check(crate::testing::RAM, Err((vector::PF, Some(4))));
    check(1 << 63 | 1, Err((vector::GP, Some(0))));
}

#[test]
fn the_base_register_decides_between_gp_and_ss() {
    for (code, expected) in [
        (&[0x8b, 0x03][..], vector::GP),         // mov eax, [rbx]
        (&[0x26, 0x8b, 0x45, 0x00], vector::SS), // mov eax, es:[rbp]: the override means nothing
        (&[0x36, 0x8b, 0x03], vector::GP),       // mov eax, ss:[rbx]
        (&[0x36, 0xac], vector::GP),             // lodsb ss:[rsi]
        (&[0x58], vector::SS),                   // pop rax
    ] {
        let mut bench = Bench::with_code(code);
        bench.change(|state| {
            for number in [3, 4, 5, 6] {
                state.registers.general[number] = 1 << 62;
            }
        });
        bench.cpu.run(None, &true.into());
        let cpu = &mut bench.cpu.cpu;
        let op = op_at(cpu, CODE);
        assert!((op.run)(cpu, &op).is_err());
        let on_stack = cpu.fault.canonical && usize::from(op.seg) == crate::cpu::SS;
        let vector = if on_stack { vector::SS } else { cpu.fault.vector };
        assert_eq!(vector, expected, "{code:02x?}");
    }
}

#[test]
fn ports_need_permission_even_if_nothing_is_transferred() {
    let mut bench = user(&[0xf3, 0x6c], 64, |_| {}); // rep insb with a counter of 0
    bench.write(0x66, &[0xff, 0xff]); // the TSS has no I/O bitmap
    assert_eq!(alone(&mut bench), Err((vector::GP, Some(0))));
}

#[test]
fn a_segment_register_is_pushed_with_zeros() {
    let mut bench = user(&[0x06], 32, |_| {}); // push es
    bench.write(STACK - 4, &[0xff; 4]);
    assert_eq!(alone(&mut bench), Ok(()));
    assert_eq!(bench.read(STACK - 4), [0x1b, 0, 0, 0]);
}

#[test]
fn accesses_do_not_wrap_around_at_4_gib() {
    let mut bench = user(&[0x8b, 0x03], 32, |state| state.registers.general[3] = 0xffff_fffe);
    assert_eq!(alone(&mut bench), Err((vector::GP, Some(0))));
    let mut bench = user(&[0x50], 32, |state| state.registers.general[4] = 2); // push eax
    assert_eq!(alone(&mut bench), Err((vector::SS, Some(0))));
}

#[test]
fn invalid_is_not_too_long() {
    // lock pcmpestri xmm7, [...], 15 bytes: #UD, not #GP
    let code = [0xf0, 0x26, 0x67, 0x66, 0x45, 0x0f, 0x3a, 0x61, 0xbc, 0x24, 0x40, 0xc0, 0x01, 0x00, 0x00];
    assert_eq!(alone(&mut Bench::with_code(&code)), Err((vector::UD, None)));
    let mut code = [0x66; 16];
    code[15] = 0x90;
    assert_eq!(alone(&mut Bench::with_code(&code)), Err((vector::GP, Some(0))));
    // 0f 0d /5 with a register: no prefetch
    assert_eq!(alone(&mut Bench::with_code(&[0x0f, 0x0d, 0xe8])), Err((vector::UD, None)));
}

#[test]
fn a_call_faults_on_its_stack_before_its_target() {
    let mut bench = user(&[0xff, 0xd0], 64, |state| {
        state.registers.general[0] = 1 << 62;
        state.registers.general[4] = crate::testing::RAM + 0x1000;
    });
    assert_eq!(alone(&mut bench), Err((vector::PF, Some(6))));
    let mut bench = user(&[0xff, 0xd0], 64, |state| state.registers.general[0] = 1 << 62);
    assert_eq!(alone(&mut bench), Err((vector::GP, Some(0))));
}

#[test]
fn masked_stores_check_the_whole_operand() {
    // 66 0f f7 c1: maskmovdqu xmm0, xmm1 with an empty mask
    let mut bench = Bench::with_code(&[0x66, 0x0f, 0xf7, 0xc1]);
    bench.change(|state| state.registers.general[7] = crate::testing::RAM);
    assert_eq!(alone(&mut bench), Err((vector::PF, Some(2))));
}

#[test]
fn arpl_reads_before_it_writes() {
    let mut bench = user(&[0x63, 0x03], 32, |state| state.registers.general[3] = crate::testing::RAM);
    assert_eq!(alone(&mut bench), Err((vector::PF, Some(4))));
}

#[test]
fn fld_of_an_empty_register_onto_a_full_one_is_an_underflow() {
    let mut bench = Bench::with_code(&[0xd9, 0xc0]); // fld st(0)
    bench.change(|state| {
        state.fpu.fsw = 0xb00; // TOP 1, C1 set
        state.fpu.ftw = 0x91; // R0 is full, R1 is not
    });
    assert_eq!(alone(&mut bench), Ok(()));
    assert_eq!(bench.cpu.state().fpu.fsw, 0x141);
}

#[test]
fn fxsave_checks_alignment_in_the_order_of_processors() {
    for (address, flags, expected) in [
        (DATA + 2, AC, Err((vector::AC, Some(0)))),
        (DATA + 4, AC, Err((vector::GP, Some(0)))),
        (DATA + 2, 0, Err((vector::GP, Some(0)))),
        (crate::testing::RAM - 256, 0, Err((vector::PF, Some(6)))),
        (DATA, AC, Ok(())),
    ] {
        let mut bench = user(&[0x0f, 0xae, 0x03], 64, |state| {
            state.registers.general[3] = address;
            state.registers.rflags |= flags;
        });
        assert_eq!(alone(&mut bench), expected, "{address:#x} {flags:#x}");
    }
}

#[test]
fn a_reciprocal_just_below_the_normal_numbers_is_zero() {
    let mut bench = Bench::with_code(&[0x0f, 0x53, 0xc1]); // rcpps xmm0, xmm1
    bench.change(|state| {
        state.fpu.xmm[1][..4].copy_from_slice(&0xfe80_0001_u32.to_le_bytes());
        state.fpu.xmm[1][4..8].copy_from_slice(&0x7e80_0000_u32.to_le_bytes());
    });
    assert_eq!(alone(&mut bench), Ok(()));
    let xmm = bench.cpu.state().fpu.xmm[0];
    assert_eq!(xmm[..8], [0, 0, 0, 0x80, 0, 0, 0x80, 0]);
}

#[test]
fn an_msr_that_is_refused_faults_behind_its_sync_point() {
    let mut bench = Bench::new(|a| {
        a.mov(ecx, 0x1b)?;
        a.rdmsr()
    });
    assert_eq!(bench.run(9), Stop::Exit(Exit::MsrRead { index: 0x1b }));
    bench.cpu.answer(Answer::GeneralProtection);
    assert_eq!(bench.cpu.finish(), None);
    let state = bench.cpu.state();
    assert_eq!(state.registers.rip, CODE + 5, "as on KVM, the instruction is still the next one");
    assert_eq!(state.events.exception, Some((vector::GP, Some(0))));
}

#[test]
fn behind_its_last_element_rep_ins_is_still_the_next_instruction() {
    let mut bench = Bench::new(|a| {
        a.mov(rdi, DATA)?;
        a.mov(ecx, 2)?;
        a.rep().insb()?;
        a.nop()
    });
    assert_eq!(bench.run(9), Stop::Exit(Exit::PortRead { port: 0, size: 1 }));
    bench.cpu.answer(Answer::Value(0x11));
    assert!(bench.cpu.finish().is_some(), "one batch");
    bench.cpu.answer(Answer::Value(0x22));
    assert_eq!(bench.cpu.finish(), None);
    let registers = bench.cpu.registers();
    assert_eq!((registers.general[1], registers.rip), (0, CODE + 10 + 5));
    assert_eq!(bench.read(DATA), [0x11, 0x22]);
    bench.steps(1);
    assert_eq!(bench.cpu.registers().rip, CODE + 10 + 5 + 2);
}
