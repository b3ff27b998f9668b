//! The programs that build a kernel: whether they are all there, and which versions they are.

use bundle::Arch;
use imgrun::{Tool, tool};

use crate::{Error, Result};

/// Programs that a kernel build needs, besides the compiler's own.
const PROGRAMS: &[&str] =
    &["make", "gcc", "ld", "strip", "flex", "bison", "bc", "xz", "perl", "date"];
/// What compresses a kernel, by the option that asks for it.
const COMPRESSORS: &[(&str, &str)] = &[
    ("GZIP", "gzip"),
    ("BZIP2", "bzip2"),
    ("LZMA", "xz"),
    ("XZ", "xz"),
    ("LZO", "lzop"),
    ("LZ4", "lz4"),
    ("ZSTD", "zstd"),
];
/// Headers that it needs, and their packages: all programs' own, and objtool's.
const HEADERS: &[(&str, &str)] = &[("stdio.h", "libc6-dev"), ("gelf.h", "libelf-dev")];

/// A compiler and linker for one architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Toolchain {
    /// `aarch64-linux-gnu-`, or nothing where it is the host's.
    pub(super) prefix: String,
    /// The first lines of `gcc --version` and `ld --version`: other versions, other bytes.
    pub(super) compiler: String,
    pub(super) linker: String,
}

impl Toolchain {
    /// Finds what is needed to build for `arch`, with or without patches.
    ///
    /// # Errors
    /// [`Class::Host`](crate::Class::Host), once for all that is missing, with the packages.
    pub(super) fn find(arch: Arch, patches: bool) -> Result<Toolchain> {
        let prefix = match arch {
            _ if arch == Arch::host() => String::new(),
            Arch::X86_64 => "x86_64-linux-gnu-".to_string(),
            Arch::Aarch64 => "aarch64-linux-gnu-".to_string(),
        };
        let cross = [format!("{prefix}gcc"), format!("{prefix}ld"), format!("{prefix}strip")];
        let patch = patches.then_some("patch");
        let programs =
            PROGRAMS.iter().copied().chain(patch).chain(cross.iter().map(String::as_str));
        let mut missing: Vec<(&str, &str)> = programs
            .filter(|p| tool::find(p).is_none())
            .map(|p| (p, tool::debian_package(p)))
            .collect();
        if tool::find("gcc").is_some() {
            missing.extend(HEADERS.iter().filter(|(header, _)| !has_header(header)));
        }
        if !missing.is_empty() {
            let (things, mut packages): (Vec<&str>, Vec<&str>) = missing.into_iter().unzip();
            packages.sort_unstable();
            packages.dedup();
            let things = things.join(", ");
            return Err(Error::host(format!("building a kernel needs {things}: not installed"))
                .hint(format!("apt-get install {}", packages.join(" "))));
        }
        Ok(Toolchain {
            compiler: first_line(&format!("{prefix}gcc"))?,
            linker: first_line(&format!("{prefix}ld"))?,
            prefix,
        })
    }
}

/// Whether the program is there with which `config` wants the kernel compressed.
///
/// # Errors
/// [`Class::Host`](crate::Class::Host), with the package.
pub(super) fn check_compressor(config: &str) -> Result<()> {
    let wanted = |option: &str| {
        let line = format!("CONFIG_KERNEL_{option}=y");
        config.lines().any(|l| l == line)
    };
    let programs = COMPRESSORS.iter().filter(|(option, _)| wanted(option));
    tool::require(&programs.map(|(_, program)| *program).collect::<Vec<_>>())
}

fn has_header(header: &str) -> bool {
    let args = ["-E", "-x", "c", "-include", header, "-o", "/dev/null", "/dev/null"];
    Tool::new("gcc").args(args).run().is_ok()
}

fn first_line(program: &str) -> Result<String> {
    let output = Tool::new(program).arg("--version").env("LC_ALL", "C").run()?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_found_or_not() {
        assert!(has_header("stdio.h"));
        assert!(!has_header("no-such-header-here.h"));
    }
}
