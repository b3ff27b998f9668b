//! A finished kernel in the cache: a directory that appears whole, by one rename.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use bundle::{Arch, Blob, Digest, HashingReader, Kind, Manifest, Name, Packing, Source, Version};
use imgrun::{Progress, Unit};
use serde::Serialize;
use tempfile::NamedTempFile;

use super::build::Built;
use super::toolchain::Toolchain;
use super::{BuiltKernel, Inputs};
use crate::cache::Cache;
use crate::pack::digest_of;
use crate::{Error, Result};

/// zstd's: 19 is the last one that needs no more memory to unpack.
const LEVEL: i32 = 19;
/// Frames are long: two kernels have little in common, so that small ones would only cost.
const FRAME_BYTES: u32 = 1 << 20;
/// The file beside the bundle that holds its digest.
const DIGEST_NAME: &str = "digest";

/// Where one kernel is or will be.
pub(super) struct Entry {
    dir: PathBuf,
    kernel: BuiltKernel,
}

/// `build.json`: what the kernel was made of, for people and for a rebuild.
#[derive(Serialize)]
struct BuildInfo<'a> {
    name: &'a str,
    version: &'a str,
    arch: &'a str,
    source: String,
    source_digest: Digest,
    config_digest: Digest,
    fragments: Vec<FragmentInfo<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    patches: Vec<FragmentInfo<'a>>,
    compiler: &'a str,
    linker: &'a str,
    procedure: u32,
    /// The key of all of the above.
    key: Digest,
}

#[derive(Serialize)]
struct FragmentInfo<'a> {
    name: &'a str,
    digest: Digest,
}

/// What a kernel's bundle holds and says of itself.
pub(super) struct Content {
    /// Files to boot: names in the bundle, in its order.
    pub(super) boot: Vec<(&'static str, PathBuf)>,
    pub(super) config: Option<String>,
    /// `build.json`.
    pub(super) info: Vec<u8>,
    pub(super) source: Source,
    /// The digest of what a person wrote, or brought.
    pub(super) recipe: Digest,
}

impl Entry {
    /// Of a kernel that is built from `inputs`.
    pub(super) fn of(kernels: &Path, inputs: &Inputs, toolchain: &Toolchain) -> Entry {
        let config = &inputs.config;
        let key = inputs.key(toolchain);
        Entry::new(kernels, key, config.name.clone(), config.version.clone(), inputs.arch)
    }

    /// Of the kernel whose inputs are `key`.
    pub(super) fn new(
        kernels: &Path,
        key: Digest,
        name: Name,
        version: Version,
        arch: Arch,
    ) -> Entry {
        let dir = kernels.join(key.hex());
        let bundle_path = dir.join(format!("{name}-{version}-{arch}.tar.zst"));
        Entry { dir, kernel: BuiltKernel { bundle_path, digest: key, name, version, arch } }
    }

    /// Its directory.
    pub(super) fn dir(&self) -> PathBuf {
        self.dir.clone()
    }

    /// Keeps it from being pruned.
    pub(super) fn hold(&self, cache: &Cache) -> Result<()> {
        cache.hold(&self.dir)
    }

    /// The kernel, if it is there and its bytes are still those that were put there.
    pub(super) fn find(&self, cache: &Cache) -> Option<BuiltKernel> {
        self.hold(cache).ok()?;
        let wanted = note(&self.dir)?;
        let mut reader = HashingReader::new(File::open(&self.kernel.bundle_path).ok()?);
        std::io::copy(&mut reader, &mut std::io::sink()).ok()?;
        let (digest, _) = reader.finish();
        (digest == wanted).then(|| BuiltKernel { digest, ..self.kernel.clone() })
    }

    /// Packs what was built and puts it there. The caller holds the kernel's lock.
    pub(super) fn publish(
        &self,
        inputs: &Inputs,
        toolchain: &Toolchain,
        built: Built,
        progress: &Progress,
    ) -> Result<BuiltKernel> {
        let content = Content {
            info: self.build_info(inputs, toolchain)?,
            boot: built.boot,
            config: Some(built.config),
            source: Source {
                name: inputs.config.source.title(),
                digest: inputs.config.source.digest,
            },
            recipe: inputs.config_digest,
        };
        self.put(&content, progress)
    }

