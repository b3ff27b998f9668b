//! imgtool: turns OCI images, Debian bootstraps and tarballs into microVM bundles.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod compare;
pub mod depot;
pub mod export;
pub mod finished;
pub mod inspect;
pub mod kernel;
pub mod lint;
pub mod lock;
pub mod pack;
pub mod plan;
pub mod publish;
pub mod recipe;
pub mod render;
pub mod sign;
pub mod source;
pub mod step;
pub mod trial;

use imgrun::patience;
pub use imgrun::{Class, Error, Result};
pub use imgrun::{cache, date, image, inject, oci, packages, rootfs, sbom, tar};
