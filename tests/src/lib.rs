//! Helpers for the whole-VM tests.
