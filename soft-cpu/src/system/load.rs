//! Loading segment registers: MOV, POP, LDS and its kin; and MOV from them.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};
use scribe_types::cpu::Segment;

use super::descriptor::{is_null, null_segment, selector_code};
use super::far::real_segment;
use super::tables::{read_selector, store_selector};
use crate::cpu::{Cpu, DS, Done, ES, FS, GS, SS, Trap, vector};
use crate::lower::{Choice, Context};
use crate::op::{Handler, Op};
use crate::word::Word;

/// Interrupt shadow of MOV SS and POP SS.
const SHADOW_SS: u8 = 1;

fn segment_number(r: Register) -> Option<usize> {
    Some(match r {
        Register::ES => ES,
        Register::SS => SS,
        Register::DS => DS,
        Register::FS => FS,
        Register::GS => GS,
        _ => return None,
    })
}

pub(super) fn lower(i: &Instruction, op: &mut Op, c: &Context) -> Option<Choice> {
    match i.code() {
        Code::Mov_rm16_Sreg | Code::Mov_r32m16_Sreg | Code::Mov_r64m16_Sreg => {
            let register = i.op0_kind() == OpKind::Register;
            op.extra = match i.op1_register() {
                Register::CS => 1,
                other => segment_number(other)? as u8,
            };
            let run: Handler = match (register, i.code()) {
                (false, _) => store_selector,
                (true, Code::Mov_rm16_Sreg) => read_selector::<u16>,
                (true, Code::Mov_r32m16_Sreg) => read_selector::<u32>,
                _ => read_selector::<u64>,
            };
            Choice::on(run)
        }
        Code::Mov_Sreg_rm16 | Code::Mov_Sreg_r32m16 | Code::Mov_Sreg_r64m16 => {
            op.extra = segment_number(i.op0_register())? as u8;
            Choice::last(if i.op1_kind() == OpKind::Register { load_register } else { load_memory })
        }
        _ => match i.mnemonic() {
            Mnemonic::Pop => {
                op.extra = segment_number(i.op0_register())? as u8;
                Choice::last(match i.code() {
                    Code::Popw_ES | Code::Popw_SS | Code::Popw_DS | Code::Popw_FS | Code::Popw_GS => {
                        pop::<u16>
                    }
                    Code::Popd_ES | Code::Popd_SS | Code::Popd_DS | Code::Popd_FS | Code::Popd_GS => {
                        pop::<u32>
                    }
                    _ => pop::<u64>,
                })
            }
            Mnemonic::Les => pointer(i, op, ES, c),
            Mnemonic::Lds => pointer(i, op, DS, c),
            Mnemonic::Lss => pointer(i, op, SS, c),
            Mnemonic::Lfs => pointer(i, op, FS, c),
            Mnemonic::Lgs => pointer(i, op, GS, c),
            _ => None,
        },
    }
}

fn pointer(i: &Instruction, op: &mut Op, seg: usize, c: &Context) -> Option<Choice> {
    op.extra = seg as u8;
    Choice::last(match i.op0_register().size() {
        2 => load_pointer::<u16>,
        4 => load_pointer::<u32>,
        // AMD's processors have no 64-bit offsets here and ignore REX.W.
        _ if c.behaviour == crate::Behaviour::Tcg => load_pointer::<u64>,
        _ => load_pointer::<u32>,
    })
}

fn load_register(cpu: &mut Cpu, op: &Op) -> Done {
    let selector = cpu.reg(op.src);
    cpu.load_segment(op.extra.into(), selector)
}

fn load_memory(cpu: &mut Cpu, op: &Op) -> Done {
    let selector = cpu.read_mem(op)?;
    cpu.load_segment(op.extra.into(), selector)
}

fn pop<W: Word>(cpu: &mut Cpu, op: &Op) -> Done {
    let selector: u16 = cpu.top()?;
    // The pointer moves by the width of the old stack segment.
    let pointer = cpu.stack_pointer().wrapping_add(W::BYTES);
    let width = cpu.mode.stack;
    cpu.load_segment(op.extra.into(), selector)?;
    let slot = &mut cpu.regs[usize::from(crate::cpu::RSP)];
    *slot = match width {
        16 => *slot & !0xffff | pointer & 0xffff,
        32 => pointer & 0xffff_ffff,
        _ => pointer,
    };
    Ok(())
}

fn load_pointer<W: Word>(cpu: &mut Cpu, op: &Op) -> Done {
    let (selector, offset) = cpu.far_pointer(op, W::BYTES)?;
    let shadow = cpu.shadow;
    cpu.load_segment(op.extra.into(), selector)?;
    cpu.shadow = shadow; // LSS needs none: it loads the pointer too
    cpu.set_reg(op.dst, W::cut(offset));
    cpu.update_careful();
    Ok(())
}

impl Cpu {
    /// Loads ES, SS, DS, FS or GS.
    fn load_segment(&mut self, seg: usize, selector: u16) -> Done {
        self.segs[seg] = self.checked_segment(seg, selector)?;
        self.update_mode();
        if seg == SS {
            self.shadow |= SHADOW_SS;
            self.update_careful();
        }
        Ok(())
    }

    fn checked_segment(&mut self, seg: usize, selector: u16) -> Result<Segment, Trap> {
        if !self.mode.protected {
            return Ok(real_segment(self, seg, selector));
        }
        let (cpl, rpl) = (self.mode.cpl, selector as u8 & 3);
        if is_null(selector) {
            if seg != SS {
                return Ok(null_segment(selector, 0));
            }
            if self.is_long() && cpl != 3 && rpl == cpl {
                return Ok(null_segment(selector, cpl));
            }
            return Err(self.general_protection());
        }
        if seg == SS {
            return self.stack_descriptor(selector, cpl, vector::GP, 0);
        }
        let mut descriptor = self.descriptor(selector, vector::GP, 0)?;
        let code = selector_code(selector, 0);
        let reachable = descriptor.is_conforming() || descriptor.dpl() >= cpl.max(rpl);
        if !descriptor.is_readable() || !reachable {
            return Err(self.raise_code(vector::GP, code));
        }
        if !descriptor.is_present() {
            return Err(self.raise_code(vector::NP, code));
        }
        self.mark_accessed(&mut descriptor)?;
        Ok(descriptor.segment(selector))
    }
}
