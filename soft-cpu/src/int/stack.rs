//! The stack: PUSH, POP, PUSHA, POPA, ENTER, LEAVE, and what other instructions need of it.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

use super::place::{First, Immediate, Memory, Source};
use crate::cpu::{Cpu, Done, RAX, RBP, RSP, SS, Trap};
use crate::lower::{Choice, Context};
use crate::op::{Handler, Op, truncate};
use crate::word::Word;

impl Cpu {
    /// rSP by the stack's width.
    #[inline(always)]
    pub(crate) fn stack_pointer(&self) -> u64 {
        truncate(self.regs[usize::from(RSP)], self.mode.stack)
    }

    /// Sets rSP, of the stack's width.
    #[inline(always)]
    pub(crate) fn set_stack_pointer(&mut self, value: u64) {
        let slot = &mut self.regs[usize::from(RSP)];
        *slot = match self.mode.stack {
            64 => value,
            32 => value & 0xffff_ffff,
            _ => *slot & !0xffff | value & 0xffff,
        };
    }

    /// The linear address of stack offset `offset`, for an access of `bytes`.
    #[inline(always)]
    fn stack_linear(&mut self, offset: u64, bytes: u64, write: bool) -> Result<u64, Trap> {
        if self.mode.stack == 64 {
            return Ok(offset);
        }
        let offset = truncate(offset, self.mode.stack);
        self.linear_in(SS, offset, bytes, write)
    }

    /// A canonical fault of the stack is #SS.
    #[inline(always)]
    fn on_stack<T>(&mut self, result: Result<T, Trap>) -> Result<T, Trap> {
        if result.is_err() {
            self.stack_fault();
        }
        result
    }

    #[cold]
    fn stack_fault(&mut self) {
        if self.fault.canonical {
            self.fault.vector = crate::cpu::vector::SS;
        }
    }

    /// The word at `offset` above the top of the stack.
    #[inline(always)]
    pub(crate) fn stack_word<W: Word>(&mut self, offset: u64) -> Result<W, Trap> {
        let at = self.stack_pointer().wrapping_add(offset);
        let linear = self.stack_linear(at, W::BYTES, false)?;
        let result = self.load(linear);
        self.on_stack(result)
    }

    /// The word at the top of the stack.
    #[inline(always)]
    pub(crate) fn top<W: Word>(&mut self) -> Result<W, Trap> {
        self.stack_word(0)
    }

    /// Moves rSP up by `bytes`.
    #[inline(always)]
    pub(crate) fn drop_stack(&mut self, bytes: u64) {
        let sp = self.stack_pointer().wrapping_add(bytes);
        self.set_stack_pointer(sp);
    }

    /// Pushes a word; on a fault nothing has changed.
    #[inline(always)]
    pub(crate) fn push<W: Word>(&mut self, value: W) -> Done {
        let sp = self.stack_pointer().wrapping_sub(W::BYTES);
        self.put(sp, value)?;
        self.set_stack_pointer(sp);
        Ok(())
    }

    /// Faults as a push of `bytes` would.
    #[cold]
    pub(crate) fn check_push(&mut self, bytes: u64) -> Done {
        let sp = self.stack_pointer().wrapping_sub(bytes);
        let linear = self.stack_linear(sp, bytes, true)?;
        let result = self.check_writable(linear, bytes);
        self.on_stack(result)
    }

    /// Stores a word at a stack offset.
    #[inline(always)]
    fn put<W: Word>(&mut self, sp: u64, value: W) -> Done {
        let linear = self.stack_linear(sp, W::BYTES, true)?;
        let result = self.store(linear, value);
        self.on_stack(result)
    }
}

fn push<W: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let value: W = S::get(cpu, op)?;
    cpu.push(value)
}

/// PUSH of a segment register (`op.extra`): the selector, zero-extended (AMD APM vol. 3, PUSH).
fn push_segment<W: Word>(cpu: &mut Cpu, op: &Op) -> Done {
    let selector = cpu.segs[usize::from(op.extra & 7)].selector;
    cpu.push(W::cut(selector.into()))
}

fn pop_register<W: Word>(cpu: &mut Cpu, op: &Op) -> Done {
    let value: W = cpu.top()?;
    cpu.drop_stack(W::BYTES);
    cpu.set_reg(op.dst, value);
    Ok(())
}

/// The address is formed with rSP after the pop.
fn pop_memory<W: Word>(cpu: &mut Cpu, op: &Op) -> Done {
    let value: W = cpu.top()?;
    let before = cpu.regs[usize::from(RSP)];
    cpu.drop_stack(W::BYTES);
    let result = cpu.write_mem(op, value);
    if result.is_err() {
        cpu.regs[usize::from(RSP)] = before;
    }
    result
}

