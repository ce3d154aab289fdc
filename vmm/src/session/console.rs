//! The guest's console on our standard output.

use std::io::Write;

use super::SessionError;
use crate::host::events::Alarm;

/// Where console output goes. Written through a buffer, which is flushed at line ends, when the guest idles, and at the
/// end; and at each kick, for which an alarm is set when something is left in it: a guest that prints a character and
/// computes is seen to have.
pub struct Console {
    sink: Option<Box<dyn Write>>,
    buffer: Vec<u8>,
    alarm: Option<Alarm>,
}

impl Console {
    const FULL: usize = 4096;

    /// Output to `sink`.
    pub fn to(sink: Box<dyn Write>) -> Self {
        Self { sink: Some(sink), buffer: Vec::new(), alarm: None }
    }

    /// Output to nowhere.
    pub fn quiet() -> Self {
        Self { sink: None, buffer: Vec::new(), alarm: None }
    }

    /// From now on `alarm` is set when output waits in the buffer.
    pub fn set_alarm(&mut self, alarm: Option<Alarm>) {
        self.alarm = alarm;
    }

    /// Takes bytes the guest has sent.
    ///
    /// # Errors
    /// Standard output cannot be written. A reader that has gone away is no error: the guest goes on unseen.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        if self.sink.is_none() || bytes.is_empty() {
            return Ok(());
        }
        let first = self.buffer.is_empty();
        self.buffer.extend_from_slice(bytes);
        if bytes.contains(&b'\n') || self.buffer.len() >= Self::FULL {
            self.flush()?;
        } else if let (true, Some(alarm)) = (first, &self.alarm) {
            alarm.set();
        }
        Ok(())
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn flush(&mut self) -> Result<(), SessionError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let Some(sink) = &mut self.sink else { return Ok(()) };
        let written = sink.write_all(&self.buffer).and_then(|()| sink.flush());
        self.buffer.clear();
        match written {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                self.sink = None;
                Ok(())
            }
            Err(source) => {
                Err(SessionError::Io { what: "writing the guest's console to standard output", source })
            }
        }
    }
}
