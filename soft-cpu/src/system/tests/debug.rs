//! TF, breakpoints, the shadow of MOV SS.

use iced_x86::code_asm::*;
use scribe_types::stop::{Answer, Exit, Stop};

use super::*;

const TF: u64 = 1 << 8;

fn traced(emit: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Bench {
    let mut b = Bench::kernel(emit);
    b.change(|s| s.registers.rflags |= TF);
    b
}

/// DR6's bits 0 to 3 and 13 to 15.
fn hits(b: &Bench) -> u64 {
    b.cpu.state().dr6 & 0xe00f
}

#[test]
fn tf_traps_behind_one_instruction() {
    let mut b = traced(|a| a.nop());
    b.steps(2);
    let frame = b.frame(1);
    assert_eq!(frame[1..4], [after(1), KERNEL_CODE.into(), 0x102]);
    assert_eq!((hits(&b), b.cpu.registers().rflags), (0x4000, 2));
}

#[test]
fn tf_loaded_by_popf_counts_from_the_next_instruction_on() {
    let mut b = Bench::kernel(|a| {
        a.push(0x102)?;
        a.popfq()?;
        a.nop()?;
        a.nop()
    });
    b.steps(4);
    assert_eq!(b.frame(1)[1], after(7));
    // POPF that clears TF is still traced.
    let mut b = traced(|a| {
        a.popfq()?;
        a.nop()
    });
    b.steps(2);
    assert_eq!(b.frame(1)[1..4], [after(1), KERNEL_CODE.into(), 2]);
}

#[test]
fn mov_ss_holds_the_trap_back() {
    let mut b = traced(|a| {
        a.mov(ss, eax)?;
        a.nop()?;
        a.nop()
    });
    b.change(|s| s.registers.general[0] = KERNEL_DATA.into());
    b.steps(3);
    assert_eq!(b.frame(1)[1], after(3));
}

#[test]
fn interrupts_by_the_program_are_not_traced_into() {
    let mut b = traced(|a| a.int(0x80));
    b.steps(3);
    assert_eq!(b.rip(), handler(0x80) + 2);
    assert_eq!(hits(&b), 0);
}

#[test]
fn repeated_instructions_trap_behind_each_iteration() {
    let mut b = traced(|a| a.rep().stosb());
    b.change(|s| {
        s.registers.general[1] = 3;
        s.registers.general[7] = DATA;
    });
    b.steps(2);
    assert_eq!((b.frame(1)[1], b.general(1)), (CODE, 2));
}

#[test]
fn syscall_masks_the_trap_and_sysret_makes_it() {
    let star = |b: &mut Bench, mask: u64| {
        b.change(|s| {
            s.msrs[4].1 = 0x0020_0010 << 32;
            s.msrs[5].1 = HANDLERS + 0x200;
            s.msrs[7].1 = mask;
            s.registers.rflags |= TF;
        });
    };
    let mut b = Bench::user(|a| a.syscall());
    star(&mut b, TF);
    b.steps(3);
    assert_eq!(b.rip(), HANDLERS + 0x202);
    let mut b = Bench::user(|a| a.syscall());
    star(&mut b, 0);
    b.steps(2);
    assert_eq!(b.frame(1)[1], HANDLERS + 0x200);
    let mut b = Bench::kernel(|a| a.sysretq());
    star(&mut b, 0);
    b.change(|s| {
        s.registers.rflags = 2;
        s.registers.general[1] = USER;
        s.registers.general[11] = 0x302;
    });
    b.steps(2);
    assert_eq!(b.frame(1)[1..3], [USER, USER_CODE.into()]);
}

#[test]
fn instruction_breakpoint_is_a_fault_that_rf_passes() {
    let mut b = Bench::kernel(|a| {
        a.nop()?;
        a.nop()?;
        a.nop()
    });
    b.write(handler(1), &[0x48, 0xcf]); // IRETQ
    b.change(|s| {
        s.debug[1] = after(1);
        s.dr7 = 0x408;
    });
    b.steps(1);
    assert_eq!(b.rip(), after(1));
    b.write(handler(1), &[0x90]);
    b.steps(1);
    let at = b.general(4);
    assert_eq!((b.frame(1)[1], hits(&b)), (after(1), 2));
    // The handler sets RF in the frame and returns: the instruction runs.
    b.write(at + 16, &0x1_0002u64.to_le_bytes());
    b.write(handler(1) + 1, &[0x48, 0xcf]);
    b.cpu.invalidate(&[handler(1) >> 12]);
    b.steps(3);
    assert_eq!(b.rip(), after(3));
}

#[test]
fn breakpoint_at_a_repeated_instruction_is_met_once() {
    let mut b = Bench::kernel(|a| a.rep().stosb());
    b.change(|s| {
        s.debug[0] = CODE;
        s.dr7 = 0x401;
        s.registers.general[1] = 3;
        s.registers.general[7] = DATA;
    });
    b.steps(1);
    let at = b.general(4);
    b.write(at + 16, &0x1_0002u64.to_le_bytes());
    b.write(handler(1) + 1, &[0x48, 0xcf]);
    b.cpu.invalidate(&[handler(1) >> 12]);
    b.steps(4);
    assert_eq!((b.rip(), b.general(1)), (after(2), 0));
}

#[test]
fn data_breakpoints_are_traps() {
    let mut b = Bench::kernel(|a| {
        a.mov(rax, qword_ptr(DATA))?;
        a.mov(byte_ptr(DATA + 3), 1)
    });
    b.change(|s| {
        s.debug[2] = DATA;
        s.dr7 = 0x400 | 1 << 4 | 0xd << 24; // DR2: writes, 4 bytes
    });
    b.steps(1);
    b.steps(2);
    assert_eq!((b.frame(1)[1], hits(&b), b.read(DATA + 3)), (b.rip_behind_data(), 4, [1]));
}

impl Bench {
    /// Behind the two MOVs of the test above.
    fn rip_behind_data(&self) -> u64 {
        after(10 + 8)
    }
}

#[test]
fn data_breakpoint_of_mov_ss_waits() {
    let mut b = Bench::kernel(|a| {
        a.mov(ss, word_ptr(rax))?;
        a.int(0x80)
    });
    b.write(DATA, &KERNEL_DATA.to_le_bytes());
    b.change(|s| {
        s.debug[0] = DATA;
        s.dr7 = 0x401 | 3 << 16;
        s.registers.general[0] = DATA;
    });
    b.steps(3);
    assert_eq!(b.frame(1)[1], handler(0x80), "it comes in the handler of INT");
}

#[test]
fn port_breakpoint() {
    let mut b = Bench::kernel(|a| a.out(0x70, al));
    b.change(|s| {
        s.debug[0] = 0x70;
        s.dr7 = 0x401 | 2 << 16;
        s.cr4 |= 8;
    });
    assert_eq!(b.run(1), Stop::Exit(Exit::PortWrite { port: 0x70, size: 1, value: 0 }));
    b.cpu.answer(Answer::Done);
    assert_eq!(b.cpu.finish(), None);
    b.steps(1);
    assert_eq!((b.frame(1)[1], hits(&b)), (after(2), 1));
}

#[test]
fn debug_registers_protect_themselves() {
    let mut b = Bench::kernel(|a| {
        a.mov(rax, 0x2400u64)?;
        a.mov(dr7, rax)?;
        a.mov(rbx, dr0)
    });
    b.steps(2);
    let frame = b.fault(1);
    let s = b.cpu.state();
    assert_eq!((frame[1], s.dr7, hits(&b)), (after(13), 0x400, 0x2000));
    let mut b = Bench::kernel(|a| {
        a.mov(rax, u64::from(u32::MAX))?;
        a.mov(dr6, rax)?;
        a.mov(rax, 0xffff_dfffu64)?;
        a.mov(dr5, rax)?;
        a.mov(rax, 1u64 << 32)?;
        a.mov(dr7, rax)
    });
    b.steps(4);
    assert_eq!((b.cpu.state().dr6, b.cpu.state().dr7), (0xffff_efff, 0xffff_07ff));
    b.steps(1);
    assert_eq!(b.fault(13)[0], 0);
}
