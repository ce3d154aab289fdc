//! The ways through the interrupt table: real mode, protected mode, long mode.

use scribe_types::cpu::Segment;

use super::descriptor::{Descriptor, is_null, null_segment, selector_code, system};
use super::event::{Event, Source};
use super::far::real_segment;
use super::stack::Stack;
use crate::cpu::{CR0_PE, CS, Cpu, DS, Done, ES, FS, GS, SS, TR, Trap, vector};
use crate::flags::{AC, IF, NT, RF, TF, VM};

/// A gate of the IDT.
#[derive(Debug, Clone, Copy)]
struct Gate {
    selector: u16,
    offset: u64,
    /// an interrupt gate: IF is cleared
    masks: bool,
    /// bytes that are pushed for a word
    bytes: u64,
    /// stack of the TSS's table to use, 0 for none
    ist: u8,
}

/// A stack from the TSS.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inner {
    pub segment: Segment,
    pub stack: Stack,
}

impl Cpu {
    /// Goes through the IDT. On an error nothing has changed but memory below the stack pointer.
    pub(super) fn enter(&mut self, event: &Event) -> Done {
        if self.cr0 & CR0_PE == 0 {
            return self.enter_real(event);
        }
        let gate = self.gate(event)?;
        if self.in_long_mode() { self.enter_long(event, gate) } else { self.enter_protected(event, gate) }
    }

    fn enter_real(&mut self, event: &Event) -> Done {
        let offset = u64::from(event.vector) * 4;
        if offset + 3 > self.idt.limit.into() {
            return Err(self.general_protection());
        }
        let target: u32 = self.load_system(self.idt.base.wrapping_add(offset) & 0xffff_ffff)?;
        let mut stack = Stack::current(self, 0);
        stack.push(self, event.flags(self), 2)?;
        stack.push(self, self.segs[CS].selector.into(), 2)?;
        stack.push(self, event.rip, 2)?;
        stack.commit_pointer(self);
        self.segs[CS] = real_segment(self, CS, (target >> 16) as u16);
        self.rip = u64::from(target & 0xffff);
        self.flags.system &= !(IF | TF | RF | AC);
        self.update_mode();
        Ok(())
    }

    /// The gate of an event's vector.
    fn gate(&mut self, event: &Event) -> Result<Gate, Trap> {
        let long = self.in_long_mode();
        let size: u64 = if long { 16 } else { 8 };
        let offset = u64::from(event.vector) * size;
        let ext = event.ext(self);
        let code = u32::from(event.vector) << 3 | 2 | ext;
        if offset + size - 1 > self.idt.limit.into() {
            return Err(self.raise_code(vector::GP, code));
        }
        let at = self.idt.base.wrapping_add(offset);
        let raw: u64 = self.load_system(at)?;
        let high = if long { self.load_system(at.wrapping_add(8))? } else { 0 };
        let entry = Descriptor::gate(raw, high);
        let (masks, bytes) = match entry.kind() {
            system::INTERRUPT_GATE if long => (true, 8),
            system::TRAP_GATE if long => (false, 8),
            system::INTERRUPT_GATE => (true, 4),
            system::TRAP_GATE => (false, 4),
            system::INTERRUPT_GATE_16 if !long => (true, 2),
            system::TRAP_GATE_16 if !long => (false, 2),
            system::TASK_GATE if !long => (false, 0),
            _ => return Err(self.raise_code(vector::GP, code)),
        };
        let denied = event.source == Source::Program && entry.dpl() < self.mode.cpl;
        if !entry.is_system() || denied {
            return Err(self.raise_code(vector::GP, code));
        }
        if !entry.is_present() {
            return Err(self.raise_code(vector::NP, code));
        }
        if bytes == 0 {
            return Err(self.refuse("hardware task switch"));
        }
        Ok(Gate {
            selector: entry.gate_selector(),
            offset: if bytes == 2 { entry.gate_offset() & 0xffff } else { entry.gate_offset() },
            masks,
            bytes,
            ist: if long { (raw >> 32) as u8 & 7 } else { 0 },
        })
    }

    /// The code segment of a gate, and the privilege level there.
    fn gate_code(&mut self, gate: Gate, ext: u32) -> Result<(Segment, u8), Trap> {
        if is_null(gate.selector) {
            return Err(self.raise_code(vector::GP, ext));
        }
        let mut target = self.descriptor(gate.selector, vector::GP, ext)?;
        let code = selector_code(gate.selector, ext);
        let cpl = self.mode.cpl;
        let from_virtual = self.flags.system & VM != 0;
        let wrong_width = self.in_long_mode() && (!target.is_long() || target.is_big());
        if !target.is_code() || target.dpl() > cpl || wrong_width {
            return Err(self.raise_code(vector::GP, code));
        }
        let new = if target.is_conforming() { cpl } else { target.dpl() };
        if from_virtual && new != 0 {
            return Err(self.raise_code(vector::GP, code));
        }
        self.finish_code(&mut target, gate.selector, ext)?;
        let segment = target.segment(gate.selector & !3 | u16::from(new));
        self.check_entry(&segment, gate.offset, ext)?;
        Ok((segment, new))
    }

