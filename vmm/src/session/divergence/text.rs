//! The report for people: what it is in one line, then what follows from it, then what it follows from.

use std::fmt::{self, Display, Formatter};

use super::guest::{Guest, NAMES};
use super::verdict::Verdict;
use super::{Command, Divergence};
use crate::symbols::stack::Mode;

/// Columns of a line, the two in front of it included.
const WIDTH: usize = 100;
/// Columns of a label.
const LABEL: usize = 10;

impl Display for Divergence {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { agreed, found_at, what, expected, found, .. } = self;
        let mut report = Report { f };
        if agreed == found_at {
            write!(report.f, "the replay diverged at {found_at}")?;
        } else {
            write!(report.f, "the replay diverged between {agreed} and {found_at}")?;
        }
        report.line("")?;
        report.labelled("differs", what)?;
        report.labelled("recorded", expected)?;
        report.labelled("replayed", found)?;
        let exits = found_at.exit.saturating_sub(agreed.exit);
        let before = match exits {
            0 => String::new(),
            1 => ", 1 exit before".into(),
            exits => format!(", {exits} exits before"),
        };
        let exits = self.last_exit.map_or_else(String::new, |last| format!("; each exit up to {last}"));
        report.labelled("last equal", &format!("{agreed}{before}{exits}"))?;
        if let Some(verdict) = &self.verdict {
            report.verdict(verdict)?;
        }
        if !self.causes.is_empty() {
            report.title("likely causes, the likeliest first")?;
            for (number, cause) in self.causes.iter().enumerate() {
                report.wrapped(&format!("{}. ", number + 1), &cause.cause)?;
                report.wrapped("   ", &cause.because)?;
            }
        }
        if !self.differences.is_empty() {
            report.title("what is not as it was when it was recorded")?;
            let widest = self.differences.iter().map(|difference| difference.what.len()).max().unwrap_or(0);
            for difference in &self.differences {
                let values = format!("{}, now {}", difference.recorded, difference.here);
                report.wrapped(&format!("{:widest$}  ", difference.what), &values)?;
            }
        }
        if let Some(guest) = &self.guest {
            report.guest(guest)?;
        }
        report.list("last events of the recording", &self.events)?;
        report.list("last exits of the replay", &self.exits)?;
        if !self.commands.is_empty() {
            report.title("to go on")?;
            for Command { command, purpose } in &self.commands {
                report.line(&format!("  {command}"))?;
                report.wrapped("    ", purpose)?;
            }
        }
        Ok(())
    }
}

struct Report<'a, 'b> {
    f: &'a mut Formatter<'b>,
}

impl Report<'_, '_> {
    /// A line of its own. Nothing of a guest or a file gets to a terminal as it is.
    fn line(&mut self, text: &str) -> fmt::Result {
        let safe: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        write!(self.f, "\n{}", safe.trim_end())
    }

    fn title(&mut self, text: &str) -> fmt::Result {
        self.line("")?;
        self.line(text)
    }

    fn labelled(&mut self, label: &str, text: &str) -> fmt::Result {
        self.wrapped(&format!("{label:LABEL$}  "), text)
    }

    fn list(&mut self, title: &str, lines: &[String]) -> fmt::Result {
        if lines.is_empty() {
            return Ok(());
        }
        self.title(title)?;
        lines.iter().try_for_each(|line| {
            // The state of a processor is an event, too.
            let cut: String = line.chars().take(WIDTH - 2).collect();
            let more = if cut.len() < line.len() { " ..." } else { "" };
            self.line(&format!("  {cut}{more}"))
        })
    }

    /// Text that begins behind `first` and goes on below it, broken between words.
    fn wrapped(&mut self, first: &str, text: &str) -> fmt::Result {
        let indent = " ".repeat(2 + first.chars().count());
        let mut line = format!("  {first}");
        let mut empty = true;
        for word in text.split_whitespace() {
            if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
                self.line(&line)?;
                line.clone_from(&indent);
                empty = true;
            }
            if !empty {
                line.push(' ');
            }
            line.push_str(word);
            empty = false;
        }
        self.line(&line)
    }

    fn verdict(&mut self, verdict: &Verdict) -> fmt::Result {
        match verdict {
            Verdict::Recording { from } => self.labelled(
                "verdict",
                &format!(
                    "the recording is not what this program does: two further replays, from {from} on, came to the same"
                ),
            ),
            Verdict::Unstable { passes, first_at, differs } => {
                self.labelled("verdict", "the replay is unstable: it does not come to the same each time")?;
                for (number, pass) in passes.iter().enumerate() {
                    self.labelled("", &format!("replay {}: {pass}", number + 1))?;
                }
                if let Some(first_at) = first_at {
                    self.labelled("", &format!("they go different ways at {first_at} or right before"))?;
                }
                match differs {
                    Some(differs) => self.labelled("", &format!("where it was found: {differs}")),
                    None => Ok(()),
                }
            }
            Verdict::Snapshot { at, without } => self.labelled(
                "verdict",
                &format!(
                    "the snapshot at {at} is wrong: with it each replay comes to the same, from the recording's start it \
                     comes to another: {without}"
                ),
            ),
            Verdict::Unknown { reason } => self.labelled("verdict", &format!("none: {reason}")),
        }
    }

    fn guest(&mut self, guest: &Guest) -> fmt::Result {
        let mode = match guest.trace.mode {
            Mode::Kernel => "in its kernel",
            Mode::User => "in a program",
            Mode::Early => "in code that runs before its kernel, or in another mode",
        };
        self.title(&format!("the guest where it was found, {mode}"))?;
        for frame in &guest.trace.frames {
            self.line(&format!("  {frame}"))?;
        }
        if guest.trace.cut {
            self.line("    and so on")?;
        }
        if let Some(reason) = &guest.no_symbols {
            self.wrapped("  ", &format!("(no symbols: {reason})"))?;
        }
        let words = guest.registers.words();
        for row in [[16, 17, 4, 5], [0, 3, 1, 2], [6, 7, 8, 9], [10, 11, 12, 13]] {
            self.registers(&words, &row)?;
        }
        self.registers(&words, &[14, 15])
    }

    fn registers(&mut self, words: &[u64; 18], row: &[usize]) -> fmt::Result {
        let columns: Vec<String> = (row.iter())
            .filter_map(|index| Some((NAMES.get(*index)?, words.get(*index)?)))
            .map(|(name, value)| format!("{name:6} {value:016x}"))
            .collect();
        self.line(&format!("    {}", columns.join("  ")))
    }
}
