//! Events as lines for people.

use std::fmt;

use crate::event::{
    Body, Capture, CapturePages, DeviceInput, End, EndCause, Event, ExitAnswer, ExitKind, FullDigest,
    Register, SPURIOUS, StopReason,
};

/// Most console bytes shown of one event.
const SHOWN: usize = 64;

/// One line: position, kind, details.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<16} {:<13} ", self.position, self.body.name())?;
        if self.vcpu != 0 {
            write!(f, "vcpu {}: ", self.vcpu)?;
        }
        self.body.fmt(f)
    }
}

/// The details, without position and kind.
impl fmt::Display for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Body::ConsoleInput { bytes } => data(f, bytes),
            Body::TimeAdjust { nanoseconds } => write!(f, "+{}", Seconds(*nanoseconds)),
            Body::Device { slot, input } => device(f, *slot, input),
            Body::Branch { seed, wall_clock } => branch(f, seed.as_ref(), *wall_clock),
            Body::CapturePages(pages) => pages.fmt(f),
            Body::Capture(capture) => capture.fmt(f),
            Body::Checkpoint { registers, full } => {
                write!(f, "registers {registers:016x}")?;
                digest(f, full.as_ref())
            }
            Body::Seal { registers, guest_time } => {
                write!(f, "registers {registers:016x} at {}", Seconds(*guest_time))
            }
            Body::Bookmark { name } => write!(f, "{name:?}"),
            Body::Interrupt { vector, irq: SPURIOUS } => write!(f, "vector {vector:#04x} spurious"),
            Body::Interrupt { vector, irq } => write!(f, "vector {vector:#04x} irq {irq}"),
            Body::State { registers, pages } => state(f, registers, pages),
            Body::Exit { what, address, size, value, answer, branches, steps } => {
                exit(f, *what, (*address, *size, *value), *answer)?;
                match (branches, steps) {
                    (0, 0) => Ok(()),
                    (branches, 0) => write!(f, ", after {}", Branches(*branches)),
                    (branches, steps) => {
                        let plural = if *steps == 1 { "" } else { "s" };
                        write!(f, ", after {} {steps} step{plural}", Branches(*branches))
                    }
                }
            }
            Body::DiskRequest { device, request, sector, bytes, status } => {
                write!(f, "disk {device} {} sector {sector} {bytes} bytes", Request(*request))?;
                match status {
                    0 => Ok(()),
                    1 => f.write_str(", failed"),
                    2 => f.write_str(", not supported"),
                    other => write!(f, ", status {other}"),
                }
            }
            Body::ConsoleOutput { bytes } => data(f, bytes),
            Body::End(end) => end.fmt(f),
        }
    }
}

fn device(f: &mut fmt::Formatter<'_>, slot: u8, input: &DeviceInput) -> fmt::Result {
    write!(f, "slot {slot} ")?;
    match input {
        DeviceInput::Frame(bytes) | DeviceInput::Entropy(bytes) | DeviceInput::Typed(bytes) => data(f, bytes),
        DeviceInput::Link { up } => f.write_str(if *up { "up" } else { "down" }),
        DeviceInput::Resize { cols, rows } => write!(f, "{cols} columns, {rows} rows"),
        DeviceInput::DiskFailed { operation, number, sector } => {
            let name = ["read", "write", "flush", "zero"].get(usize::from(*operation)).unwrap_or(&"unknown");
            write!(f, "{name} at sector {sector}, operation {number} of the exit")
        }
    }
}

fn branch(f: &mut fmt::Formatter<'_>, seed: Option<&[u8; 32]>, wall_clock: Option<u64>) -> fmt::Result {
    if let Some(seed) = seed {
        f.write_str("seed ")?;
        seed.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
    }
    match (seed, wall_clock) {
        (None, Some(seconds)) => write!(f, "wall clock {seconds} s since 1970"),
        (Some(_), Some(seconds)) => write!(f, ", wall clock {seconds} s since 1970"),
        (_, None) => Ok(()),
    }
}

/// How many, where the first is, how many bytes.
impl fmt::Display for CapturePages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.frames.len();
        write!(f, "{count} page{}", plural(count as u64))?;
        if let Some(first) = self.frames.first() {
            write!(f, " from {:#x}", u128::from(*first) * 4096)?;
        }
        write!(f, ", {}", Size(self.stored.len() as u64))
    }
}

/// What of it is in the log, and what it stands for.
impl fmt::Display for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Capture { nanoseconds, interrupts, pages, bytes, .. } = self;
        let tenths = nanoseconds.saturating_add(50_000) / 100_000;
        write!(f, "{pages} page{}, {}, guest computed ", plural(*pages), Size(*bytes))?;
        write!(f, "{}.{} ms, ", tenths / 10, tenths % 10)?;
        write!(f, "{interrupts} interrupt{} in between", plural((*interrupts).into()))
    }
}

fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// A number of bytes, in KB if it is large.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes @ 0..10_000 => write!(f, "{bytes} byte{}", plural(bytes)),
            bytes => write!(f, "{} KB", bytes.div_ceil(1000)),
        }
    }
}

/// Cause, totals, digests.
impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let End { cause, registers, full, exits, guest_time, inputs } = self;
        write!(
            f,
            "{cause}; {exits} exits, {}, {inputs} inputs; registers {registers:016x}",
            Seconds(*guest_time)
        )?;
        digest(f, full.as_ref())
    }
}

