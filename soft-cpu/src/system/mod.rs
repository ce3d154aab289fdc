//! Instructions of the system, the first few: what a 64-bit kernel needs to boot.
pub(crate) mod event;
pub(crate) mod segment;

use crate::cpu::*;
use crate::flags::*;
use crate::lower::{Choice, Context};
use crate::op::{Handler, Op};
use event::Event;
use iced_x86::{Instruction, Mnemonic as M, OpKind, Register};
use scribe_types::stop::Exit;

fn nop(_: &mut Cpu, _: &Op) -> Done {
    Ok(())
}
fn hlt(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.require_kernel()?;
    cpu.ask(Exit::Halt)?;
    Ok(())
}
fn cli(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.flags.system &= !IF;
    Ok(())
}
fn sti(cpu: &mut Cpu, _: &Op) -> Done {
    if cpu.flags.system & IF == 0 {
        cpu.flags.system |= IF;
        cpu.shadow = 2;
    }
    cpu.update_careful();
    Ok(())
}
fn clac(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.flags.system &= !AC;
    cpu.update_mode();
    Ok(())
}
fn stac(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.flags.system |= AC;
    cpu.update_mode();
    Ok(())
}
fn pushf(cpu: &mut Cpu, _: &Op) -> Done {
    let v = cpu.flags.value() & !(RF | VM);
    cpu.push(v)
}
fn popf(cpu: &mut Cpu, _: &Op) -> Done {
    let v: u64 = cpu.top()?;
    cpu.drop_stack(8);
    let mut m = ARITHMETIC | TF | DF | NT | AC | ID;
    if cpu.mode.cpl == 0 {
        m |= IF | IOPL;
    }
    let new = cpu.flags.value() & !m & !RF | v & m;
    cpu.flags.set_value(new);
    cpu.update_mode();
    cpu.update_careful();
    Ok(())
}
fn inp(cpu: &mut Cpu, op: &Op) -> Done {
    let port = if op.extra == 1 { op.imm as u8 as u16 } else { cpu.reg::<u16>(RDX) };
    let v = cpu.port_read(port, op.size)?;
    match op.size {
        1 => cpu.set_reg(RAX, v as u8),
        2 => cpu.set_reg(RAX, v as u16),
        _ => cpu.set_reg(RAX, v),
    }
    Ok(())
}
fn outp(cpu: &mut Cpu, op: &Op) -> Done {
    let port = if op.extra == 1 { op.imm as u8 as u16 } else { cpu.reg::<u16>(RDX) };
    let v = match op.size {
        1 => u32::from(cpu.reg::<u8>(RAX)),
        2 => u32::from(cpu.reg::<u16>(RAX)),
        _ => cpu.reg::<u32>(RAX),
    };
    cpu.port_write(port, op.size, v)
}
fn cpuid(cpu: &mut Cpu, _: &Op) -> Done {
    let f: u32 = cpu.reg(RAX);
    let r = cpu.profile.cpuid.iter().find(|l| l.function == f).map_or([0; 4], |l| l.result);
    cpu.set_reg(RAX, r[0]);
    cpu.set_reg(RBX, r[1]);
    cpu.set_reg(RCX, r[2]);
    cpu.set_reg(RDX, r[3]);
    Ok(())
}
fn msr(cpu: &mut Cpu, i: u32) -> Option<&mut u64> {
    Some(match i {
        0x174 => &mut cpu.msrs.sysenter_cs,
        0x175 => &mut cpu.msrs.sysenter_esp,
        0x176 => &mut cpu.msrs.sysenter_eip,
        0x277 => &mut cpu.msrs.pat,
        0xc000_0080 => &mut cpu.efer,
        0xc000_0081 => &mut cpu.msrs.star,
        0xc000_0082 => &mut cpu.msrs.lstar,
        0xc000_0083 => &mut cpu.msrs.cstar,
        0xc000_0084 => &mut cpu.msrs.sfmask,
        0xc000_0100 => &mut cpu.segs[FS].base,
        0xc000_0101 => &mut cpu.segs[GS].base,
        0xc000_0102 => &mut cpu.msrs.kernel_gs_base,
        _ => return None,
    })
}
fn rdmsr(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.require_kernel()?;
    let i = cpu.reg::<u32>(RCX);
    let v = match msr(cpu, i) {
        Some(v) => *v,
        None => cpu.msr_read(i)?,
    };
    cpu.set_reg(RAX, v as u32);
    cpu.set_reg(RDX, (v >> 32) as u32);
    Ok(())
}
fn wrmsr(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.require_kernel()?;
    let i = cpu.reg::<u32>(RCX);
    let v = u64::from(cpu.reg::<u32>(RDX)) << 32 | u64::from(cpu.reg::<u32>(RAX));
    if i == 0xc000_0080 {
        cpu.efer = cpu.efer & EFER_LMA | v & 0xd01 & !EFER_LMA;
        cpu.update_mode();
        return Ok(());
    }
    match msr(cpu, i) {
        Some(s) => *s = v,
        None => cpu.msr_write(i, v)?,
    }
    Ok(())
}
fn mov_from_cr(cpu: &mut Cpu, op: &Op) -> Done {
    let v = match op.src {
        0 => cpu.cr0,
        2 => cpu.cr2,
        3 => cpu.cr3,
        4 => cpu.cr4,
        _ => cpu.cr8,
    };
    cpu.set_reg(op.dst, v);
    Ok(())
}
fn mov_to_cr(cpu: &mut Cpu, op: &Op) -> Done {
    let v: u64 = cpu.reg(op.src);
    match op.dst {
        0 => cpu.cr0 = v | CR0_ET,
        2 => cpu.cr2 = v,
        3 => {
            cpu.cr3 = v;
            cpu.mmu.flush();
        }
        4 => {
            if v & !0x3006ff != 0 {
                return Err(cpu.general_protection());
            }
            cpu.cr4 = v;
            cpu.mmu.flush();
        }
        _ => cpu.cr8 = v,
    }
    cpu.update_mode();
    Ok(())
}
fn mov_dr(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.set_reg(
        op.dst,
        match op.src {
            n @ 0..=3 => cpu.dr[n as usize],
            6 => cpu.dr6,
            _ => cpu.dr7,
        },
    );
    Ok(())
}
fn mov_to_dr(cpu: &mut Cpu, op: &Op) -> Done {
    let v: u64 = cpu.reg(op.src);
    match op.dst {
        n @ 0..=3 => cpu.dr[n as usize] = v,
        6 => cpu.dr6 = v & 0xe00f | 0xffff_0ff0,
        _ => cpu.dr7 = v & 0xffff_23ff | 0x400,
    }
    cpu.update_careful();
    Ok(())
}
fn invlpg(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.mmu.flush();
    Ok(())
}
fn rdtsc(cpu: &mut Cpu, op: &Op) -> Done {
    if cpu.cr4 & CR4_TSD != 0 && cpu.mode.cpl != 0 {
        return Err(cpu.general_protection());
    }
    if !cpu.profile.tsc {
        return Err(cpu.undefined());
    }
    let now = cpu.now();
    cpu.set_reg(RAX, now as u32);
    cpu.set_reg(RDX, (now >> 32) as u32);
    if op.extra == 1 {
        let aux = cpu.msrs.tsc_aux as u32;
        cpu.set_reg(RCX, aux);
    }
    Ok(())
}
fn clts(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.cr0 &= !CR0_TS;
    Ok(())
}
fn swapgs(cpu: &mut Cpu, _: &Op) -> Done {
    std::mem::swap(&mut cpu.segs[GS].base, &mut cpu.msrs.kernel_gs_base);
    Ok(())
}
fn lgdt(cpu: &mut Cpu, op: &Op) -> Done {
    let at = cpu.linear(op, 10, false)?;
    let limit: u16 = cpu.load(at)?;
    let base: u64 = cpu.load(at + 2)?;
    let t = if op.extra == 1 { &mut cpu.idt } else { &mut cpu.gdt };
    t.limit = limit;
    t.base = base;
    Ok(())
}
fn sgdt(cpu: &mut Cpu, op: &Op) -> Done {
    let at = cpu.linear(op, 10, true)?;
    let t = if op.extra == 1 { cpu.idt } else { cpu.gdt };
    cpu.store(at, t.limit)?;
    cpu.store(at + 2, t.base)
}
fn mov_sreg(cpu: &mut Cpu, op: &Op) -> Done {
    let v: u16 = if op.extra == 1 { cpu.read_mem(op)? } else { cpu.reg(op.src) };
    cpu.load_segment(op.dst.into(), v)?;
    if op.dst == 2 {
        cpu.shadow = 1;
        cpu.update_careful();
    }
    Ok(())
}
fn from_sreg(cpu: &mut Cpu, op: &Op) -> Done {
    if op.extra == 1 {
        let v = cpu.segs[usize::from(op.dst)].selector;
        return cpu.write_mem(op, v);
    }
    let v = cpu.segs[usize::from(op.src)].selector;
    match op.size {
        2 => cpu.set_reg(op.dst, v),
        _ => cpu.set_reg(op.dst, u64::from(v)),
    }
    Ok(())
}
fn ltr(cpu: &mut Cpu, op: &Op) -> Done {
    let sel: u16 = if op.base != ZERO || op.disp != 0 { cpu.read_mem(op)? } else { cpu.reg(op.dst) };
    let d = cpu.system_descriptor(sel, vector::GP)?;
    cpu.mark_descriptor(sel, &d, 1 << 41)?;
    let mut s = segment::Descriptor(d.0 | 1 << 41, d.1).segment(sel);
    s.base |= d.1 << 32;
    cpu.segs[TR] = s;
    Ok(())
}
fn lldt(cpu: &mut Cpu, op: &Op) -> Done {
    let sel: u16 = if op.base != ZERO || op.disp != 0 { cpu.read_mem(op)? } else { cpu.reg(op.dst) };
    if sel & !3 == 0 {
        cpu.segs[LDTR].attributes = ATTR_UNUSABLE;
        cpu.segs[LDTR].selector = sel;
        return Ok(());
    }
    let d = cpu.system_descriptor(sel, vector::GP)?;
    let mut s = d.segment(sel);
    s.base |= d.1 << 32;
    cpu.segs[LDTR] = s;
    Ok(())
}
fn int3(cpu: &mut Cpu, op: &Op) -> Done {
    let e = Event::software(cpu, op.extra, op.next_rip(cpu));
    cpu.enter_pub(e)
}
fn syscall(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.regs[1] = op.next_rip(cpu);
    cpu.regs[11] = cpu.flags.value() & !RF;
    let sel = (cpu.msrs.star >> 32) as u16 & !3;
    cpu.rip = if cpu.is_long() { cpu.msrs.lstar } else { cpu.msrs.cstar };
    let f = cpu.flags.value() & !(cpu.msrs.sfmask | RF);
    cpu.flags.set_value(f);
    cpu.segs[CS] = scribe_types::cpu::Segment { base: 0, limit: u32::MAX, selector: sel, attributes: 0xa09b };
    cpu.segs[SS] =
        scribe_types::cpu::Segment { base: 0, limit: u32::MAX, selector: sel + 8, attributes: 0xc093 };
    cpu.update_mode();
    cpu.update_careful();
    Ok(())
}
fn sysret(cpu: &mut Cpu, op: &Op) -> Done {
    let base = (cpu.msrs.star >> 48) as u16;
    let f = cpu.regs[11] & 0x3c7fd7;
    cpu.flags.set_value(f);
    let (sel, attr) = if op.size == 8 { ((base + 16) | 3, 0xa0fb) } else { (base | 3, 0xc0fb) };
    cpu.rip = if op.size == 8 { cpu.regs[1] } else { cpu.regs[1] & 0xffff_ffff };
    cpu.segs[CS] = scribe_types::cpu::Segment { base: 0, limit: u32::MAX, selector: sel, attributes: attr };
    cpu.segs[SS] =
        scribe_types::cpu::Segment { base: 0, limit: u32::MAX, selector: (base + 8) | 3, attributes: 0xc0f3 };
    cpu.update_mode();
    cpu.update_careful();
    Ok(())
}
fn iretq(cpu: &mut Cpu, _: &Op) -> Done {
    let mut w = [0u64; 5];
    for (n, w) in w.iter_mut().enumerate() {
        *w = cpu.stack_word(8 * n as u64)?;
    }
    let sel = w[1] as u16;
    let d = cpu.descriptor(sel, vector::GP)?;
    let cpl = (sel & 3) as u8;
    let old = cpu.mode.cpl;
    let ss = w[4] as u16;
    let ssd = if ss & !3 != 0 { Some(cpu.descriptor(ss, vector::GP)?) } else { None };
    cpu.load_code(sel, &d)?;
    match ssd {
        Some(d) => cpu.segs[SS] = d.segment(ss),
        None => {
            cpu.load_null_ss(cpl);
            cpu.segs[SS].selector = ss;
        }
    }
    cpu.rip = w[0];
    cpu.regs[4] = w[3];
    let mut m = ARITHMETIC | TF | DF | NT | AC | ID | RF;
    if old == 0 {
        m |= IF | IOPL;
    }
    let f = cpu.flags.value() & !m | w[2] & m;
    cpu.flags.set_value(f);
    cpu.resume_set = f & RF != 0;
    cpu.nmi_masked = false;
    if cpl > old {
        for s in [ES, DS, FS, GS] {
            let seg = &mut cpu.segs[s];
            if (seg.attributes >> 5 & 3) < u32::from(cpl)
                && seg.attributes & ATTR_UNUSABLE == 0
                && seg.attributes & 0xc != 0xc
            {
                seg.attributes = ATTR_UNUSABLE;
                seg.selector = 0;
            }
        }
    }
    cpu.update_mode();
    cpu.update_careful();
    Ok(())
}
fn retfq(cpu: &mut Cpu, op: &Op) -> Done {
    let (rip, sel) = match op.size {
        8 => (cpu.stack_word::<u64>(0)?, cpu.stack_word::<u64>(8)? as u16),
        _ => (u64::from(cpu.stack_word::<u32>(0)?), cpu.stack_word::<u32>(4)? as u16),
    };
    let d = cpu.descriptor(sel, vector::GP)?;
    cpu.load_code(sel, &d)?;
    cpu.drop_stack(2 * u64::from(op.size));
    cpu.rip = rip;
    cpu.update_mode();
    Ok(())
}
impl Cpu {
    fn enter_pub(&mut self, e: Event) -> Done {
        self.deliver(e)
    }
}

