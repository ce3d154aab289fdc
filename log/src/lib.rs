//! The recording: its format, reader, writer and index.
