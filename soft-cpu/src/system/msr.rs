//! MSRs, CPUID, the time stamp counter.

use iced_x86::{Instruction, Mnemonic};

use crate::Behaviour;
use crate::cpu::{
    CR0_PG, CR4_TSD, Cpu, Done, EFER_LMA, EFER_LME, EFER_NXE, EFER_SCE, FS, GS, RAX, RBX, RCX, RDX, Trap,
};
use crate::lower::{Choice, Context};
use crate::mmu::is_canonical;
use crate::op::Op;

pub(crate) const EFER_KNOWN: u64 = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;

const TSC: u32 = 0x10;
const SYSENTER_CS: u32 = 0x174;
const SYSENTER_ESP: u32 = 0x175;
const SYSENTER_EIP: u32 = 0x176;
const PAT: u32 = 0x277;
const EFER: u32 = 0xc000_0080;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const CSTAR: u32 = 0xc000_0083;
const SFMASK: u32 = 0xc000_0084;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const TSC_AUX: u32 = 0xc000_0103;

pub(super) fn lower(i: &Instruction, _: &mut Op, _: &Context) -> Option<Choice> {
    match i.mnemonic() {
        Mnemonic::Rdmsr => Choice::last(rdmsr),
        Mnemonic::Wrmsr => Choice::last(wrmsr),
        Mnemonic::Cpuid => Choice::on(cpuid),
        Mnemonic::Rdtsc => Choice::last(rdtsc),
        Mnemonic::Rdtscp => Choice::last(rdtscp),
        Mnemonic::Rdpmc => Choice::last(rdpmc),
        _ => None,
    }
}

fn index(cpu: &Cpu) -> u32 {
    cpu.reg(RCX)
}

fn set_pair(cpu: &mut Cpu, value: u64) {
    cpu.set_reg::<u32>(RAX, value as u32);
    cpu.set_reg::<u32>(RDX, (value >> 32) as u32);
}

fn rdmsr(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.require_kernel()?;
    let value = cpu.read_msr(index(cpu))?;
    set_pair(cpu, value);
    Ok(())
}

fn wrmsr(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.require_kernel()?;
    let value = u64::from(cpu.reg::<u32>(RDX)) << 32 | u64::from(cpu.reg::<u32>(RAX));
    cpu.write_msr(index(cpu), value)
}

impl Cpu {
    fn read_msr(&mut self, index: u32) -> Result<u64, Trap> {
        Ok(match index {
            SYSENTER_CS => self.msrs.sysenter_cs,
            SYSENTER_ESP => self.msrs.sysenter_esp,
            SYSENTER_EIP => self.msrs.sysenter_eip,
            PAT => self.msrs.pat,
            EFER => self.efer,
            STAR => self.msrs.star,
            LSTAR => self.msrs.lstar,
            CSTAR => self.msrs.cstar,
            SFMASK => self.msrs.sfmask,
            FS_BASE => self.segs[FS].base,
            GS_BASE => self.segs[GS].base,
            KERNEL_GS_BASE => self.msrs.kernel_gs_base,
            TSC_AUX if self.profile.tsc => self.msrs.tsc_aux,
            TSC_AUX => return Err(self.general_protection()),
            TSC if self.profile.tsc => self.now(),
            _ => return self.msr_read(index),
        })
    }

    fn write_msr(&mut self, index: u32, value: u64) -> Done {
        let needs_canonical = matches!(index, LSTAR | CSTAR | FS_BASE | GS_BASE | KERNEL_GS_BASE);
        if needs_canonical && !is_canonical(value) {
            return Err(self.general_protection());
        }
        match index {
            SYSENTER_CS => self.msrs.sysenter_cs = value,
            SYSENTER_ESP => self.msrs.sysenter_esp = value & self.sysenter_bits(),
            SYSENTER_EIP => self.msrs.sysenter_eip = value & self.sysenter_bits(),
            PAT if value.to_le_bytes().into_iter().all(is_memory_type) => self.msrs.pat = value,
            EFER => return self.write_efer(value),
            STAR => self.msrs.star = value,
            LSTAR => self.msrs.lstar = value,
            CSTAR => self.msrs.cstar = value,
            SFMASK => self.msrs.sfmask = value & 0xffff_ffff,
            FS_BASE => self.segs[FS].base = value,
            GS_BASE => self.segs[GS].base = value,
            KERNEL_GS_BASE => self.msrs.kernel_gs_base = value,
            TSC_AUX if self.profile.tsc => self.msrs.tsc_aux = value & 0xffff_ffff,
            TSC_AUX => return Err(self.general_protection()),
            TSC if self.profile.tsc => {
                let offset = value.wrapping_sub(self.now());
                self.msrs.tsc_offset = self.msrs.tsc_offset.wrapping_add(offset);
            }
            _ => return self.msr_write(index, value),
        }
        Ok(())
    }

    /// AMD's processors have no 64-bit SYSENTER and keep 32 bits. QEMU's keeps all.
    fn sysenter_bits(&self) -> u64 {
        if self.profile.behaviour == Behaviour::Tcg { u64::MAX } else { 0xffff_ffff }
    }

    fn write_efer(&mut self, value: u64) -> Done {
        let unknown = value & !EFER_KNOWN != 0;
        let toggles = (value ^ self.efer) & EFER_LME != 0 && self.cr0 & CR0_PG != 0;
        if unknown || toggles {
            // The machine is asked, as by KVM, which writes EFER itself; it says #GP.
            return self.msr_write(EFER, value);
        }
        // LMA is not written: it follows from LME and CR0.PG.
        self.efer = value & !EFER_LMA | self.efer & EFER_LMA;
        self.update_mode();
        Ok(())
    }
}

/// True for a memory type that the PAT may name.
fn is_memory_type(value: u8) -> bool {
    matches!(value, 0 | 1 | 4..=7)
}

/// A leaf beyond the table is zero, as AMD's are; the index counts only where a function has several.
fn cpuid(cpu: &mut Cpu, _: &Op) -> Done {
    let (function, index) = (cpu.reg::<u32>(RAX), cpu.reg::<u32>(RCX));
    let mut leaves = cpu.profile.cpuid.iter().filter(|leaf| leaf.function == function);
    let first = leaves.next();
    let exact = first.into_iter().chain(leaves.clone()).find(|leaf| leaf.index == index);
    let leaf = if leaves.next().is_none() { first } else { exact };
    let [a, b, c, d] = leaf.map_or([0; 4], |leaf| leaf.result);
    cpu.set_reg(RAX, a);
    cpu.set_reg(RBX, b);
    cpu.set_reg(RCX, c);
    cpu.set_reg(RDX, d);
    Ok(())
}

fn check_tsc(cpu: &mut Cpu) -> Done {
    if cpu.cr4 & CR4_TSD != 0 { cpu.require_kernel() } else { Ok(()) }
}

fn rdtsc(cpu: &mut Cpu, _: &Op) -> Done {
    check_tsc(cpu)?;
    let now = cpu.now();
    set_pair(cpu, now);
    Ok(())
}

fn rdtscp(cpu: &mut Cpu, _: &Op) -> Done {
    check_tsc(cpu)?;
    let (now, aux) = (cpu.now(), cpu.msrs.tsc_aux as u32);
    set_pair(cpu, now);
    cpu.set_reg(RCX, aux);
    Ok(())
}

/// There are no counters.
fn rdpmc(cpu: &mut Cpu, _: &Op) -> Done {
    Err(cpu.general_protection())
}
