//! `scribe-vmm log`: a recording's events, one a line.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use scribe_log::{Recording, State};

use super::exit::{self, Failure};
use super::guest;

/// Print a recording's events, one a line
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  scribe-vmm log\n  scribe-vmm log demo-3 | grep console-input")]
pub(super) struct LogArgs {
    /// The recording: a directory, or a name below the recordings' home [default: the latest]
    #[arg(value_name = "DIR")]
    recording: Option<PathBuf>,
}

pub(super) fn run(args: &LogArgs) -> Result<u8, Failure> {
    let corrupt = |error| Failure::new(exit::RECORDING, error);
    let directory = guest::store()?.resolve(args.recording.as_deref())?;
    let recording = Recording::open(&directory).map_err(corrupt)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for event in recording.events() {
        let event = event.map_err(corrupt)?;
        if writeln!(out, "{event}").is_err() {
            return Ok(0); // the reader has gone away
        }
    }
    if out.flush().is_ok() && recording.state() != State::Complete {
        say!("the recording is not closed: this is what is sealed");
    }
    Ok(0)
}
