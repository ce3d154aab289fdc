//! The guests that a counter is examined in ([`crate::engine::pmu::selftest`]).

mod place;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use kvm_ioctls::Kvm as System;

use super::exit::Exit;
use super::guest::{Guest, ProbeError};
use super::layout::{IRQ_VECTOR, RAM_BYTES, Ring, UNMAPPED};
use crate::engine::kvm::Kvm;
use crate::engine::pmu::Counter;
use crate::engine::pmu::selftest::{Bench, Class, OpenError, Overflow};
use crate::host::kick;
use crate::host::perf::{self, Alarm, Count, Event};
use crate::machine::memory::GuestRam;

/// The loop has come to its end.
const END: u8 = 0x11;
/// A turn makes an exit.
const TURN: u8 = 0x12;
const PAGE_FAULT: u8 = 14;

/// The last byte that is mapped for CPL 3.
const LAST_BYTE: u64 = RAM_BYTES as u64 - 1;

/// Retired locked instructions of which SpecLockMap was committed (AMD PPR, PMCx025, unit mask 8).
const SPEC_LOCK_MAP_COMMIT: u64 = 0x51_0825;

/// A counter, and the guest it counts in.
struct Counted {
    guest: Guest,
    count: Count,
    alarm: Alarm,
}

/// Opens a counter for the calling thread, and a guest.
pub(in crate::engine) fn open(counter: &Counter) -> Result<Box<dyn Bench>, OpenError> {
    kick::prepare().map_err(OpenError::Guest)?;
    if let Some(processors) = &counter.processors {
        perf::stay_on(processors).map_err(OpenError::Counter)?;
    }
    let count = Count::open(counter.event).map_err(OpenError::Counter)?;
    let alarm = Alarm::open(counter.event).map_err(OpenError::Counter)?;
    let guest = || -> Result<Guest, String> {
        let system = System::new().map_err(|error| format!("/dev/kvm does not open: {error}"))?;
        let guest = Guest::new(&system).map_err(|error| error.to_string())?;
        guest.let_kicks_in().map_err(|error| error.to_string())?;
        Ok(guest)
    };
    Ok(Box::new(Counted { guest: guest().map_err(OpenError::Guest)?, count, alarm }))
}

/// One turn of a class's loop, without the `dec`, `jnz`.
fn turn(a: &mut CodeAssembler, class: Class) -> Result<(), IcedError> {
    let mut next = a.create_label();
    match class {
        Class::Taken | Class::User | Class::Faulting | Class::FaultBehind => Ok(()),
        Class::NotTaken => {
            a.test(r8, r8)?;
            a.jz(next)?;
            a.nop()?;
            a.set_label(&mut next)?;
            a.nop()
        }
        Class::Jrcxz => {
            a.xor(ecx, ecx)?;
            a.jrcxz(next)?;
            a.nop()?;
            a.set_label(&mut next)?;
            let mut over = a.create_label();
            a.mov(ecx, 1)?;
            a.jrcxz(over)?;
            a.nop()?;
            a.set_label(&mut over)?;
            a.nop()
        }
        Class::Loop => {
            a.mov(ecx, 3)?;
            a.set_label(&mut next)?;
            a.loop_(next)?;
            let mut again = a.create_label();
            a.mov(ecx, 2)?;
            a.cmp(ecx, ecx)?;
            a.set_label(&mut again)?;
            a.loope(again)
        }
        Class::Jumps => {
            let (mut function, mut over, mut behind) = (a.create_label(), a.create_label(), a.create_label());
            a.jmp(next)?;
            a.set_label(&mut function)?;
            a.ret()?;
            a.set_label(&mut next)?;
            a.call(function)?;
            a.lea(rax, ptr(over))?;
            a.jmp(rax)?;
            a.set_label(&mut behind)?;
            a.nop()?;
            a.set_label(&mut over)?;
            a.nop()
        }
        Class::Moves => {
            a.test(r8, 1)?;
            a.cmovz(rax, r8)?;
            a.setz(dl)?;
            a.cmovnz(rbx, r8)
        }
        Class::Strings => {
            a.mov(ecx, 24)?;
            a.rep().movsb()?;
            a.mov(ecx, 24)?;
            a.sub(rdi, 24)?;
            a.sub(rsi, 24)?;
            a.mov(eax, 1)?;
            a.repne().scasb()?;
            a.sub(rdi, 24)
        }
        Class::Atomics => {
            a.mov(eax, 1)?;
            for _ in 0..4 {
                a.lock().xadd(qword_ptr(rdi), rax)?;
            }
            Ok(())
        }
        Class::Exits | Class::Interrupts => a.out(u32::from(TURN), al),
    }
}

