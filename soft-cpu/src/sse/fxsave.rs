//! The FPU's state as a whole: FXSAVE, FXRSTOR, LDMXCSR, STMXCSR, EMMS.
//!
//! The last instruction and its operand (FOP, FIP, FDP) are not kept: they are saved as zeros and not restored.

use iced_x86::{Code, Instruction};

use crate::Behaviour;
use crate::cpu::{CR0_EM, CR0_TS, CR4_OSFXSR, Cpu, Done, Trap, vector};
use crate::op::{Handler, Op};

/// The bits of MXCSR that there are: no misaligned mode.
const MXCSR_MASK: u32 = 0xffff;
/// Bytes of the area that are there to be saved and restored: up to XMM15, or XMM7 outside 64-bit mode.
const SIZE: usize = 416;
const SIZE_32: usize = 288;
/// Bytes of the area.
const AREA: u64 = 512;
/// Where MXCSR is.
const MXCSR: usize = 24;
/// Where ST(0) is.
const ST: usize = 32;
/// Where XMM0 is.
const XMM: usize = 160;
const EIGHTY: u128 = (1 << 80) - 1;

pub(super) fn lower(i: &Instruction) -> Option<Handler> {
    match i.code() {
        Code::Fxsave_m512byte | Code::Fxsave64_m512byte => Some(fxsave),
        Code::Fxrstor_m512byte | Code::Fxrstor64_m512byte => Some(fxrstor),
        Code::Ldmxcsr_m32 => Some(ldmxcsr),
        Code::Stmxcsr_m32 => Some(stmxcsr),
        Code::Emms => Some(emms),
        _ => None,
    }
}

impl Cpu {
    /// The area of FXSAVE and FXRSTOR. #NM comes first, for CR0.EM too (AMD APM vol. 5; Intel says #UD).
    fn area(&mut self, op: &Op, write: bool) -> Result<u64, Trap> {
        if self.cr0 & (CR0_EM | CR0_TS) != 0 {
            return Err(self.raise(vector::NM));
        }
        // The order is that of AMD's processors: alignment to 4 bytes where it is checked (for the store only), segment,
        // canonical address, alignment.
        if write {
            let base = self.segs[usize::from(op.seg)].base;
            self.check_alignment(op.offset(self).wrapping_add(if self.is_long() { 0 } else { base }), 4)?;
        }
        let linear = self.linear(op, AREA, write)?;
        self.check_canonical(linear)?;
        if linear & 15 != 0 {
            return Err(self.general_protection());
        }
        Ok(linear)
    }

    /// Bytes of the area that FXSAVE and FXRSTOR use.
    fn area_size(&self) -> usize {
        match (self.cr4 & CR4_OSFXSR != 0, self.is_long()) {
            (false, _) => XMM,
            (true, false) => SIZE_32,
            (true, true) => SIZE,
        }
    }
}

fn fxsave(cpu: &mut Cpu, op: &Op) -> Done {
    let start = cpu.area(op, true)?;
    let size = cpu.area_size();
    let sse = size > XMM;
    let fpu = cpu.fpu;
    let tcg = cpu.profile.behaviour == Behaviour::Tcg;
    if !tcg {
        // A Zen looks at the last byte of the whole area first, then it stores all or nothing. QEMU just begins.
        cpu.check_writable(start.wrapping_add(AREA - 1), 1)?;
        cpu.check_writable(start, 16)?;
    }
    let at = |offset: usize| start.wrapping_add(offset as u64);
    let control = u64::from(fpu.fcw) | u64::from(fpu.fsw) << 16 | u64::from(fpu.ftw) << 32;
    if tcg {
        // FOP's place and the padding of the x87 registers keep what they hold.
        cpu.store(at(0), control as u32)?;
        cpu.store(at(4), fpu.ftw as u16)?;
    } else {
        cpu.store(at(0), control)?;
    }
    cpu.store(at(8), 0u64)?;
    cpu.store(at(16), 0u64)?;
    for n in 0..8 {
        let value = fpu.regs[(fpu.top() + n) & 7] & EIGHTY;
        let place = at(ST + 16 * n);
        if tcg {
            cpu.store(place, value as u64)?;
            cpu.store(place.wrapping_add(8), (value >> 64) as u16)?;
        } else {
            cpu.store128(place, value)?;
        }
    }
    if sse {
        cpu.store(at(MXCSR), u64::from(MXCSR_MASK) << 32 | u64::from(fpu.mxcsr))?;
    }
    for offset in (XMM..size).step_by(16) {
        cpu.store128(at(offset), fpu.xmm[(offset - XMM) / 16])?;
    }
    Ok(())
}

fn fxrstor(cpu: &mut Cpu, op: &Op) -> Done {
    let start = cpu.area(op, false)?;
    let size = cpu.area_size();
    let sse = size > XMM;
    let mut fpu = cpu.fpu;
    if cpu.profile.behaviour == Behaviour::Zen {
        // As FXSAVE.
        cpu.load::<u8>(start.wrapping_add(AREA - 1))?;
    }
    let at = |offset: usize| start.wrapping_add(offset as u64);
    let control: u64 = cpu.load(at(0))?;
    fpu.fcw = control as u16;
    fpu.fsw = (control >> 16) as u16;
    fpu.ftw = (control >> 32) as u8;
    if cpu.profile.behaviour == Behaviour::Zen {
        // Bits that do not exist, and the summary of exceptions, which follows from the others.
        fpu.fcw = fpu.fcw & 0x1f3f | 0x40;
        let pending = fpu.fsw & !fpu.fcw & 0x3f != 0;
        fpu.fsw = fpu.fsw & !0x8080 | if pending { 0x8080 } else { 0 };
    }
    if sse {
        fpu.mxcsr = cpu.load(at(MXCSR))?;
    }
    for n in 0..8 {
        fpu.regs[(fpu.top() + n) & 7] = cpu.load128(at(ST + 16 * n))? & EIGHTY;
    }
    for offset in (XMM..size).step_by(16) {
        fpu.xmm[(offset - XMM) / 16] = cpu.load128(at(offset))?;
    }
    if fpu.mxcsr & !MXCSR_MASK != 0 {
        return Err(cpu.general_protection());
    }
    cpu.fpu = fpu;
    Ok(())
}

fn ldmxcsr(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    let value: u32 = cpu.read_mem(op)?;
    if value & !MXCSR_MASK != 0 {
        return Err(cpu.general_protection());
    }
    cpu.fpu.mxcsr = value;
    Ok(())
}

fn stmxcsr(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    cpu.write_mem(op, cpu.fpu.mxcsr)
}

fn emms(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.mmx()?;
    cpu.enter_mmx();
    cpu.fpu.ftw = 0;
    Ok(())
}
