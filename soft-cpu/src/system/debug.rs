//! Debug registers (Intel SDM vol. 3, 19.2; AMD APM vol. 2, 13.1).

use iced_x86::{Code, Instruction};

use crate::cpu::{CR4_DE, Cpu, Done, vector};
use crate::lower::{Choice, Context};
use crate::op::Op;
use crate::word::Word;

/// Any access to a debug register is a #DB.
pub(super) const DR7_GD: u64 = 1 << 13;
const DR7_KNOWN: u64 = 0xffff_23ff;
const DR7_SET: u64 = 1 << 10;
/// A debug register was accessed under GD.
const DR6_BD: u64 = 1 << 13;
const DR6_KNOWN: u64 = 0xe00f;
const DR6_SET: u64 = 0xffff_0ff0;

pub(super) fn lower(i: &Instruction, op: &mut Op, _: &Context) -> Option<Choice> {
    let (register, choice) = match i.code() {
        Code::Mov_r32_dr => (i.op1_register(), Choice::on(read::<u32>)),
        Code::Mov_r64_dr => (i.op1_register(), Choice::on(read::<u64>)),
        Code::Mov_dr_r32 => (i.op0_register(), Choice::last(write::<u32>)),
        Code::Mov_dr_r64 => (i.op0_register(), Choice::last(write::<u64>)),
        _ => return None,
    };
    op.extra = register.number() as u8;
    if op.extra > 7 {
        return None;
    }
    choice
}

/// The number of the register, DR4 and DR5 being other names of DR6 and DR7.
fn check(cpu: &mut Cpu, op: &Op) -> Result<u8, crate::cpu::Trap> {
    let alias = matches!(op.extra, 4 | 5);
    if alias && cpu.cr4 & CR4_DE != 0 {
        return Err(cpu.undefined());
    }
    cpu.require_kernel()?;
    if cpu.dr7 & DR7_GD != 0 {
        cpu.dr6 |= DR6_BD;
        return Err(cpu.raise(vector::DB));
    }
    Ok(if alias { op.extra + 2 } else { op.extra })
}

fn read<W: Word>(cpu: &mut Cpu, op: &Op) -> Done {
    let value = match check(cpu, op)? {
        6 => cpu.dr6,
        7 => cpu.dr7,
        n => cpu.dr[usize::from(n & 3)],
    };
    cpu.set_reg(op.dst, W::cut(value));
    Ok(())
}

fn write<W: Word>(cpu: &mut Cpu, op: &Op) -> Done {
    let value = cpu.reg::<W>(op.src).wide();
    let number = check(cpu, op)?;
    if number >= 6 && value >> 32 != 0 {
        return Err(cpu.general_protection());
    }
    match number {
        6 => cpu.dr6 = value & DR6_KNOWN | DR6_SET,
        7 => cpu.dr7 = value & DR7_KNOWN | DR7_SET,
        n => cpu.dr[usize::from(n & 3)] = value,
    }
    cpu.update_careful();
    Ok(())
}

impl Cpu {
    /// DR6 bits of the instruction breakpoints at a linear address.
    pub(crate) fn execute_breakpoints(&self, linear: u64) -> u64 {
        (0..4)
            .filter(|n| {
                let enabled = self.dr7 >> (2 * n) & 3 != 0;
                let execute = self.dr7 >> (16 + 4 * n) & 3 == 0;
                enabled && execute && self.dr[*n as usize] == linear
            })
            .fold(0, |hits, n| hits | 1 << n)
    }

    /// Notes which I/O breakpoints an access to a port meets.
    pub(super) fn watch_port(&mut self, port: u16, size: u8) {
        if self.dr7 & 0xff == 0 || self.cr4 & CR4_DE == 0 {
            return;
        }
        self.note_breakpoints(port.into(), size.into(), |kind| kind == 2);
    }

    /// Notes which enabled breakpoints, of the kinds (R/W) that count, an access of `size` from `first` on meets.
    pub(crate) fn note_breakpoints(&mut self, first: u64, size: u64, counts: impl Fn(u64) -> bool) {
        for n in 0..4 {
            let enabled = self.dr7 >> (2 * n) & 3 != 0;
            let kind = self.dr7 >> (16 + 4 * n) & 3;
            let length = match self.dr7 >> (18 + 4 * n) & 3 {
                0 => 1,
                1 => 2,
                2 => 8,
                _ => 4,
            };
            let start = self.dr[n as usize] & !(length - 1);
            let apart = start.wrapping_sub(first) >= size && first.wrapping_sub(start) >= length;
            if enabled && counts(kind) && !apart {
                self.watched |= 1 << n;
            }
        }
    }
}
