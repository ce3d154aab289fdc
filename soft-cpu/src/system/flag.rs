//! The flags that are not arithmetic: CLI, STI, CLAC, STAC, PUSHF, POPF; and HLT.

use iced_x86::{Code, Instruction, Mnemonic};
use scribe_types::stop::Exit;

use crate::cpu::{CR0_PE, CR4_PVI, CR4_VME, Cpu, Done};
use crate::flags::{AC, ARITHMETIC, DF, ID, IF, IOPL, NT, RF, TF, VM};
use crate::lower::{Choice, Context};
use crate::op::Op;
use crate::word::Word;

/// Interrupt shadow of STI.
const SHADOW_STI: u8 = 2;
/// RFLAGS.VIF and VIP, which are not modelled.
const VIRTUAL: u64 = 3 << 19;

pub(super) fn lower(i: &Instruction, _: &mut Op, _: &Context) -> Option<Choice> {
    match i.code() {
        Code::Pushfw => Choice::on(pushf::<u16>),
        Code::Pushfd => Choice::on(pushf::<u32>),
        Code::Pushfq => Choice::on(pushf::<u64>),
        Code::Popfw => Choice::last(popf::<u16>),
        Code::Popfd => Choice::last(popf::<u32>),
        Code::Popfq => Choice::last(popf::<u64>),
        _ => match i.mnemonic() {
            Mnemonic::Cli => Choice::on(cli),
            Mnemonic::Sti => Choice::last(sti),
            Mnemonic::Clac => Choice::on(set_access::<false>),
            Mnemonic::Stac => Choice::on(set_access::<true>),
            Mnemonic::Hlt => Choice::last(hlt),
            _ => None,
        },
    }
}

/// #GP(0) unless the current privilege may change IF.
fn check_interrupt_flag(cpu: &mut Cpu) -> Done {
    if cpu.mode.cpl <= cpu.iopl() {
        return Ok(());
    }
    let extension = if cpu.mode.protected { CR4_PVI } else { CR4_VME };
    if cpu.cr4 & extension != 0 && cpu.mode.cpl == 3 {
        return Err(cpu.refuse("virtual interrupts of virtual-8086 and protected mode"));
    }
    Err(cpu.general_protection())
}

fn cli(cpu: &mut Cpu, _: &Op) -> Done {
    check_interrupt_flag(cpu)?;
    cpu.flags.system &= !IF;
    Ok(())
}

fn sti(cpu: &mut Cpu, _: &Op) -> Done {
    check_interrupt_flag(cpu)?;
    if cpu.flags.system & IF == 0 {
        cpu.flags.system |= IF;
        cpu.shadow |= SHADOW_STI;
        cpu.update_careful();
    }
    Ok(())
}

fn set_access<const ON: bool>(cpu: &mut Cpu, _: &Op) -> Done {
    if cpu.mode.cpl != 0 {
        return Err(cpu.undefined());
    }
    if ON {
        cpu.flags.system |= AC;
    } else {
        cpu.flags.system &= !AC;
    }
    cpu.mmu.set_access_user(ON);
    Ok(())
}

fn hlt(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.require_kernel()?;
    cpu.ask(Exit::Halt).map(|_| ())
}

/// #GP(0) in virtual-8086 mode with IOPL below 3.
fn check_virtual(cpu: &mut Cpu) -> Done {
    if cpu.cr0 & CR0_PE == 0 || cpu.mode.protected || cpu.iopl() == 3 {
        return Ok(());
    }
    if cpu.cr4 & CR4_VME != 0 {
        return Err(cpu.refuse("virtual-8086 mode extensions"));
    }
    Err(cpu.general_protection())
}

fn pushf<W: Word>(cpu: &mut Cpu, _: &Op) -> Done {
    check_virtual(cpu)?;
    cpu.push(W::cut(cpu.flags.value() & !(VM | RF)))
}

fn popf<W: Word>(cpu: &mut Cpu, _: &Op) -> Done {
    check_virtual(cpu)?;
    let value: W = cpu.top()?;
    let mut mask = ARITHMETIC | TF | DF | NT | RF;
    if W::BYTES > 2 {
        mask |= AC | ID | VIRTUAL;
    }
    if cpu.mode.cpl <= cpu.iopl() {
        mask |= IF;
    }
    if cpu.mode.cpl == 0 {
        mask |= IOPL;
    }
    cpu.drop_stack(W::BYTES);
    let old = cpu.flags.value();
    cpu.flags.set_value(old & !mask | value.wide() & mask & !(RF | VIRTUAL));
    if (old ^ cpu.flags.system) & AC != 0 {
        cpu.update_mode();
    }
    cpu.update_careful();
    Ok(())
}
