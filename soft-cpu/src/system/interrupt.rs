//! INT n, INT3, INTO, INT1, and IRET in all its forms.

use iced_x86::{Code, Instruction};

use super::event::Event;
use super::far::{real_segment, virtual_segment};
use super::stack::Stack;
use crate::cpu::{CR4_VME, CS, Cpu, DS, Done, ES, FS, GS, SS, vector};
use crate::flags::{AC, ARITHMETIC, DF, ID, IF, IOPL, NT, RF, TF, VM};
use crate::lower::{Choice, Context};
use crate::op::{Op, truncate};

pub(super) fn lower(i: &Instruction, op: &mut Op, _: &Context) -> Option<Choice> {
    match i.code() {
        Code::Int_imm8 => Choice::jump(int),
        Code::Int3 => Choice::jump(int3),
        Code::Int1 => Choice::jump(int1),
        Code::Into => Choice::jump(into),
        Code::Iretw => {
            op.size = 16;
            Choice::jump(iret)
        }
        Code::Iretd => {
            op.size = 32;
            Choice::jump(iret)
        }
        Code::Iretq => {
            op.size = 64;
            Choice::jump(iret)
        }
        _ => None,
    }
}

fn int(cpu: &mut Cpu, op: &Op) -> Done {
    if cpu.flags.system & VM != 0 {
        if cpu.cr4 & CR4_VME != 0 {
            return Err(cpu.refuse("virtual-8086 mode extensions"));
        }
        if cpu.flags.system & IOPL != IOPL {
            return Err(cpu.general_protection());
        }
    }
    cpu.program_interrupt(op, op.imm as u8, false)
}

fn int3(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.program_interrupt(op, vector::BP, false)
}

fn int1(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.program_interrupt(op, vector::DB, true)
}

fn into(cpu: &mut Cpu, op: &Op) -> Done {
    if cpu.flags.of() {
        return cpu.program_interrupt(op, vector::OF, false);
    }
    cpu.rip = truncate(op.next_rip(cpu), cpu.mode.bitness);
    Ok(())
}

fn iret(cpu: &mut Cpu, op: &Op) -> Done {
    let bytes = u64::from(op.size / 8);
    if !cpu.mode.protected {
        cpu.iret_real(bytes)?;
    } else if cpu.flags.system & NT != 0 {
        return Err(if cpu.in_long_mode() {
            cpu.general_protection()
        } else {
            cpu.refuse("hardware task switch")
        });
    } else {
        cpu.iret_protected(bytes)?;
    }
    cpu.nmi_masked = false;
    cpu.update_mode();
    cpu.update_careful();
    Ok(())
}

impl Cpu {
    fn program_interrupt(&mut self, op: &Op, vector: u8, icebp: bool) -> Done {
        let next = truncate(op.next_rip(self), self.mode.bitness);
        self.enter(&Event::program(vector, next, icebp))?;
        if icebp {
            self.dr7 &= !super::debug::DR7_GD;
        }
        self.trace = false; // the handler is not single-stepped into
        self.update_careful();
        Ok(())
    }

    /// What IRET may change of RFLAGS, by privilege and operand size.
    fn iret_mask(&self, bytes: u64) -> u64 {
        let mut mask = ARITHMETIC | TF | DF | NT;
        if bytes > 2 {
            mask |= RF | AC | ID;
        }
        if self.mode.cpl <= self.iopl() {
            mask |= IF;
        }
        if self.mode.cpl == 0 {
            mask |= IOPL;
        }
        mask
    }

    fn load_flags(&mut self, value: u64, mask: u64) {
        let old = self.flags.value();
        self.flags.set_value(old & !mask | value & mask);
        self.resume_set = value & mask & RF != 0;
    }

    fn iret_real(&mut self, bytes: u64) -> Done {
        if self.flags.system & VM != 0 {
            if self.cr4 & CR4_VME != 0 {
                return Err(self.refuse("virtual-8086 mode extensions"));
            }
            if self.iopl() != 3 {
                return Err(self.general_protection());
            }
        }
        let mut stack = Stack::current(self, 0);
        let rip = stack.pop(self, bytes)?;
        let code = stack.pop(self, bytes)? as u16;
        let flags = stack.pop(self, bytes)?;
        let code = real_segment(self, CS, code);
        self.check_entry(&code, rip, 0)?;
        stack.commit_pointer(self);
        let mask = self.iret_mask(bytes);
        self.segs[CS] = code;
        self.rip = rip;
        self.load_flags(flags, mask);
        Ok(())
    }

    fn iret_protected(&mut self, bytes: u64) -> Done {
        let mut stack = Stack::current(self, 0);
        let rip = stack.pop(self, bytes)?;
        let selector = stack.pop(self, bytes)? as u16;
        let flags = stack.pop(self, bytes)?;
        if flags & VM != 0 && self.mode.cpl == 0 && bytes == 4 && !self.in_long_mode() {
            return self.iret_virtual(stack, rip, selector, flags);
        }
        let (code, cpl) = self.return_code(selector)?;
        let mask = self.iret_mask(bytes);
        if cpl != self.mode.cpl || self.is_long() {
            let pointer = stack.pop(self, bytes)?;
            let ss = stack.pop(self, bytes)? as u16;
            let ss = self.return_stack(ss, cpl, &code)?;
            self.check_entry(&code, rip, 0)?;
            self.set_outer_stack(ss, pointer, &code);
            if cpl != self.mode.cpl {
                self.drop_inner_segments(cpl);
            }
        } else {
            self.check_entry(&code, rip, 0)?;
            stack.commit_pointer(self);
        }
        self.segs[CS] = code;
        self.rip = rip;
        self.load_flags(flags, mask);
        Ok(())
    }

    /// IRET to virtual-8086 mode.
    fn iret_virtual(&mut self, mut stack: Stack, rip: u64, code: u16, flags: u64) -> Done {
        let pointer = stack.pop(self, 4)?;
        let mut selectors = [0; 5];
        for selector in &mut selectors {
            *selector = stack.pop(self, 4)? as u16;
        }
        for (seg, selector) in [SS, ES, DS, FS, GS].into_iter().zip(selectors) {
            self.segs[seg] = virtual_segment(selector);
        }
        self.segs[CS] = virtual_segment(code);
        self.regs[usize::from(crate::cpu::RSP)] = pointer;
        self.rip = rip & 0xffff;
        self.load_flags(flags, self.iret_mask(4) | VM);
        Ok(())
    }

    /// IOPL.
    pub(super) fn iopl(&self) -> u8 {
        ((self.flags.system & IOPL) >> 12) as u8
    }
}
