//! What the user is told of runs under chaos: a line for each, progress on a terminal, and in the end how to go on.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use scribe_log::{BookmarkOrigin, Recording, Store};

use super::outcome::{Outcome, Verdict};
use crate::cli::exit::{self, Failure};
use crate::cli::{guest, output};
use crate::session::place::seconds;

/// Collects what runs come to, and tells it.
pub(super) struct Report {
    bar: Option<ProgressBar>,
    /// how many runs there were
    runs: u64,
    passed: u64,
    interrupted: bool,
    /// seeds, with recordings
    failed: Vec<(u64, PathBuf)>,
    timeouts: Vec<u64>,
    /// the first error that ended it
    error: Option<(u64, Failure)>,
}

impl Report {
    /// For so many runs.
    pub(super) fn new(wanted: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(wanted);
            let style = ProgressStyle::with_template("scribe-vmm: {bar:40} {pos} of {len} runs  {elapsed}");
            if let Ok(style) = style {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self {
            bar,
            runs: 0,
            passed: 0,
            interrupted: false,
            failed: Vec::new(),
            timeouts: Vec::new(),
            error: None,
        }
    }

    /// Tells what a run came to.
    pub(super) fn add(&mut self, seed: u64, result: Result<Outcome, Failure>) {
        match result {
            Ok(outcome) => {
                self.print(&lines(seed, &outcome));
                self.count(seed, outcome);
            }
            Err(failure) if self.error.is_none() => self.error = Some((seed, failure)),
            Err(failure) => say!("seed {seed}: {}", failure.message()),
        }
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    fn print(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| output::print(text)),
            None => output::print(text),
        };
    }

    fn count(&mut self, seed: u64, outcome: Outcome) {
        self.runs += 1;
        match (outcome.verdict, outcome.directory) {
            (Verdict::Passed, _) => self.passed += 1,
            (Verdict::Failed, directory) => self.failed.push((seed, directory.unwrap_or_default())),
            (Verdict::Timeout, _) => self.timeouts.push(seed),
            (Verdict::Interrupted, _) => self.interrupted = true,
        }
    }

    /// The sum of it, and what to do next. The first recording of a failing run becomes the latest in `store`.
    pub(super) fn finish(mut self, store: &Store) -> Result<u8, Failure> {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.failed.sort();
        self.timeouts.sort_unstable();
        let mut text = format!("{}: {} passed", output::counted(self.runs, "run"), self.passed);
        let seeds: Vec<u64> = self.failed.iter().map(|(seed, _)| *seed).collect();
        for (what, seeds) in [("failed", &seeds), ("timed out", &self.timeouts)] {
            if !seeds.is_empty() {
                let list: Vec<String> = seeds.iter().map(ToString::to_string).collect();
                let word = if seeds.len() == 1 { "seed" } else { "seeds" };
                text += &format!(", {} {what} ({word} {})", seeds.len(), list.join(", "));
            }
        }
        text += if self.interrupted { "; interrupted\n" } else { "\n" };
        for (seed, directory) in &self.failed {
            let at = moment(directory).unwrap_or_else(|| "end".into());
            let directory = guest::show(directory);
            text += &format!("seed {seed}, to where it failed: scribe-vmm replay {directory} --to {at}\n");
        }
        output::print(&text);
        if let Some(Err(error)) = self.failed.first().map(|(_, directory)| store.set_latest(directory)) {
            say!("it will not be found as the latest: {error}");
        }
        if let Some((seed, failure)) = self.error {
            return Err(failure.within(format!("seed {seed}")));
        }
        Ok(match (self.failed.is_empty(), self.interrupted, self.timeouts.is_empty()) {
            (false, ..) => exit::CAUGHT,
            (true, true, _) => exit::ERROR,
            (true, false, false) => exit::UNFINISHED,
            (true, false, true) => 0,
        })
    }
}

/// A run, for people; of one that did not pass also the end of its console.
fn lines(seed: u64, outcome: &Outcome) -> String {
    let Outcome { verdict, end, guest_time, directory, console } = outcome;
    let mut text = format!("seed {seed}: {}, {end} after {}", verdict.word(), seconds(*guest_time));
    if let Some(directory) = directory {
        text += &format!("; {}", guest::show(directory));
    }
    text.push('\n');
    if matches!(verdict, Verdict::Failed | Verdict::Timeout) {
        for line in console {
            text += &format!("  | {}\n", output::plain(line));
        }
    }
    text
}

/// The bookmark that the guest of this recording has set last, as a place: where it says that it failed.
fn moment(directory: &Path) -> Option<String> {
    let bookmarks = Recording::open(directory).ok()?.bookmarks().ok()?;
    let last = bookmarks.iter().filter(|listed| listed.bookmark.origin == BookmarkOrigin::Guest).last()?;
    let label = last.label().to_string();
    // A guest's name can be any text; the position is good for all of them.
    let plain = label.chars().all(|c| c.is_ascii_alphanumeric() || "-_.#".contains(c));
    Some(if plain { label } else { last.bookmark.position.to_string() })
}