pub(crate) fn lower(i: &Instruction, op: &mut Op, c: &Context) -> Option<Choice> {
    let _ = c;
    let mem = i.op0_kind() == OpKind::Memory || i.op1_kind() == OpKind::Memory;
    Some(match i.mnemonic() {
        M::Nop
        | M::Pause
        | M::Mfence
        | M::Lfence
        | M::Sfence
        | M::Clflush
        | M::Reservednop
        | M::Prefetchw
        | M::Prefetcht0
        | M::Prefetchnta
        | M::Wbinvd
        | M::Endbr64 => Choice::on(nop)?,
        M::Hlt => Choice::last(hlt)?,
        M::Cli => Choice::last(cli)?,
        M::Sti => Choice::last(sti)?,
        M::Clac => Choice::last(clac)?,
        M::Stac => Choice::last(stac)?,
        M::Pushfq => Choice::on(pushf)?,
        M::Popfq => Choice::last(popf)?,
        M::In => {
            op.size = i.op0_register().size() as u8;
            op.extra = u8::from(i.op1_kind() != OpKind::Register);
            Choice::last(inp)?
        }
        M::Out => {
            op.size = i.op1_register().size() as u8;
            op.extra = u8::from(i.op0_kind() != OpKind::Register);
            Choice::last(outp)?
        }
        M::Cpuid => Choice::on(cpuid)?,
        M::Rdmsr => Choice::last(rdmsr)?,
        M::Wrmsr => Choice::last(wrmsr)?,
        M::Invlpg => Choice::last(invlpg)?,
        M::Clts => Choice::last(clts)?,
        M::Swapgs => Choice::last(swapgs)?,
        M::Lgdt => Choice::last(lgdt)?,
        M::Lidt => {
            op.extra = 1;
            Choice::last(lgdt)?
        }
        M::Sgdt => Choice::last(sgdt)?,
        M::Sidt => {
            op.extra = 1;
            Choice::last(sgdt)?
        }
        M::Ltr => Choice::last(ltr)?,
        M::Lldt => Choice::last(lldt)?,
        M::Rdtsc => Choice::on(rdtsc)?,
        M::Rdtscp if c.tsc => {
            op.extra = 1;
            Choice::on(rdtsc)?
        }
        M::Syscall => Choice::jump(syscall)?,
        M::Sysretq => {
            op.size = 8;
            Choice::jump(sysret)?
        }
        M::Sysret => {
            op.size = 4;
            Choice::jump(sysret)?
        }
        M::Iretq => Choice::jump(iretq)?,
        M::Retf => {
            op.size = if i.code() == iced_x86::Code::Retfq { 8 } else { 4 };
            Choice::jump(retfq)?
        }
        M::Int3 => {
            op.extra = 3;
            Choice::jump(int3)?
        }
        M::Int => {
            op.extra = i.immediate8();
            Choice::jump(int3)?
        }
        M::Mov => {
            let (a, b) = (i.op0_register(), i.op1_register());
            let seg = |r: Register| r.is_segment_register();
            if a.is_cr() {
                Choice::last(mov_to_cr)?
            } else if b.is_cr() {
                Choice::last(mov_from_cr)?
            } else if a.is_dr() {
                Choice::last(mov_to_dr)?
            } else if b.is_dr() {
                Choice::last(mov_dr)?
            } else if seg(a) {
                op.dst = a.number() as u8;
                op.extra = u8::from(mem);
                Choice::last(mov_sreg)?
            } else if seg(b) {
                op.extra = u8::from(mem);
                op.size = i.op0_register().size() as u8;
                Choice::on(from_sreg)?
            } else {
                return None;
            }
        }
        _ => return None,
    })
}
impl Cpu {
    pub(crate) fn check_io(&mut self, _: u16, _: u8) -> Done {
        Ok(())
    }
}
const _: Option<Handler> = None;
