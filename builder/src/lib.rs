//! imgtool: turns OCI images, Debian bootstraps and tarballs into microVM bundles.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod cache;
pub mod compare;
pub mod date;
pub mod depot;
pub mod export;
pub mod finished;
pub mod image;
pub mod inject;
pub mod inspect;
pub mod kernel;
pub mod lint;
pub mod lock;
pub mod oci;
pub mod pack;
pub mod packages;
mod patience;
pub mod plan;
pub mod publish;
pub mod recipe;
pub mod render;
pub mod rootfs;
pub mod sbom;
pub mod sign;
pub mod source;
pub mod step;
pub mod tar;
pub mod trial;

pub use imgrun::{Class, Error, Result};