fn push_all<W: Word>(cpu: &mut Cpu, _: &Op) -> Done {
    let sp = cpu.stack_pointer();
    // Highest address first, as the processor does.
    for (number, offset) in (0..8).zip(1..) {
        let value: W = cpu.reg(number);
        cpu.put(sp.wrapping_sub(offset * W::BYTES), value)?;
    }
    cpu.set_stack_pointer(sp.wrapping_sub(8 * W::BYTES));
    Ok(())
}

fn pop_all<W: Word>(cpu: &mut Cpu, _: &Op) -> Done {
    let mut values = [W::cut(0); 8];
    for (number, value) in (0..).zip(values.iter_mut()) {
        *value = cpu.stack_word(number * W::BYTES)?;
    }
    for (number, value) in (RAX..8).rev().zip(values) {
        if number != RSP {
            cpu.set_reg(number, value);
        }
    }
    cpu.drop_stack(8 * W::BYTES);
    Ok(())
}

/// ENTER `op.imm` bytes, nesting level `op.extra` (Intel SDM vol. 2).
fn enter<W: Word>(cpu: &mut Cpu, op: &Op) -> Done {
    let level = u64::from(op.extra & 31);
    let sp = cpu.stack_pointer();
    let frame = sp.wrapping_sub(W::BYTES);
    let old: W = cpu.reg(RBP);
    cpu.put(frame, old)?;
    let mut top = frame;
    for n in 1..level {
        let at = truncate(cpu.regs[usize::from(RBP)].wrapping_sub(n * W::BYTES), cpu.mode.stack);
        let linear = cpu.stack_linear(at, W::BYTES, false)?;
        let result = cpu.load::<W>(linear);
        let value = cpu.on_stack(result)?;
        top = top.wrapping_sub(W::BYTES);
        cpu.put(top, value)?;
    }
    if level > 0 {
        top = top.wrapping_sub(W::BYTES);
        cpu.put(top, W::cut(frame))?;
    }
    let end = top.wrapping_sub(op.imm & 0xffff);
    // The processor checks that the new top can be written (Intel SDM vol. 2, ENTER).
    let linear = cpu.stack_linear(end, W::BYTES, true)?;
    let result = cpu.check_writable(linear, W::BYTES);
    cpu.on_stack(result)?;
    cpu.set_reg(RBP, W::cut(frame));
    cpu.set_stack_pointer(end);
    Ok(())
}

fn leave<W: Word>(cpu: &mut Cpu, _: &Op) -> Done {
    let frame = truncate(cpu.regs[usize::from(RBP)], cpu.mode.stack);
    let linear = cpu.stack_linear(frame, W::BYTES, false)?;
    let result = cpu.load::<W>(linear);
    let value = cpu.on_stack(result)?;
    cpu.set_stack_pointer(frame.wrapping_add(W::BYTES));
    cpu.set_reg(RBP, value);
    Ok(())
}

macro_rules! by_bytes {
    ($bytes:expr, $f:ident $(, $t:ty)*) => {
        match $bytes {
            2 => $f::<u16 $(, $t)*> as Handler,
            4 => $f::<u32 $(, $t)*>,
            _ => $f::<u64 $(, $t)*>,
        }
    };
}

fn segment_number(r: Register) -> Option<u8> {
    Some(match r {
        Register::ES => 0,
        Register::CS => 1,
        Register::SS => 2,
        Register::DS => 3,
        Register::FS => 4,
        Register::GS => 5,
        _ => return None,
    })
}

pub(super) fn lower(i: &Instruction, op: &mut Op, _: &Context) -> Option<Choice> {
    use Mnemonic as M;
    let bytes = i.stack_pointer_increment().unsigned_abs();
    let run = match i.mnemonic() {
        M::Push => match (i.op0_kind(), segment_number(i.op0_register())) {
            (OpKind::Register, Some(segment)) => {
                op.extra = segment;
                by_bytes!(bytes, push_segment)
            }
            (OpKind::Register, None) => by_bytes!(bytes, push, First),
            (OpKind::Memory, _) => by_bytes!(bytes, push, Memory),
            _ => by_bytes!(bytes, push, Immediate),
        },
        M::Pop => match (i.op0_kind(), segment_number(i.op0_register())) {
            (OpKind::Register, Some(_)) => return None,
            (OpKind::Register, None) => by_bytes!(bytes, pop_register),
            _ => by_bytes!(bytes, pop_memory),
        },
        M::Pusha => push_all::<u16>,
        M::Pushad => push_all::<u32>,
        M::Popa => pop_all::<u16>,
        M::Popad => pop_all::<u32>,
        M::Enter => match i.code() {
            Code::Enterw_imm16_imm8 => enter::<u16>,
            Code::Enterd_imm16_imm8 => enter::<u32>,
            _ => enter::<u64>,
        },
        M::Leave => match i.code() {
            Code::Leavew => leave::<u16>,
            Code::Leaved => leave::<u32>,
            _ => leave::<u64>,
        },
        _ => return None,
    };
    Choice::on(run)
}
