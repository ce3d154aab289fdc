//! The local APIC's MSRs: its base, the x2APIC's registers (SDM 11.12.1) and the timer's deadline.

use super::super::message::{Delivery, Destination, Message};
use super::interrupts::{FIRST_VECTOR, SEND_ILLEGAL_VECTOR};
use super::registers::{
    APR, CURRENT_COUNT, DIVIDE, EOI, ESR, ICR, ICR_LOW_BITS, ID, INITIAL_COUNT, ISR, LDR, LVT, PPR, SVR,
    SVR_BITS, TPR, VERSION,
};
use super::{BASE_ADDRESS, Lapic, Mode, Request, Tsc};

/// IA32_APIC_BASE.
pub const APIC_BASE: u32 = 0x1b;
/// IA32_TSC_DEADLINE.
pub const TSC_DEADLINE: u32 = 0x6e0;
/// The x2APIC's registers, and numbers that are reserved for more.
pub const X2APIC_MSRS: std::ops::RangeInclusive<u32> = 0x800..=0x8ff;

/// IA32_APIC_BASE: bootstrap processor, x2APIC, enable.
const BOOTSTRAP: u64 = 1 << 8;
const EXTENDED: u64 = 1 << 10;
const ENABLE: u64 = 1 << 11;

/// Register 0x3f, an x2APIC's only.
const SELF_IPI: u8 = 0x3f;

/// The access raises #GP(0) instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneralProtection;

/// True if the local APIC answers for this MSR, be it with #GP.
pub fn is_apic_msr(index: u32) -> bool {
    matches!(index, APIC_BASE | TSC_DEADLINE) || X2APIC_MSRS.contains(&index)
}

/// `ok`, or #GP.
fn only_if(ok: bool) -> Result<(), GeneralProtection> {
    if ok { Ok(()) } else { Err(GeneralProtection) }
}

impl Lapic {
    /// RDMSR.
    ///
    /// # Errors
    /// #GP: an MSR that is not there, or not in this mode, or that can only be written.
    pub fn read_msr(&mut self, index: u32, now: u64) -> Result<u64, GeneralProtection> {
        self.advance(now);
        match index {
            APIC_BASE => return Ok(self.base()),
            TSC_DEADLINE if self.state.config.tsc_deadline => return Ok(self.deadline()),
            _ => {}
        }
        let register = self.x2apic_register(index)?;
        if register == ICR {
            return Ok(self.state.icr);
        }
        let readable = matches!(
            register,
            ID | VERSION | TPR | PPR | LDR | SVR | ISR..=ESR | LVT..=CURRENT_COUNT | DIVIDE
        );
        only_if(readable && register != APR)?;
        self.load(register, now).map(u64::from).map_err(|_| GeneralProtection)
    }

    /// WRMSR; what the machine is to do then, if anything. `tsc`: how this processor's TSC follows from guest time.
    ///
    /// # Errors
    /// #GP: an MSR that is not there, or not in this mode, or that can only be read; reserved bits that are set; a mode that
    /// cannot be reached from this one; another base address.
    pub fn write_msr(
        &mut self,
        index: u32,
        value: u64,
        now: u64,
        tsc: Tsc,
    ) -> Result<Option<Request>, GeneralProtection> {
        self.advance(now);
        match index {
            APIC_BASE => return self.set_base(value).map(|()| None),
            TSC_DEADLINE if self.state.config.tsc_deadline => {
                self.set_deadline(value, now, tsc);
                return Ok(None);
            }
            _ => {}
        }
        let register = self.x2apic_register(index)?;
        let [low, ..] = value.to_le_bytes();
        if register == ICR {
            return self.set_x2apic_icr(value);
        }
        let allowed: u32 = match register {
            TPR => 0xff,
            EOI | ESR => 0,
            SVR => SVR_BITS.into(),
            LVT..INITIAL_COUNT => {
                let entry = usize::from(register - LVT);
                self.lvt_bits(entry) | Self::lvt_status_bits(entry)
            }
            INITIAL_COUNT => u32::MAX,
            DIVIDE => 0xb,
            SELF_IPI => 0xff,
            _ => return Err(GeneralProtection),
        };
        let value = u32::try_from(value).map_err(|_| GeneralProtection)?;
        only_if(value & !allowed == 0)?;
        if register == SELF_IPI {
            return Ok(self.send_to_itself(low));
        }
        self.store(register, value, now).map_err(|_| GeneralProtection)
    }

    fn x2apic_register(&self, index: u32) -> Result<u8, GeneralProtection> {
        only_if(self.state.mode == Mode::X2Apic && X2APIC_MSRS.contains(&index))?;
        u8::try_from(index - X2APIC_MSRS.start()).map_err(|_| GeneralProtection)
    }

    fn set_x2apic_icr(&mut self, value: u64) -> Result<Option<Request>, GeneralProtection> {
        let low = u32::try_from(value & 0xffff_ffff).unwrap_or(0);
        only_if(low & !ICR_LOW_BITS == 0)?;
        self.state.icr = value;
        let destination = u32::try_from(value >> 32).unwrap_or(0);
        Ok(self.send(low, Destination::from_word(destination, low & 1 << 11 != 0)))
    }

    /// SELF IPI (SDM 11.12.11).
    fn send_to_itself(&mut self, vector: u8) -> Option<Request> {
        if vector < FIRST_VECTOR {
            self.error(SEND_ILLEGAL_VECTOR);
            return None;
        }
        let destination = Destination::Physical(self.state.config.id);
        Some(Request::Send(Message { destination, delivery: Delivery::Fixed, vector, level: false }))
    }

    fn base(&self) -> u64 {
        let mode = match self.state.mode {
            Mode::Disabled => 0,
            Mode::XApic => ENABLE,
            Mode::X2Apic => ENABLE | EXTENDED,
        };
        BASE_ADDRESS | mode | if self.state.config.bootstrap { BOOTSTRAP } else { 0 }
    }

    /// The ways between the modes: SDM 11.12.5. Disabling loses all state, and so all that waits.
    fn set_base(&mut self, value: u64) -> Result<(), GeneralProtection> {
        only_if(value & !(BOOTSTRAP | EXTENDED | ENABLE) == BASE_ADDRESS)?;
        let wanted = match (value & ENABLE != 0, value & EXTENDED != 0) {
            (false, false) => Mode::Disabled,
            (true, false) => Mode::XApic,
            (true, true) if self.state.config.x2apic => Mode::X2Apic,
            _ => return Err(GeneralProtection),
        };
        match (self.state.mode, wanted) {
            (Mode::Disabled, Mode::X2Apic) | (Mode::X2Apic, Mode::XApic) => return Err(GeneralProtection),
            (_, Mode::Disabled) => self.reset(),
            // Destination format and logical ID are not an x2APIC's, and its ICR has another destination.
            (Mode::XApic, Mode::X2Apic) => {
                (self.state.model, self.state.logical_id) = (0xf, 0);
                self.state.icr &= 0xffff_ffff;
            }
            _ => {}
        }
        self.state.mode = wanted;
        Ok(())
    }
}
