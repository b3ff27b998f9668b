//! A kernel that lies in a directory, as somebody else's build or distribution left it.
//!
//! ```text
//! vmlinux | vmlinux-*     an uncompressed ELF file; on aarch64 Image | Image-*
//! bzImage | bzImage-*     the same for boot loaders         \
//! initrd | initrd*        early user space                   | if they are there
//! modules.tar             /lib/modules                       |
//! config | config-*       what it was configured with       /
//! metadata.json           {"name": …, "version": …, "arch": …}, where no flags say it
//! ```
//! It becomes a bundle like any other: packed, then imported. Equal files give equal bundles.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use bundle::{
    Arch, Blob, Content, Digest, HashingReader, Kind, Manifest, Name, Packing, SCHEMA, Source,
    Version,
};
use serde::Deserialize;

use super::{Imported, Store, threads};
use crate::lease::Lease;
use crate::{Cancel, Error, Progress, Result};

/// zstd's level: the packed file is thrown away.
const LEVEL: i32 = 1;
/// Frames are about so long.
const FRAME_BYTES: u32 = 1 << 20;
/// `metadata.json` is at most this long.
const METADATA_BYTES_MAX: u64 = 1 << 20;

/// What a person says of a kernel.
#[derive(Clone, Debug, Default)]
pub struct KernelNaming {
    /// Its name.
    pub name: Option<Name>,
    /// Its version.
    pub version: Option<Version>,
    /// For which machine.
    pub arch: Option<Arch>,
}

#[derive(Default, Deserialize)]
struct Metadata {
    name: Option<Name>,
    version: Option<Version>,
    arch: Option<Arch>,
}

impl Store {
    /// Takes the kernel in the directory `dir` into the store.
    ///
    /// # Errors
    /// `Input` where there is no kernel, or several, or nothing says what it is called.
    pub fn import_kernel(
        &self,
        dir: &Path,
        naming: &KernelNaming,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Imported> {
        let wrong = |why: &str| Error::input(format!("{}: {why}", dir.display()));
        let metadata = metadata(dir)?;
        let arch = naming.arch.or(metadata.arch).unwrap_or(Arch::host());
        let name = naming.name.clone().or(metadata.name);
        let name = name.ok_or_else(|| wrong("nothing says its name").hint("--name NAME"))?;
        let version = naming.version.clone().or(metadata.version);
        let version =
            version.ok_or_else(|| wrong("nothing says its version").hint("--version VERSION"))?;
        let mut files = Vec::new();
        for known in Kind::Kernel.files() {
            files.extend(find(dir, known)?.map(|path| (*known, path)));
        }
        let kernel = arch.kernel_file();
        if !files.iter().any(|(known, _)| *known == kernel) {
            return Err(wrong(&format!("there is no {kernel} in it"))
                .hint("imgtool kernel import takes compressed kernels, too"));
        }
        let mut recipe = bundle::Hasher::new();
        for (known, path) in &files {
            cancel.check()?;
            recipe.field(known);
            recipe.field(digest(path)?.as_bytes());
        }
        let recipe = recipe.finish();
        let manifest = Manifest {
            schema: SCHEMA,
            kind: Kind::Kernel,
            name,
            version,
            arch,
            files: vec![],
            frames: Blob::of([]),
            boot: None,
            kernel: None,
            agent: None,
            sources: vec![Source { name: "directory".to_string(), digest: recipe }],
            recipe,
            lock: None,
            packages: vec![],
            tool: concat!("imgrun ", env!("CARGO_PKG_VERSION")).to_string(),
            tests: vec![],
        };
        let lease = Lease::create(&self.staging())?;
        let packed = lease.path().join(manifest.file_name());
        let out = File::create(&packed).map_err(|e| Error::io(packed.display(), e))?;
        let contents = files.iter().map(|(known, path)| {
            let about = |e| Error::io(path.display(), e);
            let file = File::open(path).map_err(about)?;
            let size = file.metadata().map_err(about)?.len();
            Ok(Content::new(*known, BufReader::new(file), size))
        });
        let contents = contents.collect::<Result<Vec<_>>>()?;
        let packing = Packing { level: LEVEL, average_bytes: FRAME_BYTES, threads: threads() };
        bundle::pack(manifest, contents, out, &packing, |_| {})
            .map_err(|e| Error::from(e).within(dir.display()))?;
        self.import(&packed, progress, cancel)
    }
}

fn metadata(dir: &Path) -> Result<Metadata> {
    let path = dir.join("metadata.json");
    let about = |e| Error::io(path.display(), e);
    match path.metadata() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Metadata::default()),
        Err(e) => return Err(about(e)),
        Ok(m) if m.len() > METADATA_BYTES_MAX => {
            return Err(Error::input(format!("{}: too long", path.display())));
        }
        Ok(_) => {}
    }
    let json = fs::read(&path).map_err(about)?;
    serde_json::from_slice(&json).map_err(|e| Error::input(format!("{}: {e}", path.display())))
}

/// The file called `known`, or else the only one that begins so: `initrd.img-6.1.0-40-amd64`.
fn find(dir: &Path, known: &str) -> Result<Option<PathBuf>> {
    let exact = dir.join(known);
    if exact.is_file() {
        return Ok(Some(exact));
    }
    let about = |e| Error::io(dir.display(), e);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(about)? {
        let path = entry.map_err(about)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let rest = name.strip_prefix(known);
        if rest.is_some_and(|rest| rest.starts_with(['-', '.'])) && path.is_file() {
            found.push(path);
        }
    }
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        _ => Err(Error::input(format!("{}: several files are called {known}-…", dir.display()))
            .hint(format!("call the one that is meant {known}"))),
    }
}

fn digest(path: &Path) -> Result<Digest> {
    let about = |e| Error::io(path.display(), e);
    let mut reader = HashingReader::new(File::open(path).map_err(about)?);
    std::io::copy(&mut reader, &mut std::io::sink()).map_err(about)?;
    Ok(reader.finish().0)
}