/// One phrase.
impl fmt::Display for EndCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EndCause::PowerOff { status } => write!(f, "power off with status {status}"),
            EndCause::Reset => f.write_str("reset"),
            EndCause::Panic { message } => write!(f, "kernel panic {message:?}"),
            EndCause::TripleFault { rip, bytes, last_exit } => {
                write!(f, "triple fault at {rip:#x} ({}), at the last exit:", Hex(bytes))?;
                last_exit.named().iter().try_for_each(|(name, value)| write!(f, " {name} {value:x}"))
            }
            EndCause::RefusedInstruction { rip, bytes } => {
                write!(f, "instruction refused at {rip:#x} ({})", Hex(bytes))
            }
            EndCause::HaltedForever => f.write_str("halted with nothing that can wake it"),
            EndCause::Stopped { reason } => write!(f, "stopped by {reason}"),
        }
    }
}

/// What stopped it, after "stopped by".
impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            StopReason::User => "the user",
            StopReason::HostTime => "the limit on host time",
            StopReason::GuestTime => "the limit on guest time",
            StopReason::Silence => "the limit on silence",
            StopReason::Signal => "a signal",
        })
    }
}

/// Console bytes, the first of them.
fn data(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    let plural = if bytes.len() == 1 { "" } else { "s" };
    write!(f, "{} byte{plural} \"{}\"", bytes.len(), bytes[..bytes.len().min(SHOWN)].escape_ascii())?;
    if bytes.len() > SHOWN { f.write_str("...") } else { Ok(()) }
}

/// Registers in full; of pages their number and the first of them.
fn state(f: &mut fmt::Formatter<'_>, registers: &[Register], pages: &[(u64, u64)]) -> fmt::Result {
    for Register { name, value, .. } in registers {
        write!(f, "{name} {value:x} ")?;
    }
    write!(f, "{} page{}", pages.len(), if pages.len() == 1 { "" } else { "s" })?;
    match pages.first() {
        None => Ok(()),
        Some((frame, hash)) => write!(f, " from {frame:#x} {hash:016x}"),
    }
}

fn exit(
    f: &mut fmt::Formatter<'_>,
    what: ExitKind,
    (address, size, value): (u64, u8, u64),
    answer: ExitAnswer,
) -> fmt::Result {
    f.write_str(what.name())?;
    if what != ExitKind::Halt {
        write!(f, " {address:#x}/{size}")?;
    }
    if what.writes() {
        write!(f, " {value:#x}")?;
    }
    match answer {
        ExitAnswer::Done => Ok(()),
        ExitAnswer::Value(value) => write!(f, " -> {value:#x}"),
        ExitAnswer::GeneralProtection => f.write_str(" -> #GP"),
    }
}

/// A number of conditional branches.
struct Branches(u64);

impl fmt::Display for Branches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} branch{}", self.0, if self.0 == 1 { "" } else { "es" })
    }
}

/// A type of disk request by name (virtio 1.2, 5.2.6).
struct Request(u32);

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("read"),
            1 => f.write_str("write"),
            4 => f.write_str("flush"),
            8 => f.write_str("get-id"),
            11 => f.write_str("discard"),
            13 => f.write_str("write-zeroes"),
            other => write!(f, "request {other}"),
        }
    }
}

fn digest(f: &mut fmt::Formatter<'_>, full: Option<&FullDigest>) -> fmt::Result {
    match full {
        None => Ok(()),
        Some(FullDigest { cpu, ram, devices, guest_time }) => {
            write!(f, " cpu {cpu:016x} ram {ram:032x} devices {devices:016x} at {}", Seconds(*guest_time))
        }
    }
}

/// Nanoseconds, shown as seconds.
struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}s", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

/// Bytes of an instruction.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("not readable");
        }
        for (at, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02x}", if at == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Position;

    #[test]
    fn a_line_stays_a_line() {
        let line = |body| Event::new(Position::exit(1), body).to_string();
        let text = line(Body::ConsoleInput { bytes: b"a\"\r\n\x1b[0m\xff".repeat(20) });
        assert!(text.ends_with("...") && text.contains("180 bytes \"a\\\"\\r\\n\\x1b[0m\\xff"), "{text}");
        assert_eq!(
            line(Body::ConsoleInput { bytes: vec![3] }),
            r#"exit:1           console-input 1 byte "\x03""#
        );
        let name = line(Body::Bookmark { name: "a\nb\u{1b}".to_owned() });
        assert_eq!(name, r#"exit:1           bookmark      "a\nb\u{1b}""#);
        let branch = |seed, wall_clock| Body::Branch { seed, wall_clock }.to_string();
        let seed = format!("seed {}", "5c".repeat(32));
        assert_eq!(branch(Some([0x5c; 32]), None), seed);
        assert_eq!(branch(Some([0x5c; 32]), Some(7)), seed + ", wall clock 7 s since 1970");
        assert_eq!(branch(None, Some(0)), "wall clock 0 s since 1970");
    }

    #[test]
    fn crashes_are_named_with_their_registers() {
        let cause = EndCause::TripleFault {
            rip: 0xfff0,
            bytes: vec![0x0f, 0x0b],
            last_exit: Box::new(crate::GeneralRegisters { rax: 0xabc, ..Default::default() }),
        };
        let text = cause.to_string();
        assert!(
            text.starts_with("triple fault at 0xfff0 (0f 0b), at the last exit: rax abc rbx 0 "),
            "{text}"
        );
        let cause = EndCause::RefusedInstruction { rip: 16, bytes: vec![] };
        assert_eq!(cause.to_string(), "instruction refused at 0x10 (not readable)");
        assert_eq!(EndCause::Stopped { reason: StopReason::User }.to_string(), "stopped by the user");
    }
}
