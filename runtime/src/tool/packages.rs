//! Which Debian package a program is in, and whether it is here.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Which Debian package holds a program that is not called like its package.
const PACKAGES: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("qemu-system-aarch64", "qemu-system-arm"),
    ("qemu-img", "qemu-utils"),
    ("xz", "xz-utils"),
    ("ld", "binutils"),
    ("strip", "binutils"),
    ("objcopy", "binutils"),
    ("dpkg-deb", "dpkg"),
    ("apt-get", "apt"),
    ("mke2fs", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
    ("debugfs", "e2fsprogs"),
    ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
    ("aarch64-linux-gnu-ld", "binutils-aarch64-linux-gnu"),
    ("aarch64-linux-gnu-strip", "binutils-aarch64-linux-gnu"),
];

/// The Debian package that holds `program`.
pub fn debian_package(program: &str) -> &str {
    PACKAGES.iter().find(|(p, _)| *p == program).map_or(program, |(_, package)| package)
}

/// Where `program` is on `PATH`, if it is.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|p| is_program(p))
}

fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// One error for all of `programs` that are missing, with the packages to install.
///
/// # Errors
/// [`Class::Host`](crate::Class::Host) where any is missing.
pub fn require(programs: &[&str]) -> Result<()> {
    let missing: Vec<&str> = programs.iter().copied().filter(|p| find(p).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().map(|p| debian_package(p)).collect();
    packages.sort_unstable();
    packages.dedup();
    Err(Error::host(format!("missing programs: {}", missing.join(", ")))
        .hint(format!("apt-get install {}", packages.join(" "))))
}