/// The whole loop: R8 turns.
fn program(a: &mut CodeAssembler, class: Class) -> Result<(), IcedError> {
    match class {
        Class::Faulting => return a.jmp(LAST_BYTE),
        Class::FaultBehind => {
            a.xor(eax, eax)?;
            return a.jz(UNMAPPED);
        }
        _ => {}
    }
    let mut again = a.create_label();
    if class == Class::Interrupts {
        a.sti()?;
    }
    a.set_label(&mut again)?;
    turn(a, class)?;
    a.dec(r8)?;
    a.jnz(again)?;
    a.out(u32::from(END), al)?;
    a.hlt()
}

/// A guest that did something else.
fn unexpected(exit: Exit) -> String {
    format!("the guest did something else: {exit}")
}

fn text(error: ProbeError) -> String {
    error.to_string()
}

/// Loads the loop of a class.
fn start(guest: &mut Guest, class: Class, turns: u64) -> Result<(), ProbeError> {
    let ring = match class {
        Class::User | Class::Faulting | Class::FaultBehind => Ring::User,
        _ => Ring::Kernel,
    };
    guest.start(ring, |a| program(a, class))?;
    match class {
        // The first byte of a JNZ whose second one nobody has.
        Class::Faulting => guest.poke(LAST_BYTE, &[0x75])?,
        Class::Interrupts => guest.handler(IRQ_VECTOR, |a| a.iretq())?,
        _ => {}
    }
    guest.edit_regs(|regs| regs.r8 = turns)
}

/// Runs it to its end, or to the fault that is its end.
fn run(guest: &mut Guest, class: Class) -> Result<(), String> {
    let faults = matches!(class, Class::Faulting | Class::FaultBehind);
    loop {
        match guest.run().map_err(text)? {
            Exit::Mark(END) if !faults => return Ok(()),
            Exit::Vector(PAGE_FAULT) if faults => return Ok(()),
            Exit::Mark(TURN) if class == Class::Interrupts => {
                guest.retire().map_err(text)?;
                guest.interrupt(IRQ_VECTOR).map_err(text)?;
            }
            Exit::Mark(TURN) if class == Class::Exits => {
                // What a host does: some branches of its own.
                std::hint::black_box((0..100u64).filter(|n| std::hint::black_box(*n) % 3 == 1).count());
            }
            exit => return Err(unexpected(exit)),
        }
    }
}

impl Counted {
    fn read(&self) -> Result<u64, String> {
        self.count.read().map_err(|error| error.to_string())
    }
}

impl Bench for Counted {
    fn count(&mut self, class: Class, turns: u64) -> Result<u64, String> {
        start(&mut self.guest, class, turns).map_err(text)?;
        let before = self.read()?;
        run(&mut self.guest, class)?;
        Ok(self.read()?.wrapping_sub(before))
    }

    fn overflow(&mut self, after: u64, turns: u64) -> Result<Overflow, String> {
        start(&mut self.guest, Class::Taken, turns).map_err(text)?;
        let before = self.read()?;
        kick::take();
        self.alarm.arm(after).map_err(|error| error.to_string())?;
        let mut at = None;
        // Something else may interrupt the guest too, before the overflow is due; a late look is not believed to be one.
        let exit = loop {
            match self.guest.run_to_signal().map_err(text)? {
                Some(exit) => break exit,
                None => {
                    kick::take();
                    let count = self.read()?.wrapping_sub(before);
                    if count >= after {
                        at = Some(count);
                        self.alarm.disarm().map_err(|error| error.to_string())?;
                        break self.guest.run().map_err(text)?;
                    }
                }
            }
        };
        self.alarm.disarm().map_err(|error| error.to_string())?;
        kick::take();
        if exit != Exit::Mark(END) {
            return Err(unexpected(exit));
        }
        Ok(Overflow { at, total: self.read()?.wrapping_sub(before) })
    }

    fn lock_commits(&mut self, turns: u64) -> Result<u64, String> {
        let event = Event { pmu: perf::RAW, config: SPEC_LOCK_MAP_COMMIT };
        let commits = Count::open(event).map_err(|error| error.to_string())?;
        start(&mut self.guest, Class::Atomics, turns).map_err(text)?;
        let read = || commits.read().map_err(|error| error.to_string());
        let before = read()?;
        run(&mut self.guest, Class::Atomics)?;
        Ok(read()?.wrapping_sub(before))
    }

    fn place(&mut self, counter: &Counter) -> Result<(), String> {
        let ram = GuestRam::new(2 << 20).map_err(|error| error.to_string())?;
        let kvm = Kvm::with_counter(&ram, counter).map_err(|error| error.to_string())?;
        place::stops_at_places(kvm, &ram, counter.skid)
    }
}

#[cfg(test)]
mod tests;
