//! `scribe-vmm bookmark`: named places of a recording.

use clap::{Args, Subcommand};
use scribe_log::{Bookmark, BookmarkOrigin, Bookmarks, EditError, Recording, check_bookmark_name};
use serde::Serialize;

use super::doctor::Format;
use super::exit::Failure;
use super::output::{self, FORMAT};
use super::recorded::{PlayArgs, RecordingArg};
use super::seek;
use crate::session::place::Where;

/// List, add or remove the named places of a recording
///
/// A bookmark's name is a place wherever one is asked for, as in `replay --to NAME`. The guest sets bookmarks too; those are
/// events of the recording.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  scribe-vmm bookmark list\n  \
                        scribe-vmm bookmark add before-crash bug --at 2.5s\n  \
                        scribe-vmm bookmark rm before-crash,every-3 bug")]
pub(super) struct BookmarkArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    List(ListArgs),
    Add(AddArgs),
    Rm(RmArgs),
}

/// List a recording's bookmarks in their order
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  scribe-vmm bookmark list\n  \
                        scribe-vmm bookmark list bug --format json | jq -r '.bookmarks[].label'")]
struct ListArgs {
    #[command(flatten)]
    recording: RecordingArg,
    /// How to print them
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Name a place of a finished recording
///
/// The bookmark is where the guest really comes: the recording is replayed to the place, unless it is a bookmark, a
/// snapshot, the start or the end, where that is known already.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  scribe-vmm bookmark add before-crash --at 2.5s\n  \
                        scribe-vmm bookmark add again bug --at exit:34000+12\n  \
                        scribe-vmm bookmark add here bug --at every-3")]
struct AddArgs {
    /// Its name: a letter, then letters, digits, `-`, `_` and `.`
    #[arg(value_parser = name)]
    name: String,
    #[command(flatten)]
    recording: RecordingArg,
    /// The place: a bookmark, exit:N, a guest time such as 2.5s, or end
    #[arg(long, value_name = "WHERE")]
    at: Where,
    #[command(flatten)]
    play: PlayArgs,
}

/// Remove bookmarks of a finished recording
///
/// Not those that the guest has set: they are events.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  scribe-vmm bookmark rm before-crash\n  \
                        scribe-vmm bookmark rm key-1,key-1#2,every-3 bug")]
struct RmArgs {
    /// Their names, with commas between them; NAME#2 is the second of that name
    #[arg(value_name = "NAME[,NAME...]", value_parser = names)]
    names: Names,
    #[command(flatten)]
    recording: RecordingArg,
}

/// Names of bookmarks. One argument, so that what follows it is the recording.
#[derive(Debug, Clone)]
struct Names(Vec<String>);

#[expect(clippy::unnecessary_wraps, reason = "the form of a value parser")]
fn names(text: &str) -> Result<Names, String> {
    Ok(Names(text.split(',').map(str::to_owned).collect()))
}

fn name(text: &str) -> Result<String, String> {
    check_bookmark_name(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

pub(super) fn run(args: BookmarkArgs) -> Result<u8, Failure> {
    match args.action {
        Action::List(args) => list(&args),
        Action::Add(args) => add(args),
        Action::Rm(args) => rm(&args),
    }
}

/// What `--format json` prints. Fields are only ever added.
#[derive(Debug, Serialize)]
struct Document {
    format: u32,
    recording: String,
    bookmarks: Vec<Entry>,
}

#[derive(Debug, Serialize)]
struct Entry {
    label: String,
    name: String,
    position: String,
    guest_time: Option<u64>,
    origin: &'static str,
}

fn entries(recording: &Recording) -> Result<Vec<Entry>, Failure> {
    let bookmarks = recording.bookmarks()?;
    let entries = bookmarks.iter().map(|listed| {
        let Bookmark { name, position, guest_time, origin } = &listed.bookmark;
        Entry {
            label: listed.label().to_string(),
            name: name.clone(),
            position: position.to_string(),
            guest_time: *guest_time,
            origin: origin.name(),
        }
    });
    Ok(entries.collect())
}

fn list(args: &ListArgs) -> Result<u8, Failure> {
    let recording = args.recording.open()?;
    let bookmarks = entries(&recording)?;
    if args.format == Format::Json {
        let recording = recording.dir().to_string_lossy().into_owned();
        return output::json(&Document { format: FORMAT, recording, bookmarks });
    }
    if bookmarks.is_empty() {
        say!("{}: no bookmarks", recording.dir().display());
        return Ok(0);
    }
    let rows = bookmarks.into_iter().map(|entry| {
        let Entry { label, position, guest_time, origin, .. } = entry;
        vec![output::plain(&label), position, output::time(guest_time), origin.to_owned()]
    });
    Ok(output::print(&output::table(&["NAME", "POSITION", ">GUEST TIME", "SET BY"], rows)))
}

fn add(args: AddArgs) -> Result<u8, Failure> {
    let AddArgs { name, recording, at, play } = args;
    let recording = recording.open_to_change()?;
    // Before the replay, which may take long.
    if let Some(there) = recording.bookmarks()?.find(&name) {
        return Err(EditError::NameTaken { name, position: there.bookmark.position }.into());
    }
    let spot = match seek::known(&at, &recording)? {
        Some(spot) => spot,
        None => {
            let target = seek::target(&at, &recording)?;
            let (player, _) = seek::play_to(&play.prepare(&recording)?, &recording, target)?;
            seek::spot(&player)
        }
    };
    let (position, guest_time) = (spot.position, spot.guest_time);
    let bookmark = Bookmark { name: name.clone(), position, guest_time, origin: BookmarkOrigin::Added };
    Bookmarks::open(recording.dir())?.add(bookmark)?;
    say!("bookmark {name} at {spot}");
    Ok(0)
}

fn rm(args: &RmArgs) -> Result<u8, Failure> {
    let recording = args.recording.open_to_change()?;
    for Bookmark { name, position, .. } in Bookmarks::open(recording.dir())?.remove_all(&args.names.0)? {
        say!("removed bookmark {name} at {position}");
    }
    Ok(0)
}
