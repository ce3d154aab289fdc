//! The ports through which a co-operating guest talks to the machine: `docs/guest-interface.md`.
//!
//! Offsets are relative to [`BASE`]. What the guest asks of the machine comes back from a write as a
//! [`GuestRequest`]; whether a clock page lies in RAM is for the machine to find out.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::snapshot::{RestoreError, Snapshot, require};

mod clock_page;
#[cfg(test)]
mod tests;

pub use clock_page::{CLOCK_PAGE_BYTES, ClockPage};

/// First port.
pub const BASE: u16 = 0x5c0;
/// Number of ports.
pub const SIZE: u16 = 0x30;
/// What MAGIC reads: `SCRB` in memory order.
pub const MAGIC: u32 = 0x4252_4353;
/// What VERSION reads.
pub const INTERFACE_VERSION: u32 = 1;
/// Longest command, NULs included.
pub const COMMAND_MAX: usize = 64 * 1024;
/// Bytes of the message buffer.
pub const MESSAGE_MAX: usize = 4096;
/// Longest name of a bookmark, in bytes of UTF-8.
pub const BOOKMARK_NAME_MAX: usize = 64;

const MAGIC_OFFSET: u16 = 0x00;
const VERSION: u16 = 0x04;
const TIME_LO: u16 = 0x08;
const TIME_HI: u16 = 0x0c;
const CLOCK_PAGE: u16 = 0x10;
const STATUS: u16 = 0x14;
const POWER_OFF: u16 = 0x18;
const SYNC: u16 = 0x1c;
const DATA: u16 = 0x20;
const SELECT: u16 = 0x24;
const BOOKMARK: u16 = 0x28;
const PANIC: u16 = 0x2c;

/// The command's stream number; 0 and all others are empty streams.
const STREAM_COMMAND: u32 = 1;

/// What a write asks of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestRequest {
    /// Keep guest time in this page frame; `None`: in no page.
    ClockPage(Option<u32>),
    /// The guest's command has ended with this status. The machine goes on.
    Status(u8),
    /// The machine ends here.
    PowerOff {
        /// Status of the guest's command, 0 if it never gave one.
        status: u8,
    },
    /// The exit is a sync point that the guest asked for.
    Sync,
    /// Set a bookmark of this name, which is at most [`BOOKMARK_NAME_MAX`] bytes, without control characters, and
    /// may be empty.
    Bookmark(String),
    /// The kernel panicked with this text; the machine ends here.
    Panic(String),
}

/// The command does not fit the interface.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the guest's command is {length} bytes long, more than {COMMAND_MAX}")]
pub struct CommandTooLong {
    /// Its length, NULs included.
    pub length: usize,
}

/// The guest interface.
#[derive(Clone, Debug)]
pub struct GuestInterface {
    state: GuestInterfaceState,
}

/// State of [`GuestInterface`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestInterfaceState {
    /// The command's bytes. Part of the configuration: a state with another command is refused.
    pub command: Vec<u8>,
    /// High half of guest time as latched by TIME_LO.
    pub time_high: u32,
    /// CLOCK_PAGE as last written.
    pub clock_page: u32,
    /// STATUS as last written.
    pub status: u32,
    /// The selected stream.
    pub stream: u32,
    /// Bytes already read from it.
    pub read: u32,
    /// The message buffer.
    pub message: Vec<u8>,
}

impl GuestInterface {
    /// The interface with a command: CMD and each ARG, each followed by a NUL, or empty for none.
    ///
    /// # Errors
    /// [`CommandTooLong`] if it is longer than [`COMMAND_MAX`].
    pub fn new(command: Vec<u8>) -> Result<Self, CommandTooLong> {
        if command.len() > COMMAND_MAX {
            return Err(CommandTooLong { length: command.len() });
        }
        Ok(GuestInterface {
            state: GuestInterfaceState {
                command,
                time_high: 0,
                clock_page: 0,
                status: 0,
                stream: 0,
                read: 0,
                message: Vec::new(),
            },
        })
    }

