//! Tests of the built binaries that need no virtual machine.

mod build;
mod debian;
mod flatten;
mod inspect;
mod kernel;
mod pull;
mod steps;
mod tidy;
mod wrong;
