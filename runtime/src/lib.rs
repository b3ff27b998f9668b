//! imgrun: boots microVM bundles, runs commands in them, throws the machines away.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod error;
mod progress;
pub mod terminal;

pub use error::{Class, EXIT_NOT_RUN, EXIT_TIMED_OUT, Error, Result};
pub use progress::{Event, Progress, Stage, Unit};
