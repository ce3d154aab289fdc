//! Control registers, MSRs, flags, ports, CPUID.

use iced_x86::code_asm::*;
use scribe_types::stop::{Answer, Exit, Stop};

use super::*;

/// #GP(0) at the second instruction: MOV RAX, `value`, then what `emit` assembles.
#[track_caller]
fn protects(value: u64, emit: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) {
    let mut b = Bench::kernel(|a| {
        a.mov(rax, value)?;
        emit(a)
    });
    b.steps(1);
    assert_eq!(b.fault(13)[0], 0);
}

#[test]
fn control_registers_refuse() {
    protects(0x8000_0032, |a| a.mov(cr0, rax)); // PG without PE
    protects(0xa000_0033, |a| a.mov(cr0, rax)); // NW without CD
    protects(0x1_8000_0033, |a| a.mov(cr0, rax));
    protects(0x33, |a| a.mov(cr0, rax)); // paging off in 64-bit mode
    protects(1 << 40, |a| a.mov(cr3, rax));
    protects(0x600, |a| a.mov(cr4, rax)); // PAE off
    for bit in [11, 12, 13, 16, 17, 18, 22] {
        protects(0x620 | 1 << bit, |a| a.mov(cr4, rax));
    }
    protects(16, |a| a.mov(cr8, rax));
    let mut b = Bench::user(|a| a.mov(rax, cr0));
    assert_eq!(b.fault(13)[0], 0);
}

#[test]
fn control_registers_take() {
    let mut b = Bench::kernel(|a| {
        a.mov(rax, cr0)?;
        a.or(rax, 0x10008)?;
        a.mov(cr0, rax)?;
        a.clts()?;
        a.smsw(ebx)?;
        a.mov(eax, 0x3006a4)?;
        a.mov(cr4, rax)?;
        a.mov(eax, 9)?;
        a.mov(cr8, rax)?;
        a.mov(rcx, cr8)
    });
    b.steps(10);
    let s = b.cpu.state();
    assert_eq!((s.cr0, b.general(3)), (0x8001_0033, 0x8001_0033));
    assert_eq!((s.cr4, s.cr8, b.general(1)), (0x30_06a4, 9, 9));
}

#[test]
fn write_protection_counts_from_the_next_instruction_on() {
    let mut b = Bench::kernel(|a| {
        a.mov(dword_ptr(0x40_0000), eax)?;
        a.mov(rax, cr0)?;
        a.or(rax, 0x10000)?;
        a.mov(cr0, rax)?;
        a.mov(dword_ptr(0x40_0000), eax)
    });
    b.write(0x3010, &0x20_0081u64.to_le_bytes());
    b.steps(4);
    assert_eq!(b.fault(14)[0], 3);
}

fn wrmsr(index: u32, value: u64, tsc: bool) -> Bench {
    let mut b = Bench::kernel(|a| {
        a.mov(ecx, index)?;
        a.mov(eax, value as u32)?;
        a.mov(edx, (value >> 32) as u32)?;
        a.wrmsr()?;
        a.rdmsr()
    });
    b.cpu.cpu.profile.tsc = tsc;
    b.steps(3);
    b
}

#[test]
fn msrs_that_are_taken() {
    for (index, value, reads) in [
        (0x174, 0x33, 0x33),
        (0x176, 0xffff_8000_1234_5678, 0x1234_5678),
        (0x277, 0x0007_0106_0007_0406, 0x0007_0106_0007_0406),
        (0xc000_0080, 0x901, 0xd01),
        (0xc000_0081, u64::MAX, u64::MAX),
        (0xc000_0082, 0xffff_8000_0000_0000, 0xffff_8000_0000_0000),
        (0xc000_0100, 0x7fff_ffff_ffff, 0x7fff_ffff_ffff),
    ] {
        let mut b = wrmsr(index, value, false);
        b.steps(2);
        assert_eq!(b.general(2) << 32 | b.general(0), reads, "{index:#x}");
    }
}

#[test]
fn msrs_that_are_refused() {
    for (index, value) in [(0xc000_0082, 1 << 47), (0xc000_0101, 1 << 63), (0xc000_0103, 0)] {
        let mut b = wrmsr(index, value, false);
        assert_eq!(b.fault(13)[0], 0, "{index:#x}");
    }
}

#[test]
fn other_msrs_are_the_machines() {
    let mut b = wrmsr(0x8b, 5, false);
    assert_eq!(b.run(5), Stop::Exit(Exit::MsrWrite { index: 0x8b, value: 5 }));
    b.cpu.answer(Answer::Done);
    assert_eq!(b.cpu.finish(), None);
    assert_eq!(b.run(5), Stop::Exit(Exit::MsrRead { index: 0x8b }));
    b.cpu.answer(Answer::GeneralProtection);
    assert_eq!(b.cpu.finish(), None);
    b.steps(1);
    assert_eq!(b.frame(13)[0], 0);
}

