//! `scribe-vmm run`: the machine without a log.

use clap::Args;

use super::exit::{self, Failure};
use super::guest::{self, GuestArgs, ShakeArgs};
use crate::session::start;

/// Run a guest without recording it
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  scribe-vmm run --image demo.img\n  \
                        scribe-vmm run --image demo.img --return -- sh -c 'exit 3'")]
pub(super) struct RunArgs {
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    shake: ShakeArgs,
    /// Write the disk's changes into the image when the guest has ended
    #[arg(long)]
    disk_commit: bool,
}

impl RunArgs {
    pub(super) fn error_code(&self) -> fn(u8) -> u8 {
        if self.guest.live.return_status { exit::under_return } else { |code| code }
    }
}

pub(super) fn run(args: RunArgs) -> Result<u8, Failure> {
    let return_status = args.guest.live.return_status;
    let mut prepared = args.guest.prepare(0)?;
    prepared.guest.chaos = args.shake.chaos;
    let mut console = guest::console(false);
    let report = start::run(
        &prepared.guest,
        &prepared.cache,
        prepared.connections,
        &guest::scratch(),
        &mut console,
        args.disk_commit,
    )?;
    guest::tell_end(&report);
    Ok(guest::exit_code(&report, return_status))
}
