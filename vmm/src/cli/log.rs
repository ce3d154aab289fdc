//! `scribe-vmm log`: a recording's events, one a line.

mod expand;

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, StdoutLock};

use clap::{Args, ValueEnum};
use scribe_log::header::Level;
use scribe_log::{BOOKMARKS_FILE, Bookmark, BookmarkOrigin, Position, Recording, State};

use self::expand::Range;
use super::exit::{self, Failure};
use super::recorded::{self, PlayArgs, RecordingArg};
use crate::inspect::blocks;
use crate::inspect::decode::Device;
use crate::inspect::filter::{Edge, Filter};
use crate::inspect::list::{Form, Listing};
use crate::inspect::row::{KINDS, time_in};
use crate::session::place::Where;
use crate::session::replay::Target;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum FormatChoice {
    /// for people
    Text,
    /// for scripts: one JSON object a line
    Json,
}

impl FormatChoice {
    pub(super) fn form(self) -> Form {
        match self {
            Self::Text => Form::Text,
            Self::Json => Form::Json,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TraceChoice {
    /// instructions that retire one behind the other, with the kernel's function
    Blocks,
}

/// Print a recording's events, one a line
///
/// Each line has the position, the guest time in seconds if it is known, the vCPU, the device, the kind of event and what it
/// means. A recording holds what was noted (record --log-level); --expand replays it quietly and prints everything that
/// happens, with its time.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  scribe-vmm log\n  \
                        scribe-vmm log bug --expand --device disk,uart --from before-crash\n  \
                        scribe-vmm log bug --kind console-input --format json | jq -r .data\n  \
                        scribe-vmm log bug --expand -c\n  \
                        scribe-vmm log bug --expand --trace blocks --from exit:34000 --to exit:34001")]
pub(super) struct LogArgs {
    #[command(flatten)]
    recording: RecordingArg,
    /// Only events of these devices
    #[arg(long = "device", value_name = "NAME", value_delimiter = ',', value_parser = device)]
    devices: Vec<Device>,
    /// Only events of these kinds
    #[arg(long = "kind", value_name = "NAME", value_delimiter = ',', value_parser = kind)]
    kinds: Vec<&'static str>,
    /// From this place on: a bookmark, exit:N, a guest time such as 2.5s
    #[arg(long, value_name = "WHERE")]
    from: Option<Where>,
    /// Up to this place
    #[arg(long, value_name = "WHERE")]
    to: Option<Where>,
    /// At most the events of this level: 0 inputs and digests, 1 also states, 2 also interrupts, disk requests and console
    /// output, 3 also exits
    #[arg(long, value_name = "LEVEL", default_value_t = 3, value_parser = clap::value_parser!(u8).range(0..=3))]
    level: u8,
    /// How to print
    #[arg(long, value_enum, default_value_t = FormatChoice::Text)]
    format: FormatChoice,
    /// A table of how many events there are of each device and kind instead of the events
    #[arg(short = 'c', long)]
    summary: bool,
    /// Replay the recording and print everything that happens
    #[arg(long)]
    expand: bool,
    /// With --expand, also what is executed, on the soft engine: there are millions of blocks, so give a range
    #[arg(long, value_enum, requires = "expand")]
    trace: Option<TraceChoice>,
    #[command(flatten, next_help_heading = "Options of --expand")]
    play: PlayArgs,
}

fn device(name: &str) -> Result<Device, String> {
    let names = Device::ALL.map(Device::name);
    let found = Device::ALL.into_iter().find(|device| device.name() == name);
    found.ok_or_else(|| format!("there is no device `{name}`; there are {}", names.join(", ")))
}

fn kind(name: &str) -> Result<&'static str, String> {
    let found = KINDS.into_iter().chain([blocks::KIND]).find(|kind| *kind == name);
    found.ok_or_else(|| format!("there is no kind `{name}`; there are {}", KINDS.join(", ")))
}

type Output = Listing<StdoutLock<'static>>;

pub(super) fn run(args: LogArgs) -> Result<u8, Failure> {
    let recording = args.recording.open()?;
    let filter = Filter {
        devices: args.devices.iter().copied().collect(),
        kinds: args.kinds.iter().copied().collect::<BTreeSet<_>>(),
        level: Level::from_number(args.level).unwrap_or(Level::Exits),
        from: args
            .from
            .as_ref()
            .map(|place| edge(place, &recording, !args.expand, Side::From))
            .transpose()?,
        to: args.to.as_ref().map(|place| edge(place, &recording, !args.expand, Side::To)).transpose()?,
    };
    let Filter { level, from, to, .. } = filter;
    let marks = marks(&recording)?;
    let form = args.format.form();
    let mut listing = Listing::new(io::stdout().lock(), form, args.summary, filter, marks);
    let code = if args.expand {
        let range = Range { level, blocks: args.trace.is_some(), from, to };
        expand::expand(&recording, args.play, &range, listing)?
    } else {
        let printed = print(&recording, &mut listing);
        let read = readable(printed)?;
        if !read {
            return Ok(0);
        }
        0
    };
    match recording.state() {
        State::Complete => {}
        State::Crashed => {
            say!("the recording was not closed: this is what was sealed before its recorder was killed")
        }
        State::Running => say!("it is still being recorded: this is what was sealed when it was opened"),
    }
    if let Some(chaos) = recording.header().chaos {
        say!("interrupts and inputs came late: chaos, seed {}", chaos.seed);
    }
    Ok(code)
}

/// Prints the events of the recording alone.
fn print(recording: &Recording, listing: &mut Output) -> Result<(), Problem> {
    for event in recording.events() {
        match event {
            Ok(event) => listing.event(&event, None)?,
            Err(error) => {
                listing.finish()?;
                return Err(Problem::Recording(Failure::new(exit::RECORDING, error)));
            }
        }
        if listing.is_past() {
            break;
        }
    }
    Ok(listing.finish()?)
}

/// Why printing has stopped.
enum Problem {
    Output(io::Error),
    Recording(Failure),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// A reader that has gone away is no error: false.
fn readable(printed: Result<(), Problem>) -> Result<bool, Failure> {
    match printed {
        Ok(()) => Ok(true),
        Err(Problem::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(Problem::Output(error)) => {
            let error = anyhow::Error::new(error).context("writing to standard output");
            Err(Failure::new(exit::ERROR, error))
        }
        Err(Problem::Recording(failure)) => Err(failure),
    }
}

/// Bookmarks that are no events.
fn marks(recording: &Recording) -> Result<Vec<Bookmark>, Failure> {
    // To know the guest's takes reading all events, so it is not done for nothing.
    if !recording.dir().join(BOOKMARKS_FILE).exists() {
        return Ok(Vec::new());
    }
    let all = recording.bookmarks().map_err(|error| Failure::new(exit::RECORDING, error))?;
    let of_others = |bookmark: &&Bookmark| bookmark.origin != BookmarkOrigin::Guest;
    Ok(all.iter().map(|listed| &listed.bookmark).filter(of_others).cloned().collect())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    From,
    To,
}

/// An edge of what is shown. Without a replay few events have a guest time: `coarse` takes the nearest position outside
/// whose time is known.
fn edge(place: &Where, recording: &Recording, coarse: bool, side: Side) -> Result<Edge, Failure> {
    let time = match recorded::target(place, recording)? {
        Target::Position(position) => return Ok(Edge::Position(position)),
        Target::End => {
            let end = recording.last().map_or(Position::START, |event| event.position);
            return Ok(Edge::Position(end));
        }
        Target::Time(time) if !coarse => return Ok(Edge::Time(time)),
        Target::Time(time) => time,
    };
    let mut before = recording.header().start().position;
    for event in recording.events() {
        let event = event.map_err(|error| Failure::new(exit::RECORDING, error))?;
        match time_in(&event.body) {
            Some(there) if there <= time => before = event.position,
            Some(_) if side == Side::To => return Ok(Edge::Position(event.position)),
            Some(_) => break,
            None => {}
        }
    }
    Ok(Edge::Position(match side {
        Side::From => before,
        Side::To => recording.last().map_or(Position::START, |event| event.position),
    }))
}