#[test]
fn time_stamp_counter() {
    let mut b = wrmsr(0x10, 1000, true);
    b.cpu.set_clock(300, 8);
    b.steps(1);
    let state = b.cpu.state();
    assert_eq!(state.msrs[9..], [(0x10, 700), (0xc000_0103, 0)]);
    b.cpu.set_state(&state).unwrap();
    b.steps(1);
    assert_eq!(b.general(0), 1000);
    let tsc = |a: &mut CodeAssembler| {
        a.rdtscp()?;
        a.nop()
    };
    let mut b = Bench::kernel(tsc);
    assert_eq!(b.fault(6)[1], CODE, "not in the profile");
    let mut b = Bench::user(tsc);
    b.cpu.cpu.profile.tsc = true;
    b.change(|s| s.cr4 |= 4);
    assert_eq!(b.fault(13)[0], 0, "TSD");
}

#[test]
fn cpuid_gives_the_table_and_zeros() {
    let cpuid = |function: u32| {
        let mut b = Bench::kernel(|a| {
            a.mov(eax, function)?;
            a.mov(ecx, 3)?;
            a.cpuid()
        });
        b.steps(3);
        [0, 3, 1, 2].map(|n| b.general(n) as u32)
    };
    for leaf in scribe_types::cpuid::SCRIBE_V1_TABLE {
        assert_eq!(cpuid(leaf.function), leaf.result, "{:#x}", leaf.function);
    }
    for unknown in [2, 8, 0x4000_0001, 0x8000_0009, 0xffff_ffff] {
        assert_eq!(cpuid(unknown), [0; 4], "{unknown:#x}");
    }
}

#[test]
fn flags_by_privilege() {
    let pop = |a: &mut CodeAssembler| {
        a.push(0x24_7fd7)?;
        a.popfq()?;
        a.pushfq()?;
        a.pop(rax)
    };
    let mut b = Bench::kernel(pop);
    b.write(handler(1), &[0x48, 0x81, 0x64, 0x24, 0x10, 0xff, 0xfe, 0xff, 0xff, 0x48, 0xcf]); // clears TF
    b.steps(2);
    assert_eq!(b.cpu.registers().rflags, 0x24_7fd7);
    let mut b = Bench::user(pop);
    b.change(|s| s.registers.rflags = 0x1002); // IOPL 1, IF 0: the user changes neither
    b.steps(2);
    assert_eq!(b.cpu.registers().rflags, 0x24_5dd7);
    for emit in
        [|a: &mut CodeAssembler| a.cli(), |a: &mut CodeAssembler| a.sti(), |a: &mut CodeAssembler| a.hlt()]
    {
        assert_eq!(Bench::user(emit).fault(13)[0], 0);
    }
    assert_eq!(Bench::user(|a| a.stac()).fault(6)[1], USER);
}

#[test]
fn ports_by_iopl_and_bitmap() {
    let read = |bits: u8, limit: u32, iopl: u64| {
        let mut b = Bench::user(|a| {
            a.mov(edx, 0x3f8)?;
            a.in_(al, dx)
        });
        b.write(TSS + 0x68 + 0x7f, &[bits]);
        b.change(|s| {
            s.segments[7].limit = limit;
            s.registers.rflags |= iopl << 12;
        });
        b.steps(1);
        b
    };
    let exit = Stop::Exit(Exit::PortRead { port: 0x3f8, size: 1 });
    let mut b = read(0xfe, 0x200, 0);
    assert_eq!(b.run(1), exit);
    b.cpu.answer(Answer::Value(0x1_23));
    assert_eq!(b.cpu.finish(), None);
    assert_eq!((b.general(0), b.rip()), (0x23, USER + 6));
    assert_eq!(read(0xff, 0x200, 3).run(1), exit, "IOPL 3");
    assert_eq!(read(0x01, 0x200, 0).fault(13)[0], 0);
    assert_eq!(read(0xfe, 0x67, 0).fault(13)[0], 0, "no bitmap");
    assert_eq!(read(0xfe, 0x68 + 0x7f, 0).fault(13)[0], 0, "the second byte is beyond the limit");
}

#[test]
fn halt_is_an_exit() {
    let mut b = Bench::kernel(|a| {
        a.sti()?;
        a.hlt()
    });
    assert_eq!(b.run(5), Stop::Exit(Exit::Halt));
    assert_eq!((b.rip(), b.cpu.can_inject()), (after(1), false));
    b.cpu.answer(Answer::Done);
    assert_eq!(b.cpu.finish(), None);
    assert_eq!((b.rip(), b.cpu.can_inject()), (after(2), true));
}
