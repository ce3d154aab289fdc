//! `scribe-vmm pack` and `scribe-vmm unpack`: a recording as one file.

use std::path::PathBuf;

use clap::Args;

use super::exit::{self, Failure};
use super::guest;
use super::recorded::RecordingArg;
use crate::pack::{self, PackError, PackOptions};
use crate::session::config::Moved;

/// Pack a recording into one file, to send or to keep
///
/// Wherever a recording is asked for, such a file can be named. With --image it holds everything that a replay needs.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  scribe-vmm pack -o bug.scribe\n  \
                        scribe-vmm pack demo-3 --image -o bug.scribe\n  \
                        scribe-vmm replay bug.scribe")]
pub(super) struct PackArgs {
    #[command(flatten)]
    recording: RecordingArg,
    /// The file
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Replace a file that is there
    #[arg(long)]
    overwrite: bool,
    /// Pack the disk image too, and kernel and initrd if they were given as files
    #[arg(long)]
    image: bool,
    /// Pack the snapshots too; the one that a branch starts from always is
    #[arg(long)]
    snapshots: bool,
    /// Where the recording's disk image lies now, if it was moved
    #[arg(long, value_name = "FILE")]
    image_at: Option<PathBuf>,
    /// Where the kernel given with --kernel lies now, if it was moved
    #[arg(long, value_name = "FILE")]
    kernel_at: Option<PathBuf>,
    /// Where the initrd given with --initrd lies now, if it was moved
    #[arg(long, value_name = "FILE")]
    initrd_at: Option<PathBuf>,
}

/// Unpack a packed recording into a directory
///
/// Only needed to change it: everything else takes the packed file itself.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  scribe-vmm unpack bug.scribe\n  scribe-vmm unpack bug.scribe -o bug")]
pub(super) struct UnpackArgs {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The new directory [default: FILE's name, with a number, below the recordings' home]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

pub(super) fn pack(args: &PackArgs) -> Result<u8, Failure> {
    let recording = args.recording.open()?;
    let options = PackOptions { image: args.image, snapshots: args.snapshots, overwrite: args.overwrite };
    let (image, kernel, initrd) = (args.image_at.clone(), args.kernel_at.clone(), args.initrd_at.clone());
    let moved = pack::beside(recording.dir(), Moved { image, kernel, initrd });
    let bytes = pack::pack(&recording, &moved, &args.output, options)?;
    say!("packed {} into {}: {bytes} bytes", guest::show(recording.dir()), guest::show(&args.output));
    Ok(0)
}

pub(super) fn unpack(args: &UnpackArgs) -> Result<u8, Failure> {
    let directory = match &args.output {
        Some(directory) => directory.clone(),
        None => {
            let reserved = guest::store()?.reserve(&args.file)?;
            // Only the name: the directory comes with the files in it.
            std::fs::remove_dir(&reserved).map_err(anyhow::Error::from)?;
            reserved
        }
    };
    pack::unpack(&args.file, &directory)?;
    say!("unpacked {}", guest::show(&directory));
    Ok(0)
}

impl From<PackError> for Failure {
    fn from(error: PackError) -> Self {
        Self::new(if error.is_damage() { exit::RECORDING } else { exit::ERROR }, error)
    }
}
