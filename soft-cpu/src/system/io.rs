//! Ports: IN, OUT, and who may use them.

use iced_x86::{Code, Instruction, Register};

use crate::cpu::{ATTR_UNUSABLE, Cpu, Done, RAX, RDX, TR};
use crate::flags::VM;
use crate::lower::{Choice, Context};
use crate::op::Op;
use crate::word::Word;

pub(super) fn lower(i: &Instruction, op: &mut Op, _: &Context) -> Option<Choice> {
    use Code as C;
    // op.extra: the port is in DX.
    let dx = i.op_count() == 2 && (i.op0_register() == Register::DX || i.op1_register() == Register::DX);
    op.extra = u8::from(dx);
    match i.code() {
        C::In_AL_imm8 | C::In_AL_DX => Choice::last(input::<u8>),
        C::In_AX_imm8 | C::In_AX_DX => Choice::last(input::<u16>),
        C::In_EAX_imm8 | C::In_EAX_DX => Choice::last(input::<u32>),
        C::Out_imm8_AL | C::Out_DX_AL => Choice::last(output::<u8>),
        C::Out_imm8_AX | C::Out_DX_AX => Choice::last(output::<u16>),
        C::Out_imm8_EAX | C::Out_DX_EAX => Choice::last(output::<u32>),
        _ => None,
    }
}

fn port(cpu: &Cpu, op: &Op) -> u16 {
    if op.extra != 0 { cpu.reg(RDX) } else { op.imm as u16 & 0xff }
}

fn input<W: Word>(cpu: &mut Cpu, op: &Op) -> Done {
    let (port, size) = (port(cpu, op), W::BYTES as u8);
    cpu.check_io(port, size)?;
    let value = cpu.port_read(port, size)?;
    cpu.set_reg(RAX, W::cut(value.into()));
    Ok(())
}

fn output<W: Word>(cpu: &mut Cpu, op: &Op) -> Done {
    let (port, size) = (port(cpu, op), W::BYTES as u8);
    cpu.check_io(port, size)?;
    let value = cpu.reg::<W>(RAX).wide() as u32;
    cpu.port_write(port, size, value)
}

impl Cpu {
    /// #GP(0) if the current privilege may not use the ports (Intel SDM vol. 1, 19.5). Notes I/O breakpoints.
    pub(crate) fn check_io(&mut self, port: u16, size: u8) -> Done {
        if self.flags.system & VM != 0 || self.mode.cpl > self.iopl() {
            self.check_bitmap(port, size)?;
        }
        self.watch_port(port, size);
        Ok(())
    }

    /// Looks into the I/O permission bitmap of the TSS. Two bytes are read, always.
    fn check_bitmap(&mut self, port: u16, size: u8) -> Done {
        let tr = self.segs[TR];
        let limit = u64::from(tr.limit);
        // Only 32- and 64-bit TSSs have one.
        if tr.attributes & ATTR_UNUSABLE != 0 || tr.attributes & 8 == 0 || limit < 0x67 {
            return Err(self.general_protection());
        }
        let map: u16 = self.load_system(tr.base.wrapping_add(0x66))?;
        let at = u64::from(map) + u64::from(port / 8);
        if at + 1 > limit {
            return Err(self.general_protection());
        }
        let bits: u16 = self.load_system(tr.base.wrapping_add(at))?;
        let wanted = (1u16 << size) - 1;
        if bits >> (port & 7) & wanted != 0 {
            return Err(self.general_protection());
        }
        Ok(())
    }
}
