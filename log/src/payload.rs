//! The payload of each kind of event, byte by byte.

use crate::bytes::{Input, Malformed, put_bytes, put_varint};
use crate::event::{
    Body, End, EndCause, FullDigest, GeneralRegisters, MAX_DATA, MAX_INSTRUCTION, SPURIOUS, StopReason,
};

mod capture;
mod device;
mod marker;

/// Set in the kind of an event that a reader must not skip.
pub(crate) const MUST_UNDERSTAND: u8 = 0x80;

pub(crate) const CONSOLE_INPUT: u8 = 0x81;
pub(crate) const TIME_ADJUST: u8 = 0x82;
pub(crate) const CHECKPOINT: u8 = 0x83;
pub(crate) const SEAL: u8 = 0x84;
pub(crate) const END: u8 = 0x85;
pub(crate) const BOOKMARK: u8 = 0x06;
pub(crate) const INTERRUPT: u8 = 0x07;
pub(crate) const STATE: u8 = 0x08;
pub(crate) const EXIT: u8 = 0x09;
pub(crate) const DISK_REQUEST: u8 = 0x0a;
pub(crate) const CONSOLE_OUTPUT: u8 = 0x0b;
pub(crate) const BRANCH: u8 = 0x8c;
pub(crate) const CAPTURE_PAGES: u8 = 0x8d;
pub(crate) const CAPTURE: u8 = 0x8e;

const WITH_SEED: u8 = 1;
const WITH_WALL_CLOCK: u8 = 2;

const POWER_OFF: u8 = 0;
const RESET: u8 = 1;
const PANIC: u8 = 2;
const TRIPLE_FAULT: u8 = 3;
const REFUSED_INSTRUCTION: u8 = 4;
const HALTED_FOREVER: u8 = 5;
const STOPPED: u8 = 6;

const BY_USER: u8 = 0;
const BY_HOST_TIME: u8 = 1;
const BY_GUEST_TIME: u8 = 2;
const BY_SILENCE: u8 = 3;
const BY_SIGNAL: u8 = 4;

// Frozen: recordings exist. A new meaning gets a new number.
const _: () = assert!(MUST_UNDERSTAND == 0x80);
const _: () = assert!(CONSOLE_INPUT == 0x81 && TIME_ADJUST == 0x82 && CHECKPOINT == 0x83 && SEAL == 0x84);
const _: () = assert!(END == 0x85 && BOOKMARK == 0x06 && INTERRUPT == 0x07);
const _: () = assert!(STATE == 0x08 && EXIT == 0x09 && DISK_REQUEST == 0x0a && CONSOLE_OUTPUT == 0x0b);
const _: () = assert!(BRANCH == 0x8c && WITH_SEED == 1 && WITH_WALL_CLOCK == 2);
const _: () = assert!(CAPTURE_PAGES == 0x8d && CAPTURE == 0x8e);
const _: () = assert!(SPURIOUS == 255);
const _: () = assert!(POWER_OFF == 0 && RESET == 1 && PANIC == 2 && TRIPLE_FAULT == 3);
const _: () = assert!(REFUSED_INSTRUCTION == 4 && HALTED_FOREVER == 5 && STOPPED == 6);
const _: () = assert!(BY_USER == 0 && BY_HOST_TIME == 1 && BY_GUEST_TIME == 2);
const _: () = assert!(BY_SILENCE == 3 && BY_SIGNAL == 4);
const _: () = assert!(MAX_DATA == 65_536 && MAX_INSTRUCTION == 15);

/// Why an event has no payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// Some data of it is longer than the format allows.
    TooLong { length: usize, limit: usize },
    /// The format cannot say it, as a phrase.
    Invalid(&'static str),
}

fn limited(bytes: &[u8], limit: usize) -> Result<&[u8], Unfit> {
    if bytes.len() > limit { Err(Unfit::TooLong { length: bytes.len(), limit }) } else { Ok(bytes) }
}

