//! Bookmarks: named positions. Those that the guest sets are events; all others are in a file of their own, since they can
//! be added and removed when the recording is finished.

use std::collections::BTreeMap;
use std::fmt;

use crate::event::{Body, Event};
use crate::position::Position;

mod edit;
pub(crate) mod file;

pub use edit::Bookmarks;
pub(crate) use edit::encode;

/// Most bytes of a bookmark's name. A guest's can be longer: it is an event.
pub const MAX_BOOKMARK_NAME: usize = 64;
/// Most bookmarks of one recording, those of the guest not counted.
pub const MAX_BOOKMARKS: usize = 1 << 20;

/// A named position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bookmark {
    /// Its name: see [`check_bookmark_name`]. A guest's is any text.
    pub name: String,
    /// Where.
    pub position: Position,
    /// Guest time there in nanoseconds, if it is known.
    pub guest_time: Option<u64>,
    /// Who set it.
    pub origin: BookmarkOrigin,
}

/// Who set a bookmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BookmarkOrigin {
    /// The guest, as a [`Body::Bookmark`].
    Guest,
    /// The user at the console, while it was recorded.
    Key,
    /// A signal to the recorder.
    Signal,
    /// The recorder, each time so much guest time had passed.
    Every,
    /// The user, in the finished recording.
    Added,
}

impl BookmarkOrigin {
    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            BookmarkOrigin::Guest => "guest",
            BookmarkOrigin::Key => "key",
            BookmarkOrigin::Signal => "signal",
            BookmarkOrigin::Every => "every",
            BookmarkOrigin::Added => "added",
        }
    }
}

/// A bookmark that cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum BookmarkError {
    /// Its name is none.
    #[error(
        "{name:?} is no name for a bookmark: it takes a letter, then letters, digits, '-', '_' and '.', at most \
         {MAX_BOOKMARK_NAME} in all"
    )]
    Name {
        /// What was given.
        name: String,
    },
    /// Only the guest sets the guest's.
    #[error("bookmark {name} is the guest's: those are events")]
    Guests {
        /// Its name.
        name: String,
    },
    /// There are [`MAX_BOOKMARKS`].
    #[error("a recording holds at most {MAX_BOOKMARKS} bookmarks")]
    Full,
}

/// Whether `name` can be given to a bookmark: an ASCII letter, then ASCII letters, digits, `-`, `_` and `.`, at most
/// [`MAX_BOOKMARK_NAME`] in all. So none looks like a position, a time or an option.
///
/// # Errors
/// [`BookmarkError::Name`].
pub fn check_bookmark_name(name: &str) -> Result<(), BookmarkError> {
    let valid = name.len() <= MAX_BOOKMARK_NAME
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if valid { Ok(()) } else { Err(BookmarkError::Name { name: name.to_owned() }) }
}

impl Bookmark {
    /// The guest's, if `event` is one.
    pub(crate) fn of_event(event: Event) -> Option<Bookmark> {
        let Event { position, body: Body::Bookmark { name }, .. } = event else {
            return None;
        };
        Some(Bookmark { name, position, guest_time: None, origin: BookmarkOrigin::Guest })
    }

    /// Whether the file can hold it.
    pub(crate) fn check(&self) -> Result<(), BookmarkError> {
        match self.origin {
            BookmarkOrigin::Guest => Err(BookmarkError::Guests { name: self.name.clone() }),
            _ => check_bookmark_name(&self.name),
        }
    }
}

/// A bookmark among all of a recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The bookmark.
    pub bookmark: Bookmark,
    /// 1 for the first of its name, 2 for the second, ...
    pub number: u64,
}

impl Listed {
    /// What it is called: its name, with `#` and the number if it is not the first of that name.
    pub fn label(&self) -> impl fmt::Display {
        let Listed { bookmark: Bookmark { name, .. }, number } = self;
        fmt::from_fn(move |f| match number {
            1 => f.write_str(name),
            number => write!(f, "{name}#{number}"),
        })
    }
}

