//! What the comparison with the host leaves out: exceptions, alignment, saved state, estimates.
#![allow(clippy::unwrap_used, reason = "tests")]

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use crate::Behaviour;
use crate::cpu::{CR0_EM, CR0_TS, CR4_OSFXSR, CR4_OSXMMEXCPT, Cpu, Trap, vector};
use crate::testing::{Bench, CODE, DATA, op_at};

/// Instructions at RSI = [`DATA`], executed one by one.
fn bench(emit: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Bench {
    let mut bench = Bench::new(emit);
    bench.change(|state| {
        state.cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT;
        state.registers.general[6] = DATA;
    });
    bench
}

/// Executes the instruction at RIP and no exception handler; gives the vector if it faults.
fn execute(bench: &mut Bench) -> Result<(), u8> {
    let cpu: &mut Cpu = &mut bench.cpu.cpu;
    let op = op_at(cpu, CODE);
    match (op.run)(cpu, &op) {
        Ok(()) => Ok(()),
        Err(Trap::Fault) => Err(cpu.fault.vector),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn control_registers_disable_simd() {
    let mut sse = bench(|a| a.addps(xmm0, xmmword_ptr(rsi + 4)));
    let mut mmx = bench(|a| a.paddb(mm0, qword_ptr(rsi)));
    let mut saving = bench(|a| a.fxsave(ptr(rsi + 4)));
    let cases = [
        (0, CR4_OSFXSR, Err(vector::GP), Ok(()), Err(vector::GP)),
        (0, 0, Err(vector::UD), Ok(()), Err(vector::GP)),
        (CR0_TS, CR4_OSFXSR, Err(vector::NM), Err(vector::NM), Err(vector::NM)),
        (CR0_TS, 0, Err(vector::UD), Err(vector::NM), Err(vector::NM)),
        (CR0_EM | CR0_TS, CR4_OSFXSR, Err(vector::UD), Err(vector::UD), Err(vector::NM)),
    ];
    for (control0, control4, with_sse, with_mmx, with_saving) in cases {
        for (bench, expected) in [(&mut sse, with_sse), (&mut mmx, with_mmx), (&mut saving, with_saving)] {
            bench.cpu.cpu.cr0 = bench.cpu.cpu.cr0 & !(CR0_EM | CR0_TS) | control0;
            bench.cpu.cpu.cr4 = bench.cpu.cpu.cr4 & !CR4_OSFXSR | control4;
            assert_eq!(execute(bench), expected, "{control0:#x} {control4:#x}");
        }
    }
}

#[test]
fn pending_x87_exception_stops_mmx() {
    let mut mmx = bench(|a| a.pxor(mm0, mm1));
    mmx.cpu.cpu.fpu.fcw = 0x37e;
    mmx.cpu.cpu.fpu.fsw = 0x8081 | 3 << 11;
    assert_eq!(execute(&mut mmx), Err(vector::MF));
    let before = mmx.cpu.cpu.fpu.fsw;
    mmx.cpu.cpu.fpu.fcw = 0x37f;
    assert_eq!(execute(&mut mmx), Ok(()));
    let fpu = &mmx.cpu.cpu.fpu;
    assert_eq!((fpu.fsw, fpu.ftw, fpu.regs[0]), (before & !(7 << 11), 0xff, 0xffff << 64));
}

#[test]
fn unaligned_forms_cross_pages_and_aligned_ones_fault() {
    let mut store = bench(|a| a.movups(xmmword_ptr(rsi + 0xffb), xmm1));
    store.cpu.cpu.fpu.xmm[1] = 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100;
    assert_eq!(execute(&mut store), Ok(()));
    assert_eq!(store.read::<16>(DATA + 0xffb), std::array::from_fn(|n| n as u8));
    let mut load = bench(|a| a.movdqu(xmm2, xmmword_ptr(rsi + 0xffb)));
    load.write(DATA + 0xffb, &[7; 16]);
    assert_eq!(execute(&mut load), Ok(()));
    assert_eq!(load.cpu.cpu.fpu.xmm[2], u128::from_le_bytes([7; 16]));
    for mut fault in [
        bench(|a| a.movaps(xmmword_ptr(rsi + 8), xmm1)),
        bench(|a| a.movdqa(xmm1, xmmword_ptr(rsi + 1))),
        bench(|a| a.movntdq(xmmword_ptr(rsi + 8), xmm1)),
        bench(|a| a.pshufb(xmm1, xmmword_ptr(rsi + 8))),
        bench(|a| a.movsldup(xmm1, xmmword_ptr(rsi + 8))),
        // before the page is looked for
        bench(|a| a.psllw(xmm1, xmmword_ptr(0x7000_0008))),
    ] {
        assert_eq!(execute(&mut fault), Err(vector::GP));
    }
    for mut fine in [
        bench(|a| a.lddqu(xmm1, xmmword_ptr(rsi + 8))),
        bench(|a| a.pcmpistri(xmm1, xmmword_ptr(rsi + 8), 0)),
        bench(|a| a.cvtdq2pd(xmm1, qword_ptr(rsi + 4))),
        bench(|a| a.pmovzxbw(xmm1, qword_ptr(rsi + 1))),
    ] {
        assert_eq!(execute(&mut fine), Ok(()));
    }
}

#[test]
fn unmasked_exceptions_leave_the_destination() {
    let mut division = bench(|a| a.divps(xmm0, xmm1));
    let cpu = &mut division.cpu.cpu;
    // Lane 0: 1 / 0; lane 1: 1 / 3, inexact, which does not show; the others 0 / 1.
    cpu.fpu.xmm[0] = 0x3f80_0000_3f80_0000;
    cpu.fpu.xmm[1] = 0x3f80_0000_3f80_0000_4040_0000_0000_0000;
    cpu.fpu.mxcsr = 0x1f80 & !(1 << 9);
    assert_eq!(execute(&mut division), Err(vector::XM));
    let cpu = &mut division.cpu.cpu;
    assert_eq!(cpu.fpu.mxcsr, 0x1f84 & !(1 << 9));
    assert_eq!(cpu.fpu.xmm[0], 0x3f80_0000_3f80_0000);
    cpu.cr4 &= !CR4_OSXMMEXCPT;
    assert_eq!(execute(&mut division), Err(vector::UD));
    division.cpu.cpu.fpu.mxcsr = 0x1f80;
    assert_eq!(execute(&mut division), Ok(()));
    assert_eq!(division.cpu.cpu.fpu.mxcsr, 0x1fa4);
    assert_eq!(division.cpu.cpu.fpu.xmm[0], 0x3eaa_aaab_7f80_0000);
    let mut comparison = bench(|a| a.comisd(xmm0, xmm1));
    comparison.cpu.cpu.fpu.xmm[0] = 0x7ff8 << 48;
    comparison.cpu.cpu.fpu.mxcsr = 0x1f00;
    comparison.cpu.cpu.flags.set_known(0x8d5);
    assert_eq!(execute(&mut comparison), Err(vector::XM));
    assert_eq!(comparison.cpu.cpu.flags.arithmetic(), 0x8d5);
}

#[test]
fn mxcsr_has_sixteen_bits() {
    let mut load = bench(|a| a.ldmxcsr(dword_ptr(rsi)));
    load.write(DATA, &0xffffu32.to_le_bytes());
    assert_eq!(execute(&mut load), Ok(()));
    assert_eq!(load.cpu.cpu.fpu.mxcsr, 0xffff);
    load.write(DATA, &0x2_1f80u32.to_le_bytes());
    assert_eq!(execute(&mut load), Err(vector::GP));
    let mut restore = bench(|a| a.fxrstor64(ptr(rsi)));
    restore.write(DATA + 24, &0x1_1f80u32.to_le_bytes());
    restore.cpu.cpu.fpu.xmm[3] = 3;
    assert_eq!(execute(&mut restore), Err(vector::GP));
    assert_eq!(restore.cpu.cpu.fpu.xmm[3], 3);
}

#[test]
fn state_is_saved_and_restored() {
    let mut save = bench(|a| a.fxsave64(ptr(rsi)));
    save.write(DATA, &[0xee; 512]);
    let fpu = &mut save.cpu.cpu.fpu;
    fpu.fcw = 0x27f;
    fpu.fsw = 5 << 11 | 0x41;
    fpu.ftw = 0x7f;
    fpu.mxcsr = 0x1fa0;
    fpu.regs = std::array::from_fn(|n| n as u128 | 0x3fff << 64);
    fpu.xmm = std::array::from_fn(|n| u128::MAX - n as u128);
    let saved = *fpu;
    assert_eq!(execute(&mut save), Ok(()));
    let area: [u8; 512] = save.read(DATA);
    assert_eq!(area[..8], [0x7f, 2, 0x41, 0x28, 0x7f, 0, 0, 0]);
    assert_eq!(area[8..24], [0; 16]);
    assert_eq!(area[24..32], [0xa0, 0x1f, 0, 0, 0xff, 0xff, 0, 0]);
    assert_eq!(area[32..48], [5, 0, 0, 0, 0, 0, 0, 0, 0xff, 0x3f, 0, 0, 0, 0, 0, 0]);
    assert_eq!(area[416..], [0xee; 96]);
    let mut restore = bench(|a| a.fxrstor(ptr(rsi)));
    restore.write(DATA, &area);
    assert_eq!(execute(&mut restore), Ok(()));
    let fpu = &restore.cpu.cpu.fpu;
    assert_eq!((fpu.fcw, fpu.fsw, fpu.ftw, fpu.mxcsr), (saved.fcw, saved.fsw, saved.ftw, saved.mxcsr));
    assert_eq!((fpu.regs, fpu.xmm), (saved.regs, saved.xmm));
}

#[test]
fn masked_store_writes_chosen_bytes_only() {
    let mut store = bench(|a| a.maskmovdqu(xmm0, xmm1));
    store.cpu.cpu.regs[7] = DATA + 3;
    store.write(DATA, &[0xaa; 32]);
    store.cpu.cpu.fpu.xmm[0] = u128::from_le_bytes(std::array::from_fn(|n| n as u8));
    store.cpu.cpu.fpu.xmm[1] = 0x80 | 0xff << 40 | 0x7f << 48;
    assert_eq!(execute(&mut store), Ok(()));
    let mut expected = [0xaa; 32];
    expected[3] = 0;
    expected[8] = 5;
    assert_eq!(store.read(DATA), expected);
}

fn estimate(bench: &mut Bench, x: f32) -> f32 {
    bench.cpu.cpu.fpu.xmm[1] = x.to_bits().into();
    assert_eq!(execute(bench), Ok(()));
    assert_eq!(bench.cpu.cpu.fpu.mxcsr, 0x1f80);
    f32::from_bits(bench.cpu.cpu.fpu.xmm[0] as u32)
}

#[test]
fn estimates_are_within_their_bounds() {
    let mut reciprocal = bench(|a| a.rcpss(xmm0, xmm1));
    let mut root = bench(|a| a.rsqrtss(xmm0, xmm1));
    for n in 0..200_000u32 {
        let x = f32::from_bits(0x0080_0000 + n.wrapping_mul(10_501) % 0x7e00_0000);
        let error = f64::from(estimate(&mut reciprocal, x)) * f64::from(x) - 1.0;
        assert!(error.abs() <= 1.0 / 4096.0, "1 / {x}: {error}");
        let error = f64::from(estimate(&mut root, x)) * f64::from(x).sqrt() - 1.0;
        assert!(error.abs() <= 1.0 / 4096.0, "1 / sqrt({x}): {error}");
    }
    let cases = [
        (1.0, 1.0, 1.0),
        (4.0, 0.25, 0.5),
        (0.0, f32::INFINITY, f32::INFINITY),
        (-0.0, f32::NEG_INFINITY, f32::NEG_INFINITY),
        (f32::from_bits(1), f32::INFINITY, f32::INFINITY),
        (f32::INFINITY, 0.0, 0.0),
        (f32::MAX, 0.0, f32::from_bits(0x1f80_0000)),
    ];
    for (x, one_over, one_over_root) in cases {
        assert_eq!(estimate(&mut reciprocal, x).to_bits(), one_over.to_bits(), "{x}");
        assert_eq!(estimate(&mut root, x).to_bits(), one_over_root.to_bits(), "{x}");
    }
    assert_eq!(estimate(&mut root, -1.0).to_bits(), 0xffc0_0000);
    assert_eq!(estimate(&mut reciprocal, f32::from_bits(0x7f80_0001)).to_bits(), 0x7fc0_0001);
    // Exact division instead: 1 / 3.
    reciprocal.cpu.cpu.profile.behaviour = Behaviour::Tcg;
    assert_eq!(estimate(&mut reciprocal, 3.0).to_bits(), 0x3eaa_aaab);
}
