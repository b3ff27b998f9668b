//! imgrun: boots microVM bundles, runs commands in them, throws the machines away.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod error;
pub mod interrupt;
mod progress;
pub mod terminal;
pub mod tool;

pub use error::{Class, EXIT_NOT_RUN, EXIT_TIMED_OUT, Error, Result};
pub use progress::{Event, Progress, Stage, Unit};
pub use tool::Tool;
