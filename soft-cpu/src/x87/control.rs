//! Control words, the stack's pointer and tags, and the whole state in memory.
//!
//! FIP, FDP and FOP are not kept: they are stored as 0, and what is loaded for them is lost.

use super::extended::{Class, Extended};
use super::round::EXCEPTIONS;
use super::stack::{SUMMARY, TOP};
use crate::cpu::{Cpu, Done, RAX, Trap};
use crate::op::Op;

/// The control word after FNINIT.
const INITIAL: u16 = 0x37f;

pub(crate) fn wait(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.wait()
}

pub(crate) fn fnop(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.x87_ready()
}

/// FNENI, FNDISI, FNSETPM: of the 8087 and 287, without effect since.
pub(crate) fn nothing(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.x87_available()
}

fn initialize(cpu: &mut Cpu) {
    cpu.fpu.fcw = INITIAL;
    cpu.fpu.fsw = 0;
    cpu.fpu.ftw = 0;
}

pub(crate) fn fninit(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.x87_available()?;
    initialize(cpu);
    Ok(())
}

pub(crate) fn fnclex(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.x87_available()?;
    cpu.fpu.fsw &= !(EXCEPTIONS | super::round::SF | SUMMARY);
    Ok(())
}

pub(crate) fn fldcw(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87_ready()?;
    let control: u16 = cpu.read_mem(op)?;
    cpu.set_control(control);
    Ok(())
}

pub(crate) fn fnstcw(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87_available()?;
    cpu.write_mem(op, cpu.fpu.fcw)
}

pub(crate) fn fnstsw(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87_available()?;
    cpu.write_mem(op, cpu.fpu.fsw)
}

pub(crate) fn fnstsw_ax(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.x87_available()?;
    cpu.set_reg(RAX, cpu.fpu.fsw);
    Ok(())
}

/// FINCSTP (1) and FDECSTP (7), by `extra`.
pub(crate) fn rotate(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87_ready()?;
    cpu.move_top(op.extra.into());
    cpu.report(0);
    Ok(())
}

/// FFREE, and FFREEP, which pops besides.
pub(crate) fn ffree(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87_ready()?;
    cpu.free(op.dst);
    cpu.pop(op.size);
    cpu.report(0);
    Ok(())
}

/// Two bits for each physical register: 0 valid, 1 zero, 2 special, 3 empty.
pub(super) fn full_tags(cpu: &Cpu) -> u16 {
    (0..8).fold(0, |tags, n| {
        let tag = if cpu.fpu.ftw >> n & 1 == 0 {
            3
        } else {
            let x = Extended::new(cpu.fpu.regs[n]);
            match x.class {
                Class::Zero => 1,
                Class::Finite if !x.denormal => 0,
                _ => 2,
            }
        };
        tags | tag << (2 * n)
    })
}

fn set_full_tags(cpu: &mut Cpu, tags: u16) {
    cpu.fpu.ftw = (0..8).fold(0, |ftw, n| ftw | u8::from(tags >> (2 * n) & 3 != 3) << n);
}

/// Bytes of the environment in the operand size's format.
fn environment_bytes(op: &Op) -> u64 {
    if op.size == 16 { 14 } else { 28 }
}

/// The linear address of `bytes` bytes, all of which can be written. So the stores that follow fault never or at once.
fn writable(cpu: &mut Cpu, op: &Op, bytes: u64) -> Result<u64, Trap> {
    let at = cpu.linear(op, bytes, true)?;
    cpu.check_alignment(at, if op.size == 16 { 2 } else { 4 })?;
    for start in (0..bytes).step_by(16) {
        cpu.check_writable(at.wrapping_add(start), (bytes - start).min(16))?;
    }
    Ok(at)
}

/// Stores control, status and tag word, and zeros for the pointers. In the 32-bit format the reserved halves are ones.
fn store_environment(cpu: &mut Cpu, op: &Op, at: u64) -> Done {
    let words = [cpu.fpu.fcw, cpu.fpu.fsw, full_tags(cpu), 0, 0, 0, 0];
    let mut at = at;
    for (n, word) in words.into_iter().enumerate() {
        if op.size == 16 {
            cpu.store(at, word)?;
            at = at.wrapping_add(2);
        } else {
            let reserved = if n < 3 || n == 6 { 0xffff_0000 } else { 0 };
            cpu.store(at, u32::from(word) | reserved)?;
            at = at.wrapping_add(4);
        }
    }
    Ok(())
}

/// Reads control, status and tag word. Everything is read, so that it faults where the whole would.
fn load_environment(cpu: &mut Cpu, op: &Op, at: u64) -> Result<[u16; 3], Trap> {
    let mut words = [0; 7];
    let mut at = at;
    for word in &mut words {
        if op.size == 16 {
            *word = cpu.load::<u16>(at)?;
            at = at.wrapping_add(2);
        } else {
            *word = cpu.load::<u32>(at)? as u16;
            at = at.wrapping_add(4);
        }
    }
    let [control, status, tags, ..] = words;
    Ok([control, status, tags])
}

fn set_environment(cpu: &mut Cpu, [control, status, tags]: [u16; 3]) {
    cpu.fpu.fsw = status & !SUMMARY;
    set_full_tags(cpu, tags);
    cpu.set_control(control);
}

/// FNSTENV: afterwards all exceptions are masked.
pub(crate) fn fnstenv(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87_available()?;
    let at = writable(cpu, op, environment_bytes(op))?;
    store_environment(cpu, op, at)?;
    cpu.set_control(cpu.fpu.fcw | EXCEPTIONS);
    Ok(())
}

pub(crate) fn fldenv(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87_ready()?;
    let at = cpu.linear(op, environment_bytes(op), false)?;
    let words = load_environment(cpu, op, at)?;
    set_environment(cpu, words);
    Ok(())
}

/// FNSAVE: afterwards as after FNINIT.
pub(crate) fn fnsave(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87_available()?;
    let environment = environment_bytes(op);
    let at = writable(cpu, op, environment + 80)?;
    store_environment(cpu, op, at)?;
    for n in 0..8u8 {
        let bits = cpu.fpu.regs[(cpu.fpu.top() + usize::from(n)) & 7].to_le_bytes();
        let at = at.wrapping_add(environment + 10 * u64::from(n));
        cpu.write_bytes(at, &bits[..10])?;
    }
    initialize(cpu);
    Ok(())
}

pub(crate) fn frstor(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.x87_ready()?;
    let environment = environment_bytes(op);
    let at = cpu.linear(op, environment + 80, false)?;
    let words = load_environment(cpu, op, at)?;
    let top = usize::from((words[1] & TOP) >> 11);
    let mut regs = [0; 8];
    for n in 0..8 {
        let mut bytes = [0; 16];
        cpu.read_bytes(at.wrapping_add(environment + 10 * n), &mut bytes[..10])?;
        regs[(top + n as usize) & 7] = u128::from_le_bytes(bytes);
    }
    cpu.fpu.regs = regs;
    set_environment(cpu, words);
    Ok(())
}
