//! The whole state to and from its engine-neutral form.

use scribe_types::cpu::{CpuState, Fpu as NeutralFpu, PendingEvents, Registers};

use crate::StateError;
use crate::cpu::{CR0_CD, CR0_NW, CR0_PE, CR0_PG, CR4_PAE, Cpu, EFER_LMA, EFER_LME, Msrs, RAX};
use crate::flags::{BITS, RF, VM};
use crate::fpu::Fpu;
use crate::system::{CR0_KNOWN, CR3_RESERVED, CR4_KNOWN, EFER_KNOWN};

/// In a state: what has been added to guest time, not the counter itself.
const TSC: u32 = 0x10;
pub(crate) const SYSENTER_EIP: u32 = 0x176;
const TSC_AUX: u32 = 0xc000_0103;

impl Cpu {
    /// General registers, RIP and RFLAGS without RF.
    pub(crate) fn registers(&self) -> Registers {
        let mut general = [0; 16];
        general.copy_from_slice(&self.regs[usize::from(RAX)..16]);
        Registers { general, rip: self.rip, rflags: self.flags.value() & !RF }
    }

    /// True for the MSRs of [`scribe_types::msr::SAVED`], and those that the time stamp counter adds.
    fn has_saved_msr(&self, index: u32) -> bool {
        let tsc = matches!(index, TSC | TSC_AUX);
        saved_msr(&mut Msrs::default(), index).is_some() && (self.profile.tsc || !tsc)
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

    /// Whether this processor can be in a state: whatever a guest can bring about passes.
    pub(crate) fn check(&self, state: &CpuState) -> Result<(), StateError> {
        let require = |ok: bool, what: &str, value: u64| {
            if ok { Ok(()) } else { Err(StateError(format!("{what} {value:#x} cannot be held"))) }
        };
        let (paging, protected) = (state.cr0 & CR0_PG != 0, state.cr0 & CR0_PE != 0);
        let long = state.efer & EFER_LMA != 0;
        let long_wanted = paging && state.efer & EFER_LME != 0;
        let possible = (protected || !paging) && (state.cr0 & CR0_NW == 0 || state.cr0 & CR0_CD != 0);
        require(state.cr0 & !CR0_KNOWN == 0 && possible, "CR0", state.cr0)?;
        require(state.cr3 & CR3_RESERVED == 0, "CR3", state.cr3)?;
        require(state.cr4 & !CR4_KNOWN == 0 && (state.cr4 & CR4_PAE != 0 || !long), "CR4", state.cr4)?;
        require(state.cr8 < 16, "CR8", state.cr8)?;
        require(state.efer & !EFER_KNOWN == 0 && long == long_wanted, "EFER", state.efer)?;
        require(state.dr6 >> 32 == 0, "DR6", state.dr6)?;
        require(state.dr7 >> 32 == 0, "DR7", state.dr7)?;
        let rflags = state.registers.rflags;
        require(rflags & !(BITS | 2) == 0 && (rflags & VM == 0 || !long), "RFLAGS", rflags)?;
        require(state.fpu.mxcsr & !0xffff == 0, "MXCSR", state.fpu.mxcsr.into())?;
        for segment in &state.segments {
            require(segment.attributes >> 17 == 0, "segment attributes", segment.attributes.into())?;
        }
        require(state.events.shadow < 4, "interrupt shadow", state.events.shadow.into())?;
        if let Some((vector, _)) = state.events.exception {
            require(vector < 32, "exception", vector.into())?;
        }
        for (n, &(index, _)) in state.msrs.iter().enumerate() {
            let twice = state.msrs.iter().take(n).any(|&(other, _)| other == index);
            require(self.has_saved_msr(index) && !twice, "MSR", index.into())?;
        }
        Ok(())
    }

    /// Takes over a state that has been checked. MSRs that it does not name are 0.
    pub(crate) fn restore(&mut self, state: &CpuState) {
        self.msrs = Msrs::default();
        for &(index, value) in &state.msrs {
            if let Some(slot) = saved_msr(&mut self.msrs, index) {
                *slot = value;
            }
        }
        self.regs = [0; 32];
        self.regs[..16].copy_from_slice(&state.registers.general);
        self.rip = state.registers.rip;
        self.flags.set_value(state.registers.rflags);
        self.flags.taken_up = false;
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
    }
}

/// Where an MSR of a state is kept.
fn saved_msr(msrs: &mut Msrs, index: u32) -> Option<&mut u64> {
    Some(match index {
        0x174 => &mut msrs.sysenter_cs,
        0x175 => &mut msrs.sysenter_esp,
        SYSENTER_EIP => &mut msrs.sysenter_eip,
        0x277 => &mut msrs.pat,
        0xc000_0081 => &mut msrs.star,
        0xc000_0082 => &mut msrs.lstar,
        0xc000_0083 => &mut msrs.cstar,
        0xc000_0084 => &mut msrs.sfmask,
        0xc000_0102 => &mut msrs.kernel_gs_base,
        TSC => &mut msrs.tsc_offset,
        TSC_AUX => &mut msrs.tsc_aux,
        _ => return None,
    })
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
