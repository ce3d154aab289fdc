//! The registers, by number: an xAPIC has number `n` at offset `n * 16`, an x2APIC as MSR `0x800 + n` (SDM table 11-1,
//! table 11-6).

use super::super::message::{Delivery, Destination, Message};
use super::interrupts::{FIRST_VECTOR, ILLEGAL_REGISTER, REMOTE_IRR, SEND_ILLEGAL_VECTOR};
use super::{LINT0, LINT1, Lapic, MASKED, Mode, Request, SVR_ENABLED, TIMER};

pub(super) const ID: u8 = 0x02;
pub(super) const VERSION: u8 = 0x03;
pub(super) const TPR: u8 = 0x08;
pub(super) const APR: u8 = 0x09;
pub(super) const PPR: u8 = 0x0a;
pub(super) const EOI: u8 = 0x0b;
const REMOTE_READ: u8 = 0x0c;
pub(super) const LDR: u8 = 0x0d;
const DFR: u8 = 0x0e;
pub(super) const SVR: u8 = 0x0f;
pub(super) const ISR: u8 = 0x10;
const TMR: u8 = 0x18;
const IRR: u8 = 0x20;
pub(super) const ESR: u8 = 0x28;
pub(super) const ICR: u8 = 0x30;
const ICR_HIGH: u8 = 0x31;
pub(super) const LVT: u8 = 0x32;
pub(super) const INITIAL_COUNT: u8 = 0x38;
pub(super) const CURRENT_COUNT: u8 = 0x39;
pub(super) const DIVIDE: u8 = 0x3e;

/// An integrated APIC whose last LVT entry is number 5.
const VERSION_VALUE: u32 = 5 << 16 | 0x14;
/// SVR: vector, enable, focus processor checking.
pub(super) const SVR_BITS: u16 = 0x3ff;
/// What an xAPIC's ICR holds; delivery status, bit 12, is always "idle".
pub(super) const ICR_LOW_BITS: u32 = 0x000c_cfff;
/// Delivery status of an LVT entry: always "idle", and read-only.
const DELIVERY_STATUS: u32 = 1 << 12;

/// The register is not there.
pub(super) struct NoRegister;

