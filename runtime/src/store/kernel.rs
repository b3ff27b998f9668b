//! Which kernel an image boots.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use bundle::{Arch, Kind, Reference};

use super::{Hold, Store, Stored};
use crate::{Cancel, Class, Error, Progress, Result};

/// Bytes of an ELF header up to and with `e_machine`, and of an `Image`'s up to and with its magic
/// (the kernel's Documentation/arm64/booting.rst).
const HEAD_BYTES: usize = 60;

/// The name of the kernel for images that name none.
pub const KERNEL_DEFAULT: &str = "generic-6.1";

/// A guest kernel to boot: an uncompressed ELF file, on aarch64 an `Image`.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The file.
    pub vmlinux: PathBuf,
    /// How people name it: `name:version`, or the file's path.
    pub title: String,
    /// Keeps the store's bundle, where it is one, from being collected.
    pub hold: Option<Hold>,
}

impl Store {
    /// The kernel for `image`: `override_file` where given (an ELF file or a kernel bundle), else
    /// the bundle that the image's manifest names by digest, from the store or from the directory
    /// `beside` (where the image's packed file lay), from which it is then imported. An image that
    /// names none gets [`Store::default_kernel`].
    ///
    /// # Errors
    /// `Input` where there is no such kernel or the file is not one; `Trust` where the file that
    /// carries the kernel's name has another digest.
    pub fn kernel(
        &self,
        image: &Stored,
        override_file: Option<&Path>,
        beside: Option<&Path>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Kernel> {
        let arch = image.manifest.arch;
        if let Some(file) = override_file {
            return self.kernel_from(file, arch, progress, cancel);
        }
        let wanted = image.manifest.kernel.as_ref();
        let Some(wanted) = wanted else {
            let default = self.default_kernel(arch, progress)?;
            let default = default.ok_or_else(|| no_default(arch))?;
            return usable(&default, arch);
        };
        if let Some(stored) = self.by_digest(wanted.digest)? {
            return usable(&stored, arch);
        }
        let file = file_name(wanted, arch);
        let candidate = beside.map(|dir| dir.join(&file)).filter(|path| path.exists());
        let Some(candidate) = candidate else {
            return Err(Error::input(format!(
                "the kernel of {}, {file} ({}), was not imported",
                image.title(),
                wanted.digest.short()
            ))
            .hint(format!("import it (imgrun import {file}), or give one: --kernel FILE")));
        };
        let found = self
            .import_expecting(&candidate, Some(wanted.digest), progress, cancel)
            .map_err(|e| match e.class() {
                Class::Trust => e.hint("the image was built for another build of this kernel"),
                _ => e,
            })?
            .bundle;
        usable(&found, arch)
    }

    /// The kernel for images that name none: the one called [`KERNEL_DEFAULT`] that came last.
    ///
    /// # Errors
    /// Where the store can not be read.
    pub fn default_kernel(&self, arch: Arch, progress: &Progress) -> Result<Option<Stored>> {
        let mut all = self.list(progress)?;
        all.retain(|s| {
            let m = &s.manifest;
            m.kind == Kind::Kernel && m.name.as_str() == KERNEL_DEFAULT && m.arch == arch
        });
        Ok(all.into_iter().max_by_key(|s| (s.imported, s.digest)))
    }

    fn kernel_from(
        &self,
        file: &Path,
        arch: Arch,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Kernel> {
        let open = || {
            let mut head = Vec::new();
            File::open(file)?.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
            Ok(head)
        };
        let head = open().map_err(|e| Error::io(file.display(), e))?;
        let is_arm_image = head.get(56..60) == Some(b"ARM\x64");
        if !head.starts_with(b"\x7fELF") && !is_arm_image {
            let stored = self.import(file, progress, cancel)?.bundle;
            return usable(&stored, arch).map_err(|e| e.within(file.display()));
        }
        let machine = head.get(18..20).map(|m| u16::from_le_bytes([m[0], m[1]]));
        let fits = match arch {
            Arch::Aarch64 => is_arm_image,
            Arch::X86_64 => machine == Some(arch.elf_machine()),
        };
        if !fits {
            return Err(Error::input(format!("{}: not a kernel for {arch}", file.display())));
        }
        let vmlinux = file.canonicalize().map_err(|e| Error::io(file.display(), e))?;
        Ok(Kernel { vmlinux, title: file.display().to_string(), hold: None })
    }
}

/// There is no kernel for an image that names none.
pub(crate) fn no_default(arch: Arch) -> Error {
    let what = format!("no kernel {KERNEL_DEFAULT} for {arch} is here to boot it with");
    Error::input(what).hint(format!(
        "import one (imgrun import {KERNEL_DEFAULT}-….tar.zst), pull one (imgrun pull \
         {KERNEL_DEFAULT}), or give one: --kernel FILE"
    ))
}

fn usable(stored: &Stored, arch: Arch) -> Result<Kernel> {
    let manifest = &stored.manifest;
    if manifest.kind != Kind::Kernel {
        return Err(Error::input(format!("{} is not a kernel", stored.title())));
    }
    if manifest.arch != arch {
        return Err(Error::input(format!(
            "the kernel {} is for {}, the image for {arch}",
            stored.title(),
            manifest.arch
        )));
    }
    let hold = Some(stored.hold()?);
    Ok(Kernel { vmlinux: stored.path(arch.kernel_file()), title: stored.title(), hold })
}

fn file_name(kernel: &Reference, arch: Arch) -> String {
    format!("{}-{}-{arch}.tar.zst", kernel.name, kernel.version)
}
