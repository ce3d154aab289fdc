//! The whole state to and from its engine-neutral form.

use scribe_types::cpu::{CpuState, Fpu as NeutralFpu, PendingEvents, Registers};

use crate::StateError;
use crate::cpu::{CR0_PG, CS, Cpu, EFER_LMA, EFER_LME, RAX};
use crate::flags::RF;
use crate::fpu::Fpu;

/// In a state: what has been added to guest time, not the counter itself.
const TSC: u32 = 0x10;
const TSC_AUX: u32 = 0xc000_0103;

impl Cpu {
    /// General registers, RIP and RFLAGS without RF.
    pub(crate) fn registers(&self) -> Registers {
        let mut general = [0; 16];
        general.copy_from_slice(&self.regs[usize::from(RAX)..16]);
        Registers { general, rip: self.rip, rflags: self.flags.value() & !RF }
    }

    /// The MSRs of [`scribe_types::msr::SAVED`], and those that the time stamp counter adds.
    fn saved_msr(&mut self, index: u32) -> Option<&mut u64> {
        Some(match index {
            0x174 => &mut self.msrs.sysenter_cs,
            0x175 => &mut self.msrs.sysenter_esp,
            0x176 => &mut self.msrs.sysenter_eip,
            0x277 => &mut self.msrs.pat,
            0xc000_0081 => &mut self.msrs.star,
            0xc000_0082 => &mut self.msrs.lstar,
            0xc000_0083 => &mut self.msrs.cstar,
            0xc000_0084 => &mut self.msrs.sfmask,
            0xc000_0102 => &mut self.msrs.kernel_gs_base,
            TSC if self.profile.tsc => &mut self.msrs.tsc_offset,
            TSC_AUX if self.profile.tsc => &mut self.msrs.tsc_aux,
            _ => return None,
        })
    }

    pub(crate) fn save(&self) -> CpuState {
        let m = &self.msrs;
        let msrs = [
            m.sysenter_cs,
            m.sysenter_esp,
            m.sysenter_eip & 0xffff_ffff, // as KVM reads it, whatever the processor keeps
            m.pat,
            m.star,
            m.lstar,
            m.cstar,
            m.sfmask,
            m.kernel_gs_base,
        ];
        let mut msrs: Vec<(u32, u64)> = scribe_types::msr::SAVED.into_iter().zip(msrs).collect();
        if self.profile.tsc {
            msrs.extend([(TSC, m.tsc_offset), (TSC_AUX, m.tsc_aux)]);
        }
        CpuState {
            registers: Registers { rflags: self.flags.value(), ..self.registers() },
            segments: self.segs,
            gdt: self.gdt,
            idt: self.idt,
            cr0: self.cr0,
            cr2: self.cr2,
            cr3: self.cr3,
            cr4: self.cr4,
            cr8: self.cr8,
            efer: self.efer,
            debug: self.dr,
            dr6: self.dr6,
            dr7: self.dr7,
            fpu: save_fpu(&self.fpu),
            msrs,
            events: PendingEvents {
                interrupt: self.interrupt,
                exception: self.exception,
                shadow: self.shadow,
                nmi_masked: self.nmi_masked,
            },
        }
    }

    pub(crate) fn restore(&mut self, state: &CpuState) -> Result<(), StateError> {
        let unknown = |what: &str, value: u64| Err(StateError(format!("{what} {value:#x} cannot be held")));
        if state.cr0 & CR0_PG != 0 && state.efer & EFER_LME != 0 && state.efer & EFER_LMA == 0 {
            return unknown("EFER", state.efer);
        }
        if state.segments[CS].attributes >> 17 != 0 {
            return unknown("CS attributes", state.segments[CS].attributes.into());
        }
        for &(index, value) in &state.msrs {
            match self.saved_msr(index) {
                Some(slot) => *slot = value,
                None => return unknown("MSR", index.into()),
            }
        }
        self.regs = [0; 32];
        self.regs[..16].copy_from_slice(&state.registers.general);
        self.rip = state.registers.rip;
        self.flags.set_value(state.registers.rflags);
        self.segs = state.segments;
        self.gdt = state.gdt;
        self.idt = state.idt;
        self.cr0 = state.cr0;
        self.cr2 = state.cr2;
        self.cr3 = state.cr3;
        self.cr4 = state.cr4;
        self.cr8 = state.cr8;
        self.efer = state.efer;
        self.dr = state.debug;
        self.dr6 = state.dr6;
        self.dr7 = state.dr7;
        self.fpu = restore_fpu(&state.fpu);
        self.shadow = state.events.shadow;
        self.nmi_masked = state.events.nmi_masked;
        self.interrupt = state.events.interrupt;
        self.exception = state.events.exception;
        self.accesses.clear();
        self.wanted = None;
        self.mmu.flush();
        self.update_mode();
        self.update_careful();
        Ok(())
    }
}

fn save_fpu(fpu: &Fpu) -> NeutralFpu {
    let mut out =
        NeutralFpu { fcw: fpu.fcw, fsw: fpu.fsw, ftw: fpu.ftw, mxcsr: fpu.mxcsr, ..NeutralFpu::default() };
    for (n, st) in out.st.iter_mut().enumerate() {
        *st = fpu.regs[(fpu.top() + n) & 7].to_le_bytes();
    }
    for (to, from) in out.xmm.iter_mut().zip(fpu.xmm) {
        *to = from.to_le_bytes();
    }
    out
}

fn restore_fpu(state: &NeutralFpu) -> Fpu {
    const EIGHTY: u128 = (1 << 80) - 1;
    let mut fpu =
        Fpu { fcw: state.fcw, fsw: state.fsw, ftw: state.ftw, mxcsr: state.mxcsr, ..Fpu::default() };
    for (n, st) in state.st.iter().enumerate() {
        fpu.regs[(fpu.top() + n) & 7] = u128::from_le_bytes(*st) & EIGHTY;
    }
    for (to, from) in fpu.xmm.iter_mut().zip(state.xmm) {
        *to = u128::from_le_bytes(from);
    }
    fpu
}
