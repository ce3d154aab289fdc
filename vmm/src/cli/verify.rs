//! `scribe-vmm verify`: whether a recording is whole and replays.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use clap::Args;
use scribe_log::Recording;
use scribe_log::header::{Header, Origin};
use scribe_log::snapshots::Snapshots;

use super::exit::{self, Failure};
use super::output::{bytes, counted, plain, print};
use super::progress::Progress;
use super::recorded::{self, Play, PlayArgs, RecordingArg};
use super::{snapshot, survey};
use crate::session::replay::{Outcome, Target, describe};
use crate::session::start::StartError;
use crate::session::verify::{Difference, Mismatch, Stretch, Verified, WrongSnapshot};

/// Check that a recording is whole and replays
///
/// First all checksums: of the header, the events, the bookmarks, the snapshots and every page they share; and the digests of
/// the image, kernel and initrd, which are read for it. Then the recording is replayed, from its start to its end and from
/// each snapshot to the next one, and compared all the way.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  scribe-vmm verify\n  scribe-vmm verify bug --checksums\n  \
                        scribe-vmm verify bug.scribe && rm -r bug")]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    recording: RecordingArg,
    /// Stop after the checksums
    #[arg(long)]
    checksums: bool,
    /// Machines that replay at the same time [default: one for each processor]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    #[command(flatten)]
    play: PlayArgs,
}

pub(super) fn run(args: VerifyArgs) -> Result<u8, Failure> {
    let recording = args.recording.open()?;
    let name = plain(&survey::path(recording.dir()));
    let play = args.play.prepare(&recording)?;
    if !checksums(&recording, &play) {
        return Ok(exit::RECORDING);
    }
    if args.checksums {
        return Ok(print(&format!("verified: {name} (checksums)\n")));
    }
    let jobs = args.jobs.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
    let bar = Mutex::new(None);
    let verified = play.verify(&recording, jobs, &|shared| {
        let progress = Progress::watch(shared, &recording, Target::End, false);
        *bar.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
    });
    drop(bar);
    let verified = verified.map_err(recorded::failure)?;
    let end = match &verified.outcome {
        Outcome::Complete(end) => format!("the guest {}", describe(&end.cause)),
        Outcome::SealedEnd(_) => "there it was last sealed".to_owned(),
        Outcome::Interrupted(position) => {
            let error = anyhow::anyhow!("stopped at {position}; nothing was found so far");
            return Err(Failure::new(exit::ERROR, error));
        }
    };
    print(&format!("replayed {}; {end}\n", stretch(&verified.whole)));
    for part in &verified.stretches {
        print(&format!("replayed from its snapshot {}\n", stretch(part)));
    }
    Ok(conclude(&verified, &name))
}

/// Says what is wrong with snapshots, or that nothing is; gives the exit code.
fn conclude(verified: &Verified, name: &str) -> u8 {
    for position in &verified.skipped {
        say!("the snapshot at {position} was not tried: KVM puts a machine back at exits only");
    }
    for WrongSnapshot { position, what } in &verified.wrong {
        let remove = format!("`scribe-vmm snapshot rm {name} --at {position}` removes it");
        match what {
            Mismatch::NoSuchPlace => {
                say!("the snapshot at {position} is wrong: the guest does not come to that place; {remove}");
            }
            Mismatch::State { at, difference: Difference { what, expected, found } } => say!(
                "the snapshot at {position} is wrong: at {at} {what} differs, {expected} in a replay from the start, \
                 {found} from the snapshot; {remove}"
            ),
            Mismatch::Replay(error) => {
                let why = exit::one_line(anyhow::Chain::new(error));
                say!("the snapshot at {position} is wrong, no replay can start from it; {remove}: {why}");
            }
        }
    }
    let damaged =
        |wrong: &WrongSnapshot| matches!(wrong.what, Mismatch::Replay(StartError::BadSnapshot { .. }));
    if !verified.wrong.is_empty() {
        return if verified.wrong.iter().any(damaged) { exit::RECORDING } else { exit::DIVERGED };
    }
    let sealed = matches!(verified.outcome, Outcome::SealedEnd(_));
    print(&format!("verified: {name}{}\n", if sealed { ", up to where it was last sealed" } else { "" }))
}

fn stretch(stretch: &Stretch) -> String {
    let Stretch { from, to, checks } = stretch;
    format!("{from} to {to}: {} equal", counted(*checks, "digest"))
}

/// Reads everything and says what is wrong with it; true if nothing is.
fn checksums(recording: &Recording, play: &Play) -> bool {
    let mut fine = true;
    let mut check = |what: &str, found: Result<String, Vec<String>>| match found {
        Ok(text) => drop(print(&format!("checked {what}: {text}\n"))),
        Err(errors) => {
            fine = false;
            errors.iter().for_each(|error| say!("damaged: {error}"));
        }
    };
    check("header and events", events(recording));
    check("bookmarks", bookmarks(recording));
    check("snapshots", snapshots(recording));
    check("files", files(recording.header(), play));
    fine
}

fn one(failure: impl Into<Failure>) -> Vec<String> {
    vec![failure.into().message()]
}

fn events(recording: &Recording) -> Result<String, Vec<String>> {
    let mut count = 0;
    for event in recording.events() {
        event.map_err(one)?;
        count += 1;
    }
    let sizes = recording.sizes();
    Ok(format!("{}, {}", bytes(sizes.header + sizes.events), counted(count, "event")))
}

fn bookmarks(recording: &Recording) -> Result<String, Vec<String>> {
    Ok(recording.bookmarks().map_err(one)?.len().to_string())
}

fn snapshots(recording: &Recording) -> Result<String, Vec<String>> {
    let snapshots = Snapshots::open(recording.dir(), recording.header_crc()).map_err(one)?;
    let mut wrong: Vec<String> = snapshots.verify().into_iter().flat_map(one).collect();
    if recording.header().start.is_some() && snapshots.start().is_none() {
        wrong.push("the snapshot that this branch starts from is missing".to_owned());
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    Ok(format!("{}, {}", snapshots.list().len(), bytes(snapshot::room(recording.dir()))))
}

fn files(header: &Header, play: &Play) -> Result<String, Vec<String>> {
    let header = play.read_files(header).map_err(|error| one(recorded::failure(error)))?;
    let image = header.image.iter().map(|image| ("image", &image.path));
    let boot = [("kernel", Some(&header.kernel)), ("initrd", header.initrd.as_ref())];
    let boot = boot.into_iter().filter_map(|(name, file)| Some((name, file?)));
    let boot = boot.filter(|(_, file)| file.origin == Origin::Host).map(|(name, file)| (name, &file.path));
    let all: Vec<String> =
        image.chain(boot).map(|(name, path)| format!("{name} {}", plain(&survey::path(path)))).collect();
    Ok(all.join(", "))
}
