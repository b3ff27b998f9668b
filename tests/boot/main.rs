//! Tests that boot machines, under whatever acceleration this host has. The images are those that
//! `tests/run` builds before.

mod aarch64;
#[cfg(target_arch = "x86_64")]
mod bare;
mod broken;
#[cfg(target_arch = "x86_64")]
mod confined;
mod containers;
mod debian;
mod fresh;
mod kept;
mod machines;
mod micro;
mod minimal;
mod network;
mod registry;
mod release;
mod snapshots;
mod steps;
mod trial;
mod uefi;
mod verbs;
mod volumes;

use std::path::PathBuf;

use imgtool_tests::repository;

/// An image that `tests/run` has built.
fn image(name: &str) -> PathBuf {
    let arch = std::env::consts::ARCH;
    let path = repository().join(format!("target/images/{name}-12-{arch}.tar.zst"));
    assert!(path.exists(), "{} is not built: run tests/run", path.display());
    path
}

fn image_arg(name: &str) -> String {
    image(name).display().to_string()
}
