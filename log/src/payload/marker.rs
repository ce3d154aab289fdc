//! The payloads of the kinds that are markers.

use crate::bytes::{Input, Malformed, put_varint};
use crate::event::{Body, ExitAnswer, ExitKind, MAX_PAGES, MAX_REGISTER_NAME, MAX_REGISTERS, Register};

use super::Unfit;

const PORT_READ: u8 = 0;
const PORT_WRITE: u8 = 1;
const MMIO_READ: u8 = 2;
const MMIO_WRITE: u8 = 3;
const HALT: u8 = 4;
const MSR_READ: u8 = 5;
const MSR_WRITE: u8 = 6;

const DONE: u8 = 0;
const VALUE: u8 = 1;
const GENERAL_PROTECTION: u8 = 2;

// Frozen: recordings exist. A new meaning gets a new number.
const _: () = assert!(PORT_READ == 0 && PORT_WRITE == 1 && MMIO_READ == 2 && MMIO_WRITE == 3);
const _: () = assert!(HALT == 4 && MSR_READ == 5 && MSR_WRITE == 6);
const _: () = assert!(DONE == 0 && VALUE == 1 && GENERAL_PROTECTION == 2);
const _: () = assert!(MAX_REGISTERS == 256 && MAX_REGISTER_NAME == 32 && MAX_PAGES == 4096);

fn valid_name(name: &[u8]) -> bool {
    (1..=MAX_REGISTER_NAME).contains(&name.len()) && name.iter().all(u8::is_ascii_graphic)
}

/// Whether `value` has a bit above its `bytes` bytes.
fn too_wide(value: u128, bytes: u8) -> bool {
    value.checked_shr(u32::from(bytes) * 8).is_some_and(|above| above != 0)
}

pub(super) fn put_state(
    out: &mut Vec<u8>,
    registers: &[Register],
    pages: &[(u64, u64)],
) -> Result<(), Unfit> {
    if registers.len() > MAX_REGISTERS {
        return Err(Unfit::Invalid("it has more than 256 registers"));
    }
    if pages.len() > MAX_PAGES {
        return Err(Unfit::Invalid("it has more than 4096 pages"));
    }
    put_varint(out, registers.len() as u64);
    for Register { name, bytes, value } in registers {
        let name = name.as_bytes();
        match u8::try_from(name.len()) {
            Ok(length) if valid_name(name) => out.push(length),
            _ => {
                return Err(Unfit::Invalid("a register's name is not 1 to 32 characters of printable ASCII"));
            }
        }
        out.extend_from_slice(name);
        if !(1..=16).contains(bytes) || too_wide(*value, *bytes) {
            return Err(Unfit::Invalid("a register's value does not fit its 1 to 16 bytes"));
        }
        out.push(*bytes);
        out.extend_from_slice(&value.to_le_bytes()[..usize::from(*bytes)]);
    }
    put_varint(out, pages.len() as u64);
    let mut last = None;
    for (frame, hash) in pages {
        let delta = match last {
            None => *frame,
            Some(last) if *frame > last => frame - last,
            Some(_) => return Err(Unfit::Invalid("its pages are not in ascending order")),
        };
        put_varint(out, delta);
        out.extend_from_slice(&hash.to_le_bytes());
        last = Some(*frame);
    }
    Ok(())
}

