//! Descriptor tables and what looks into them: LGDT, LIDT, LLDT, LTR, their stores, LAR, LSL, VERR, VERW, ARPL.

use iced_x86::{Code, Instruction, Mnemonic, OpKind};
use scribe_types::cpu::DescriptorTable;

use super::descriptor::{Descriptor, is_null, null_segment, selector_code, system};
use crate::Behaviour;
use crate::cpu::{Cpu, Done, LDTR, TR, Trap, vector};
use crate::flags::ZF;
use crate::lower::{Choice, Context};
use crate::op::{Handler, Op};
use crate::word::Word;

pub(super) fn lower(i: &Instruction, op: &mut Op, c: &Context) -> Option<Choice> {
    let register = i.op0_kind() == OpKind::Register;
    // Bits of the base that count.
    op.size = match i.code() {
        Code::Lgdt_m1632_16 | Code::Lidt_m1632_16 => 24,
        Code::Lgdt_m1664 | Code::Lidt_m1664 | Code::Sgdt_m1664 | Code::Sidt_m1664 => 64,
        _ => 32,
    };
    let run: Handler = match i.mnemonic() {
        Mnemonic::Lgdt => return Choice::last(lgdt),
        Mnemonic::Lidt => return Choice::last(lidt),
        Mnemonic::Sgdt => sgdt,
        Mnemonic::Sidt => sidt,
        _ => {
            if !c.mode.protected {
                return None; // #UD in real and virtual-8086 mode
            }
            match (i.mnemonic(), i.code()) {
                (Mnemonic::Lldt, _) => {
                    return Choice::last(if register { lldt::<true> } else { lldt::<false> });
                }
                (Mnemonic::Ltr, _) => return Choice::last(if register { ltr::<true> } else { ltr::<false> }),
                (Mnemonic::Sldt | Mnemonic::Str, code) => {
                    op.extra = if i.mnemonic() == Mnemonic::Sldt { LDTR as u8 } else { TR as u8 };
                    match code {
                        _ if !register => store_selector,
                        Code::Sldt_rm16 | Code::Str_rm16 => read_selector::<u16>,
                        Code::Sldt_r32m16 | Code::Str_r32m16 => read_selector::<u32>,
                        _ => read_selector::<u64>,
                    }
                }
                (Mnemonic::Verr, _) => {
                    if register {
                        verify::<true, false>
                    } else {
                        verify::<false, false>
                    }
                }
                (Mnemonic::Verw, _) => {
                    if register {
                        verify::<true, true>
                    } else {
                        verify::<false, true>
                    }
                }
                (Mnemonic::Lar | Mnemonic::Lsl, _) => {
                    op.extra = u8::from(i.mnemonic() == Mnemonic::Lsl);
                    let from_register = i.op1_kind() == OpKind::Register;
                    match (i.op0_register().size(), from_register) {
                        (2, true) => look::<u16, true>,
                        (2, false) => look::<u16, false>,
                        (4, true) => look::<u32, true>,
                        (4, false) => look::<u32, false>,
                        (_, true) => look::<u64, true>,
                        (_, false) => look::<u64, false>,
                    }
                }
                (_, Code::Arpl_rm16_r16 | Code::Arpl_r32m16_r32) => {
                    if register {
                        arpl_register
                    } else {
                        arpl_memory
                    }
                }
                _ => return None,
            }
        }
    };
    Choice::on(run)
}

fn load_table(cpu: &mut Cpu, op: &Op) -> Result<DescriptorTable, Trap> {
    cpu.require_kernel()?;
    let bytes = if op.size == 64 { 10 } else { 6 };
    let linear = cpu.linear(op, bytes, false)?;
    let limit = cpu.load(linear)?;
    let base = linear.wrapping_add(2);
    let base = match op.size {
        64 => cpu.load::<u64>(base)?,
        32 => cpu.load::<u32>(base)?.into(),
        _ => u64::from(cpu.load::<u32>(base)?) & 0xff_ffff,
    };
    if !crate::mmu::is_canonical(base) {
        return Err(cpu.general_protection());
    }
    Ok(DescriptorTable { base, limit })
}

fn lgdt(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.gdt = load_table(cpu, op)?;
    Ok(())
}

fn lidt(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.idt = load_table(cpu, op)?;
    Ok(())
}

fn store_table(cpu: &mut Cpu, op: &Op, table: DescriptorTable) -> Done {
    let bytes = if op.size == 64 { 10 } else { 6 };
    let linear = cpu.linear(op, bytes, true)?;
    let mut image = [0; 10];
    image[..2].copy_from_slice(&table.limit.to_le_bytes());
    image[2..].copy_from_slice(&table.base.to_le_bytes());
    cpu.write_bytes(linear, &image[..bytes as usize])
}

fn sgdt(cpu: &mut Cpu, op: &Op) -> Done {
    let table = cpu.gdt;
    store_table(cpu, op, table)
}

fn sidt(cpu: &mut Cpu, op: &Op) -> Done {
    let table = cpu.idt;
    store_table(cpu, op, table)
}

/// The selector of segment register `op.extra`, into memory.
pub(super) fn store_selector(cpu: &mut Cpu, op: &Op) -> Done {
    let selector = cpu.segs[usize::from(op.extra & 7)].selector;
    cpu.write_mem(op, selector)
}

