//! `scribe-vmm timeline`: a recording as a picture, on one page for a browser.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use scribe_log::Recording;
use scribe_log::header::Engine as EngineName;

use super::exit::{self, Failure};
use super::guest::{self, EngineChoice};
use super::replay;
use crate::session::config::Moved;
use crate::session::files::DigestCache;
use crate::session::replay::Outcome;
use crate::session::start::ReplayConfig;
use crate::timeline::page::{page, shell_word};
use crate::timeline::{self, data::Progress};

/// Draw a recording along guest time, as one page for a browser
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  scribe-vmm timeline -o demo.html\n  \
                        scribe-vmm timeline demo-3 -o demo-3.html && xdg-open demo-3.html")]
pub(super) struct TimelineArgs {
    /// The recording: a directory, or a name below the recordings' home [default: the latest]
    #[arg(value_name = "DIR")]
    recording: Option<PathBuf>,
    /// The page; one that is there is replaced
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Where the recording's disk image lies now, if it was moved
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Where the kernel given with --kernel lies now, if it was moved
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Where the initrd given with --initrd lies now, if it was moved
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// What executes the guest; `auto` is the engine it was recorded on, if this host has it
    #[arg(long, value_enum, default_value_t = EngineChoice::Auto)]
    engine: EngineChoice,
    /// For a recording made on kvm: what the soft CPU does where the manuals leave it open, `zen` or `tcg` [default: as
    /// the processor it was recorded on]
    #[arg(long, value_name = "NAME")]
    behaviour: Option<String>,
    /// Show no progress and no report; only errors
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn run(args: TimelineArgs) -> Result<u8, Failure> {
    let store = guest::store()?;
    let directory = store.resolve(args.recording.as_deref())?;
    let recording = Recording::open(&directory).map_err(|error| Failure::new(exit::RECORDING, error))?;
    // Before the replay, which may take long: a page that cannot be written is found out about now.
    let output = Output::create(&args.output)?;
    let command = command(&args, &directory);
    let moved = Moved { image: args.image, kernel: args.kernel, initrd: args.initrd };
    let (engine, host) = args.engine.wish(recording.header().engine == EngineName::Kvm)?;
    let bar = bar(&recording, args.quiet);
    let shown = bar.clone();
    let progress: Progress = Box::new(move |exits| shown.set_position(exits));
    let config = ReplayConfig {
        directory: &directory,
        moved,
        engine,
        behaviour: args.behaviour,
        quiet: args.quiet,
        perturb: None,
    };
    let cache = DigestCache::new(store.home());
    let collected = timeline::collect(&config, &cache, &host, &guest::scratch(), progress);
    bar.finish_and_clear();
    let timeline = collected.map_err(replay::failure)?;
    if let Outcome::Interrupted(position) = &timeline.outcome {
        say!("stopped at {position}; no page was written");
        return Ok(exit::ERROR);
    }
    if let (Outcome::SealedEnd(position), false) = (&timeline.outcome, args.quiet) {
        say!("the recording was not closed: the page shows it to its last sealed position, {position}");
    }
    let page = page(timeline, &directory, &command).context("making the page")?;
    output.write(page.as_bytes())?;
    if !args.quiet {
        say!("wrote {} ({} bytes)", guest::show(&args.output), page.len());
    }
    Ok(0)
}

/// What replays the recording, up to where `--to` goes.
fn command(args: &TimelineArgs, directory: &Path) -> String {
    let path = |path: &Path| shell_word(&path.to_string_lossy());
    let mut out = String::from("scribe-vmm replay");
    for (option, file) in [("--image", &args.image), ("--kernel", &args.kernel), ("--initrd", &args.initrd)] {
        if let Some(file) = file {
            out += &format!(" {option} {}", path(file));
        }
    }
    out + " " + &path(args.recording.as_deref().unwrap_or(directory))
}

/// A bar on a terminal, else nothing. The recording's end says how far it is.
fn bar(recording: &Recording, quiet: bool) -> ProgressBar {
    let exits = recording.sealed_end().map_or(0, |(position, _)| position.exit);
    let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(exits), target);
    match ProgressStyle::with_template("scribe-vmm: replaying {bar:40} {percent}% exit:{pos}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
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
