//! Events as lines for people.

use std::fmt;

use crate::event::{Body, End, EndCause, Event, FullDigest, StopReason};

/// Most console bytes shown of one event.
const SHOWN: usize = 64;

/// One line: position, kind, details.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<16} ", self.position)?;
        if self.vcpu != 0 {
            write!(f, "vcpu:{} ", self.vcpu)?;
        }
        write!(f, "{:<13} {}", self.body.name(), self.body)
    }
}

/// The details, without position and kind.
impl fmt::Display for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Body::ConsoleInput { bytes } => {
                let plural = if bytes.len() == 1 { "" } else { "s" };
                write!(
                    f,
                    "{} byte{plural} \"{}\"",
                    bytes.len(),
                    bytes[..bytes.len().min(SHOWN)].escape_ascii()
                )?;
                if bytes.len() > SHOWN {
                    f.write_str("...")
                } else {
                    Ok(())
                }
            }
            Body::TimeAdjust { nanoseconds } => write!(f, "+{}", Seconds(*nanoseconds)),
            Body::Checkpoint { registers, full } => {
                write!(f, "registers {registers:016x}")?;
                digest(f, full.as_ref())
            }
            Body::Seal {
                registers,
                guest_time,
            } => {
                write!(f, "registers {registers:016x} at {}", Seconds(*guest_time))
            }
            Body::Bookmark { name } => write!(f, "{name:?}"),
            Body::Interrupt { vector, irq } => write!(f, "vector {vector:#04x} irq {irq}"),
            Body::End(end) => end.fmt(f),
        }
    }
}

/// Cause, totals, digests.
impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let End {
            cause,
            registers,
            full,
            exits,
            guest_time,
            inputs,
        } = self;
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
            EndCause::TripleFault {
                rip,
                bytes,
                last_exit,
            } => {
                write!(f, "triple fault at {rip:#x} ({}), at the last exit:", Hex(bytes))?;
                last_exit
                    .named()
                    .iter()
                    .try_for_each(|(name, value)| write!(f, " {name} {value:x}"))
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

fn digest(f: &mut fmt::Formatter<'_>, full: Option<&FullDigest>) -> fmt::Result {
    match full {
        None => Ok(()),
        Some(FullDigest {
            cpu,
            ram,
            devices,
            guest_time,
        }) => {
            write!(
                f,
                " cpu {cpu:016x} ram {ram:032x} devices {devices:016x} at {}",
                Seconds(*guest_time)
            )
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
