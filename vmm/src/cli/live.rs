//! `scribe-vmm live`: leave a recording and go on as a normal machine.

use std::path::PathBuf;

use clap::Args;
use scribe_log::{Body, EndCause, Event, Recording, Writer};

use super::exit::{self, Failure};
use super::guest::{self, LiveArgs, RecorderArgs, ShakeArgs};
use super::parse;
use super::progress::Progress;
use super::recorded::{self, PlayArgs, RecordingArg};
use super::seek;
use crate::host::{clock, entropy};
use crate::session::branch::{self, Branch};
use crate::session::place::Where;
use crate::session::player::{Player, Stay};
use crate::session::replay::{Outcome, Target as Goal, describe};
use crate::session::start::{StartError, Target};

/// Leave a recording and go on as a normal machine
///
/// The guest is brought to a place in the recording and takes its console, network and clock from the host from there on.
/// Guest time goes on without a jump; the guest's wall clock stays what it was in the recording. The recording is not
/// changed. With -o the branch is recorded too: that recording names its parent and replays without it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  scribe-vmm live bug --from before-crash\n  \
                        scribe-vmm live bug --from exit:34000 -o try-1\n  \
                        scribe-vmm live --from 2.5s --reseed --rtc host")]
pub(super) struct LiveCommand {
    #[command(flatten)]
    recording: RecordingArg,
    /// The place: a bookmark, exit:N, a guest time such as 2.5s
    #[arg(long, value_name = "WHERE")]
    from: Where,
    #[command(flatten)]
    branch: BranchArgs,
    #[command(flatten)]
    play: PlayArgs,
    /// Do not show what the guest prints on its way to the place
    #[arg(short, long)]
    quiet: bool,
}

/// How a branch differs from its parent, and where it is recorded.
#[derive(Debug, Args)]
pub(super) struct BranchArgs {
    /// Record the branch in this directory
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Replace a recording that is already there
    #[arg(long, requires = "output")]
    overwrite: bool,
    /// Give the guest fresh entropy; without it the guest's random numbers are those of the recording
    #[arg(long)]
    reseed: bool,
    /// Move the guest's wall clock to the host's time or to a UTC time [default: it goes on from the recording's]
    #[arg(long, value_name = "host|TIME", value_parser = parse::rtc)]
    rtc: Option<parse::Rtc>,
    #[command(flatten)]
    recorder: RecorderArgs,
    #[command(flatten)]
    shake: ShakeArgs,
    #[command(flatten)]
    live: LiveArgs,
}

impl BranchArgs {
    /// True if nothing was asked for.
    pub(super) fn is_default(&self) -> bool {
        self.output.is_none()
            && !self.reseed
            && self.rtc.is_none()
            && self.shake.chaos.is_none()
            && self.recorder == RecorderArgs::default()
            && self.live == LiveArgs::default()
    }

    /// Where the network's frames are to be written; it is then not asked for any more.
    pub(super) fn take_net_capture(&mut self) -> Option<PathBuf> {
        self.live.net_capture.take()
    }

    /// Finds what is in the way of going live before the guest is brought to its place, which may take long.
    pub(super) fn check_early(&self) -> Result<(), Failure> {
        if let Some(directory) = &self.output {
            Writer::check(directory, self.overwrite).map_err(StartError::from)?;
        }
        self.live.connect().map(drop)
    }

    /// Refuses options of a branch where there is none.
    pub(super) fn check(&self, fine: bool) -> Result<(), Failure> {
        if fine {
            return Ok(());
        }
        let text = "-o, --reseed, --rtc and --chaos say what a live guest is to do; add --live, or use scribe-vmm live";
        Err(Failure::new(exit::USAGE, anyhow::Error::msg(text)))
    }
}

pub(super) fn run(args: LiveCommand) -> Result<u8, Failure> {
    let recording = args.recording.open()?;
    args.branch.check_early()?;
    let target = target(&args.from, &recording)?;
    let play = args.play.prepare(&recording)?;
    let mut player = play.player(&recording, args.quiet, Some(target))?;
    let mut console = guest::console(args.quiet);
    let stay = {
        let _progress = Progress::watch(player.shared(), &recording, target, !args.quiet);
        player.run(target, &mut console).map_err(recorded::failure)?
    };
    match stay {
        Stay::Ended(outcome) => Err(refused(&outcome, "--from")),
        Stay::Paused | Stay::Leaving => leave(player, args.branch),
    }
}

/// The target of a replay whose guest is to go live at `place`: at the end of a recording that was stopped, or whose
/// recorder was, the guest still lives.
pub(super) fn target(place: &Where, recording: &Recording) -> Result<Goal, Failure> {
    match (place, recording.last()) {
        (Where::End, Some(Event { position, body: Body::End(end), .. }))
            if matches!(end.cause, EndCause::Stopped { .. }) =>
        {
            Ok(Goal::Position(*position))
        }
        _ => seek::target(place, recording),
    }
}

/// Why there is no guest to go live; `option` says where it was to.
pub(super) fn refused(outcome: &Outcome, option: &str) -> Failure {
    let text = match outcome {
        Outcome::Complete(end) => {
            let how = describe(&end.cause);
            format!("the guest cannot go live where it has ended: it {how} ({option} an earlier place)")
        }
        Outcome::SealedEnd(position) => format!(
            "the recording was not closed and ends before that place; {option} end, or {option} {position}, goes live \
             where it ends"
        ),
        Outcome::Interrupted(position) => format!("stopped at {position}, before the place was found"),
    };
    Failure::new(exit::ERROR, anyhow::Error::msg(text))
}

/// The player's machine goes live where it is. From here on its console is seen, whatever was shown on the way.
pub(super) fn leave(player: Player, args: BranchArgs) -> Result<u8, Failure> {
    let mut console = guest::console(false);
    args.live.check_time(player.machine().guest_time())?;
    let return_status = args.live.return_status;
    let (connections, pace) = args.live.connect()?;
    let reseed = args
        .reseed
        .then(entropy::seed)
        .transpose()
        .map_err(|error| Failure::new(exit::ERROR, anyhow::Error::new(error).context("/dev/urandom")))?;
    let wall_clock = args.rtc.map(|rtc| match rtc {
        parse::Rtc::Host => clock::unix_seconds(),
        parse::Rtc::At(seconds) => seconds,
    });
    let store = guest::store()?;
    let target = args.output.as_ref().map(|directory| Target {
        directory,
        overwrite: args.overwrite,
        store: Some(&store),
        noting: args.recorder.noting(),
    });
    let branch = Branch { connections, pace, reseed, wall_clock, chaos: args.shake.chaos, target };
    say!("live from {}", super::replay::here(&player));
    let report = branch::live(player, branch, &mut console)?;
    guest::tell_end(&report);
    if let (Some(summary), Some(directory)) = (&report.recorded, &args.output) {
        guest::tell_recorded(directory, summary);
        guest::tell_captures(&report);
    }
    Ok(guest::exit_code(&report, return_status))
}
