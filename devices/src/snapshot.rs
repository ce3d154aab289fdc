//! Saving and restoring a device: its state is a type of its own, with a kind and a version.
//!
//! The kind and version travel beside the state in a recording, not inside the encoded blob, so a reader can refuse
//! by name what it does not know. A state read back from a file is untrusted and is checked field by field.

use std::fmt::{Debug, Display};

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// A device whose whole state can be taken out and put back.
///
/// `restore(save())` into a device of the same configuration gives a device that cannot be told from the first.
/// Equal devices have equal encoded states, so the encoded state can be hashed as the device's digest.
pub trait Snapshot {
    /// Name of the device in recordings and messages.
    const KIND: &'static str;
    /// Version of [`State`](Snapshot::State); any change of its shape or meaning is a new version.
    const VERSION: u16;
    /// The saved state.
    type State: Serialize + DeserializeOwned + Clone + Debug + PartialEq + Eq;

    /// The device's whole state.
    fn save(&self) -> Self::State;

    /// Replaces the device's state.
    ///
    /// # Errors
    /// [`RestoreError`] if the state is inconsistent or belongs to a device of another configuration. The device is
    /// then unchanged.
    fn restore(&mut self, state: Self::State) -> Result<(), RestoreError>;
}

/// Why a saved state was refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RestoreError {
    /// A field holds a value the device can never have.
    #[error("saved state of {device}: {field} is {value}, but must be {expected}")]
    Invalid {
        /// [`Snapshot::KIND`] of the device.
        device: &'static str,
        /// The field.
        field: &'static str,
        /// The value found.
        value: String,
        /// What it should have been.
        expected: &'static str,
    },
    /// The state was saved by a device that was configured otherwise.
    #[error("saved state of {device} has {field} {saved}, but this machine's device has {configured}")]
    Configuration {
        /// [`Snapshot::KIND`] of the device.
        device: &'static str,
        /// The property that differs.
        field: &'static str,
        /// Its value in the saved state.
        saved: String,
        /// Its value in the device to be restored.
        configured: String,
    },
}

/// Refuses a field's value unless `ok`.
pub(crate) fn require(
    ok: bool,
    device: &'static str,
    field: &'static str,
    value: impl Display,
    expected: &'static str,
) -> Result<(), RestoreError> {
    if ok {
        return Ok(());
    }
    Err(RestoreError::Invalid { device, field, value: value.to_string(), expected })
}

/// Refuses a state whose configuration is not the device's.
pub(crate) fn require_same<T: PartialEq + Debug>(
    device: &'static str,
    field: &'static str,
    saved: &T,
    configured: &T,
) -> Result<(), RestoreError> {
    if saved == configured {
        return Ok(());
    }
    Err(RestoreError::Configuration {
        device,
        field,
        saved: format!("{saved:?}"),
        configured: format!("{configured:?}"),
    })
}
