//! `scribe-vmm ls`: the recordings in the home.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;
use scribe_log::store::LATEST;
use scribe_log::{EVENTS_FILE, HEADER_FILE, Header, INCOMPLETE_FILE, Recording, Store};
use serde::Serialize;

use super::doctor::Format;
use super::exit::{self, Failure};
use super::output::{self, FORMAT};
use super::survey::{self, sum};
use super::{guest, snapshot};

/// List the recordings in the home, the newest last
///
/// All of each is read, but for the contents of snapshots, so that damage is seen. The latest is the one that other
/// subcommands mean where none is named; it is listed too if it is elsewhere.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  scribe-vmm ls\n  \
                        scribe-vmm ls --format json | jq -r '.recordings[] | select(.state == \"damaged\").path'")]
pub(super) struct LsArgs {
    /// How to print them
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn run(args: &LsArgs) -> Result<u8, Failure> {
    let store = guest::store()?;
    let recordings = find(&store)?;
    if args.format == Format::Json {
        let home = survey::path(store.home());
        return output::json(&Document { format: FORMAT, home, recordings });
    }
    if recordings.is_empty() {
        say!("no recordings in {}", guest::show(store.home()));
        return Ok(0);
    }
    let titles =
        ["NAME", "STATE", ">GUEST TIME", ">EXITS", ">SIZE", ">BOOKMARKS", ">SNAPSHOTS", "DATE", "IMAGE"];
    Ok(output::print(&output::table(&titles, recordings.iter().map(Entry::row))))
}

/// What `--format json` prints. Fields are only ever added.
#[derive(Debug, Serialize)]
struct Document {
    format: u32,
    home: String,
    recordings: Vec<Entry>,
}

/// A recording. Of a damaged one only some is known.
#[derive(Debug, Default, Serialize)]
struct Entry {
    name: String,
    path: String,
    latest: bool,
    state: &'static str,
    /// why it is damaged
    reason: Option<String>,
    created: Option<String>,
    image: Option<String>,
    kernel: Option<String>,
    command: Option<Vec<String>>,
    position: Option<String>,
    exits: Option<u64>,
    guest_time: Option<u64>,
    bytes: u64,
    bookmarks: Option<u64>,
    snapshots: Option<u64>,
}

/// All that there is, in the order of their making.
fn find(store: &Store) -> Result<Vec<Entry>, Failure> {
    let home = store.home();
    let cannot = |source| {
        let text = format!("{}: cannot be read", guest::show(home));
        Failure::new(exit::ERROR, anyhow::Error::new(source).context(text))
    };
    let mut paths: Vec<PathBuf> = Vec::new();
    match fs::read_dir(home) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        entries => {
            for entry in entries.map_err(cannot)? {
                paths.push(entry.map_err(cannot)?.path());
            }
        }
    }
    paths.retain(|path| path.file_name().is_some_and(|name| name != LATEST) && is_recording(path));
    // What the link points to may have gone, or be no recording any more: then none is marked.
    let latest = store.resolve(None).ok().filter(|path| is_recording(path));
    let latest = latest.and_then(|path| path.canonicalize().ok());
    let is_latest = |path: &PathBuf| latest.is_some() && path.canonicalize().ok() == latest;
    if let Some(elsewhere) = latest.as_ref().filter(|_| !paths.iter().any(is_latest)) {
        paths.push(elsewhere.clone());
    }
    let mut found: Vec<(Option<SystemTime>, Entry)> = paths
        .iter()
        .map(|path| {
            let created = created(path);
            let name = path.strip_prefix(home).unwrap_or(path);
            let rest = Entry {
                name: survey::path(name),
                path: survey::path(path),
                latest: is_latest(path),
                created: created.map(date),
                bytes: bytes(path),
                ..Entry::default()
            };
            (created, rest.look(path))
        })
        .collect();
    found.sort_by(|(a, x), (b, y)| (a, &x.name).cmp(&(b, &y.name)));
    Ok(found.into_iter().map(|(_, entry)| entry).collect())
}