    /// Reads `size` bytes at `offset`; the value is in the low bytes, and an access that the interface does not
    /// have reads all ones of that size.
    pub fn read(&mut self, offset: u16, size: u8, now: u64) -> u32 {
        let ones = match size {
            1 => 0xff,
            2 => 0xffff,
            _ => u32::MAX,
        };
        if !is_access(offset, size) {
            return ones;
        }
        match offset {
            MAGIC_OFFSET => MAGIC,
            VERSION => INTERFACE_VERSION,
            TIME_LO => {
                self.state.time_high = (now >> 32 & 0xffff_ffff) as u32;
                (now & 0xffff_ffff) as u32
            }
            TIME_HI => self.state.time_high,
            CLOCK_PAGE => self.state.clock_page,
            STATUS => self.state.status,
            DATA => self.read_stream(size),
            SELECT => u32::try_from(self.rest_of_stream().len()).unwrap_or(u32::MAX),
            _ => ones,
        }
    }

    /// Writes `size` bytes at `offset`. An access that the interface does not have is ignored.
    pub fn write(&mut self, offset: u16, size: u8, value: u32, _now: u64) -> Option<GuestRequest> {
        if !is_access(offset, size) {
            return None;
        }
        match offset {
            CLOCK_PAGE => {
                self.state.clock_page = value;
                Some(GuestRequest::ClockPage((value != 0).then_some(value)))
            }
            STATUS => {
                self.state.status = value;
                Some(GuestRequest::Status(self.status()))
            }
            POWER_OFF => Some(GuestRequest::PowerOff { status: self.status() }),
            SYNC => Some(GuestRequest::Sync),
            DATA => {
                let room = MESSAGE_MAX.saturating_sub(self.state.message.len());
                let bytes = value.to_le_bytes();
                self.state.message.extend(bytes.iter().take(usize::from(size).min(room)));
                None
            }
            SELECT => {
                self.state.stream = value;
                self.state.read = 0;
                None
            }
            BOOKMARK => Some(GuestRequest::Bookmark(bookmark_name(&std::mem::take(&mut self.state.message)))),
            PANIC => Some(GuestRequest::Panic(String::from_utf8_lossy(&self.state.message).into_owned())),
            _ => None,
        }
    }

    fn status(&self) -> u8 {
        self.state.status.to_le_bytes()[0]
    }

    fn rest_of_stream(&self) -> &[u8] {
        let stream: &[u8] = if self.state.stream == STREAM_COMMAND { &self.state.command } else { &[] };
        usize::try_from(self.state.read).ok().and_then(|read| stream.get(read..)).unwrap_or(&[])
    }

    fn read_stream(&mut self, size: u8) -> u32 {
        let mut bytes = [0; 4];
        let mut read = 0;
        for (byte, next) in bytes.iter_mut().zip(self.rest_of_stream()).take(usize::from(size)) {
            *byte = *next;
            read += 1;
        }
        self.state.read = self.state.read.saturating_add(read);
        u32::from_le_bytes(bytes)
    }
}

/// Registers take aligned accesses of four bytes; DATA also takes one or two.
fn is_access(offset: u16, size: u8) -> bool {
    match size {
        4 => offset < SIZE && offset.is_multiple_of(4),
        1 | 2 => offset == DATA,
        _ => false,
    }
}

/// Invalid UTF-8 and control characters become U+FFFD; a character that the limit would split is left out.
fn bookmark_name(message: &[u8]) -> String {
    let mut name = String::new();
    for character in String::from_utf8_lossy(message).chars() {
        let character = if character.is_control() { char::REPLACEMENT_CHARACTER } else { character };
        if name.len() + character.len_utf8() > BOOKMARK_NAME_MAX {
            break;
        }
        name.push(character);
    }
    name
}

/// The start of a command, for a message.
fn shown(command: &[u8]) -> String {
    let start = command.get(..80).unwrap_or(command);
    format!("{:?}", String::from_utf8_lossy(start).replace('\0', " "))
}

impl Snapshot for GuestInterface {
    const KIND: &'static str = "guest-interface";
    const VERSION: u16 = 1;
    type State = GuestInterfaceState;

    fn save(&self) -> GuestInterfaceState {
        self.state.clone()
    }

    fn restore(&mut self, state: GuestInterfaceState) -> Result<(), RestoreError> {
        if state.command != self.state.command {
            return Err(RestoreError::Configuration {
                device: Self::KIND,
                field: "command",
                saved: shown(&state.command),
                configured: shown(&self.state.command),
            });
        }
        let message = state.message.len();
        require(message <= MESSAGE_MAX, Self::KIND, "length of the message", message, "at most 4096")?;
        let stream = if state.stream == STREAM_COMMAND { state.command.len() } else { 0 };
        let read = usize::try_from(state.read).unwrap_or(usize::MAX);
        require(read <= stream, Self::KIND, "bytes read", read, "within the selected stream")?;
        self.state = state;
        Ok(())
    }
}
