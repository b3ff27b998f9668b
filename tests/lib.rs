//! Drives the built binaries from the outside.