pub(super) fn state(input: &mut Input<'_>) -> Result<Body, Malformed> {
    let count = count(input, MAX_REGISTERS)?;
    let mut registers = Vec::with_capacity(count.min(input.len()));
    for _ in 0..count {
        let length = input.u8()?;
        let name = input.take(usize::from(length))?;
        let name = match str::from_utf8(name) {
            Ok(text) if valid_name(name) => text.to_owned(),
            _ => return Err(Malformed("a register has an impossible name")),
        };
        let bytes = input.u8()?;
        if !(1..=16).contains(&bytes) {
            return Err(Malformed("a register has an impossible width"));
        }
        let mut value = [0; 16];
        value[..usize::from(bytes)].copy_from_slice(input.take(usize::from(bytes))?);
        registers.push(Register { name, bytes, value: u128::from_le_bytes(value) });
    }
    let count = self::count(input, MAX_PAGES)?;
    let mut pages: Vec<(u64, u64)> = Vec::with_capacity(count.min(input.len()));
    for _ in 0..count {
        let delta = input.varint()?;
        let frame = match pages.last() {
            None => Some(delta),
            Some(_) if delta == 0 => None,
            Some((last, _)) => last.checked_add(delta),
        };
        pages.push((frame.ok_or(Malformed("its pages are not in ascending order"))?, input.u64()?));
    }
    Ok(Body::State { registers, pages })
}

fn count(input: &mut Input<'_>, limit: usize) -> Result<usize, Malformed> {
    match usize::try_from(input.varint()?) {
        Ok(count) if count <= limit => Ok(count),
        _ => Err(Malformed("it counts more than allowed")),
    }
}

pub(super) fn put_kind(out: &mut Vec<u8>, kind: ExitKind) {
    out.push(match kind {
        ExitKind::PortRead => PORT_READ,
        ExitKind::PortWrite => PORT_WRITE,
        ExitKind::MmioRead => MMIO_READ,
        ExitKind::MmioWrite => MMIO_WRITE,
        ExitKind::Halt => HALT,
        ExitKind::MsrRead => MSR_READ,
        ExitKind::MsrWrite => MSR_WRITE,
    });
}

fn kind(input: &mut Input<'_>) -> Result<ExitKind, Malformed> {
    Ok(match input.u8()? {
        PORT_READ => ExitKind::PortRead,
        PORT_WRITE => ExitKind::PortWrite,
        MMIO_READ => ExitKind::MmioRead,
        MMIO_WRITE => ExitKind::MmioWrite,
        HALT => ExitKind::Halt,
        MSR_READ => ExitKind::MsrRead,
        MSR_WRITE => ExitKind::MsrWrite,
        _ => return Err(Malformed("its exit is of an unknown kind: made by a newer scribe-vmm")),
    })
}

pub(super) fn put_answer(out: &mut Vec<u8>, answer: ExitAnswer) {
    let (answer, value) = match answer {
        ExitAnswer::Done => (DONE, 0),
        ExitAnswer::Value(value) => (VALUE, value),
        ExitAnswer::GeneralProtection => (GENERAL_PROTECTION, 0),
    };
    out.push(answer);
    put_varint(out, value);
}

fn answer(input: &mut Input<'_>) -> Result<ExitAnswer, Malformed> {
    Ok(match (input.u8()?, input.varint()?) {
        (VALUE, value) => ExitAnswer::Value(value),
        (DONE, 0) => ExitAnswer::Done,
        (GENERAL_PROTECTION, 0) => ExitAnswer::GeneralProtection,
        (DONE | GENERAL_PROTECTION, _) => return Err(Malformed("its answer has a value and should not")),
        _ => return Err(Malformed("its answer is of an unknown kind: made by a newer scribe-vmm")),
    })
}

pub(super) fn exit(input: &mut Input<'_>) -> Result<Body, Malformed> {
    Ok(Body::Exit {
        what: kind(input)?,
        address: input.varint()?,
        size: input.u8()?,
        value: input.varint()?,
        answer: answer(input)?,
        branches: input.varint()?,
        steps: input.varint()?,
    })
}

pub(super) fn disk_request(input: &mut Input<'_>) -> Result<Body, Malformed> {
    Ok(Body::DiskRequest {
        device: input.u8()?,
        request: u32::try_from(input.varint()?)
            .map_err(|_| Malformed("its request type is above 2^32 - 1"))?,
        sector: input.varint()?,
        bytes: input.varint()?,
        status: input.u8()?,
    })
}
