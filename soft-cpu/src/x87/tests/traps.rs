//! #NM, #MF, and what waits for them; accesses that fault leave the stack alone.

use crate::cpu::{CR0_EM, CR0_MP, CR0_TS, Cpu, Done, Trap, vector};
use crate::testing::{Bench, CODE, op_at};

/// Runs one instruction alone, without delivery of what it raises.
fn execute(cpu: &mut Cpu) -> Done {
    let op = op_at(cpu, CODE);
    cpu.accesses.rewind();
    (op.run)(cpu, &op)
}

#[track_caller]
fn raises(cpu: &mut Cpu, number: u8) {
    assert_eq!(execute(cpu), Err(Trap::Fault));
    assert_eq!(cpu.fault.vector, number);
}

const FLD1: &[u8] = &[0xd9, 0xe8];
const WAIT: &[u8] = &[0x9b];
const FNSTSW_AX: &[u8] = &[0xdf, 0xe0];
const FNINIT: &[u8] = &[0xdb, 0xe3];

#[test]
fn em_and_ts_make_it_unavailable() {
    for (code, bits, number) in [
        (FLD1, CR0_EM, Some(vector::NM)),
        (FLD1, CR0_TS, Some(vector::NM)),
        (FNINIT, CR0_TS, Some(vector::NM)),
        (FNSTSW_AX, CR0_EM, Some(vector::NM)),
        (WAIT, CR0_EM, None),
        (WAIT, CR0_TS | CR0_MP, Some(vector::NM)),
    ] {
        let mut bench = Bench::with_code(code);
        let cpu = &mut bench.cpu.cpu;
        cpu.cr0 = cpu.cr0 & !(CR0_EM | CR0_TS | CR0_MP) | bits;
        match number {
            Some(number) => raises(cpu, number),
            None => assert_eq!(execute(cpu), Ok(())),
        }
        assert_eq!(cpu.fpu.ftw, 0);
    }
}

#[test]
fn a_pending_exception_waits_for_the_next_instruction() {
    for (code, faults) in [(FLD1, true), (WAIT, true), (FNSTSW_AX, false), (FNINIT, false)] {
        let mut bench = Bench::with_code(&[0xd9, 0xfa]); // fsqrt
        let cpu = &mut bench.cpu.cpu;
        cpu.fpu.fcw = 0x37e;
        // The stack is empty: that is invalid, not masked, and the instruction itself goes through.
        assert_eq!(execute(cpu), Ok(()));
        assert_eq!(cpu.fpu.fsw, 0x80c1);
        bench = with_fpu(code, &bench);
        let cpu = &mut bench.cpu.cpu;
        if faults {
            raises(cpu, vector::MF);
            assert_eq!((cpu.fpu.fsw, cpu.fpu.ftw), (0x80c1, 0));
        } else {
            assert_eq!(execute(cpu), Ok(()));
        }
    }
}

fn with_fpu(code: &[u8], before: &Bench) -> Bench {
    let mut bench = Bench::with_code(code);
    bench.cpu.cpu.fpu = before.cpu.cpu.fpu;
    bench
}

#[test]
fn masking_what_is_pending_ends_it() {
    let mut bench = Bench::with_code(&[0xdb, 0xe2]); // fnclex
    let cpu = &mut bench.cpu.cpu;
    cpu.fpu.fcw = 0x37e;
    cpu.fpu.fsw = 0xb8c1;
    assert_eq!(execute(cpu), Ok(()));
    assert_eq!(cpu.fpu.fsw, 0x3800);
}

#[test]
fn a_store_that_faults_pops_nothing() {
    for code in
        [[0xd9, 0x1e], [0xdd, 0x1e], [0xdb, 0x3e], [0xdf, 0x36], [0xdb, 0x0e], [0xdd, 0x36], [0xd9, 0x36]]
    {
        for masked in [0x37f, 0x340] {
            let mut bench = Bench::with_code(&code);
            let cpu = &mut bench.cpu.cpu;
            cpu.regs[6] = 0x40_0000 - 1; // runs into a page that is not there
            cpu.fpu.fcw = masked;
            cpu.fpu.fsw = 0;
            cpu.fpu.ftw = 1;
            cpu.fpu.regs[0] = 0x7fff_a000_0000_0000_0000; // not a number: no store if that is not masked
            let before = format!("{:?}", cpu.fpu);
            raises(cpu, vector::PF);
            assert_eq!(format!("{:?}", cpu.fpu), before);
            // What lies on the page that is there is not written either.
            assert_eq!(bench.read(0x3f_ffff), [0u8]);
        }
    }
}

#[test]
fn a_load_that_faults_pushes_nothing() {
    for code in
        [[0xd9, 0x06], [0xdd, 0x06], [0xdb, 0x2e], [0xdf, 0x26], [0xdd, 0x26], [0xd9, 0x26], [0xd9, 0x2e]]
    {
        let mut bench = Bench::with_code(&code);
        let cpu = &mut bench.cpu.cpu;
        cpu.regs[6] = 0x40_0000 - 1;
        let before = format!("{:?}", cpu.fpu);
        raises(cpu, vector::PF);
        assert_eq!(format!("{:?}", cpu.fpu), before);
    }
}
