//! `scribe-vmm record`: run a guest and write down what is not determined.

use std::path::PathBuf;

use clap::Args;

use super::exit::{self, Failure};
use super::guest::{self, GuestArgs, RecorderArgs, ShakeArgs};
use crate::session::start::{self, StartError, Target};

/// Run a guest and record it
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  scribe-vmm record --image demo.img -- /bin/demo\n  \
                        scribe-vmm record --image demo.img -o bug -- sh -c 'for i in 1 2 3; do ./test || exit 1; done'\n  \
                        scribe-vmm record --image demo.img --input keys.txt --rtc 2026-01-01 --seed 00")]
pub(super) struct RecordArgs {
    #[command(flatten)]
    guest: GuestArgs,
    /// Directory of the recording [default: IMAGE-N below $SCRIBE_VMM_HOME or ~/.local/share/scribe-vmm]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Replace a recording that is already there
    #[arg(long)]
    overwrite: bool,
    /// Exits between two digests of RAM; 0: one at the end only
    #[arg(long, value_name = "N", default_value_t = 65_536)]
    digest_every: u64,
    #[command(flatten)]
    recorder: RecorderArgs,
    #[command(flatten)]
    shake: ShakeArgs,
    /// Refused: a changed image could not be replayed
    #[arg(long, hide = true)]
    disk_commit: bool,
}

impl RecordArgs {
    pub(super) fn error_code(&self) -> fn(u8) -> u8 {
        if self.guest.live.return_status { exit::under_return } else { |code| code }
    }
}

pub(super) fn run(args: RecordArgs) -> Result<u8, Failure> {
    if args.disk_commit {
        let text = "--disk-commit would change the image that the recording needs; commit with run";
        return Err(Failure::new(exit::USAGE, anyhow::Error::msg(text)));
    }
    let return_status = args.guest.live.return_status;
    let mut prepared = args.guest.prepare(args.digest_every)?;
    prepared.guest.chaos = args.shake.chaos;
    let name = prepared.guest.image.clone().or_else(|| prepared.guest.kernel.clone()).unwrap_or_default();
    let reserved = args.output.is_none();
    let (directory, overwrite) = match args.output {
        Some(directory) => (directory, args.overwrite),
        None => (prepared.store.reserve(&name)?, true),
    };
    let noting = args.recorder.noting();
    let target = Target { directory: &directory, overwrite, store: Some(&prepared.store), noting };
    let mut console = guest::console(false);
    let (host, connections) = (prepared.host, prepared.connections);
    let recorded = start::record(&prepared.guest, &prepared.cache, host, connections, &target, &mut console);
    let report = recorded.inspect_err(|error| {
        if reserved {
            // Made for a recording that never began; only an empty directory goes.
            let _ = std::fs::remove_dir(&directory);
        }
        if matches!(error, StartError::Session(_)) && directory.exists() {
            say!("what was sealed before is kept in {}", guest::show(&directory));
        }
    })?;
    guest::tell_end(&report);
    if let Some(summary) = &report.recorded {
        guest::tell_recorded(&directory, summary);
        guest::tell_captures(&report);
    }
    if std::env::var_os("SCRIBE_VMM_STATS").is_some() {
        say!("{} bytes hashed, {} kicks", report.bytes_hashed, report.kicks);
        if let Some(instructions) = report.instructions {
            say!("{instructions} instructions");
        }
    }
    Ok(guest::exit_code(&report, return_status))
}
