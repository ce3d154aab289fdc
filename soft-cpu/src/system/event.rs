//! Interrupts and exceptions: delivery through the IDT (Intel SDM vol. 3, chapter 7; AMD APM vol. 2, chapter 8).
use crate::cpu::{CS, Cpu, Done, SS, TR, Trap, vector};
use crate::flags::{IF, NT, RF, TF, VM};

/// Something to be delivered through the IDT.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    pub vector: u8,
    pub code: Option<u32>,
    /// RIP that is pushed
    pub rip: u64,
    /// linear address for CR2
    pub address: Option<u64>,
    /// INT n, INT3, INTO: the gate's DPL counts
    pub software: bool,
    /// caused from outside
    pub external: bool,
    /// RFLAGS.RF is pushed as 1
    pub resume: bool,
}

impl Event {
    fn new(cpu: &Cpu, vector: u8) -> Self {
        Self {
            vector,
            code: None,
            rip: cpu.rip,
            address: None,
            software: false,
            external: false,
            resume: false,
        }
    }
    /// The fault that [`Cpu::fault`] describes, of the instruction at RIP.
    pub(crate) fn fault(cpu: &Cpu) -> Self {
        let address = (cpu.fault.vector == vector::PF).then_some(cpu.fault.address);
        Self {
            code: cpu.fault.code,
            address,
            resume: cpu.profile.behaviour == crate::Behaviour::Zen,
            ..Self::new(cpu, cpu.fault.vector)
        }
    }
    /// An exception that was kept: a trap behind an instruction (#DB), or a fault of an instruction with an exit.
    pub(crate) fn pended(cpu: &Cpu, vector: u8, code: Option<u32>) -> Self {
        let resume = vector != crate::cpu::vector::DB && cpu.profile.behaviour == crate::Behaviour::Zen;
        Self { code, resume, ..Self::new(cpu, vector) }
    }
    /// An external interrupt.
    pub(crate) fn external(cpu: &Cpu, vector: u8) -> Self {
        Self { external: true, ..Self::new(cpu, vector) }
    }
    /// An instruction breakpoint: a #DB that is a fault.
    pub(crate) fn breakpoint(cpu: &Cpu) -> Self {
        Self { resume: true, ..Self::new(cpu, vector::DB) }
    }
    /// INT n, INT3, INTO; `next` is the instruction behind.
    pub(crate) fn software(cpu: &Cpu, vector: u8, next: u64) -> Self {
        Self { software: true, rip: next, ..Self::new(cpu, vector) }
    }
}

fn contributory(vector: u8) -> bool {
    matches!(vector, vector::DE | 10..=13)
}

impl Cpu {
    /// Delivers an event; exceptions that this raises become #DF or a shutdown.
    pub(crate) fn deliver(&mut self, event: Event) -> Done {
        let mut event = event;
        loop {
            if let Some(address) = event.address {
                self.cr2 = address;
            }
            match self.enter(&event) {
                Ok(()) => return Ok(()),
                Err(Trap::Fault) => {}
                Err(other) => return Err(other),
            }
            let second = Event { rip: event.rip, ..Event::fault(self) };
            if event.vector == vector::DF {
                return Err(Trap::Shutdown);
            }
            let exception = !event.external && !event.software;
            let double = exception
                && ((contributory(event.vector) && contributory(second.vector))
                    || (event.vector == vector::PF
                        && (contributory(second.vector) || second.vector == vector::PF)));
            event = if double {
                Event { code: Some(0), vector: vector::DF, resume: false, address: None, ..second }
            } else {
                let mut second = second;
                if let (Some(code), true) = (second.code, event.external || exception) {
                    if second.vector != vector::PF {
                        second.code = Some(code | 1);
                    }
                }
                second
            };
            if double && self.fault.vector == vector::PF {
                self.cr2 = self.fault.address;
            }
        }
    }

    fn enter(&mut self, event: &Event) -> Done {
        if !self.efer_lma() {
            return Err(self.refuse("an interrupt outside long mode"));
        }
        let index = u32::from(event.vector) * 8 + 2;
        let at = u64::from(event.vector) * 16;
        if at + 15 > u64::from(self.idt.limit) {
            return Err(self.raise_code(vector::GP, index));
        }
        let base = self.idt.base.wrapping_add(at);
        let low: u64 = self.load_system(base)?;
        let high: u64 = self.load_system(base.wrapping_add(8))?;
        let kind = low >> 40 & 0x1f;
        if kind != 0xe && kind != 0xf {
            return Err(self.raise_code(vector::GP, index));
        }
        let dpl = (low >> 45 & 3) as u8;
        if event.software && dpl < self.mode.cpl {
            return Err(self.raise_code(vector::GP, index));
        }
        if low >> 47 & 1 == 0 {
            return Err(self.raise_code(vector::NP, index));
        }
        let selector = (low >> 16) as u16;
        let target = low & 0xffff | low >> 32 & 0xffff_0000 | high << 32;
        let ist = low >> 32 & 7;
        if selector & !3 == 0 {
            return Err(self.raise_code(vector::GP, 0));
        }
        let descriptor = self.descriptor(selector, vector::GP)?;
        let attributes = descriptor.attributes();
        let code_dpl = (attributes >> 5 & 3) as u8;
        let error = u32::from(selector & !3);
        if attributes & 0x18 != 0x18 || code_dpl > self.mode.cpl || attributes >> 13 & 3 != 1 {
            return Err(self.raise_code(vector::GP, error));
        }
        if attributes & 0x80 == 0 {
            return Err(self.raise_code(vector::NP, error));
        }
        let conforming = attributes & 4 != 0;
        let new_cpl = if conforming { self.mode.cpl } else { code_dpl };
        let inner = new_cpl < self.mode.cpl;
        let mut sp = if ist != 0 {
            self.tss_word(36 + 8 * (ist - 1))?
        } else if inner {
            self.tss_word(4 + 8 * u64::from(new_cpl))?
        } else {
            self.regs[4]
        };
        if !crate::mmu::is_canonical(sp) {
            return Err(self.raise_code(vector::SS, 0));
        }
        sp &= !15;
        if !crate::mmu::is_canonical(target) {
            return Err(self.general_protection());
        }
        let mut flags = self.flags.value() & !RF;
        if event.resume || self.flags.system & RF != 0 && event.external {
            flags |= RF;
        }
        let frame = [
            Some(u64::from(self.segs[SS].selector)),
            Some(self.regs[4]),
            Some(flags),
            Some(u64::from(self.segs[CS].selector)),
            Some(event.rip),
            event.code.map(u64::from),
        ];
        for word in frame.into_iter().flatten() {
            sp = sp.wrapping_sub(8);
            // The handler's privilege counts, not the interrupted program's.
            if inner {
                self.store_system(sp, word)?;
            } else {
                self.store(sp, word)?;
            }
        }
        self.regs[4] = sp;
        if inner {
            self.load_null_ss(new_cpl);
        }
        self.load_code(selector & !3 | u16::from(new_cpl), &descriptor)?;
        self.rip = target;
        let clear = TF | NT | RF | VM | if kind == 0xe { IF } else { 0 };
        self.flags.system &= !clear;
        self.shadow = 0;
        self.update_mode();
        Ok(())
    }

    /// A word of the 64-bit TSS.
    fn tss_word(&mut self, offset: u64) -> Result<u64, Trap> {
        let tr = self.segs[TR];
        if offset + 7 > u64::from(tr.limit) {
            return Err(self.raise_code(vector::TS, u32::from(tr.selector & !3)));
        }
        self.load_system(tr.base.wrapping_add(offset))
    }
}