pub(crate) fn kind(body: &Body) -> u8 {
    match body {
        Body::ConsoleInput { .. } => CONSOLE_INPUT,
        Body::TimeAdjust { .. } => TIME_ADJUST,
        Body::Branch { .. } => BRANCH,
        Body::CapturePages(_) => CAPTURE_PAGES,
        Body::Capture(_) => CAPTURE,
        Body::Device { input, .. } => device::kind(input),
        Body::Checkpoint { .. } => CHECKPOINT,
        Body::Seal { .. } => SEAL,
        Body::Bookmark { .. } => BOOKMARK,
        Body::Interrupt { .. } => INTERRUPT,
        Body::State { .. } => STATE,
        Body::Exit { .. } => EXIT,
        Body::DiskRequest { .. } => DISK_REQUEST,
        Body::ConsoleOutput { .. } => CONSOLE_OUTPUT,
        Body::End(_) => END,
    }
}

pub(crate) fn encode(body: &Body) -> Result<Vec<u8>, Unfit> {
    let mut out = Vec::new();
    match body {
        Body::ConsoleInput { bytes } => out.extend_from_slice(limited(bytes, MAX_DATA)?),
        Body::TimeAdjust { nanoseconds } => put_varint(&mut out, *nanoseconds),
        Body::Device { slot, input } => device::put(&mut out, *slot, input)?,
        Body::Branch { seed, wall_clock } => put_branch(&mut out, seed.as_ref(), *wall_clock)?,
        Body::CapturePages(pages) => capture::put_pages(&mut out, pages)?,
        Body::Capture(capture) => capture::put(&mut out, capture)?,
        Body::Checkpoint { registers, full } => {
            out.extend_from_slice(&registers.to_le_bytes());
            put_full(&mut out, full.as_ref());
        }
        Body::Seal { registers, guest_time } => {
            out.extend_from_slice(&registers.to_le_bytes());
            put_varint(&mut out, *guest_time);
        }
        Body::Bookmark { name } => out.extend_from_slice(limited(name.as_bytes(), MAX_DATA)?),
        Body::Interrupt { vector, irq } => out.extend_from_slice(&[*vector, *irq]),
        Body::State { registers, pages } => marker::put_state(&mut out, registers, pages)?,
        Body::Exit { what, address, size, value, answer, branches, steps } => {
            marker::put_kind(&mut out, *what);
            put_varint(&mut out, *address);
            out.push(*size);
            put_varint(&mut out, *value);
            marker::put_answer(&mut out, *answer);
            put_varint(&mut out, *branches);
            put_varint(&mut out, *steps);
        }
        Body::DiskRequest { device, request, sector, bytes, status } => {
            out.push(*device);
            put_varint(&mut out, u64::from(*request));
            put_varint(&mut out, *sector);
            put_varint(&mut out, *bytes);
            out.push(*status);
        }
        Body::ConsoleOutput { bytes } => out.extend_from_slice(limited(bytes, MAX_DATA)?),
        Body::End(end) => {
            put_cause(&mut out, &end.cause)?;
            out.extend_from_slice(&end.registers.to_le_bytes());
            put_full(&mut out, end.full.as_ref());
            put_varint(&mut out, end.exits);
            put_varint(&mut out, end.guest_time);
            put_varint(&mut out, end.inputs);
        }
    }
    Ok(out)
}

