//! A row as one line for scripts: a JSON object. docs/interface.md has its keys; they are only ever added.

use std::fmt::Display;

use scribe_log::{Body, DeviceInput, EndCause, ExitAnswer, ExitKind, FullDigest, Register, StopReason};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};

use super::decode::{request_name, request_status};
use super::row::Row;

/// Appends the line of `row`, with its line feed, to `out`.
pub fn line(out: &mut Vec<u8>, row: &Row) {
    // Every key is a string and every value can be written; writing to memory cannot fail.
    let _ = serde_json::to_writer(&mut *out, &Object(row));
    out.push(b'\n');
}

/// What prints, as a string.
struct Text<T>(T);

impl<T: Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// A number as a string of hexadecimal digits after `0x`: those of 64 bits are more than a JSON reader need hold.
fn hex<T: std::fmt::LowerHex>(value: T) -> Text<impl Display> {
    Text(std::fmt::from_fn(move |f| write!(f, "{value:#x}")))
}

/// A digest: all digits, no `0x`.
fn digest<T: std::fmt::LowerHex>(value: T, digits: usize) -> Text<impl Display> {
    Text(std::fmt::from_fn(move |f| write!(f, "{value:0digits$x}")))
}

/// Bytes: a string if they are UTF-8, else `{"hex":"..."}`, as in a recording's header.
struct Bytes<'a>(&'a [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Ok(text) = str::from_utf8(self.0) {
            return serializer.serialize_str(text);
        }
        let digits = std::fmt::from_fn(|f| self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}")));
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("hex", &Text(digits))?;
        map.end()
    }
}

struct Object<'a>(&'a Row<'a>);

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let row = self.0;
        let position = row.event.position;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("position", &Text(position))?;
        map.serialize_entry("exit", &position.exit)?;
        map.serialize_entry("branches", &position.branches)?;
        map.serialize_entry("steps", &position.steps)?;
        map.serialize_entry("time", &row.time)?;
        map.serialize_entry("vcpu", &row.event.vcpu)?;
        map.serialize_entry("device", row.device.name())?;
        map.serialize_entry("kind", row.event.body.name())?;
        details(&mut map, row)?;
        map.end()
    }
}

fn details<M: SerializeMap>(map: &mut M, row: &Row) -> Result<(), M::Error> {
    match &row.event.body {
        Body::ConsoleInput { bytes } | Body::ConsoleOutput { bytes } => {
            map.serialize_entry("bytes", &bytes.len())?;
            map.serialize_entry("data", &Bytes(bytes))
        }
        Body::Device { slot, input } => {
            map.serialize_entry("slot", slot)?;
            match input {
                DeviceInput::Frame(bytes) | DeviceInput::Entropy(bytes) | DeviceInput::Typed(bytes) => {
                    map.serialize_entry("bytes", &bytes.len())?;
                    map.serialize_entry("data", &Bytes(bytes))
                }
                DeviceInput::Link { up } => map.serialize_entry("up", up),
                DeviceInput::Resize { cols, rows } => {
                    map.serialize_entry("cols", cols)?;
                    map.serialize_entry("rows", rows)
                }
                DeviceInput::DiskFailed { operation, number, sector } => {
                    map.serialize_entry("operation", operation)?;
                    map.serialize_entry("number", number)?;
                    map.serialize_entry("sector", sector)
                }
            }
        }
        Body::Branch { seed, wall_clock } => {
            let seed = seed.map(|seed| seed.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
            map.serialize_entry("seed", &seed)?;
            map.serialize_entry("wall_clock", wall_clock)
        }
        Body::TimeAdjust { nanoseconds } => map.serialize_entry("nanoseconds", nanoseconds),
        Body::CapturePages(pages) => {
            map.serialize_entry("pages", &pages.frames.len())?;
            map.serialize_entry("bytes", &pages.stored.len())?;
            let addresses: Vec<String> =
                pages.frames.iter().map(|frame| format!("{:#x}", u128::from(*frame) * 4096)).collect();
            map.serialize_entry("addresses", &addresses)
        }
        Body::Capture(capture) => {
            map.serialize_entry("nanoseconds", &capture.nanoseconds)?;
            map.serialize_entry("interrupts", &capture.interrupts)?;
            map.serialize_entry("pages", &capture.pages)?;
            map.serialize_entry("bytes", &capture.bytes)
        }
        Body::Checkpoint { registers, full } => {
            map.serialize_entry("rolling", &digest(*registers, 16))?;
            full_digest(map, full.as_ref())
        }
        Body::Seal { registers, .. } => map.serialize_entry("rolling", &digest(*registers, 16)),
        Body::Bookmark { name } => {
            map.serialize_entry("name", name)?;
            map.serialize_entry("by", row.origin.name())
        }
        Body::Interrupt { vector, irq } => {
            map.serialize_entry("vector", vector)?;
            map.serialize_entry("irq", &(*irq != scribe_log::SPURIOUS).then_some(irq))
        }
        Body::State { registers, pages } => {
            map.serialize_entry("registers", &Registers(registers))?;
            map.serialize_entry("pages", &Pages(pages))
        }
        Body::Exit { .. } => exit(map, row),
        Body::DiskRequest { device, request, sector, bytes, status } => {
            map.serialize_entry("disk", device)?;
            match request_name(*request) {
                Some(name) => map.serialize_entry("request", name)?,
                None => map.serialize_entry("request", request)?,
            }
            map.serialize_entry("sector", sector)?;
            map.serialize_entry("bytes", bytes)?;
            match request_status(*status) {
                Some(name) => map.serialize_entry("status", name),
                None => map.serialize_entry("status", status),
            }
        }
        Body::End(end) => {
            cause(map, &end.cause)?;
            map.serialize_entry("rolling", &digest(end.registers, 16))?;
            full_digest(map, end.full.as_ref())?;
            map.serialize_entry("exits", &end.exits)?;
            map.serialize_entry("inputs", &end.inputs)
        }
    }
}

fn exit<M: SerializeMap>(map: &mut M, row: &Row) -> Result<(), M::Error> {
    let Body::Exit { what, address, size, value, answer, branches, steps } = &row.event.body else {
        return Ok(());
    };
    map.serialize_entry("access", what.name())?;
    if *what != ExitKind::Halt {
        map.serialize_entry("address", &hex(*address))?;
        map.serialize_entry("size", size)?;
    }
    if what.writes() {
        map.serialize_entry("value", &hex(*value))?;
    }
    match answer {
        ExitAnswer::Done => {}
        ExitAnswer::Value(value) => map.serialize_entry("answer", &hex(*value))?,
        ExitAnswer::GeneralProtection => map.serialize_entry("answer", "#GP")?,
    }
    if let Some(decoded) = &row.exit {
        if !decoded.register.is_empty() {
            map.serialize_entry("register", decoded.register)?;
        }
        if !decoded.meaning.is_empty() {
            map.serialize_entry("meaning", &Text(decoded.meaning))?;
        }
    }
    map.serialize_entry("after_branches", branches)?;
    map.serialize_entry("after_steps", steps)
}

struct Registers<'a>(&'a [Register]);

