//! Which recording snapshots belong to.
//!
//! Its header's checksum would not do: it changes when markers are dropped ([`crate::shrink()`]), and snapshots need not.

use std::path::Path;

use super::chunk::Digest;
use super::error::SnapshotError;
use crate::error::OpenError;
use crate::header::{self, HeaderFile};
use crate::{HEADER_FILE, HEADER_NEW_FILE};

/// What the recording with that header is known by.
pub(super) fn identity(file: &HeaderFile) -> Option<Digest> {
    // It was decoded, so it can be encoded.
    file.header.identity().ok()
}

/// The identity of the recording in `dir`, if its header is `right`: the one that is in place or, if somebody is just
/// replacing it, the new one.
pub(super) fn of(dir: &Path, right: impl Fn(&HeaderFile) -> bool) -> Result<Digest, SnapshotError> {
    let path = dir.join(HEADER_FILE);
    let failed = |error: OpenError| SnapshotError::Recording(Box::new(error));
    let found = header::read(&path).map_err(failed)?;
    let new = || header::read(&dir.join(HEADER_NEW_FILE)).ok();
    let found = if right(&found) { Some(found) } else { new().filter(right) };
    found.as_ref().and_then(identity).ok_or_else(|| SnapshotError::Replaced { dir: dir.to_owned() })
}
