//! Far transfers: CALL, JMP and RET to another segment, through call gates too (Intel SDM vol. 3, 6.8; AMD APM vol. 2,
//! 4.9 to 4.11).

use iced_x86::{Code, Instruction, OpKind};
use scribe_types::cpu::Segment;

use super::descriptor::{Descriptor, is_null, null_segment, selector_code, system};
use super::stack::Stack;
use crate::Behaviour;
use crate::cpu::{
    ATTR_DB, ATTR_L, ATTR_P, ATTR_S, ATTR_UNUSABLE, CS, Cpu, DS, Done, ES, FS, GS, RSP, SS, Trap, vector,
};
use crate::flags::VM;
use crate::lower::{Choice, Context};
use crate::op::{Op, truncate};

/// Attributes of a segment of virtual-8086 mode.
const VIRTUAL: u32 = 0xf3;

/// A segment register of real mode, where its limit and attributes stay as they are unless it was null, or of
/// virtual-8086 mode.
pub(super) fn real_segment(cpu: &Cpu, seg: usize, selector: u16) -> Segment {
    let base = u64::from(selector) << 4;
    if cpu.flags.system & VM != 0 {
        return virtual_segment(selector);
    }
    if cpu.segs[seg].attributes & ATTR_UNUSABLE != 0 {
        return Segment { base, selector, limit: 0xffff, attributes: 0x93 };
    }
    Segment { base, selector, ..cpu.segs[seg] }
}

/// A segment register of virtual-8086 mode.
pub(super) fn virtual_segment(selector: u16) -> Segment {
    Segment { base: u64::from(selector) << 4, limit: 0xffff, selector, attributes: VIRTUAL }
}

pub(super) fn lower(i: &Instruction, op: &mut Op, c: &Context) -> Option<Choice> {
    op.size = match i.code() {
        Code::Call_ptr1616 | Code::Jmp_ptr1616 | Code::Call_m1616 | Code::Jmp_m1616 => 16,
        Code::Call_ptr1632 | Code::Jmp_ptr1632 | Code::Call_m1632 | Code::Jmp_m1632 => 32,
        Code::Call_m1664 | Code::Jmp_m1664 => 64,
        Code::Retfw | Code::Retfw_imm16 => 16,
        Code::Retfd | Code::Retfd_imm16 => 32,
        Code::Retfq | Code::Retfq_imm16 => 64,
        _ => return None,
    };
    match i.op0_kind() {
        OpKind::FarBranch16 | OpKind::FarBranch32 => {
            op.disp = i.far_branch_selector().into();
            op.imm = if op.size == 16 { i.far_branch16().into() } else { u64::from(i.far_branch32()) };
        }
        // AMD's processors have no 64-bit offsets.
        OpKind::Memory => {
            op.extra = if op.size == 64 && c.behaviour != Behaviour::Tcg { 4 } else { op.size / 8 }
        }
        _ => {}
    }
    match i.code() {
        Code::Call_ptr1616 | Code::Call_ptr1632 => Choice::jump(call_direct),
        Code::Jmp_ptr1616 | Code::Jmp_ptr1632 => Choice::jump(jump_direct),
        Code::Call_m1616 | Code::Call_m1632 | Code::Call_m1664 => Choice::jump(call_memory),
        Code::Jmp_m1616 | Code::Jmp_m1632 | Code::Jmp_m1664 => Choice::jump(jump_memory),
        _ => Choice::jump(return_far),
    }
}

fn call_direct(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.far_call(op, op.disp as u16, op.imm)
}

fn jump_direct(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.far_jump(op.disp as u16, op.imm)
}

fn call_memory(cpu: &mut Cpu, op: &Op) -> Done {
    let (selector, offset) = cpu.far_pointer(op, op.extra.into())?;
    cpu.far_call(op, selector, offset)
}

fn jump_memory(cpu: &mut Cpu, op: &Op) -> Done {
    let (selector, offset) = cpu.far_pointer(op, op.extra.into())?;
    cpu.far_jump(selector, offset)
}