impl Serialize for Registers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for register in self.0 {
            map.serialize_entry(&register.name, &hex(register.value))?;
        }
        map.end()
    }
}

struct Pages<'a>(&'a [(u64, u64)]);

impl Serialize for Pages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for (frame, hash) in self.0 {
            list.serialize_element(&Page(*frame, *hash))?;
        }
        list.end()
    }
}

struct Page(u64, u64);

impl Serialize for Page {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("address", &hex(u128::from(self.0) * 4096))?;
        map.serialize_entry("hash", &digest(self.1, 16))?;
        map.end()
    }
}

fn full_digest<M: SerializeMap>(map: &mut M, full: Option<&FullDigest>) -> Result<(), M::Error> {
    let Some(FullDigest { cpu, ram, devices, .. }) = full else { return Ok(()) };
    map.serialize_entry("cpu", &digest(*cpu, 16))?;
    map.serialize_entry("ram", &digest(*ram, 32))?;
    map.serialize_entry("devices", &digest(*devices, 16))
}

fn cause<M: SerializeMap>(map: &mut M, cause: &EndCause) -> Result<(), M::Error> {
    let name = match cause {
        EndCause::PowerOff { .. } => "power-off",
        EndCause::Reset => "reset",
        EndCause::Panic { .. } => "panic",
        EndCause::TripleFault { .. } => "triple-fault",
        EndCause::RefusedInstruction { .. } => "refused-instruction",
        EndCause::HaltedForever => "halted-forever",
        EndCause::Stopped { .. } => "stopped",
    };
    map.serialize_entry("cause", name)?;
    match cause {
        EndCause::PowerOff { status } => map.serialize_entry("status", status),
        EndCause::Panic { message } => map.serialize_entry("message", message),
        EndCause::TripleFault { rip, bytes, last_exit } => {
            instruction(map, *rip, bytes)?;
            let registers: Vec<Register> =
                last_exit.named().iter().map(|(name, value)| Register::u64(name, *value)).collect();
            map.serialize_entry("registers", &Registers(&registers))
        }
        EndCause::RefusedInstruction { rip, bytes } => instruction(map, *rip, bytes),
        EndCause::Stopped { reason } => map.serialize_entry(
            "by",
            match reason {
                StopReason::User => "user",
                StopReason::HostTime => "host-time",
                StopReason::GuestTime => "guest-time",
                StopReason::Silence => "silence",
                StopReason::Signal => "signal",
            },
        ),
        EndCause::Reset | EndCause::HaltedForever => Ok(()),
    }
}

fn instruction<M: SerializeMap>(map: &mut M, rip: u64, bytes: &[u8]) -> Result<(), M::Error> {
    map.serialize_entry("rip", &hex(rip))?;
    let digits = std::fmt::from_fn(|f| bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")));
    map.serialize_entry("instruction", &Text(digits))
}
