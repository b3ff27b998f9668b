//! imgtool: turns OCI images, Debian bootstraps and tarballs into microVM bundles.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod kernel;

pub use imgrun::{Class, Error, Result};