/// True if it looks like a recording, however damaged.
fn is_recording(path: &Path) -> bool {
    path.is_dir() && [HEADER_FILE, EVENTS_FILE, INCOMPLETE_FILE].iter().any(|name| path.join(name).exists())
}

/// When the directory was made, as far as the host knows.
fn created(path: &Path) -> Option<SystemTime> {
    let metadata = path.metadata().ok()?;
    metadata.created().or_else(|_| metadata.modified()).ok()
}

/// In UTC, to the second.
fn date(time: SystemTime) -> String {
    // Times before 1970 or behind 9999 cannot be written so; nobody has made a recording then.
    let known = time.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|since| since.as_secs() < 1 << 37);
    if known { humantime::format_rfc3339_seconds(time).to_string() } else { "unknown".to_owned() }
}

/// Bytes of its files, whatever they are.
fn bytes(path: &Path) -> u64 {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let files = entries.filter_map(|entry| entry.metadata().ok().filter(fs::Metadata::is_file));
    files.map(|metadata| metadata.len()).sum::<u64>() + snapshot::room(path)
}

impl Entry {
    /// With what the recording itself says.
    fn look(self, path: &Path) -> Self {
        let recording = match Recording::open(path) {
            Ok(recording) => recording,
            Err(error) => return self.damaged(error.into()),
        };
        let Header { image, kernel, command, .. } = recording.header();
        let entry = Self {
            state: survey::state(recording.state()),
            image: image.as_ref().map(|image| survey::path(&image.path)),
            kernel: Some(survey::path(&kernel.path)),
            command: Some(command.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect()),
            position: recording.last().map(|event| event.position.to_string()),
            exits: recording.last().map(|event| event.position.exit),
            guest_time: recording.end_time(),
            ..self
        };
        match survey::survey(&recording) {
            Err(error) => entry.damaged(error),
            Ok(survey) => {
                let reason = survey.damaged.first().cloned();
                let entry = Self {
                    bookmarks: Some(sum(&survey.bookmarks)),
                    snapshots: Some(sum(&survey.snapshots)),
                    ..entry
                };
                match reason {
                    Some(reason) => Self { state: "damaged", reason: Some(reason), ..entry },
                    None => entry,
                }
            }
        }
    }

    fn damaged(self, failure: Failure) -> Self {
        Self { state: "damaged", reason: Some(failure.message()), ..self }
    }

    /// For the table.
    fn row(&self) -> Vec<String> {
        let number = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
        let what = self.reason.as_ref().or(self.image.as_ref()).or(self.kernel.as_ref());
        let mark = if self.latest { " (latest)" } else { "" };
        vec![
            output::plain(&self.name) + mark,
            self.state.to_owned(),
            output::time(self.guest_time),
            number(self.exits),
            output::bytes(self.bytes),
            number(self.bookmarks),
            number(self.snapshots),
            self.created.clone().unwrap_or_else(|| "-".to_owned()),
            what.map(|text| output::plain(text)).unwrap_or_default(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_are_told_or_unknown() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(date(at(1_767_225_600)), "2026-01-01T00:00:00Z");
        assert_eq!(date(at(1 << 40)), "unknown");
        assert_eq!(date(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), "unknown");
    }

    #[test]
    fn what_is_no_recording_is_not_listed() {
        let home = tempfile::tempdir().unwrap();
        for name in ["empty", "other", "latest", "broken"] {
            fs::create_dir(home.path().join(name)).unwrap();
        }
        fs::write(home.path().join("other/notes.txt"), "x").unwrap();
        fs::write(home.path().join("image-digests.json"), "{}").unwrap();
        fs::write(home.path().join("broken/events"), "x").unwrap();
        let store = Store::locate(Some(home.path()), |_| None).unwrap();
        let found = find(&store).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        let Entry { name, state, latest, reason, bytes, exits, .. } = &found[0];
        assert_eq!((name.as_str(), *state, *latest, *bytes, *exits), ("broken", "damaged", false, 1, None));
        assert!(reason.as_ref().unwrap().contains("not a recording"), "{reason:?}");
        let gone = Store::locate(Some(&home.path().join("nowhere")), |_| None).unwrap();
        assert!(find(&gone).unwrap().is_empty());
    }
}
