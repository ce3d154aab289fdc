//! `scribe-vmm replay`: run a recorded guest again, bit for bit.

use clap::Args;

use super::exit::{self, Failure};
use super::guest;
use super::live::{self, BranchArgs};
use super::progress::Progress;
use super::recorded::{self, PlayArgs, RecordingArg};
use crate::session::drive::Phase;
use crate::session::place::{Where, seconds};
use crate::session::player::{Player, Stay};
use crate::session::replay::{Outcome, Target, describe};

/// Run a recorded guest again, bit for bit
///
/// To the recording's end, where everything is compared, or to a place in it. SIGUSR1 lets the guest go live at the next
/// sync point.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  scribe-vmm replay\n  scribe-vmm replay demo-3\n  \
                        scribe-vmm replay --quiet bug && echo same\n  \
                        scribe-vmm replay bug --to before-crash\n  \
                        scribe-vmm replay bug --to 2.5s --live -o try-1")]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    recording: RecordingArg,
    /// Stop at this place: a bookmark, exit:N, a guest time such as 2.5s, or end
    #[arg(long, value_name = "WHERE")]
    to: Option<Where>,
    /// Let the guest go live there, as `scribe-vmm live` does
    #[arg(long, requires = "to")]
    live: bool,
    #[command(flatten)]
    branch: BranchArgs,
    #[command(flatten)]
    play: PlayArgs,
    /// Print neither the guest's console nor a report; only errors
    #[arg(short, long)]
    quiet: bool,
    /// Also execute the way to each captured sync point, with --engine soft, and say where it is met
    #[arg(long)]
    confirm_captures: bool,
    /// Print the digest of the guest's whole state where the replay stops
    #[arg(long)]
    digest: bool,
}

pub(super) fn run(mut args: ReplayArgs) -> Result<u8, Failure> {
    let recording = args.recording.open()?;
    // Of a guest that goes live, the capture is of its life.
    let capture = if args.live { None } else { args.branch.take_net_capture() };
    args.branch.check(args.live || args.branch.is_default())?;
    if args.live {
        args.branch.check_early()?;
    }
    let find = if args.live { live::target } else { recorded::target };
    let target = args.to.as_ref().map(|place| find(place, &recording)).transpose()?;
    let play = args.play.prepare(&recording)?;
    let mut player = play.player(&recording, args.quiet, target)?;
    if let Some(path) = &capture {
        player.machine_mut().observe(Box::new(guest::capture(path)?));
    }
    if args.confirm_captures {
        player.confirm_captures()?;
    }
    let mut console = guest::console(args.quiet);
    let goal = target.unwrap_or(Target::End);
    let stay = {
        let _progress = Progress::watch(player.shared(), &recording, goal, !args.quiet);
        player.run(goal, &mut console).map_err(recorded::failure)?
    };
    if let Some((confirmed, all)) = player.confirmed() {
        say!("{confirmed} of {all} captured sync points confirmed");
    }
    if args.digest {
        say!("{}", digest(&mut player)?);
    }
    match stay {
        Stay::Ended(ref outcome) if args.live => Err(live::refused(outcome, "--to")),
        Stay::Ended(outcome) => Ok(report(&player, &outcome, args.quiet)),
        Stay::Paused if !args.live => {
            if !args.quiet {
                say!("paused at {}", here(&player));
            }
            Ok(0)
        }
        Stay::Paused | Stay::Leaving => live::leave(player, args.branch),
    }
}

/// What there is to say of a replay that has come to the end of its recording; gives the exit code.
fn report(player: &Player, outcome: &Outcome, quiet: bool) -> u8 {
    let (exits, checks) = (player.machine().exits(), player.checks());
    match outcome {
        Outcome::Complete(end) => {
            if !quiet {
                let how = describe(&end.cause);
                say!("replayed {exits} exits, {checks} digests equal; the guest {how}");
            }
            exit::of_end(&end.cause)
        }
        Outcome::SealedEnd(position) => {
            say!(
                "the recording was not closed: replayed to its last sealed position, {position}, {checks} \
                 digests equal"
            );
            0
        }
        Outcome::Interrupted(position) => {
            say!("stopped at {position}, {checks} digests equal so far");
            exit::ERROR
        }
    }
}

/// Where a paused player is, for people.
pub(super) fn here(player: &Player) -> String {
    let machine = player.machine();
    let asleep = if player.phase() == Phase::Idle { ", asleep" } else { "" };
    format!(
        "{}, guest time {}{asleep}; {} digests equal",
        machine.position(),
        seconds(machine.guest_time()),
        player.checks()
    )
}

fn digest(player: &mut Player) -> Result<String, Failure> {
    let machine = player.machine_mut();
    let rolling = machine.rolling();
    let full = machine.full_digest().map_err(anyhow::Error::from)?;
    Ok(format!(
        "digest at {}: exits {rolling:016x}, cpu {:016x}, ram {:032x}, devices {:016x}, guest time {} ns",
        machine.position(),
        full.cpu,
        full.ram,
        full.devices,
        full.guest_time
    ))
}
