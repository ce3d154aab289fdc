//! Changing the bookmarks of a finished recording.

use std::path::Path;

use super::file::Encoder;
use super::{Bookmark, BookmarkError, BookmarkList, BookmarkOrigin, Listed, MAX_BOOKMARKS};
use crate::edit::{self, EditError, EditLock};
use crate::reader::Recording;
use crate::{BOOKMARKS_FILE, BOOKMARKS_NEW_FILE};

/// The bookmarks of a recording that nobody writes any more, open to be changed. Nobody else can change them meanwhile.
///
/// Each change is in the file, whole, when the method is back; a kill leaves the file as it was before or as it is after.
#[derive(Debug)]
pub struct Bookmarks {
    recording: Recording,
    guests: Vec<Bookmark>,
    others: Vec<Bookmark>,
    _lock: EditLock,
}

impl Bookmarks {
    /// Opens those of the recording in directory `dir`, and waits for another program that changes it.
    ///
    /// # Errors
    /// If it cannot be read, or its recorder lives.
    pub fn open(dir: &Path) -> Result<Bookmarks, EditError> {
        let (lock, recording) = edit::open(dir)?;
        let (guests, others) = recording.bookmarks_apart()?;
        Ok(Bookmarks { recording, guests, others, _lock: lock })
    }

    /// All of them.
    pub fn list(&self) -> BookmarkList {
        BookmarkList::new(&self.guests, &self.others)
    }

    /// Adds one.
    ///
    /// # Errors
    /// If its name is none or taken, the recording does not go there, or the file cannot be written.
    pub fn add(&mut self, bookmark: Bookmark) -> Result<(), EditError> {
        bookmark.check()?;
        if let Some(there) = self.list().find(&bookmark.name) {
            let position = there.bookmark.position;
            return Err(EditError::NameTaken { name: bookmark.name, position });
        }
        let (position, start) = (bookmark.position, self.recording.start().position);
        let end = self.recording.last().map_or(start, |event| event.position);
        if !(start..=end).contains(&position) {
            return Err(EditError::OutOfRange { position, start, end });
        }
        if self.others.len() >= MAX_BOOKMARKS {
            return Err(BookmarkError::Full.into());
        }
        let mut others = self.others.clone();
        let behind = others.partition_point(|other| other.position <= position);
        others.insert(behind, bookmark);
        self.write(others)
    }

    /// Removes what `label` means (see [`BookmarkList::find`]) and gives it back. The guest's cannot be removed: a replay
    /// sees the guest set them.
    ///
    /// # Errors
    /// If there is none, it is the guest's, or the file cannot be written.
    pub fn remove(&mut self, label: &str) -> Result<Bookmark, EditError> {
        let removed = self.remove_all(&[label])?.pop();
        removed.ok_or_else(|| self.no_such(label))
    }

    /// Removes what all of these labels mean, in one step, and gives them back in that order. A label that is there twice
    /// counts once.
    ///
    /// # Errors
    /// As [`Bookmarks::remove`]. None is removed then.
    pub fn remove_all<T: AsRef<str>>(&mut self, labels: &[T]) -> Result<Vec<Bookmark>, EditError> {
        let list = self.list();
        let mut found: Vec<&Listed> = Vec::new();
        for label in labels.iter().map(AsRef::as_ref) {
            let listed = list.find(label).ok_or_else(|| self.no_such(label))?;
            if listed.bookmark.origin == BookmarkOrigin::Guest {
                return Err(EditError::SetByGuest { name: label.to_owned() });
            }
            if !found.contains(&listed) {
                found.push(listed);
            }
        }
        let mut others = self.others.clone();
        for Listed { bookmark, .. } in &found {
            // Equal ones are equal: the first of them will do.
            if let Some(at) = others.iter().position(|other| other == bookmark) {
                others.remove(at);
            }
        }
        if !found.is_empty() {
            self.write(others)?;
        }
        Ok(found.into_iter().map(|listed| listed.bookmark.clone()).collect())
    }

    fn no_such(&self, label: &str) -> EditError {
        EditError::NoSuchBookmark { path: self.recording.dir().to_owned(), name: label.to_owned() }
    }

    fn write(&mut self, others: Vec<Bookmark>) -> Result<(), EditError> {
        let dir = self.recording.dir();
        let path = dir.join(BOOKMARKS_FILE);
        if others.is_empty() {
            edit::remove(&path)?;
        } else {
            let new = dir.join(BOOKMARKS_NEW_FILE);
            let bytes = encode(self.recording.header_crc(), &others).map_err(EditError::io("write", &new))?;
            edit::write_new(&new, &bytes)?;
            edit::replace(&new, &path)?;
        }
        self.others = others;
        Ok(())
    }
}

/// A closed file of these bookmarks.
pub(crate) fn encode(recording: u32, bookmarks: &[Bookmark]) -> std::io::Result<Vec<u8>> {
    let mut encoder = Encoder::new(recording);
    bookmarks.iter().try_for_each(|bookmark| encoder.push(bookmark))?;
    encoder.end()?;
    Ok(encoder.out)
}
