//! From a plan to a bundle: flatten into an image, describe it, pack it.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bundle::{AgentInfo, Boot, Digest, FileEntry, HashingReader, HashingWriter, Kind, Manifest};
use imgrun::{Progress, Unit, interrupt};
use tempfile::NamedTempFile;

use crate::plan::Plan;
use crate::rootfs::{Flatten, image_error};
use crate::source::{Pipe, into_error};
use crate::{Error, Result, inject};

/// zstd's level: 3 is where more time stops to buy much (field figures in ARCHITECTURE.md).
const COMPRESSION_LEVEL: i32 = 3;
/// The image is read back in pieces of this size.
const READ_BYTES: usize = 1 << 20;

/// A root file system in a temporary file.
#[derive(Debug)]
pub struct Image {
    file: NamedTempFile,
    /// Its length in bytes.
    pub bytes: u64,
    /// Inodes in it.
    pub inodes: u64,
}

/// A bundle on disk.
#[derive(Clone, Debug)]
pub struct Packed {
    /// Where it is.
    pub path: PathBuf,
    /// The digest of the packed file: the bundle's name.
    pub digest: Digest,
    /// The packed file's length in bytes.
    pub bytes: u64,
    /// What it says of itself.
    pub manifest: Manifest,
}

impl Image {
    /// Flattens the plan's layers into a new image in `directory`.
    ///
    /// # Errors
    /// On a layer that is damaged or refused, naming it; where the image can not be written.
    pub fn flatten(plan: &Plan, directory: &Path, progress: &Progress) -> Result<Self> {
        let about = |e| Error::io(directory.display(), e);
        let file = tempfile::Builder::new()
            .prefix(".imgtool-")
            .suffix(".ext4")
            .tempfile_in(directory)
            .map_err(about)?;
        let seed = plan.digest();
        let (uuid, hash_seed) = seed.as_bytes().split_at(16);
        let options = ext4::Options {
            size_bytes: plan.size_bytes,
            reserve_bytes: plan.reserve_bytes,
            uuid: version_8_uuid(uuid),
            hash_seed: std::array::from_fn(|i| hash_seed[i]),
            label: plan.label.clone(),
            ..ext4::Options::default()
        };
        let out = file.reopen().map_err(about)?;
        let mut writer = ext4::Writer::new(out, options).map_err(image_error)?;
        let epoch = plan.epoch.map(|epoch| i64::try_from(epoch).unwrap_or(i64::MAX));
        let mut flatten = Flatten::new(&mut writer, epoch);
        let made = plan.epoch.unwrap_or(0);
        let above = plan.agent.layer(plan.init, made).map_err(|e| Error::io("the agent", e))?;
        let below = inject::mount_points(made).map_err(|e| Error::io("mount points", e))?;

        flatten.layer("the agent", || Ok(&above[..]))?;
        let total = plan.layers.iter().map(|layer| layer.bytes).sum();
        let stage = progress.stage("flatten", Unit::Bytes, Some(total));
        let mut pipes = Ahead::new(&plan.layers)?;
        for layer in plan.layers.iter().rev() {
            let mut first = pipes.next()?;
            flatten.layer(&layer.origin, || {
                interrupt::check()?;
                first.take().map_or_else(|| Pipe::start(layer), Ok)
            })?;
            stage.add(layer.bytes);
        }
        flatten.layer("the mount points", || Ok(&below[..]))?;
        let entries = flatten.entries();
        let tree = flatten.finish()?;
        let (_, summary) = writer.finish(&tree).map_err(image_error)?;
        stage.finish(format!("{entries} entries, image of {} MiB", summary.bytes >> 20));
        Ok(Image { file, bytes: summary.bytes, inodes: summary.inodes })
    }