/// The same, into a register.
pub(super) fn read_selector<W: Word>(cpu: &mut Cpu, op: &Op) -> Done {
    let selector = cpu.segs[usize::from(op.extra & 7)].selector;
    cpu.set_reg(op.dst, W::cut(selector.into()));
    Ok(())
}

/// The selector operand, in the register or in memory.
fn selector<const REGISTER: bool>(cpu: &mut Cpu, op: &Op, register: u8) -> Result<u16, Trap> {
    if REGISTER { Ok(cpu.reg(register)) } else { cpu.read_mem(op) }
}

/// The system descriptor for LLDT and LTR.
fn system_descriptor(cpu: &mut Cpu, selector: u16, wanted: [u8; 2]) -> Result<Descriptor, Trap> {
    let code = selector_code(selector, 0);
    if selector & 4 != 0 {
        return Err(cpu.raise_code(vector::GP, code));
    }
    let mut descriptor = cpu.descriptor(selector, vector::GP, 0)?;
    if !descriptor.is_system() || !wanted.contains(&descriptor.kind()) {
        return Err(cpu.raise_code(vector::GP, code));
    }
    if cpu.in_long_mode() {
        cpu.extend(&mut descriptor, selector, vector::GP, 0)?;
    }
    if !descriptor.is_present() {
        return Err(cpu.raise_code(vector::NP, code));
    }
    Ok(descriptor)
}

fn lldt<const REGISTER: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_kernel()?;
    let selector = selector::<REGISTER>(cpu, op, op.dst)?;
    cpu.segs[LDTR] = if is_null(selector) {
        null_segment(selector, 0)
    } else {
        system_descriptor(cpu, selector, [system::LDT; 2])?.segment(selector)
    };
    Ok(())
}

fn ltr<const REGISTER: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_kernel()?;
    let selector = selector::<REGISTER>(cpu, op, op.dst)?;
    if is_null(selector) {
        return Err(cpu.general_protection());
    }
    let wanted = if cpu.in_long_mode() { [system::TSS; 2] } else { [system::TSS, system::TSS_16] };
    let mut descriptor = system_descriptor(cpu, selector, wanted)?;
    cpu.mark_busy(&mut descriptor)?;
    cpu.segs[TR] = descriptor.segment(selector);
    Ok(())
}

/// The descriptor that LAR, LSL, VERR and VERW look at, if the current privilege and the selector's reach it.
fn visible(cpu: &mut Cpu, selector: u16) -> Result<Option<Descriptor>, Trap> {
    if is_null(selector) {
        return Ok(None);
    }
    let Some(descriptor) = cpu.find_descriptor(selector)? else { return Ok(None) };
    let level = cpu.mode.cpl.max(selector as u8 & 3);
    Ok((descriptor.is_conforming() || descriptor.dpl() >= level).then_some(descriptor))
}

fn verify<const REGISTER: bool, const WRITE: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    let selector = selector::<REGISTER>(cpu, op, op.dst)?;
    let good =
        visible(cpu, selector)?.is_some_and(|d| if WRITE { d.is_writable_data() } else { d.is_readable() });
    cpu.flags.change(ZF, if good { ZF } else { 0 });
    Ok(())
}

/// LAR and LSL (`op.extra` is 1).
fn look<W: Word, const REGISTER: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    let limit = op.extra == 1;
    let selector = selector::<REGISTER>(cpu, op, op.src)?;
    let long = cpu.in_long_mode();
    // The limit's bits in between are undefined: a Zen loads them, QEMU does not.
    let rights = if cpu.profile.behaviour == Behaviour::Tcg { 0x00f0_ff00 } else { 0x00ff_ff00 };
    let found = visible(cpu, selector)?.filter(|d| {
        !d.is_system()
            || match d.kind() {
                system::LDT | system::TSS | system::TSS_BUSY => true,
                system::TSS_16 | system::TSS_16_BUSY => !long,
                system::CALL_GATE => !limit,
                system::CALL_GATE_16 | system::TASK_GATE => !long && !limit,
                _ => false,
            }
    });
    match found {
        Some(descriptor) => {
            let value = if limit { descriptor.limit().into() } else { (descriptor.raw >> 32) & rights };
            cpu.set_reg(op.dst, W::cut(value));
            cpu.flags.change(ZF, ZF);
        }
        None => cpu.flags.change(ZF, 0),
    }
    Ok(())
}

/// Raises the RPL of `selector` to that of `other`, if it is lower.
fn adjusted(selector: u16, other: u16) -> Option<u16> {
    (selector & 3 < other & 3).then_some(selector & !3 | other & 3)
}

fn arpl_register(cpu: &mut Cpu, op: &Op) -> Done {
    let result = adjusted(cpu.reg(op.dst), cpu.reg(op.src));
    if let Some(selector) = result {
        cpu.set_reg::<u16>(op.dst, selector);
    }
    cpu.flags.change(ZF, if result.is_some() { ZF } else { 0 });
    Ok(())
}

fn arpl_memory(cpu: &mut Cpu, op: &Op) -> Done {
    // Written only if it changes, so a page fault is a read's at first.
    let selector = cpu.read_mem(op)?;
    let result = adjusted(selector, cpu.reg(op.dst));
    if let Some(selector) = result {
        cpu.write_mem(op, selector)?;
    }
    cpu.flags.change(ZF, if result.is_some() { ZF } else { 0 });
    Ok(())
}
