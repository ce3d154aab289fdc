//! `scribe-vmm timeline`: a recording as a picture, on one page for a browser.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use super::exit::{self, Failure};
use super::guest;
use super::progress::Progress;
use super::recorded::{self, PlayArgs, RecordingArg};
use crate::session::replay::{Outcome, Target};
use crate::timeline::collect;
use crate::timeline::page::{page, shell_word};

/// Draw a recording along guest time, as one page for a browser
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  scribe-vmm timeline -o demo.html\n  \
                        scribe-vmm timeline demo-3 -o demo-3.html && xdg-open demo-3.html")]
pub(super) struct TimelineArgs {
    #[command(flatten)]
    recording: RecordingArg,
    /// The page; one that is there is replaced
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    play: PlayArgs,
    /// Show no progress and no report; only errors
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn run(args: TimelineArgs) -> Result<u8, Failure> {
    let recording = args.recording.open()?;
    // Before the replay, which may take long: a page that cannot be written is found out about now.
    let output = Output::create(&args.output)?;
    let command = command(&args, recording.dir());
    let play = args.play.prepare(&recording)?;
    let mut player = play.player(&recording, args.quiet, None)?;
    let timeline = {
        let _progress = Progress::watch(player.shared(), &recording, Target::End, args.quiet);
        collect(&mut player).map_err(recorded::failure)?
    };
    match &timeline.outcome {
        Outcome::Complete(_) => {}
        Outcome::Interrupted(position) => {
            say!("stopped at {position}; no page was written");
            return Ok(exit::ERROR);
        }
        Outcome::SealedEnd(position) => {
            say!("the recording was not closed: the page shows it to its last sealed position, {position}");
        }
    }
    let page = page(timeline, recording.dir(), &command).context("making the page")?;
    output.write(page.as_bytes())?;
    if !args.quiet {
        say!("wrote {} ({} bytes)", guest::show(&args.output), page.len());
    }
    Ok(0)
}

/// What replays the recording, up to where `--to` goes.
fn command(args: &TimelineArgs, directory: &Path) -> String {
    let words = args.play.words().into_iter().chain([args.recording.path().unwrap_or(directory).into()]);
    let words: Vec<String> = words.map(|word: PathBuf| shell_word(&word.to_string_lossy())).collect();
    format!("scribe-vmm replay {}", words.join(" "))
}

/// The page's file, which has its name when it is whole.
struct Output<'a> {
    path: &'a Path,
    file: tempfile::NamedTempFile,
}

impl<'a> Output<'a> {
    fn create(path: &'a Path) -> Result<Self, Failure> {
        let cannot = || format!("{}: the page cannot be written there", guest::show(path));
        if path.is_dir() {
            let text = format!("{}: a directory; name a file with -o", guest::show(path));
            return Err(Failure::new(exit::ERROR, anyhow::Error::msg(text)));
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let file = tempfile::Builder::new()
            .prefix(".timeline-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)) // and what the umask leaves of it
            .tempfile_in(parent.unwrap_or(Path::new(".")))
            .with_context(cannot)?;
        Ok(Self { path, file })
    }

    fn write(mut self, bytes: &[u8]) -> Result<(), Failure> {
        let cannot = || format!("{}: writing the page", guest::show(self.path));
        self.file.write_all(bytes).with_context(cannot)?;
        self.file.persist(self.path).map_err(|error| error.error).with_context(cannot)?;
        Ok(())
    }
}
