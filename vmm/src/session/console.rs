//! The guest's console on our standard output.

use std::io::Write;

use super::SessionError;

/// Where console output goes. Written through a buffer, which is flushed at line ends, when the guest idles, and at the
/// end.
pub struct Console {
    sink: Option<Box<dyn Write>>,
    buffer: Vec<u8>,
}

impl Console {
    const FULL: usize = 4096;

    /// Output to `sink`.
    pub fn to(sink: Box<dyn Write>) -> Self {
        Self { sink: Some(sink), buffer: Vec::new() }
    }

    /// Output to nowhere.
    pub fn quiet() -> Self {
        Self { sink: None, buffer: Vec::new() }
    }

    /// Takes bytes the guest has sent.
    ///
    /// # Errors
    /// Standard output cannot be written. A reader that has gone away is no error: the guest goes on unseen.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        if self.sink.is_none() || bytes.is_empty() {
            return Ok(());
        }
        self.buffer.extend_from_slice(bytes);
        if bytes.contains(&b'\n') || self.buffer.len() >= Self::FULL {
            self.flush()?;
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
