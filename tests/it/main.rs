//! Tests of the built binaries that need no virtual machine.

mod api;
mod build;
mod container;
mod debian;
mod diff;
mod export;
mod flatten;
mod inspect;
mod kernel;
mod language;
mod pull;
mod steps;
mod tidy;
mod workflows;
mod wrong;