fn return_far(cpu: &mut Cpu, op: &Op) -> Done {
    let mut stack = Stack::current(cpu, 0);
    let bytes = u64::from(op.size / 8);
    let release = op.imm & 0xffff;
    let rip = stack.pop(cpu, bytes)?;
    let selector = stack.pop(cpu, bytes)? as u16;
    stack.drop(release);
    if !cpu.mode.protected {
        let code = real_segment(cpu, CS, selector);
        cpu.check_entry(&code, rip, 0)?;
        stack.commit_pointer(cpu);
        cpu.segs[CS] = code;
        cpu.rip = rip;
        cpu.update_mode();
        return Ok(());
    }
    let (code, cpl) = cpu.return_code(selector)?;
    if cpl == cpu.mode.cpl {
        cpu.check_entry(&code, rip, 0)?;
        stack.commit_pointer(cpu);
    } else {
        let pointer = stack.pop(cpu, bytes)?;
        let ss = stack.pop(cpu, bytes)? as u16;
        let ss = cpu.return_stack(ss, cpl, &code)?;
        cpu.check_entry(&code, rip, 0)?;
        cpu.set_outer_stack(ss, pointer, &code);
        cpu.drop_inner_segments(cpl);
        let width = stack_width(&ss, cpu.is_long_code(&code));
        let pointer = cpu.regs[usize::from(RSP)].wrapping_add(release);
        cpu.set_pointer(pointer, width);
    }
    cpu.segs[CS] = code;
    cpu.rip = rip;
    cpu.update_mode();
    Ok(())
}

/// Bits of the stack pointer.
fn stack_width(ss: &Segment, long: bool) -> u8 {
    match (long, ss.attributes & ATTR_DB != 0) {
        (true, _) => 64,
        (false, true) => 32,
        (false, false) => 16,
    }
}

impl Cpu {
    /// Reads a far pointer whose offset has `bytes`.
    pub(super) fn far_pointer(&mut self, op: &Op, bytes: u64) -> Result<(u16, u64), Trap> {
        let linear = self.linear(op, bytes + 2, false)?;
        let offset = match bytes {
            2 => self.load::<u16>(linear)?.into(),
            4 => self.load::<u32>(linear)?.into(),
            _ => self.load::<u64>(linear)?,
        };
        let selector = self.load(linear.wrapping_add(bytes))?;
        Ok((selector, offset))
    }

    pub(super) fn is_long_code(&self, code: &Segment) -> bool {
        self.in_long_mode() && code.attributes & ATTR_L != 0
    }

    fn set_pointer(&mut self, value: u64, width: u8) {
        let slot = &mut self.regs[usize::from(RSP)];
        *slot = match width {
            16 => *slot & !0xffff | value & 0xffff,
            width => truncate(value, width),
        };
    }

    fn far_jump(&mut self, selector: u16, offset: u64) -> Done {
        if !self.mode.protected {
            let code = real_segment(self, CS, selector);
            self.check_entry(&code, offset, 0)?;
            self.go(code, offset);
            return Ok(());
        }
        let target = self.target(selector)?;
        if !target.is_system() {
            let code = self.direct(target, selector)?;
            self.check_entry(&code, offset, 0)?;
            self.go(code, offset);
            return Ok(());
        }
        let gate = self.call_gate(target, selector)?;
        let (descriptor, _) = self.gate_target(&gate)?;
        if !descriptor.is_conforming() && descriptor.dpl() != self.mode.cpl {
            return Err(self.raise_code(vector::GP, selector_code(gate.selector, 0)));
        }
        let code = self.settle(descriptor, gate.selector, self.mode.cpl)?;
        self.check_entry(&code, gate.offset, 0)?;
        self.go(code, gate.offset);
        Ok(())
    }