/// The body of a known kind; `None` for any other kind. All of `payload` must be used.
pub(crate) fn decode(kind: u8, payload: &[u8]) -> Result<Option<Body>, Malformed> {
    let mut input = Input::new(payload);
    let body = match kind {
        CONSOLE_INPUT => Body::ConsoleInput { bytes: data(&mut input)?.to_vec() },
        TIME_ADJUST => Body::TimeAdjust { nanoseconds: input.varint()? },
        BRANCH => branch(&mut input)?,
        CAPTURE_PAGES => capture::pages(&mut input)?,
        CAPTURE => capture::capture(&mut input)?,
        CHECKPOINT => Body::Checkpoint { registers: input.u64()?, full: full(&mut input)? },
        SEAL => Body::Seal { registers: input.u64()?, guest_time: input.varint()? },
        BOOKMARK => Body::Bookmark { name: text(data(&mut input)?)? },
        INTERRUPT => Body::Interrupt { vector: input.u8()?, irq: input.u8()? },
        STATE => marker::state(&mut input)?,
        EXIT => marker::exit(&mut input)?,
        DISK_REQUEST => marker::disk_request(&mut input)?,
        CONSOLE_OUTPUT => Body::ConsoleOutput { bytes: data(&mut input)?.to_vec() },
        END => Body::End(End {
            cause: cause(&mut input)?,
            registers: input.u64()?,
            full: full(&mut input)?,
            exits: input.varint()?,
            guest_time: input.varint()?,
            inputs: input.varint()?,
        }),
        _ => match device::take(kind, &mut input)? {
            Some(body) => body,
            None => return Ok(None),
        },
    };
    if input.len() != 0 {
        return Err(Malformed("its payload is too long"));
    }
    Ok(Some(body))
}

fn data<'a>(input: &mut Input<'a>) -> Result<&'a [u8], Malformed> {
    if input.len() > MAX_DATA {
        return Err(Malformed("its data is longer than 64 KiB"));
    }
    Ok(input.rest())
}

fn text(bytes: &[u8]) -> Result<String, Malformed> {
    match str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(Malformed("its text is not UTF-8")),
    }
}

fn put_branch(out: &mut Vec<u8>, seed: Option<&[u8; 32]>, wall_clock: Option<u64>) -> Result<(), Unfit> {
    let with = |some: bool, flag: u8| if some { flag } else { 0 };
    match with(seed.is_some(), WITH_SEED) | with(wall_clock.is_some(), WITH_WALL_CLOCK) {
        0 => return Err(Unfit::Invalid("it changes nothing")),
        flags => out.push(flags),
    }
    out.extend_from_slice(seed.map_or(&[], |seed| seed));
    if let Some(seconds) = wall_clock {
        put_varint(out, seconds);
    }
    Ok(())
}

fn branch(input: &mut Input<'_>) -> Result<Body, Malformed> {
    let flags = input.u8()?;
    if flags == 0 || flags & !(WITH_SEED | WITH_WALL_CLOCK) != 0 {
        return Err(Malformed("its flags are unknown: made by a newer scribe-vmm"));
    }
    let seed = if flags & WITH_SEED == 0 { None } else { Some(input.array()?) };
    let wall_clock = if flags & WITH_WALL_CLOCK == 0 { None } else { Some(input.varint()?) };
    Ok(Body::Branch { seed, wall_clock })
}

fn put_full(out: &mut Vec<u8>, full: Option<&FullDigest>) {
    out.push(u8::from(full.is_some()));
    if let Some(full) = full {
        out.extend_from_slice(&full.cpu.to_le_bytes());
        out.extend_from_slice(&full.ram.to_le_bytes());
        out.extend_from_slice(&full.devices.to_le_bytes());
        put_varint(out, full.guest_time);
    }
}

fn full(input: &mut Input<'_>) -> Result<Option<FullDigest>, Malformed> {
    match input.u8()? {
        0 => Ok(None),
        1 => Ok(Some(FullDigest {
            cpu: input.u64()?,
            ram: input.u128()?,
            devices: input.u64()?,
            guest_time: input.varint()?,
        })),
        _ => Err(Malformed("its digest is of an unknown form: made by a newer scribe-vmm")),
    }
}

