//! SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS, as on AMD's processors: SYSCALL from compatibility mode too, SYSENTER not in
//! long mode (AMD APM vol. 2, 6.1 and 6.2).

use iced_x86::{Code, Instruction};
use scribe_types::cpu::Segment;

use crate::Behaviour;
use crate::cpu::{ATTR_DB, ATTR_L, CR0_PE, CS, Cpu, Done, EFER_SCE, GS, R11, RCX, RDX, RSP, SS, vector};
use crate::flags::{ARITHMETIC, DF, IF, RF, TF, VM};
use crate::lower::{Choice, Context};
use crate::op::{Op, truncate};

/// DR6.BS
const SINGLE_STEP: u64 = 1 << 14;

pub(super) fn lower(i: &Instruction, _: &mut Op, c: &Context) -> Option<Choice> {
    match i.code() {
        Code::Syscall => Choice::jump(syscall),
        Code::Sysretd => Choice::jump(sysret::<false>),
        Code::Sysretq => Choice::jump(sysret::<true>),
        Code::Sysenter => Choice::jump(sysenter),
        Code::Sysexitd => Choice::jump(sysexit),
        Code::Swapgs if c.mode.bitness == 64 => Choice::on(swapgs),
        _ => None,
    }
}

/// A flat code segment; `extra`: [`ATTR_L`] or [`ATTR_DB`].
fn flat_code(selector: u16, extra: u32) -> Segment {
    let dpl = u32::from(selector & 3) << 5;
    Segment { base: 0, limit: u32::MAX, selector, attributes: 0x809b | extra | dpl }
}

fn flat_stack(selector: u16) -> Segment {
    let dpl = u32::from(selector & 3) << 5;
    Segment { base: 0, limit: u32::MAX, selector, attributes: 0xc093 | dpl }
}

/// A trap by TF is decided by the flags that SYSCALL and SYSRET leave: a kernel that masks TF is not single-stepped into,
/// and a program that is sees SYSCALL as one instruction.
fn trace_afterwards(cpu: &mut Cpu) {
    cpu.trace = false;
    if cpu.flags.system & TF != 0 {
        cpu.dr6 |= SINGLE_STEP;
        cpu.exception = Some((vector::DB, None));
    }
}

fn syscall(cpu: &mut Cpu, op: &Op) -> Done {
    if cpu.efer & EFER_SCE == 0 {
        return Err(cpu.undefined());
    }
    let next = truncate(op.next_rip(cpu), cpu.mode.bitness);
    let selector = (cpu.msrs.star >> 32) as u16 & !3;
    cpu.regs[usize::from(RCX)] = next;
    if cpu.in_long_mode() {
        cpu.regs[usize::from(R11)] = cpu.flags.value() & !RF;
        cpu.rip = if cpu.is_long() { cpu.msrs.lstar } else { cpu.msrs.cstar };
        let mut cleared = cpu.msrs.sfmask | RF;
        if cpu.profile.behaviour == Behaviour::Tcg {
            cleared |= ARITHMETIC | DF; // QEMU loses them here
        }
        cpu.flags.set_value(cpu.flags.value() & !cleared);
        cpu.segs[CS] = flat_code(selector, ATTR_L);
    } else {
        cpu.rip = cpu.msrs.star & 0xffff_ffff;
        cpu.flags.system &= !(IF | VM | RF);
        cpu.segs[CS] = flat_code(selector, ATTR_DB);
    }
    cpu.segs[SS] = flat_stack(selector.wrapping_add(8));
    trace_afterwards(cpu);
    cpu.update_mode();
    cpu.update_careful();
    Ok(())
}

fn sysret<const WIDE: bool>(cpu: &mut Cpu, _: &Op) -> Done {
    if cpu.efer & EFER_SCE == 0 {
        return Err(cpu.undefined());
    }
    if !cpu.mode.protected {
        return Err(cpu.general_protection());
    }
    cpu.require_kernel()?;
    let star = (cpu.msrs.star >> 48) as u16;
    let rcx = cpu.regs[usize::from(RCX)];
    // A target that is not canonical faults when it is fetched.
    let code = if WIDE { star.wrapping_add(16) } else { star };
    cpu.segs[CS] = flat_code(code | 3, if WIDE { ATTR_L } else { ATTR_DB });
    cpu.rip = if WIDE { rcx } else { rcx & 0xffff_ffff };
    if cpu.in_long_mode() {
        cpu.flags.set_value(cpu.regs[usize::from(R11)] & !(RF | VM));
    } else {
        cpu.flags.system |= IF;
    }
    let stack = flat_stack(star.wrapping_add(8) | 3);
    let old = cpu.segs[SS];
    cpu.segs[SS] = match cpu.profile.behaviour {
        Behaviour::Tcg => stack,
        // The hidden part stays, but for the privilege level.
        Behaviour::Zen => Segment { selector: stack.selector, attributes: old.attributes | 3 << 5, ..old },
    };
    trace_afterwards(cpu);
    cpu.update_mode();
    cpu.update_careful();
    Ok(())
}

/// #UD in long mode, #GP(0) in real mode.
fn legacy_only(cpu: &mut Cpu) -> Done {
    if cpu.in_long_mode() {
        return Err(cpu.undefined());
    }
    if cpu.cr0 & CR0_PE == 0 || cpu.msrs.sysenter_cs & 0xfffc == 0 {
        return Err(cpu.general_protection());
    }
    Ok(())
}

fn sysenter(cpu: &mut Cpu, _: &Op) -> Done {
    legacy_only(cpu)?;
    let selector = cpu.msrs.sysenter_cs as u16 & !3;
    cpu.segs[CS] = flat_code(selector, ATTR_DB);
    cpu.segs[SS] = flat_stack(selector.wrapping_add(8));
    cpu.regs[usize::from(RSP)] = cpu.msrs.sysenter_esp & 0xffff_ffff;
    cpu.rip = cpu.msrs.sysenter_eip & 0xffff_ffff;
    cpu.flags.system &= !(VM | IF | RF);
    cpu.update_mode();
    cpu.update_careful();
    Ok(())
}

fn sysexit(cpu: &mut Cpu, _: &Op) -> Done {
    legacy_only(cpu)?;
    cpu.require_kernel()?;
    let selector = cpu.msrs.sysenter_cs as u16 | 3;
    cpu.segs[CS] = flat_code(selector.wrapping_add(16), ATTR_DB);
    cpu.segs[SS] = flat_stack(selector.wrapping_add(24));
    cpu.regs[usize::from(RSP)] = cpu.regs[usize::from(RCX)] & 0xffff_ffff;
    cpu.rip = cpu.regs[usize::from(RDX)] & 0xffff_ffff;
    cpu.update_mode();
    Ok(())
}

fn swapgs(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.require_kernel()?;
    std::mem::swap(&mut cpu.segs[GS].base, &mut cpu.msrs.kernel_gs_base);
    Ok(())
}