    fn far_call(&mut self, op: &Op, selector: u16, offset: u64) -> Done {
        let bytes = u64::from(op.size / 8);
        let back = (op.next_rip(self), u64::from(self.segs[CS].selector));
        let mut stack = Stack::current(self, 0);
        if !self.mode.protected {
            let code = real_segment(self, CS, selector);
            self.check_entry(&code, offset, 0)?;
            stack.push(self, back.1, bytes)?;
            stack.push(self, back.0, bytes)?;
            stack.commit_pointer(self);
            self.go(code, offset);
            return Ok(());
        }
        let target = self.target(selector)?;
        if !target.is_system() {
            let code = self.direct(target, selector)?;
            if self.is_long_code(&code) {
                stack.width = 64; // the pushes are those of the new code's mode
            }
            self.check_entry(&code, offset, 0)?;
            stack.push(self, back.1, bytes)?;
            stack.push(self, back.0, bytes)?;
            stack.commit_pointer(self);
            self.go(code, offset);
            return Ok(());
        }
        let gate = self.call_gate(target, selector)?;
        let (descriptor, inner) = self.gate_target(&gate)?;
        if !inner {
            let code = self.settle(descriptor, gate.selector, self.mode.cpl)?;
            if gate.bytes == 8 {
                stack.width = 64;
            }
            self.check_entry(&code, gate.offset, 0)?;
            stack.push(self, back.1, gate.bytes)?;
            stack.push(self, back.0, gate.bytes)?;
            stack.commit_pointer(self);
            self.go(code, gate.offset);
            return Ok(());
        }
        let cpl = descriptor.dpl();
        let code = self.settle(descriptor, gate.selector, cpl)?;
        self.check_entry(&code, gate.offset, 0)?;
        let old = (self.regs[usize::from(RSP)], u64::from(self.segs[SS].selector));
        let (ss, mut new) = if gate.bytes == 8 {
            let pointer = self.tss_pointer(4 + 8 * u64::from(cpl), 0)?;
            let ss = null_segment(cpl.into(), cpl);
            (ss, Stack::long(self, ss, pointer, cpl, 0))
        } else {
            let inner = self.inner_stack(cpl, 0)?;
            (inner.segment, inner.stack)
        };
        new.push(self, old.1, gate.bytes)?;
        new.push(self, old.0, gate.bytes)?;
        for n in (0..gate.parameters).rev() {
            let mut parameter = stack;
            parameter.drop(gate.bytes * u64::from(n));
            let value = parameter.pop(self, gate.bytes)?;
            new.push(self, value, gate.bytes)?;
        }
        new.push(self, back.1, gate.bytes)?;
        new.push(self, back.0, gate.bytes)?;
        new.commit_pointer(self);
        self.segs[SS] = ss;
        self.go(code, gate.offset);
        Ok(())
    }

    fn go(&mut self, code: Segment, rip: u64) {
        self.segs[CS] = code;
        self.rip = rip;
        self.update_mode();
    }

    /// The descriptor that a far CALL or JMP names.
    fn target(&mut self, selector: u16) -> Result<Descriptor, Trap> {
        if is_null(selector) {
            return Err(self.general_protection());
        }
        self.descriptor(selector, vector::GP, 0)
    }

    /// A code segment that is jumped to or called directly, with its accessed bit set.
    fn direct(&mut self, target: Descriptor, selector: u16) -> Result<Segment, Trap> {
        let cpl = self.mode.cpl;
        let allowed = if target.is_conforming() {
            target.dpl() <= cpl
        } else {
            selector as u8 & 3 <= cpl && target.dpl() == cpl
        };
        if !target.is_code() || !allowed {
            return Err(self.raise_code(vector::GP, selector_code(selector, 0)));
        }
        self.settle(target, selector, cpl)
    }

    /// The segment register for a code segment that runs at privilege `cpl`.
    fn settle(&mut self, mut target: Descriptor, selector: u16, cpl: u8) -> Result<Segment, Trap> {
        self.finish_code(&mut target, selector, 0)?;
        Ok(target.segment(selector & !3 | u16::from(cpl)))
    }