    /// Packs `content` and puts it there.
    pub(super) fn put(&self, content: &Content, progress: &Progress) -> Result<BuiltKernel> {
        let failed = |e| Error::io(self.dir.display(), e);
        let parent = self.dir.parent().unwrap_or(Path::new("."));
        let draft = tempfile::Builder::new()
            .prefix(".kernel-")
            .tempdir_in(parent)
            .map_err(|e| Error::io(parent.display(), e))?;
        let name = self.kernel.bundle_path.file_name().unwrap_or_default();
        let mut options = File::options();
        options.read(true).write(true).create_new(true);
        let file = options.open(draft.path().join(name)).map_err(failed)?;
        let (file, digest) = self.pack(content, file, progress)?;
        file.sync_all().map_err(failed)?;
        let mut note = File::create_new(draft.path().join(DIGEST_NAME)).map_err(failed)?;
        writeln!(note, "{digest}").and_then(|()| note.sync_all()).map_err(failed)?;
        if self.dir.exists() {
            // Damaged, or it would have been found.
            fs::remove_dir_all(&self.dir).map_err(failed)?;
        }
        fs::rename(draft.path(), &self.dir).map_err(failed)?;
        // It has another name now; nothing is left to remove.
        let _ = draft.keep();
        File::open(parent).and_then(|dir| dir.sync_all()).map_err(failed)?;
        Ok(BuiltKernel { digest, ..self.kernel.clone() })
    }

    fn pack(&self, content: &Content, out: File, progress: &Progress) -> Result<(File, Digest)> {
        let mut contents: Vec<bundle::Content<Box<dyn Read>>> = Vec::new();
        for (name, path) in &content.boot {
            let failed = |e| Error::io(path.display(), e);
            let file = File::open(path).map_err(failed)?;
            let size = file.metadata().map_err(failed)?.len();
            contents.push(bundle::Content::new(*name, Box::new(BufReader::new(file)), size));
        }
        let config = content.config.as_ref().map(|config| ("config", config.as_bytes()));
        for (name, bytes) in config.into_iter().chain([("build.json", &*content.info)]) {
            contents.push(bundle::Content::new(name, Box::new(bytes), bytes.len() as u64));
        }
        let manifest = Manifest {
            schema: bundle::SCHEMA,
            kind: Kind::Kernel,
            name: self.kernel.name.clone(),
            version: self.kernel.version.clone(),
            arch: self.kernel.arch,
            files: Vec::new(),
            frames: Blob::of([]),
            boot: None,
            kernel: None,
            agent: None,
            sources: vec![content.source.clone()],
            recipe: content.recipe,
            lock: None,
            packages: Vec::new(),
            tool: concat!("imgtool ", env!("CARGO_PKG_VERSION")).to_string(),
            tests: Vec::new(),
        };
        let total = contents.iter().map(|content| content.size).sum();
        let stage = progress.stage("pack the kernel", Unit::Bytes, Some(total));
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let packing = Packing { level: LEVEL, average_bytes: FRAME_BYTES, threads };
        let failed = |e: &dyn std::fmt::Display| Error::host(format!("pack the kernel: {e}"));
        let (out, outline) =
            bundle::pack(manifest, contents, BufWriter::new(out), &packing, |n| stage.add(n))
                .map_err(|e| failed(&e))?;
        let file = out.into_inner().map_err(|e| failed(&e))?;
        let digest = digest_of(&file).map_err(|e| failed(&e))?;
        let bytes = outline.packed_bytes();
        stage.finish(format!("{bytes} bytes, {digest}"));
        Ok((file, digest))
    }

    fn build_info(&self, inputs: &Inputs, toolchain: &Toolchain) -> Result<Vec<u8>> {
        let named = |name, digest| FragmentInfo { name, digest };
        let info = BuildInfo {
            name: self.kernel.name.as_str(),
            version: self.kernel.version.as_str(),
            arch: self.kernel.arch.name(),
            source: inputs.config.source.title(),
            source_digest: inputs.config.source.digest,
            config_digest: inputs.config_digest,
            fragments: inputs.fragments.iter().map(|(n, d)| named(n.as_str(), *d)).collect(),
            patches: inputs.patches.iter().map(|p| named(&p.name, Digest::of(&p.text))).collect(),
            compiler: &toolchain.compiler,
            linker: &toolchain.linker,
            procedure: super::PROCEDURE,
            key: inputs.key(toolchain),
        };
        json(&info)
    }
}

/// As bytes: pretty JSON with a newline.
pub(super) fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut json = serde_json::to_vec_pretty(value)
        .map_err(|e| Error::bug("build.json can not be written").because(e))?;
    json.push(b'\n');
    Ok(json)
}

/// The digest of the bundle in an entry's directory, as it was put there.
pub(super) fn note(dir: &Path) -> Option<Digest> {
    fs::read_to_string(dir.join(DIGEST_NAME)).ok()?.trim().parse().ok()
}

/// A file in `dir` that is removed unless it gets its final name. Readable as other files are:
/// a temporary file's own mode is 0600.
pub(super) fn partial_file(dir: &Path) -> Result<NamedTempFile> {
    use std::os::unix::fs::PermissionsExt as _;
    tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(dir)
        .map_err(|e| Error::io(dir.display(), e))
}
