//! WHERE: how people name a place in a recording.

use std::fmt;
use std::str::FromStr;

use scribe_log::{OpenError, Position, Recording};

use super::replay::Target;

/// A place as it was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Where {
    /// a bookmark; `NAME#2` is the second of that name
    Bookmark(String),
    /// `exit:N`, `exit:N+BRANCHES` or `exit:N+BRANCHES+STEPS`
    Position(Position),
    /// guest time in ns, such as `2.5s`
    Time(u64),
    /// the recording's end
    End,
}

/// Why there is no such place.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// It names nothing.
    #[error("`{0}` is no place; wanted is a bookmark's name, exit:N, a guest time such as 2.5s, or end")]
    Syntax(String),
    /// There is no such bookmark.
    #[error("there is no bookmark `{name}` in {recording}; {known}")]
    NoBookmark {
        /// the name asked for
        name: String,
        /// the recording's directory
        recording: String,
        /// what there is, for people
        known: String,
    },
    /// It is outside.
    #[error("{place} is {side} the recording, which {verb} at {edge}")]
    Outside {
        /// the place asked for
        place: String,
        /// before or behind
        side: &'static str,
        /// starts or ends
        verb: &'static str,
        /// its start or end
        edge: String,
    },
    /// The recording cannot be read.
    #[error(transparent)]
    Read(#[from] OpenError),
}

impl FromStr for Where {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let syntax = || PlaceError::Syntax(text.to_owned());
        if text == "end" {
            return Ok(Self::End);
        }
        if text.starts_with("exit:") {
            return text.parse().map(Self::Position).map_err(|_| syntax());
        }
        match text.as_bytes().first() {
            Some(b'a'..=b'z' | b'A'..=b'Z') => Ok(Self::Bookmark(text.to_owned())),
            Some(b'0'..=b'9' | b'.') => {
                crate::cli::parse::duration(text).map(Self::Time).map_err(|_| syntax())
            }
            _ => Err(syntax()),
        }
    }
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bookmark(name) => f.write_str(name),
            Self::Position(position) => position.fmt(f),
            Self::Time(time) => f.write_str(&seconds(*time)),
            Self::End => f.write_str("end"),
        }
    }
}

impl Where {
    /// Where that is in `recording`.
    ///
    /// # Errors
    /// There is no such place in it.
    pub fn resolve(&self, recording: &Recording) -> Result<Target, PlaceError> {
        let start = recording.header().start();
        let end = recording.sealed_end();
        let outside =
            |side, verb, edge: String| PlaceError::Outside { place: self.to_string(), side, verb, edge };
        match self {
            Self::End => Ok(Target::End),
            Self::Time(time) if *time < start.guest_time => {
                Err(outside("before", "starts", seconds(start.guest_time)))
            }
            Self::Time(time) => match recording.end_time() {
                Some(end) if *time > end => Err(outside("behind", "ends", seconds(end))),
                _ => Ok(Target::Time(*time)),
            },
            Self::Position(position) => {
                if *position < start.position {
                    return Err(outside("before", "starts", start.position.to_string()));
                }
                match end {
                    Some((end, _)) if *position > end => Err(outside("behind", "ends", end.to_string())),
                    _ => Ok(Target::Position(*position)),
                }
            }
            Self::Bookmark(name) => bookmark(recording, name),
        }
    }
}

/// The bookmark of this name.
fn bookmark(recording: &Recording, name: &str) -> Result<Target, PlaceError> {
    let bookmarks = recording.bookmarks()?;
    if let Some(found) = bookmarks.find(name) {
        return Ok(Target::Position(found.bookmark.position));
    }
    let some: Vec<String> = bookmarks.iter().take(8).map(|found| found.label().to_string()).collect();
    let more = if bookmarks.len() > some.len() { ", ..." } else { "" };
    let known = match some.is_empty() {
        true => "it has none (scribe-vmm bookmark add sets one)".to_owned(),
        false => format!("there are: {}{more}", some.join(", ")),
    };
    let recording = recording.dir().display().to_string();
    Err(PlaceError::NoBookmark { name: name.to_owned(), recording, known })
}

/// Guest time for people: seconds with as many decimals as it has, at least one.
pub fn seconds(nanoseconds: u64) -> String {
    let text = format!("{}.{:09}", nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
    let digits = text.trim_end_matches('0');
    format!("{}{}s", digits, if digits.ends_with('.') { "0" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart() {
        let parse = |text: &str| text.parse::<Where>();
        assert_eq!(parse("end").unwrap(), Where::End);
        assert_eq!(parse("exit:7").unwrap(), Where::Position(Position::exit(7)));
        assert_eq!(parse("2.5s").unwrap(), Where::Time(2_500_000_000));
        assert_eq!(parse("300ms").unwrap(), Where::Time(300_000_000));
        assert_eq!(parse("ending").unwrap(), Where::Bookmark("ending".into()));
        assert_eq!(parse("exit").unwrap(), Where::Bookmark("exit".into()));
        for bad in ["", "-1s", "exit:", "exit:x", "7", "#2"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_told_as_they_are_read() {
        for time in [0, 1, 2_500_000_000, 3_000_000_000, 123_456_789_012] {
            assert_eq!(seconds(time).parse::<Where>().unwrap(), Where::Time(time));
        }
        assert_eq!(seconds(2_500_000_000), "2.5s");
        assert_eq!(seconds(3_000_000_000), "3.0s");
    }
}