    fn enter_long(&mut self, event: &Event, gate: Gate) -> Done {
        let ext = event.ext(self);
        let (code, cpl) = self.gate_code(gate, ext)?;
        let inner = cpl != self.mode.cpl;
        let mut pointer = if gate.ist != 0 {
            self.tss_pointer(0x1c + 8 * u64::from(gate.ist), ext)?
        } else if inner {
            self.tss_pointer(4 + 8 * u64::from(cpl), ext)?
        } else {
            self.regs[usize::from(crate::cpu::RSP)]
        };
        pointer &= !0xf;
        let ss = if inner { null_segment(cpl.into(), cpl) } else { self.segs[SS] };
        let mut stack = Stack::long(self, ss, pointer, cpl, ext);
        let old_pointer = self.regs[usize::from(crate::cpu::RSP)];
        stack.push(self, self.segs[SS].selector.into(), 8)?;
        stack.push(self, old_pointer, 8)?;
        stack.push(self, event.flags(self), 8)?;
        stack.push(self, self.segs[CS].selector.into(), 8)?;
        stack.push(self, event.rip, 8)?;
        if let Some(code) = event.code {
            stack.push(self, code.into(), 8)?;
        }
        self.segs[SS] = ss;
        self.arrive(code, gate, &stack);
        Ok(())
    }

    fn enter_protected(&mut self, event: &Event, gate: Gate) -> Done {
        let ext = event.ext(self);
        let (code, cpl) = self.gate_code(gate, ext)?;
        let from_virtual = self.flags.system & VM != 0;
        let (ss, mut stack) = if cpl != self.mode.cpl {
            let inner = self.inner_stack(cpl, ext)?;
            (inner.segment, inner.stack)
        } else {
            (self.segs[SS], Stack::current(self, ext))
        };
        if from_virtual {
            for seg in [GS, FS, DS, ES] {
                stack.push(self, self.segs[seg].selector.into(), gate.bytes)?;
            }
        }
        if cpl != self.mode.cpl {
            let old_pointer = self.regs[usize::from(crate::cpu::RSP)];
            stack.push(self, self.segs[SS].selector.into(), gate.bytes)?;
            stack.push(self, old_pointer, gate.bytes)?;
        }
        stack.push(self, event.flags(self), gate.bytes)?;
        stack.push(self, self.segs[CS].selector.into(), gate.bytes)?;
        stack.push(self, event.rip, gate.bytes)?;
        if let Some(code) = event.code {
            stack.push(self, code.into(), gate.bytes)?;
        }
        if from_virtual {
            for seg in [GS, FS, DS, ES] {
                self.segs[seg] = null_segment(0, 0);
            }
        }
        self.segs[SS] = ss;
        self.arrive(code, gate, &stack);
        Ok(())
    }

    fn arrive(&mut self, code: Segment, gate: Gate, stack: &Stack) {
        stack.commit_pointer(self);
        self.segs[CS] = code;
        self.rip = gate.offset;
        let cleared = TF | NT | RF | VM | if gate.masks { IF } else { 0 };
        self.flags.system &= !cleared;
        self.update_mode();
    }

    /// A stack pointer in the TSS of long mode.
    pub(super) fn tss_pointer(&mut self, offset: u64, ext: u32) -> Result<u64, Trap> {
        let tr = self.segs[TR];
        if offset + 7 > tr.limit.into() {
            return Err(self.raise_code(vector::TS, selector_code(tr.selector, ext)));
        }
        self.load_system(tr.base.wrapping_add(offset))
    }

    /// The stack for an inner privilege level, from the TSS of protected mode.
    pub(super) fn inner_stack(&mut self, cpl: u8, ext: u32) -> Result<Inner, Trap> {
        let tr = self.segs[TR];
        let wide = tr.attributes & 8 != 0;
        let (offset, bytes) = if wide { (4 + 8 * u64::from(cpl), 8) } else { (2 + 4 * u64::from(cpl), 4) };
        if offset + bytes - 1 > tr.limit.into() {
            return Err(self.raise_code(vector::TS, selector_code(tr.selector, ext)));
        }
        let at = tr.base.wrapping_add(offset);
        let (pointer, selector): (u64, u16) = if wide {
            (self.load_system::<u32>(at)?.into(), self.load_system(at.wrapping_add(4))?)
        } else {
            (self.load_system::<u16>(at)?.into(), self.load_system(at.wrapping_add(2))?)
        };
        let segment = self.stack_descriptor(selector, cpl, vector::TS, ext)?;
        Ok(Inner { segment, stack: Stack::inner(self, segment, pointer, ext) })
    }
}