    /// Where it is; gone with this value.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Packs the image with its manifest into `directory`, under the manifest's file name.
    ///
    /// # Errors
    /// Where the bundle can not be written; an older one of that name is then still whole.
    pub fn pack(mut self, plan: &Plan, directory: &Path, progress: &Progress) -> Result<Packed> {
        let digest =
            digest_of(self.file.as_file_mut()).map_err(|e| into_error("read the image back", e))?;
        let manifest = manifest(
            plan,
            FileEntry { name: Kind::Image.files()[0].to_string(), digest, size: self.bytes },
        );
        let path = directory.join(manifest.file_name());
        let stage = progress.stage("pack", Unit::Bytes, Some(self.bytes));
        let draft = tempfile::Builder::new()
            .prefix(".imgtool-")
            .suffix(".partial")
            .tempfile_in(directory)
            .map_err(|e| Error::io(directory.display(), e))?;
        let image = self.file.as_file_mut();
        image.seek(SeekFrom::Start(0)).map_err(|e| Error::io("the image", e))?;
        let out = HashingWriter::new(BufWriter::new(draft));
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let image = Interruptible(image);
        let out = bundle::pack(&manifest, [image], out, COMPRESSION_LEVEL, threads, |n| {
            stage.add(n);
        })
        .map_err(|e| pack_error(&path, e))?;
        let (out, digest, bytes) = out.finish();
        let draft = out.into_inner().map_err(|e| Error::io(path.display(), e.into_error()))?;
        publish(draft, &path)?;
        stage.finish(format!("{} MiB, {digest}", bytes >> 20));
        Ok(Packed { path, digest, bytes, manifest })
    }
}

/// Starts to decompress the next layer while the current one is laid.
struct Ahead<'l> {
    layers: std::iter::Rev<std::slice::Iter<'l, crate::source::Layer>>,
    started: Option<Pipe>,
}

impl<'l> Ahead<'l> {
    fn new(layers: &'l [crate::source::Layer]) -> Result<Self> {
        let mut ahead = Ahead { layers: layers.iter().rev(), started: None };
        ahead.start()?;
        Ok(ahead)
    }

    fn start(&mut self) -> Result<()> {
        self.started = self.layers.next().map(Pipe::start).transpose()?;
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Pipe>> {
        let pipe = self.started.take();
        self.start()?;
        Ok(pipe)
    }
}

/// Gives up between two reads once the user asked for it.
struct Interruptible<R>(R);

impl<R: Read> Read for Interruptible<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        interrupt::check().map_err(io::Error::other)?;
        self.0.read(buffer)
    }
}

fn manifest(plan: &Plan, file: FileEntry) -> Manifest {
    Manifest {
        schema: bundle::SCHEMA,
        kind: Kind::Image,
        name: plan.name.clone(),
        version: plan.version.clone(),
        arch: plan.arch,
        files: vec![file],
        boot: Some(Boot { init: plan.init, cmdline: Vec::new() }),
        kernel: Some(plan.kernel.clone()),
        agent: Some(AgentInfo {
            version: env!("CARGO_PKG_VERSION").to_string(),
            digest: plan.agent.digest(),
        }),
        sources: vec![plan.source.clone()],
        recipe: plan.recipe,
        tool: concat!("imgtool ", env!("CARGO_PKG_VERSION")).to_string(),
    }
}

/// RFC 9562: version 8 is for values that the application makes up, from a digest for instance.
fn version_8_uuid(bytes: &[u8]) -> [u8; 16] {
    let mut uuid = std::array::from_fn(|i| bytes[i]);
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

fn digest_of(file: &mut File) -> io::Result<Digest> {
    file.seek(SeekFrom::Start(0))?;
    let mut reader = HashingReader::new(Interruptible(file));
    let mut buffer = vec![0; READ_BYTES];
    while reader.read(&mut buffer)? != 0 {}
    Ok(reader.finish().0)
}

/// Puts a whole file under its final name: synced, readable, renamed over what was there.
fn publish(mut draft: NamedTempFile, path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let about = |e| Error::io(path.display(), e);
    draft.flush().map_err(about)?;
    draft.as_file().set_permissions(PermissionsExt::from_mode(0o644)).map_err(about)?;
    draft.as_file().sync_all().map_err(about)?;
    draft.persist(path).map_err(|e| about(e.error))?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(about)
}

fn pack_error(path: &Path, error: bundle::Error) -> Error {
    match error {
        bundle::Error::Io(e) => into_error(&path.display().to_string(), e),
        other => Error::bug(format!("{}: {other}", path.display())),
    }
}