/// All bookmarks of a recording, by position; at one position the guest's first, the others as they were set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BookmarkList {
    all: Vec<Listed>,
}

impl BookmarkList {
    /// The guest's and the others, each in the order in which they were set.
    pub(crate) fn new(guests: &[Bookmark], others: &[Bookmark]) -> BookmarkList {
        let mut bookmarks: Vec<&Bookmark> = guests.iter().chain(others).collect();
        bookmarks.sort_by_key(|bookmark| bookmark.position);
        let mut numbers: BTreeMap<&str, u64> = BTreeMap::new();
        let all = bookmarks
            .into_iter()
            .map(|bookmark| {
                let number = numbers.entry(&bookmark.name).or_default();
                *number += 1;
                Listed { bookmark: bookmark.clone(), number: *number }
            })
            .collect();
        BookmarkList { all }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Listed> {
        self.all.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// What `label` means: `NAME` the first of that name, `NAME#2` the second. A guest may use a `#` in a name, and a
    /// bookmark that is named so goes first.
    pub fn find(&self, label: &str) -> Option<&Listed> {
        let named =
            |name: &str, number| self.all.iter().find(|it| it.number == number && it.bookmark.name == name);
        named(label, 1).or_else(|| {
            let (name, digits) = label.rsplit_once('#')?;
            // One way to write a number, so that each bookmark has one label.
            let canonical = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
            named(name, digits.parse().ok().filter(|_| canonical)?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let longest = "x".repeat(64);
        for name in ["a", "Z", "boot-done", "a.b_c-9", &longest] {
            check_bookmark_name(name).unwrap();
        }
        let longer = "x".repeat(65);
        for name in ["", "1s", "-a", ".a", "_a", "a b", "a#2", "a:1", "\u{e9}a", "a\u{e9}", "a/b", &longer] {
            assert!(matches!(check_bookmark_name(name), Err(BookmarkError::Name { .. })), "{name}");
        }
        assert_eq!(
            check_bookmark_name("1\n").unwrap_err().to_string(),
            "\"1\\n\" is no name for a bookmark: it takes a letter, then letters, digits, '-', '_' and '.', at most \
             64 in all"
        );
    }

    #[test]
    fn a_label_is_a_name_and_a_number() {
        let set = |name: &str, exit, origin| Bookmark {
            name: name.to_owned(),
            position: Position::exit(exit),
            guest_time: None,
            origin,
        };
        let guest = |name, exit| set(name, exit, BookmarkOrigin::Guest);
        let key = |name, exit| set(name, exit, BookmarkOrigin::Key);
        let guests = [guest("tick", 1), guest("tick", 5), guest("x#1", 6), guest("tick#2", 9)];
        let list = BookmarkList::new(&guests, &[key("tick", 5), key("tick", 3), key("a", 5)]);
        let lines: Vec<String> = list
            .iter()
            .map(|it| format!("{} {} {}", it.label(), it.bookmark.position, it.bookmark.origin.name()))
            .collect();
        assert_eq!(
            lines,
            [
                "tick exit:1 guest",
                "tick#2 exit:3 key",
                "tick#3 exit:5 guest",
                "tick#4 exit:5 key",
                "a exit:5 key",
                "x#1 exit:6 guest",
                "tick#2 exit:9 guest"
            ]
        );
        let exit = |label| list.find(label).map(|it| it.bookmark.position.exit);
        assert_eq!(
            ["tick", "tick#1", "tick#3", "tick#4", "a", "x#1"].map(exit),
            [Some(1), Some(1), Some(5), Some(5), Some(5), Some(6)]
        );
        assert_eq!(exit("tick#2"), Some(9), "the name goes first");
        for label in ["tick#5", "tick#0", "tick#03", "tick#+3", "tick#", "#1", "", "x", "b"] {
            assert_eq!(exit(label), None, "{label}");
        }
    }
}