    fn call_gate(&mut self, mut gate: Descriptor, selector: u16) -> Result<CallGate, Trap> {
        let long = self.in_long_mode();
        let code = selector_code(selector, 0);
        let bytes = match gate.kind() {
            system::CALL_GATE if long => 8,
            system::CALL_GATE => 4,
            system::CALL_GATE_16 if !long => 2,
            system::TSS | system::TSS_16 | system::TASK_GATE if !long => 0,
            _ => return Err(self.raise_code(vector::GP, code)),
        };
        if gate.dpl() < self.mode.cpl || gate.dpl() < selector as u8 & 3 {
            return Err(self.raise_code(vector::GP, code));
        }
        if long {
            self.extend(&mut gate, selector, vector::GP, 0)?;
        }
        if !gate.is_present() {
            return Err(self.raise_code(vector::NP, code));
        }
        if bytes == 0 {
            return Err(self.refuse("hardware task switch"));
        }
        Ok(CallGate {
            selector: gate.gate_selector(),
            offset: if bytes == 2 { gate.gate_offset() & 0xffff } else { gate.gate_offset() },
            bytes,
            parameters: if long { 0 } else { (gate.raw >> 32) as u8 & 31 },
        })
    }

    /// The code segment that a call gate leads to, and whether a CALL enters an inner privilege level there.
    fn gate_target(&mut self, gate: &CallGate) -> Result<(Descriptor, bool), Trap> {
        if is_null(gate.selector) {
            return Err(self.general_protection());
        }
        let target = self.descriptor(gate.selector, vector::GP, 0)?;
        let wrong_width = gate.bytes == 8 && (!target.is_long() || target.is_big());
        if !target.is_code() || target.dpl() > self.mode.cpl || wrong_width {
            return Err(self.raise_code(vector::GP, selector_code(gate.selector, 0)));
        }
        let inner = !target.is_conforming() && target.dpl() < self.mode.cpl;
        Ok((target, inner))
    }

    /// The code segment that RET or IRET returns to, and its privilege level.
    pub(super) fn return_code(&mut self, selector: u16) -> Result<(Segment, u8), Trap> {
        if is_null(selector) {
            return Err(self.general_protection());
        }
        let mut target = self.descriptor(selector, vector::GP, 0)?;
        let cpl = selector as u8 & 3;
        let allowed = if target.is_conforming() { target.dpl() <= cpl } else { target.dpl() == cpl };
        if !target.is_code() || cpl < self.mode.cpl || !allowed {
            return Err(self.raise_code(vector::GP, selector_code(selector, 0)));
        }
        self.finish_code(&mut target, selector, 0)?;
        Ok((target.segment(selector), cpl))
    }

    /// The stack segment that RET or IRET returns to with `code` at privilege `cpl`.
    pub(super) fn return_stack(&mut self, selector: u16, cpl: u8, code: &Segment) -> Result<Segment, Trap> {
        if is_null(selector) && self.is_long_code(code) && cpl != 3 && selector as u8 & 3 == cpl {
            return Ok(null_segment(selector, cpl));
        }
        self.stack_descriptor(selector, cpl, vector::GP, 0)
    }

    /// Makes the stack of the code that is returned to the current one.
    pub(super) fn set_outer_stack(&mut self, ss: Segment, pointer: u64, code: &Segment) {
        self.segs[SS] = ss;
        self.set_pointer(pointer, stack_width(&ss, self.is_long_code(code)));
    }

    /// Segments that `cpl` may not use become null; null ones keep their base, which 64-bit code uses.
    pub(super) fn drop_inner_segments(&mut self, cpl: u8) {
        for seg in [ES, FS, GS, DS] {
            let s = &mut self.segs[seg];
            let conforming = s.attributes & 0b1100 == 0b1100;
            let dpl = (s.attributes >> 5) as u8 & 3;
            if !is_null(s.selector) && s.attributes & ATTR_S != 0 && !conforming && dpl < cpl {
                s.selector = 0;
                s.attributes = s.attributes & !ATTR_P | ATTR_UNUSABLE;
            }
        }
    }
}

/// A call gate.
#[derive(Debug, Clone, Copy)]
struct CallGate {
    selector: u16,
    offset: u64,
    bytes: u64,
    /// words of `bytes` to be copied to the inner stack
    parameters: u8,
}
