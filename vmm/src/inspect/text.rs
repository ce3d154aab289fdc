//! A row as one line for people: position, guest time, vCPU, device, kind, details.

use std::io::{self, Write};

use scribe_log::{Body, BookmarkOrigin, MAX_DATA, Position, Register};

use super::decode::{Device, Quoted, Request};
use super::row::Row;

/// Most console bytes shown of one event.
const SHOWN: usize = 256;
/// Most pages named of one state.
const PAGES: usize = 4;

const _: () = assert!(SHOWN < MAX_DATA);

/// Columns, in characters. What is longer than its column moves the rest of its line.
const POSITION: usize = 22;
const TIME: usize = 15;
const DEVICE: usize = 8;
const KIND: usize = 14;

/// Appends the line of `row`, with its line feed, to `out`.
pub fn line(out: &mut Vec<u8>, row: &Row) {
    // Writing to memory cannot fail.
    let (position, vcpu, kind) = (row.event.position, row.event.vcpu, row.event.body.name());
    let _ = columns(out, position, row.time, vcpu, row.device, kind).and_then(|()| details(out, row));
    out.push(b'\n');
}

/// Everything before the details.
pub(super) fn columns(
    out: &mut Vec<u8>,
    position: Position,
    time: Option<u64>,
    vcpu: u32,
    device: Device,
    kind: &str,
) -> io::Result<()> {
    let start = out.len();
    write!(out, "exit:{}", position.exit)?;
    if !position.is_exit() {
        write!(out, "+{}", position.branches)?;
    }
    if position.steps != 0 {
        write!(out, "+{}", position.steps)?;
    }
    pad(out, start + POSITION);
    match time {
        Some(time) => write!(out, "{:>5}.{:09}", time / 1_000_000_000, time % 1_000_000_000)?,
        None => {
            pad(out, start + POSITION + TIME - 1);
            out.extend_from_slice(b"-");
        }
    }
    write!(out, " {vcpu:>2} ")?;
    for (name, width) in [(device.name(), DEVICE), (kind, KIND)] {
        let start = out.len();
        out.extend_from_slice(name.as_bytes());
        pad(out, start + width);
        out.push(b' ');
    }
    Ok(())
}

/// Spaces up to `length`.
fn pad(out: &mut Vec<u8>, length: usize) {
    if out.len() < length {
        out.resize(length, b' ');
    }
}

fn details(out: &mut Vec<u8>, row: &Row) -> io::Result<()> {
    match &row.event.body {
        Body::ConsoleInput { bytes } | Body::ConsoleOutput { bytes } => text(out, bytes),
        Body::Bookmark { name } => {
            write!(out, "{}", Quoted(name.as_bytes()))?;
            let by = match row.origin {
                BookmarkOrigin::Guest => "",
                BookmarkOrigin::Key => ", set by a key",
                BookmarkOrigin::Signal => ", set by a signal",
                BookmarkOrigin::Every => ", set as time passed",
                BookmarkOrigin::Added => ", added later",
            };
            out.write_all(by.as_bytes())
        }
        Body::State { registers, pages } => state(out, registers, pages),
        Body::Exit { branches, steps, .. } => {
            match &row.exit {
                Some(decoded) => write!(out, "{decoded}")?,
                None => return write!(out, "{}", row.event.body),
            }
            match (branches, steps) {
                (0, 0) => Ok(()),
                (branches, 0) => write!(out, " (+{branches})"),
                (branches, steps) => write!(out, " (+{branches}+{steps})"),
            }
        }
        Body::DiskRequest { device, request, sector, bytes, status } => {
            if *device != 0 {
                write!(out, "disk {device}: ")?;
            }
            let (kind, sector, bytes, status) = (*request, *sector, *bytes, *status);
            write!(out, "{}", Request { kind, sector, bytes, status })
        }
        other => write!(out, "{other}"),
    }
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) -> io::Result<()> {
    let plural = if bytes.len() == 1 { "" } else { "s" };
    let rest = if bytes.len() > SHOWN { "..." } else { "" };
    write!(out, "{} byte{plural} {}{rest}", bytes.len(), Quoted(&bytes[..bytes.len().min(SHOWN)]))
}

/// Where the processor is, how many registers there are, and the first pages.
fn state(out: &mut Vec<u8>, registers: &[Register], pages: &[(u64, u64)]) -> io::Result<()> {
    for name in ["rip", "rsp", "cr3"] {
        if let Some(register) = registers.iter().find(|register| register.name == name) {
            write!(out, "{name}={:#x} ", register.value)?;
        }
    }
    let plural = if pages.len() == 1 { "" } else { "s" };
    write!(out, "{} registers, {} page{plural} changed", registers.len(), pages.len())?;
    for (number, (frame, _)) in pages.iter().take(PAGES).enumerate() {
        let mark = if number == 0 { ':' } else { ',' };
        write!(out, "{mark} {:#x}", u128::from(*frame) * 4096)?;
    }
    if pages.len() > PAGES { write!(out, ", ...") } else { Ok(()) }
}