impl Lapic {
    /// Serves a read of `size` bytes at `offset` from [`BASE_ADDRESS`](super::BASE_ADDRESS) by its own processor. `None` if
    /// it is not an xAPIC now: nothing answers there.
    pub fn read(&mut self, offset: u64, size: u8, now: u64) -> Option<u64> {
        let register = self.register(offset)?;
        let (Some(register), 4) = (register, size) else {
            return Some(u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8))));
        };
        self.advance(now);
        let value = self.load(register, now).unwrap_or_else(|NoRegister| {
            self.error(ILLEGAL_REGISTER);
            0
        });
        Some(value.into())
    }

    /// Serves a write of `size` bytes; what the machine is to do then, if anything.
    pub fn write(&mut self, offset: u64, size: u8, value: u64, now: u64) -> Option<Request> {
        let (Some(register), 4) = (self.register(offset)?, size) else { return None };
        self.advance(now);
        // 4 bytes were written.
        let value = u32::try_from(value & 0xffff_ffff).unwrap_or(0);
        self.store(register, value, now).unwrap_or_else(|NoRegister| {
            self.error(ILLEGAL_REGISTER);
            None
        })
    }

    /// The register at an offset: outer `None` where nothing answers, inner `None` beside the registers.
    fn register(&self, offset: u64) -> Option<Option<u8>> {
        (self.state.mode == Mode::XApic && offset < 0x1000).then_some(())?;
        Some(u8::try_from(offset >> 4).ok().filter(|_| offset & 0xf == 0))
    }

    /// What a register reads.
    pub(super) fn load(&self, register: u8, now: u64) -> Result<u32, NoRegister> {
        let state = &self.state;
        let x2apic = state.mode == Mode::X2Apic;
        Ok(match register {
            ID if x2apic => state.config.id,
            ID => (state.config.id & 0xff) << 24,
            VERSION => VERSION_VALUE,
            TPR => state.tpr.into(),
            APR => self.arbitration_priority().into(),
            PPR => self.processor_priority().into(),
            EOI | REMOTE_READ => 0,
            LDR if x2apic => self.x2apic_logical_id(),
            LDR => u32::from(state.logical_id) << 24,
            DFR => u32::from(state.model) << 28 | 0x0fff_ffff,
            SVR => state.svr.into(),
            ISR..TMR => state.isr[usize::from(register - ISR)],
            TMR..IRR => state.tmr[usize::from(register - TMR)],
            IRR..ESR => state.irr[usize::from(register - IRR)],
            ESR => state.esr.into(),
            ICR => low_half(state.icr),
            ICR_HIGH => low_half(state.icr >> 32),
            LVT..INITIAL_COUNT => state.lvt[usize::from(register - LVT)],
            INITIAL_COUNT => state.initial_count,
            CURRENT_COUNT => self.current_count(now),
            DIVIDE => state.divide.into(),
            _ => return Err(NoRegister),
        })
    }

    /// A write to a register; bits that it does not have are dropped, and so is what is written to one that can only be
    /// read.
    pub(super) fn store(
        &mut self,
        register: u8,
        value: u32,
        now: u64,
    ) -> Result<Option<Request>, NoRegister> {
        let [low, second, _, high] = value.to_le_bytes();
        match register {
            ID | VERSION | APR | PPR | REMOTE_READ | ISR..ESR | CURRENT_COUNT => {}
            TPR => self.state.tpr = low,
            EOI => return Ok(self.end_of_interrupt()),
            LDR => self.state.logical_id = high,
            DFR => self.state.model = high >> 4,
            SVR => self.set_svr(u16::from_le_bytes([low, second])),
            ESR => self.state.esr = std::mem::take(&mut self.state.errors),
            ICR => {
                self.state.icr = self.state.icr >> 32 << 32 | u64::from(value & ICR_LOW_BITS);
                let destination = self.state.icr.to_le_bytes()[7];
                let destination = Destination::from_byte(destination, value & 1 << 11 != 0);
                return Ok(self.send(value, destination));
            }
            ICR_HIGH => self.state.icr = u64::from(high) << 56 | self.state.icr & 0xffff_ffff,
            LVT..INITIAL_COUNT => self.set_lvt(usize::from(register - LVT), value),
            INITIAL_COUNT => self.set_initial_count(value, now),
            DIVIDE => self.set_divide(low, now),
            _ => return Err(NoRegister),
        }
        Ok(None)
    }

    fn set_svr(&mut self, value: u16) {
        self.state.svr = value & SVR_BITS;
        if value & SVR_ENABLED == 0 {
            // "The mask bits for all the LVT entries are set" (11.4.7.2).
            self.state.lvt.iter_mut().for_each(|entry| *entry |= MASKED);
        }
        self.sample_pins();
    }

    /// The bits of an LVT entry that the guest can write.
    pub(super) fn lvt_bits(&self, index: usize) -> u32 {
        match index {
            TIMER if self.state.config.tsc_deadline => 0x7_00ff,
            TIMER => 0x3_00ff,
            1 | 2 => 0x1_07ff,
            LINT0 | LINT1 => 0x1_a7ff,
            _ => 0x1_00ff,
        }
    }

    /// The bits of an LVT entry that are there, and read-only.
    pub(super) fn lvt_status_bits(index: usize) -> u32 {
        if matches!(index, LINT0 | LINT1) { DELIVERY_STATUS | REMOTE_IRR } else { DELIVERY_STATUS }
    }

    fn set_lvt(&mut self, index: usize, value: u32) {
        let mut entry = value & self.lvt_bits(index);
        if self.state.svr & SVR_ENABLED == 0 {
            entry |= MASKED;
        }
        if index == TIMER {
            return self.set_timer_entry(entry);
        }
        let level = 1 << 15;
        // Remote IRR says something about level-triggered interrupts alone.
        let remote = if entry & level != 0 { self.state.lvt[index] & REMOTE_IRR } else { 0 };
        self.state.lvt[index] = entry | remote;
        self.sample_pins();
    }

    /// A write to the interrupt command register: the message, if it is one that can be sent (SDM 11.6.1, table 11-3).
    pub(super) fn send(&mut self, low: u32, destination: Destination) -> Option<Request> {
        let delivery = Delivery::from_bits(low >> 8)?;
        let vector = low.to_le_bytes()[0];
        let vectored = matches!(delivery, Delivery::Fixed | Delivery::LowestPriority);
        let id = self.state.config.id;
        let destination = match low >> 18 & 3 {
            0 => destination,
            1 if delivery == Delivery::Fixed => Destination::Physical(id),
            2 if delivery == Delivery::Fixed => Destination::All,
            3 => Destination::AllBut(id),
            _ => return None,
        };
        // INIT level de-assert only ever set the arbitration IDs of the Pentium.
        let deassert = delivery == Delivery::Init && low & (1 << 14 | 1 << 15) == 1 << 15;
        if deassert || delivery == Delivery::External {
            return None;
        }
        if vectored && vector < FIRST_VECTOR {
            self.error(SEND_ILLEGAL_VECTOR);
            return None;
        }
        Some(Request::Send(Message { destination, delivery, vector, level: false }))
    }
}

fn low_half(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or(0)
}
