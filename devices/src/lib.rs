//! Pure device models: no file descriptor, no clock, no thread inside.