fn put_cause(out: &mut Vec<u8>, cause: &EndCause) -> Result<(), Unfit> {
    match cause {
        EndCause::PowerOff { status } => out.extend_from_slice(&[POWER_OFF, *status]),
        EndCause::Reset => out.push(RESET),
        EndCause::Panic { message } => {
            out.push(PANIC);
            put_bytes(out, limited(message.as_bytes(), MAX_DATA)?);
        }
        EndCause::TripleFault { rip, bytes, last_exit } => {
            out.push(TRIPLE_FAULT);
            out.extend_from_slice(&rip.to_le_bytes());
            put_bytes(out, limited(bytes, MAX_INSTRUCTION)?);
            for (_, value) in last_exit.named() {
                out.extend_from_slice(&value.to_le_bytes());
            }
        }
        EndCause::RefusedInstruction { rip, bytes } => {
            out.push(REFUSED_INSTRUCTION);
            out.extend_from_slice(&rip.to_le_bytes());
            put_bytes(out, limited(bytes, MAX_INSTRUCTION)?);
        }
        EndCause::HaltedForever => out.push(HALTED_FOREVER),
        EndCause::Stopped { reason } => out.extend_from_slice(&[
            STOPPED,
            match reason {
                StopReason::User => BY_USER,
                StopReason::HostTime => BY_HOST_TIME,
                StopReason::GuestTime => BY_GUEST_TIME,
                StopReason::Silence => BY_SILENCE,
                StopReason::Signal => BY_SIGNAL,
            },
        ]),
    }
    Ok(())
}

fn cause(input: &mut Input<'_>) -> Result<EndCause, Malformed> {
    Ok(match input.u8()? {
        POWER_OFF => EndCause::PowerOff { status: input.u8()? },
        RESET => EndCause::Reset,
        PANIC => EndCause::Panic { message: text(input.bytes(MAX_DATA)?)? },
        TRIPLE_FAULT => EndCause::TripleFault {
            rip: input.u64()?,
            bytes: input.bytes(MAX_INSTRUCTION)?.to_vec(),
            last_exit: Box::new(registers(input)?),
        },
        REFUSED_INSTRUCTION => {
            EndCause::RefusedInstruction { rip: input.u64()?, bytes: input.bytes(MAX_INSTRUCTION)?.to_vec() }
        }
        HALTED_FOREVER => EndCause::HaltedForever,
        STOPPED => EndCause::Stopped {
            reason: match input.u8()? {
                BY_USER => StopReason::User,
                BY_HOST_TIME => StopReason::HostTime,
                BY_GUEST_TIME => StopReason::GuestTime,
                BY_SILENCE => StopReason::Silence,
                BY_SIGNAL => StopReason::Signal,
                _ => {
                    return Err(Malformed("its stop reason is unknown: made by a newer scribe-vmm"));
                }
            },
        },
        _ => return Err(Malformed("its cause is unknown: made by a newer scribe-vmm")),
    })
}

fn registers(input: &mut Input<'_>) -> Result<GeneralRegisters, Malformed> {
    Ok(GeneralRegisters {
        rax: input.u64()?,
        rbx: input.u64()?,
        rcx: input.u64()?,
        rdx: input.u64()?,
        rsi: input.u64()?,
        rdi: input.u64()?,
        rsp: input.u64()?,
        rbp: input.u64()?,
        r8: input.u64()?,
        r9: input.u64()?,
        r10: input.u64()?,
        r11: input.u64()?,
        r12: input.u64()?,
        r13: input.u64()?,
        r14: input.u64()?,
        r15: input.u64()?,
        rip: input.u64()?,
        rflags: input.u64()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_says_what_it_changes() {
        assert!(encode(&Body::Branch { seed: None, wall_clock: None }).is_err());
        let seed = [WITH_SEED].into_iter().chain([7; 32]).collect::<Vec<u8>>();
        assert_eq!(decode(BRANCH, &seed), Ok(Some(Body::Branch { seed: Some([7; 32]), wall_clock: None })));
        for bad in
            [&[][..], &[0], &[4], &[WITH_WALL_CLOCK | 4, 5], &[WITH_WALL_CLOCK], &seed[..32], &[2, 5, 0]]
        {
            assert!(decode(BRANCH, bad).is_err(), "{bad:?}");
        }
    }
}
